"""Frames to read, one after the other: of a video, an animation, a picture, or a folder of pictures.

What arrives is what a player shows: frames are turned and mirrored as the file's display matrix says,
resampled to square pixels, and carry their own time, so that variable and non-integer frame rates survive.
Transparency shows mid-grey, as in pictures.
Colours of a file that does not name their matrix are read as BT.601, as ffmpeg does.
"""

from __future__ import annotations

import functools
import re
import weakref
from collections.abc import Generator, Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from PIL import Image

from autolink.errors import UserError, leave_out
from autolink.files import STILLS, list_files, no_media, what_is
from autolink.images import read_animation, read_image, shown_size, upright_rgb
from autolink.video.containers import decode, open_media, orientation, time_of, upright, video_stream
from autolink.video.outputs import read_times

DEFAULT_FRAME_RATE = Fraction(25)  # of pictures, and of a stream that does not tell its own

# Bits of swscale.h: bicubic, full chroma interpolation, and exact to rounding, where the default is off by 1.3 of 255.
_TO_RGB = 0x4 | 0x2000 | 0x40000


class VideoFrame(NamedTuple):
    """One frame: `image` (H, W, 3) uint8 RGB, upright, square pixels; `time` in seconds since the first."""

    image: np.ndarray
    time: Fraction


class FrameSource:
    """What `open_frames` returns. Can be iterated any number of times, each time from the first frame.

    Times of frames rise strictly. Leaving the `with` block, or `close`, ends all iterations.

    Attributes:
        path: the file or folder.
        width: of the frames as shown, in pixels. Pictures of a folder may differ: there, that of the first.
        height: likewise.
        frame_rate: frames a second, on average.
        frame_count: how many frames there are as far as the file tells: an estimate, or None.
        duration: in seconds, as far as the file tells: an estimate, or None.
        has_audio: whether there is sound.
    """

    path: Path
    width: int
    height: int
    frame_rate: Fraction
    frame_count: int | None
    duration: Fraction | None
    has_audio: bool

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self._running: weakref.WeakSet[Generator[VideoFrame, None, None]] = weakref.WeakSet()

    def __iter__(self) -> Iterator[VideoFrame]:
        frames = self._frames()
        self._running.add(frames)
        return frames

    def __enter__(self) -> FrameSource:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends every iteration that is under way, and closes its file; not one that another thread is just in."""
        for frames in list(self._running):
            with suppress(ValueError):  # "generator already executing": its thread ends it
                frames.close()

    def at(self, seconds: float) -> VideoFrame:
        """The first frame from a time on, or the last one; its own time may be off by the time of the first frame.

        Raises:
            UserError: no frame there can be decoded.
        """
        found = None
        for found in self._frames_near(seconds):
            if found.time >= seconds:
                break
        if found is None:
            raise UserError(f"{self.path}: no frame can be decoded at {seconds:g} s; give another moment")
        return found

    def _frames_near(self, seconds: float) -> Generator[VideoFrame, None, None]:
        """Frames from somewhere before a time on."""
        return self._frames()

    def _frames(self) -> Generator[VideoFrame, None, None]:
        raise NotImplementedError


def open_frames(path: Path | str) -> FrameSource:
    """Frames of a video, of an animation, of a picture (one), or of a folder of pictures (in the order 1, 2, 10).

    Pictures are shown when a `times.csv` in their folder says, as `FolderWriter` writes it, else 25 a second.

    Raises:
        UserError: nothing there, or nothing in it that can be read.
    """
    path = Path(path)
    if path.is_dir():
        return ImageFrames(path)
    return {"still": ImageFrames, "animation": Animation}.get(what_is(path).kind, VideoReader)(path)


class ImageFrames(FrameSource):
    """A picture, or the pictures of a folder in natural order. See `FrameSource`.

    Of a folder, pictures that cannot be read are named and left out; the others keep their times.
    """

    def __init__(self, path: Path | str):
        super().__init__(path)
        if self.path.is_dir():
            names = list_files(self.path, self.path, STILLS, nested=False)
            self._files = [self.path / name for name in sorted(names, key=_natural)]
        else:
            self._files = [self.path]
        if not self._files:
            raise no_media(self.path, STILLS, nested=False)
        self._damaged: set[Path] = set()
        self.width, self.height = self._first_size()
        self.frame_count = len(self._files)
        times = read_times(self.path, self._files)
        self._times = times or [index / DEFAULT_FRAME_RATE for index in range(self.frame_count)]
        self.frame_rate = (self.frame_count - 1) / self._times[-1] if self._times[-1] else DEFAULT_FRAME_RATE
        self.duration = self.frame_count / self.frame_rate
        self.has_audio = False

    def _frames(self) -> Generator[VideoFrame, None, None]:
        for file, time in zip(self._files, self._times):
            try:
                image = np.array(read_image(file))
            except UserError as error:
                if len(self._files) == 1:
                    raise
                if file not in self._damaged:  # named once, however often the folder is read
                    self._damaged.add(file)
                    leave_out(error)
                continue
            yield VideoFrame(image, time)

    def _first_size(self) -> tuple[int, int]:
        """Width and height of the first picture that can be read."""
        for file in self._files[:-1]:
            with suppress(UserError):
                return shown_size(file)
        return shown_size(self._files[-1])


class Animation(FrameSource):
    """Frames of a GIF, a WebP or a PNG of several frames. See `FrameSource`.

    Raises:
        UserError: it cannot be read, or not to its end.
    """

    def __init__(self, path: Path | str):
        super().__init__(path)
        stat = self.path.stat()
        (self.width, self.height), self._shown = _survey(self.path, stat.st_size, stat.st_mtime_ns)
        self.frame_count = len(self._shown)
        self.duration = sum(self._shown, Fraction(0))
        self.frame_rate = (self.frame_count / self.duration).limit_denominator(100_000)
        self.has_audio = False

    def _frames(self) -> Generator[VideoFrame, None, None]:
        time = Fraction(0)
        for image, shown in read_animation(self.path):
            yield VideoFrame(np.array(image), time)
            time += shown


@functools.lru_cache
def _survey(path: Path, size: int, modified: int) -> tuple[tuple[int, int], tuple[Fraction, ...]]:
    """Width and height of an animation in this state, and how long its frames are shown: only decoding them tells."""
    sizes, shown = zip(*((image.size, seconds) for image, seconds in read_animation(path)))
    return sizes[0], shown


class VideoReader(FrameSource):
    """Frames of a video file. See `FrameSource`.

    Pixels that are not square are resampled by enlarging their shorter side. A damaged packet is skipped with
    a warning. A frame without a time, or not later than the one before, comes 1/frame_rate after that one.

    Raises:
        UserError: no such file, no video, one that is cut off, or one without a frame that can be decoded.
    """

    def __init__(self, path: Path | str):
        super().__init__(path)
        with open_media(self.path) as container:
            stream = video_stream(container)
            if stream is None:
                others = sorted({other.type for other in container.streams} - {"video"})
                raise UserError(f"{path}: no video in it, only {', '.join(others)}; expected a video")
            first = next(decode(container, stream, self.path), None)
            if first is None:
                raise UserError(f"{path}: no frame in it can be decoded; re-encode it, or give another video")
            self.has_audio = bool(container.streams.audio)
            self.frame_rate = stream.average_rate or stream.guessed_rate or DEFAULT_FRAME_RATE
            self.duration = None
            if stream.duration and stream.time_base:
                self.duration = stream.duration * stream.time_base
            elif container.duration:
                self.duration = Fraction(container.duration, av.time_base)
            guess = None if self.duration is None else max(1, round(self.duration * self.frame_rate))
            self.frame_count = stream.frames or guess
            aspect = stream.sample_aspect_ratio or Fraction(1)
        one = Fraction(1)
        width, height = round(first.width * max(aspect, one)), round(first.height / min(aspect, one))
        self._size = width, height  # of square pixels, not yet upright
        self._orientation = orientation(first)
        self.width, self.height = (height, width) if self._orientation[0] else (width, height)

    def _frames_near(self, seconds: float) -> Generator[VideoFrame, None, None]:
        return self._frames(Fraction(seconds))

    def _frames(self, seconds: Fraction = Fraction(0)) -> Generator[VideoFrame, None, None]:
        reformatter = VideoReformatter()
        start, last = Fraction(0), None
        with open_media(self.path) as container:
            stream = video_stream(container)
            assert stream is not None  # there was one when it was opened
            if seconds > 0 and stream.start_time is not None and stream.time_base is not None:
                # to the last key frame before
                start, last = stream.start_time * stream.time_base, Fraction(-1)
                container.seek(stream.start_time + int(seconds / stream.time_base), stream=stream)
            for frame in decode(container, stream, self.path):
                now = None if frame.pts is None else time_of(frame)
                if last is None:
                    start, time = now or Fraction(0), Fraction(0)
                elif now is None or now - start <= last:
                    time = last + 1 / self.frame_rate
                else:
                    time = now - start
                last = time
                transparent = any(component.is_alpha for component in frame.format.components)
                pixels = "rgba" if transparent else "rgb24"
                image = reformatter.reformat(frame, *self._size, format=pixels, interpolation=_TO_RGB).to_ndarray()
                if transparent:
                    image = np.array(upright_rgb(Image.fromarray(image)))
                yield VideoFrame(upright(image, *self._orientation), time)


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key that puts 2 before 10."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdecimal() else (0, part.lower()) for part in parts]
