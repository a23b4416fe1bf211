"""Sound on its way from one media file into another: copied where the container takes it, else encoded anew."""

from __future__ import annotations

import io
import itertools
import logging
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple, TypeVar

import av
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer

from autolink.errors import UserError
from autolink.video.containers import Packet, decode, open_media, remuxed, time_of, video_stream

logger = logging.getLogger(__name__)

Piece = TypeVar("Piece", "Packet", av.AudioFrame)


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
