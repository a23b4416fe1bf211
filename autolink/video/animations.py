"""Frames as an animation that loops: a gif with the palette that suits all of them best, a WebP or an APNG.

However many there are, one is in memory at a time, and each has its own time. Not so with imageio, which holds all of
them when it writes through Pillow, and spaces them evenly when it writes through PyAV.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
from av.filter.context import FilterContext
from av.video.stream import VideoStream
from PIL import Image

from autolink.video.containers import time_of

ANIMATION_SUFFIXES = frozenset({".gif", ".webp", ".apng"})
"""Of the animations that can be written."""

_GIF_TICK, _TICK = Fraction(1, 100), Fraction(1, 1000)  # the units in which they count, in seconds
_GIF_SHORTEST, _SHORTEST = 2, 11  # ticks: what asks for less is shown for a tenth of a second
_WEBP = {"quality": 90, "method": 4}  # a talking head at 256² has 43 dB so, in 4.4 kB a frame
_GIF_NOTE, _PNG_NOTE, _PNG_END, _DESCRIPTION = b"\x21\xfe", b"tEXtComment\0", 12, 0x010E
_NOTE_WITHIN = 8192  # bytes at the end of a gif or APNG

Frames = Callable[[], Iterator[av.VideoFrame]]
"""Begins a pass over frames with their times."""


def write_animation(
    path: Path, suffix: str, frames: Frames, width: int, height: int, frame_rate: Fraction, note: str = ""
) -> None:
    """Writes an animation, in two passes over the frames; an APNG in one.

    Times are rounded to 1/100 s in a gif, else to 1/1000 s. A frame that comes less than 1/50 s after the one before,
    or 11/1000 s in a WebP or APNG, is left out. Of frames of a WebP that look alike, as libwebp judges, the first is
    stored and shown for longer.

    Args:
        path: the file to write.
        suffix: one of `ANIMATION_SUFFIXES`.
        frames: begins a pass.
        width: of the frames, in pixels.
        height: likewise.
        frame_rate: frames a second: how long the last is shown.
        note: a text in ASCII that the file is to hold, for `read_note`.
    """
    if suffix == ".gif":
        last = max(_GIF_SHORTEST, round(1 / frame_rate / _GIF_TICK))
        shown = _indexed(frames, width, height)
        _encode(path, "gif", "pal8", shown, width, height, frame_rate, {"loop": "0", "final_delay": str(last)})
        if note:
            pieces = (note[start : start + 255].encode() for start in range(0, len(note), 255))
            _insert(path, _GIF_NOTE + b"".join(bytes([len(piece)]) + piece for piece in pieces) + b"\0", 1)
        return
    last = max(_SHORTEST, round(1 / frame_rate / _TICK))
    if suffix == ".apng":
        options = {"plays": "0", "final_delay": str(last * _TICK)}
        _encode(path, "apng", "rgb24", _shown(frames(), "rgb24"), width, height, frame_rate, options)
        if note:
            chunk = _PNG_NOTE + note.encode()
            size, check = (number.to_bytes(4, "big") for number in (len(chunk) - 4, zlib.crc32(chunk)))
            _insert(path, size + chunk + check, _PNG_END)
    else:
        _write_webp(path, frames, width, height, last, note)


def read_note(path: Path) -> str:
    """The note that `write_animation` left in a file; an empty text if it left none, or the file is something else.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        kind = file.read(4)
        if kind == b"RIFF":
            with Image.open(file, formats=("WEBP",)) as image:
                return str(image.getexif().get(_DESCRIPTION, ""))
        file.seek(-min(_NOTE_WITHIN, file.seek(0, os.SEEK_END)), os.SEEK_END)
        end = file.read()
    if kind == b"\x89PNG":
        return end.partition(_PNG_NOTE)[2][: -_PNG_END - 4].decode("ascii", "replace")
    pieces, note = end.rpartition(_GIF_NOTE)[2] if kind == b"GIF8" else b"", b""
    while pieces and (length := pieces[0]):
        note, pieces = note + pieces[1 : length + 1], pieces[length + 1 :]
    return note.decode("ascii", "replace")


def _insert(path: Path, content: bytes, before_end: int) -> None:
    """Puts something in front of the last bytes of a file."""
    with open(path, "r+b") as file:
        file.seek(-before_end, os.SEEK_END)
        end = file.read()
        file.seek(-before_end, os.SEEK_END)
        file.write(content + end)


def _encode(
    path: Path,
    encoder: str,
    pixels: str,
    frames: Iterator[av.VideoFrame],
    width: int,
    height: int,
    frame_rate: Fraction,
    options: dict[str, str],
) -> None:
    """Writes frames, timed, by the encoder of ffmpeg that has the name of the format."""
    with av.open(f"file:{path}", "w", format=encoder, options=options) as output:
        stream = output.add_stream(encoder, rate=frame_rate)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        stream.time_base = stream.codec_context.time_base = _GIF_TICK if encoder == "gif" else _TICK
        for frame in frames:
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))


def _write_webp(path: Path, frames: Frames, width: int, height: int, last: int, note: str) -> None:
    """Writes a WebP by Pillow's encoder: ffmpeg's holds all frames, and guesses how long the last is shown."""
    ticks = [round(time_of(frame) / _TICK) for frame in _shown(frames(), "rgb24")]
    durations = [after - before for before, after in pairwise(ticks)] + [last]
    shown = _shown(frames(), "rgb24")
    picture, at = Image.new("RGB", (width, height)), -1

    def seek(number: int) -> None:
        nonlocal at
        while at < number:
            picture.paste(Image.fromarray(next(shown).to_ndarray()))
            at += 1

    seek(0)
    # Pillow saves such a picture frame by frame.
    picture.n_frames, picture.seek = len(ticks), seek  # type: ignore[attr-defined,method-assign,assignment]
    about = Image.Exif()
    if note:
        about[_DESCRIPTION] = note
    picture.save(path, "WEBP", save_all=True, duration=durations, loop=0, exif=about, **_WEBP)


def _shown(frames: Iterator[av.VideoFrame], pixels: str) -> Iterator[av.VideoFrame]:
    """Frames that an animation can show, timed from the first in its unit, in such pixels; `bgra` for a gif."""
    tick, shortest = (_GIF_TICK, _GIF_SHORTEST) if pixels == "bgra" else (_TICK, _SHORTEST)
    start = last = None
    for frame in frames:
        at = round(time_of(frame) / tick)
        start = at if start is None else start
        if last is None or at - last >= shortest:
            last = at
            frame = frame.reformat(format=pixels)
            frame.pts, frame.time_base = at - start, tick
            yield frame


# -- the palette of a gif ---------------------------------------------------------------------------


def _indexed(frames: Frames, width: int, height: int) -> Iterator[av.VideoFrame]:
    """Frames in the 256 colours that suit all of them best."""
    palette = _palette(_shown(frames(), "bgra"), width, height)
    graph = av.filter.Graph()
    source, colours, sink = _buffer(graph, width, height), _buffer(graph, 16, 16), graph.add("buffersink")
    paint = graph.add("paletteuse", "dither=bayer:bayer_scale=4")
    source.link_to(paint, 0, 0)
    colours.link_to(paint, 0, 1)
    paint.link_to(sink)
    graph.configure()
    colours.push(palette)
    colours.push(None)
    for frame in _shown(frames(), "bgra"):
        source.push(frame)
        yield from _pulled(sink)
    source.push(None)
    yield from _pulled(sink)


def _palette(frames: Iterator[av.VideoFrame], width: int, height: int) -> av.VideoFrame:
    """The colours of all frames, as a picture."""
    graph = av.filter.Graph()
    source, sink = _buffer(graph, width, height), graph.add("buffersink")
    graph.link_nodes(source, graph.add("palettegen"), sink).configure()
    for frame in frames:
        source.push(frame)
        next(_pulled(sink), None)  # takes the frame from the queue
    source.push(None)
    return next(_pulled(sink))


def _buffer(graph: av.filter.Graph, width: int, height: int) -> FilterContext:
    return graph.add_buffer(width=width, height=height, format=av.VideoFormat("bgra"), time_base=_GIF_TICK)


def _pulled(sink: FilterContext) -> Iterator[av.VideoFrame]:
    """Frames that are ready."""
    with suppress(av.error.BlockingIOError, av.error.EOFError):
        while True:
            frame = sink.pull()
            assert isinstance(frame, av.VideoFrame)
            yield frame
