"""Image folders with landmarks in a csv file.

Layout: `train/`, `val/` with `train_landmarks.csv`, `val_landmarks.csv` beside them, or one folder of images
with a `landmarks.csv` in it, which is split as any folder is (see `splits.py`). A row is
`file,width,height,x0,y0,x1,y1,...`:
the file relative to the split's folder, the size of the upright image, and landmarks in its pixels (pixel i
spans [i, i + 1)); an empty field is an unlabelled landmark. Images without a row are kept, unlabelled.
"""

from __future__ import annotations

import csv
import logging
from pathlib import Path

import numpy as np

from autolink.data.folder import ImageFiles, keep_readable, split_files
from autolink.data.splits import clips_of, named, people_of, split_folder, split_side
from autolink.errors import UserError

logger = logging.getLogger(__name__)


def landmark_csv(root: Path, split: str) -> Path | None:
    """The csv with the landmarks of a split, or None if the folder has none."""
    folder = split_folder(root, split)
    name = "landmarks.csv" if folder is None else f"{folder.name}_landmarks.csv"
    tables = named(root, {name.lower()})
    return root / tables[0] if tables else None


def open_landmark_folder(root: Path, image_size: int, split: str = "train", name: str | None = None) -> ImageFiles:
    """A folder of images with landmarks beside them in a csv file (see the module's text).

    Raises:
        UserError: no csv, a row that is not in the format, no images, or none that can be read.
    """
    table = landmark_csv(root, split)
    if table is None:
        raise UserError(f"{root}: has no landmark csv for {split!r}; expected {split}_landmarks.csv or landmarks.csv")
    files, part = split_files(root, split)
    folder = root / part if part else root
    rows = read_landmarks(table)
    at = {file: i for i, file in enumerate(files)}
    landmark_count = next(iter(rows.values()))[1].shape[0]
    landmarks = np.full((len(files), landmark_count, 2), np.nan, np.float32)
    sizes = np.full((len(files), 2), np.nan, np.float64)
    missing = []
    for file, (size, points) in rows.items():
        index = at.get(f"{part}/{file}" if part else file)
        if index is None:
            missing.append(file)
        else:
            landmarks[index], sizes[index] = points, size
    if len(missing) == len(rows):
        raise UserError(f"{table}: none of its {len(rows)} files is in {folder} (the first: {missing[0]})")
    if missing:
        listed = ", ".join(missing)
        logger.warning("%s: %d of its files are not in %s: %s", table, len(missing), folder, listed)

    clips = clips_of(files, part, people=True)
    kept = keep_readable(root, files)
    if part is None:
        kept = split_side(root, files, kept, split, people=True)
    name = name or root.resolve().name
    return ImageFiles(
        name, root, files, image_size, clips=clips, landmarks=landmarks, sizes=sizes, people=people_of(files)
    ).only(kept)


def read_landmarks(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Reads a landmark csv.

    Returns:
        For each file: (2,) width and height, and (L, 2) landmarks in pixels, NaN where unlabelled.

    Raises:
        UserError: the file is not in the format; the message names the line.
    """
    rows: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        lines = csv.reader(file)
        try:
            header = next(lines, [])
            count = (len(header) - 3) // 2
            expected = ["file", "width", "height"] + [f"{axis}{i}" for i in range(count) for axis in "xy"]
            if count < 1 or [field.strip() for field in header] != expected:
                shown = ",".join(header[:7])
                raise UserError(f"{path}: begins with '{shown}'; expected 'file,width,height,x0,y0,x1,y1,…'")
            for line in lines:
                if not line:
                    continue
                if len(line) != len(header):
                    raise UserError(f"{path}: line {lines.line_num} has {len(line)} fields; expected {len(header)}")
                try:
                    numbers = np.array([float(field) if field.strip() else np.nan for field in line[1:]])
                except ValueError as error:
                    raise UserError(f"{path}: line {lines.line_num}: {error}") from error
                labelled = not np.isnan(numbers[2:]).all()
                if labelled and (np.isinf(numbers).any() or not (numbers[:2] > 0).all()):
                    size = f"width {line[1] or 'nothing'}, height {line[2] or 'nothing'}"
                    raise UserError(
                        f"{path}: line {lines.line_num}: {size}; expected both above 0, and finite landmarks"
                    )
                rows[line[0].replace("\\", "/")] = numbers[:2], numbers[2:].reshape(-1, 2)
        except (csv.Error, UnicodeDecodeError) as error:
            raise UserError(f"{path}: is not a csv file ({error})") from error
    if not rows:
        raise UserError(f"{path}: has a header but no rows")
    return rows
