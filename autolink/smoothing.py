"""Keypoints of a video, smoothed over time by the one-euro filter (Casiez, Roussel and Vogel, CHI 2012).

Shapes: K keypoints.
"""

from __future__ import annotations

import math
from typing import TypeVar

from torch import Tensor

Number = TypeVar("Number", Tensor, float)


class OneEuroFilter:
    """Smooths a stream of poses: each keypoint strongly while it rests, hardly while it moves.

    Speeds are those of the point, not of its coordinates, so that the result does not depend on the axes. Everything
    is in seconds: frames may come at any rate, and at irregular times.

    The defaults are the best of a grid (0.25 to 3 Hz, 0 to 40) at noise of 0.006, that of the shipped face model on
    videos. They bring the error of such noise on a point at rest to 0.59 of what it was, and its frame-to-frame jitter
    to 0.36; on the joints of a synthetic figure that never rests, to 1.00 and 0.74 (`benchmarks/tools.py`).

    Args:
        min_cutoff: Cutoff frequency in Hz of a point at rest; lower is smoother.
        beta: Hz that the cutoff gains for a speed of one unit (half the image's side) a second; higher lags less.
        speed_cutoff: Cutoff frequency in Hz of the estimate of the speed.
    """

    def __init__(self, min_cutoff: float = 1.0, beta: float = 40.0, speed_cutoff: float = 1.0) -> None:
        self.min_cutoff, self.beta, self.speed_cutoff = min_cutoff, beta, speed_cutoff
        self.time: float | None = None
        self.pose: Tensor | None = None
        self.velocity: Tensor | float = 0.0

    def __call__(self, pose: Tensor, time: float) -> Tensor:
        """The smoothed pose at `time`; call it in the order of time.

        Args:
            pose: (K, 2) in a frame whose axes have the same unit.
            time: Seconds. A frame that is not later than the one before passes unchanged.

        Returns:
            (K, 2).
        """
        if self.time is None or self.pose is None or time <= self.time:
            self.time, self.pose = time, pose
            return pose
        elapsed, self.time = time - self.time, time
        velocity = (pose - self.pose) / elapsed
        self.velocity = self.velocity + _weight(self.speed_cutoff, elapsed) * (velocity - self.velocity)
        cutoff = self.min_cutoff + self.beta * self.velocity.norm(dim=-1, keepdim=True)
        self.pose = self.pose + _weight(cutoff, elapsed) * (pose - self.pose)
        return self.pose


def _weight(cutoff: Number, elapsed: float) -> Number:
    """Weight of the new value in a low-pass filter of `cutoff` Hz after `elapsed` seconds."""
    angle = 2 * math.pi * cutoff * elapsed
    return angle / (angle + 1)
