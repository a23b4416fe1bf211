"""AFHQ: faces of cats, dogs and wild animals, for the conditional GAN (Figure 9 shows 32 keypoints)."""

from __future__ import annotations

from pathlib import Path

from autolink.data.benchmarks.benchmark import Benchmark, lacking
from autolink.data.folder import ImageFiles, open_folder

_KINDS = ("cat", "dog", "wild")


def open_afhq(root: Path, image_size: int, split: str, name: str | None = "afhq") -> ImageFiles:
    """AFHQ's images; a folder in its layout may have another name."""
    opened = open_folder(root, image_size, split, name)
    opened.clips = [""] * len(opened)  # its file names are numbered, but each shows another animal
    return opened


def _missing(root: Path) -> str | None:
    held_out = "val" if (root / "val").is_dir() else "test"  # "test" in its second version
    return lacking(root, *(f"{split}/{kind}" for split in ("train", held_out) for kind in _KINDS))


AFHQ = Benchmark(
    name="afhq",
    shows="faces of cats, dogs and wild animals",
    layout="train/cat, train/dog, train/wild and the same under val",
    source="https://github.com/clovaai/stargan-v2, `bash download.sh afhq-dataset`",
    terms="CC BY-NC 4.0",
    open=open_afhq,
    missing=_missing,
    crop="all of it, the images are square",
    keypoints=32,
    flip=True,
)
