"""Pictures of what a model sees: overlays and grids. What has axes is drawn by `plots`.

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
from autolink.images import png
from autolink.outputs import replacing
from autolink.pixels import to_uint8

COLOURS = ((238, 102, 119), (102, 204, 238), (204, 187, 68), (34, 136, 51), (170, 51, 119), (68, 119, 170))
EDGE_COLOUR = (255, 230, 80)
DRAWN_THICKNESS = 1.5e-4
"""σ² of drawn edges whatever the model's own. The paper draws its figures at 5e-4 (Appendix E), which hides faces."""
SMALLEST_NUMBER = 9
"""Height of a keypoint's number in pixels, at least."""
MAX_DRAWN_SIZE = 256
"""Longest side at which edges are drawn; on larger images they are drawn small and enlarged."""


def save_png(path: str | Path, image: Tensor) -> Path:
    """Write an image (3, H, W), uint8 or floats in [0, 1], and make its folder."""
    path = Path(path)
    image = image.cpu() if image.dtype == torch.uint8 else to_uint8(image)
    with replacing(path) as part:
        part.write_bytes(png(image.permute(1, 2, 0).numpy()))
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
    """An edge map (B, C, H, W) as white on black, each image scaled to its maximum: (B, 3, H, W) in [0, 1]."""
    edge_map = edge_map.amax(1, keepdim=True)
    return (edge_map / edge_map.amax((2, 3), keepdim=True).clamp_min(1e-8)).expand(-1, 3, -1, -1)


def overlay(
    images: Tensor,
    keypoints: Tensor,
    edge_weights: Tensor,
    *,
    numbered: bool = False,
    groups: Sequence[int] | None = None,
) -> Tensor:
    """Images with their graph and keypoints drawn over them.

    Args:
        images: (B, 3, H, W) in [0, 1].
        keypoints: (B, K, 2).
        edge_weights: (E,); brightness is the cube root of the share of the strongest, so that weak edges show.
        numbered: Write each keypoint's number beside it.
        groups: Group of each keypoint; those of one group have one colour. Each has its own if None.

    Returns:
        (B, 3, H, W) uint8.
    """
    weights = edge_weights.detach().float().cpu()
    lit = draw_graph(images, keypoints, (weights / weights.max().clamp_min(1e-8)) ** (1 / 3))
    return draw_points(lit, keypoints, numbered=numbered, groups=groups)


def draw_graph(images: Tensor, keypoints: Tensor, brightness: Tensor, thickness: float = DRAWN_THICKNESS) -> Tensor:
    """Images (B, 3, H, W) in [0, 1] with the edges of keypoints (B, K, 2) over them, on the CPU.

    Args:
        images: (B, 3, H, W) in [0, 1].
        keypoints: (B, K, 2).
        brightness: (E,) in [0, 1]; how much of the edge's colour covers the image.
        thickness: σ² of the drawn edges.
    """
    images, keypoints = images.detach().float().cpu(), keypoints.detach().float().cpu()
    height, width = images.shape[-2:]
    shrink = min(1.0, MAX_DRAWN_SIZE / max(height, width))
    size = (max(1, round(height * shrink)), max(1, round(width * shrink)))
    edges = draw_edges(keypoints, brightness.detach().float().cpu(), size, thickness)
    edges = functional.interpolate(edges, size=(height, width), mode="bilinear", align_corners=False)
    return images * (1 - edges) + edges * images.new_tensor(EDGE_COLOUR).view(3, 1, 1) / 255


def draw_points(
    images: Tensor, keypoints: Tensor, *, numbered: bool = False, groups: Sequence[int] | None = None
) -> Tensor:
    """Images (B, 3, H, W) in [0, 1] with dots at keypoints (B, K, 2), see `overlay`: (B, 3, H, W) uint8."""
    points = to_pixels(keypoints.detach().float().cpu(), *images.shape[-2:])
    groups = range(keypoints.shape[1]) if groups is None else groups
    colours = [COLOURS[group % len(COLOURS)] for group in groups]
    return torch.stack([_dots(image, dots, colours, numbered) for image, dots in zip(to_uint8(images), points)])


def _dots(image: Tensor, points: Tensor, colours: Sequence[tuple[int, int, int]], numbered: bool) -> Tensor:
    """Dots on one uint8 image (3, H, W)."""
    picture, factor = _enlarged(image)
    draw = ImageDraw.Draw(picture)
    radius = _dot_radius(max(image.shape[-2:])) * factor
    for number, ((x, y), colour) in enumerate(zip((points * factor).tolist(), colours)):
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour, outline=(0, 0, 0), width=2)
        if numbered:
            _label(draw, str(number), x, y, radius, factor)
    return _reduced(picture, factor)


def _enlarged(image: Tensor) -> tuple[Image.Image, int]:
    """A uint8 image (3, H, W) to draw on, and how much larger it is: small ones are, so that drawings are smooth."""
    factor = max(1, 512 // max(image.shape[-2:]))
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    if factor > 1:
        picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.BICUBIC)
    return picture, factor


def _reduced(picture: Image.Image, factor: int) -> Tensor:
    """What was drawn, in the size before `_enlarged`: (3, H, W) uint8."""
    if factor > 1:
        picture = picture.resize((picture.width // factor, picture.height // factor), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def _label(draw: ImageDraw.ImageDraw, text: str, x: float, y: float, radius: float, factor: int) -> None:
    """A text at the upper right of a dot, white with a black rim."""
    size = max(radius * 2.5, SMALLEST_NUMBER * factor)
    draw.text((x + radius, y - radius), text, "white", font_size=size, stroke_width=2, stroke_fill="black")


def _dot_radius(side: int) -> float:
    """A 70th of the image's side; on small images more, up to a 50th, so that the dots can be seen."""
    return max(side / 70, min(side / 50, 2.5))


def mark(image: Tensor, points: Tensor, names: Sequence[str] = ()) -> Tensor:
    """A white ring at each point (L, 2), in pixels, of one uint8 image (3, H, W), with its name if there are names."""
    picture, factor = _enlarged(image)
    draw = ImageDraw.Draw(picture)
    radius = _dot_radius(max(image.shape[-2:])) * factor
    for index, (x, y) in enumerate((points * factor).tolist()):
        for colour, grown in (((0, 0, 0), 2), ((255, 255, 255), 0)):
            size = radius + grown
            draw.ellipse((x - size, y - size, x + size, y + size), outline=colour, width=2 + 2 * grown)
        if names:
            _label(draw, names[index], x, y, radius, factor)
    return _reduced(picture, factor)
