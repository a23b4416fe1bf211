"""Videos as a data set of their frames; each video is one clip.

The frames are decoded once, cut to the square that the networks see, and kept as JPEG (quality 95, full
colour) in `$AUTOLINK_CACHE/frames`, by default `~/.cache/autolink/frames`: one folder for each video and
size, made again when the video changes. From there on they are images like any others.

Splits: `train/` and `val/` if the folder has them; else a tenth of the videos is "val" (of the people, where a
`people.csv` says who they are, see `splits.py`), or, of fewer than ten videos, the last tenth of each.
"""

from __future__ import annotations

import logging
import os
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
from PIL import Image

from autolink.data.cache import cache_folder, fingerprint, unwritable
from autolink.data.folder import ImageFiles, split_files
from autolink.data.splits import ENOUGH, held_out_split, hold_out, people_in
from autolink.errors import UserError
from autolink.files import MOVING
from autolink.images import square
from autolink.progress import Bar
from autolink.video import open_frames

logger = logging.getLogger(__name__)

_COUNT = "count"  # the file, beside frames, that says how many there are
_LAYOUT = "1"  # of the cached files; a change makes all of them again

Cut = Callable[[int, np.ndarray], Image.Image | None]
"""From number and (H, W, 3) uint8 pixels of a frame to the square to keep, or None to leave the frame out."""


def open_clips(path: Path, image_size: int, split: str = "train", name: str | None = None) -> ImageFiles:
    """A folder of videos, or one video.

    Args:
        path: the folder or the file.
        image_size: side of the square images in pixels.
        split: "train", "fit", "val" or "test".
        name: what to call the data set; the name of the folder or file if not given.

    Raises:
        UserError: nothing there, no videos, none that can be read, or the cache cannot be written.
    """
    if path.is_file():
        root, videos, given = path.parent, [path.name], None
    else:
        root, (videos, given) = path, split_files(path, split, MOVING)
    people = people_in(root, videos) if path.is_dir() else None
    shown = videos if people is None else [people[video] for video in videos]
    whole = given is not None or len({*shown}) >= (ENOUGH if people is None else 2)
    if whole and given is None:
        held_out = hold_out(shown)
        videos = [video for video, held in zip(videos, held_out, strict=True) if held == held_out_split(split)]
    frames = frames_of(name or path.resolve().stem, root, videos, image_size, None if whole else split)
    if people is not None:
        frames.people = [people[clip] for clip in frames.clips]
    return frames


def frames_of(
    name: str, root: Path, videos: Sequence[str], image_size: int, split: str | None = None, step: int = 1
) -> ImageFiles:
    """The frames of some videos, which are decoded unless they were before.

    Args:
        name: what to call the data set.
        root: folder that the names of the videos start from.
        videos: paths relative to the root; each is a clip.
        image_size: side of the square images in pixels.
        split: the part of each video to take, the last tenth being held out; all of it if not given.
        step: every how many frames one is taken.

    Raises:
        UserError: none of the videos can be read, or the cache cannot be written.
    """
    cache = cache_folder("frames")
    files, names, clips = [], [], []

    def cut(number: int, frame: np.ndarray) -> Image.Image | None:
        return square(Image.fromarray(frame), image_size) if number % step == 0 else None

    folders = {video: _cache_name(root / video, image_size, step) for video in videos}
    for video, frames in decode_all(root, folders, lambda _: nullcontext(cut)).items():
        if split is not None:
            held = max(2, round(len(frames) / 10)) if len(frames) > 3 else len(frames) // 2  # two make a pair
            border = len(frames) - held
            frames = frames[border:] if held_out_split(split) else frames[:border]
        files += [f"{folders[video]}/{frame}" for frame in frames]
        names += [f"{video}/{frame}" for frame in frames]
        clips += [video] * len(frames)
    if not files:
        raise UserError(f"{root}: one frame a video, too few to hold any out for {split!r}")
    return ImageFiles(name, cache, files, image_size, clips=clips, names=names)


def decode_all(
    root: Path, videos: Mapping[str, str], cutter: Callable[[str], AbstractContextManager[Cut]]
) -> dict[str, list[str]]:
    """Keeps what is cut out of the frames of some videos, as `NUMBER.jpg` with the number of the frame.

    Args:
        root: folder that the names of the videos start from.
        videos: for each, the folder below the cache of frames to keep it in, named by a hash of what it is made from;
            a video whose folder is there, with all frames, is left alone.
        cutter: from a video to what cuts its frames, as a context that may hold files open.

    Returns:
        The videos that could be read, each with the names of its frames in order; a warning names each of the others.

    Raises:
        UserError: none of the videos can be read, or the cache cannot be written.
    """
    cache, read, reasons = cache_folder("frames"), {}, []
    for number, (video, folder) in enumerate(videos.items(), 1):
        frames = _kept(cache / folder)
        if frames is None:
            try:
                with cutter(video) as cut:
                    _decode(root / video, cache / folder, f"{video} ({number}/{len(videos)})", cut)
                frames = _kept(cache / folder) or []
            except UserError as error:
                logger.warning("skipped %s", error)
                reasons.append(str(error))
                continue
            except OSError as error:
                raise unwritable(cache, error) from error
        read[video] = frames
    if not read:
        raise UserError(f"{root}: none of its {len(videos)} video(s) can be read; {reasons[0]}")
    return read


def _kept(folder: Path) -> list[str] | None:
    """Names of the frames in a folder in order, or None unless all are there: what cleans caches takes single files."""
    try:
        count = int((folder / _COUNT).read_text())
        frames = sorted(name for name in os.listdir(folder) if name.endswith(".jpg"))
    except (OSError, ValueError):
        return None
    return frames if len(frames) == count else None


def _cache_name(video: Path, image_size: int, step: int) -> str:
    """Changes whenever the frames would."""
    stat = video.stat()
    frames = image_size if step == 1 else f"{image_size}/{step}"
    return fingerprint(_LAYOUT, video.resolve(), stat.st_size, stat.st_mtime_ns, frames)


def _decode(video: Path, target: Path, label: str, cut: Cut) -> None:
    """Decodes a video into a folder, which is there only when it is complete.

    Raises:
        UserError: the video cannot be read.
        OSError: the frames cannot be written.
    """
    partial = target.with_name(f"part-{uuid.uuid4().hex}")
    partial.mkdir(parents=True)
    # `disable=None`: no bar where nobody looks on, as in a log file.
    bar = Bar(desc=f"decoding {label}", unit="frame", leave=False)
    try:
        with open_frames(video) as frames, bar:
            bar.reset(frames.frame_count)
            for count, frame in enumerate(frames):
                image = cut(count, frame.image)
                if image is not None:
                    image.save(partial / f"{count:06d}.jpg", quality=95, subsampling=0)
                bar.update()
        (partial / _COUNT).write_text(f"{len(os.listdir(partial))}\n")
        if target.is_dir() and _kept(target) is None:
            shutil.rmtree(target)
        try:
            os.rename(partial, target)
        except OSError:  # another process was faster, and its frames are the same
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
