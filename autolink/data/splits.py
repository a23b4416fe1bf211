"""Parts of a data set, and what in it belongs together: one rule for all data that have no rule of their own.

Parts. A folder with `train/` (or `training/`) and `val/` (or `valid/`, `validation/`, `test/`, `testing/`), in any
capitalisation, is divided by those. Of any other folder a tenth is held out as "val", the same on every machine (by a
hash of names), and "train" is the rest. "fit", the part on which evaluation fits its linear map, is "train"; some
benchmarks have a part of its own. "all" is what is not divided.

Clips. Pictures of one sub-folder are one clip; of a sub-folder with several numbered series (`walk_001.png`,
`run_001.png`, …) each series is. Numbered pictures that lie together directly in the folder are *no* clip: they may be
photographs (`IMG_0001.jpg`) of different individuals, which must not be taken for one. Whoever has frames gives each
clip a sub-folder. Every video is a clip.

What is held out together. Where there are ten clips or series or more, whole ones are held out, since frames of one
would be nearly the same images on both sides; of fewer, single images are.

People. Where every file of a set with landmarks is named like `First_Last_VS.jpg` or `First_Last_tVS.jpg` (one digit
for the clip V, one for the frame S, as in frames taken from YouTube Faces), the clip is `First_Last_V`, and whole
people are held out. So they are where a folder of videos has a `people.csv` that says who is in which of them, a line
`clip,person` each after a header of these words; a video that it does not name shows somebody of its own.
"""

from __future__ import annotations

import csv
import hashlib
import os
import re
from collections import Counter
from collections.abc import Container, Sequence
from pathlib import Path, PurePosixPath

from autolink.errors import UserError

ENOUGH = 10
"""Of so many clips, series or videos whole ones are held out."""
SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "fit": ("train", "training"),
    "val": ("val", "valid", "validation", "test", "testing"),
    "test": ("test", "testing", "val", "valid", "validation"),
    "all": (),
}
PEOPLE = "people.csv"
"""The file in a folder of videos that says who is in them."""
_PERSON_CLIP_FRAME = re.compile(r"(?P<person>[^\W\da-z_]\D*_[^\W\da-z_][^\d_]*)_t?(?P<clip>\d)\d")


def check_split(split: str) -> None:
    """Refuse a word that is no split.

    Raises:
        UserError: it is none.
    """
    if split not in SPLIT_FOLDERS:
        raise UserError(f"split {split!r} is unknown; expected one of {', '.join(SPLIT_FOLDERS)}")


def split_folder(root: Path, split: str) -> Path | None:
    """The sub-folder that holds a split, or None if the folder is not divided into splits.

    Raises:
        UserError: an unknown split, or two sub-folders of one name in different capitalisation.
    """
    check_split(split)
    folders: dict[str, Path] = {}
    known = {name for names in SPLIT_FOLDERS.values() for name in names}
    for entry in named(root, known):
        path = root / entry
        if path.is_dir():
            if entry.lower() in folders:
                twice = folders[entry.lower()].name
                raise UserError(f"{root}: has {twice} and {entry}; keep one of them, or join them")
            folders[entry.lower()] = path

    def first(split: str) -> Path | None:
        return next((folders[name] for name in SPLIT_FOLDERS[split] if name in folders), None)

    return first(split) if first("train") and first("val") else None


def named(folder: Path, names: Container[str]) -> list[str]:
    """What in a folder, which may hold very many files, has one of some names in lower case, in any capitalisation."""
    return sorted(name for name in os.listdir(folder) if name.lower() in names) if folder.is_dir() else []


def split_side(root: Path, files: Sequence[str], indices: Sequence[int], split: str, people: bool = False) -> list[int]:
    """Which of some files of a folder without splits of its own belong to a split (see the module's text).

    Args:
        root: the folder, for the message.
        files: all files, relative to it.
        indices: the files to choose from.
        split: "train", "fit", "val", "test" or "all".
        people: whether names may say who is shown, as in sets with landmarks.

    Raises:
        UserError: none does.
    """
    if split == "all":
        return list(indices)
    held_out = hold_out(_held_out_together([files[i] for i in indices], people))
    side = [i for i, held in zip(indices, held_out, strict=True) if held == held_out_split(split)]
    if not side:
        raise UserError(f"{root}: holds one image, too few to hold any out for {split!r}")
    return side


def held_out_split(split: str) -> bool:
    """Whether a split is a held-out one."""
    return split not in ("train", "fit")


def hold_out(units: Sequence[str]) -> list[bool]:
    """Which items to keep from training: those of a tenth of the units (file or clip names), chosen by hash.

    All items of a unit go to the same side. Of two units or more at least one is held out.
    """

    def rank(unit: str) -> bytes:
        return hashlib.blake2b(unit.encode("utf-8", "surrogateescape")).digest()

    ranked = sorted(set(units), key=rank)
    count = max(1, round(len(ranked) / 10)) if len(ranked) > 1 else 0
    held = set(ranked[len(ranked) - count :])
    return [unit in held for unit in units]


def people_in(root: Path, videos: Sequence[str]) -> dict[str, str] | None:
    """Who is in each of some videos, relative to a folder, by its `people.csv`; None if it has none.

    Raises:
        UserError: the file is not in the format (see the module's text), or names a video that is not there.
    """
    path = root / PEOPLE
    if not path.is_file():
        return None
    with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        try:
            header, *lines = [line for line in csv.reader(file) if line] or [[]]
        except csv.Error as error:
            raise UserError(f"{path}: is not a csv file ({error})") from error
    if [field.strip() for field in header] != ["clip", "person"] or any(len(line) != 2 for line in lines):
        raise UserError(f"{path}: expected a header 'clip,person' and two fields in each line after it")
    known = {clip.strip().replace("\\", "/"): person.strip() for clip, person in lines}
    for clip in known:
        if not (root / clip).is_file():
            raise UserError(f"{path}: names {clip!r}, which is no file in {root}; mend or remove the line")
    return {video: known.get(video) or video for video in videos}


def clips_of(files: Sequence[str], folder: str | None = None, people: bool = False) -> list[str]:
    """The clip of each file as far as names tell, "" if unknown (see the module's text).

    Args:
        files: paths with forward slashes.
        folder: the sub-folder with a split that they all lie in, if they do; it says nothing of clips.
        people: whether names may say who is shown, as in sets with landmarks.
    """
    named = _people(files) if people else None
    if named is not None:
        return [f"{person}_{clip}" for person, clip in named]
    together = "" if folder is None else folder
    return ["" if _folder(file) == together else series for file, series in zip(files, series_of(files), strict=True)]


def series_of(files: Sequence[str]) -> list[str]:
    """What each file may be one of many of: its numbered series if others are of it, else its folder.

    Pictures of a series may resemble each other, so an error measured on one says little about the others; they need
    not be of one individual, see `clips_of`.
    """
    families = [_family(file) for file in files]
    shared = Counter(families)
    return [family if shared[family] > 1 else _folder(file) for file, family in zip(files, families, strict=True)]


def _held_out_together(files: Sequence[str], people: bool) -> list[str]:
    """To which unit each file belongs, of which whole ones are held out."""
    named = _people(files) if people else None
    if named is not None:
        coarsest = ([person for person, _ in named], [f"{person}_{clip}" for person, clip in named])
        return next((units for units in coarsest if len(set(units)) > 1), list(files))
    series = series_of(files)
    return [one or file for one, file in zip(series, files)] if len(set(series)) >= ENOUGH else list(files)


def people_of(files: Sequence[str]) -> list[str] | None:
    """The person in each file of a set with landmarks, if all names say it."""
    named = _people(files)
    return None if named is None else [person for person, _ in named]


def _people(files: Sequence[str]) -> list[tuple[str, str]] | None:
    """Person and clip of each file, if all names say them."""
    matches = [_PERSON_CLIP_FRAME.fullmatch(PurePosixPath(file).stem) for file in files]
    return [(match["person"], match["clip"]) for match in matches if match] if all(matches) else None


def _folder(file: str) -> str:
    parent = PurePosixPath(file).parent.as_posix()
    return "" if parent == "." else parent


def _family(file: str) -> str:
    path = PurePosixPath(file)
    stem = path.stem.rstrip("0123456789").rstrip("_-. ")
    # A name that is nothing but a number says nothing about its clip; its folder does.
    return f"{_folder(file)}/{stem}".lstrip("/") if stem else _folder(file)
