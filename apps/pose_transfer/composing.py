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
from torch.nn import functional

from autolink.geometry import pixel_grid

from .warp import resized, warp

AROUND = (1.4, 2.1)
"""Where the object ends: so far from the middle of its keypoints, in their standard deviations. Of each pair here, a
smooth step begins at the first and has ended at the second."""
FAR = (2.1, 2.8)
"""Likewise, where not even hair and clothes belong to it."""
REACH = 2.7
"""No keypoint is farther than this: where one is, a raised arm, the standard deviations are taken larger."""
LEAST_SPREAD = 0.03
"""Added to the spread of keypoints, so that an object whose keypoints lie on a line has a width."""
MOTION = (1 / 256, 1 / 64)
"""Lengths of the flow: a pixel that would move by a quarter of one of 128 is at rest, one that moves by one is not."""
BELIEF = (0.6, 0.8)
"""Shares of the moved source: with less, the network does not believe that it belongs there; with more, it is sure."""
UNLIKE = (0.3, 0.6)
"""Differences of values in [−1, 1]: with less, two pictures show the same, if blurred; with more, something else."""


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


def settle(sketch: Sketch, images: Tensor, source: Tensor, driving: Tensor) -> Sketch:
    """Leave at rest what the driver does not move.

    Around the object, as its keypoints in both poses tell, a pixel rests that would hardly move: it is the flow that
    fades there, so there is neither a seam nor a double contour. Of the others around it, those that the network is
    sure of are moved ones entirely. Far from the object, where it does not believe in the movement, and what it shows
    instead looks like the source in that place, it is the source in that place.

    Args:
        sketch: Of B frames.
        images: (B, 3, S, S) in [−1, 1], the source.
        source: (B, K, 2), its keypoints.
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
    settled = Sketch(sketch.painted, sketch.blend + (1 - sketch.blend) * sure, sketch.flow * (1 - resting))
    difference = (compose(settled, images) - images).abs().mean(1, keepdim=True)
    like = 1 - _step(functional.avg_pool2d(difference, 5, 1, 2, count_include_pad=False), *UNLIKE)
    return settled._replace(still=far * (1 - believed) * like)


def _distance(keypoints: Tensor, size: int) -> Tensor:
    """How far pixels are from poses (B, K, 2), in standard deviations of a pose in that direction: (B, 1, F, F)."""
    middle = keypoints.mean(1, keepdim=True)
    offsets = keypoints - middle
    variance = offsets.square().mean(1) + LEAST_SPREAD**2
    xy = offsets.prod(2).mean(1)[:, None]
    xx, yy = variance[..., None].unbind(1)  # each (B, 1)

    def deviations(offsets: Tensor) -> Tensor:
        x, y = offsets.unbind(-1)  # each (B, N)
        return ((yy * x.square() - 2 * xy * x * y + xx * y.square()) / (xx * yy - xy.square())).sqrt()

    farthest = deviations(offsets).amax(1, keepdim=True)
    pixels = pixel_grid(size, size, device=keypoints.device).flatten(0, 1) - middle
    return (deviations(pixels) / (farthest / REACH).clamp(min=1)).view(-1, 1, size, size)


def _step(values: Tensor, begin: float, end: float) -> Tensor:
    """Smoothly from 0 up to `begin` to 1 from `end` on."""
    share = ((values - begin) / (end - begin)).clamp(0, 1)
    return share * share * (3 - 2 * share)


def finished(sketch: Sketch, pixels: Tensor) -> Tensor:
    """`compose`, as images in [0, 1]."""
    return (compose(sketch, pixels) / 2 + 0.5).clamp(0, 1)
