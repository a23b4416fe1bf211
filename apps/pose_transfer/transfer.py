"""Make a source move as a driver does: `autolink-transfer --src S --driver D [--output out.mp4]`.

The driver is read as a stream, a batch at a time: decode → find keypoints → retarget (`motion.py`) → draw
edges → paint → encode. Decoding, networks and encoding each have a thread. The result has the driver's timestamps and
sound, and memory does not grow with its length; where the reference frame has to be searched, the driver is read once
more beforehand and only its keypoints are kept.

Shapes: B frames of a batch, K keypoints, S side of the network's images.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
import tyro
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from autolink.background import ahead
from autolink.detector import Keypoints
from autolink.devices import pick_device
from autolink.errors import UserError, command
from autolink.images import square
from autolink.inference import Precision, fold, half_precision
from autolink.smoothing import OneEuroFilter
from autolink.video import FrameSource, VideoWriter, open_frames
from autolink.visualize import edge_map_image, to_uint8

from .model import PoseTransfer
from .motion import nearest_pair, relative

SOURCE_FRAMES = 1000
"""Of a source video, this many frames are candidates for the one whose looks are taken."""
LOW_CONFIDENCE = 0.3
"""A frame whose keypoints are on average less certain than this probably does not show what the model knows. With the
shipped model of faces, 98 % of unseen faces had 0.69 or more, cats and dogs 0.3, noise and distant figures 0.04."""
_ADVICE = "is what the model knows in the middle of the picture, large and alone?"

logger = logging.getLogger("autolink")


@dataclass
class Options:
    """Make a source image or video move as the driver video does."""

    src: Path
    """Who should move: an image or a video, of which one frame is taken."""
    driver: Path
    """Whose motion: a video, or a folder of frames."""
    output: Path | None = None
    """The video to write; default SRC-as-DRIVER.mp4 in the working directory."""
    model: str = "faces-transfer"
    """A shipped name, a file, a folder or a hub id."""
    motion: Literal["relative", "absolute"] = "relative"
    """relative: the driver's movement since its reference frame, added to the source's pose at its scale.
    absolute: the driver's keypoints as they are, which hands over the driver's shape as well."""
    reference: str = "auto"
    """Driver frame that stands for the source's pose: auto (the most similar), first, or its number."""
    source_frame: str = "auto"
    """Of a source video: auto (the one most similar to the reference), first, or its number."""
    fit: Literal["crop", "pad"] = "crop"
    """How frames become square. crop: the centre, as in training. pad: all of it; the output has the source's
    aspect."""
    smooth: bool = False
    """Smooth the driver's keypoints over time (one-euro filter)."""
    sound: bool = True
    """Keep the driver's sound."""
    preview: Literal["side-by-side", "off"] = "side-by-side"
    """Also write OUTPUT-preview.mp4: source | driver | edge map | result."""
    batch_size: int = 16
    """Frames at a time."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1`, `mps` …"""
    precision: Precision = "auto"
    """Of the networks: `auto` takes bfloat16 where the device has units for it."""
    max_frames: int | None = None
    """Stop after this many frames of the driver."""


class Casting(NamedTuple):
    """What is decided before the first frame is painted."""

    source_image: Tensor
    """(1, 3, S, S) in [0, 1]."""
    source_keypoints: Tensor
    """(1, K, 2)."""
    reference: Tensor
    """(K, 2), the driver's pose that stands for the source's."""
    driver: Keypoints | None
    """Keypoints of all of the driver's frames, if they had to be found already."""


@torch.inference_mode()
def transfer(options: Options) -> Path:
    """Write the video, and its preview if wanted; returns the video's path.

    Raises:
        UserError: If an input, the model or an option cannot be used.
    """
    if options.batch_size < 1 or (options.max_frames is not None and options.max_frames < 1):
        raise UserError("--batch-size and --max-frames must be at least 1")
    output = options.output or Path(f"{options.src.stem}-as-{options.driver.stem}.mp4")
    if output.resolve() in (options.src.resolve(), options.driver.resolve()):
        raise UserError(f"{output} is an input and would be overwritten; choose another --output")
    with ExitStack() as files:
        source = files.enter_context(open_frames(options.src))
        driver = files.enter_context(open_frames(options.driver))
        model = fold(PoseTransfer.from_pretrained(options.model, pick_device(options.device)))
        size = model.config.image_size
        print(f"model: {options.model} ({size}x{size}, {model.config.appearance} appearance)")
        casting = _cast(model, source, driver, options)

        rows, columns = slice(0, size), slice(0, size)
        if options.fit == "pad":
            rows, columns = _content(source.width, source.height, size)
        shape = columns.stop - columns.start, rows.stop - rows.start
        sound = driver.path if driver.has_audio and options.sound else None
        result = files.enter_context(VideoWriter(output, *shape, driver.frame_rate, sound))
        preview = None
        if options.preview == "side-by-side":
            path = output.with_name(f"{output.stem}-preview.mp4")
            preview = files.enter_context(VideoWriter(path, 4 * size, size, driver.frame_rate, sound))

        progress = files.enter_context(_progress("painting", driver, options.max_frames))
        batches = files.enter_context(closing(ahead(_paint(model, casting, driver, options))))
        for times, panels in batches:
            for time, image in zip(times, panels):
                result.write(image[rows, -size:][:, columns], time)
                if preview is not None:
                    preview.write(image, time)
            progress.update(len(times))
    print(*([output] if preview is None else [output, preview.path]), sep="\n")
    return output


@torch.inference_mode()
def _paint(
    model: PoseTransfer, casting: Casting, driver: FrameSource, options: Options
) -> Iterator[tuple[list[Fraction], np.ndarray]]:
    """For each batch: times, and results (B, S, S, 3) uint8; with preview (B, S, 4·S, 3), result rightmost."""
    device = casting.source_image.device
    with half_precision(device, options.precision):
        source = model.encode(casting.source_image, casting.source_keypoints)
    smooth, uncertain, done = OneEuroFilter(), 0, 0
    with closing(ahead(_batches(driver, model, options, options.max_frames))) as batches:
        for times, squares in batches:
            images = _floats(model, squares)
            if casting.driver is None:
                keypoints, confidence = _detect(model, images, options)
            else:
                keypoints, confidence = (found[done : done + len(times)] for found in casting.driver)
            if options.smooth:
                keypoints = torch.stack([smooth(pose, float(time)) for pose, time in zip(keypoints, times)])
            if options.motion == "relative":
                keypoints = relative(keypoints, casting.reference, casting.source_keypoints[0])
            edge_map = model.edge_map(keypoints)
            with half_precision(device, options.precision):
                painted = model.paint(source, keypoints, edge_map)
            panels = [painted]
            if options.preview == "side-by-side":
                panels = [casting.source_image.expand_as(images), images, edge_map_image(edge_map), painted]
            yield times, _side_by_side(panels)
            done += len(times)
            uncertain += int((confidence.mean(1) < LOW_CONFIDENCE).sum())
    if uncertain:
        message = "%s: uncertain keypoints in %d of %d frames; %s"
        logger.warning(message, driver.path, uncertain, done, _ADVICE)


def _cast(model: PoseTransfer, source: FrameSource, driver: FrameSource, options: Options) -> Casting:
    """Choose the source's frame and the driver's reference frame, and say which."""
    # Absolute motion has no reference; the source's frame is then chosen by the driver's first.
    reference = options.reference if options.motion == "relative" else "first"
    choice = options.source_frame
    sources, source_frames = _candidates(model, source, "source-frame", choice, options, SOURCE_FRAMES)
    drivers, driver_frames = _candidates(model, driver, "reference", reference, options, options.max_frames)
    pair = nearest_pair(sources.xy[source_frames], drivers.xy[driver_frames])
    source_frame, driver_frame = source_frames[pair[0]], driver_frames[pair[1]]
    if source.frame_count != 1:
        print(f"source: frame {source_frame} of {source.path}")
    if options.motion == "relative":
        print(f"reference: frame {driver_frame} of {driver.path} stands for the source's pose")
    if sources.confidence[source_frame].mean() < LOW_CONFIDENCE:
        logger.warning("%s: uncertain keypoints; %s", source.path, _ADVICE)
    shown = next(islice(source, source_frame, None)).image
    square_image = torch.from_numpy(_square(shown, model.config.image_size, options.fit)).permute(2, 0, 1)[None]
    return Casting(
        _floats(model, square_image),
        sources.xy[source_frame][None],
        drivers.xy[driver_frame],
        drivers if reference == "auto" else None,
    )


def _candidates(
    model: PoseTransfer, frames: FrameSource, option: str, choice: str, options: Options, limit: int | None
) -> tuple[Keypoints, list[int]]:
    """Keypoints of a video's first frames, as many as the choice needs, and the frames to choose from."""
    if choice not in ("auto", "first") and not choice.isdecimal():
        raise UserError(f"--{option} takes auto, first or the number of a frame from 0 on, not '{choice}'")
    number = None if choice == "auto" else 0 if choice == "first" else int(choice)
    limit = limit if number is None else number + 1
    found = []
    with ExitStack() as stack:
        progress = stack.enter_context(_progress(f"looking at {frames.path.name}", frames, limit))
        batches = stack.enter_context(closing(ahead(_batches(frames, model, options, limit))))
        for times, squares in batches:
            found.append(_detect(model, _floats(model, squares), options))
            progress.update(len(times))
    keypoints = Keypoints(*(torch.cat(parts) for parts in zip(*found)))
    count = len(keypoints.xy)
    if number is not None and number >= count:
        raise UserError(f"--{option} {number}: {frames.path} has {count} frames, 0 to {count - 1}")
    return keypoints, list(range(count)) if number is None else [number]


def _batches(
    frames: FrameSource, model: PoseTransfer, options: Options, limit: int | None
) -> Iterator[tuple[list[Fraction], Tensor]]:
    """A batch at a time, of up to `limit` frames: times, and the network's square images (B, 3, S, S) uint8."""
    size = model.config.image_size
    stream = ((time, _square(image, size, options.fit)) for image, time in islice(frames, limit))
    while batch := list(islice(stream, options.batch_size)):
        times, squares = zip(*batch)
        yield list(times), torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2)


def _floats(model: PoseTransfer, squares: Tensor) -> Tensor:
    """Bytes as floats in [0, 1], on the model's device."""
    return squares.to(model.autolink.edge_weights.device).float() / 255


def _detect(model: PoseTransfer, images: Tensor, options: Options) -> Keypoints:
    """Keypoints of images (B, 3, S, S) in [0, 1]."""
    with half_precision(images.device, options.precision):
        return model.autolink.detect(images)


def _square(frame: np.ndarray, size: int, fit: str) -> np.ndarray:
    """Crop as in training, or shrink into the square and repeat the edges around: (size, size, 3) uint8."""
    image = Image.fromarray(frame)
    if fit == "crop":
        return np.array(square(image, size))
    rows, columns = _content(*image.size, size)
    shape = columns.stop - columns.start, rows.stop - rows.start
    inner = np.asarray(image.resize(shape, Image.Resampling.BICUBIC, reducing_gap=3))
    around = (rows.start, size - rows.stop), (columns.start, size - columns.stop), (0, 0)
    return np.pad(inner, around, mode="edge")


def _content(width: int, height: int, size: int) -> tuple[slice, slice]:
    """Rows and columns that an image takes of the square it is padded to; an even number of each."""
    scale = size / max(width, height) / 2
    inner_width, inner_height = max(2, round(width * scale) * 2), max(2, round(height * scale) * 2)
    top, left = (size - inner_height) // 2, (size - inner_width) // 2
    return slice(top, top + inner_height), slice(left, left + inner_width)


def _side_by_side(panels: list[Tensor]) -> np.ndarray:
    """Images (B, 3, S, S) in [0, 1], n of them, → (B, S, n·S, 3) uint8."""
    return torch.cat([to_uint8(panel) for panel in panels], dim=3).permute(0, 2, 3, 1).contiguous().numpy()


def _progress(doing: str, frames: FrameSource, limit: int | None) -> tqdm:
    """A bar over up to `limit` frames, with frames a second."""
    counts = [count for count in (frames.frame_count, limit) if count is not None]
    return tqdm(desc=doing, total=min(counts, default=None), unit="frame")


@command
def main() -> None:
    """Entry point of `autolink-transfer`."""
    transfer(tyro.cli(Options, description=__doc__))


if __name__ == "__main__":
    main()
