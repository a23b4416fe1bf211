"""Who plays whom: the source's frame whose looks are taken, the driver's that stands for it, and the poses to paint.

Shapes: T frames of the driver, K keypoints.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from autolink.errors import UserError
from autolink.graph import maximum_spanning_tree
from autolink.smoothing import OneEuroFilter
from autolink.tracking.confidence import LOW_CONFIDENCE
from autolink.tracking.follow import Part, Track
from autolink.video import VideoFrame

from . import motion
from .model import PoseTransfer

SOURCE_FRAMES = 1000
"""Of a source video, this many frames are candidates for the one whose looks are taken."""
_ADVICE = "is what the model knows in the picture, large and alone?"

logger = logging.getLogger("autolink")


class Driver(NamedTuple):
    """Whose motion, and what else is known of it."""

    path: Path
    track: Track
    part: Part | None
    """Its frames; None of a saved motion."""
    frame_rate: Fraction
    """Frames a second, on average."""


@dataclass(frozen=True)
class Casting:
    """What is decided before the first frame is painted."""

    source: Track
    """The source's frames: one of an image; all of a video that runs along."""
    source_frame: int
    """Of these, the one whose looks are taken, or to whose pose the driver's movement is added."""
    poses: Tensor
    """(T, K, 2) what to paint, in the source's window."""
    times: list[Fraction]
    """When, in seconds from 0."""


def cast(
    model: PoseTransfer,
    source: Track,
    driver: Track,
    names: tuple[Path, Path],
    kind: motion.Kind = "relative",
    reference: str = "auto",
    chosen: str = "auto",
    smooth: bool = False,
) -> Casting:
    """Choose both frames, say which, and retarget.

    Args:
        model: Whose graph links the keypoints, for `skeleton`.
        source: Candidates.
        driver: All frames that are used.
        names: Of source and driver, for messages.
        kind: Of motion.
        reference: Of the driver: auto, first or a number.
        chosen: Of the source: auto, first, running or a number.
        smooth: Smooth the driver's poses over time.

    Raises:
        UserError: If there is no such frame.
    """
    # Absolute motion has no reference; the source's frame is then chosen by the driver's first.
    drivers = _choice("reference", "first" if kind == "absolute" else reference, driver, names[1])
    sources = _choice("source-frame", "auto" if chosen == "running" else chosen, source, names[0])
    pair = motion.nearest_pair(source.poses[sources], driver.poses[drivers])
    source_frame, driver_frame = sources[pair[0]], drivers[pair[1]]
    if len(source.poses) > 1:
        print(f"source: frame {source_frame} of {names[0]}" + (", and those after it in time" * (chosen == "running")))
    if kind != "absolute":
        print(f"reference: frame {driver_frame} of {names[1]} stands for the source's pose")
    if source.confidence[source_frame].mean() < LOW_CONFIDENCE:
        logger.warning("%s: uncertain keypoints; %s", names[0], _ADVICE)
    uncertain = int((driver.confidence.mean(1) < LOW_CONFIDENCE).sum())
    if uncertain:
        message = "%s: uncertain keypoints in %d of %d frames, there taken from the frames around; %s"
        logger.warning(message, names[1], uncertain, len(driver.poses), _ADVICE)

    driving = bridged(driver)
    if smooth:
        smoother = OneEuroFilter()
        driving = torch.stack([smoother(pose, float(time)) for pose, time in zip(driving, driver.times)])
    pose = source.poses[source_frame]
    links = maximum_spanning_tree(model.autolink.graph.matrix())
    poses = motion.retarget(kind, driving, driving[driver_frame], pose, links)
    if kind != "absolute":
        poses = kept_inside(poses)
    return Casting(source, source_frame, poses, [time - driver.times[0] for time in driver.times])


def candidates(chosen: str, length: Fraction) -> tuple[Fraction | None, int | None]:
    """Up to when (seconds), and how many, frames of a source are to be looked at.

    Args:
        chosen: As in `cast`.
        length: Of the driver, in seconds.
    """
    if chosen == "running":
        return length, None
    if chosen == "auto":
        return None, SOURCE_FRAMES
    return None, 1 if chosen == "first" else int(chosen) + 1


def _certain(track: Track) -> Tensor:
    """(T,) whether a frame's keypoints are to be believed; all are, if none is."""
    certain = track.confidence.mean(1) >= LOW_CONFIDENCE
    return certain if certain.any() else ~certain


def bridged(track: Track) -> Tensor:
    """Poses (T, K, 2) of a track; where they are uncertain, interpolated in time between those that are not."""
    certain, times = _certain(track).numpy(), np.array([float(time) for time in track.times])
    flat = track.poses.flatten(1).numpy()
    columns = [np.interp(times, times[certain], column[certain]) for column in flat.T]
    return torch.from_numpy(np.stack(columns, 1)).float().unflatten(1, track.poses.shape[1:])


def kept_inside(poses: Tensor) -> Tensor:
    """Poses (T, K, 2) moved back into the picture by as much as they reach beyond it."""
    low, high = poses.amin(1, keepdim=True), poses.amax(1, keepdim=True)
    inwards = (-1 - low).clamp(min=0) + (1 - high).clamp(max=0)
    return torch.where(high - low > 2, poses, poses + inwards)


def _choice(option: str, chosen: str, track: Track, name: Path) -> list[int]:
    """The frames to choose from."""
    if chosen == "auto":
        return _certain(track).nonzero().flatten().tolist()
    count = len(track.poses)
    number = 0 if chosen == "first" else int(chosen)
    if number >= count:
        raise UserError(f"--{option} {number}: {name} has {count} frames here, 0 to {count - 1}")
    return [number]


class Shown(NamedTuple):
    """A frame of the source as it stands behind one frame of the result."""

    index: int  # type: ignore[assignment]  # a tuple's own `index` is not used
    """Its number."""
    image: np.ndarray
    """(H, W, 3) uint8."""


def resting(frames: Iterable[VideoFrame], index: int, count: int) -> Iterator[Shown]:
    """One frame of a source, `count` times."""
    shown = Shown(index, next(islice(frames, index, None)).image)
    for _ in range(count):
        yield shown


def running(frames: Iterable[VideoFrame], times: list[Fraction]) -> Iterator[Shown]:
    """For each time, the frame that a player shows then: the last that has begun."""
    stream = enumerate(frames)
    index, (image, _) = next(stream)
    following = next(stream, None)
    for time in times:
        while following is not None and following[1].time <= time:
            index, (image, _) = following
            following = next(stream, None)
        yield Shown(index, image)
