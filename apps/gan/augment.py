"""Differentiable augmentation of what the discriminator sees, so that few images last longer (DiffAugment).

Real and generated images are changed by the same random colour, translation and cutout, and the generator's
gradient flows through the change, so it does not learn to imitate it. An edge map that comes along as a
further channel moves with its image and keeps its values.

Shapes: B batch, C channels (red, green, blue and possibly a condition), S side of the image.
"""

from __future__ import annotations

import torch
from torch import Tensor

TRANSLATION = 1 / 8
"""Farthest shift along each axis, as a share of the side."""
CUTOUT = 1 / 2
"""Side of the hidden square, as a share of the image's."""


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Change colours, shift, and hide a square, each image by draws of its own.

    Args:
        images: (B, C, S, S), the first three channels in [−1, 1].
        generator: Where the draws come from; a generator on the CPU.

    Returns:
        (B, C, S, S), differentiable in `images`; what is shifted in or hidden is 0: mid-grey, and no edge.
    """
    draws = torch.rand(7, len(images), 1, 1, 1, generator=generator, dtype=images.dtype).to(images.device)
    colours = change_colours(images[:, :3], *draws[:3])
    images = torch.cat([colours, images[:, 3:]], dim=1)
    return cut_out(translate(images, *draws[3:5]), *draws[5:])


def change_colours(images: Tensor, brightness: Tensor, saturation: Tensor, contrast: Tensor) -> Tensor:
    """Brightness by ±0.5, saturation × 0–2, contrast × 0.5–1.5, from draws (B, 1, 1, 1) in [0, 1)."""
    images = images + brightness - 0.5
    grey = images.mean(1, keepdim=True)
    images = grey + (images - grey) * (2 * saturation)
    mean = images.mean((1, 2, 3), keepdim=True)
    return mean + (images - mean) * (contrast + 0.5)


def translate(images: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Shift by whole pixels, up to an eighth of the side either way, from draws (B, 1, 1, 1) in [0, 1)."""
    side = images.shape[-1]
    steps = 2 * round(side * TRANSLATION) + 1
    for axis, draw in ((3, x), (2, y)):
        shift = (draw * steps).long() - steps // 2
        source = torch.arange(side, device=images.device).view(1, 1, 1, side).transpose(axis, 3) - shift
        inside = (source >= 0) & (source < side)
        images = images.gather(axis, source.clamp(0, side - 1).expand_as(images)) * inside
    return images


def cut_out(images: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Hide a square of half the side, centred anywhere in the image, from draws (B, 1, 1, 1) in [0, 1)."""
    side = images.shape[-1]
    pixels = torch.arange(side, device=images.device) + 0.5
    hidden_x = (pixels.view(1, 1, 1, side) - x * side).abs() < side * CUTOUT / 2
    hidden_y = (pixels.view(1, 1, side, 1) - y * side).abs() < side * CUTOUT / 2
    return images * ~(hidden_x & hidden_y)
