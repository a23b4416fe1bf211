"""What is known of a public data set: one `Benchmark` each, gathered in `table.py`.

A data set is read in the layout in which its owners distribute it, once their archives are unpacked. To add one, write
a module with its `Benchmark`s and name them in `table.py`. `open` mostly returns an `ImageFiles`, given for each image
its box (what is cut out and stretched to the square), whether it is mirrored, and its landmarks in pixels of the image
file, NaN where one is unknown or invisible: protocols need to know no more than that.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from autolink.data.sample import SampleSet
from autolink.errors import UserError

logger = logging.getLogger(__name__)

EvaluationProtocol = Literal["interocular", "cub", "pck", "taichi", "h36m"]

GENERAL_THICKNESS = 5e-5
"""σ² that the paper used for all data sets in its "general" results (Section 3.3)."""


@dataclass(frozen=True)
class Benchmark:
    """A public data set known by name.

    Attributes:
        name: what `--data` takes.
        shows: what it shows, in a few words.
        layout: the files that it consists of, in words.
        source: where it is published.
        terms: the terms of its owners, in a few words.
        open: from root folder, side of the images in pixels and split to the samples. Splits are "train" (what
            AutoLink learns from), "fit" (on which evaluation fits its linear map; the same as "train" where none is
            special), "val" and "test" (the same where there is no third part).
        missing: from a root folder to what it lacks of the layout, in one phrase such as "no Anno/list_bbox.txt", or
            None if nothing. Looks at names only, and is fast; the folder may not exist.
        crop: the part of each image that becomes the square, in words.
        keypoints: number of keypoints K with which the paper evaluates, or shows, the data set.
        tuned: σ² with the best result for each K in Table 5, where the data set is there.
        flip: whether training images are mirrored at random, as by the official code.
        protocol: how evaluation turns keypoints into the published number; None where none was published.
        folders: names under which its root is looked for below the data root, besides its own name.
    """

    name: str
    shows: str
    layout: str
    source: str
    terms: str
    open: Callable[[Path, int, str], SampleSet]
    missing: Callable[[Path], str | None]
    crop: str
    keypoints: int
    tuned: Mapping[int, float] = field(default_factory=dict)
    flip: bool = False
    protocol: EvaluationProtocol | None = None
    folders: tuple[str, ...] = ()

    def thickness(self, keypoints: int) -> float:
        """Recommended σ² for K keypoints: the paper's tuned value, or its general one where it gives none."""
        return self.tuned.get(keypoints, GENERAL_THICKNESS)

    def find(self, data_root: Path | None) -> tuple[Path | None, str]:
        """Looks for it: below the data root by its names, and in the data root itself.

        Returns:
            Its root folder where it is complete, else None; and then "incomplete: …" or "missing: …" in one phrase.
        """
        if data_root is None:
            return None, "missing: neither --data-root nor $AUTOLINK_DATA is set"
        named = [data_root / name for name in (self.name, *self.folders)]
        lacks = {root: self.missing(root) for root in (*named, data_root)}
        complete = next((root for root, lack in lacks.items() if lack is None), None)
        if complete is not None:
            return complete, ""
        begun = next((root for root in named if root.is_dir()), None)
        if begun is not None:
            return None, f"incomplete: {begun} has {lacks[begun]}"
        return None, f"missing: no folder {', '.join((self.name, *self.folders))} in {data_root}"


@functools.cache
def warn_once(message: str) -> None:
    """Logs a warning once a process: a run opens several splits of a data set."""
    logger.warning("%s", message)


def lacking(root: Path, *needed: str | tuple[str, ...]) -> str | None:
    """The first of some files or folders that is not there, as "no NAME", or None.

    Args:
        root: the folder that they should be in.
        *needed: each a path relative to it, or a tuple of places of which one is enough.
    """
    for places in needed:
        places = (places,) if isinstance(places, str) else places
        if place(root, *places) is None:
            return f"no {places[0]}"
    return None


def needs(*names: str | tuple[str, ...]) -> Callable[[Path], str | None]:
    """`Benchmark.missing` of a data set that consists of some files and folders, see `lacking`."""
    return lambda root: lacking(root, *names)


def place(root: Path, *places: str) -> Path | None:
    """The first of some relative paths that exists below a folder, or None."""
    return next((root / path for path in places if (root / path).exists()), None)


def required(root: Path, *places: str) -> Path:
    """The first of some relative paths that exists below a folder.

    Raises:
        UserError: none does.
    """
    found = place(root, *places)
    if found is None:
        raise UserError(f"{root}: no {places[0]} in it; unpack all of it")
    return found


def whole_images(count: int) -> np.ndarray:
    """(N, 4) boxes of all that images show: each is stretched to the square, as `ImageFiles` does with boxes."""
    return np.tile([-np.inf, -np.inf, np.inf, np.inf], (count, 1))


def require_images(folder: Path, files: Sequence[str]) -> None:
    """Checks that images are there, without opening them.

    Args:
        folder: where they should be.
        files: paths relative to it.

    Raises:
        UserError: some are not; the message counts them and names the first.
    """
    there = {
        parent: set(os.listdir(folder / parent))
        for parent in {os.path.dirname(file) for file in files}
        if (folder / parent).is_dir()
    }
    missing = [file for file in files if os.path.basename(file) not in there.get(os.path.dirname(file), ())]
    if missing:
        raise UserError(
            f"{folder}: {len(missing)} of {len(files)} images are missing (the first: {missing[0]}); unpack all of it"
        )
