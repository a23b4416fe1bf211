"""Video as a stream of frames, in and out, with PyAV: a clip is never in memory as a whole.

Read with `open_frames` (a video, a picture, a folder of pictures) or `VideoReader`; write with `VideoWriter`:

    with (
        open_frames("in.mov") as frames,
        VideoWriter("out.mp4", frames.width, frames.height, frames.frame_rate, audio_from="in.mov") as video,
    ):
        for image, time in frames:
            video.write(image, time)

What arrives is what a player shows: frames are turned and mirrored as the file's display matrix says,
resampled to square pixels, and carry their own time, so that variable and non-integer frame rates survive.
Colours of a file that does not name their matrix are read as BT.601, as ffmpeg does.
"""

from __future__ import annotations

import heapq
import itertools
import math
import os
import re
import weakref
from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack, suppress
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from PIL import Image, ImageOps

from autolink import media
from autolink.errors import UserError
from autolink.images import IMAGE_SUFFIXES, to_rgb

VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".avi", ".webm", ".gif", ".mpg", ".mpeg", ".wmv"})
DEFAULT_FRAME_RATE = Fraction(25)  # of pictures, and of a stream that does not tell its own

# 1/90000 s holds the multiples of 1/24, 1/25, 1/30, 1/50, 1/60 and 1001/30000 s; other rates make it finer.
_TICKS, _MOST_TICKS = 90_000, 9_000_000

# Bits of swscale.h. Its default is off by 1.3 of 255 on average; these flags are exact to rounding.
_ACCURATE = 0x40000
_TO_RGB = 0x4 | 0x2000 | _ACCURATE  # bicubic, full chroma interpolation
_FROM_RGB = 0x10 | _ACCURATE  # area: a bicubic chroma would ring
_BT709 = _LIMITED = 1  # as ffmpeg numbers matrix, transfer, primaries; and ranges


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
        self._running: weakref.WeakSet[Generator] = weakref.WeakSet()

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

    def _frames(self) -> Generator[VideoFrame, None, None]:
        raise NotImplementedError


def open_frames(path: Path | str) -> FrameSource:
    """Frames of a video, of a picture (one), or of a folder of pictures (in the order 1, 2, 10; 25 a second).

    Raises:
        UserError: nothing there, or nothing in it that can be read.
    """
    path = Path(path)
    return ImageFrames(path) if path.is_dir() or _is_image(path) else VideoReader(path)


class ImageFrames(FrameSource):
    """A picture, or the pictures of a folder in natural order. See `FrameSource`."""

    def __init__(self, path: Path | str):
        super().__init__(path)
        if self.path.is_dir():
            self._files = sorted(filter(_is_image, self.path.iterdir()), key=lambda file: _natural(file.name))
        else:
            self._files = [media.existing_file(self.path)]
        if not self._files:
            raise UserError(f"{path}: no pictures in this folder; expected a video or pictures")
        self.height, self.width = _read_image(self._files[0]).shape[:2]
        self.frame_rate = DEFAULT_FRAME_RATE
        self.frame_count = len(self._files)
        self.duration = self.frame_count / self.frame_rate
        self.has_audio = False

    def _frames(self) -> Generator[VideoFrame, None, None]:
        for index, file in enumerate(self._files):
            yield VideoFrame(_read_image(file), index / self.frame_rate)


class VideoReader(FrameSource):
    """Frames of a video file. See `FrameSource`.

    Pixels that are not square are resampled by enlarging their shorter side. A damaged packet is skipped with
    a warning. A frame without a time, or not later than the one before, comes 1/frame_rate after that one.

    Raises:
        UserError: no such file, no video, one that is cut off, or one without a frame that can be decoded.
    """

    def __init__(self, path: Path | str):
        super().__init__(path)
        with media.open_media(self.path) as container:
            stream = media.video_stream(container)
            if stream is None:
                others = sorted({other.type for other in container.streams} - {"video"})
                raise UserError(f"{path}: no video in it, only {', '.join(others)}; expected a video")
            first = next(media.decode(container, stream, self.path), None)
            if first is None:
                raise UserError(f"{path}: no frame in it can be decoded; re-encode it, or give another video")
            self.has_audio = bool(container.streams.audio)
            self.frame_rate = stream.average_rate or stream.guessed_rate or DEFAULT_FRAME_RATE
            self.duration = None
            if stream.duration:
                self.duration = stream.duration * stream.time_base
            elif container.duration:
                self.duration = Fraction(container.duration, av.time_base)
            guess = None if self.duration is None else max(1, round(self.duration * self.frame_rate))
            self.frame_count = stream.frames or guess
            aspect = stream.sample_aspect_ratio or Fraction(1)
        width, height = round(first.width * max(aspect, 1)), round(first.height / min(aspect, 1))
        self._size = width, height  # of square pixels, not yet upright
        self._orientation = media.orientation(first)
        self.width, self.height = (height, width) if self._orientation[0] else (width, height)

    def _frames(self) -> Generator[VideoFrame, None, None]:
        reformatter = VideoReformatter()
        start = last = None
        with media.open_media(self.path) as container:
            for frame in media.decode(container, media.video_stream(container), self.path):
                now = None if frame.pts is None else frame.pts * frame.time_base
                if last is None:
                    start, time = now or Fraction(0), Fraction(0)
                elif now is None or now - start <= last:
                    time = last + 1 / self.frame_rate
                else:
                    time = now - start
                last = time
                rgb = reformatter.reformat(frame, *self._size, format="rgb24", interpolation=_TO_RGB)
                yield VideoFrame(media.upright(rgb.to_ndarray(), *self._orientation), time)


class VideoWriter:
    """Writes an mp4 (H.264, yuv420p, BT.709) frame by frame, with the sound of another file.

    A context manager. The file appears under its name, complete, at the end, and replaces one that was there.
    If the block ends by an exception or the process is killed, `NAME.mp4` is untouched, and what was written
    is in `NAME.mp4.part`, an mp4 without sound: all of it, or after a kill all but the last seconds.

    Times that are multiples of 1/90000 s, or of 1/frame_rate at all usual rates, are exact; others are
    rounded to 1/90000 s or finer.

    Args:
        path: ends in .mp4. Folders on the way to it are made.
        width: of the images, in pixels. yuv420p has even sizes only: to an odd one, a pixel is added on the
            right or at the bottom that repeats the edge.
        height: likewise.
        frame_rate: frames a second: spacing of frames written without a time, and how long the last is shown.
        audio_from: a video or sound file. Its sound stays in line with its first picture (time 0), and ends
            with the last frame written. Packets are copied if they belong in an mp4, else encoded as AAC. A
            file without sound gives a video without.

    Raises:
        UserError: the path or `audio_from` cannot be used.
    """

    def __init__(
        self,
        path: Path | str,
        width: int,
        height: int,
        frame_rate: Fraction | float,
        audio_from: Path | str | None = None,
    ):
        self.path = Path(path)
        if self.path.suffix.lower() != ".mp4":
            raise UserError(f"{path}: videos are written as mp4; give a name that ends in .mp4")
        if self.path.is_dir():
            raise UserError(f"{path}: there is a folder of this name; choose another")
        self.width, self.height = width, height
        self.frame_rate = Fraction(frame_rate).limit_denominator(100_000)
        ticks = math.lcm(_TICKS, self.frame_rate.numerator)
        self._tick = Fraction(1, ticks if ticks <= _MOST_TICKS else _TICKS)  # seconds
        self._soundtrack = None if audio_from is None else media.Soundtrack.of(Path(audio_from))
        self._last: Fraction | None = None  # time of the last frame, in seconds
        self._open = True

        self._part = self.path.with_name(self.path.name + ".part")
        # delay_moov: else there is no edit list in a fragmented file, and B-frames would delay everything.
        options = {"movflags": "empty_moov+delay_moov", "frag_duration": "500000", "flush_packets": "1"}
        options |= self._timescales
        media.silence()
        with media.reported(self.path, "choose another place for it"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._part.write_bytes(b"")  # now, since ffmpeg opens it at the first frame only
            self._container = av.open(f"file:{self._part}", "w", format="mp4", options=options)
            self._stream = self._container.add_stream("libx264", rate=self.frame_rate, options={"crf": "18"})
        self._stream.width, self._stream.height = width + width % 2, height + height % 2
        self._stream.pix_fmt = "yuv420p"
        context = self._stream.codec_context
        self._stream.time_base = context.time_base = self._tick  # one without the other shifts times silently
        context.gop_size = max(1, round(2 * self.frame_rate))  # a player can jump to every other second
        context.colorspace = context.color_trc = context.color_primaries = _BT709
        context.color_range = _LIMITED
        self._reformatter = VideoReformatter()

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        if kind is None:
            self.close()
        else:
            self._abandon()

    def write(self, image: np.ndarray, time: Fraction | float | None = None) -> None:
        """Appends a frame.

        Args:
            image: (height, width, 3) uint8 RGB.
            time: seconds, at least 0 and later than the last frame's; if not given, 1/frame_rate after it.

        Raises:
            ValueError: an image of another size or type, or a time that is not later.
            UserError: it cannot be written, for instance since the disk is full.
        """
        shape = self.height, self.width, 3
        if image.shape != shape or image.dtype != np.uint8:
            raise ValueError(f"expected an image of {shape} uint8, got {image.shape} {image.dtype}")
        if time is None:
            time = Fraction(0) if self._last is None else self._last + 1 / self.frame_rate
        time = Fraction(time)
        tick = round(time / self._tick)
        if tick < 0 or (self._last is not None and tick <= round(self._last / self._tick)):
            raise ValueError(f"times of frames must rise, from 0: got {time} s after {self._last} s")
        if self.height % 2 or self.width % 2:
            image = np.pad(image, ((0, self.height % 2), (0, self.width % 2), (0, 0)), mode="edge")
        frame = self._reformatter.reformat(
            av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24"),
            format="yuv420p",
            dst_colorspace=_BT709,
            dst_color_range=_LIMITED,
            interpolation=_FROM_RGB,
        )
        frame.time_base = self._tick
        frame.pts = tick
        frame.duration = round(1 / self.frame_rate / self._tick)
        with media.reported(self.path, f"what was written so far is in {self._part}"):
            self._container.mux(self._stream.encode(frame))
        self._last = time

    def close(self) -> None:
        """Completes the video and gives it its name.

        Raises:
            UserError: no frame was written, or the video cannot be completed.
        """
        if not self._open:
            return
        if self._last is None:
            self._abandon()
            raise UserError(f"{self.path}: not written, since there was no frame to write")
        with media.reported(self.path, f"what was written so far is in {self._part}"):
            self._end_part()
            self._complete()

    @property
    def _timescales(self) -> dict[str, str]:
        # The movie's is for how late the first frame is; its default is a millisecond.
        return dict.fromkeys(("video_track_timescale", "movie_timescale"), str(self._tick.denominator))

    def _end_part(self) -> None:
        self._open = False
        self._container.mux(self._stream.encode(None))
        self._container.close()

    def _abandon(self) -> None:
        if self._last is None:
            self._open = False
            self._container.close()
            self._part.unlink(missing_ok=True)
        elif self._open:
            with suppress(av.error.FFmpegError):  # the exception that brought us here is the one to tell
                self._end_part()

    def _complete(self) -> None:
        """Makes a normal mp4 of `.part` and the sound, with its index in front, and names it in one step."""
        whole = self.path.with_name(self.path.name + ".completing")
        try:
            with ExitStack() as files:
                part = files.enter_context(av.open(f"file:{self._part}"))
                options = {"movflags": "faststart"} | self._timescales
                output = files.enter_context(av.open(f"file:{whole}", "w", format="mp4", options=options))
                pictures = part.streams.video[0]
                track = output.add_stream_from_template(pictures, opaque=True)
                packets = [media.remuxed(part.demux(pictures), track)]
                if self._soundtrack is not None:
                    sound = files.enter_context(media.open_media(self._soundtrack.path))
                    end = self._last + 1 / self.frame_rate
                    packets.append(self._soundtrack.packets(sound, output, end))
                for packet in heapq.merge(*packets, key=lambda packet: packet.dts * packet.time_base):
                    output.mux(packet)
            os.replace(whole, self.path)
        finally:
            whole.unlink(missing_ok=True)
        self._part.unlink()


def write_video(
    path: Path | str,
    frames: Iterable[np.ndarray | VideoFrame],
    frame_rate: Fraction | float,
    audio_from: Path | str | None = None,
) -> None:
    """Writes images, or frames with their times, all of one size, as an mp4. See `VideoWriter`."""
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise UserError(f"{path}: not written, since there was no frame to write")
    height, width = (first.image if isinstance(first, VideoFrame) else first).shape[:2]
    with VideoWriter(path, width, height, frame_rate, audio_from) as video:
        for frame in itertools.chain([first], frames):
            video.write(*(frame if isinstance(frame, VideoFrame) else (frame,)))


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES


def _read_image(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as image:
            return np.array(to_rgb(ImageOps.exif_transpose(image)))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: cannot be read as a picture ({reason}); repair or remove it") from error


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key that puts 2 before 10."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdecimal() else (0, part.lower()) for part in parts]
