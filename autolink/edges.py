"""The shared graph and its drawing (Section 3.1): keypoints and edge weights become an edge map.

Shapes: B batch, K keypoints, E = K(K−1)/2 edges in the order of `torch.triu_indices(K, K, 1)`, H W pixels.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from autolink.geometry import pixel_grid
from autolink.ranges import EdgeWeight, KeypointCount, check
from autolink.rasterize import find_engine
from autolink.rasterize.reference import draw_every_edge

Drawing = Literal["edges", "edge-channels", "keypoints"]
"""What the decoder sees of the graph: one map of all edges, or one of two ablations of Table 4."""
LearnedThickness = Literal["no", "shared", "independent"]
"""Whether σ² is learned: not at all, one for all edges, or one an edge (Table 4)."""

LEARNING_RATE_FACTOR = 512
"""The edge weights learn this much faster than the networks, because SoftPlus is flat where they start."""
INITIAL_WEIGHT = 0.018
"""Around which the edge weights start: SoftPlus of −4 (official code)."""


def draw_edges(
    keypoints: Tensor,
    edge_weights: Tensor,
    size: int | tuple[int, int],
    thickness: float | Tensor,
    engine: str = "auto",
) -> Tensor:
    """Draw weighted edges between all pairs of keypoints and take the maximum (Eq. 2–4).

    Runs in float32 (float64 if the keypoints are) whatever the autocast, since half precision is wrong by up to
    0.15 on thin edges.

    Args:
        keypoints: (B, K, 2), `(x, y)` with −1 and +1 at the image's outer edges; outside is allowed.
        edge_weights: (E,) ≥ 0, over i < j row by row.
        size: Side of the square map, or (H, W), in pixels.
        thickness: σ² > 0, a scalar or one value an edge (E,), in squared units of the coordinate frame.
        engine: `triton` (one fused GPU kernel a pass) or `thrifty` (any device), both in O(B·H·W) memory, or
            `reference` (the formula, O(B·E·H·W)); same values and gradients. `auto` takes `triton` on a GPU where
            Triton is installed and can compile, and `thrifty` elsewhere.

    Returns:
        (B, 1, H, W) in [0, max edge weight]; differentiable in keypoints, weights and thickness. What is not a number
        shows, with its gradients: a keypoint in all of its own image, a weight or thickness in all images.

    Raises:
        ValueError: If the shapes do not fit each other, or the engine does not exist or cannot draw there.
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
        return find_engine(engine, keypoints.device)(keypoints, edge_weights, size, thickness)


def draw_keypoints(keypoints: Tensor, weights: Tensor, size: tuple[int, int], thickness: float | Tensor) -> Tensor:
    """A weighted Gaussian at every keypoint, and the maximum (Eq. 4 without edges; last row of Table 4).

    Args:
        keypoints: (B, K, 2).
        weights: (K,) ≥ 0.
        size: (H, W) in pixels.
        thickness: σ² > 0, a scalar or one value a keypoint (K,).

    Returns:
        (B, 1, H, W) float32, or float64 if the keypoints are.
    """
    if keypoints.dtype != torch.float64:
        keypoints, weights = keypoints.float(), weights.float()
    with torch.autocast(keypoints.device.type, enabled=False):
        grid = pixel_grid(*size, device=keypoints.device, dtype=keypoints.dtype)
        squared_distance = (grid - keypoints[:, :, None, None]).square().sum(-1)  # (B, K, H, W)
        thickness = torch.as_tensor(thickness, device=keypoints.device, dtype=keypoints.dtype).view(-1, 1, 1)
        return (weights[:, None, None] * torch.exp(-squared_distance / thickness)).amax(1, keepdim=True)


class EdgeGraph(nn.Module):
    """Edge weights that all images share, positive by SoftPlus, and the thickness with which they are drawn.

    The parameter is logit / 512, so that an optimiser with one learning rate moves the logits 512 times as fast.

    Args:
        keypoints: Number of keypoints K, at least 2.
        thickness: σ² of every edge; where it is learned, its start.
        drawing: `edges` (the method), `edge-channels` (a channel an edge instead of the maximum) or `keypoints`
            (Gaussians at the keypoints instead of edges, with a weight each).
        learned_thickness: `no`, `shared` by all edges, or `independent` for each. What is learned is log σ².

    Raises:
        UserError: If there are fewer than two keypoints, or too many.
    """

    def __init__(
        self,
        keypoints: int,
        thickness: float,
        drawing: Drawing = "edges",
        learned_thickness: LearnedThickness = "no",
    ) -> None:
        super().__init__()
        check("keypoints", KeypointCount, keypoints)
        edges = keypoints * (keypoints - 1) // 2
        self.keypoints = keypoints
        self.drawing = drawing
        strokes = keypoints if drawing == "keypoints" else edges
        self.channel_count = edges if drawing == "edge-channels" else 1
        self.scaled_logits = nn.Parameter(torch.empty(strokes))
        self.start(INITIAL_WEIGHT)
        self.fixed_thickness = thickness
        self.log_thickness = None
        if learned_thickness != "no":
            shape = () if learned_thickness == "shared" else (strokes,)
            self.log_thickness = nn.Parameter(torch.full(shape, math.log(thickness)))

    @torch.no_grad()
    def start(self, weight: float) -> None:
        """Forget what was learned, and begin with all weights near `weight`.

        Raises:
            UserError: If the weight is not positive.
        """
        check("edge weight", EdgeWeight, weight)
        logit = weight + math.log(-math.expm1(-weight))  # of which SoftPlus makes the weight
        self.scaled_logits.normal_(0, 0.1).add_(logit).div_(LEARNING_RATE_FACTOR)

    @property
    def weights(self) -> Tensor:
        """(E,) float32, positive; zeros where only keypoints are drawn."""
        if self.drawing == "keypoints":
            return self.scaled_logits.new_zeros(self.keypoints * (self.keypoints - 1) // 2)
        return self._stroke_weights

    @property
    def thickness(self) -> float | Tensor:
        """σ² in squared units of the coordinate frame: a number, or a positive tensor () or (E,) if it is learned."""
        return self.fixed_thickness if self.log_thickness is None else self.log_thickness.float().exp()

    @property
    def _stroke_weights(self) -> Tensor:
        """Weights of what is drawn: of edges (E,), or of keypoints (K,)."""
        return functional.softplus(self.scaled_logits.float() * LEARNING_RATE_FACTOR)

    def matrix(self) -> Tensor:
        """(K, K) symmetric matrix of the weights with a zero diagonal (Figure 2)."""
        matrix = self.scaled_logits.new_zeros(self.keypoints, self.keypoints)
        first, second = torch.triu_indices(self.keypoints, self.keypoints, 1)
        matrix[first, second] = matrix[second, first] = self.weights.to(matrix)
        return matrix

    def channels(self, keypoints: Tensor, size: tuple[int, int]) -> Tensor:
        """What the decoder sees of keypoints (B, K, 2): (B, `channel_count`, H, W)."""
        if self.drawing == "edge-channels":
            with torch.autocast(keypoints.device.type, enabled=False):
                return draw_every_edge(keypoints.float(), self.weights, size, self.thickness)
        return self(keypoints, size)

    def relative(self, keypoints: Tensor, size: int | tuple[int, int], engine: str = "auto") -> Tensor:
        """`forward` over the heaviest weight of what is drawn, edges or keypoints: (B, 1, H, W) in [0, 1]."""
        return self(keypoints, size, engine) / self._stroke_weights.max()

    def forward(self, keypoints: Tensor, size: int | tuple[int, int], engine: str = "auto") -> Tensor:
        """Edge map (B, 1, H, W) of keypoints (B, K, 2); `engine` as in `draw_edges`."""
        if self.drawing == "keypoints":
            size = (size, size) if isinstance(size, int) else size
            return draw_keypoints(keypoints, self._stroke_weights, size, self.thickness)
        return draw_edges(keypoints, self.weights, size, self.thickness, engine)
