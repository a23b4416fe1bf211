"""CelebA, aligned and in the wild, with the MAFL split.

AutoLink learns from CelebA's training images without MAFL's test images; the linear map is fitted on MAFL's training
images and judged on MAFL's test images. In the wild, images of which the face's box covers less than 30 % are left out
of all three. N images.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from autolink.data.benchmarks.benchmark import Benchmark, needs, require_images, required, whole_images
from autolink.data.cache import image_sizes
from autolink.data.folder import ImageFiles
from autolink.errors import UserError

SMALLEST_FACE = 0.3
"""Share of an image in the wild that the box of its face covers at least."""

_PARTITION = ("Eval/list_eval_partition.txt", "list_eval_partition.txt")
_BOXES = ("Anno/list_bbox_celeba.txt", "list_bbox_celeba.txt")
_MAFL = {
    "fit": ("MAFL/training.txt", "../MAFL/training.txt"),
    "test": ("MAFL/testing.txt", "../MAFL/testing.txt"),
}


class _Variant(NamedTuple):
    """Where images and landmarks of one of CelebA's two forms may lie; the second place is torchvision's."""

    images: tuple[str, str]
    landmarks: tuple[str, str]


_ALIGNED = _Variant(
    ("Img/img_align_celeba", "img_align_celeba"),
    ("Anno/list_landmarks_align_celeba.txt", "list_landmarks_align_celeba.txt"),
)
_WILD = _Variant(("Img/img_celeba", "img_celeba"), ("Anno/list_landmarks_celeba.txt", "list_landmarks_celeba.txt"))


def _open_aligned(root: Path, image_size: int, split: str) -> ImageFiles:
    folder, files = required(root, *_ALIGNED.images), _split_files(root, split)
    require_images(folder, files)
    landmarks = _read_numbers(required(root, *_ALIGNED.landmarks), files, 10).reshape(-1, 5, 2)
    return ImageFiles("celeba-aligned", folder, files, image_size, landmarks=landmarks)


def _open_wild(root: Path, image_size: int, split: str) -> ImageFiles:
    folder, files = required(root, *_WILD.images), _split_files(root, split)
    require_images(folder, files)
    landmarks = _read_numbers(required(root, *_WILD.landmarks), files, 10).reshape(-1, 5, 2)
    faces = _read_numbers(required(root, *_BOXES), files, 4)[:, 2:].prod(1)
    large = np.flatnonzero(faces >= SMALLEST_FACE * image_sizes(folder, files).prod(1))
    if not len(large):
        raise UserError(f"{folder}: no face of the {split!r} split covers {SMALLEST_FACE:.0%} of its image")
    kept = [files[i] for i in large]
    boxes = whole_images(len(kept))
    return ImageFiles("celeba-wild", folder, kept, image_size, landmarks=landmarks[large], boxes=boxes)


def _split_files(root: Path, split: str) -> list[str]:
    if split == "train":
        held_out = set(_read_names(required(root, *_MAFL["test"])))
        with open(required(root, *_PARTITION), encoding="utf-8") as file:
            parts = [line.split() for line in file if line.strip()]
        return [part[0] for part in parts if part[1:] == ["0"] and part[0] not in held_out]
    return sorted(_read_names(required(root, *_MAFL["fit" if split == "fit" else "test"])))


def _read_names(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").split()


def _read_numbers(path: Path, files: list[str], columns: int) -> np.ndarray:
    """(N, columns) numbers of some images from a list of CelebA's: a count, a header, then `file number number …`.

    Raises:
        UserError: the list has no line for one of the images.
    """
    with open(path, encoding="utf-8") as file:
        rows = (line.split() for line in file)
        numbers = {row[0]: row[1:] for row in rows if len(row) == columns + 1}
    without = next((file for file in files if file not in numbers), None)
    if without is not None:
        raise UserError(f"{path}: has no line of {columns} numbers for {without}; get the file again")
    return np.array([numbers[file] for file in files], np.float32)


_celeba = partial(
    Benchmark,
    source="https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html, and MAFL's lists at "
    "https://github.com/zhzhanp/TCDCN-face-alignment/tree/master/MAFL",
    terms="non-commercial research only, no redistribution",
    flip=True,
    protocol="interocular",
    folders=("celeba", "CelebA"),
)

CELEBA_ALIGNED = _celeba(
    name="celeba-aligned",
    shows="aligned faces of celebrities with 5 landmarks",
    layout="Img/img_align_celeba, Anno/list_landmarks_align_celeba.txt, Eval/list_eval_partition.txt, "
    "MAFL/training.txt and MAFL/testing.txt",
    open=_open_aligned,
    missing=needs(*_ALIGNED, _PARTITION, *_MAFL.values()),
    crop="the centred square, 178 pixels wide",
    keypoints=10,
)

CELEBA_WILD = _celeba(
    name="celeba-wild",
    shows="faces of celebrities in photographs as found, with 5 landmarks",
    layout="Img/img_celeba, Anno/list_landmarks_celeba.txt, Anno/list_bbox_celeba.txt, Eval/list_eval_partition.txt, "
    "MAFL/training.txt and MAFL/testing.txt",
    open=_open_wild,
    missing=needs(*_WILD, _BOXES, _PARTITION, *_MAFL.values()),
    crop="all of it, stretched to a square",
    keypoints=8,
    tuned={2: 7.5e-4, 4: 7.5e-4, 8: 2.5e-3, 16: 1e-3, 32: 7.5e-4},
)
