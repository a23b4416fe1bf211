"""Videos that tests make, and what they read off them."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from autolink.video import VideoReader

NTSC = Fraction(30000, 1001)
RED, GREEN, BLUE, WHITE = (200, 30, 30), (30, 180, 40), (40, 40, 200), (230, 230, 230)


def quarters(height: int = 48, width: int = 64) -> np.ndarray:
    """Red, green, blue, white from top left to bottom right."""
    image = np.empty((height, width, 3), np.uint8)
    image[: height // 2, : width // 2], image[: height // 2, width // 2 :] = RED, GREEN
    image[height // 2 :, : width // 2], image[height // 2 :, width // 2 :] = BLUE, WHITE
    return image


def corners(image: np.ndarray) -> list[tuple[int, ...]]:
    """Colours in the middle of the four quarters."""
    height, width = image.shape[:2]
    return [
        tuple(int(v) for v in image[y, x]) for y in (height // 4, 3 * height // 4) for x in (width // 4, 3 * width // 4)
    ]


def assert_quarters(image: np.ndarray, expected: list[tuple[int, ...]], tolerance: int = 4) -> None:
    found = corners(image)
    assert np.abs(np.array(found) - np.array(expected)).max() <= tolerance, f"{found} instead of {expected}"


def numbered(index: int, height: int = 32, width: int = 32) -> np.ndarray:
    return np.full((height, width, 3), (index * 37) % 250, np.uint8)


def make_clip(
    path: Path,
    images: list[np.ndarray],
    times: list[Fraction] | None = None,
    rate: Fraction | int = 25,
    codec: str = "libx264",
    sound: tuple[str, float] | None = None,
    sound_rate: int = 48_000,
    options: dict[str, str] | None = None,
    start: Fraction = Fraction(0),
    edit=lambda stream: None,
) -> Path:
    """A clip made by PyAV alone. `sound`: codec, seconds of it; silent but for a click at 0.5 s."""
    height, width = images[0].shape[:2] if images else (32, 32)
    times = times or [Fraction(i) / rate for i in range(len(images))]
    base = Fraction(1, 90_000)
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=Fraction(rate))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.time_base = stream.codec_context.time_base = base if codec != "mpeg4" else Fraction(1, 25)
        base = stream.codec_context.time_base
        stream.codec_context.colorspace = 1
        edit(stream)
        track = None
        if sound is not None:
            track = container.add_stream(sound[0], rate=sound_rate)
            track.codec_context.layout = "mono"
        for image, at in zip(images, times):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace=1, dst_color_range=1)
            frame.pts, frame.time_base = round((at + start) / base), base
            container.mux(stream.encode(frame))
        if images:
            container.mux(stream.encode(None))
        if track is not None:
            samples = np.zeros((1, int(sound[1] * sound_rate)), np.float32)
            click = int((0.5 + start) * sound_rate)
            samples[0, click : click + 400] = np.sin(np.arange(400) * 2 * math.pi / 40)
            for first in range(0, samples.shape[1], 1024):
                piece = samples[:, first : first + 1024]
                frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout="mono")
                frame.sample_rate, frame.pts, frame.time_base = sound_rate, first, Fraction(1, sound_rate)
                container.mux(track.encode(frame))
            container.mux(track.encode(None))
    return path


def sound_of(path: Path) -> tuple[str, float, float]:
    """Codec, time of the click, time of the end of the sound, in seconds after the first picture if there is one."""
    start = Fraction(0)
    with av.open(str(path)) as container:
        if container.streams.video:
            picture = next(container.decode(video=0))
            start = picture.pts * picture.time_base
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        loudest, click, end = 0.0, 0.0, 0.0
        for frame in container.decode(stream):
            values = np.abs(frame.to_ndarray().astype(np.float64)).reshape(-1)
            first = float(frame.pts * frame.time_base - start)
            end = first + frame.samples / frame.sample_rate
            if values.max() > loudest:
                loudest, click = values.max(), first + int(values.argmax()) / frame.sample_rate
        return stream.codec_context.codec.canonical_name, click, end


def times_of(path: Path) -> list[Fraction]:
    with VideoReader(path) as frames:
        return [frame.time for frame in frames]
