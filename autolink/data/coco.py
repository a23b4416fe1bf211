"""Images with labelled objects in COCO's json: their boxes are cut out, and their keypoints are landmarks.

Layout: the json file itself, or a folder with it: in the folder, in its `annotations/`, or in its `train/` and `val/`.
Of several, those with `train` and with `val` or `test` in their paths are the parts, and so are a file that is named
itself and the one beside it that differs in that word (`person_keypoints_train2017.json`). Of a file alone a tenth of
the images is held out, as of any folder (`splits.py`). Images are beside the file or its folder, in `images/`, `data/`
or a folder called as the end of the file's name (`train2017/`), there or in `images/`.

A sample is an object, not an image: the square around its box with a margin of a tenth on each side, moved into the
image where it reaches beyond it. An object longer than the image's shorter side is stretched to the square. Crowds are
left out, and objects without a labelled keypoint; in files without keypoints every box is a sample without landmarks.
Flags: 0 is unlabelled (NaN); what is labelled, though hidden (1), is a landmark as what is seen (2). Pixel i spans
[i, i + 1).

N objects, L landmarks.
"""

from __future__ import annotations

import functools
import json
import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from autolink.data.folder import ImageFiles, keep_readable
from autolink.data.splits import SPLIT_FOLDERS, clips_of, named, split_side
from autolink.errors import UserError
from autolink.images import shown_size

logger = logging.getLogger(__name__)

MARGIN = 1.2
"""Side of what is cut out, in the longer side of the box."""
_BEGINNING = re.compile(r'\s*\{\s*"(info|licenses|images|annotations|categories|type|videos)"\s*:')
_CALLED = re.compile(r"coco|annotation|keypoint|instance", re.IGNORECASE)
_WORDS = {word for words in SPLIT_FOLDERS.values() for word in words}


class CocoObjects(NamedTuple):
    """The labelled objects of a COCO file."""

    files: list[str]
    """Image of each, as the file names it."""
    sizes: np.ndarray
    """(N, 2) width and height of that image."""
    boxes: np.ndarray
    """(N, 4) x, y, width and height in its pixels."""
    landmarks: np.ndarray
    """(N, L, 2) in its pixels, NaN where unlabelled."""
    names: tuple[str, ...]
    """Of the L landmarks."""


def is_coco(path: Path) -> bool:
    """Whether a file begins as COCO's json does."""
    if path.suffix.lower() != ".json":
        return False
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        return _BEGINNING.match(file.read(4096)) is not None


def coco_tables(root: Path) -> list[Path]:
    """The COCO files of a folder; those of keypoints alone, if names say so."""
    if not root.is_dir():
        return []
    folders = [root, *(root / name for name in named(root, {"annotations", *_WORDS}))]
    there = sorted(file for folder in folders if folder.is_dir() for file in folder.glob("*.json"))
    tables = [file for file in there if _CALLED.search(str(file.relative_to(root))) and is_coco(file)]
    return [table for table in tables if "keypoints" in table.name.lower()] or tables


def open_coco(path: Path, image_size: int, split: str = "train", name: str | None = None) -> ImageFiles:
    """The labelled objects of a COCO file, or of a folder with COCO files (see the module's text).

    Args:
        path: the file or folder.
        image_size: side of the square images in pixels.
        split: "train", "fit", "val" or "test"; or "all", which of files that are parts is "train".
        name: what to call the data set; the file's or folder's name if not given.

    Raises:
        UserError: it is not in the format, holds nothing of use, or no image is there that can be read.
    """
    table, is_part = _table_of(path, split)
    objects = read_coco(table)
    root = _image_folder(table, objects.files)
    there = {file for file in set(objects.files) if (root / file).is_file()}
    if len(there) < len(set(objects.files)):
        missing = sorted(set(objects.files) - there)
        logger.warning("%s: %d of its images are not in %s: %s", table, len(missing), root, _few(missing))
    files = sorted(there)
    readable = keep_readable(root, files)
    if not is_part:
        readable = split_side(root, files, readable, split)
    wanted = {files[i] for i in readable}
    kept = [i for i, file in enumerate(objects.files) if file in wanted]
    _check_size(table, root, objects, kept[0])
    return ImageFiles(
        name or path.resolve().stem,
        root,
        objects.files,
        image_size,
        clips=clips_of(objects.files),
        landmarks=objects.landmarks,
        boxes=squares(objects.boxes, objects.sizes),
        landmark_names=objects.names,
    ).only(kept)


def squares(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """What is cut out for boxes (N, 4) in images of sizes (N, 2): left, top, right and bottom (N, 4)."""
    longest = boxes[:, 2:].max(1)
    side = np.maximum(longest, np.minimum(longest * MARGIN, sizes.min(1)))[:, None]
    corner = boxes[:, :2] + boxes[:, 2:] / 2 - side / 2
    corner = np.clip(corner, 0, np.maximum(sizes - side, 0))
    return np.hstack([corner, corner + side])


def read_coco(path: Path) -> CocoObjects:
    """Reads a COCO file.

    Raises:
        UserError: it is not in the format, its categories have different keypoints, or it has no object of use.
    """
    stat = path.stat()
    return _read(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=2)  # a run opens a file for two parts
def _read(path: Path, size: int, time: int) -> CocoObjects:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        images = {image["id"]: (image["file_name"], image["width"], image["height"]) for image in content["images"]}
        annotations = [one for one in content["annotations"] if not one.get("iscrowd")]
        names = _landmark_names(path, content.get("categories", []), {one.get("category_id") for one in annotations})
        found = [one for one in (_object(each, len(names)) for each in annotations) if one is not None]
        files = [str(images[image][0]).replace("\\", "/") for image, _, _ in found]
        sizes = np.array([images[image][1:] for image, _, _ in found], float)
        boxes = np.array([box for _, box, _ in found])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())[:100]
        expected = "images, annotations and categories"
        raise UserError(f"{path}: is not in COCO's format ({reason}); expected {expected}") from error
    total, of_use = len(content["annotations"]), "a labelled keypoint" if names else "a box"
    if not found:
        raise UserError(f"{path}: none of its {total} annotations has {of_use}; label some")
    if not (np.isfinite(boxes).all() and np.isfinite(sizes).all() and (sizes > 0).all()):
        raise UserError(f"{path}: has boxes or sizes of images that are no numbers above 0; mend them")
    left_out = total - len(found)
    if left_out:
        logger.warning("%s: %d of its %d objects are left out: crowds, or without %s", path, left_out, total, of_use)
    landmarks = np.stack([points for _, _, points in found]).astype(np.float32)
    return CocoObjects(files, sizes, boxes, landmarks, names)


def _landmark_names(path: Path, categories: list[dict[str, Any]], used: set[Any]) -> tuple[str, ...]:
    """Of the keypoints of those categories that are used; none if they have none."""
    known = {
        category["name"]: tuple(map(str, category["keypoints"]))
        for category in categories
        if category["id"] in used and category.get("keypoints")
    }
    if len(set(known.values())) > 1:
        kinds = ", ".join(f"{name} has {len(points)}" for name, points in known.items())
        raise UserError(f"{path}: its categories have different keypoints ({kinds}); keep those of one in a file")
    return next(iter(known.values()), ())


def _object(annotation: dict[str, Any], count: int) -> tuple[Any, list[float], np.ndarray] | None:
    """Image, box and landmarks (L, 2) of an annotation; None if it says too little."""
    flat = annotation.get("keypoints", []) if count else []
    points = np.array(flat, float).reshape(-1, 3)
    if len(points) not in ({0, count} if count else {0}):
        raise ValueError(f"annotation {annotation.get('id')}: {len(points)} keypoints, where its category has {count}")
    seen = points[points[:, 2] > 0, :2]
    if count and not len(seen):
        return None
    if not np.isfinite(seen).all():
        raise ValueError(f"annotation {annotation.get('id')}: a keypoint that is not a number")
    box = [float(value) for value in annotation.get("bbox") or ()]
    if not box and len(seen):
        box = [*seen.min(0).tolist(), *np.ptp(seen, 0).tolist()]
    if len(box) not in (0, 4):
        raise ValueError(f"annotation {annotation.get('id')}: a box of {len(box)} numbers, not 4")
    if not box or max(box[2:]) <= 0:
        return None
    return annotation["image_id"], box, np.where(points[:, 2:] > 0, points[:, :2], np.nan)


def _table_of(path: Path, split: str) -> tuple[Path, bool]:
    """The COCO file that holds a split, and whether it is a part by itself."""
    words = SPLIT_FOLDERS["train" if split == "all" else split]
    if path.is_file():
        beside = {word: _renamed(path, word) for word in SPLIT_FOLDERS["test"]}
        parts = {word: file for word, file in beside.items() if file is not None and file.is_file()}
        if not parts or not _words_of(path.name) & set(SPLIT_FOLDERS["train"]):
            return path, False
        return next((parts[word] for word in words if word in parts), path), True
    tables = coco_tables(path)
    if len(tables) == 1:
        return tables[0], False
    for word in words:
        of_part = [table for table in tables if word in _words_of(table.relative_to(path).as_posix())]
        if len(of_part) == 1:
            return of_part[0], True
    listed = _few([table.relative_to(path).as_posix() for table in tables])
    raise UserError(
        f"{path}: has several COCO files, and which is for {split!r} is not clear: {listed}; name one of them"
    )


def _renamed(path: Path, part: str) -> Path | None:
    """A file beside one for training, of the same name but for the word that says so."""
    for word in SPLIT_FOLDERS["train"]:
        renamed = re.sub(rf"(?<![a-zA-Z]){word}(?![a-zA-Z])", part, path.name)
        if renamed != path.name:
            return path.with_name(renamed)
    return None


def _words_of(name: str) -> set[str]:
    return set(re.split(r"[^a-z]+", name.lower()))


def _image_folder(table: Path, files: Iterable[str]) -> Path:
    """Where the images of a COCO file are.

    Raises:
        UserError: nowhere.
    """
    some = sorted(set(files))[:20]
    last = re.split(r"[_.]", table.stem)[-1]
    inside = ("", "images", "data", last, f"images/{last}")
    places = [base / inner for base in (table.parent, table.parent.parent) for inner in inside]
    for place in places:
        if any((place / file).is_file() for file in some):
            return place
    tried = ", ".join(str(place) for place in places[:4])
    raise UserError(
        f"{table}: its images are not there (the first: {some[0]}); looked in {tried} and in the like above"
    )


def _check_size(table: Path, root: Path, objects: CocoObjects, index: int) -> None:
    """Finds that an image has the size that its boxes were drawn in."""
    width, height = shown_size(root / objects.files[index])
    if (width, height) != tuple(objects.sizes[index]):
        noted = " x ".join(f"{side:g}" for side in objects.sizes[index])
        raise UserError(
            f"{root / objects.files[index]}: is {width} x {height}, but {noted} in {table.name}; give the images that "
            "were labelled"
        )


def _few(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
