"""The coordinate frame, and everything that converts to or from it.

Points are `(x, y)`. −1 and +1 are the outer edges of the image, so the centre of pixel `i` of `n` lies at
`(2i + 1)/n − 1` (the `align_corners=False` convention of `grid_sample` and `interpolate`) and a keypoint
means the same place at every resolution.

Shapes: B batch, K keypoints, H W pixels, h w heatmap cells.
"""

from __future__ import annotations

import torch
from torch import Tensor

MIN_SPREAD = 0.05
"""A pose with a spread below this (2.5 % of the image's side) has no size worth measuring."""


def pixel_centres(count: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Tensor:
    """Coordinates of the centres of `count` pixels along one axis.

    Returns:
        (count,) strictly between −1 and 1.
    """
    return (torch.arange(count, device=device, dtype=dtype or torch.float32) * 2 + 1) / count - 1


def pixel_grid(
    height: int, width: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """Coordinates of every pixel centre.

    Returns:
        (H, W, 2) with `(x, y)` last.
    """
    x = pixel_centres(width, device=device, dtype=dtype)
    y = pixel_centres(height, device=device, dtype=dtype)
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)


def heatmap_probabilities(heatmaps: Tensor) -> Tensor:
    """Softmax of each heatmap over its cells, in float32 or better: (B, K, h, w) → (B, K, h, w)."""
    heatmaps = heatmaps if heatmaps.dtype == torch.float64 else heatmaps.float()
    return heatmaps.flatten(2).softmax(dim=2).view_as(heatmaps)


def soft_argmax(heatmaps: Tensor) -> Tensor:
    """Expected position under each heatmap's softmax (Eq. 1).

    Args:
        heatmaps: (B, K, h, w) logits.

    Returns:
        (B, K, 2) keypoints; always inside the hull of the cell centres.
    """
    return expected_position(heatmap_probabilities(heatmaps))


def expected_position(probabilities: Tensor) -> Tensor:
    """Mean position of each distribution: (B, K, h, w) summing to 1 → (B, K, 2)."""
    height, width = probabilities.shape[-2:]
    x = pixel_centres(width, device=probabilities.device, dtype=probabilities.dtype)
    y = pixel_centres(height, device=probabilities.device, dtype=probabilities.dtype)
    return torch.stack([(probabilities.sum(2) * x).sum(-1), (probabilities.sum(3) * y).sum(-1)], dim=-1)


def to_pixels(points: Tensor, height: float, width: float) -> Tensor:
    """Normalised points (..., 2) to pixels, where pixel `i` spans `[i, i + 1)` and its centre is `i + 0.5`."""
    return (points + 1) / 2 * points.new_tensor([width, height])


def from_pixels(points: Tensor, height: float, width: float) -> Tensor:
    """Inverse of `to_pixels`."""
    return points / points.new_tensor([width, height]) * 2 - 1


def closest_on_segment(points: Tensor, start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """The closest point to `points` on the segment from `start` to `end` (Eq. 3), for broadcastable (..., 2).

    A segment of length zero is the point `start`: nothing is divided by zero and gradients stay finite.

    Returns:
        The closest points (..., 2) and their position `t` (..., 1) along the segment, 0 at `start`, 1 at `end`.
    """
    direction = end - start
    length_squared = (direction * direction).sum(-1, keepdim=True)
    safe = torch.where(length_squared > 0, length_squared, torch.ones_like(length_squared))
    t = (((points - start) * direction).sum(-1, keepdim=True) / safe).clamp(0, 1)
    return start + t * direction, t


def centre(poses: Tensor) -> Tensor:
    """Mean position: (..., K, 2) → (..., 1, 2)."""
    return poses.mean(dim=-2, keepdim=True)


def spread(poses: Tensor) -> Tensor:
    """Size of poses, the root mean squared distance to their centre: (..., K, 2) → (..., 1, 1)."""
    return (poses - centre(poses)).square().sum(-1, keepdim=True).mean(-2, keepdim=True).sqrt()
