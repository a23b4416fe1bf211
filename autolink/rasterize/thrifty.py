"""Edge maps in O(B·H·W) memory: keep only the winning edge of each pixel, and try only edges that could win there.

max_ij w_ij·exp(−d²_ij/σ²) = exp(−min_ij cost_ij) with cost_ij = d²_ij/σ² − log w_ij, so one exponential a pixel is
enough, and the gradient of the maximum flows through the winner alone. The backward pass recomputes the distance to
the winner and nothing else.

The image is cut into tiles of 8×8 pixels. A pixel lies within `radius` of its tile's centre, so the distance D from
the centre to an edge bounds the edge's cost on the whole tile: at least (D − radius)²/σ² − log w, at most
(D + radius)²/σ² − log w. An edge that cannot beat another edge's upper bound, what was already reached, or a cost at
which the map is zero in this precision, is left out of the tile; the result is exactly the same. Edges come in blocks
of falling weight, so that the strong ones set the bar for the many weak ones.

With s the coordinate along an edge from its middle and v the one across it, d² = v² + relu(|s| − length/2)². Both are
sums of a term in x and a term in y.

Nothing of this compares numbers that are not finite, so those are drawn apart, as the formula would.

Shapes: B batch, K keypoints, E = K(K−1)/2 edges, C edges of one block, H W pixels, N tiles of all images, P = 64
pixels of a tile, Q pairs of a tile and an edge that may win on it.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from autolink.geometry import pixel_centres
from autolink.rasterize.reference import draw_edges_reference

TINY = 1e-30
"""Floor of an edge weight under the logarithm: smaller weights draw nothing that float32 could hold."""
TILE = 8
"""Side of a tile in pixels."""
BLOCK = 64
"""Edges that are bounded at once: as many as a tile has pixels, so that the bounds take no more memory than the map."""


def draw_edges_thrifty(
    keypoints: Tensor, edge_weights: Tensor, size: tuple[int, int], thickness: float | Tensor
) -> Tensor:
    """Maximum over edges (Eq. 4), equal to `draw_edges_reference` in value and gradient: (B, 1, H, W)."""
    thickness = torch.as_tensor(thickness, device=keypoints.device, dtype=keypoints.dtype)
    return _DrawEdges.apply(keypoints, edge_weights, thickness.expand_as(edge_weights), size)


class _DrawEdges(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, keypoints: Tensor, weights: Tensor, thickness: Tensor, size: tuple[int, int]) -> Tensor:
        costs, winners = _best_edges(keypoints, weights, thickness, size)
        ctx.size, ctx.unknown = size, None
        if not math.isfinite(keypoints.sum() + weights.sum() + thickness.sum()):
            _draw_what_is_not_finite(costs, winners, keypoints, weights, thickness)
            ctx.unknown = costs.isnan().flatten(1).any(1)  # (B,)
        ctx.save_for_backward(keypoints, weights, thickness, winners)
        return costs.neg_().exp_()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        keypoints, weights, thickness, winners = ctx.saved_tensors
        (height, width), (batch, count, _), edges = ctx.size, keypoints.shape, len(weights)
        first, second = torch.triu_indices(count, count, 1, device=keypoints.device)
        a, b = keypoints[:, first], keypoints[:, second]  # (B, E, 2)
        image = torch.arange(batch, device=keypoints.device).view(-1, 1, 1, 1)
        winners = (winners + image * edges).flatten()  # which of the B·E edges; (B·H·W,)

        def of_winner(values: Tensor) -> Tensor:
            """What the winner of each pixel has, (B, H, W), of values (B, E)."""
            return values.flatten().index_select(0, winners).view(batch, height, width)

        def per_edge(values: Tensor) -> Tensor:
            """Sum (B, E) of values (B, H, W) over the pixels that each edge has won."""
            return values.new_zeros(batch * edges).scatter_add_(0, winners, values.flatten()).view(batch, edges)

        def all_images(values: Tensor) -> Tensor:
            return values.expand(batch, edges)

        x = pixel_centres(width, device=keypoints.device, dtype=keypoints.dtype)
        y = pixel_centres(height, device=keypoints.device, dtype=keypoints.dtype)[:, None]
        span = b - a
        inverse = 1 / span.square().sum(-1).clamp_min(torch.finfo(keypoints.dtype).tiny)  # of the squared length
        x, y = x - of_winner(a[..., 0]), y - of_winner(a[..., 1])  # from the edge's start
        span_x, span_y = of_winner(span[..., 0]), of_winner(span[..., 1])
        t = ((x * span_x).addcmul_(y, span_y)).mul_(of_winner(inverse)).clamp_(0, 1)
        x, y = x.addcmul_(t, span_x, value=-1), y.addcmul_(t, span_y, value=-1)  # from the closest point of the edge
        precision = of_winner(all_images(1 / thickness))
        scaled = (x * x).addcmul_(y, y).mul_(precision)  # d²/σ²
        falloff = scaled.neg().exp_().mul_(grad[:, 0])  # ∂L/∂w of the winner
        drawn = falloff * of_winner(all_images(weights))

        # d² is a minimum over t, so its gradient holds t fixed: −2(1−t)(p−c) at the start, −2t(p−c) at the end.
        pull = (drawn * precision).mul_(2)
        pull_x, pull_y = x.mul_(pull), y.mul_(pull)
        at_both = torch.stack([per_edge(pull_x), per_edge(pull_y)], dim=-1)  # (B, E, 2)
        at_end = torch.stack([per_edge(pull_x.mul_(t)), per_edge(pull_y.mul_(t))], dim=-1)
        grad_keypoints = torch.zeros_like(keypoints).index_add_(1, first, at_both - at_end)
        grad_keypoints.index_add_(1, second, at_end)
        grad_weights, grad_thickness = per_edge(falloff).sum(0), None
        if ctx.needs_input_grad[2]:
            grad_thickness = per_edge(drawn * scaled).sum(0) / thickness
        if ctx.unknown is not None and ctx.unknown.any():  # a maximum that is not a number is of no edge
            grad_keypoints[ctx.unknown] = math.nan
            grad_weights.fill_(math.nan)
            grad_thickness = grad_thickness if grad_thickness is None else grad_thickness.fill_(math.nan)
        return grad_keypoints, grad_weights, grad_thickness, None


def _draw_what_is_not_finite(
    costs: Tensor, winners: Tensor, keypoints: Tensor, weights: Tensor, thickness: Tensor
) -> None:
    """Add, in place, edges whose weight, σ² or ends are not finite to costs and winners (B, 1, H, W) of the others."""
    ends = torch.triu_indices(keypoints.shape[1], keypoints.shape[1], 1, device=keypoints.device)
    for edge in (~weights.isfinite() | thickness.isnan()).nonzero().flatten().tolist():
        drawn = draw_edges_reference(
            keypoints[:, ends[:, edge]], weights[edge, None], (costs.shape[-2], costs.shape[-1]), thickness[edge]
        )  # infinite, or not a number
        torch.minimum(costs, -drawn, out=costs)
        winners.masked_fill_(drawn.isposinf(), edge)
    costs[~keypoints.isfinite().flatten(1).all(1)] = math.nan


class _Edges(NamedTuple):
    """A block of edges in units of σ, sorted by falling weight."""

    number: Tensor
    """(C,) place in the usual order."""
    log_weight: Tensor
    """(C,)."""
    along: Tensor
    """(B, C, 2) direction over σ."""
    across: Tensor
    """(B, C, 2) normal over σ."""
    middle: Tensor
    """(B, C, 2) midpoint, in the coordinate frame."""
    half: Tensor
    """(B, C) half of the length over σ."""
    per_unit: Tensor
    """(C,) 1/σ."""


def _best_edges(keypoints: Tensor, weights: Tensor, thickness: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The least cost d²/σ² − log w of each pixel, and the edge that reaches it: both (B, 1, H, W)."""
    (batch, _, _), (height, width) = keypoints.shape, size
    rows, columns = -(-height // TILE), -(-width // TILE)
    device, dtype = keypoints.device, keypoints.dtype
    centres_x = (torch.arange(columns, device=device, dtype=dtype) + 0.5) * TILE * 2 / width - 1
    centres_y = (torch.arange(rows, device=device, dtype=dtype) + 0.5) * TILE * 2 / height - 1
    inside = torch.arange(TILE, device=device, dtype=dtype) - (TILE - 1) / 2
    offsets = torch.stack([(inside * 2 / width).expand(TILE, TILE), (inside * 2 / height)[:, None].expand(TILE, TILE)])
    offsets = offsets.flatten(1)  # (2, P), from the centre of the tile

    costs = keypoints.new_full((batch * rows * columns, TILE * TILE), _cost_of_nothing(keypoints.dtype))
    index = torch.int16 if len(weights) <= 2**15 else torch.int32
    winners = torch.zeros(costs.shape, dtype=index, device=keypoints.device)
    for edges in _blocks(keypoints, weights, thickness):
        _improve(costs, winners, edges, centres_x, centres_y, offsets)

    def as_images(tiles: Tensor) -> Tensor:
        tiles = tiles.view(batch, rows, columns, TILE, TILE).transpose(2, 3)
        return tiles.reshape(batch, 1, rows * TILE, columns * TILE)[..., :height, :width].contiguous()

    return as_images(costs), as_images(winners)


def _cost_of_nothing(dtype: torch.dtype) -> float:
    """A cost at which exp(−cost) is zero in this precision."""
    info = torch.finfo(dtype)
    return 1 - math.log(info.tiny) - math.log(info.eps)


def _blocks(keypoints: Tensor, weights: Tensor, thickness: Tensor) -> list[_Edges]:
    """All edges in blocks of falling weight."""
    count = keypoints.shape[1]
    order = weights.argsort(descending=True, stable=True)
    first, second = torch.triu_indices(count, count, 1, device=keypoints.device)[:, order]
    a, b = keypoints[:, first], keypoints[:, second]  # (B, E, 2)
    per_unit = thickness[order].rsqrt()
    length = (b - a).norm(dim=-1)
    along = torch.where(length[..., None] > 0, (b - a) / length[..., None], a.new_tensor([1.0, 0.0]))
    along = along * per_unit[:, None]
    across = torch.stack([-along[..., 1], along[..., 0]], dim=-1)
    log_weight = weights[order].clamp_min(TINY).log()
    parts = (order, log_weight, along, across, (a + b) / 2, length * per_unit / 2, per_unit)
    dimensions = (0, 0, 1, 1, 1, 1, 0)
    return [_Edges(*block) for block in zip(*(p.split(BLOCK, d) for p, d in zip(parts, dimensions)))]


def _improve(
    costs: Tensor, winners: Tensor, edges: _Edges, centres_x: Tensor, centres_y: Tensor, offsets: Tensor
) -> None:
    """Let a block of edges compete for each pixel, in place.

    Args:
        costs: (N, P) least costs so far.
        winners: (N, P) numbers of the edges that reach them.
        edges: The block.
        centres_x: x of the centres of the tiles of one row.
        centres_y: y of the centres of the tiles of one column.
        offsets: (2, P) pixels from their tile's centre.
    """
    count = len(edges.number)

    def coordinate(direction: Tensor) -> Tensor:
        """direction·(centre − middle): (B, rows, columns, C)."""
        from_x = centres_x[:, None] * direction[:, None, :, 0]  # (B, columns, C)
        from_y = centres_y[:, None] * direction[:, None, :, 1] - (direction * edges.middle).sum(-1)[:, None]
        return from_x[:, None] + from_y[:, :, None]

    s, v = coordinate(edges.along), coordinate(edges.across)
    beyond = (s.abs() - edges.half[:, None, None]).relu_()
    distance = (v * v).addcmul_(beyond, beyond).sqrt_().flatten(0, 2)  # (N, C), in σ
    radius = offsets.norm(dim=0).max() * edges.per_unit * (1 + 1e-4)  # a little more than rounding could miss
    limit = (distance + radius).square_().sub_(edges.log_weight).amin(1).minimum(costs.amax(1))
    alive = (distance - radius).relu_().square_().sub_(edges.log_weight) <= limit[:, None]

    # Round r tries the r-th candidate of each tile. With tiles by falling number of candidates, those that take part
    # in a round come first, so that rounds work on slices.
    candidates, tiles = alive.sum(1).sort(descending=True)
    tile, edge = alive.index_select(0, tiles).nonzero(as_tuple=True)  # (Q,), tile by tile
    if len(tile) == 0:
        return
    first_of_tile = candidates.cumsum(0) - candidates
    round_of = torch.arange(len(tile), device=tile.device) - first_of_tile.index_select(0, tile)
    taking_part = torch.bincount(round_of)
    first_of_round = taking_part.cumsum(0) - taking_part
    place = first_of_round.index_select(0, round_of) + tile
    pair = torch.empty_like(tile).scatter_(0, place, tiles.index_select(0, tile) * count + edge)  # (Q,), by round

    def of_pairs(values: Tensor) -> Tensor:
        return values.flatten().index_select(0, pair)[:, None]

    tiles_an_image = len(centres_x) * len(centres_y)
    edge = pair % count
    image_edge = pair // (tiles_an_image * count) * count + edge
    along, across = (x.flatten(0, 1).index_select(0, image_edge) for x in (edges.along, edges.across))  # (Q, 2)
    half = edges.half.flatten().index_select(0, image_edge)[:, None]
    log_weight = edges.log_weight.index_select(0, edge)[:, None]
    s, v = of_pairs(s), of_pairs(v)

    sizes = taking_part.tolist()
    tiles = tiles[: sizes[0]]
    best = costs.index_select(0, tiles)
    last_win = torch.zeros_like(best)  # round + 1 in which a pixel was last improved
    improved = torch.empty_like(best)
    start = 0
    for round_number, size in enumerate(sizes, start=1):
        now = slice(start, start + size)
        start += size
        beyond = torch.addmm(s[now], along[now], offsets).abs_().sub_(half[now]).relu_()
        cost = torch.addmm(v[now], across[now], offsets)
        cost = cost.square_().addcmul_(beyond, beyond).sub_(log_weight[now])
        torch.lt(cost, best[:size], out=improved[:size])
        torch.maximum(last_win[:size], improved[:size].mul_(round_number), out=last_win[:size])
        torch.minimum(best[:size], cost, out=best[:size])
    costs.index_copy_(0, tiles, best)

    # The pair that won: a round's pairs stand in the order of the tiles. Round 0 stands for what was there before.
    first_of_round = torch.cat([first_of_round.new_zeros(1), first_of_round])
    pairs = first_of_round.take(last_win.long()) + torch.arange(len(tiles), device=tiles.device)[:, None]
    number = edges.number.to(winners.dtype).index_select(0, edge).take(pairs)
    winners.index_copy_(0, tiles, number.where(last_win > 0, winners.index_select(0, tiles)))
