"""TaiChi-HD: people performing Tai-Chi, from YouTube, with 18 joints in the images to evaluate on.

AutoLink learns from the frames of the training videos, as the owners' loading script leaves them: `train/*.mp4`, or a
folder of `.png` frames of that name for each video. The 5,000 images to fit on and the 300 to judge on, with joints,
come with later work of the owners (Siarohin et al., "Motion-supervised Co-Part Segmentation"). They do not say who or
what found the joints; a coordinate of −1 is unknown. Joints are read as pixels of a 256 × 256 image from its top left
corner. Whether a pixel's number means its edge or its centre is not said either; that is 0.2 % of the side, and without
effect on the published score, whose map has a bias.

Videos and images to evaluate on may be there without each other. L = 18 joints.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

import numpy as np

from autolink.data.benchmarks.benchmark import Benchmark, lacking, require_images, required
from autolink.data.benchmarks.pickled_table import read_pickled_points
from autolink.data.clips import frames_of
from autolink.data.folder import ImageFiles
from autolink.errors import UserError
from autolink.files import MOVING, STILLS, list_files

_EVALUATION = ("eval_images/taichi-256", "taichi-256")
_VIDEO_PARTS = {"train": "train", "val": "test"}
_IMAGE_PARTS = {"fit": "train", "test": "test"}
_CHUNK = re.compile(r".+#\d{6,}#\d{6,}\.mp4")  # a video, or the folder of its frames, as the script names it


def _joints(part: str) -> tuple[str, str]:
    return f"landmarks/taichi_{part}_gt.pkl", f"landmark/taichi_{part}_gt.pkl"


def _missing_videos(root: Path) -> str | None:
    for part in _VIDEO_PARTS.values():
        if not (root / part).is_dir() or not any(_CHUNK.fullmatch(name) for name in os.listdir(root / part)):
            return f"no {part} with videos, or folders of frames, named like 'ID#000000#000201.mp4'"
    return None


def _missing_images(root: Path) -> str | None:
    return lacking(root, _EVALUATION, *(_joints(part) for part in _IMAGE_PARTS.values()))


def _missing(root: Path) -> str | None:
    videos = _missing_videos(root)
    return videos if videos is not None and _missing_images(root) is not None else None


def _open(root: Path, image_size: int, split: str) -> ImageFiles:
    lack = (_missing_videos if split in _VIDEO_PARTS else _missing_images)(root)
    if lack is not None:
        raise UserError(f"taichi: {root} has {lack}, needed for {split!r}; get it from {_SOURCE}")
    if split in _VIDEO_PARTS:
        return _open_videos(root, _VIDEO_PARTS[split], image_size)
    return _open_images(root, _IMAGE_PARTS[split], image_size)


def _open_videos(root: Path, part: str, image_size: int) -> ImageFiles:
    videos = list_files(root, root / part, MOVING)
    if videos:
        return frames_of("taichi", root, videos, image_size)
    frames = list_files(root, root / part, STILLS)
    if not frames:
        raise UserError(f"{root / part}: its folders hold no frames; expected folders of .png, or videos")
    clips = [PurePosixPath(frame).parent.as_posix() for frame in frames]
    return ImageFiles("taichi", root, frames, image_size, clips=clips)


def _open_images(root: Path, part: str, image_size: int) -> ImageFiles:
    folder = required(root, *_EVALUATION) / part
    points = read_pickled_points(required(root, *_joints(part)))
    files = sorted(points)
    require_images(folder, files)
    joints = np.stack([points[file] for file in files])
    joints[joints == -1] = np.nan
    sizes = np.full((len(files), 2), 256.0)
    return ImageFiles("taichi", folder, files, image_size, landmarks=joints.astype(np.float32), sizes=sizes)


_SOURCE = (
    "https://github.com/AliaksandrSiarohin/video-preprocessing (videos: load_videos.py --metadata taichi-metadata.csv) "
    "and https://github.com/AliaksandrSiarohin/motion-cosegmentation (eval_images.tar.gz and landmarks/)"
)

TAICHI = Benchmark(
    name="taichi",
    shows="people performing Tai-Chi, with 18 joints",
    layout="train and test with videos or folders of frames named like ID#000000#000201.mp4; "
    "eval_images/taichi-256/train and test with images, and landmarks/taichi_train_gt.pkl and taichi_test_gt.pkl",
    source=_SOURCE,
    terms="none stated; the videos belong to their makers on YouTube",
    open=_open,
    missing=_missing,
    crop="all of it, the owners' script cuts a square around the person",
    keypoints=10,
    tuned={2: 1e-2, 4: 2.5e-3, 8: 7.5e-3, 16: 2.5e-3, 32: 5e-4},
    flip=True,
    protocol="taichi",
    folders=("taichi-png", "taichi-256", "TaiChiHD"),
)
