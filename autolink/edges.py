"""The shared graph and its drawing (Section 3.1): keypoints and edge weights become an edge map.

Shapes: B batch, K keypoints, E = K(K−1)/2 edges in the order of `torch.triu_indices(K, K, 1)`, H W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from autolink.rasterize import draw_edges_reference, draw_edges_thrifty

LEARNING_RATE_FACTOR = 512
"""The edge weights learn this much faster than the networks, because SoftPlus is flat where they start."""

_ENGINES = {"thrifty": draw_edges_thrifty, "reference": draw_edges_reference}


def draw_edges(
    keypoints: Tensor,
    edge_weights: Tensor,
    size: int | tuple[int, int],
    thickness: float | Tensor,
    engine: str = "thrifty",
) -> Tensor:
    """Draw weighted edges between all pairs of keypoints and take the maximum (Eq. 2–4).

    Runs in float32 (float64 if the keypoints are) whatever the autocast, since half precision is wrong by up to
    0.15 on thin edges.

    Args:
        keypoints: (B, K, 2), `(x, y)` with −1 and +1 at the image's outer edges; outside is allowed.
        edge_weights: (E,) ≥ 0, over i < j row by row.
        size: Side of the square map, or (H, W), in pixels.
        thickness: σ² > 0, a scalar or one value an edge (E,), in squared units of the coordinate frame.
        engine: `thrifty` (O(B·H·W) memory) or `reference` (the formula, O(B·E·H·W)); same values and gradients.

    Returns:
        (B, 1, H, W) in [0, max edge weight]; differentiable in keypoints, weights and thickness.

    Raises:
        ValueError: If the shapes do not fit each other.
    """
    count = keypoints.shape[1]
    if edge_weights.shape != (count * (count - 1) // 2,):
        raise ValueError(
            f"edge_weights has shape {tuple(edge_weights.shape)}, but {count} keypoints have "
            f"{count * (count - 1) // 2} edges"
        )
    size = (size, size) if isinstance(size, int) else size
    if keypoints.dtype != torch.float64:
        keypoints, edge_weights = keypoints.float(), edge_weights.float()
    with torch.autocast(keypoints.device.type, enabled=False):
        return _ENGINES[engine](keypoints, edge_weights, size, thickness)


class EdgeGraph(nn.Module):
    """Edge weights that all images share, positive by SoftPlus.

    The parameter is logit / 512, so that an optimiser with one learning rate moves the logits 512 times as fast.

    Args:
        keypoints: Number of keypoints K.
        thickness: σ² of every edge.
    """

    def __init__(self, keypoints: int, thickness: float) -> None:
        super().__init__()
        edges = keypoints * (keypoints - 1) // 2
        self.keypoints = keypoints
        self.thickness = thickness
        logits = torch.randn(edges) * 0.1 - 4  # weights start near 0.018
        self.scaled_logits = nn.Parameter(logits / LEARNING_RATE_FACTOR)

    @property
    def weights(self) -> Tensor:
        """(E,) float32, positive."""
        return functional.softplus(self.scaled_logits.float() * LEARNING_RATE_FACTOR)

    def matrix(self) -> Tensor:
        """(K, K) symmetric matrix of the weights with a zero diagonal (Figure 2)."""
        matrix = self.scaled_logits.new_zeros(self.keypoints, self.keypoints)
        first, second = torch.triu_indices(self.keypoints, self.keypoints, 1)
        matrix[first, second] = matrix[second, first] = self.weights.to(matrix)
        return matrix

    def forward(self, keypoints: Tensor, size: int | tuple[int, int]) -> Tensor:
        """Edge map (B, 1, H, W) of keypoints (B, K, 2)."""
        return draw_edges(keypoints, self.weights, size, self.thickness)
