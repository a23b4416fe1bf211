"""Eq. 2–4 written down as they stand: every edge's map in memory, then the maximum.

Shapes: B batch, K keypoints, E = K(K−1)/2 edges, H W pixels. Memory O(B·E·H·W).
"""

from __future__ import annotations

import torch
from torch import Tensor

from autolink.geometry import closest_on_segment, pixel_grid


def draw_every_edge(
    keypoints: Tensor, edge_weights: Tensor, size: tuple[int, int], thickness: float | Tensor
) -> Tensor:
    """Weighted maps of all edges, w_ij·exp(−d²_ij/σ²): the paper's Eq. 2 with the minus that print lost.

    Returns:
        (B, E, H, W).
    """
    first, second = torch.triu_indices(keypoints.shape[1], keypoints.shape[1], 1, device=keypoints.device)
    grid = pixel_grid(*size, device=keypoints.device, dtype=keypoints.dtype)  # (H, W, 2)
    closest, _ = closest_on_segment(grid, keypoints[:, first, None, None], keypoints[:, second, None, None])
    squared_distance = (grid - closest).square().sum(-1)  # (B, E, H, W)
    thickness = torch.as_tensor(thickness, device=keypoints.device, dtype=keypoints.dtype).view(-1, 1, 1)
    return edge_weights[:, None, None] * torch.exp(-squared_distance / thickness)


def draw_edges_reference(
    keypoints: Tensor, edge_weights: Tensor, size: tuple[int, int], thickness: float | Tensor
) -> Tensor:
    """Maximum over edges (Eq. 4): (B, 1, H, W)."""
    return draw_every_edge(keypoints, edge_weights, size, thickness).amax(dim=1, keepdim=True)
