"""Frames as an animated gif, with the palette that suits all of them best."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import av
from av.filter.context import FilterContext

_TICK = Fraction(1, 100)  # the unit in which a gif counts
_SHORTEST = 2  # ticks: viewers show what asks for less for ten


def write_gif(
    path: Path, frames: Callable[[], Iterator[av.VideoFrame]], width: int, height: int, frame_rate: Fraction
) -> None:
    """Writes an animated gif that loops, in two passes over the frames.

    Times are rounded to 1/100 s. A frame that comes less than 1/50 s after the one before is left out.

    Args:
        path: the file to write.
        frames: begins a pass: frames with their times.
        width: of the frames, in pixels.
        height: likewise.
        frame_rate: frames a second: how long the last is shown.
    """
    last = max(_SHORTEST, round(1 / frame_rate / _TICK))
    palette = _palette(frames(), width, height)
    with av.open(f"file:{path}", "w", format="gif", options={"final_delay": str(last)}) as output:
        stream = output.add_stream("gif", rate=frame_rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "pal8"
        stream.time_base = stream.codec_context.time_base = _TICK
        for frame in _indexed(frames(), palette, width, height):
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))


def _palette(frames: Iterator[av.VideoFrame], width: int, height: int) -> av.VideoFrame:
    """The 256 colours of all frames, as a picture."""
    graph = av.filter.Graph()
    source, sink = _buffer(graph, width, height), graph.add("buffersink")
    graph.link_nodes(source, graph.add("palettegen"), sink).configure()
    for frame in _shown(frames):
        source.push(frame)
        next(_pulled(sink), None)  # takes the frame from the queue
    source.push(None)
    return next(_pulled(sink))


def _indexed(
    frames: Iterator[av.VideoFrame], palette: av.VideoFrame, width: int, height: int
) -> Iterator[av.VideoFrame]:
    """Frames in the colours of the palette."""
    graph = av.filter.Graph()
    source, colours, sink = _buffer(graph, width, height), _buffer(graph, 16, 16), graph.add("buffersink")
    paint = graph.add("paletteuse", "dither=bayer:bayer_scale=4")
    source.link_to(paint, 0, 0)
    colours.link_to(paint, 0, 1)
    paint.link_to(sink)
    graph.configure()
    colours.push(palette)
    colours.push(None)
    for frame in _shown(frames):
        source.push(frame)
        yield from _pulled(sink)
    source.push(None)
    yield from _pulled(sink)


def _buffer(graph: av.filter.Graph, width: int, height: int) -> FilterContext:
    return graph.add_buffer(width=width, height=height, format="bgra", time_base=_TICK)


def _shown(frames: Iterator[av.VideoFrame]) -> Iterator[av.VideoFrame]:
    """Frames that a gif can show, timed from the first in its unit."""
    start = last = None
    for frame in frames:
        tick = round(frame.pts * frame.time_base / _TICK)
        start = tick if start is None else start
        if last is None or tick - last >= _SHORTEST:
            last = tick
            frame = frame.reformat(format="bgra")
            frame.pts, frame.time_base = tick - start, _TICK
            yield frame


def _pulled(sink: FilterContext) -> Iterator[av.VideoFrame]:
    """Frames that are ready."""
    with suppress(av.error.BlockingIOError, av.error.EOFError):
        while True:
            yield sink.pull()
