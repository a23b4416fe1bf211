"""Videos as a data set of their frames; each video is one clip.

The frames are decoded once, cut to the square that the networks see, and kept as JPEG (quality 95, full
colour) in `$AUTOLINK_CACHE/frames`, by default `~/.cache/autolink/frames`: one folder for each video and
size, made again when the video changes. From there on they are images like any others.

Splits: `train/` and `val/` if the folder has them; else a tenth of the videos is "val", or, of fewer than ten
videos, the last tenth of each.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from autolink.data.folder import ImageFiles, hold_out, split_files
from autolink.errors import UserError
from autolink.images import square
from autolink.video import VIDEO_SUFFIXES, VideoReader

logger = logging.getLogger(__name__)

_ENOUGH_TO_SPLIT = 10  # videos
_LAYOUT = "1"  # of the cached files; a change makes all of them again


def open_clips(path: Path, image_size: int, split: str = "train", name: str | None = None) -> ImageFiles:
    """A folder of videos, or one video.

    Args:
        path: the folder or the file.
        image_size: side of the square images in pixels.
        split: "train", "val" or "test".
        name: what to call the data set; the name of the folder or file if not given.

    Raises:
        UserError: nothing there, no videos, none that can be read, or the cache cannot be written.
    """
    if path.is_file():
        root, videos, given = path.parent, [path.name], False
    else:
        root, (videos, given) = path, split_files(path, split, VIDEO_SUFFIXES)
    whole = given or len(videos) >= _ENOUGH_TO_SPLIT
    if whole and not given:
        held_out = hold_out(videos)
        videos = [video for video, held in zip(videos, held_out, strict=True) if held == (split != "train")]

    cache = frame_cache()
    files, names, clips = [], [], []
    for video, folder in _decode_all(root, videos, cache, image_size).items():
        frames = sorted(frame.name for frame in (cache / folder).iterdir())
        if not whole:
            held = max(2, round(len(frames) / 10)) if len(frames) > 3 else len(frames) // 2  # two make a pair
            border = len(frames) - held
            frames = frames[:border] if split == "train" else frames[border:]
        files += [f"{folder}/{frame}" for frame in frames]
        names += [f"{video}/{frame}" for frame in frames]
        clips += [video] * len(frames)
    if not files:
        raise UserError(f"{path}: one frame a video, too few to hold any out for {split!r}")
    return ImageFiles(name or path.resolve().stem, cache, files, image_size, clips=clips, names=names)


def frame_cache() -> Path:
    """Folder in which decoded frames are kept."""
    base = os.environ.get("AUTOLINK_CACHE")
    return (Path(base).expanduser() if base else Path.home() / ".cache" / "autolink") / "frames"


def _decode_all(root: Path, videos: Sequence[str], cache: Path, image_size: int) -> dict[str, str]:
    """The cached folder of every video that can be read; a warning names each of the others."""
    folders, reasons = {}, []
    for number, video in enumerate(videos, 1):
        folder = _cache_name(root / video, image_size)
        if not (cache / folder).is_dir():
            try:
                _decode(root / video, cache / folder, image_size, f"{video} ({number}/{len(videos)})")
            except UserError as error:
                logger.warning("skipped %s", error)
                reasons.append(str(error))
                continue
            except OSError as error:
                raise UserError(
                    f"{cache}: cannot keep decoded frames there ({error}); free some space, or set "
                    "AUTOLINK_CACHE to another folder"
                ) from error
        folders[video] = folder
    if not folders:
        raise UserError(f"{root}: none of its {len(videos)} video(s) can be read; {reasons[0]}")
    return folders


def _cache_name(video: Path, image_size: int) -> str:
    """Changes whenever the frames would."""
    stat = video.stat()
    identity = "\0".join(map(str, (_LAYOUT, video.resolve(), stat.st_size, stat.st_mtime_ns, image_size)))
    return hashlib.blake2b(identity.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


def _decode(video: Path, target: Path, image_size: int, label: str) -> None:
    """Decodes a video into a folder, which is there only when it is complete.

    Raises:
        UserError: the video cannot be read.
        OSError: the frames cannot be written.
    """
    partial = target.with_name(f"part-{uuid.uuid4().hex}")
    partial.mkdir(parents=True)
    # `disable=None`: no bar where nobody looks on, as in a log file.
    bar = tqdm(desc=f"decoding {label}", unit="frame", leave=False, disable=None)
    try:
        with VideoReader(video) as frames, bar:
            bar.reset(frames.frame_count)
            for count, frame in enumerate(frames):
                image = square(Image.fromarray(frame.image), image_size)
                image.save(partial / f"{count:06d}.jpg", quality=95, subsampling=0)
                bar.update()
        try:
            os.rename(partial, target)
        except OSError:  # another process was faster, and its frames are the same
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
