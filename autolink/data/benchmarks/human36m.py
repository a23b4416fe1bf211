"""Human3.6M: six activities of people in a laboratory, with 32 joints, with and without background.

Layout: for each subject `S1/Videos/*.mp4`, `S1/MyPoseFeatures/D2_Positions/*.cdf` and, for the variant without
background, `S1/MySegmentsMat/ground_truth_bs/*.mat`, all named like `Directions 1.54138969` (activity, take, camera).
Subjects 1, 5, 6, 7, 8 and 9 are to learn and to fit on, subject 11 is to judge on. Every frame with joints is taken,
cut once, and kept (`autolink.data.clips`). Without background, mid-grey shows outside the owners' masks.

The crop is a rule of this project: the square around the joints with a margin of a tenth on each side, moved into the
frame where it reaches beyond. The images that the paper used, of Zhang et al. (CVPR 2018), were cut by a rule that is
not published, so scores compare to published ones only as far as that rule was like this one. Joints are read as pixels
from the top left corner of the frame.

N frames, L = 32 joints, H W pixels of a frame.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
from PIL import Image

from autolink.data.benchmarks.benchmark import Benchmark, needs
from autolink.data.cache import cache_folder, fingerprint
from autolink.data.clips import Cut, decode_all
from autolink.data.folder import ImageFiles
from autolink.data.splits import held_out_split
from autolink.errors import UserError
from autolink.images import TRANSPARENT, square

SUBJECTS = {"train": (1, 5, 6, 7, 8, 9), "test": (11,)}
FRAME_SIDE = 1000
"""Pixels that each camera shows at least: 1000 × 1000 or 1000 × 1002."""
JOINTS = 32

_VIDEO = re.compile(r"(Directions|Discussion|Greeting|Posing|Waiting|Walking)( \d+)?\.\d{8}\.mp4")
_POSES, _MASKS = "MyPoseFeatures/D2_Positions", "MySegmentsMat/ground_truth_bs"
_SUFFIXES = {_POSES: ".cdf", _MASKS: ".mat"}
_EXTENT = 1.2  # of the square, in that of the joints
_RULE = "1"  # of what is cut; a change makes all frames again


def person_boxes(poses: np.ndarray) -> np.ndarray:
    """Squares around people: joints (N, L, 2) in pixels → left, top, right, bottom (N, 4), within the frame."""
    low, high = poses.min(1), poses.max(1)
    side = np.minimum((high - low).max(1, keepdims=True) * _EXTENT, FRAME_SIDE)
    corner = np.clip((low + high - side) / 2, 0, FRAME_SIDE - side)
    return np.hstack([corner, corner + side])


def read_poses(path: Path) -> np.ndarray:
    """Joints in all frames of a video from the owners' file: (N, L, 2) float32 in pixels.

    Raises:
        UserError: cdflib is not installed, or the file is damaged.
    """
    cdflib = _library("cdflib")
    try:
        return np.asarray(cdflib.CDF(path).varget("Pose"), np.float32).reshape(-1, JOINTS, 2)
    except (OSError, ValueError, LookupError, struct.error, zlib.error) as error:
        raise UserError(f"{path}: cannot be read as a CDF file with 'Pose' ({error}); get it again") from error


@contextmanager
def open_masks(path: Path) -> Iterator[Callable[[int], np.ndarray | None]]:
    """From the number of a frame to its mask, (H, W) bool and true where the person is; None after the last one.

    Raises:
        UserError: h5py is not installed, or the file is damaged.
    """
    h5py = _library("h5py")

    def damaged(error: Exception) -> UserError:
        return UserError(f"{path}: cannot be read as a Matlab 7.3 file with 'Masks' ({error}); get it again")

    def read(number: int) -> np.ndarray | None:
        try:
            return file[masks[number, 0]][()].T > 0 if number < len(masks) else None
        except (OSError, ValueError, LookupError) as error:
            raise damaged(error) from error

    try:
        file = h5py.File(path)
        masks = file["Masks"]
    except (OSError, LookupError) as error:
        raise damaged(error) from error
    with file:
        yield read


def _open(name: str, background: bool, root: Path, image_size: int, split: str) -> ImageFiles:
    videos = _videos(root, SUBJECTS["test" if held_out_split(split) else "train"])
    poses = {video: read_poses(_beside(root, video, _POSES)) for video in videos}
    folders = {video: _cache_name(root, video, background, image_size) for video in videos}

    def cutter(video: str) -> AbstractContextManager[Cut]:
        masks = None if background else _beside(root, video, _MASKS)
        return _cutter(root / video, poses[video], masks, image_size)

    files, names, clips, joints = [], [], [], []
    for video, frames in decode_all(root, folders, cutter).items():
        shown = poses[video][[int(Path(frame).stem) for frame in frames]]
        boxes = person_boxes(shown)[:, None]
        joints.append((shown - boxes[..., :2]) / (boxes[..., 2:] - boxes[..., :2]) * image_size)
        files += [f"{folders[video]}/{frame}" for frame in frames]
        names += [f"{video}/{frame}" for frame in frames]
        clips += [video] * len(frames)
    landmarks = np.concatenate(joints)
    return ImageFiles(name, cache_folder("frames"), files, image_size, clips=clips, landmarks=landmarks, names=names)


@contextmanager
def _cutter(video: Path, poses: np.ndarray, masks: Path | None, image_size: int) -> Iterator[Cut]:
    """What cuts the person out of the frames of one video, with or without what is around."""
    boxes = person_boxes(poses)

    def person(number: int, frame: np.ndarray) -> Image.Image | None:
        height, width = frame.shape[:2]
        if min(height, width) < FRAME_SIDE:
            raise UserError(f"{video}: is {width} x {height} pixels; expected the owners' 1000 x 1000 or 1000 x 1002")
        if number >= len(boxes):
            return None
        return square(Image.fromarray(frame), image_size, tuple(boxes[number].tolist()))

    if masks is None:
        yield person
        return
    with open_masks(masks) as mask_of:

        def person_alone(number: int, frame: np.ndarray) -> Image.Image | None:
            mask = mask_of(number)
            if mask is None:
                return None
            if mask.shape != frame.shape[:2]:
                raise UserError(f"{masks}: masks are {mask.shape}, frames {frame.shape[:2]}; get both again")
            return person(number, np.where(mask[..., None], frame, np.array(TRANSPARENT, np.uint8)))

        yield person_alone


def _videos(root: Path, subjects: Sequence[int]) -> list[str]:
    """The videos of the six activities, relative to the root."""
    videos = []
    for subject in subjects:
        folder = f"S{subject}/Videos"
        found = sorted(file.name for file in (root / folder).iterdir() if _VIDEO.fullmatch(file.name))
        if not found:
            raise UserError(f"{root / folder}: has no video like 'Directions 1.54138969.mp4'; unpack Videos_S{subject}")
        videos += [f"{folder}/{video}" for video in found]
    return videos


def _beside(root: Path, video: str, folder: str) -> Path:
    """What the owners say of a video in another folder of its subject."""
    subject, _, name = video.split("/")
    path = root / subject / folder / (name.removesuffix(".mp4") + _SUFFIXES[folder])
    if not path.is_file():
        raise UserError(f"{path}: is missing; unpack all of {folder}")
    return path


def _cache_name(root: Path, video: str, background: bool, image_size: int) -> str:
    """Changes whenever what is cut would."""
    sources = [root / video, _beside(root, video, _POSES), *([] if background else [_beside(root, video, _MASKS)])]
    stats = [(path.resolve(), path.stat().st_size, path.stat().st_mtime_ns) for path in sources]
    return fingerprint("human36m", _RULE, image_size, *stats)


def _library(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        raise UserError(
            f"Human3.6M needs {name} to be read; install it with `pip install autolink-graph[human36m]`"
        ) from error


def _needs(*folders: str) -> Callable[[Path], str | None]:
    """Of each subject, some folders."""
    return needs(*(f"S{subject}/{folder}" for part in SUBJECTS.values() for subject in part for folder in folders))


_human36m = partial(
    Benchmark,
    source="http://vision.imar.ro/human3.6m (for each subject Videos, Poses D2 Positions and Segments GT BS MAT)",
    terms="academic research only, after registration, no redistribution",
    keypoints=16,
    protocol="h36m",
    folders=("human36m", "Human3.6M", "h36m", "Human36M"),
)

HUMAN36M = _human36m(
    name="human36m",
    shows="people in a laboratory with 32 joints",
    layout=f"S1/Videos/*.mp4 and S1/{_POSES}/*.cdf, and so on for subjects 5, 6, 7, 8, 9 and 11",
    open=partial(_open, "human36m", True),
    missing=_needs("Videos", _POSES),
    crop="the square around the joints with a margin of 10 % on each side",
    flip=True,
)

HUMAN36M_ALONE = _human36m(
    name="human36m-nobg",
    shows="people in a laboratory with 32 joints, grey around them",
    layout=f"S1/Videos/*.mp4, S1/{_POSES}/*.cdf and S1/{_MASKS}/*.mat, and so on for subjects 5, 6, 7, 8, 9 and 11",
    open=partial(_open, "human36m-nobg", False),
    missing=_needs("Videos", _POSES, _MASKS),
    crop="the square around the joints with a margin of 10 % on each side, mid-grey outside the owners' masks",
    tuned={2: 1e-2, 4: 1e-2, 8: 7.5e-5, 16: 5e-5, 32: 1e-5},
)
