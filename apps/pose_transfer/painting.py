"""The frames of a transfer: what goes into each, and the network that paints them, a batch at a time.

Shapes: B frames of a batch, K keypoints, S side of the network's images, n panels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from itertools import islice, repeat
from typing import NamedTuple

import numpy as np
import torch

from autolink.background import ahead
from autolink.inference import half_precision
from autolink.video import FrameSource
from autolink.visualize import edge_map_image, to_uint8

from .casting import Casting, Driver, Shown, resting, running
from .eye import floats
from .framing import cut
from .model import Source
from .models import Models
from .options import Options
from .sparing import Batches


class Moment(NamedTuple):
    """What goes into one frame of the result."""

    shown: Shown
    source: np.ndarray
    """(S, S, 3) uint8, what the network sees of the source."""
    driver: np.ndarray | None
    """(S, S, 3) uint8, likewise of the driver, for a preview that shows it."""


@torch.inference_mode()
def paint(
    models: Models, casting: Casting, source: FrameSource, driver: Driver, options: Options, first: int
) -> Iterator[tuple[Shown, np.ndarray]]:
    """From frame `first` on: the source's frame, and panels (S, n·S, 3) uint8 of which the rightmost is the result."""
    painter, batches = Painter(models, casting, options), models.batches
    begin = first // batches.size * batches.size  # batches as in an unbroken run, and so the same results
    with closing(ahead(_moments(models, casting, source, driver, options, begin), 2 * batches.size)) as moments:
        while batch := list(islice(moments, batches.size)):
            panels = _in_parts(painter, batches, batch, begin)
            for index, (moment, row) in enumerate(zip(batch, panels), begin):
                if index >= first:
                    yield moment.shown, row
            begin += len(batch)


def _in_parts(painter: Painter, batches: Batches, batch: list[Moment], begin: int) -> np.ndarray:
    """Panels of a batch, in parts that fit into memory."""
    return np.concatenate(batches.run(lambda part: painter.paint(batch[part], begin + part.start), len(batch)))


def _moments(
    models: Models, casting: Casting, source: FrameSource, driver: Driver, options: Options, begin: int
) -> Iterator[Moment]:
    """What goes into the frames of the result, from `begin` on."""
    size, times = models.eye.size, casting.times[begin:]
    runs = options.source_frame == "running"
    frames = running(source, times) if runs else resting(source, casting.source_frame, len(times))
    actors = islice(driver.part, begin, None) if driver.part and options.preview == "side-by-side" else repeat(None)
    square, of = np.empty(0), None
    for number, (shown, actor) in enumerate(zip(frames, actors), begin):
        if shown.index != of:
            square, of = cut(shown.image, casting.source.window(shown.index, shown.image), size), shown.index
        acting = actor and cut(actor.image, driver.track.window(number, actor.image), size)
        yield Moment(shown, square, acting)


class Painter:
    """Paints batches of a transfer.

    Args:
        models: Its model.
        casting: Its poses.
        options: Precision, preview, and whether the source runs along.
    """

    def __init__(self, models: Models, casting: Casting, options: Options) -> None:
        self.model, self.casting, self.options = models.model, casting, options
        self.device = self.model.autolink.edge_weights.device
        self.still: Source | None = None

    def paint(self, batch: list[Moment], start: int) -> np.ndarray:
        """Panels (B, S, n·S, 3) uint8 of a batch whose first frame has the number `start`, the result rightmost."""
        keypoints = self.casting.poses[start : start + len(batch)].to(self.device)
        edge_map = self.model.edge_map(keypoints)
        with half_precision(self.device, self.options.precision):
            painted = self.model.paint(self._source(batch), keypoints, edge_map)
        panels = [to_uint8(painted)]
        if self.options.preview != "off":
            panels.insert(0, to_uint8(edge_map_image(edge_map)))
        if self.options.preview == "side-by-side":
            shown = [[moment.source for moment in batch]]
            if batch[0].driver is not None:
                shown.append([moment.driver for moment in batch])
            panels = [torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2) for squares in shown] + panels
        return torch.cat(panels, dim=3).permute(0, 2, 3, 1).contiguous().numpy()

    def _source(self, batch: list[Moment]) -> Source:
        """The source as the network knows it: one for all frames, or one for each."""
        if self.options.source_frame == "running":
            return self._encode(batch)
        if self.still is None:
            self.still = self._encode(batch[:1])
        return self.still

    def _encode(self, moments: list[Moment]) -> Source:
        poses = self.casting.source.poses[[moment.shown.index for moment in moments]].to(self.device)
        return self.model.encode(floats([moment.source for moment in moments], self.device), poses)
