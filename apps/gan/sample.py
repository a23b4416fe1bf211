"""Sample images from a trained GAN: `autolink-sample --pose IMAGES --output DIR`.

Every pose is given every appearance. Each image is written on its own, and `grid.png` shows them together:
poses as rows, appearances as columns, the pose itself at the left.

Shapes: P poses, N appearances, K keypoints, S image side.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from torch import Tensor
from tqdm import tqdm

from autolink.data.folder import list_files
from autolink.devices import pick_device
from autolink.errors import UserError, command
from autolink.images import IMAGE_SUFFIXES, load_square, why_unreadable
from autolink.visualize import edge_map_image, image_grid, overlay, save_png, to_uint8
from autolink_apps.gan.generator import NOISE_SIZE, ConditionalGAN

DEFAULT_MODEL = "faces-gan"
GRID_ROWS = 24
"""The grid shows at most so many poses."""


@dataclass
class Options:
    """Sample images with given poses and random appearances."""

    output: Path
    """Folder for `grid.png` and the single images."""
    model: str | None = None
    """A GAN: a shipped name, file, folder or hub id. Default: the shipped `faces-gan`."""
    pose: tuple[Path, ...] = ()
    """Images, or folders of images, whose poses to take. Default: poses of training images, which the model's
    file holds."""
    count: int = 6
    """How many of the model's own poses to take when no --pose is given."""
    columns: int = 6
    """Appearances."""
    seed: int = 0
    """Seed of the appearances, and of the poses drawn."""
    truncation: float = 0.7
    """1 for all the variety that was learned; towards 0, appearances get more typical."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1`, `mps` …"""


def sample(options: Options) -> Path:
    """Write the samples that the options ask for, and return the path of the grid.

    Raises:
        UserError: If model, poses or options cannot be used.
    """
    if options.columns < 1 or options.count < 1:
        raise UserError(f"--columns {options.columns} --count {options.count}: both must be at least 1")
    device = pick_device(options.device)
    files = [file for path in options.pose for file in image_files(path)]
    if options.model is None:
        print(f"no --model given: using the shipped '{DEFAULT_MODEL}'")
    gan = ConditionalGAN.from_pretrained(options.model or DEFAULT_MODEL, device)
    draws = torch.Generator().manual_seed(options.seed)
    z = torch.randn(options.columns, NOISE_SIZE, generator=draws).to(device)
    order = torch.randperm(len(gan.poses), generator=draws)[: options.count].tolist()
    names = unique_names(files) if files else [f"pose-{number:03d}" for number in order]
    found = poses_of_files(gan, files) if files else poses_of_bank(gan, order)

    labels, rows = [], []
    found = tqdm(found, total=len(names), unit="pose", disable=len(names) <= GRID_ROWS)
    for name, (pose, label) in zip(names, found):
        row = to_uint8(gan.sample_grid(pose, z, options.truncation))
        for column, image in enumerate(row[0]):
            save_png(options.output / f"{name}_{column:02d}.png", image)
        if len(rows) < GRID_ROWS:
            labels.append(label)
            rows.append(row)
    path = save_png(options.output / "grid.png", grid(torch.cat(labels), torch.cat(rows)))
    shown = "" if len(names) <= GRID_ROWS else f" (the first {GRID_ROWS} poses)"
    print(f"{len(names)} poses × {options.columns} appearances in {options.output}; see {path.name}{shown}")
    return path


def poses_of_files(gan: ConditionalGAN, files: list[Path]) -> Iterator[tuple[Tensor, Tensor]]:
    """Pose (1, K, 2) of each image, and the image with the pose drawn over it (1, 3, S, S) uint8."""
    for file in files:
        image = read_square(file, gan.config.image_size)[None]
        pose = gan.autolink.detect(image.to(gan.poses.device)).xy
        yield pose, overlay(image, pose, gan.autolink.edge_weights)


def poses_of_bank(gan: ConditionalGAN, order: list[int]) -> Iterator[tuple[Tensor, Tensor]]:
    """Poses (1, K, 2) by their number in the model's bank, and their edge maps (1, 3, S, S) uint8."""
    for number in order:
        pose = gan.poses[number : number + 1]
        yield pose, pose_labels(gan, pose)


def labelled_grid(gan: ConditionalGAN, poses: Tensor, z: Tensor) -> Tensor:
    """Poses (P, K, 2) × appearances (N, 256) as one picture (3, H, W), edge maps at the left."""
    return grid(pose_labels(gan, poses), to_uint8(gan.sample_grid(poses, z)))


def pose_labels(gan: ConditionalGAN, poses: Tensor) -> Tensor:
    """Edge maps of poses (P, K, 2) as pictures (P, 3, S, S) uint8."""
    return to_uint8(edge_map_image(gan.condition(poses)))


def grid(labels: Tensor, rows: Tensor) -> Tensor:
    """Labels (P, 3, S, S) to the left of their rows (P, N, 3, S, S), all uint8: (3, H, W)."""
    return image_grid(torch.cat([labels[:, None], rows], dim=1).flatten(0, 1), columns=rows.shape[1] + 1)


def image_files(path: Path) -> list[Path]:
    """The image file that `path` is, or the image files in the folder that it is.

    Raises:
        UserError: If there is nothing, or no image.
    """
    if path.is_dir():
        files = [path / file for file in list_files(path, path, IMAGE_SUFFIXES)]
        if not files:
            raise UserError(f"--pose {path}: no images in this folder")
        return files
    if not path.exists():
        raise UserError(f"--pose {path}: no such file or folder")
    reason = why_unreadable(path)
    if reason is not None:
        raise UserError(f"--pose {path}: {reason}")
    return [path]


def read_square(file: Path, size: int) -> Tensor:
    """The centred square of an image file, as in training: (3, S, S) in [0, 1].

    Raises:
        UserError: If the file cannot be decoded.
    """
    try:
        pixels, _ = load_square(file, size)
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"--pose {file}: cannot be decoded ({error})") from error
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


def unique_names(files: list[Path]) -> list[str]:
    """Each file's stem; where two files share one, all of that name are numbered."""
    stems = [file.stem for file in files]
    return [
        stem if stems.count(stem) == 1 else f"{stem}-{stems[:number].count(stem) + 1}"
        for number, stem in enumerate(stems)
    ]


@command
def main() -> None:
    """Entry point of `autolink-sample`."""
    sample(tyro.cli(Options, description=__doc__))


if __name__ == "__main__":
    main()
