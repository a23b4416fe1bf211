"""Files that tests of data sets make, and what they ask of messages."""

from __future__ import annotations

import colorsys
import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from autolink.data import Sample, open_data
from autolink.video import write_video

TURNS = {
    1: [],
    2: [Image.Transpose.FLIP_LEFT_RIGHT],
    3: [Image.Transpose.ROTATE_180],
    4: [Image.Transpose.FLIP_TOP_BOTTOM],
    5: [Image.Transpose.TRANSPOSE],
    6: [Image.Transpose.ROTATE_90],
    7: [Image.Transpose.TRANSVERSE],
    8: [Image.Transpose.ROTATE_270],
}
"""By EXIF's orientation, how a camera that was held so stores an upright picture."""
RED, BLUE = (220, 20, 20), (20, 20, 220)


def picture(path: Path, size: tuple[int, int] = (40, 30), colour: tuple[int, ...] = RED, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, **options)
    return path


def as_stored(upright: Image.Image, orientation: int) -> Image.Image:
    """The picture as a camera stores it that was held so."""
    for turn in TURNS[orientation]:
        upright = upright.transpose(turn)
    return upright


def video(path: Path, frames: int = 12, size: tuple[int, int] = (64, 48), level: int = 0) -> Path:
    """Brightness tells the frame: `level` + 8 a frame."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, [np.full((size[1], size[0], 3), level + 8 * i, np.uint8) for i in range(frames)], 10)
    return path


def in_both(root: Path, size: int = 16) -> dict[str, Sample]:
    """Every sample of both splits of a folder by its name."""
    return {s.name: s for split in ("train", "val") for s in open_data(str(root), size, split)}


def one_line(error: pytest.ExceptionInfo, *contents: str) -> None:
    message = str(error.value)
    assert "\n" not in message
    for content in contents:
        assert content in message


def landmark_csv(path: Path, rows: list[list[object]], count: int) -> None:
    header = ["file", "width", "height", *(f"{axis}{i}" for i in range(count) for axis in "xy")]
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def dots(path: Path, size: tuple[int, int], points: dict[int, tuple[float, float]], radius: float, **options) -> Path:
    """A black picture with a dot of its own hue (`hue`) at each point, in pixels; the keys say which hue."""
    width, height = size
    y, x = np.mgrid[0:height, 0:width] + 0.5
    image = np.zeros((height, width, 3), np.uint8)
    for number, (at_x, at_y) in points.items():
        image[np.hypot(x - at_x, y - at_y) < radius] = hue(number)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, quality=97, subsampling=0, **options)
    return path


def hue(number: int) -> tuple[int, int, int]:
    """The colour of a dot: fifteen are well apart."""
    return tuple(round(255 * c) for c in colorsys.hsv_to_rgb(number / 15, 1, 1))


def find_dot(image: torch.Tensor, number: int) -> np.ndarray:
    """(x, y) of a dot in an image (3, S, S), in the frame of landmarks; the mean of the pixels of its hue."""
    difference = np.linalg.norm(image.permute(1, 2, 0).numpy() - np.array(hue(number), float), axis=-1)
    rows, columns = np.nonzero(difference < 45)
    assert len(rows) >= 5, f"dot {number} cannot be seen"
    return np.array([columns.mean() + 0.5, rows.mean() + 0.5]) / image.shape[-1] * 2 - 1
