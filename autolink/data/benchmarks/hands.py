"""11k Hands: 190 people's hands from both sides before white; a tenth of the people is held out."""

from __future__ import annotations

import csv
from pathlib import Path

from autolink.data.benchmarks.benchmark import Benchmark, needs, require_images, whole_images
from autolink.data.folder import ImageFiles
from autolink.data.splits import held_out_split, hold_out
from autolink.errors import UserError

_COLUMNS = ("id", "aspectOfHand", "imageName")


def _open(root: Path, image_size: int, split: str) -> ImageFiles:
    table = root / "HandInfo.csv"
    with open(table, newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    without = next((column for column in _COLUMNS if not rows or column not in rows[0]), None)
    if without is not None:
        raise UserError(f"{table}: has no column {without!r}, or no rows; get the file again")
    held_out = hold_out([row["id"] for row in rows])
    rows = [row for row, held in zip(rows, held_out, strict=True) if held == held_out_split(split)]
    files = [row["imageName"] for row in rows]
    require_images(root / "Hands", files)
    clips = [f"{row['id']} {row['aspectOfHand']}" for row in rows]
    return ImageFiles("hands", root / "Hands", files, image_size, clips=clips, boxes=whole_images(len(files)))


HANDS = Benchmark(
    name="hands",
    shows="hands from both sides before white",
    layout="Hands/Hand_0000002.jpg, … and HandInfo.csv",
    source="https://sites.google.com/view/11khands",
    terms="free for reasonable academic fair use",
    open=_open,
    missing=needs("Hands", "HandInfo.csv"),
    crop="all of it, stretched to a square",
    keypoints=32,
    flip=True,
    folders=("11k_hands", "11k-hands", "11khands"),
)
