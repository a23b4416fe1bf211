"""Frames to write: the choice of an output, and videos that play whatever happens (`VideoWriter`).

Pictures are encoded into `NAME.part`, a fragmented mp4 (for an animation without loss, in RGB), and at the end copied,
with the sound, into the file of the wanted kind; an animation is made of them (`animations`). An interrupted
writer therefore leaves the same thing for every kind, and going on from it is the same for every kind: what is
written after that goes into `NAME.part2`, and both are joined whenever there is time for it.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from av.container import InputContainer
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from autolink.errors import UserError
from autolink.outputs import PARTS, refuse_inputs
from autolink.video.animations import ANIMATION_SUFFIXES, write_animation
from autolink.video.containers import Packet, open_container, open_media, remuxed, reported, silence, time_of
from autolink.video.outputs import FolderWriter, FrameOutput, require_same
from autolink.video.read import VideoFrame
from autolink.video.sound import MP4_SOUND, WEBM_SOUND, SoundFormat, Soundtrack

logger = logging.getLogger(__name__)


class _Part(NamedTuple):
    """An open part."""

    container: InputContainer
    whole: bool
    """Whether its writer came to end it; after a kill, only what comes before its last key frame can be relied on."""


class _Kind(NamedTuple):
    """How videos of one suffix are encoded."""

    encoder: str
    options: dict[str, str]
    pixels: str
    sound: SoundFormat | None


# On a talking head at 256², VP9 with these options has the size of the mp4 and 0.5 dB less.
_VP9 = {"crf": "20", "b": "0", "deadline": "realtime", "cpu-used": "5", "row-mt": "1"}
_KINDS = {
    ".mp4": _Kind("libx264", {"crf": "18"}, "yuv420p", MP4_SOUND),
    ".webm": _Kind("libvpx-vp9", _VP9, "yuv420p", WEBM_SOUND),
    **dict.fromkeys(ANIMATION_SUFFIXES, _Kind("libx264rgb", {"qp": "0", "preset": "veryfast"}, "rgb24", None)),
}
_LARGEST_WEBP = 16383
_TREE_FROM = 128
"""Side from which x264 may look ahead by its macroblock tree: of smaller pictures, its AVX-512 code for that reads what
nobody wrote, and the same pictures become other bits in every run."""
_NAMES = ".mp4, .webm, .gif, .webp or .apng"

# 1/90000 s holds the multiples of 1/24, 1/25, 1/30, 1/50, 1/60 and 1001/30000 s; other rates make it finer.
_TICKS, _MOST_TICKS = 90_000, 9_000_000

# Bits of swscale.h: area, for a bicubic chroma would ring; exact to rounding, where the default is off by 1.3 of 255.
_FROM_RGB = 0x10 | 0x40000
_BT709 = _LIMITED = 1  # as ffmpeg numbers matrix, transfer, primaries; and ranges

_SAME_BITS = {"fflags": "+bitexact"}  # else a webm's tracks are numbered at random

_END = b"\x00\x00\x00\x0bfreeend"  # last box of a part that lacks nothing


def check_output(path: Path | str) -> None:
    """Whether frames can be written under a name: to know before the work begins.

    Raises:
        UserError: it ends in something that is not written, or stands for something else already.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix and suffix not in _KINDS:
        raise UserError(f"{path}: expected a file name ending in {_NAMES}, or a folder name without a dot")
    if suffix and path.is_dir():
        raise UserError(f"{path}: there is a folder of this name; choose another")
    if not suffix and path.exists() and not path.is_dir():
        raise UserError(f"{path}: there is a file of this name; choose another for the folder, or add .mp4")


class VideoWriter(FrameOutput):
    """Writes an mp4 (H.264), a webm (VP9) or an animation frame by frame, with the sound of another file.

    The file appears under its name, complete, at the end, and replaces one that was there. If the block ends by an
    exception or the process is killed, `NAME` is untouched, and what was written is in `NAME.part`, an mp4 without
    sound: all of it, or after a kill all but the last seconds.

    The same frames become the same bytes, unless it was interrupted in between.

    Videos are yuv420p, BT.709, limited range. Times that are multiples of 1/90000 s, or of 1/frame_rate at all usual
    rates, are exact in an mp4; others are rounded to 1/90000 s or finer, in a webm to 1/1000 s. Animations
    loop, and have no sound. A gif has 256 colours for all frames, times that are multiples of 1/100 s, and at most 50
    frames a second; a webp or apng times that are multiples of 1/1000 s, and at most 90. A frame that comes sooner
    after another is left out, and so is one of a webp that looks like the one before, which is shown for longer. An
    apng is without loss, and large.

    Args:
        path: ends in .mp4, .webm, .gif, .webp or .apng. Folders on the way to it are made.
        width: of the images, in pixels. yuv420p has even sizes only: to an odd one, a pixel is added on the
            right or at the bottom that repeats the edge. Animations keep odd sizes.
        height: likewise.
        frame_rate: frames a second: spacing of frames written without a time, and how long the last is shown.
        audio_from: a video or sound file. Its sound stays in line with its first picture (time 0), and ends
            with the last frame written. Packets are copied if they belong in such a file, else encoded as AAC or,
            in a webm, as Opus. A file without sound gives a video without.
        audio_start: seconds after the first picture of `audio_from` that are time 0 here instead.
        resume: go on from `NAME.part`, if there is one: its frames are kept, after a kill up to the last full group
            of two seconds, and `written` says how many.
        settings: see `autolink.video.open_output`.
        about: likewise; it is the file's comment.

    Raises:
        UserError: the path or `audio_from` cannot be used, or `NAME.part` is not the beginning of such a video.
    """

    def __init__(
        self,
        path: Path | str,
        width: int,
        height: int,
        frame_rate: Fraction | float,
        audio_from: Path | str | None = None,
        *,
        audio_start: Fraction | float = 0,
        resume: bool = False,
        settings: Mapping[str, Any] | None = None,
        about: Mapping[str, Any] | None = None,
    ):
        super().__init__(path, width, height, frame_rate, settings, about)
        check_output(path)
        if not self.path.suffix:
            raise UserError(f"{path}: expected a file name ending in {_NAMES}")
        if self.path.suffix.lower() == ".webp" and max(width, height) > _LARGEST_WEBP:
            raise UserError(f"{path}: {width}x{height}, where a WebP has up to {_LARGEST_WEBP} a side; choose .apng")
        self._kind = _KINDS[self.path.suffix.lower()]
        ticks = math.lcm(_TICKS, self.frame_rate.numerator)
        self._second = ticks if ticks <= _MOST_TICKS else _TICKS  # in ticks
        refuse_inputs([path], [audio_from])
        sound = self._kind.sound
        self._soundtrack = None if sound is None else Soundtrack.of(audio_from, sound, audio_start)
        self._settings["encoder"] = f"{self._kind.encoder} of PyAV {av.__version__}"
        self._part, self._rest = (self.path.with_name(self.path.name + end) for end in PARTS)
        self._encoded = 0  # frames, by this writer
        self._whole = True  # whether the packets of all of them are in the file
        silence()
        with reported(self.path, "choose another place for it"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if resume and self._part.exists():
                self._take_up()
            if not self.written:
                self._rest.unlink(missing_ok=True)
            self._target = self._rest if self.written else self._part
            self._target.write_bytes(b"")  # now, since ffmpeg opens it at the first frame only
            if not self.written:
                self._note_settings()
            self._open_encoder()

    def _open_encoder(self) -> None:
        self._container = av.open(f"file:{self._target}", "w", format="mp4", options=self._fragmented)
        options = self._kind.options
        if self._kind.encoder == "libx264" and min(self.width, self.height) < _TREE_FROM:
            options = {**options, "mbtree": "0"}
        stream = self._container.add_stream(self._kind.encoder, rate=self.frame_rate, options=options)
        assert isinstance(stream, VideoStream)
        self._stream = stream
        odd = self._kind.pixels == "yuv420p"
        self._margin = self.height % 2 * odd, self.width % 2 * odd
        self._stream.height, self._stream.width = self.height + self._margin[0], self.width + self._margin[1]
        self._stream.pix_fmt = self._kind.pixels
        context = self._stream.codec_context
        # One without the other shifts times silently.
        self._stream.time_base = context.time_base = Fraction(1, self._second)
        context.gop_size = max(1, round(2 * self.frame_rate))  # a player can jump to every other second
        if self._kind.pixels == "yuv420p":
            context.colorspace = context.color_trc = context.color_primaries = _BT709
            context.color_range = _LIMITED
        self._reformatter = VideoReformatter()

    def _tick(self, time: Fraction) -> int:
        return round(time * self._second)

    def _put(self, image: np.ndarray, time: Fraction) -> None:
        if any(self._margin):
            image = np.pad(image, (*((0, margin) for margin in self._margin), (0, 0)), mode="edge")
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        if self._kind.pixels == "yuv420p":
            frame = self._reformatter.reformat(
                frame,
                format="yuv420p",
                dst_colorspace=_BT709,
                dst_color_range=_LIMITED,
                interpolation=_FROM_RGB,
            )
        frame.time_base = Fraction(1, self._second)
        frame.pts = self._tick(time)
        frame.duration = self._tick(1 / self.frame_rate)
        with reported(self.path, self._so_far):
            self._whole = False
            self._container.mux(self._stream.encode(frame))
            self._whole = True
        self._encoded += 1

    @property
    def _so_far(self) -> str:
        files = [str(part) for part in (self._part, self._rest) if part.exists()]
        return f"what was written so far is in {' and '.join(files)}"

    @property
    def _timescales(self) -> dict[str, str]:
        # The movie's is for how late the first frame is; its default is a millisecond.
        return dict.fromkeys(("video_track_timescale", "movie_timescale"), str(self._second))

    @property
    def _fragmented(self) -> dict[str, str]:
        # delay_moov: else there is no edit list in a fragmented file, and B-frames would delay everything.
        options = {"movflags": "empty_moov+delay_moov", "frag_duration": "500000", "flush_packets": "1"}
        return options | self._timescales

    # -- how it ends --------------------------------------------------------------------------------

    def _complete(self, end: Fraction) -> None:
        """Makes the wanted file of the parts and the sound, with its index in front, and names it in one step."""
        complete = self.path.with_name(self.path.name + ".completing")
        with reported(self.path, self._so_far):
            self._end_part()
            try:
                if self.path.suffix.lower() in ANIMATION_SUFFIXES:
                    kind, shape = self.path.suffix.lower(), (self.width, self.height)
                    write_animation(complete, kind, self._pictures, *shape, self.frame_rate, self._note)
                else:
                    self._copy(complete, self._kind.sound, self._soundtrack, end)
                os.replace(complete, self.path)
            finally:
                complete.unlink(missing_ok=True)
            for part in (self._part, self._rest):
                part.unlink(missing_ok=True)

    def _end_part(self) -> None:
        if self._encoded and self._whole:  # else what comes after lost packets would hide that they are missing
            self._container.mux(self._stream.encode(None))
        self._container.close()
        if not self._encoded:
            self._target.unlink()
        elif self._whole:
            _mark_end(self._target)

    def _abandon(self) -> None:
        with suppress(av.error.FFmpegError, OSError):  # the exception that brought us here is the one to tell
            self._end_part()
            if self._target == self._rest:
                self._join()
        if self.written:
            logger.warning("%s: not finished; %s", self.path, self._so_far)

    # -- parts --------------------------------------------------------------------------------------

    def _take_up(self) -> None:
        """Joins what interrupted writers have left, and counts it."""
        with ExitStack() as files:
            parts = self._parts(files)
        if not parts:
            logger.warning("%s: nothing in it can be used; starting again", self._part)
            return
        require_same(self.path, self._settings)
        self._join()
        with ExitStack() as files:
            for packet in _chained(self._parts(files)):
                self.written += 1
                self.last_time = max(self.last_time or Fraction(0), time_of(packet))

    def _join(self) -> None:
        """Makes one part of two, of frames that can be decoded."""
        joined = self._part.with_name(self._part.name + ".joining")
        try:
            self._copy(joined)
            _mark_end(joined)
            os.replace(joined, self._part)
        finally:
            joined.unlink(missing_ok=True)
        self._rest.unlink(missing_ok=True)

    def _copy(
        self,
        target: Path,
        kind: SoundFormat | None = None,
        soundtrack: Soundtrack | None = None,
        end: Fraction = Fraction(0),
    ) -> None:
        """Copies packets of the parts into a new part, or, with the sound up to `end` seconds, into a finished file."""
        container = "" if kind is None else kind.container
        mp4 = {"movflags": "faststart"} | self._timescales
        options = {"": self._fragmented, "mp4": mp4, "webm": _SAME_BITS}[container]
        with ExitStack() as files:
            parts = self._parts(files)
            output = files.enter_context(av.open(f"file:{target}", "w", format=container or "mp4", options=options))
            if container and self._note:
                output.metadata["comment"] = self._note
            track = output.add_stream_from_template(parts[0].container.streams.video[0], opaque=True)
            packets = [remuxed(_chained(parts), track)]
            if soundtrack is not None:
                sound = files.enter_context(open_media(soundtrack.path))
                packets.append(soundtrack.packets(sound, output, end))
            for packet in heapq.merge(*packets, key=_decoded_at):
                output.mux(packet)

    def _pictures(self) -> Iterator[av.VideoFrame]:
        """Decoded frames of the parts."""
        with ExitStack() as files:
            for part in self._parts(files):
                yield from part.container.decode(video=0)

    def _parts(self, files: ExitStack) -> list[_Part]:
        """The parts that hold anything."""
        parts = []
        for path in (self._part, self._rest):
            with suppress(av.error.FFmpegError):
                parts.append(_Part(files.enter_context(open_container(path)), _is_whole(path)))
        return parts


def open_output(
    path: Path | str,
    width: int,
    height: int,
    frame_rate: Fraction | float,
    audio_from: Path | str | None = None,
    *,
    audio_start: Fraction | float = 0,
    resume: bool = False,
    settings: Mapping[str, Any] | None = None,
    about: Mapping[str, Any] | None = None,
) -> FrameOutput:
    """Where to write frames to: `.mp4`, `.webm`, `.gif`, `.webp`, `.apng`, or, without a suffix, a folder of PNG.

    Args:
        path: what is written; its suffix says how. See `VideoWriter` and `FolderWriter`.
        width: of the images that are going to be written, in pixels.
        height: likewise.
        frame_rate: frames a second, see `FrameOutput`.
        audio_from: a video or sound file: its sound from its first picture (time 0) on, up to the end of the last
            frame. Left aside for an animation, and if the file has no sound.
        audio_start: seconds after the first picture of `audio_from` that are time 0 here instead.
        resume: go on from what an interrupted output of the same settings has left, if it has left anything:
            `written` says how many frames are there already and are not to be written again.
        settings: what else the frames depend on, as JSON has it, by names that a user knows: an interrupted output
            goes on with the same settings alone.
        about: what the finished output depends on, in the same way; it holds a word for each, see `require_made_with`.

    Raises:
        UserError: the path or `audio_from` cannot be used, or what was left is not the beginning of such an output.
    """
    check_output(path)
    writer = VideoWriter if Path(path).suffix else FolderWriter
    how: dict[str, Any] = dict(audio_start=audio_start, resume=resume, settings=settings, about=about)
    return writer(path, width, height, frame_rate, audio_from, **how)


def write_video(
    path: Path | str,
    frames: Iterable[np.ndarray | VideoFrame],
    frame_rate: Fraction | float,
    audio_from: Path | str | None = None,
) -> None:
    """Writes images, or frames with their times, all of one size. See `open_output`."""
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise UserError(f"{path}: not written, since there was no frame to write")
    height, width = (first.image if isinstance(first, VideoFrame) else first).shape[:2]
    with open_output(path, width, height, frame_rate, audio_from) as video:
        for frame in itertools.chain([first], frames):
            video.write(*(frame if isinstance(frame, VideoFrame) else (frame,)))


def _decoded_at(packet: Packet) -> Fraction:
    assert packet.dts is not None and packet.time_base is not None
    return packet.dts * packet.time_base


def _mark_end(path: Path) -> None:
    with open(path, "ab") as file:
        file.write(_END)


def _is_whole(path: Path) -> bool:
    with open(path, "rb") as file:
        file.seek(-len(_END), os.SEEK_END)
        return file.read() == _END


def _groups(part: _Part) -> Iterator[Packet]:
    """Packets of a part that can be relied on: whole groups, each from a key frame to the next."""
    group: list[Packet] = []
    with suppress(av.error.FFmpegError):  # here the kill came
        for packet in part.container.demux(video=0):
            if packet.dts is None:
                continue
            if packet.is_keyframe:
                yield from group
                group = []
            group.append(packet)
    if part.whole:
        yield from group


def _chained(parts: list[_Part]) -> Iterator[Packet]:
    """Packets of one part after the other."""
    last_dts: int | None = None
    last_pts: int | None = None
    for part in parts:
        before = last_pts
        for packet in _groups(part):
            assert packet.pts is not None and packet.dts is not None  # `_groups` leaves others out
            if before is not None and packet.pts <= before:
                break  # a kill came when both were joined already: this part is in the one before
            # A part's decoding times begin before its first picture, within the part before.
            packet.dts = packet.dts if last_dts is None else max(packet.dts, last_dts + 1)
            last_dts, last_pts = packet.dts, max(packet.pts, last_pts or 0)
            yield packet
