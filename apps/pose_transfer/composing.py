"""From what the network says of a frame, at its own size, to the frame's pixels at any size.

Most of a moved portrait is the source moved: where flow and blend say so, pixels are fetched from the source at its own
resolution, and only what is painted anew is enlarged. What does not move stays as it is (`settle`): a network that
blends hardly ever says quite 1, so its painting would shine through everywhere, and it drags along what lies
around the object.

Shapes: B batch, K keypoints, S side of the network's images, F side of the flow, R side of the result.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from autolink.geometry import pixel_grid

from .warp import resized, warp

AROUND = (0.62, 0.93)
"""Where the object ends: so far from the middle of its keypoints, the farthest of them being at 1 (`_distance`). Of
each pair here, a smooth step begins at the first and has ended at the second."""
FAR = (0.93, 1.25)
"""Likewise, where not even hair and clothes belong to it."""
LEAST_SPREAD = 0.03
"""Added to the spread of keypoints, so that an object whose keypoints lie on a line has a width."""
MOTION = (1 / 256, 1 / 64)
"""Lengths of the flow: a pixel that would move by a quarter of one of 128 is at rest, one that moves by one is not."""
BELIEF = (0.6, 0.8)
"""Shares of the moved source: with less, the network does not believe that it belongs there; with more, it is sure."""


class Sketch(NamedTuple):
    """A frame as the network makes it."""

    painted: Tensor
    """(B, 3, S, S) float32 near [−1, 1]."""
    blend: Tensor | None = None
    """(B, 1, S, S) float32 in [0, 1], the share of the moved source; None if all is painted."""
    flow: Tensor | None = None
    """(B, 2, F, F) float32, see `warp.py`; None likewise."""
    still: Tensor | None = None
    """(B, 1, S, S) float32 in [0, 1], the share of the source as it is over all this; None for nowhere."""

    def frames(self) -> list[Sketch]:
        """Each frame as a batch of its own."""
        count = len(self.painted)
        parts = ([None] * count if part is None else part.split(1) for part in self)
        return [Sketch(*frame) for frame in zip(*parts)]


def compose(sketch: Sketch, pixels: Tensor) -> Tensor:
    """The frame in the pixels of its source: (B, 3, R, R) or (1, 3, R, R) near [−1, 1] → (B, 3, R, R)."""
    size = pixels.shape[-2], pixels.shape[-1]
    painted = resized(sketch.painted, size)
    if sketch.flow is None or sketch.blend is None:
        return painted
    pixels = pixels.expand(painted.shape[0], -1, -1, -1)
    made = torch.lerp(painted, warp(pixels, sketch.flow).float(), resized(sketch.blend, size))
    return made if sketch.still is None else torch.lerp(made, pixels, resized(sketch.still, size))


def settle(sketch: Sketch, source: Tensor, driving: Tensor) -> Sketch:
    """Leave at rest what the driver does not move.

    Around the object, as its keypoints in both poses tell, a pixel rests that would hardly move: it is the flow that
    fades there, so there is neither a seam nor a double contour. Of the others around it, those that the network is
    sure of are moved ones entirely. Far from the object in both poses, where it does not believe in the movement, it is
    the source in that place: what the network paints there is a smear.

    Args:
        sketch: Of B frames.
        source: (B, K, 2), the keypoints of the source.
        driving: (B, K, 2), those of the frames.
    """
    if sketch.flow is None or sketch.blend is None:
        return sketch
    size, side = sketch.flow.shape[-1], (sketch.blend.shape[-2], sketch.blend.shape[-1])
    distance = torch.minimum(_distance(source.float(), size), _distance(driving.float(), size))
    around, far = (resized(_step(distance, *bounds), side) for bounds in (AROUND, FAR))
    resting = _step(distance, *AROUND) * (1 - _step(sketch.flow.norm(dim=1, keepdim=True), *MOTION))
    believed = _step(sketch.blend, *BELIEF)
    sure = torch.maximum(around * believed, resized(resting, side))
    blend = sketch.blend + (1 - sketch.blend) * sure
    return Sketch(sketch.painted, blend, sketch.flow * (1 - resting), still=far * (1 - believed))


def _distance(keypoints: Tensor, size: int) -> Tensor:
    """How far pixels are from the middle of poses (B, K, 2): (B, 1, F, F).

    In standard deviations of a pose in that direction, and 1 for the farthest of its keypoints, so that it means the
    same of whatever keypoints a model has, and of a raised arm.
    """
    middle = keypoints.mean(1, keepdim=True)
    offsets = keypoints - middle
    variance = offsets.square().mean(1) + LEAST_SPREAD**2
    xy = offsets.prod(2).mean(1)[:, None]
    xx, yy = variance[..., None].unbind(1)  # each (B, 1)

    def deviations(offsets: Tensor) -> Tensor:
        x, y = offsets.unbind(-1)  # each (B, N)
        return ((yy * x.square() - 2 * xy * x * y + xx * y.square()) / (xx * yy - xy.square())).sqrt()

    farthest = deviations(offsets).amax(1, keepdim=True).clamp(min=1)  # less where all keypoints are in one place
    pixels = pixel_grid(size, size, device=keypoints.device).flatten(0, 1) - middle
    return (deviations(pixels) / farthest).view(-1, 1, size, size)


def _step(values: Tensor, begin: float, end: float) -> Tensor:
    """Smoothly from 0 up to `begin` to 1 from `end` on."""
    share = ((values - begin) / (end - begin)).clamp(0, 1)
    return share * share * (3 - 2 * share)


def finished(sketch: Sketch, pixels: Tensor) -> Tensor:
    """`compose`, as images in [0, 1]."""
    return (compose(sketch, pixels) / 2 + 0.5).clamp(0, 1)
