"""The frames of a transfer: what goes into each, the network that sketches them, a batch at a time, and their pixels.

Shapes: B frames of a batch, K keypoints, S side of the network's images, R side of the result, n panels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from itertools import chain, islice, repeat
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from autolink.batching import Batches
from autolink.inference import half_precision
from autolink.pixels import signed_from_unit, to_uint8, unit_from_pictures
from autolink.threads import ahead
from autolink.tracking.windows import cut
from autolink.video import FrameSource
from autolink.visualize import edge_map_image

from .casting import Casting, Driver, Shown, resting, running
from .composing import Sketch, finished
from .model import Source
from .models import Models
from .options import Options


class Moment(NamedTuple):
    """What goes into one frame of the result."""

    shown: Shown
    square: np.ndarray
    """(R, R, 3) uint8, what is taken from the source."""
    seen: np.ndarray
    """(S, S, 3) uint8, what the network sees of it."""
    driver: np.ndarray | None
    """(S, S, 3) uint8, likewise of the driver, for a preview that shows it."""


class Painted(NamedTuple):
    """One frame of the result."""

    shown: Shown
    """The source's frame behind it."""
    image: np.ndarray
    """(R, R, 3) uint8."""
    panels: np.ndarray | None
    """(S, n·S, 3) uint8, of the preview if there is one."""


@torch.inference_mode()
def paint(
    models: Models, casting: Casting, source: FrameSource, driver: Driver, options: Options, side: int, first: int
) -> Iterator[Painted]:
    """The frames of the result from number `first` on, of `side` R."""
    painter, batches = Painter(models, casting, options), models.batches
    begin = first // batches.size * batches.size  # batches as in an unbroken run, and so the same results
    moments = _moments(models, casting, source, driver, options, side, begin)
    with closing(ahead(moments, 2 * batches.size)) as moments:
        while batch := list(islice(moments, batches.size)):
            drafts = _in_parts(painter, batches, batch, begin)
            for number, (moment, draft) in enumerate(zip(batch, drafts), begin):
                if number >= first:
                    yield _alone(painter, batches, moment, draft)
            begin += len(batch)


def _in_parts(painter: Painter, batches: Batches, batch: list[Moment], begin: int) -> Iterator[Draft]:
    """Drafts of a batch, in parts that fit into memory."""
    return chain(*batches.run(lambda part: painter.draft(batch[part], begin + part.start), len(batch)))


def _alone(painter: Painter, batches: Batches, moment: Moment, draft: Draft) -> Painted:
    """A frame at its full size, of which memory may hold but one."""
    return batches.run(lambda _: painter.finish(moment, draft), 1)[0]


def _moments(
    models: Models, casting: Casting, source: FrameSource, driver: Driver, options: Options, side: int, begin: int
) -> Iterator[Moment]:
    """What goes into the frames of the result, from `begin` on."""
    size, times = models.detector.size, casting.times[begin:]
    runs = options.source_frame == "running"
    frames = running(source, times) if runs else resting(source, casting.source_frame, len(times))
    actors = islice(driver.part, begin, None) if driver.part and options.preview == "side-by-side" else repeat(None)
    square = seen = np.empty(0)
    of = None
    for number, (shown, actor) in enumerate(zip(frames, actors), begin):
        if shown.index != of:
            window, of = casting.source.window(shown.index, shown.image), shown.index
            square, seen = (cut(shown.image, window, length) for length in (side, size))
        acting = actor and cut(actor.image, driver.track.window(number, actor.image), size)
        yield Moment(shown, square, seen, acting)


class Draft(NamedTuple):
    """What the network made for one frame."""

    sketch: Sketch
    edge_map: Tensor | None
    """(1, S, S) in [0, 1], for a preview."""


class Painter:
    """Paints the frames of a transfer.

    Args:
        models: Its model.
        casting: Its poses.
        options: Precision, preview, and what of the source rests or runs along.
    """

    def __init__(self, models: Models, casting: Casting, options: Options) -> None:
        self.model, self.casting, self.options = models.model, casting, options
        self.device = self.model.autolink.device
        self.still: Source | None = None
        self.square, self.pixels = np.empty(0), torch.empty(0)

    def draft(self, batch: list[Moment], start: int) -> list[Draft]:
        """What the network makes of a batch whose first frame has the number `start`."""
        keypoints = self.casting.poses[start : start + len(batch)].to(self.device)
        edge_map = self.model.edge_map(keypoints)
        with half_precision(self.device, self.options.precision):
            sketch = self.model.sketch(self._source(batch), keypoints, edge_map, self.options.keep_still)
        edges = [None] * len(batch) if self.options.preview == "off" else edge_map
        return [Draft(*parts) for parts in zip(sketch.frames(), edges)]

    def finish(self, moment: Moment, draft: Draft) -> Painted:
        """A frame in the pixels of its source."""
        if moment.square is not self.square:
            self.square, self.pixels = moment.square, signed_from_unit(unit_from_pictures([moment.square], self.device))
        image = _bytes(finished(draft.sketch, self.pixels))
        if draft.edge_map is None:
            return Painted(moment.shown, image, None)
        size = len(moment.seen)
        small = Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC, reducing_gap=3.0)
        panels = [_bytes(edge_map_image(draft.edge_map[None])), np.asarray(small)]
        if self.options.preview == "side-by-side":
            panels = [moment.seen, *([] if moment.driver is None else [moment.driver]), *panels]
        return Painted(moment.shown, image, np.concatenate(panels, axis=1))

    def _source(self, batch: list[Moment]) -> Source:
        """The source as the network knows it: one for all frames, or one for each."""
        if self.options.source_frame == "running":
            return self._encode(batch)
        if self.still is None:
            self.still = self._encode(batch[:1])
        return self.still

    def _encode(self, moments: list[Moment]) -> Source:
        poses = self.casting.source.poses[[moment.shown.index for moment in moments]].to(self.device)
        return self.model.encode(unit_from_pictures([moment.seen for moment in moments], self.device), poses)


def _bytes(image: Tensor) -> np.ndarray:
    """An image (1, 3, H, W) in [0, 1] as (H, W, 3) uint8."""
    return to_uint8(image)[0].permute(1, 2, 0).contiguous().numpy()
