"""What an AutoLink makes of held-out images while it learns.

Shapes: B images, S image side.
"""

from __future__ import annotations

import math

import torch
from accelerate import Accelerator
from torch import Tensor

from autolink.learner.images import masks_of
from autolink.learner.options import Options
from autolink.losses import PerceptualLoss
from autolink.model import AutoLink, at_side
from autolink.pixels import to_uint8, unit_from_signed
from autolink.training import seeded_generator
from autolink.visualize import edge_map_image, image_grid, overlay

SHOWN = 8
"""Held-out images in a picture."""


@torch.no_grad()
def examine(
    accelerator: Accelerator,
    model: AutoLink,
    images: Tensor,
    looks: Tensor,
    perceptual: PerceptualLoss,
    options: Options,
    side: int,
) -> tuple[float, Tensor]:
    """Loss of the averaged model on held-out images under fixed masks, and a picture of some of them.

    Images are reconstructed at `side`.

    The picture's columns: image | graph over it | edge map | masked image | reconstruction.
    """
    mask = masks_of(options, images, side, seeded_generator(0, 0, 0, "held-out mask"))
    with accelerator.autocast():
        made = model(images, mask, looks)
        images, looks = at_side(images, side), at_side(looks, side)
        loss = perceptual(made.images, images).item()
    shown = slice(None, None, math.ceil(len(images) / SHOWN))  # spread out: neighbours are of one clip
    originals = unit_from_signed(images[shown])
    columns = [
        to_uint8(originals),
        overlay(originals, made.keypoints[shown], model.edge_weights),
        to_uint8(edge_map_image(made.edge_map[shown])),
        to_uint8(unit_from_signed(looks[shown] * mask[shown])),
        to_uint8(unit_from_signed(made.images[shown])),
    ]
    rows = torch.stack(columns, dim=1).flatten(0, 1)
    return loss, image_grid(rows, columns=len(columns))
