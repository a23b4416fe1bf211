"""Pictures of what a model sees: overlays, grids, the edge-weight matrix.

Colours are Paul Tol's bright scheme, which colour-blind readers can tell apart.

Shapes: B batch, K keypoints, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional

from autolink.edges import draw_edges
from autolink.geometry import to_pixels

COLOURS = ((238, 102, 119), (102, 204, 238), (204, 187, 68), (34, 136, 51), (170, 51, 119), (68, 119, 170))
EDGE_COLOUR = (255, 230, 80)
DRAWN_THICKNESS = 1.5e-4
"""σ² of drawn edges whatever the model's own. The paper draws its figures at 5e-4 (Appendix E), which hides faces."""
MAX_DRAWN_SIZE = 256
"""Longest side at which edges are drawn; on larger images they are drawn small and enlarged."""


def to_uint8(images: Tensor) -> Tensor:
    """Images (..., H, W) in [0, 1] to uint8; values outside are clamped."""
    return (images.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).cpu()


def save_png(path: str | Path, image: Tensor) -> Path:
    """Write an image (3, H, W), uint8 or floats in [0, 1], and make its folder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    image = image.cpu() if image.dtype == torch.uint8 else to_uint8(image)
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    return path


def image_grid(images: Tensor | Sequence[Tensor], columns: int, gap: int = 2) -> Tensor:
    """Arrange images (N, 3, H, W), floats in [0, 1] or uint8, row by row on white: (3, H', W') uint8."""
    images = torch.stack(list(images)) if not isinstance(images, Tensor) else images
    images = images.cpu() if images.dtype == torch.uint8 else to_uint8(images)
    count, channels, height, width = images.shape
    rows = -(-count // columns)
    grid = torch.full((channels, rows * (height + gap) - gap, columns * (width + gap) - gap), 255, dtype=torch.uint8)
    for i, image in enumerate(images):
        y, x = i // columns * (height + gap), i % columns * (width + gap)
        grid[:, y : y + height, x : x + width] = image
    return grid


def edge_map_image(edge_map: Tensor) -> Tensor:
    """An edge map (B, 1, H, W) as white on black, each image scaled to its maximum: (B, 3, H, W) in [0, 1]."""
    return (edge_map / edge_map.amax((2, 3), keepdim=True).clamp_min(1e-8)).expand(-1, 3, -1, -1)


def overlay(images: Tensor, keypoints: Tensor, edge_weights: Tensor, *, numbered: bool = False) -> Tensor:
    """Images with their graph and keypoints drawn over them.

    Args:
        images: (B, 3, H, W) in [0, 1].
        keypoints: (B, K, 2).
        edge_weights: (E,); brightness is the cube root of the share of the strongest, so that weak edges show.
        numbered: Write each keypoint's number beside it.

    Returns:
        (B, 3, H, W) uint8.
    """
    images, keypoints = images.detach().float().cpu(), keypoints.detach().float().cpu()
    weights = edge_weights.detach().float().cpu()
    height, width = images.shape[-2:]
    shrink = min(1.0, MAX_DRAWN_SIZE / max(height, width))
    size = (max(1, round(height * shrink)), max(1, round(width * shrink)))
    edges = draw_edges(keypoints, (weights / weights.max().clamp_min(1e-8)) ** (1 / 3), size, DRAWN_THICKNESS)
    edges = functional.interpolate(edges, size=(height, width), mode="bilinear", align_corners=False)
    lit = images * (1 - edges) + edges * images.new_tensor(EDGE_COLOUR).view(3, 1, 1) / 255
    points = to_pixels(keypoints, height, width)
    return torch.stack([_dots(image, dots, numbered) for image, dots in zip(to_uint8(lit), points)])


def _dots(image: Tensor, points: Tensor, numbered: bool) -> Tensor:
    """Dots on one uint8 image (3, H, W); on small images drawn larger and reduced, so that they are smooth."""
    height, width = image.shape[-2:]
    factor = max(1, 512 // max(height, width))
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    if factor > 1:
        picture = picture.resize((width * factor, height * factor), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    radius = max(height, width) / 70 * factor
    for number, (x, y) in enumerate((points * factor).tolist()):
        colour = COLOURS[number % len(COLOURS)]
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour, outline=(0, 0, 0), width=2)
        if numbered:
            white, black = (255, 255, 255), (0, 0, 0)
            corner = (x + radius, y - radius)
            draw.text(corner, str(number), white, font_size=radius * 2.5, stroke_width=2, stroke_fill=black)
    if factor > 1:
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def edge_matrix_image(matrix: Tensor, cell: int = 16) -> Tensor:
    """The symmetric matrix of edge weights (K, K) as in Figure 2: (3, K·cell, K·cell) in [0, 1], white strongest."""
    shade = (matrix / matrix.max().clamp_min(1e-8)).detach().float().cpu()
    return functional.interpolate(shade[None, None], scale_factor=cell, mode="nearest")[0].expand(3, -1, -1)
