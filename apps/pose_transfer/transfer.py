"""Make a source move as a driver does: `autolink-transfer --src S --driver D [--output out.mp4]`.

`autolink-transfer export` writes the network as ONNX (`export.py`).

The driver is read as a stream twice: once for its keypoints (`autolink.tracking`), which are all that is kept of it
and are retargeted to the source (`casting.py`); and once, beside the source, while frames are painted: decode → draw
edges → paint → put back → encode. Stages have threads of their own, and memory does not grow with the length.

Shapes: T frames, B of a batch, K keypoints, S side of the network's images, R side of what is painted.
"""

from __future__ import annotations

import math
import signal
import sys
from contextlib import ExitStack, closing
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from autolink.errors import Stopped, UserError, command
from autolink.progress import Bar, as_asked
from autolink.threads import ahead
from autolink.tracking.follow import Crop, Part, Track, look
from autolink.tracking.windows import content, paste
from autolink.video import FrameSource, check_begun, is_complete, open_frames, open_output, require_made_with
from autolink.weights import resolve

from .casting import Casting, Driver, Shown, candidates, cast
from .models import Models
from .options import Options, Pair, check, made_with, pairs_of, preview_path, settings_of
from .painting import paint
from .saved_motion import Motion, load_motion, save_motion

LARGEST = 2160
"""Side of what is painted, unless --size says more: the height of 4K, which every player shows."""


@as_asked
def transfer(options: Options) -> list[Path]:
    """Write a result for every pair of a source and a driver, and its preview if wanted; returns the results' paths.

    Raises:
        UserError: If the model or an option cannot be used, or a pair: of several, after the others are done.
    """
    check(options)
    pairs, done, failed = pairs_of(options), [], []
    models = Models(options)
    for pair in pairs:
        try:
            if options.resume and _is_there(pair, models, options):
                print(f"{pair.output}: already there")
            else:
                _perform(pair, models, options)
            done.append(pair.output)
        except UserError as error:
            if len(pairs) == 1:
                raise
            failed.append(f"{pair.source.name} as {pair.driver.name}")
            print(f"failed: {failed[-1]}: {error}", file=sys.stderr)
    if failed:
        raise UserError(f"{len(failed)} of {len(pairs)} transfers failed: {', '.join(failed)}")
    return done


def _is_there(pair: Pair, models: Models, options: Options) -> bool:
    """Whether all that is to be written for a pair is finished.

    Raises:
        UserError: It is, but was made with something else.
    """
    finished = all(is_complete(path) for path in _written(pair, options))
    if not finished or (options.save_motion is not None and not options.save_motion.is_file()):
        return False
    for path in _written(pair, options):
        if not require_made_with(path, _about(path, pair, models, options)):
            _require_newer(path, pair, models)  # by an earlier version, which did not say with what
    return True


def _written(pair: Pair, options: Options) -> list[Path]:
    """The result of a pair, and its preview if wanted."""
    return [pair.output, *([] if options.preview == "off" else [preview_path(pair.output)])]


def _about(path: Path, pair: Pair, models: Models, options: Options) -> dict[str, Any]:
    """What a finished result or preview depends on."""
    about = {**made_with(pair, options), **models.given}
    return about if path == pair.output else {**about, "--preview": options.preview}


def _require_newer(output: Path, pair: Pair, models: Models) -> None:
    """Raise a `UserError` if a finished output is older than what it should be made of."""
    for path in (pair.source, pair.driver, resolve(models.base)):
        if path.exists() and _changed(path) > _changed(output):
            raise UserError(
                f"{output}: older than {path}, so it may be of something else; remove it, or name another --output"
            )


def _changed(path: Path) -> float:
    """When a file, or what is directly in a folder, was last written to."""
    return max(one.stat().st_mtime for one in (path, *(path.iterdir() if path.is_dir() else ())))


def _perform(pair: Pair, models: Models, options: Options) -> None:
    """One transfer, from file to file."""
    if options.resume:
        check_begun(pair.output, {**settings_of(pair, options), **models.given})
    with ExitStack() as files:
        source = files.enter_context(open_frames(pair.source))
        if options.learn is not None:
            models.learn(pair, options.learn)
        else:
            models.load(models.base)
        driver = _study_driver(pair.driver, models, options, files)
        driver, track = _study_source(source, driver, models, options)
        if options.adapt is not None:
            models.adapt(source, track, options.adapt)
        casting = cast(
            models.model,
            track,
            driver.track,
            (pair.source, pair.driver),
            options.motion,
            options.reference,
            options.source_frame,
            options.smooth,
        )
        if options.save_motion is not None:
            save_motion(options.save_motion, _motion(driver, models.identity))
            print(f"motion: {options.save_motion}")
        _write(pair, source, driver, casting, models, options)


def _study_driver(path: Path, models: Models, options: Options, files: ExitStack) -> Driver:
    """Keypoints of the part of a driver that is wanted."""
    if path.suffix.lower() != ".safetensors":
        frames = files.enter_context(open_frames(path))
        part = Part(frames, options.start, options.end, options.max_frames)
        return Driver(path, look(part, models.detector, _crop(options), options.fit), part, frames.frame_rate)
    motion = load_motion(path)
    if motion.model != models.identity:
        raise UserError(f"{path}: keypoints of another AutoLink than that of {models.name}; save them with this model")
    end = math.inf if options.end is None else options.end
    kept = [index for index, time in enumerate(motion.times) if options.start <= time < end][: options.max_frames]
    if not kept:
        raise UserError(f"{path}: no frame of it is in the part asked for; look at --start and --end")
    windows = torch.tensor([[0.0, 0.0, 2.0]]).expand(len(kept), -1)
    track = Track(motion.xy[kept], motion.confidence[kept], windows, [motion.times[index] for index in kept])
    return Driver(path, track, None, motion.frame_rate)


def _study_source(source: FrameSource, driver: Driver, models: Models, options: Options) -> tuple[Driver, Track]:
    """Keypoints of the source's candidates; and the driver, cut where a source that runs along ends. Says why."""
    times = driver.track.times
    length = times[-1] - times[0] + 1 / driver.frame_rate
    end, count = candidates(options.source_frame, length)
    if options.adapt is not None:
        end = count = None  # learned from all of it
    track = look(Part(source, 0, end, count), models.detector, _crop(options), options.fit)
    why = f"{driver.path.name}, the driver"
    if len(times) == options.max_frames:
        why = "--max-frames"
    elif options.end is not None and times[-1] + 1 / driver.frame_rate >= options.end:
        why = "--end"
    if options.source_frame == "running" and source.frame_count != 1:
        there = track.times[-1] + 1 / source.frame_rate
        kept = sum(time - times[0] < there for time in times)
        if kept < len(times):
            why = f"{source.path.name}, the source, which ends before the driver"
            driver = driver._replace(track=driver.track.first(kept))
            length = driver.track.times[-1] - times[0] + 1 / driver.frame_rate
    print(f"length: {len(driver.track.times)} frames, {float(length):.2f} s, set by {why}")
    if options.size is None and options.source_frame != "running":  # a window that runs along would stutter
        track = track.aligned(source.width, source.height)
    return driver, track


def _crop(options: Options) -> Crop:
    # A model that is learned first has seen its clips as they are.
    return "none" if options.learn is not None else options.crop


def _motion(driver: Driver, identity: str) -> Motion:
    """A driver's keypoints as a file has them."""
    track = driver.track
    size = (0, 0) if driver.part is None else (driver.part.frames.width, driver.part.frames.height)
    return Motion(track.poses, track.confidence, track.times, driver.frame_rate, size, identity)


def _write(pair: Pair, source: FrameSource, driver: Driver, casting: Casting, models: Models, options: Options) -> None:
    """Paint all frames and write result and preview."""
    size, frame_rate = models.detector.size, driver.frame_rate
    with ExitStack() as files:
        side = _side(source, casting, size, options)
        shape = _shape(source, side, options)
        settings = {**settings_of(pair, options), **models.given, "weights of the model": models.weights}
        sound, start = _sound(source, driver, options)
        how: dict[str, Any] = {"audio_from": sound, "audio_start": start, "resume": options.resume}
        about = _about(pair.output, pair, models, options)
        result = files.enter_context(
            open_output(pair.output, *shape, frame_rate, settings=settings, about=about, **how)
        )
        outputs = [result]
        if options.preview != "off":
            width = size * (2 if options.preview == "edges" else 4 if driver.part is not None else 3)
            path, settings = preview_path(pair.output), {**settings, "--preview": options.preview}
            how |= {"settings": settings, "about": _about(path, pair, models, options)}
            outputs.append(files.enter_context(open_output(path, width, size, frame_rate, **how)))
        first = min(output.written for output in outputs)
        total = len(casting.times)
        bar = files.enter_context(Bar(desc="painting", total=total, initial=first, unit="frame"))
        painting = paint(models, casting, source, driver, options, side, first)
        frames = files.enter_context(closing(ahead(painting)))
        try:
            for index, (shown, painted, panels) in enumerate(frames, first):
                if index >= result.written:
                    result.write(_picture(shown, painted, casting, options), casting.times[index])
                if panels is not None and index >= outputs[-1].written:
                    outputs[-1].write(panels, casting.times[index])
                bar.update()
        except KeyboardInterrupt as asked:
            number = asked.number if isinstance(asked, Stopped) else signal.SIGINT
            raise Stopped(f"{pair.output}: {result.written} of {total} frames are there", number) from None
    print(*(output.path for output in outputs), sep="\n")


def _side(source: FrameSource, casting: Casting, least: int, options: Options) -> int:
    """Side of the square that is painted; says what set it."""
    sides = casting.source.windows[:, 2] * min(source.width, source.height) / 2
    own = round((sides.max() if options.source_frame == "running" else sides[casting.source_frame]).item())
    side = min(max(own, least), LARGEST) if options.size is None else options.size
    why = "as the source's square" if side == own else f"the source's square is {own}x{own}"
    print(f"painted: {side}x{side}, {why}")
    return side


def _shape(source: FrameSource, side: int, options: Options) -> tuple[int, int]:
    """Width and height of the result."""
    if options.paste_back:
        return source.width, source.height
    if options.fit == "pad":
        rows, columns = content(source.width, source.height, side)
        return columns.stop - columns.start, rows.stop - rows.start
    return side, side


def _sound(source: FrameSource, driver: Driver, options: Options) -> tuple[Path | None, Fraction]:
    """The file whose sound the result has, and the time in it at which the result begins."""
    if options.sound == "source" and source.has_audio:
        return source.path, Fraction(0)
    if options.sound == "driver" and driver.part is not None and driver.part.frames.has_audio:
        return driver.path, driver.track.times[0]
    return None, Fraction(0)


def _picture(shown: Shown, painted: np.ndarray, casting: Casting, options: Options) -> np.ndarray:
    """A frame of the result, from what was painted (R, R, 3) and the source's frame behind it."""
    if options.paste_back:
        return paste(shown.image, painted, casting.source.window(shown.index, shown.image))
    if options.fit == "pad":
        height, width = shown.image.shape[:2]
        rows, columns = content(width, height, len(painted))
        return painted[rows, columns]
    return painted


@command
def main() -> None:
    """Entry point of `autolink transfer`."""
    transfer(tyro.cli(Options, description=__doc__))


if __name__ == "__main__":
    main()
