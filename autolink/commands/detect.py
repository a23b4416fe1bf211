"""Keypoints of images and videos as files people can work with: `autolink detect --model M --output DIR INPUT...`.

Written into the output folder: keypoints.csv and keypoints.npz, or the tables asked for by `--formats`, and the graph
drawn over every input under overlays/. Videos are streamed: frames are held a batch at a time, whatever their number.

Shapes: B frames at a time, K keypoints, L landmarks, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import tyro
from torch import Tensor

from autolink.batching import Batches
from autolink.commands.calibrate import Calibration
from autolink.commands.tables import Detection, Format, Tables
from autolink.devices import pick_device
from autolink.errors import UserError, command, leave_out
from autolink.files import MEDIA, list_files, no_media, what_is
from autolink.geometry import from_pixels
from autolink.inference import Precision, fold
from autolink.model import AutoLink, load
from autolink.outputs import refuse_inputs
from autolink.pixels import unit_from_pictures
from autolink.progress import Bar, Progress, as_asked
from autolink.ranges import Checked, Count
from autolink.smoothing import OneEuroFilter
from autolink.threads import ahead
from autolink.tracking.confidence import WindowDetector
from autolink.tracking.follow import Crop, detect_followed
from autolink.video import FrameSource, VideoWriter, open_frames
from autolink.visualize import mark, overlay, save_png
from autolink.weights import own_file


@dataclass
class Options(Checked):
    """Find keypoints in images, folders of images and videos."""

    inputs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Images, folders of images, videos."""
    model: str = "faces"
    """A shipped name, a file, a folder or a hub id."""
    output: Path = Path("keypoints")
    """Folder for the tables and overlays/."""
    formats: tuple[Format, ...] = ("csv", "npz")
    """csv, npz: one table of all frames, and its arrays. deeplabcut: a csv a video. moseq: arrays by video."""
    calibration: Path | None = None
    """File of `autolink calibrate`: adds named landmarks; in deeplabcut and moseq they replace the keypoints."""
    crop: Crop = "none"
    """none: what is seen of a picture is the square in its middle. auto: where the model is not sure of what it finds
    there, its object is searched in the whole picture, and followed through a video."""
    smooth: bool = False
    """Smooth the keypoints of videos over time (one-euro filter)."""
    overlays: bool = True
    """Draw the graph over every input."""
    numbered: bool = False
    """Number the keypoints in the overlays, and name the landmarks."""
    batch_size: Count = 32
    """Frames at a time."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1`, `mps` …"""
    precision: Precision = "auto"
    """Of the networks: `auto` takes bfloat16 where the device has units for it."""
    progress: Progress = "auto"
    """auto: a bar where somebody sees it, on a terminal. json: an object a line on stderr, for a program. off: none."""


class Source(NamedTuple):
    """An image or video to read."""

    path: Path
    """The file."""
    name: Path
    """What its overlay is called, without a suffix; no other source has the name."""
    recording: str
    """What it belongs to: a video is a recording, and so are the images of a folder together."""
    moves: bool
    """Whether it is a video, or an animation, rather than an image."""


def detect_stream(
    model: AutoLink, frames: FrameSource, batch_size: int = 32, precision: Precision = "float32", crop: Crop = "none"
) -> Iterator[Detection]:
    """Keypoints of every frame of a video or image, in order; memory as `AutoLink.detect_stream`."""
    if crop == "auto":
        detector = WindowDetector(model, precision=precision, batches=Batches(batch_size))
        with closing(detect_followed(frames, detector)) as followed:
            for number, (frame, window, found) in enumerate(followed):
                yield Detection(frames.path, number, frame.time, frame.image, *found, window=window)
        return
    with closing(model.detect_stream(frames, batch_size, precision, lambda frame: frame.image)) as stream:
        for number, (frame, found) in enumerate(stream):
            yield Detection(frames.path, number, frame.time, frame.image, *found)


def smoothed(stream: Iterable[Detection]) -> Iterator[Detection]:
    """The detections of one video with their keypoints smoothed over time."""
    smooth = OneEuroFilter()
    for found in stream:
        height, width = found.image.shape[:2]
        half = min(height, width) / 2  # the filter's unit is half the side of the square that the model sees
        pixels = smooth(found.pixels / half, float(found.time)) * half
        yield found._replace(keypoints=from_pixels(pixels, height, width))


def calibrated(stream: Iterable[Detection], calibration: Calibration) -> Iterator[Detection]:
    """Detections with the landmarks that a calibration reads off their keypoints."""
    for found in stream:
        if found.window is None:
            landmarks = calibration.in_image(found.pixels, found.confidence, *found.image.shape[:2])
        else:
            x, y, side = found.window
            landmarks = calibration.in_square(found.pixels, found.confidence, x - side / 2, y - side / 2, side)
        yield found._replace(landmarks=landmarks)


@as_asked
def detect(options: Options) -> Tables:
    """Detect keypoints in all inputs and write the files.

    The arrays of `keypoints.npz`: `keypoints` (T, K, 2) in pixels, `confidence` (T, K), `frame` and `time` (T,),
    `source` (T,) into `sources`, `edges` (E, 2), `edge_weights` (E,); with a calibration also `landmarks` (T, L, 2)
    in pixels, `landmark_confidence` (T, L) and `landmark_names` (L,).

    Returns:
        What was written.

    Raises:
        UserError: If an input, the model or the calibration cannot be used.
    """
    if not options.inputs:
        raise UserError("nothing to find keypoints in; name images, folders of images or videos")
    sources = _expand(options.inputs, options.output)
    refuse_inputs(
        [_overlay_path(options.output, source) for source in sources if options.overlays],
        [*(source.path for source in sources), options.calibration, own_file(options.model)],
    )
    model = load(options.model, pick_device(options.device))
    calibration = Calibration.load(options.calibration, model) if options.calibration else None
    model = fold(model)
    images = sum(not source.moves for source in sources)
    with (
        Tables(options.output, options.formats, model, calibration) as tables,
        Bar(unit="frame", desc="detect", total=images) as progress,
    ):
        for source in sources:
            try:
                frames = open_frames(source.path)
            except UserError as error:
                if len(sources) == 1:
                    raise
                leave_out(error)
                continue
            with frames:
                _detect_source(model, source, frames, calibration, tables, progress, options)
        if not tables.count:
            raise UserError(f"none of the {len(sources)} inputs can be read; {sources[0].path} is the first of them")
    return tables


def _detect_source(
    model: AutoLink,
    source: Source,
    frames: FrameSource,
    calibration: Calibration | None,
    tables: Tables,
    progress: Bar,
    options: Options,
) -> None:
    """Detect in one image or video, into the tables and, if wanted, as a picture or a video."""
    with ExitStack() as stack:
        drawn = _overlay_path(options.output, source) if options.overlays else None
        writer = None
        stream = detect_stream(model, frames, options.batch_size, options.precision, options.crop)
        if source.moves:
            progress.total = (progress.total or 0) + (frames.frame_count or 0)
            if drawn is not None:
                sound = frames.path if frames.has_audio else None
                size = frames.width, frames.height
                writer = stack.enter_context(VideoWriter(drawn, *size, frames.frame_rate, sound))
            if options.smooth:
                stream = smoothed(stream)
        if calibration is not None:
            stream = calibrated(stream, calibration)
        for found in _as_far_as_possible(stack.enter_context(closing(ahead(stream, options.batch_size)))):
            tables.add(found, source.recording)
            progress.update()
            if drawn is None:
                continue
            picture = _draw(found, model, calibration.names if calibration else (), options.numbered)
            if writer is None:
                save_png(drawn, picture)
            else:
                writer.write(picture.permute(1, 2, 0).numpy(), found.time)


def _as_far_as_possible(stream: Iterable[Detection]) -> Iterator[Detection]:
    """The detections of one input, up to where it breaks off."""
    count = 0
    try:
        for found in stream:
            yield found
            count += 1
    except UserError as error:
        leave_out(UserError(f"{error} (its first {count} frames are done)" if count else str(error)))


def _overlay_path(output: Path, source: Source) -> Path:
    """The picture or video of the graph over a source."""
    drawn = output / "overlays" / source.name
    return drawn.with_name(f"{drawn.name}.{'mp4' if source.moves else 'png'}")


def _draw(found: Detection, model: AutoLink, names: Sequence[str], numbered: bool) -> Tensor:
    """The graph over one frame, and the landmarks if there are any: (3, H, W) uint8."""
    drawn = overlay(unit_from_pictures([found.image]), found.keypoints[None], model.edge_weights, numbered=numbered)[0]
    if found.landmarks is None:
        return drawn
    return mark(drawn, found.landmarks.xy, names if numbered else ())


def _expand(inputs: Iterable[Path], output: Path) -> list[Source]:
    """Every image and video that the inputs name, but for those in `output`; those of one recording follow each other.

    Raises:
        UserError: If an input does not exist, or a folder has neither images nor videos.
    """
    names: set[str] = set()
    recordings: dict[Path, list[Source]] = {}
    recording_names: set[str] = set()
    for given in inputs:
        if not given.exists():
            raise UserError(f"no such file or folder: {given}")
        files = list_files(given, given, MEDIA, output=output) if given.is_dir() else [given.name]
        if not files:
            raise no_media(given, MEDIA)
        root = given if given.is_dir() else given.parent
        for file in files:
            path, stem = root / file, Path(file).with_suffix("")
            moves = what_is(path).kind != "still"  # what is neither is tried as a video, which names it
            together = path if moves else path.parent.resolve()
            if together not in recordings:
                parts = stem.parts if moves else (root.resolve().name or "images", *stem.parent.parts)
                recordings[together] = []
                recording = _free("-".join(parts), recording_names)
            else:
                recording = recordings[together][0].recording
            recordings[together].append(Source(path, Path(_free(stem.as_posix(), names)), recording, moves))
    return [source for sources in recordings.values() for source in sources]


def _free(name: str, taken: set[str]) -> str:
    """The name, made longer until it is none of those taken, to which it is added."""
    while name in taken:
        name += "_"
    taken.add(name)
    return name


@command
def main() -> None:
    """Entry point of `autolink detect`."""
    options = tyro.cli(Options, description=__doc__)
    tables = detect(options)
    overlays = [options.output / "overlays"] if options.overlays else []
    print(f"{tables.count} frames: {', '.join(map(str, [*tables.written, *overlays]))}")
    if options.crop == "none" and 2 * tables.uncertain > tables.count:
        print(
            f"in {tables.uncertain} of them {options.model} is not sure of what it found; where its object is small or "
            "beside the middle, --crop auto looks for it"
        )
