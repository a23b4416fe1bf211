"""CUB-200-2011: birds with 15 parts, by two protocols.

By box (`cub-001`, `cub-002`, `cub-003`, `cub-all`): the square around the bird's box, as far as the image reaches. For
the first three species, a model learns from the training images of all three and is judged on the test images of one.

Aligned (`cub-aligned`): without seabirds, cut by the landmarks, all facing left. Lorenz et al. (CVPR 2019) published
such images, which are taken where they are on disk; else the like is derived from CUB itself by a rule of this project
(`_align`), whose errors are not comparable with published ones to the last digit. The log says which.

A part that cannot be seen is NaN. N images, L = 15 parts.
"""

from __future__ import annotations

import csv
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from autolink.data.benchmarks.benchmark import Benchmark, lacking, needs, require_images, warn_once, whole_images
from autolink.data.folder import ImageFiles
from autolink.data.splits import held_out_split
from autolink.errors import UserError

PARTS = (
    "back", "beak", "belly", "breast", "crown", "forehead", "left eye", "left leg", "left wing",
    "nape", "right eye", "right leg", "right wing", "tail", "throat",
)  # fmt: skip
MIRRORED_PARTS = [0, 1, 2, 3, 4, 5, 10, 11, 12, 9, 6, 7, 8, 13, 14]
"""Which part each becomes in a mirrored image: left and right change places."""

_HEAD = [1, 4, 5, 6, 10, 14]
_BODY = [0, 2, 3, 7, 8, 11, 12, 13]
_SEABIRDS = {
    "Albatross", "Auklet", "Cormorant", "Frigatebird", "Fulmar", "Guillemot",
    "Gull", "Jaeger", "Kittiwake", "Pelican", "Puffin", "Tern",
}  # fmt: skip
_MARGIN = 0.15  # around the visible parts, as a share of their extent, on each side

_TABLES = ("images", "images.txt", "bounding_boxes.txt", "train_test_split.txt", "parts/part_locs.txt")
_PUBLISHED_ALIGNED = ("images", "train.csv", "test.csv", "train_kp.npy", "test_kp.npy")


class _Birds(NamedTuple):
    """What CUB says of its images: paths below `images/`, (N, 4) x, y, width, height, (N, L, 2) pixels, (N,) bool."""

    files: np.ndarray
    boxes: np.ndarray
    parts: np.ndarray
    training: np.ndarray

    def of(self, chosen: np.ndarray) -> _Birds:
        return _Birds(*(column[chosen] for column in self))

    @property
    def species(self) -> np.ndarray:
        """(N,) number of the species, from 1 on."""
        return np.array([int(file[:3]) for file in self.files], int)


def _read(root: Path) -> _Birds:
    """Reads CUB's tables.

    Raises:
        UserError: one of them is damaged.
    """
    names = dict(
        line.split() for line in (root / "images.txt").read_text(encoding="utf-8").splitlines() if line.strip()
    )
    ids = np.array([int(number) for number in names])
    columns = []
    for table, width in (("bounding_boxes.txt", 5), ("train_test_split.txt", 2), ("parts/part_locs.txt", 5)):
        try:
            rows = np.loadtxt(root / table, ndmin=2).reshape(-1, width)
        except ValueError as error:
            raise UserError(f"{root / table}: {error}; get the file again") from error
        rows = rows[np.argsort(rows[:, 0], kind="stable")]
        each = len(PARTS) if table.startswith("parts") else 1
        if not np.array_equal(rows[:, 0], np.repeat(np.sort(ids), each)):
            raise UserError(f"{root / table}: does not list the images of images.txt, {each} row(s) each")
        columns.append(rows.reshape(len(ids), each, width)[np.argsort(np.argsort(ids))])
    boxes, training, parts = columns
    seen = np.where(parts[:, :, 4:] > 0, parts[:, :, 2:4], np.nan)
    return _Birds(np.array(list(names.values())), boxes[:, 0, 1:], seen, training[:, 0, 1] > 0)


def _open_boxes(name: str, species: int | None, root: Path, image_size: int, split: str) -> ImageFiles:
    birds = _read(root)
    wanted = birds.training != held_out_split(split)
    if species is not None:
        wanted &= birds.species == species if held_out_split(split) else birds.species <= 3
    birds = birds.of(wanted)
    half = birds.boxes[:, 2:].max(1, keepdims=True) / 2
    centre = birds.boxes[:, :2] + birds.boxes[:, 2:] / 2
    return _images(name, root, birds, np.hstack([centre - half, centre + half]), image_size, split)


def _open_aligned(root: Path, image_size: int, split: str) -> ImageFiles:
    if lacking(root, *_PUBLISHED_ALIGNED) is None:
        return _open_published_aligned(root, image_size, split)
    warn_once(f"cub-aligned: no images of Lorenz et al. in {root}, so birds are aligned by a rule of this project")
    birds = _read(root)
    birds = birds.of(birds.training != held_out_split(split))
    on_land = [not _SEABIRDS.intersection(file.split("/")[0].split(".")[-1].split("_")) for file in birds.files]
    both_ends = [~np.isnan(birds.parts[:, part, 0]).all(1) for part in (_HEAD, _BODY)]
    return _align(root, birds.of(np.array(on_land) & both_ends[0] & both_ends[1]), image_size, split)


def _align(root: Path, birds: _Birds, image_size: int, split: str) -> ImageFiles:
    """The square around the visible parts with a margin; mirrored if the head is to the right of the body."""
    low, high = np.nanmin(birds.parts, 1), np.nanmax(birds.parts, 1)
    half = (0.5 + _MARGIN) * (high - low).max(1, keepdims=True)
    centre = (low + high) / 2
    mirrored = np.nanmean(birds.parts[:, _HEAD, 0], 1) > np.nanmean(birds.parts[:, _BODY, 0], 1)
    parts = np.where(mirrored[:, None, None], birds.parts[:, MIRRORED_PARTS], birds.parts)
    boxes = np.hstack([centre - half, centre + half])
    return _images("cub-aligned", root, birds._replace(parts=parts), boxes, image_size, split, mirrored)


def _images(
    name: str,
    root: Path,
    birds: _Birds,
    boxes: np.ndarray,
    image_size: int,
    split: str,
    mirrored: np.ndarray | None = None,
) -> ImageFiles:
    files = birds.files.tolist()
    if not files:
        raise UserError(f"{root}: has no image for the {split!r} split of {name}")
    require_images(root / "images", files)
    parts = birds.parts.astype(np.float32)
    return ImageFiles(name, root / "images", files, image_size, landmarks=parts, boxes=boxes, mirrored=mirrored)


def _open_published_aligned(root: Path, image_size: int, split: str) -> ImageFiles:
    part = "test" if held_out_split(split) else "train"
    with open(root / f"{part}.csv", encoding="utf-8", newline="") as table:
        files = [row["fname"] for row in csv.DictReader(table)]
    points = np.load(root / f"{part}_kp.npy").astype(np.float32)
    if points.shape != (len(files), len(PARTS), 3):
        expected = (len(files), len(PARTS), 3)
        raise UserError(f"{root / f'{part}_kp.npy'}: is of shape {points.shape}; expected {expected}, as in {part}.csv")
    require_images(root, files)
    return ImageFiles(
        "cub-aligned",
        root,
        files,
        image_size,
        landmarks=np.where(points[:, :, 2:] > 0, points[:, :, :2], np.nan),
        sizes=np.ones((len(files), 2)),  # the points are in [0, 1] of the image
        boxes=whole_images(len(files)),
    )


def _missing_aligned(root: Path) -> str | None:
    return None if lacking(root, *_PUBLISHED_ALIGNED) is None else lacking(root, *_TABLES)


_cub = partial(
    Benchmark,
    layout="images/001.Black_footed_Albatross/…, images.txt, bounding_boxes.txt, train_test_split.txt and "
    "parts/part_locs.txt",
    source="https://www.vision.caltech.edu/datasets/cub_200_2011/",
    terms="non-commercial research and education only; the images belong to their photographers",
    missing=needs(*_TABLES),
    crop="the square around the bird's box, as far as the image reaches, stretched to a square",
    keypoints=4,
    protocol="cub",
    folders=("CUB_200_2011", "cub", "cub/CUB_200_2011"),
)

CUB_SPECIES = tuple(
    _cub(
        name=f"cub-{number:03d}",
        shows=f"birds of three species, judged on the {bird}, with 15 parts",
        open=partial(_open_boxes, f"cub-{number:03d}", number),
    )
    for number, bird in ((1, "black-footed albatross"), (2, "Laysan albatross"), (3, "sooty albatross"))
)

CUB_ALL = _cub(
    name="cub-all",
    shows="birds of 200 species with 15 parts",
    open=partial(_open_boxes, "cub-all", None),
)

CUB_ALIGNED = _cub(
    name="cub-aligned",
    shows="birds facing left, no seabirds, with 15 parts",
    layout="CUB's own, or that of Lorenz et al.: images/…, train.csv, test.csv, train_kp.npy and test_kp.npy",
    open=_open_aligned,
    missing=_missing_aligned,
    crop="the square around the visible parts with a margin of 15 %, mirrored where the bird faces right",
    keypoints=10,
    folders=("cub_loren19", *_cub.keywords["folders"]),
)
