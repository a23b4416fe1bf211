"""The scales of pixels, and the one place that turns one into another.

Files and data sets hold bytes, `detect` and pictures are in [0, 1] (unit), networks work in [−1, 1] (signed).

Shapes: B images, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def unit_from_bytes(images: Tensor) -> Tensor:
    """Images of uint8 in [0, 1]."""
    return images.float() / 255


def signed_from_bytes(images: Tensor) -> Tensor:
    """Images of uint8 in [−1, 1]."""
    return images.float() / 127.5 - 1


def signed_from_unit(images: Tensor) -> Tensor:
    """Images in [0, 1] in [−1, 1]."""
    return images * 2 - 1


def unit_from_signed(images: Tensor) -> Tensor:
    """Images in [−1, 1] in [0, 1]."""
    return (images + 1) / 2


def unit_from_pictures(pictures: Sequence[np.ndarray], device: torch.device | str = "cpu") -> Tensor:
    """Pictures (H, W, 3) uint8 of one size as images (B, 3, H, W) in [0, 1] on a device."""
    return unit_from_bytes(torch.from_numpy(np.stack(pictures)).to(device).permute(0, 3, 1, 2))


def pictures_from_bytes(images: Tensor) -> np.ndarray:
    """Images (B, 3, H, W) uint8 as pictures (B, H, W, 3) that files are written from and `detect` reads."""
    return images.permute(0, 2, 3, 1).cpu().numpy()


def to_uint8(images: Tensor) -> Tensor:
    """Images (..., H, W) in [0, 1] to uint8; values outside are clamped."""
    return (images.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).cpu()
