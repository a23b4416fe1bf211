"""Keypoints of a clip, found in a window that follows the object (`--crop auto`) or in one that stays (`none`).

A detector knows its object large and in the middle. Its confidence tells whether that is so: with the shipped model
of faces, 0.7 to 0.9 in a window around a head, and 0.04 to 0.3 in a frame that shows a whole body. So the window is
searched (`search.py`) where the frame as a whole does not do, and drawn as tight as the confidence allows; from then
on it follows the keypoints. Afterwards its way is smoothed, as that of a camera with a calm hand: what the object does
within a second counts as its movement, and where it goes in longer times does not. A detector that is never sure gets
one window for the whole clip.

Shapes: T frames, K keypoints, S side of the network's images.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from fractions import Fraction
from itertools import islice
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from autolink.detector import Keypoints
from autolink.errors import UserError
from autolink.geometry import MIN_SPREAD, spread
from autolink.progress import Bar
from autolink.threads import ahead
from autolink.tracking.confidence import DOUBT, WindowDetector
from autolink.tracking.search import search_by_confidence, search_by_steadiness
from autolink.tracking.windows import (
    Fit,
    Window,
    absolute_window,
    aligned,
    cut,
    in_frame,
    inside,
    rebase,
    relative_window,
    whole,
)
from autolink.video import FrameSource, VideoFrame

Crop = Literal["auto", "none"]

AROUND = ((0, 0), *((x * far, y * far) for far in (0.3, 0.6) for y in (-1, 0, 1) for x in (-1, 0, 1) if x or y))
"""Where an object is looked for that has left its window, in sides of it."""
GLANCE_SECONDS = 0.2
"""Frames of so much time are looked at together, through the window as it was before them."""
CAMERA_SECONDS = 0.5
"""The way of a window is averaged over so much time before and after each frame."""
RESIZE_SECONDS = 1.5
"""In this time a window makes 63 % of the way to the size that it should have."""


class Track(NamedTuple):
    """What was found in the frames of a clip."""

    poses: Tensor
    """(T, K, 2), each in the window of its frame."""
    confidence: Tensor
    """(T, K)."""
    windows: Tensor
    """(T, 3): x, y and side in the units of `relative_window`."""
    times: list[Fraction]
    """Seconds since the clip's first frame."""

    def window(self, index: int, image: np.ndarray) -> Window:
        """The window of one frame, an image (H, W, 3), in its pixels."""
        return absolute_window(Window(*self.windows[index].tolist()), image.shape[1], image.shape[0])

    def first(self, count: int) -> Track:
        """The beginning of it."""
        return Track(self.poses[:count], self.confidence[:count], self.windows[:count], self.times[:count])

    def aligned(self, width: int, height: int) -> Track:
        """The same in frames of that size, through windows of whole pixels."""
        placed = (absolute_window(Window(*window), width, height) for window in self.windows.tolist())
        windows = torch.tensor([relative_window(aligned(window), width, height) for window in placed])
        return self._replace(poses=rebase(self.poses, self.windows, windows), windows=windows)


class Part:
    """The frames of a clip from `start` up to `end` seconds, `count` at most; can be iterated any number of times."""

    def __init__(
        self, frames: FrameSource, start: float = 0, end: Fraction | float | None = None, count: int | None = None
    ):
        self.frames, self.start, self.end, self.count = frames, start, end, count

    def __iter__(self) -> Iterator[VideoFrame]:
        return islice(self._between(), self.count)

    def _between(self) -> Iterator[VideoFrame]:
        for frame in self.frames:
            if self.end is not None and frame.time >= self.end:
                return
            if frame.time >= self.start:
                yield frame

    @property
    def expected(self) -> int | None:
        """How many frames that is as far as the file tells: for a progress bar."""
        if self.frames.frame_count is None:
            return self.count
        before = round(self.start * self.frames.frame_rate)
        there = self.frames.frame_count if self.end is None else round(self.end * self.frames.frame_rate)
        there = min(there, self.frames.frame_count) - before
        return max(0, there if self.count is None else min(there, self.count))


def look(part: Part, detector: WindowDetector, crop: Crop, fit: Fit) -> Track:
    """Keypoints of every frame of a part of a clip, with a progress bar; memory holds no more than a few frames.

    Raises:
        UserError: If no frame is in that part.
    """
    searches = crop == "auto" and fit == "crop"
    follows = searches and detector.sure
    if follows:
        found_frames = _follow(part, detector)
    else:
        images = (image for image, _ in part)
        window = search_by_steadiness(detector, images, part.frames.path.name) if searches else None
        found_frames = _stay(part, detector, fit, window)
    windows, poses, confidence, times = [], [], [], []
    with closing(ahead(found_frames)) as found, progress(f"looking at {part.frames.path.name}", part) as bar:
        for seen_windows, keypoints, seen_times in found:
            windows += seen_windows
            poses.append(keypoints.xy)
            confidence.append(keypoints.confidence)
            times += seen_times
            bar.update(len(seen_times))
    if not times:
        raise UserError(f"{part.frames.path}: no frame of it is in the part asked for; look at --start and --end")
    track = Track(torch.cat(poses), torch.cat(confidence), torch.tensor(windows), times)
    return steady(track) if follows else track


def detect_followed(
    frames: FrameSource, detector: WindowDetector
) -> Generator[tuple[VideoFrame, Window, Keypoints], None, None]:
    """Keypoints of every frame of a picture or clip, as `AutoLink.detect_stream` gives them, but of the subject.

    It is searched and followed as by `look`, and like there, the middle is what is seen where it is not found. Windows
    are not steadied, since keypoints are in the frame.

    Yields:
        Each frame, its window in pixels, its keypoints (K, 2) in [−1, 1] of the whole frame and confidences (K,), on
        the CPU.
    """
    if detector.sure:
        with closing(_followed(Part(frames), detector)) as batches:
            for batch, windows, found in batches:
                for frame, window, xy, confidence in zip(batch, windows, *found):
                    yield frame, window, Keypoints(in_frame(xy, window, *frame.image.shape[:2]), confidence)
        return
    steady = search_by_steadiness(detector, (image for image, _ in frames), frames.path.name)

    def place(frame: VideoFrame) -> Window:
        assert steady is not None  # there is a frame
        return absolute_window(steady, frame.image.shape[1], frame.image.shape[0])

    def square(frame: VideoFrame) -> np.ndarray:
        return cut(frame.image, place(frame), detector.size)

    size, precision = detector.batches.size, detector.precision
    with closing(detector.autolink.detect_stream(frames, size, precision, square)) as stream:
        for frame, found in stream:
            there = place(frame)
            yield frame, there, found._replace(xy=in_frame(found.xy, there, *frame.image.shape[:2]))


def steady(track: Track) -> Track:
    """The same track seen through windows that move calmly: each the mean of those near it in time."""
    times = np.array([float(time) for time in track.times])
    begin = np.searchsorted(times, times - CAMERA_SECONDS)
    end = np.searchsorted(times, times + CAMERA_SECONDS, side="right")
    sums = torch.cat([torch.zeros(1, 3), track.windows]).double().cumsum(0)
    windows = ((sums[end] - sums[begin]) / torch.from_numpy(end - begin)[:, None]).float()
    return track._replace(poses=rebase(track.poses, track.windows, windows), windows=windows)


def progress(doing: str, part: Part, total: int | None = None) -> Bar:
    """A bar over the frames of a part of a clip, with frames a second."""
    return Bar(desc=doing, total=part.expected if total is None else total, unit="frame")


_Seen = tuple[list[Window], Keypoints, list[Fraction]]


def _stay(part: Part, detector: WindowDetector, fit: Fit, window: Window | None) -> Iterator[_Seen]:
    """Windows, keypoints and times of a batch at a time, in a window that stays, else in the one that `fit` says."""
    with closing(ahead(_squares(part, detector.size, fit, window))) as squares:
        while batch := list(islice(squares, detector.batches.size)):
            images, windows, times = zip(*batch)
            yield list(windows), detector(images), list(times)


def _squares(part: Part, size: int, fit: Fit, window: Window | None) -> Iterator[tuple[np.ndarray, Window, Fraction]]:
    """Squares of frames, where they stand, and times."""
    for image, time in part:
        height, width = image.shape[:2]
        there = whole(width, height, fit) if window is None else absolute_window(window, width, height)
        yield cut(image, there, size), relative_window(there, width, height), time


def _follow(part: Part, detector: WindowDetector) -> Iterator[_Seen]:
    """Windows, keypoints and times of a few frames at a time, in a window that follows the keypoints."""
    for batch, windows, keypoints in _followed(part, detector):
        shapes = (image.shape[1::-1] for image, _ in batch)
        relative = [relative_window(window, *shape) for window, shape in zip(windows, shapes)]
        yield relative, keypoints, [time for _, time in batch]


def _followed(
    part: Part, detector: WindowDetector
) -> Generator[tuple[list[VideoFrame], list[Window], Keypoints], None, None]:
    """A few frames at a time, their windows in pixels, and the keypoints therein."""
    follow = Follower(detector, part.frames.path.name)
    together = max(1, round(GLANCE_SECONDS * part.frames.frame_rate))
    with closing(ahead(part, depth=8)) as frames:
        while batch := list(islice(frames, min(together, detector.batches.size))):
            yield batch, *follow(batch)


class Follower:
    """Finds the window of each frame of a clip, a few at a time; a frame's window depends on those before alone.

    Args:
        detector: Finds keypoints.
        name: Of the clip, for warnings.
    """

    def __init__(self, detector: WindowDetector, name: str) -> None:
        self.detector, self.name = detector, name
        self.window: Window | None = None
        self.offset, self.ratio = torch.zeros(2), 1.0
        self.sides = (0.0, math.inf)
        self.time, self.patience = 0.0, 1.0
        self.seen = self.searched = -math.inf

    def __call__(self, frames: Sequence[VideoFrame]) -> tuple[list[Window], Keypoints]:
        """The windows of some consecutive frames, and their keypoints (B, K, 2) therein."""
        (first, time), size = frames[0], self.detector.size
        if time - max(self.seen, self.searched) > self.patience:
            if self.window is not None:
                self.patience *= 2  # a search costs much, and nobody may ever come
            self.searched = float(time)
            self._begin(first)
        assert self.window is not None  # `_begin` has found one
        views = [inside(self.window, image.shape[1], image.shape[0]) for image, _ in frames]
        found = self.detector([cut(image, view, size) for (image, _), view in zip(frames, views)])
        windows, poses, confidence = zip(*map(self._place, frames, views, *found))
        return list(windows), Keypoints(torch.stack(poses), torch.stack(confidence))

    def _place(
        self, frame: VideoFrame, view: Window, pose: Tensor, confidence: Tensor
    ) -> tuple[Window, Tensor, Tensor]:
        """The window of a frame, and its keypoints therein, from those that were found through a view of it."""
        image, time = frame.image, float(frame.time)
        assert self.window is not None
        window = inside(self.window, image.shape[1], image.shape[0])
        if confidence.mean() < DOUBT and time <= self.seen + 1:
            window, pose, confidence = self._look_around(window, image)
        else:
            pose = rebase(pose, torch.tensor(view), torch.tensor(window))
        if confidence.mean() >= DOUBT:
            self.seen, self.patience = time, 1.0
            self._follow(window, pose, time - self.time, image)
        self.time = time
        return window, pose, confidence

    def _begin(self, image: np.ndarray) -> None:
        """Take the window that a search finds, and remember how it stands to the keypoints."""
        self.window = search_by_confidence(self.detector, image, self.name)
        pose = self.detector([cut(image, self.window, self.detector.size)]).xy[0]
        size = max(spread(pose).item(), MIN_SPREAD)
        self.offset, self.ratio = -pose.mean(0) / size, 2 / size
        side = self.window.side
        whole_frame = side == min(image.shape[:2])
        self.sides = (side, side) if whole_frame else (0.7 * side, 1.4 * side)

    def _look_around(self, window: Window, image: np.ndarray) -> tuple[Window, Tensor, Tensor]:
        """The window here or nearby in which the model is most certain, its keypoints and their confidence."""
        windows = [Window(window.x + x * window.side, window.y + y * window.side, window.side) for x, y in AROUND]
        windows = [inside(there, image.shape[1], image.shape[0]) for there in windows]
        found = self.detector([cut(image, there, self.detector.size) for there in windows])
        best = int(found.confidence.mean(1).argmax())
        return windows[best], found.xy[best], found.confidence[best]

    def _follow(self, window: Window, pose: Tensor, elapsed: float, image: np.ndarray) -> None:
        """Move the window to where it stands to this pose as it did to the first."""
        size = max(spread(pose).item(), MIN_SPREAD) * window.side / 2
        x, y = (torch.tensor(window[:2]) + pose.mean(0) * window.side / 2 + self.offset * size).tolist()
        side = min(max(self.ratio * size, self.sides[0]), self.sides[1])
        side = window.side + (1 - math.exp(-elapsed / RESIZE_SECONDS)) * (side - window.side)
        self.window = inside(Window(x, y, side), image.shape[1], image.shape[0])
