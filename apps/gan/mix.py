"""Style mixing: `autolink-sample mix --output mix.png`.

The coarse layers of the generator follow one appearance, the finer ones another (StyleGAN2). Rows show where the
coarse ones come from and columns where the fine ones do; the first column and the first row show both unmixed.

Shapes: M rows, N columns, K keypoints, L modulated convolutions, S image side.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from torch import Tensor

from autolink.errors import UserError, command
from autolink.pixels import to_uint8
from autolink.ranges import Count, Whole
from autolink.visualize import image_grid, save_png
from autolink_apps.gan.generator import NOISE_SIZE, ConditionalGAN
from autolink_apps.gan.poses import SampleOptions, check_options, draw, find_poses, load_gan, picture


@dataclass(kw_only=True)
class Options(SampleOptions):
    """Mix the coarse layers of one appearance with the fine ones of another, in one pose."""

    output: Path = Path("mix.png")
    """The picture to write. Rows: coarse layers; columns: fine layers. The pose is the first of those asked for."""
    rows: Count = 4
    """Random appearances for the coarse layers."""
    crossover: Whole = 1
    """How many of the layers, from the coarsest on, are the rows': from 0 to the number of layers, which is 6 at 64²
    and 8 at 128². In the shipped model the first layer decides as much as all others together."""


def mix(options: Options) -> Path:
    """Write the picture that the options ask for, and return its path.

    Raises:
        UserError: If model, pose or options cannot be used.
    """
    if options.output.suffix.lower() != ".png":
        raise UserError(f"--output {options.output}: expected a file name ending in .png")
    check_options(options)
    gan = load_gan(options)
    layers = gan.generator.layers
    if options.crossover > layers:
        raise UserError(f"--crossover {options.crossover}: the model has {layers} layers; expected 0 to {layers}")
    fine, order = draw(options, gan)
    z = torch.randn(options.rows, NOISE_SIZE, generator=torch.Generator().manual_seed(options.seed + 1))
    coarse = gan.embed(z.to(gan.poses.device), options.truncation)
    pose = next(iter(find_poses(options, gan, order)))
    keypoints = pose.keypoints.to(gan.poses.device)
    save_png(options.output, mixed_grid(gan, keypoints, coarse, fine, options.crossover, picture(gan, pose)))
    print(f"{options.output}: {options.crossover} of {layers} layers from the row, the finer ones from the column")
    return options.output


def mixed_grid(
    gan: ConditionalGAN, pose: Tensor, coarse: Tensor, fine: Tensor, crossover: int, corner: Tensor
) -> Tensor:
    """Every coarse appearance with every fine one, beside the unmixed ones: (3, H, W) uint8.

    Args:
        gan: The model.
        pose: (K, 2).
        coarse: (M, 256), one a row.
        fine: (N, 256) or (N, L, 256), one a column.
        crossover: How many layers are the row's.
        corner: (3, S, S) uint8, shown in the corner: the pose.
    """
    rows = [torch.cat([corner[None], to_uint8(gan.paint_grid(pose[None], fine)[0])])]
    for row in coarse.split(1):
        mixed = gan.mix(row.expand(len(fine), -1), fine, crossover)
        mixed = torch.cat([gan.generator.per_layer(row), mixed])
        rows.append(to_uint8(gan.paint_grid(pose[None], mixed)[0]))
    return image_grid(torch.cat(rows), columns=len(fine) + 1)


@command
def main() -> None:
    """Entry point of `autolink-sample mix`."""
    mix(tyro.cli(Options, description=__doc__))
