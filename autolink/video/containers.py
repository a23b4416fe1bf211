"""Media files through PyAV: opening what a user gave, and decoding it.

Errors of ffmpeg become a `UserError` of one line.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias, cast, overload

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from autolink.errors import NO_ROOM, UserError
from autolink.files import what_is

logger = logging.getLogger(__name__)

Packet: TypeAlias = "av.Packet[Any]"
"""Of a stream of any kind."""
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
