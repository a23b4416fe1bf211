"""Images from a trained GAN, every pose with every appearance: `autolink gan sample`, or `autolink-sample`.

Each image is written on its own, and `grid.png` shows them together: poses as rows, appearances as columns,
the pose itself at the left.

Besides (`autolink-sample MODE --help`): `interpolate` makes a video in which pose or appearance changes;
`mix` takes the coarse layers from one appearance and the fine ones from another; `project` finds the appearance of a
real image and gives it another pose; `neighbours` shows samples beside the closest training images; `export` writes
the generator as ONNX.

Shapes: P poses, N appearances, K keypoints, S image side.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from torch import Tensor

from autolink.errors import command
from autolink.outputs import refuse_inputs
from autolink.pixels import to_uint8
from autolink.progress import Bar, Progress, as_asked
from autolink.visualize import image_grid, save_png
from autolink_apps.gan.generator import ConditionalGAN
from autolink_apps.gan.poses import (
    SampleOptions,
    UniqueNames,
    check_options,
    draw,
    find_poses,
    inputs_of,
    load_gan,
    picture,
    pose_labels,
)

GRID_ROWS = 24
"""The grid shows at most so many poses."""


@dataclass(kw_only=True)
class Options(SampleOptions):
    """Sample images with given poses and random appearances."""

    output: Path
    """Folder for `grid.png` and the single images."""
    progress: Progress = "auto"
    """auto: a bar where somebody sees it, on a terminal. json: an object a line on stderr, for a program. off: none."""


@as_asked
def sample(options: Options) -> Path:
    """Write the samples that the options ask for, and return the path of the grid.

    Raises:
        UserError: If model, poses or options cannot be used.
    """
    check_options(options)
    there = [path for path in inputs_of(options) if path and path.parent.resolve() == options.output.resolve()]
    refuse_inputs([options.output / "grid.png"], there)
    gan = load_gan(options)
    appearances, order = draw(options, gan)
    labels: list[Tensor] = []
    rows: list[Tensor] = []
    unique = UniqueNames()
    poses = Bar(find_poses(options, gan, order), desc="sampling", unit="pose")
    for pose in poses:
        row = to_uint8(gan.paint_grid(pose.keypoints[None].to(gan.poses.device), appearances))
        name = unique(pose.name)
        for column, image in enumerate(row[0]):
            path = options.output / f"{name}_{column:02d}.png"
            refuse_inputs([path], there)
            save_png(path, image)
        if len(rows) < GRID_ROWS:
            labels.append(picture(gan, pose))
            rows.append(row)
    path = save_png(options.output / "grid.png", grid(torch.stack(labels), torch.cat(rows)))
    count = len(unique.taken)
    shown = "" if count <= GRID_ROWS else f" (the first {GRID_ROWS} poses)"
    print(f"{count} poses × {len(appearances)} appearances in {options.output}; see {path.name}{shown}")
    return path


def labelled_grid(gan: ConditionalGAN, poses: Tensor, z: Tensor) -> Tensor:
    """Poses (P, K, 2) × appearances (N, 256) as one picture (3, H, W), edge maps at the left."""
    return grid(pose_labels(gan, poses), to_uint8(gan.sample_grid(poses, z)))


def grid(labels: Tensor, rows: Tensor) -> Tensor:
    """Labels (P, 3, S, S) to the left of their rows (P, N, 3, S, S), all uint8: (3, H, W)."""
    return image_grid(torch.cat([labels[:, None], rows], dim=1).flatten(0, 1), columns=rows.shape[1] + 1)


@command
def main() -> None:
    """Entry point of `autolink gan sample`."""
    sample(tyro.cli(Options, description=__doc__))
