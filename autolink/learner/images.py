"""The images that an AutoLink learns from, and the held-out ones on which it is measured.

Shapes: B batch, S image side.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import default_collate

from autolink.data import open_data
from autolink.data.pairs import FramePairs, Pair
from autolink.data.registry import whole
from autolink.data.sample import Items, Mixture, Sample, SampleSet, spread
from autolink.data.shards import Shards
from autolink.errors import UserError
from autolink.learner.options import Options
from autolink.masking import patch_mask
from autolink.training import to_network

HELD_OUT = 64
"""Held-out images on which the loss is measured while training."""


def training_data(options: Options) -> Items | Shards:
    """What is trained on: images or pairs of frames, of one data set or of two.

    Raises:
        UserError: If they cannot be opened, paired or mixed.
    """
    names = [options.data, *([options.mix_with] if options.mix_with else [])]
    opened = [open_data(name, options.image_size, "train", options.data_root) for name in names]
    if len(opened) == 1 and options.visible == "image":
        return opened[0]
    parts: list[Items] = []
    for part in opened:
        if len(opened) > 1 and isinstance(part, Shards):
            raise UserError(
                "--mix-with takes folders and names, and no shards; give shards of both kinds of images as --data"
            )
        if options.visible == "clip":
            parts.append(FramePairs(whole(part, "clips are needed here; give a folder of videos"), options.seed))
        else:
            parts.append(whole(part))
    return Mixture(*parts) if len(parts) > 1 else parts[0]


def held_out_images(data: SampleSet | FramePairs, device: torch.device) -> tuple[Tensor, Tensor]:
    """Up to `HELD_OUT` images spread evenly over a data set, and those whose patches are visible."""
    if not len(data):
        raise UserError("the held-out split of the data is empty; a data set needs at least two images")
    picked = data.spread(HELD_OUT) if isinstance(data, FramePairs) else spread(data, HELD_OUT)
    return images_of(default_collate(picked), device)[:2]


def images_of(batch: Sample | Pair, device: torch.device) -> tuple[Tensor, Tensor, Sequence[str]]:
    """Images to reconstruct and images whose patches are visible, (B, 3, S, S) in [−1, 1]; and their clips."""
    if isinstance(batch, Pair):
        return to_network(batch.driving, device), to_network(batch.source, device), batch.clip
    images = to_network(batch.image, device)
    return images, images, batch.clip


def masks_of(options: Options, images: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Masks (B, 1, side, side) for images (B, 3, S, S), as the options hide patches; see `patch_mask`."""
    return patch_mask(
        len(images),
        side,
        cells=options.mask_cells,
        ratio=options.mask_ratio,
        exact=options.exact_mask,
        generator=generator,
        device=images.device,
    )


def random_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each of (B, 3, H, W) images left to right with probability one half."""
    mirror = (torch.rand(len(images), generator=generator) < 0.5).to(images.device)
    return torch.where(mirror[:, None, None, None], images.flip(-1), images)
