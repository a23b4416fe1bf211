"""Augmentation of pairs of frames of one clip.

Shapes: B batch, S image side.
"""

from __future__ import annotations

import kornia.augmentation as kornia
import torch
from torch import Tensor, nn

from autolink.pixels import signed_from_unit, unit_from_signed
from autolink.training import global_draws


def augment(source: Tensor, driving: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Change both frames of a pair in the same way, each pair by draws of its own.

    Half of the pairs are mirrored, half are turned, shifted and scaled a little, and of most the colours change. So
    a driving frame still shows what its source does; keypoints are to be found afterwards.

    Args:
        source: (B, 3, S, S) in [−1, 1].
        driving: (B, 3, S, S), frames of the same clips.
        generator: Where the draws come from; a generator on the CPU.

    Returns:
        Both, changed, in [−1, 1].
    """
    with global_draws(generator):  # kornia's
        moved = _PLACES(torch.cat([source, driving], dim=1))  # as channels of one image they move as one,
        beside = torch.cat(moved.chunk(2, dim=1), dim=3)  # and side by side they get one colour
        coloured = _COLOURS(unit_from_signed(beside))
    source, driving = (frames.contiguous(memory_format=torch.channels_last) for frames in coloured.chunk(2, dim=3))
    return signed_from_unit(source), signed_from_unit(driving)


_PLACES = nn.Sequential(
    kornia.RandomHorizontalFlip(p=0.5),
    kornia.RandomAffine(degrees=10.0, translate=(0.05, 0.05), scale=(0.9, 1.1), padding_mode="reflection", p=0.5),
)
_COLOURS = kornia.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2, p=0.8)
