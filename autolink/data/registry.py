"""From what a user types after `--data` to a data set.

`--data` takes `synthetic`; a path to a folder of images or of videos, or to one video; or a name: a benchmark
(`afhq`) or any folder below `--data-root`, which is `$AUTOLINK_DATA` if not given. A bare word is looked up
as a name first, so that a run folder called `faces` does not hide the data of that name; `./faces` is always
the path.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from autolink.data.clips import open_clips
from autolink.data.folder import SPLIT_FOLDERS, list_files, open_folder
from autolink.data.landmarks import landmark_csv, open_landmark_folder
from autolink.data.sample import SampleSet
from autolink.data.synthetic import SyntheticFigures
from autolink.errors import UserError
from autolink.images import IMAGE_SUFFIXES
from autolink.video import VIDEO_SUFFIXES


class Benchmark(NamedTuple):
    """A public data set known by name.

    Attributes:
        shows: what it shows, in a few words.
        matches: whether a folder has its layout.
        layout: the layout in words.
        source: where to get it.
    """

    shows: str
    matches: Callable[[Path], bool]
    layout: str
    source: str


def _is_afhq(root: Path) -> bool:
    held_out = root / "val" if (root / "val").is_dir() else root / "test"  # "test" in its second version
    return all((split / kind).is_dir() for split in (root / "train", held_out) for kind in ("cat", "dog", "wild"))


BENCHMARKS = {
    "afhq": Benchmark(
        shows="faces of cats, dogs and wild animals",
        matches=_is_afhq,
        layout="train/cat, train/dog, train/wild and the same under val",
        source="https://github.com/clovaai/stargan-v2, `bash download.sh afhq-dataset`",
    ),
}


def open_data(data: str, image_size: int, split: str = "train", data_root: Path | None = None) -> SampleSet:
    """Opens a data set.

    Args:
        data: a name or a path, see the module's text.
        image_size: side of the square images in pixels.
        split: "train", "val" or "test"; "test" is "val" where there is no third part.
        data_root: the folder in which names are looked up; `$AUTOLINK_DATA` if not given.

    Returns:
        A map-style torch data set of `Sample`.

    Raises:
        UserError: an unknown name or split, nothing at the path, nothing in it that can be read.
    """
    if split not in SPLIT_FOLDERS:
        raise UserError(f"split {split!r} is unknown; expected one of {', '.join(SPLIT_FOLDERS)}")
    if data == "synthetic":
        return SyntheticFigures(image_size, split)
    path = find_data(data, data_root)
    return _open_path(path, image_size, split, name=data if Path(data).name == data else None)


def find_data(data: str, data_root: Path | None = None) -> Path:
    """The folder or file that a name or path stands for.

    Raises:
        UserError: there is none; the message says where to get a benchmark, or which names are known.
    """
    path = Path(data).expanduser()
    named = path.name == data != ".."
    if data and not named and path.exists():
        return path
    root = _data_root(data_root)
    candidates = [path] if root is None else [root / data, path]
    if data in BENCHMARKS:
        candidates[1:1] = [] if root is None else [root]
        found = next((path for path in candidates if BENCHMARKS[data].matches(path)), None)
        if found is None:
            looked = " or ".join(map(str, candidates))
            benchmark = BENCHMARKS[data]
            raise UserError(
                f"{data}: not in {looked}; get it from {benchmark.source}, and give its folder, or the one "
                f"it is in, as --data-root or $AUTOLINK_DATA (expected layout: {benchmark.layout})"
            )
        return found
    found = next((path for path in candidates if data and path.exists()), None)
    if found is None:
        known = ", ".join(["synthetic", *BENCHMARKS, *(n for n in _folders(root) if n not in BENCHMARKS)])
        kind = "neither a path nor a known data set" if named else "no such file or folder"
        more = "" if root is not None else " (more with --data-root or $AUTOLINK_DATA)"
        raise UserError(f"'{data}': {kind}; known names are {known}{more}")
    return found


def list_data(data_root: Path | None = None) -> list[str]:
    """What is known by name, and where it is on this machine: one line each."""
    root = _data_root(data_root)
    rows = [("synthetic", "made on the fly", "articulated figures with joints, as images and as clips")]
    for name, benchmark in BENCHMARKS.items():
        candidates = [] if root is None else [root / name, root]
        found = next((path for path in candidates if benchmark.matches(path)), None)
        where = f"found: {found}" if found else f"missing: get it from {benchmark.source}"
        rows.append((name, where, benchmark.shows))
    for name in _folders(root):
        if name not in BENCHMARKS:
            rows.append((name, f"found: {root / name}", _contents(root / name)))
    return [f"{name:16}{shows}; {where}" for name, where, shows in rows]


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
    if landmark_csv(root, "train") is not None:
        return "images with landmarks"
    if list_files(root, root, IMAGE_SUFFIXES):
        return "images"
    return "videos" if list_files(root, root, VIDEO_SUFFIXES) else "no images or videos"


def _open_path(path: Path, image_size: int, split: str, name: str | None) -> SampleSet:
    if path.is_file():
        if path.suffix.lower() in VIDEO_SUFFIXES:
            return open_clips(path, image_size, split, name)
        raise UserError(f"{path}: is a file that is no video; expected a video, or a folder of images or videos")
    if landmark_csv(path, split) is not None:
        return open_landmark_folder(path, image_size, split, name)
    if not list_files(path, path, IMAGE_SUFFIXES) and list_files(path, path, VIDEO_SUFFIXES):
        return open_clips(path, image_size, split, name)
    opened = open_folder(path, image_size, split, name)
    if _is_afhq(path):
        opened.clips = [""] * len(opened)  # its file names are numbered, but each shows another animal
    return opened
