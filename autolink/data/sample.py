"""The one thing every data set yields.

L landmarks, S image size.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch.utils.data import Dataset, IterableDataset


class Sample(NamedTuple):
    """One square image with what is known about it.

    Attributes:
        image: (3, S, S) uint8, RGB.
        landmarks: (L, 2) float32, (x, y) in the frame of the square image: -1 and +1 are its outer edges, so
            a landmark that the square crop cut away lies outside [-1, 1]. NaN where unlabelled; L = 0 if the
            data set has none.
        name: path of the image relative to the root of its data set.
        clip: samples of one clip show the same individual in the same scene; "" when unknown.
    """

    image: torch.Tensor
    landmarks: torch.Tensor
    name: str
    clip: str


@runtime_checkable
class SampleSet(Protocol):
    """What `open_data` returns: a map-style torch data set of `Sample` that knows this much about itself.

    Attributes:
        name: what to call the data set in logs and metadata.
        clips: clip of each index, known without decoding an image.
        landmark_count: L of its samples.
    """

    name: str
    clips: list[str]
    landmark_count: int

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


@runtime_checkable
class LinkedSamples(SampleSet, Protocol):
    """Samples whose landmarks are joints, with the true links between them (`synthetic`)."""

    links: Sequence[tuple[int, int]]


class Items(Protocol):
    """A map-style torch data set with a name: of samples, or of pairs of them."""

    name: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...


class Mixture(Dataset[Any]):
    """Data sets of the same kind of item in equal shares; the shorter ones repeat themselves.

    Landmarks of samples are left out, since those of two data sets need not be the same.
    """

    def __init__(self, *parts: Items) -> None:
        self.parts = parts
        self.name = " and ".join(part.name for part in parts)

    def __len__(self) -> int:
        return len(self.parts) * max(len(part) for part in self.parts)

    def __getitem__(self, index: int) -> Any:
        round_, place = divmod(index, len(self.parts))
        part = self.parts[place]
        item = part[round_ % len(part)]
        return item._replace(landmarks=item.landmarks[:0]) if isinstance(item, Sample) else item


def spread(data: SampleSet | IterableDataset[Sample], count: int) -> list[Sample]:
    """Up to `count` samples spread evenly over a data set; of a stream, the first."""
    if isinstance(data, IterableDataset):
        return list(islice(data, count))
    return [data[place] for place in evenly(len(data), count)]


def evenly(total: int, count: int) -> list[int]:
    """Up to `count` of the indices 0 to `total` − 1, at even distances from 0 on."""
    count = min(count, total)
    return [index * total // count for index in range(count)]
