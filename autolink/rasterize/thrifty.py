"""Edge maps in O(B·H·W) memory: keep only the winning edge of each pixel.

max_ij w_ij·exp(−d²_ij/σ²) = exp(max_ij (log w_ij − d²_ij/σ²)), so one exponential a pixel is enough, and the
gradient of the maximum flows through the winner alone. The forward pass walks over the edges and keeps the best
score and its index; the backward pass recomputes the distance to the winner and nothing else.

With s the coordinate along the edge and v the one across it, d² = v² + (s − clamp(s, 0, length))². Both are sums
of a term in x and a term in y, so an edge costs a handful of passes over the image. Measured in units of σ, the
division by σ² happens on 2·K numbers instead of H·W.

Shapes: B batch, K keypoints, E = K(K−1)/2 edges, H W pixels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from autolink.geometry import closest_on_segment, pixel_centres, pixel_grid

TINY = 1e-30
"""Floor of an edge weight under the logarithm: smaller weights draw nothing that float32 could hold."""


def draw_edges_thrifty(
    keypoints: Tensor, edge_weights: Tensor, size: tuple[int, int], thickness: float | Tensor
) -> Tensor:
    """Maximum over edges (Eq. 4), equal to `draw_edges_reference` in value and gradient: (B, 1, H, W)."""
    thickness = torch.as_tensor(thickness, device=keypoints.device, dtype=keypoints.dtype)
    return _DrawEdges.apply(keypoints, edge_weights, thickness.expand_as(edge_weights), size)


class _DrawEdges(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, keypoints: Tensor, weights: Tensor, thickness: Tensor, size: tuple[int, int]) -> Tensor:
        scores, winners = _best_edges(keypoints, weights, thickness, size)
        ctx.size = size
        ctx.save_for_backward(keypoints, weights, thickness, winners)
        return scores.exp_()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        keypoints, weights, thickness, winners = ctx.saved_tensors
        count = keypoints.shape[1]
        first, second = torch.triu_indices(count, count, 1, device=keypoints.device)
        winners = winners.flatten(1).long()  # (B, H·W)
        grad = grad.flatten(1)

        start, end = first[winners], second[winners]  # keypoint numbers (B, H·W)
        a = keypoints.gather(1, start[..., None].expand(-1, -1, 2))
        b = keypoints.gather(1, end[..., None].expand(-1, -1, 2))
        grid = pixel_grid(*ctx.size, device=keypoints.device, dtype=keypoints.dtype).flatten(0, 1)
        closest, t = closest_on_segment(grid, a, b)
        offset = grid - closest
        squared_distance = offset.square().sum(-1)
        sigma2 = thickness[winners]
        falloff = torch.exp(-squared_distance / sigma2) * grad  # ∂L/∂w of the winner
        drawn = falloff * weights[winners]

        # d² is a minimum over t, so its gradient holds t fixed: −2(1−t)(p−c) at the start, −2t(p−c) at the end.
        pull = offset * (2 * drawn / sigma2)[..., None]
        grad_keypoints = torch.zeros_like(keypoints)
        grad_keypoints.scatter_add_(1, start[..., None].expand(-1, -1, 2), pull * (1 - t))
        grad_keypoints.scatter_add_(1, end[..., None].expand(-1, -1, 2), pull * t)
        by_edge = winners.flatten()
        grad_weights = torch.zeros_like(weights).index_add_(0, by_edge, falloff.flatten())
        grad_thickness = None
        if ctx.needs_input_grad[2]:
            change = drawn * squared_distance / sigma2.square()
            grad_thickness = torch.zeros_like(thickness).index_add_(0, by_edge, change.flatten())
        return grad_keypoints, grad_weights, grad_thickness, None


def _best_edges(keypoints: Tensor, weights: Tensor, thickness: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The best score log w − d²/σ² of each pixel, and the edge that reaches it: both (B, 1, H, W)."""
    batch, count, _ = keypoints.shape
    height, width = size
    first, second = torch.triu_indices(count, count, 1, device=keypoints.device)
    x = pixel_centres(width, device=keypoints.device, dtype=keypoints.dtype)
    y = pixel_centres(height, device=keypoints.device, dtype=keypoints.dtype)[:, None]

    a, b = keypoints[:, first], keypoints[:, second]  # (B, E, 2)
    length = (b - a).norm(dim=-1)
    along = torch.where(length[..., None] > 0, (b - a) / length[..., None], a.new_tensor([1.0, 0.0]))
    across = torch.stack([-along[..., 1], along[..., 0]], dim=-1)
    # In units of σ: s = along·(p − a), v = across·(p − a).
    scale = thickness.rsqrt()[:, None]
    along, across, length = along * scale, across * scale, length * scale[:, 0]
    s_offset, v_offset = (along * a).sum(-1), (across * a).sum(-1)  # (B, E)
    log_weights = weights.clamp_min(TINY).log()

    def coordinate(direction: Tensor, offset: Tensor, edge: int) -> Tensor:
        """direction·p − offset on the whole image: (B, H, W)."""
        from_x = direction[:, edge, 0, None, None] * x
        from_y = direction[:, edge, 1, None, None] * y - offset[:, edge, None, None]
        return from_x + from_y

    best = keypoints.new_full((batch, height, width), -torch.inf)
    winners = torch.zeros(batch, height, width, dtype=torch.int16, device=keypoints.device)
    for edge in range(len(weights)):
        s = coordinate(along, s_offset, edge)
        v = coordinate(across, v_offset, edge)
        beyond = s - s.clamp(min=0).minimum(length[:, edge, None, None])
        score = torch.addcmul(v.square_(), beyond, beyond).neg_().add_(log_weights[edge])
        better = score > best
        winners.masked_fill_(better, edge)
        torch.maximum(best, score, out=best)
    return best[:, None], winners[:, None]
