"""Oxford 102 flowers; the large part called "test" is learned from, as in Chen et al. (NeurIPS 2019)."""

from __future__ import annotations

from pathlib import Path

from scipy.io import loadmat

from autolink.data.benchmarks.benchmark import Benchmark, needs, require_images, whole_images
from autolink.data.folder import ImageFiles
from autolink.errors import UserError

_PARTS = {"train": "tstid", "fit": "tstid", "val": "valid", "test": "trnid"}


def _open(root: Path, image_size: int, split: str) -> ImageFiles:
    try:
        numbers = loadmat(root / "setid.mat")[_PARTS[split]].ravel()
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{root / 'setid.mat'}: cannot be read ({error}); get the file again") from error
    files = [f"image_{number:05d}.jpg" for number in sorted(numbers.tolist())]
    require_images(root / "jpg", files)
    return ImageFiles("flower", root / "jpg", files, image_size, boxes=whole_images(len(files)))


FLOWER = Benchmark(
    name="flower",
    shows="flowers of 102 kinds",
    layout="jpg/image_00001.jpg, … and setid.mat",
    source="https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
    terms="none stated; the images come from the web and belong to their photographers",
    open=_open,
    missing=needs("jpg", "setid.mat"),
    crop="all of it, stretched to a square",
    keypoints=32,
    flip=True,
    folders=("flowers-102", "102flowers", "oxford-flowers-102"),
)
