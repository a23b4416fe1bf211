"""Retargeting: which keypoints to draw for the source, given the driver's; pure functions.

An edge map shows the shape of a body as well as its pose, so drawing the driver's own keypoints (`absolute`)
hands the driver's shape to the source. `relative` adds only the driver's movement since a reference frame to
the source's pose.

Shapes: K keypoints, S frames of the source, T frames of the driver; points are `(x, y)` in [−1, 1].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

MIN_SPREAD = 0.05
"""A pose with a spread below this (2.5 % of the image's side) has no size worth measuring."""
SCALE_LIMITS = (1 / 3, 3.0)
"""Movements are never scaled by more than this: beyond, one of the two poses is a failed detection."""


def centre(poses: Tensor) -> Tensor:
    """Mean position: (..., K, 2) → (..., 1, 2)."""
    return poses.mean(dim=-2, keepdim=True)


def spread(poses: Tensor) -> Tensor:
    """Size of poses, the root mean squared distance to their centre: (..., K, 2) → (..., 1, 1)."""
    return (poses - centre(poses)).square().sum(-1, keepdim=True).mean(-2, keepdim=True).sqrt()


def normalised(poses: Tensor) -> Tensor:
    """Poses (..., K, 2) centred and at unit size; a degenerate one stays small instead of exploding."""
    return (poses - centre(poses)) / spread(poses).clamp(min=MIN_SPREAD)


def scale_between(source: Tensor, reference: Tensor) -> float:
    """How much larger the source (K, 2) is than the reference (K, 2): the factor for the driver's movements.

    Returns:
        The ratio of spreads within `SCALE_LIMITS`; 1 if either pose is degenerate.
    """
    source_spread, reference_spread = spread(source).item(), spread(reference).item()
    if min(source_spread, reference_spread) < MIN_SPREAD:
        return 1.0
    low, high = SCALE_LIMITS
    return min(max(source_spread / reference_spread, low), high)


def absolute(driving: Tensor) -> Tensor:
    """The driver's keypoints as they are: for a driver of the source's shape, as in a clip of the source."""
    return driving


def relative(driving: Tensor, reference: Tensor, source: Tensor) -> Tensor:
    """The driver's movement since its reference frame, at the source's scale, added to the source's pose.

    Args:
        driving: (..., K, 2) poses of the driver.
        reference: (K, 2) pose of the driver that is taken to be the source's pose.
        source: (K, 2) pose of the source.

    Returns:
        (..., K, 2) poses for the source; the source's own pose where the driver is at its reference.
    """
    return source + (driving - reference) * scale_between(source, reference)


def nearest_pair(sources: Tensor, drivers: Tensor) -> tuple[int, int]:
    """The two frames whose poses agree best, wherever in the image and at whatever size they are.

    Args:
        sources: (S, K, 2) poses of the source; one for an image.
        drivers: (T, K, 2) poses of the driver; one if the reference is given.

    Returns:
        Index into `sources` and index into `drivers` (the first of equals).
    """
    flat_sources, flat_drivers = normalised(sources).flatten(1), normalised(drivers).flatten(1)
    best, pair = math.inf, (0, 0)
    for start in range(0, len(drivers), 4096):  # in pieces: a long clip against a long clip is a large table
        distances = torch.cdist(
            flat_sources, flat_drivers[start : start + 4096], compute_mode="donot_use_mm_for_euclid_dist"
        )
        value, index = distances.flatten().min(dim=0)
        if value.item() < best:
            row, column = divmod(int(index), distances.shape[1])
            best, pair = value.item(), (row, start + column)
    return pair
