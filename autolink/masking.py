"""Random masking of image patches (Section 3.2).

Shapes: B batch, S image side in pixels, C cells per side.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from autolink.errors import UserError
from autolink.ranges import Share, check


def patch_mask(
    batch: int,
    size: int,
    *,
    cells: int = 16,
    ratio: float = 0.8,
    exact: bool = False,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Hide a share of the cells of a `cells` × `cells` grid: each independently with probability `ratio`.

    Args:
        batch: Number of masks B.
        size: Side of the square image in pixels; a multiple of `cells` gives cells of equal size.
        cells: Cells per side (16 in the paper).
        ratio: Share of cells that is hidden, in [0, 1] (0.8 in the paper).
        exact: Hide that share of each image's cells, rounded to whole ones, instead of each cell with that probability.
        generator: Source of randomness, on the CPU; the same generator state gives the same masks on any device.
        device: Where the mask is returned.

    Returns:
        (B, 1, size, size) float32; 1 where the image is visible, 0 where it is hidden.

    Raises:
        UserError: If the ratio is outside [0, 1], or there are no cells, or more of them than pixels.
    """
    check("mask ratio", Share, ratio)
    if not 1 <= cells <= size:
        raise UserError(f"{cells} mask cells do not fit on a side of {size} pixels; take 1 to {size}")
    draws = torch.rand(batch, 1, cells, cells, generator=generator)
    if exact:
        ranks = draws.flatten(1).argsort().argsort().view_as(draws)
        visible = ranks >= round(ratio * cells**2)
    else:
        visible = draws >= ratio
    return functional.interpolate(visible.float().to(device), size=(size, size), mode="nearest")
