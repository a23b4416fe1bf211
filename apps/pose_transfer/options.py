"""The options of `autolink-transfer`, and which transfers they ask for."""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from autolink.errors import UserError
from autolink.features import Features
from autolink.inference import Precision
from autolink.outputs import refuse_inputs
from autolink.progress import Progress
from autolink.ranges import Checked, Count, NotNegative, Positive, Range
from autolink.runs import contents
from autolink.tracking.follow import Crop
from autolink.tracking.windows import Fit
from autolink.video import check_output
from autolink.weights import own_file

from .motion import Kind

Side = Annotated[int, Range(16, 4096)]

SAME_PICTURES = {"output", "sound", "preview", "save_motion", "resume", "batch_size", "device", "progress"}
"""Options that change no picture of a result, or its rounding alone."""
FILES = {"src", "driver", "model"}
"""Options that name files, of which only the contents tell in the end."""


@dataclass
class Options(Checked):
    """Make a source image or video move as the driver video does."""

    src: tuple[Path, ...]
    """Who should move: an image or a video; several for all pairs with the drivers."""
    driver: tuple[Path, ...]
    """Whose motion: a video, a folder of frames, or a motion saved by --save-motion; several for all pairs."""
    output: Path | None = None
    """What to write: .mp4, .webm, .gif, .webp, .apng, or a folder of PNG files (a name without a suffix); default
    SRC-as-DRIVER.mp4 in the working directory. Of several pairs: the folder for such videos."""
    model: str | None = None
    """A shipped name, a file, a folder or a hub id; default faces-transfer. `people-transfer` knows standing people."""
    adapt: Count | None = None
    """Fine-tune the model on the source video first, for so many steps."""
    learn: Positive | None = None
    """Learn a model from the source and the driver themselves first, for so many minutes."""
    perceptual: Features | None = None
    """Features of the perceptual loss of --adapt and --learn; default theirs."""
    motion: Kind = "relative"
    """relative: the driver's movement since its reference frame, added to the source's pose at its scale.
    absolute: the driver's keypoints as they are, which hands over the driver's shape as well.
    skeleton: the directions of the driver's bones, with the lengths of the source's."""
    reference: str = "auto"
    """Driver frame that stands for the source's pose: auto (the most similar), first, or its number."""
    source_frame: str = "auto"
    """Of a source video, whose looks are taken: auto (the frame most similar to the reference), first, a number, or
    running: at every moment the frame of that time."""
    start: NotNegative = 0
    """Where to begin in the driver, in seconds."""
    end: Positive | None = None
    """Where to end in the driver, in seconds."""
    max_frames: Count | None = None
    """Stop after this many frames of the driver."""
    fit: Fit = "crop"
    """How frames become square. crop: a square of them, as in training. pad: all of it; the output has the source's
    aspect."""
    crop: Crop = "auto"
    """auto: where the middle of a frame does not show the object as the model knows it, a window that is searched. It
    follows the object if the model is sure enough of its keypoints (`faces-transfer` is); else it is one for the whole
    clip. none: the middle."""
    size: Side | None = None
    """Side in pixels of the square that is painted, at least the model's; default the source's own, at most 2160."""
    keep_still: bool = True
    """What the driver does not move stays the source's own pixels, instead of what the network makes of it."""
    paste_back: bool = False
    """Put what is painted back into the source's whole frame, which gives the result its size."""
    smooth: bool = False
    """Smooth the driver's keypoints over time (one-euro filter)."""
    sound: Literal["driver", "source", "none"] = "driver"
    """Whose sound the result has."""
    preview: Literal["side-by-side", "edges", "off"] = "side-by-side"
    """Also write OUTPUT-preview.mp4. side-by-side: source | driver | edge map | result. edges: edge map | result."""
    save_motion: Path | None = None
    """Also write the driver's keypoints, as .safetensors that --driver takes."""
    resume: bool = False
    """Go on with what the same command began before it was interrupted."""
    batch_size: Count = 16
    """Frames at a time; halved when memory runs out."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1`, `mps` …"""
    precision: Precision = "auto"
    """Of the networks: `auto` takes bfloat16 where the device has units for it."""
    progress: Progress = "auto"
    """auto: a bar where somebody sees it, on a terminal. json: an object a line on stderr, for a program. off: none."""


class Pair(NamedTuple):
    """One transfer."""

    source: Path
    driver: Path
    output: Path


def check(options: Options) -> None:
    """Raise a `UserError` for options that contradict each other or themselves."""
    if options.end is not None and options.end <= options.start:
        raise UserError(f"--start {options.start} --end {options.end}: expected start < end, in seconds")
    if options.learn is not None and (options.model is not None or options.adapt is not None):
        raise UserError("--learn makes a model of its own; leave out --model and --adapt")
    check_choice("reference", options.reference, "auto", "first")
    check_choice("source-frame", options.source_frame, "auto", "first", "running")
    if options.save_motion is not None and len(options.driver) > 1:
        raise UserError("--save-motion takes the keypoints of one driver; give one --driver")


def pairs_of(options: Options) -> list[Pair]:
    """Every source with every driver, and what is written for them.

    Raises:
        UserError: If an output cannot be written, or would overwrite an input or another.
    """
    if not options.src or not options.driver:
        raise UserError("nothing to do: give at least one --src and one --driver")
    several = len(options.src) * len(options.driver) > 1
    pairs = []
    for source, driver in itertools.product(options.src, options.driver):
        output = Path(f"{source.stem}-as-{driver.stem}.mp4")
        if options.output is not None:
            output = options.output / output if several else options.output
        written = [output, preview_path(output), *filter(None, [options.save_motion])]
        refuse_inputs(written, [*options.src, *options.driver, own_file(options.model)])
        pairs.append(Pair(source, driver, output))
        check_output(output)
    outputs = [pair.output for pair in pairs]
    twice = next((output for output in outputs if outputs.count(output) > 1), None)
    if twice is not None:
        raise UserError(f"two pairs of inputs would be written to {twice}; give inputs of different names")
    return pairs


def settings_of(pair: Pair, options: Options) -> dict[str, Any]:
    """What the pictures of a transfer depend on beside the weights of its model: options and their values."""
    chosen = {name: value for name, value in asdict(options).items() if name not in SAME_PICTURES}
    chosen |= {"src": _identity(pair.source), "driver": _identity(pair.driver)}
    settings = {f"--{name.replace('_', '-')}": value for name, value in chosen.items()}
    return {**settings, "contents of --src": contents(pair.source), "contents of --driver": contents(pair.driver)}


def made_with(pair: Pair, options: Options) -> dict[str, Any]:
    """What a finished transfer depends on beside the weights of its model, wherever its inputs lie, if they do."""
    known = {name: value for name, value in asdict(options).items() if name not in {*SAME_PICTURES, *FILES}}
    settings = {f"--{name.replace('_', '-')}": value for name, value in {**known, "sound": options.sound}.items()}
    inputs = {"--src": pair.source, "--driver": pair.driver}
    return settings | {f"contents of {name}": contents(path) for name, path in inputs.items() if path.exists()}


def _identity(path: Path) -> str:
    size = f" ({path.stat().st_size} bytes)" if path.is_file() else ""
    return f"{path.resolve()}{size}"


def check_choice(option: str, chosen: str, *words: str) -> None:
    """Raise a `UserError` for what is neither one of the words nor a number."""
    if chosen not in words and not chosen.isdecimal():
        raise UserError(f"--{option} takes {', '.join(words)} or the number of a frame from 0 on, not '{chosen}'")


def preview_path(output: Path) -> Path:
    """Where the preview of an output goes."""
    return output.with_name(f"{output.stem}-preview.mp4")
