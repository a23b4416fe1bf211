"""Image files as a data set: any folder of images, nested, of mixed sizes and kinds; `splits.py` has its parts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from autolink.data.sample import Sample
from autolink.data.splits import clips_of, split_folder, split_side
from autolink.errors import UserError
from autolink.files import STILLS, Kind, list_files, no_media
from autolink.images import Box, cut_box, load_square, why_unreadable

logger = logging.getLogger(__name__)


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
        people: who each file shows; if not given, somebody of its own in each clip.
        landmark_names: of the L landmarks, if the data say.
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
        people: Sequence[str] | None = None,
        landmark_names: Sequence[str] = (),
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
        self.people = list(people) if people is not None else self.clips
        self.landmark_names = tuple(landmark_names)

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
            people=[self.people[i] for i in kept],
            landmark_names=self.landmark_names,
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
        root: the folder; see `splits.py` for how it is split and how clips are recognised.
        image_size: side of the square images in pixels.
        split: "train", "fit", "val" or "test".
        name: what to call the data set; the folder's name if not given.

    Raises:
        UserError: no folder, no images in it, or none that can be read.
    """
    files, folder = split_files(root, split)
    clips = clips_of(files, folder)
    kept = keep_readable(root, files)
    if folder is None:
        kept = split_side(root, files, kept, split)
    return ImageFiles(name or root.resolve().name, root, files, image_size, clips=clips).only(kept)


def split_files(root: Path, split: str, kinds: tuple[Kind, ...] = STILLS) -> tuple[list[str], str | None]:
    """The files of some kinds in a folder, and the name of the sub-folder that makes the split, if one does.

    Raises:
        UserError: no folder, or no such file in it.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder" if not root.exists() else f"{root}: is a file, not a folder")
    folder = split_folder(root, split)
    files = list_files(root, folder or root, kinds)
    if not files:
        raise no_media(folder or root, kinds)
    return files, None if folder is None else folder.name


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
