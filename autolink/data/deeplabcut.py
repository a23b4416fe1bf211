"""Images with landmarks in a csv file as DeepLabCut and Lightning Pose write it.

Three rows of header (scorer, body parts, coordinates), then a row an image: its path, and x, y and perhaps a
likelihood of each body part in pixels (pixel i spans [i, i + 1)); an empty field is an unlabelled landmark. The path is
one field (`labeled-data/video/img01.png`) or, as newer versions write it, three; it starts from the project's folder.

Layout: one `CollectedData*.csv` in the project's folder, or one in each `labeled-data/VIDEO/`. Only labelled images
belong to the set. It has no splits: a tenth is held out as in any folder (`splits.py`).
"""

from __future__ import annotations

import csv
import logging
from itertools import zip_longest
from pathlib import Path

import numpy as np

from autolink.data.folder import ImageFiles, keep_readable
from autolink.data.splits import clips_of, split_side
from autolink.errors import UserError

logger = logging.getLogger(__name__)

_HEADERS = ("scorer", "bodyparts", "coords")


def deeplabcut_tables(root: Path) -> list[Path]:
    """The csv files of a DeepLabCut project with its labels; none if the folder is no such project."""
    return sorted(root.glob("CollectedData*.csv")) or sorted(root.glob("labeled-data/*/CollectedData*.csv"))


def open_deeplabcut(root: Path, image_size: int, split: str = "train", name: str | None = None) -> ImageFiles:
    """The labelled images of a DeepLabCut project (see the module's text).

    Args:
        root: the project's folder.
        image_size: side of the square images in pixels.
        split: "train", "fit", "val" or "test".
        name: what to call the data set; the folder's name if not given.

    Raises:
        UserError: a csv is not in the format, tables disagree about the body parts, or no image can be read.
    """
    rows: dict[str, np.ndarray] = {}
    known: list[str] = []
    for table in deeplabcut_tables(root):
        parts, found = read_deeplabcut(table)
        known = known or parts
        if parts != known:
            different = next((a or b for a, b in zip_longest(parts, known) if a != b), "")
            raise UserError(f"{table}: its body parts differ from those of other tables, first in {different!r}")
        rows |= found
    files = [file for file in sorted(rows) if (root / file).is_file()]
    missing = sorted(rows.keys() - set(files))
    if not files:
        raise UserError(f"{root}: none of the {len(rows)} labelled images is there (the first: {missing[0]})")
    if missing:
        logger.warning("%s: %d of its labelled images are not there: %s", root, len(missing), ", ".join(missing))
    clips = clips_of(files)
    kept = split_side(root, files, keep_readable(root, files), split)
    landmarks = np.stack([rows[file] for file in files])
    name = name or root.resolve().name
    return ImageFiles(name, root, files, image_size, clips=clips, landmarks=landmarks, landmark_names=known).only(kept)


def read_deeplabcut(path: Path) -> tuple[list[str], dict[str, np.ndarray]]:
    """Reads a csv of labels.

    Returns:
        The L body parts, and for each image (L, 2) landmarks in its pixels, NaN where unlabelled.

    Raises:
        UserError: the file is not in the format; the message names the line.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            lines = [line for line in csv.reader(file) if line]
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path}: is not a csv file ({error})") from error
    header = dict(zip((line[0] for line in lines[:3]), lines[:3]))
    if tuple(header) != _HEADERS:
        shown = ", ".join(line[0] for line in lines[:4])
        kinds = "rows 'scorer', 'bodyparts' and 'coords' (one animal)"
        raise UserError(f"{path}: its first rows begin with {shown or 'nothing'}; expected the {kinds}")
    x_columns = [i for i, field in enumerate(header["coords"]) if field == "x"]
    names = header["bodyparts"]
    if not x_columns or any(header["coords"][i + 1 : i + 2] != ["y"] or names[i] != names[i + 1] for i in x_columns):
        raise UserError(f"{path}: row 'coords' must give x and y of each body part, side by side")
    columns = np.array([[i, i + 1] for i in x_columns])

    rows = {}
    for number, line in enumerate(lines[3:], 4):
        if len(line) != len(names):
            raise UserError(f"{path}: row {number} has {len(line)} fields; expected {len(names)}")
        image = "/".join(line[: x_columns[0]]).replace("\\", "/")
        try:
            numbers = [float(field) if field.strip() else np.nan for field in line[x_columns[0] :]]
        except ValueError as error:
            raise UserError(f"{path}: row {number}: {error}") from error
        if np.isinf(numbers).any():
            raise UserError(f"{path}: row {number} holds an infinite number; expected pixels, or nothing")
        rows[image] = np.array(numbers)[columns - x_columns[0]]
    if not rows:
        raise UserError(f"{path}: has a header but no rows")
    return [names[i] for i in x_columns], rows
