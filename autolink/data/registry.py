"""From what a user types after `--data` to a data set.

`--data` takes `synthetic`; a path to a folder of images, of videos or of shards (see `shards.py`), to one video, or to
COCO keypoints (see `coco.py`); a pattern of shards; or a name: a benchmark (`celeba-wild`, see `benchmarks/table.py`)
or any folder below `--data-root`, which is `$AUTOLINK_DATA` if not given. A bare word is looked up as a name first, so
that a run folder called `faces` does not hide the data of that name; `./faces` is always the path.
"""

from __future__ import annotations

import os
from pathlib import Path

from autolink.data.benchmarks import BENCHMARKS
from autolink.data.benchmarks.afhq import open_afhq
from autolink.data.clips import open_clips
from autolink.data.coco import coco_tables, is_coco, open_coco
from autolink.data.deeplabcut import deeplabcut_tables, open_deeplabcut
from autolink.data.folder import open_folder
from autolink.data.landmarks import landmark_csv, open_landmark_folder
from autolink.data.sample import SampleSet
from autolink.data.shards import Shards, has_shards, is_pattern, open_shards
from autolink.data.splits import check_split
from autolink.data.synthetic import SyntheticFigures
from autolink.errors import UserError
from autolink.files import MOVING, STILLS, holds, require_file, what_is


def open_data(data: str, image_size: int, split: str = "train", data_root: Path | None = None) -> SampleSet | Shards:
    """Opens a data set.

    Args:
        data: a name or a path, see the module's text.
        image_size: side of the square images in pixels.
        split: "train"; "fit", the part on which evaluation fits its linear map, which is "train" unless the
            benchmark has a part for it (MAFL's training images for CelebA); "val"; "test", which is "val" where
            there is no third part; or of a folder that is not divided "all".
        data_root: the folder in which names are looked up; `$AUTOLINK_DATA` if not given.

    Returns:
        A map-style torch data set of `Sample`; of shards, to train on, a stream.

    Raises:
        UserError: an unknown name or split, nothing at the path, nothing in it that can be read.
    """
    check_split(split)
    if data == "synthetic":
        return SyntheticFigures(image_size, split)
    if is_pattern(data):
        return open_shards(data, image_size, split)
    path = find_data(data, data_root)
    if data in BENCHMARKS:
        return BENCHMARKS[data].open(path, image_size, split)
    return _open_path(path, image_size, split, name=data if Path(data).name == data else None)


def open_samples(data: str, image_size: int, split: str = "train", data_root: Path | None = None) -> SampleSet:
    """The same, where a stream will not do.

    Raises:
        UserError: as `open_data`, or it is a stream.
    """
    return whole(open_data(data, image_size, split, data_root))


def whole(data: SampleSet | Shards, instead: str = "any of them is asked for here; give a folder") -> SampleSet:
    """A data set of which any sample can be asked for.

    Args:
        data: what `open_data` returned.
        instead: what is needed and what to give, if it is a stream.

    Raises:
        UserError: it is a stream of shards.
    """
    if isinstance(data, Shards):
        raise UserError(f"{data.name}: shards hold single images, but {instead}")
    return data


def find_data(data: str, data_root: Path | None = None) -> Path:
    """The folder or file that a name or path stands for.

    Raises:
        UserError: there is none; the message says what a benchmark lacks and where to get it, or which names are known.
    """
    path = Path(data).expanduser()
    named = path.name == data != ".."
    if data and not named and path.exists():
        return path if path.is_dir() else require_file(path)
    root = _data_root(data_root)
    if data in BENCHMARKS:
        return _find_benchmark(data, root)
    candidates = [path] if root is None else [root / data, path]
    found = next((path for path in candidates if data and path.exists()), None)
    if found is None:
        known = ", ".join(["synthetic", *BENCHMARKS, *(n for n in _folders(root) if n not in BENCHMARKS)])
        kind = "neither a path nor a known data set" if named else "no such file or folder"
        more = "" if root is not None else " (more with --data-root or $AUTOLINK_DATA)"
        raise UserError(f"'{data}': {kind}; known names are {known}{more}")
    return found if found.is_dir() else require_file(found)


def list_data(data_root: Path | None = None) -> list[str]:
    """What is known by name, and whether it is found, incomplete or missing on this machine: one line each."""
    root = _data_root(data_root)
    rows = [("synthetic", "articulated figures with joints, as images and as clips", "made on the fly")]
    used = set()
    for name, benchmark in BENCHMARKS.items():
        found, lack = benchmark.find(root)
        if found is not None:
            used.add(found)
            status = f"found: {found}"
        else:
            status = f"{lack}; published at {benchmark.source}; terms: {benchmark.terms}"
        rows.append((name, benchmark.shows, status))
    for name in _folders(root):
        if root is not None and root / name not in used and name not in BENCHMARKS:
            rows.append((name, _contents(root / name), f"found: {root / name}"))
    return [f"{name:22}{shows}; {status}" for name, shows, status in rows]


def describe_data(name: str, data_root: Path | None = None) -> list[str]:
    """All that is known of one benchmark, a line each.

    Raises:
        UserError: no benchmark has the name.
    """
    if name not in BENCHMARKS:
        raise UserError(f"'{name}' is not a benchmark; these are: {', '.join(BENCHMARKS)}")
    row = BENCHMARKS[name]
    found, lack = row.find(_data_root(data_root))
    facts = {
        "shows": row.shows,
        "status": lack if found is None else f"found: {found}",
        "layout": row.layout,
        "published": row.source,
        "terms": row.terms,
        "crop": row.crop,
        "mirrored": "at random while training" if row.flip else "never while training",
        "keypoints": row.keypoints,
        "thickness": f"{row.thickness(row.keypoints):g}",
        "tuned": ", ".join(f"{value:g} for K = {k}" for k, value in row.tuned.items()) or "no thickness is published",
        "protocol": row.protocol or "none, it is looked at",
    }
    return [f"{fact:12}{value}" for fact, value in facts.items()]


def _find_benchmark(name: str, data_root: Path | None) -> Path:
    """Root of a benchmark: below the data root, or in the folder where the command was called."""
    benchmark = BENCHMARKS[name]
    found, lack = benchmark.find(data_root)
    if found is None:
        found, _ = benchmark.find(Path())
    if found is None:
        raise UserError(
            f"{name}: {lack}; get it from {benchmark.source} (terms: {benchmark.terms}), and give the folder that it "
            f"is in as --data-root or $AUTOLINK_DATA (expected layout: {benchmark.layout})"
        )
    return found


def _data_root(data_root: Path | None) -> Path | None:
    given = data_root if data_root is not None else os.environ.get("AUTOLINK_DATA") or None
    if given is None:
        return None
    root = Path(given).expanduser()
    if not root.is_dir():
        told_by = "$AUTOLINK_DATA" if data_root is None else "--data-root"
        raise UserError(f"{root}: no such folder ({told_by})")
    return root


def _folders(root: Path | None) -> list[str]:
    if root is None:
        return []
    return sorted(path.name for path in root.iterdir() if path.is_dir() and path.name[0] not in "._")


def _contents(root: Path) -> str:
    if landmark_csv(root, "train") is not None or deeplabcut_tables(root) or coco_tables(root):
        return "images with landmarks"
    if holds(root, STILLS):
        return "images"
    if has_shards(root):
        return "shards"
    return "videos" if holds(root, MOVING) else "no images or videos"


def _open_path(path: Path, image_size: int, split: str, name: str | None) -> SampleSet | Shards:
    if not path.is_dir():
        if is_coco(path):
            return open_coco(path, image_size, split, name)
        what = what_is(path)
        if what.moves:
            return open_clips(path, image_size, split, name)
        raise UserError(f"{path}: is {what.in_words}; expected a video, COCO json, or a folder of images or videos")
    if landmark_csv(path, split) is not None:
        return open_landmark_folder(path, image_size, split, name)
    if deeplabcut_tables(path):
        return open_deeplabcut(path, image_size, split, name)
    if coco_tables(path):
        return open_coco(path, image_size, split, name)
    if not holds(path, STILLS):
        if has_shards(path):
            return open_shards(path, image_size, split, name)
        if holds(path, MOVING):
            return open_clips(path, image_size, split, name)
    if BENCHMARKS["afhq"].missing(path) is None:
        return open_afhq(path, image_size, split, name)
    return open_folder(path, image_size, split, name)
