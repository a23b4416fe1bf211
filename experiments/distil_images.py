"""Varied images from few, and damaged copies of them: what perceptual features are taught on.

Everything is random by the generator given, so a batch is a function of its seed.

Shapes: B batch, S image side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from autolink.layers import down
from autolink.masking import patch_mask
from autolink.pixels import signed_from_bytes

Generator = torch.Generator
TEXTURED = 0.1
"""Share of the scenes that are texture alone."""
COLLAGED = 0.3
"""Share of the scenes in which blobs of one image lie over another."""


def scenes(photos: Tensor, size: int, generator: Generator) -> Tensor:
    """Crops, turned, mirrored, recoloured, cut into each other, and synthetic textures.

    Args:
        photos: (B, 3, P, P) uint8 images; P at least 5/4 of `size`.
        size: S.
        generator: Source of randomness.

    Returns:
        (B, 3, S, S) in [−1, 1].
    """
    photos = signed_from_bytes(photos)
    if photos.shape[-1] >= 2.5 * size and torch.rand((), generator=generator) < 0.6:
        photos = down(photos)
    count, side = len(photos), photos.shape[-1]
    images = functional.grid_sample(photos, _crops(count, size, side, generator), align_corners=False)
    texture = textures(count, size, generator)
    images = _choose(images, texture, TEXTURED, generator)
    over = _choose(images.roll(1, 0), texture, 0.3, generator)
    blobs = _octaves(count, 1, size, generator, scales=(2, 4, 9)) > 0.3
    collages = torch.where(blobs, over, images)
    return recoloured(_choose(images, collages, COLLAGED, generator), 1.0, generator).clamp(-1, 1)


def textures(count: int, size: int, generator: Generator) -> Tensor:
    """(count, 3, size, size) noise of random spectra in random colours, some of it posterised, about 0."""
    noise = _octaves(count, 3, size, generator)
    steps = _uniform(count, 1, 3, generator).round()
    noise = _choose(noise, (noise * steps).round() / steps, 0.5, generator)
    mixing = torch.randn(count, 3, 3, generator=generator) / 2
    return torch.einsum("bij,bjhw->bihw", mixing, noise) + torch.randn(count, 3, 1, 1, generator=generator) / 3


def damaged(images: Tensor, generator: Generator) -> Tensor:
    """Copies that differ from images (B, 3, S, S) as a reconstruction does: two kinds of damage each, mild to total."""
    parts = []
    for part in images.chunk(4):
        for _ in range(2):
            kind = DAMAGES[int(torch.randint(len(DAMAGES), (), generator=generator))]
            part = kind(part, generator)
        parts.append(part)
    return torch.cat(parts)


def blurred(images: Tensor, generator: Generator) -> Tensor:
    """Resampled at 1/2 to 1/16 of the resolution."""
    size = images.shape[-1]
    small = max(4, round(size / 2 ** (1 + 3 * float(torch.rand((), generator=generator)))))
    coarse = functional.interpolate(images, size=small, mode="bilinear", antialias=True, align_corners=False)
    return functional.interpolate(coarse, size=size, mode="bicubic", align_corners=False)


def inpainted(images: Tensor, generator: Generator) -> Tensor:
    """Sharp in a few cells, and in the others blurred, recoloured and as often as not half another image."""
    cells = 2 ** int(torch.randint(2, 5, (), generator=generator))
    visible = patch_mask(len(images), images.shape[-1], cells=cells, ratio=0.7, generator=generator)
    guess = recoloured(blurred(images, generator), 0.5, generator)
    return torch.where(visible.bool(), images, _choose(guess, mixed(guess, generator), 0.5, generator))


def mixed(images: Tensor, generator: Generator) -> Tensor:
    """Faded into another image of the batch."""
    return torch.lerp(images, images.roll(1, 0), _uniform(len(images), 0.1, 1, generator))


def noisy(images: Tensor, generator: Generator) -> Tensor:
    """With noise of one scale."""
    size, count = images.shape[-1], len(images)
    coarse = size // 2 ** int(torch.randint(4, (), generator=generator))
    noise = torch.randn(count, 3, coarse, coarse, generator=generator)
    strength = 0.5 * _uniform(count, 0.05, 1, generator) ** 2
    return images + strength * functional.interpolate(noise, size=size, mode="bilinear", align_corners=False)


def warped(images: Tensor, generator: Generator) -> Tensor:
    """Shifted smoothly by up to a tenth of the side."""
    count, size = len(images), images.shape[-1]
    knots = torch.randn(count, 2, 5, 5, generator=generator) + torch.randn(count, 2, 1, 1, generator=generator)
    flow = functional.interpolate(knots, size=size, mode="bicubic", align_corners=False).movedim(1, -1)
    plain = functional.affine_grid(torch.eye(2, 3).expand(count, 2, 3), [count, 3, size, size], align_corners=False)
    strength = _uniform(count, 0.005, 0.1, generator)
    return functional.grid_sample(images, plain + strength * flow, padding_mode="border", align_corners=False)


def toned(images: Tensor, generator: Generator) -> Tensor:
    """Other colours, contrast and brightness."""
    return recoloured(images, 1.0, generator)


DAMAGES = (blurred, inpainted, inpainted, mixed, noisy, warped, toned)


def recoloured(images: Tensor, strength: float, generator: Generator) -> Tensor:
    """Colours mixed, contrast and brightness changed, by a random part of `strength`; some images lose their colour."""
    count = len(images)
    drawn = strength * torch.rand(count, 1, 1, generator=generator)
    grey = torch.full((3, 3), 1 / 3).lerp(torch.eye(3), (torch.rand(count, 1, 1, generator=generator) > 0.1).float())
    mixing = grey + 0.25 * drawn * torch.randn(count, 3, 3, generator=generator)
    contrast = torch.exp(0.5 * strength * torch.randn(count, 1, 1, generator=generator))
    moved = torch.einsum("bij,bjhw->bihw", mixing * contrast, images)
    return moved + (0.3 * strength * torch.randn(count, 3, 1, generator=generator))[..., None]


def _crops(count: int, size: int, side: int, generator: Generator) -> Tensor:
    """(count, size, size, 2): grids of crops of about as many pixels as they are sampled with, turned and mirrored."""
    extent = (_uniform(count, 0.7, 1.25, generator) * size / side).clamp_max(1).view(count)
    angle = torch.randn(count, generator=generator) * math.radians(12)
    mirror = (torch.rand(count, generator=generator) < 0.5).float() * 2 - 1
    aspect = torch.exp(0.1 * torch.randn(count, generator=generator))
    cos, sin = extent * angle.cos(), extent * angle.sin()
    linear = torch.stack([mirror * aspect * cos, -sin, mirror * aspect * sin, cos], dim=1).view(count, 2, 2)
    centre = (2 * torch.rand(count, 2, generator=generator) - 1) * (1 - extent)[:, None]
    transform = torch.cat([linear, centre[..., None]], dim=2)
    return functional.affine_grid(transform, [count, 3, size, size], align_corners=False)


def _octaves(
    count: int, channels: int, size: int, generator: Generator, scales: Sequence[int] = (3, 8, 20, 64)
) -> Tensor:
    """(count, channels, size, size): noise of a few scales (cells a side) with random weights, of variance about 1."""
    weights = torch.rand(len(scales), count, 1, 1, 1, generator=generator)
    weights = weights / weights.square().sum(0).sqrt()
    total = torch.zeros(count, channels, size, size)
    for weight, cells in zip(weights, scales):
        noise = torch.randn(count, channels, cells, cells, generator=generator)
        total += weight * functional.interpolate(noise, size=size, mode="bicubic", align_corners=False)
    return total


def _uniform(count: int, low: float, high: float, generator: Generator) -> Tensor:
    """(count, 1, 1, 1) uniform in [low, high]."""
    return low + (high - low) * torch.rand(count, 1, 1, 1, generator=generator)


def _choose(first: Tensor, second: Tensor, share: float, generator: Generator) -> Tensor:
    """Each image of the batch from `second` with probability `share`, else from `first`."""
    return torch.where(torch.rand(len(first), 1, 1, 1, generator=generator) < share, second, first)
