"""Image files as a data set: any folder of images, nested, of mixed sizes and kinds.

Splits. A folder with `train/` and `val/` (or `valid/`, `validation/`, `test/`) is split by those. Any other
folder is split here: a tenth of the files, or of the clips if there are ten or more, is held out as "val", the
same on every machine (by a hash of their names), and "train" is the rest.

"fit", the part on which evaluation fits its linear map, is "train" here; some benchmarks have a part of its own.

Clips. Images in one folder whose names differ only in trailing digits (`walk_001.png`, `walk_002.png`) are
one clip, `walk`; if a name has no such siblings, its sub-folder is the clip, and directly in the root its
clip is unknown.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch.utils.data import Dataset

from autolink.data.sample import Sample
from autolink.errors import UserError
from autolink.images import IMAGE_SUFFIXES, Box, cut_box, load_square, why_unreadable

logger = logging.getLogger(__name__)

ENOUGH_CLIPS = 10

SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "fit": ("train", "training"),
    "val": ("val", "valid", "validation", "test"),
    "test": ("test", "val", "valid", "validation"),
}


class ImageFiles(Dataset[Sample]):
    """Image files of one root, each cut to its centred square or to a box.

    Args:
        name: what to call the data set.
        root: folder that the file names start from.
        files: paths relative to the root, with forward slashes.
        image_size: side of the square images in pixels.
        clips: clip of each file; unknown if not given.
        landmarks: (N, L, 2) pixels of the image file; pixel i spans [i, i + 1). NaN where unlabelled.
        sizes: (N, 2) width and height of the image that the landmarks were measured in, if it may differ from
            the file's; NaN where it does not.
        names: what to call each sample; the file if not given.
        boxes: (N, 4) left, top, right and bottom of what is cut out of each image, in pixels of the upright image.
            Of a box that reaches beyond its image the part inside is taken. It is stretched to the square.
        mirrored: (N,) which images are mirrored left to right after that, and their landmarks with them.
    """

    def __init__(
        self,
        name: str,
        root: Path,
        files: Sequence[str],
        image_size: int,
        clips: Sequence[str] | None = None,
        landmarks: np.ndarray | None = None,
        sizes: np.ndarray | None = None,
        names: Sequence[str] | None = None,
        boxes: np.ndarray | None = None,
        mirrored: np.ndarray | None = None,
    ):
        self.name = name
        self.root = root
        self.files = list(files)
        self.image_size = image_size
        self.clips = list(clips) if clips is not None else [""] * len(self.files)
        self.landmarks = landmarks if landmarks is not None else np.zeros((len(self.files), 0, 2), np.float32)
        self.sizes = sizes
        self.names = list(names) if names is not None else self.files
        self.landmark_count = self.landmarks.shape[1]
        self.boxes = boxes
        self.mirrored = mirrored

    def only(self, kept: Sequence[int]) -> ImageFiles:
        """The set of the files at these indices, in their order."""

        def part(rows: np.ndarray | None) -> np.ndarray | None:
            return None if rows is None else rows[list(kept)]

        return ImageFiles(
            self.name,
            self.root,
            [self.files[i] for i in kept],
            self.image_size,
            clips=[self.clips[i] for i in kept],
            landmarks=part(self.landmarks),
            sizes=part(self.sizes),
            names=[self.names[i] for i in kept],
            boxes=part(self.boxes),
            mirrored=part(self.mirrored),
        )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        path = self.root / self.files[index]
        box = None if self.boxes is None else tuple(self.boxes[index].tolist())
        image, shown_size = load_square(path, self.image_size, box)
        landmarks = self._in_square(index, cut_box(*shown_size, box), shown_size)
        if self.mirrored is not None and self.mirrored[index]:
            image, landmarks = image[:, ::-1].copy(), landmarks * np.array([-1, 1], np.float32)
        return Sample(
            image=torch.from_numpy(image).permute(2, 0, 1).contiguous(),
            landmarks=torch.from_numpy(landmarks),
            name=self.names[index],
            clip=self.clips[index],
        )

    def _in_square(self, index: int, cut: Box, shown_size: tuple[int, int]) -> np.ndarray:
        """(L, 2) landmarks of one file in the frame of its square, -1 and +1 at the edges of what was cut."""
        points = self.landmarks[index].astype(np.float64)
        if self.sizes is not None and not np.isnan(self.sizes[index]).any():
            points = points * (np.asarray(shown_size) / self.sizes[index])
        corner, opposite = np.array(cut[:2]), np.array(cut[2:])
        return ((points - corner) / (opposite - corner) * 2 - 1).astype(np.float32)


def open_folder(root: Path, image_size: int, split: str = "train", name: str | None = None) -> ImageFiles:
    """Any folder of images.

    Args:
        root: the folder; see the module's text for how it is split and how clips are recognised.
        image_size: side of the square images in pixels.
        split: "train", "fit", "val" or "test".
        name: what to call the data set; the folder's name if not given.

    Raises:
        UserError: no folder, no images in it, or none that can be read.
    """
    files, given = split_files(root, split)
    clips = clips_by_name(files)
    kept = keep_readable(root, files)
    if not given:
        kept = split_side(root, files, clips, kept, split)
    return ImageFiles(name or root.resolve().name, root, files, image_size, clips=clips).only(kept)


def split_folder(root: Path, split: str) -> Path | None:
    """The sub-folder that holds a split, or None if the folder is not divided into splits.

    Raises:
        UserError: an unknown split.
    """
    if split not in SPLIT_FOLDERS:
        raise UserError(f"split {split!r} is unknown; expected one of {', '.join(SPLIT_FOLDERS)}")

    def first(candidates: Sequence[str]) -> Path | None:
        return next((root / folder for folder in candidates if (root / folder).is_dir()), None)

    divided = first(SPLIT_FOLDERS["train"]) and first(SPLIT_FOLDERS["val"])
    return first(SPLIT_FOLDERS[split]) if divided else None


def split_files(root: Path, split: str, suffixes: frozenset[str] = IMAGE_SUFFIXES) -> tuple[list[str], bool]:
    """The files of a folder with one of the suffixes, and whether its sub-folders made the split.

    Raises:
        UserError: no folder, or no such file in it.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder" if not root.exists() else f"{root}: is a file, not a folder")
    folder = split_folder(root, split)
    files = list_files(root, folder or root, suffixes)
    if not files:
        found = next(_walk(folder or root), None)
        holds = "is empty" if found is None else f"holds no images (but {found.name}, for instance)"
        known = ", ".join(sorted(suffix[1:] for suffix in suffixes))
        raise UserError(f"{folder or root}: {holds}; expected files of these kinds: {known}")
    return files, folder is not None


def list_files(root: Path, folder: Path, suffixes: frozenset[str]) -> list[str]:
    """Sorted paths, relative to `root`, of the files below `folder` that have one of the suffixes."""
    return sorted(p.relative_to(root).as_posix() for p in _walk(folder) if p.suffix.lower() in suffixes)


def _walk(folder: Path) -> Iterator[Path]:
    """Files below a folder; follows links, but not in circles, and leaves out what is hidden."""
    seen = set()
    for here, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(here)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f != "__MACOSX")
        yield from (Path(here, name) for name in sorted(names) if not name.startswith("."))


def keep_readable(root: Path, files: Sequence[str]) -> list[int]:
    """Indices of the files that look readable; a warning names each of the others, once a process.

    Raises:
        UserError: none is.
    """
    keys = [_file_key(root / file) for file in files]
    new = [key for key in keys if key not in _checked]
    # Threads, because the time goes into waiting for the disk or the network.
    with ThreadPoolExecutor(max_workers=8) as pool:
        _checked.update(zip(new, pool.map(lambda key: why_unreadable(key[0]), new), strict=True))
    for key in new:
        if _checked[key] is not None:
            logger.warning("skipped %s: %s", key[0], _checked[key])
    readable = [i for i, key in enumerate(keys) if _checked[key] is None]
    if not readable:
        first = f"{files[0]}: {_checked[keys[0]]}"
        raise UserError(f"{root}: none of its {len(files)} image file(s) can be read ({first})")
    return readable


# What is known of files in the state that they were seen in: a run opens a folder twice, for two splits.
_checked: dict[tuple[str, int, int], str | None] = {}


def _file_key(path: Path) -> tuple[str, int, int]:
    try:
        stat = path.stat()
    except OSError:  # a link to nowhere; the check will say so
        return str(path), -1, -1
    return str(path), stat.st_size, stat.st_mtime_ns


def split_side(root: Path, files: Sequence[str], clips: Sequence[str], indices: Sequence[int], split: str) -> list[int]:
    """Which of some files of a folder without splits of its own belong to a split (see the module's text).

    Args:
        root: the folder, for the message.
        files: all files.
        clips: clip of each of them.
        indices: the files to choose from.
        split: "train", "fit", "val" or "test".

    Raises:
        UserError: none does.
    """
    # Enough clips are held out as wholes: frames of one clip on both sides would be nearly the same images, and
    # what learns from pairs needs two frames of a clip on each.
    whole = len(set(clips)) >= ENOUGH_CLIPS
    units = [clip or file for clip, file in zip(clips, files, strict=True)] if whole else files
    return one_side(root, indices, units, split)


def one_side(root: Path, indices: Sequence[int], units: Sequence[str], split: str) -> list[int]:
    """Of some files those that are held out, or those that are not if `split` is "train" or "fit".

    Args:
        root: the folder, for the message.
        indices: the files.
        units: to which unit each of *all* files belongs, see `hold_out`.
        split: which side.

    Raises:
        UserError: nothing is on that side.
    """
    held_out = hold_out([units[i] for i in indices])
    side = [i for i, held in zip(indices, held_out, strict=True) if held == held_out_split(split)]
    if not side:
        raise UserError(f"{root}: holds one image or clip, too few to hold any out for {split!r}")
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


def clips_by_name(files: Sequence[str]) -> list[str]:
    """The clip of each file, guessed from its name and folder (see the module's text)."""
    families = [_family(file) for file in files]
    shared = Counter(families)
    return [family if shared[family] > 1 else _folder(file) for file, family in zip(files, families, strict=True)]


def _folder(file: str) -> str:
    parent = PurePosixPath(file).parent.as_posix()
    return "" if parent == "." else parent


def _family(file: str) -> str:
    path = PurePosixPath(file)
    stem = path.stem.rstrip("0123456789").rstrip("_-. ")
    # A name that is nothing but a number says nothing about its clip; its folder does.
    return f"{_folder(file)}/{stem}".lstrip("/") if stem else _folder(file)
