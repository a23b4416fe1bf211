"""Edge maps on a GPU: one fused Triton kernel forward, one backward, no tensor with both an edge and a pixel axis.

max_ij w_ij·exp(−d²_ij/σ²) (Eq. 2–4) is exp(−min_ij cost_ij) with cost_ij = d²_ij/σ² − log w_ij. Each program owns a
square tile of one image and walks over the edges, heaviest first, keeping every pixel's least cost and whose it is in
registers. The backward pass recomputes the distance to that winner alone and sums its gradients over the tile.

Pruning changes no result. With D the distance from a tile's centre to an edge and r the tile's radius, the cost lies
between (D − r)²/σ² − log w and (D + r)²/σ² − log w anywhere in the tile. An edge is left out where its lower bound
exceeds the upper bound of some edge, or the worst pixel so far; and where exp(−(D − r)²/σ²) is zero in the map's
precision, so that neither value nor gradient would hold anything.

Arithmetic bound: on a pixel, an edge takes nine instructions: two multiply-adds place the pixel along and across the
edge, an add and a maximum find how far it lies beyond the ends, two multiply-adds make the cost, and a compare, a
select and a minimum keep the best. A peak of F flops a second, a multiply-add counted as two, issues F/2 instructions,
so drawing without pruning takes at least 18·B·E·H·W/F seconds (`arithmetic_bound_seconds`): 0.14 ms for 64 images of
32 keypoints at 128² and 67 TFLOP/s, the data sheet's figure for an H200. The backward pass and all memory traffic are
O(B·H·W), a few microseconds there.

Shapes: B batch, K keypoints, E = K(K−1)/2 edges, H W pixels.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable
from triton.runtime.interpreter import InterpretedFunction

INSTRUCTIONS_A_PAIR = 9
"""Instructions that one edge takes on one pixel; see the top of this file."""

_SIDE = 16  # of a tile, in pixels: one warp with eight pixels a thread, so that sums over a tile need no barrier
_CHUNK = 32  # edges whose bounds are taken at once, one a thread
_LAUNCH = {"num_warps": 1, "enable_fp_fusion": True}
_SUMS = 6  # numbers that the gradients of an edge follow from
_SMALLEST = tl.constexpr(1e-30)  # floor of a weight under the logarithm; a squared length below it makes a dot
_VANISHING = {torch.float32: 104.0, torch.float64: 746.0}  # x where exp(−x) is zero


def draw_edges_triton(
    keypoints: Tensor, edge_weights: Tensor, size: tuple[int, int], thickness: float | Tensor
) -> Tensor:
    """Maximum over edges (Eq. 4), equal to `draw_edges_reference` in value and gradient: (B, 1, H, W).

    Where edges tie, all of the gradient goes to the heaviest, and among equal weights to the first. Gradients are
    summed by atomic additions, whose order varies from run to run, unless
    `torch.use_deterministic_algorithms(True)` is set when the backward pass runs.

    Raises:
        ValueError: If the keypoints are not on a GPU (nor `TRITON_INTERPRET=1` set before Triton was imported).
    """
    if not (keypoints.is_cuda or isinstance(_draw, InterpretedFunction)):
        raise ValueError(f"engine 'triton' draws on a GPU, but the keypoints are on {keypoints.device}: take 'thrifty'")
    weights = edge_weights.to(keypoints.dtype).contiguous()
    if isinstance(thickness, Tensor):
        thickness = thickness.to(weights).expand_as(weights).contiguous()
    else:
        thickness = torch.full_like(weights, thickness)  # a copy of a number to the GPU would wait for it
    return _DrawEdges.apply(keypoints.contiguous(), weights, thickness, size)


def arithmetic_bound_seconds(batch: int, keypoints: int, size: tuple[int, int], flops_per_second: float) -> float:
    """Least time in seconds that drawing every edge on every pixel of (H, W) can take, before any pruning.

    Args:
        batch: Number of images.
        keypoints: Number of keypoints K, linked by K(K−1)/2 edges.
        size: (H, W) in pixels.
        flops_per_second: Peak float32 rate as data sheets give it, a multiply-add counted as two flops.
    """
    pairs = batch * (keypoints * (keypoints - 1) // 2) * size[0] * size[1]
    return pairs * INSTRUCTIONS_A_PAIR * 2 / flops_per_second


class _DrawEdges(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, keypoints: Tensor, weights: Tensor, thickness: Tensor, size: tuple[int, int]) -> Tensor:
        batch, count, _ = keypoints.shape
        height, width = size
        edges = len(weights)
        ends = torch.triu_indices(count, count, 1, device=keypoints.device)
        order = weights.argsort(descending=True, stable=True)
        chunks = triton.cdiv(edges, _CHUNK)
        table = keypoints.new_empty(batch, chunks, 8, _CHUNK)
        drawn = keypoints.new_empty(batch, 1, height, width)
        winners = drawn.new_empty(drawn.shape, dtype=torch.int16 if edges < 2**15 else torch.int32)
        with torch.cuda.device_of(keypoints):
            _tabulate[(batch, chunks)](
                keypoints, weights, thickness, ends, order, table, count, edges, CHUNK=_CHUNK, **_LAUNCH
            )
            _draw[(_tiles(batch, size),)](
                table,
                order,
                drawn,
                winners,
                edges,
                height,
                width,
                VANISHING=_VANISHING[keypoints.dtype],
                CHUNK=_CHUNK,
                SIDE=_SIDE,
                **_LAUNCH,
            )
        ctx.save_for_backward(keypoints, weights, thickness, ends, winners)
        return drawn

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        keypoints, weights, thickness, ends, winners = ctx.saved_tensors
        batch, count, _ = keypoints.shape
        height, width = winners.shape[-2:]
        edges = len(weights)
        sums = keypoints.new_zeros(batch, edges, _SUMS)
        arguments = (grad.contiguous(), winners, keypoints, thickness, ends, sums, count, edges, height, width)
        with torch.cuda.device_of(keypoints):
            if torch.are_deterministic_algorithms_enabled():
                _sum_by_edge[(batch * edges,)](*arguments, BLOCK=256, **_LAUNCH)
            else:
                _sum_by_tile[(_tiles(batch, (height, width)),)](*arguments, SIDE=_SIDE, **_LAUNCH)

        # ∂(w·exp(−d²/σ²)): d² is a minimum over the segment, so its gradient holds the closest point's share t fixed.
        by_weight, by_distance = sums[..., 0], sums[..., 1]
        pulls = sums[..., 2:].unflatten(-1, (2, 2)) * (2 * weights / thickness)[:, None, None]
        grad_keypoints = torch.zeros_like(keypoints)
        grad_keypoints.index_add_(1, ends[0], pulls[:, :, 0]).index_add_(1, ends[1], pulls[:, :, 1])
        grad_thickness = by_distance.sum(0) * weights / thickness.square()
        return grad_keypoints, by_weight.sum(0), grad_thickness, None


def _tiles(batch: int, size: tuple[int, int]) -> int:
    return batch * triton.cdiv(size[0], _SIDE) * triton.cdiv(size[1], _SIDE)


@triton.jit
def _tabulate(keypoints, weights, thickness, ends, order, table, count, edges, CHUNK: tl.constexpr):
    """Write the table's chunk of one image: eight rows (the last one unused) of one number an edge, heaviest first.

    Rows: x and y of the middle, x and y of the unit direction / σ, half the length / σ, −log w, 1/σ. Past the last
    edge stand edges that cost infinitely much.
    """
    image, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    lane = tl.arange(0, CHUNK)
    there = chunk * CHUNK + lane < edges
    edge = tl.load(order + chunk * CHUNK + lane, mask=there, other=0)
    start = keypoints + (image * count + tl.load(ends + edge)) * 2
    end = keypoints + (image * count + tl.load(ends + edges + edge)) * 2
    start_x, start_y = tl.load(start), tl.load(start + 1)
    along_x, along_y = tl.load(end) - start_x, tl.load(end + 1) - start_y
    weight = tl.load(weights + edge)
    scale = 1.0 / tl.sqrt(tl.load(thickness + edge))

    length_squared = along_x * along_x + along_y * along_y
    is_dot = length_squared < _SMALLEST
    length = tl.sqrt(tl.where(is_dot, 1.0, length_squared))
    rows = table + (image * tl.num_programs(1) + chunk) * (8 * CHUNK) + lane
    tl.store(rows, start_x + along_x * 0.5)
    tl.store(rows + CHUNK, start_y + along_y * 0.5)
    tl.store(rows + 2 * CHUNK, tl.where(is_dot, 1.0, along_x / length) * scale)
    tl.store(rows + 3 * CHUNK, tl.where(is_dot, 0.0, along_y / length) * scale)
    tl.store(rows + 4 * CHUNK, tl.where(is_dot, 0.0, length * 0.5) * scale)
    cost = -tl.log(tl.where(weight < _SMALLEST, _SMALLEST, weight))
    tl.store(rows + 5 * CHUNK, tl.where(there, cost, float("inf")))
    tl.store(rows + 6 * CHUNK, scale)


@triton.jit
def _tile(height, width, SIDE: tl.constexpr):
    """The image, first row and first column of this program's tile."""
    across = tl.cdiv(width, SIDE)
    tiles = across * tl.cdiv(height, SIDE)
    tile = tl.program_id(0) % tiles
    return (tl.program_id(0) // tiles).to(tl.int64), tile // across * SIDE, tile % across * SIDE


@triton.jit
def _edge(rows, CHUNK: tl.constexpr):
    """Middle, direction, half length and −log w of an edge (or several), from the rows of its chunk."""
    return (
        tl.load(rows),
        tl.load(rows + CHUNK),
        tl.load(rows + 2 * CHUNK),
        tl.load(rows + 3 * CHUNK),
        tl.load(rows + 4 * CHUNK),
        tl.load(rows + 5 * CHUNK),
    )


@triton.jit
def _place(middle_x, middle_y, along_x, along_y, x, y):
    """Coordinates of (x, y) along and across an edge, from its middle, in units of σ."""
    x -= middle_x
    y -= middle_y
    return x * along_x + y * along_y, y * along_x - x * along_y


@triton.jit
def _improve(best, winner, rows, number, centre_x, centre_y, offset_x, offset_y, CHUNK: tl.constexpr):
    """Least cost and winner of every pixel once one more edge is drawn: the nine instructions a pixel."""
    middle_x, middle_y, along_x, along_y, half, base = _edge(rows, CHUNK)
    s, v = _place(middle_x, middle_y, along_x, along_y, centre_x, centre_y)
    s = (s + offset_x * along_x) + offset_y * along_y
    v = (v - offset_x * along_y) + offset_y * along_x
    beyond = tl.maximum(tl.abs(s) - half, 0.0)
    cost = beyond * beyond + (v * v + base)
    winner = tl.where(cost < best, number, winner)
    return tl.minimum(best, cost, propagate_nan=tl.PropagateNan.ALL), winner


@triton.jit
def _draw(
    table,
    order,
    drawn,
    winners,
    edges,
    height,
    width,
    VANISHING: tl.constexpr,
    CHUNK: tl.constexpr,
    SIDE: tl.constexpr,
):
    dtype: tl.constexpr = table.dtype.element_ty
    image, top, left = _tile(height, width, SIDE)
    row, column = top + tl.arange(0, SIDE)[:, None], left + tl.arange(0, SIDE)[None, :]
    there = (row < height) & (column < width)
    centre_x = (2 * left + SIDE - width).to(dtype) / width
    centre_y = (2 * top + SIDE - height).to(dtype) / height
    offset_x = (2 * tl.arange(0, SIDE) + 1 - SIDE).to(dtype)[None, :] / width
    offset_y = (2 * tl.arange(0, SIDE) + 1 - SIDE).to(dtype)[:, None] / height
    half_x, half_y = tl.full((), SIDE, dtype) / width, tl.full((), SIDE, dtype) / height
    # From the centre to the outer corners of the pixels: half a pixel more than needed is what rounding may take.
    radius = tl.sqrt(half_x * half_x + half_y * half_y)

    best = tl.where(there, tl.full((SIDE, SIDE), float("inf"), dtype), float("-inf"))
    winner = tl.full((SIDE, SIDE), -1, tl.int32)
    ceiling = tl.full((), float("inf"), dtype)  # no winner costs more, anywhere in the tile
    lane = tl.arange(0, CHUNK)
    chunks = tl.cdiv(edges, CHUNK)
    for chunk in range(chunks):
        rows = table + (image * chunks + chunk) * (8 * CHUNK)
        middle_x, middle_y, along_x, along_y, half, base = _edge(rows + lane, CHUNK)
        s, v = _place(middle_x, middle_y, along_x, along_y, centre_x, centre_y)
        beyond = tl.maximum(tl.abs(s) - half, 0.0)
        distance = tl.sqrt(v * v + beyond * beyond)
        reach = radius * tl.load(rows + lane + 6 * CHUNK)
        nearest = tl.maximum(distance - reach, 0.0)
        farthest = distance + reach
        ceiling = tl.minimum(ceiling, tl.minimum(tl.min(farthest * farthest + base), tl.max(best)))
        # Said with "not", so that an edge that is not a number stays and is seen in the map.
        alive = ~(nearest * nearest > VANISHING) & ~(nearest * nearest + base > ceiling)

        one = tl.min(tl.where(alive, lane, CHUNK))
        while one < CHUNK:
            best, winner = _improve(
                best, winner, rows + one, chunk * CHUNK + one, centre_x, centre_y, offset_x, offset_y, CHUNK
            )
            one = tl.min(tl.where(alive & (lane > one), lane, CHUNK))

    pixel = (image * height + row) * width + column
    tl.store(drawn + pixel, tl.exp(-best), mask=there)
    number = tl.load(order + winner, mask=winner >= 0, other=-1)
    tl.store(winners + pixel, number.to(winners.dtype.element_ty), mask=there)


@triton.jit
def _contributions(grad, mine, x, y, keypoints, thickness, ends, edge, image, count, edges):
    """What each pixel that is `mine` adds to the six sums of `edge`."""
    start = keypoints + (image * count + tl.load(ends + edge)) * 2
    end = keypoints + (image * count + tl.load(ends + edges + edge)) * 2
    start_x, start_y = tl.load(start), tl.load(start + 1)
    along_x, along_y = tl.load(end) - start_x, tl.load(end + 1) - start_y
    length_squared = along_x * along_x + along_y * along_y
    x -= start_x
    y -= start_y
    inverse = 1.0 / tl.where(length_squared < _SMALLEST, 1.0, length_squared)
    share = tl.minimum(tl.maximum((x * along_x + y * along_y) * inverse, 0.0), 1.0)
    x -= share * along_x
    y -= share * along_y
    distance_squared = x * x + y * y
    steepness = -1.0 / tl.load(thickness + edge)
    falloff = tl.where(mine, tl.exp(distance_squared * steepness) * grad, 0.0)
    at_start = falloff * (1.0 - share)
    at_end = falloff * share
    return falloff, falloff * distance_squared, at_start * x, at_start * y, at_end * x, at_end * y


@triton.jit
def _six_sums(falloff, distance, start_x, start_y, end_x, end_y, slot):
    """The six sums side by side, so that one instruction writes them."""
    total = tl.where(slot == 0, tl.sum(falloff), tl.sum(distance))
    total = tl.where(slot == 2, tl.sum(start_x), total)
    total = tl.where(slot == 3, tl.sum(start_y), total)
    total = tl.where(slot == 4, tl.sum(end_x), total)
    return tl.where(slot == 5, tl.sum(end_y), total)


@triton.jit
def _sum_by_tile(grad, winners, keypoints, thickness, ends, sums, count, edges, height, width, SIDE: tl.constexpr):
    """Every edge that wins in this program's tile: its sums over the tile, then six atomic additions."""
    dtype: tl.constexpr = keypoints.dtype.element_ty
    image, top, left = _tile(height, width, SIDE)
    row, column = top + tl.arange(0, SIDE)[:, None], left + tl.arange(0, SIDE)[None, :]
    there = (row < height) & (column < width)
    x = (2 * column + 1 - width).to(dtype) / width
    y = (2 * row + 1 - height).to(dtype) / height
    pixel = (image * height + row) * width + column
    upstream = tl.load(grad + pixel, mask=there, other=0)
    left_over = tl.load(winners + pixel, mask=there, other=-1).to(tl.int32)

    edge = tl.max(left_over)
    while edge >= 0:
        falloff, distance, start_x, start_y, end_x, end_y = _contributions(
            upstream, left_over == edge, x, y, keypoints, thickness, ends, edge, image, count, edges
        )
        slot = tl.arange(0, 8)
        total = _six_sums(falloff, distance, start_x, start_y, end_x, end_y, slot)
        tl.atomic_add(sums + (image * edges + edge) * 6 + slot, total, mask=slot < 6, sem="relaxed")
        left_over = tl.where(left_over == edge, -1, left_over)
        edge = tl.max(left_over)


@triton.jit
def _sum_by_edge(grad, winners, keypoints, thickness, ends, sums, count, edges, height, width, BLOCK: tl.constexpr):
    """The sums of this program's edge over the whole image, pixel after pixel in one order."""
    dtype: tl.constexpr = keypoints.dtype.element_ty
    image, edge = (tl.program_id(0) // edges).to(tl.int64), tl.program_id(0) % edges
    by_weight = tl.zeros((BLOCK,), dtype)
    by_distance = tl.zeros((BLOCK,), dtype)
    by_start_x = tl.zeros((BLOCK,), dtype)
    by_start_y = tl.zeros((BLOCK,), dtype)
    by_end_x = tl.zeros((BLOCK,), dtype)
    by_end_y = tl.zeros((BLOCK,), dtype)
    for begin in range(0, height * width, BLOCK):
        place = begin + tl.arange(0, BLOCK)
        there = place < height * width
        pixel = image * height * width + place
        mine = tl.load(winners + pixel, mask=there, other=-1).to(tl.int32) == edge
        if tl.max(mine.to(tl.int32)) > 0:
            x = (2 * (place % width) + 1 - width).to(dtype) / width
            y = (2 * (place // width) + 1 - height).to(dtype) / height
            upstream = tl.load(grad + pixel, mask=mine, other=0)
            falloff, distance, start_x, start_y, end_x, end_y = _contributions(
                upstream, mine, x, y, keypoints, thickness, ends, edge, image, count, edges
            )
            by_weight += falloff
            by_distance += distance
            by_start_x += start_x
            by_start_y += start_y
            by_end_x += end_x
            by_end_y += end_y
    slot = tl.arange(0, 8)
    total = _six_sums(by_weight, by_distance, by_start_x, by_start_y, by_end_x, by_end_y, slot)
    tl.store(sums + (image * edges + edge) * 6 + slot, total, mask=slot < 6)
