"""Media files through PyAV: opening what a user gave, decoding it, and its sound on the way into another.

`autolink.video` is built on this. Errors of ffmpeg become a `UserError` of one line here.
"""

from __future__ import annotations

import io
import itertools
import logging
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeVar, cast, overload

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from autolink.errors import NO_ROOM, UserError
from autolink.files import what_is

logger = logging.getLogger(__name__)

Packet: TypeAlias = "av.Packet[Any]"
"""Of a stream of any kind."""
Piece = TypeVar("Piece", "Packet", av.AudioFrame)
_WITH_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # ffmpeg's own decoders leave transparency out
# ffmpeg opens what a file is, not what it is called, and some of what it knows are lists of other files, scripts and
# devices (hls, concat, dash, imf, sdp, image2, lavfi, …): who was handed one would hand over files of his own. So the
# containers that hold their own pictures and sound are listed, and of protocols plain files alone.
_CONTAINERS = (
    "mov,matroska,avi,mpegts,mpeg,mpegvideo,m4v,asf,flv,ogg,nut,mxf,gxf,dv,rm,ivf,yuv4mpegpipe,gif,apng,mjpeg,"
    "h261,h263,h264,hevc,vvc,av1,obu,vc1,wav,w64,mp3,aac,flac,ac3,eac3,aiff,caf,au,amr,wv,tta,ape,dts"
)
_MP4_BOXES = {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"udta", b"uuid", b"meta"}


@contextmanager
def reported(path: Path, advice: str) -> Iterator[None]:
    """Errors of ffmpeg and of the system about a file, as one line for the user."""
    try:
        yield
    except (av.error.FFmpegError, OSError) as error:
        room = "free some space; " if error.errno in NO_ROOM else ""
        raise UserError(f"{path}: {error.strerror}; {room}{advice}") from error


def silence() -> None:
    """Keep ffmpeg's log messages out of Python, which is PyAV's default.

    torchvision 0.21, for one, switches them on when it is imported. A decoding thread that logs then waits for the
    interpreter's lock while the thread that holds it waits for the decoder to end: a deadlock.
    """
    av.logging.set_level(None)


def open_media(path: Path) -> InputContainer:
    """Opens a video or sound file to read from.

    Raises:
        UserError: no such file, a pipe, no video or sound, a list of other files, or an mp4 that is cut off.
    """
    silence()
    what = what_is(path)
    if what.name == "playlist":
        raise UserError(f"{path}: a playlist, which names other files; expected a video, so give those")
    if what.advice:
        raise UserError(f"{path}: is {what.in_words}; expected a picture or a video that can be read here")
    if _cut_off(path):
        raise UserError(f"{path}: cut off, shorter than it says itself; copy or download it again")
    with reported(path, "expected a video; if it is one, it is cut off or damaged: copy it again"):
        try:
            return open_container(path, what.name if what.name in _CONTAINERS.split(",") else None)
        except av.error.ArgumentError as error:  # of the list of containers
            raise UserError(f"{path}: is {what.in_words}; expected a video, such as an mp4") from error


def open_container(path: Path, format: str | None = None) -> InputContainer:
    """A file as ffmpeg has it, if it is one of `_CONTAINERS` and has all of its contents in itself.

    Args:
        path: the file.
        format: what ffmpeg calls its kind, if that is known: ffmpeg guesses, among others by the name.

    Raises:
        av.error.FFmpegError: it is not, or it cannot be read.
    """
    # "file:", else a colon in the name would make it a protocol.
    itself = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "file"}
    # Of what a file says of itself nothing but times and turns is used, and that may be in any encoding.
    return av.open(f"file:{path}", format=format, container_options=itself, metadata_errors="replace")


def video_stream(container: InputContainer) -> VideoStream | None:
    """The first video stream that is not the cover of a piece of music."""
    shown = (s for s in container.streams.video if not s.disposition & Disposition.attached_pic)
    return next(shown, None)


def time_of(piece: Packet | av.VideoFrame | av.AudioFrame) -> Fraction:
    """When a frame or a packet that has a time comes, in seconds on its file's own clock."""
    assert piece.pts is not None and piece.time_base is not None
    return piece.pts * piece.time_base


@overload
def decode(container: InputContainer, stream: VideoStream, path: Path) -> Iterator[av.VideoFrame]: ...
@overload
def decode(container: InputContainer, stream: AudioStream, path: Path) -> Iterator[av.AudioFrame]: ...
def decode(
    container: InputContainer, stream: VideoStream | AudioStream, path: Path
) -> Iterator[av.VideoFrame] | Iterator[av.AudioFrame]:
    """Decoded frames of a stream; damaged packets are left out, and reported at the end."""
    if stream.codec_context is None:  # ffmpeg has no decoder
        return
    decoder: av.CodecContext = stream.codec_context
    if isinstance(stream, VideoStream):
        stream.codec_context.thread_type = "AUTO"
    if stream.metadata.get("alpha_mode") == "1" and decoder.codec.canonical_name in _WITH_ALPHA:
        decoder = av.CodecContext.create(_WITH_ALPHA[decoder.codec.canonical_name], "r")
    damaged = 0
    with reported(path, "it is damaged: copy or download it again, or re-encode it"):
        for packet in container.demux(stream):
            try:
                frames = decoder.decode(packet)  # type: ignore[attr-defined]  # of both kinds of contexts
            except av.error.InvalidDataError:
                damaged += 1
                continue
            yield from frames
    if damaged:
        logger.warning("%s: %d damaged packet(s) of %s were skipped", path, damaged, stream.type)


def orientation(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """Whether a frame is shown transposed, and then mirrored in x and in y, by its display matrix."""
    side_data = frame.side_data.get("DISPLAYMATRIX")
    if side_data is None:
        return False, False, False
    a, b, _, c, d = np.frombuffer(cast(bytes, side_data), dtype=np.int32)[:5].tolist()  # x' = ax + cy, y' = bx + dy
    transposed = abs(b) > abs(a)
    return transposed, (c if transposed else a) < 0, (b if transposed else d) < 0


def upright(image: np.ndarray, transposed: bool, mirror_x: bool, mirror_y: bool) -> np.ndarray:
    """The image as shown, see `orientation`."""
    image = image.transpose(1, 0, 2) if transposed else image
    image = image[:, ::-1] if mirror_x else image
    image = image[::-1] if mirror_y else image
    return np.ascontiguousarray(image)


def remuxed(packets: Iterable[Packet], track: Stream) -> Iterator[Packet]:
    """Packets of one file as packets of a track in another."""
    for packet in packets:
        if packet.dts is not None:  # not the empty one at the end of a stream
            packet.stream = track
            yield packet


class SoundFormat(NamedTuple):
    """What sound may be in a container."""

    container: str  # as ffmpeg names it
    copied: frozenset[str]  # what it takes and players expect in it
    encoder: str  # for all else
    before: bool  # whether a packet may begin before time 0, else ffmpeg moves the pictures


MP4_SOUND = SoundFormat("mp4", frozenset({"aac", "ac3", "alac", "eac3", "flac", "mp3", "opus"}), "aac", True)
WEBM_SOUND = SoundFormat("webm", frozenset({"opus", "vorbis"}), "libopus", False)


@dataclass(frozen=True)
class Soundtrack:
    """The sound of a file, and how it gets into another."""

    path: Path
    format: SoundFormat
    start: Fraction  # what becomes time 0, on the file's own clock
    copy: bool  # packets as they are; else encoded

    @classmethod
    def of(cls, path: Path | str | None, format: SoundFormat, start: Fraction | float = 0) -> Soundtrack | None:
        """Looks at a file and tries which way works: now, rather than at the end of a long video.

        Args:
            path: a video or sound file.
            format: what it is to get into.
            start: seconds after the file's first picture that become time 0.

        Returns:
            None without a file, or if it has no sound.

        Raises:
            UserError: the file cannot be read, or neither way works.
        """
        if path is None:
            return None
        path = Path(path)
        with open_media(path) as container:
            if not container.streams.audio:
                return None
            sound, pictures = container.streams.audio[0], video_stream(container)
            codec = sound.codec_context.codec.canonical_name if sound.codec_context else "of an unknown kind"
            first = next(decode(container, pictures, path), None) if pictures else None
            begin = Fraction(0) if first is None or first.pts is None else time_of(first)
        for copy in (True, False) if codec in format.copied else (False,):
            soundtrack = cls(path, format, begin + Fraction(start), copy)
            with suppress(av.error.FFmpegError, ValueError), open_media(path) as container:
                with av.open(io.BytesIO(), "w", format=format.container) as output:
                    packets = list(itertools.islice(soundtrack.packets(container, output, math.inf), 8))
                    output.mux(packets)
                if packets:
                    return soundtrack
                if start > 0:
                    logger.warning("%s: its sound ends before %g s; going without", path, float(start))
                    return None
        raise UserError(f"{path}: no way to use its sound ({codec}); convert it, or go without")

    def packets(self, source: InputContainer, output: OutputContainer, end: Fraction | float) -> Iterator[Packet]:
        """Adds a track to `output` and returns packets for it, from `start` up to `end` seconds after it."""
        stream = source.streams.audio[0]
        if self.copy:
            copied = output.add_stream_from_template(stream)
            return remuxed(self._between(source.demux(stream), end, _delay(stream)), copied)
        rates = av.Codec(self.format.encoder, "w").audio_rates or [stream.rate]
        track = output.add_stream(self.format.encoder, rate=stream.rate if stream.rate in rates else 48_000)
        assert isinstance(track, AudioStream)
        track.codec_context.layout = "mono" if stream.channels == 1 else "stereo"
        return _encoded(self._between(decode(source, stream, self.path), end), track)

    def _between(
        self, pieces: Iterable[Piece], end: Fraction | float, delay: Fraction = Fraction(0)
    ) -> Iterator[Piece]:
        """Packets or frames of sound moved by `-start`, without those that then are before 0 or after `end`.

        `delay` is how much of the first packet players leave out, in seconds.
        """
        for piece in pieces:
            if piece.pts is None or piece.time_base is None:
                continue
            shift = round(self.start / piece.time_base)
            time = (piece.pts - shift) * piece.time_base
            if time >= end:
                return
            # One packet that ends at 0 stays: a decoder needs it to get going, and players leave it out.
            length = (piece.duration or 0) * piece.time_base if self.format.before else delay
            if time + length < 0:
                continue
            piece.pts -= shift
            if piece.dts is not None:
                piece.dts -= shift
            yield piece

    def write(self, path: Path, end: Fraction) -> None:
        """Writes a file of this sound alone, in one step."""
        whole = path.with_name(path.name + ".completing")
        try:
            with open_media(self.path) as source, av.open(f"file:{whole}", "w", format=self.format.container) as output:
                for packet in self.packets(source, output, end):
                    output.mux(packet)
            os.replace(whole, path)
        finally:
            whole.unlink(missing_ok=True)


def _delay(stream: AudioStream) -> Fraction:
    """How long before its time the sound of a packet of Opus begins, in seconds rounded up to 1/1000; else 0."""
    head = stream.codec_context.extradata or b""
    samples = int.from_bytes(head[10:12], "little") if head.startswith(b"OpusHead") else 0
    return Fraction(-(-samples // 48), 1000)


def _encoded(frames: Iterable[av.AudioFrame], track: AudioStream) -> Iterator[Packet]:
    for frame in frames:
        yield from track.encode(frame)
    yield from track.encode(None)


def _cut_off(path: Path) -> bool:
    """Whether an mp4 ends before its boxes do. A fragmented one (`.part`) may end anywhere."""
    size, position = path.stat().st_size, 0
    with open(path, "rb") as file:
        while position < size:
            file.seek(position)
            header = file.read(16)
            length, kind = int.from_bytes(header[:4], "big"), header[4:8]
            if kind not in _MP4_BOXES or length == 0 or (position == 0 and kind != b"ftyp"):
                return False  # a fragment, another format, something appended; 0 is "up to the end"
            position += int.from_bytes(header[8:], "big") if length == 1 else max(length, 8)
    return position > size
