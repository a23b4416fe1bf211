"""Where in a frame the object is: the window in which the detector knows it best.

Two criteria. A detector that is sure of what it knows (`WindowDetector.sure`) says by its confidence whether a window
shows it. For one that is not, the keypoints tell: those that were found on the object stay on it when the window is
moved a little, and those that were guessed move along with the window.

Shapes: N frames, W windows, K keypoints, S side of the network's images.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from itertools import product

import numpy as np
import torch
from torch import Tensor

from autolink.detector import Keypoints
from autolink.geometry import MIN_SPREAD, spread
from autolink.progress import Bar
from autolink.tracking.confidence import CERTAIN, DOUBT, WindowDetector
from autolink.tracking.windows import Window, absolute_window, cut, inside, relative_window, whole

SIDES = (1.0, 0.71, 0.5, 0.35, 0.25)
"""Sides of the windows that are searched, as shares of the frame's shorter side."""
APART = 0.5
"""From one of these windows to the next, in sides of it."""
TIGHTER = (1.0, 0.8, 0.64, 0.5, 0.4, 0.32)
"""Sides to which a window that was found is tightened."""
SLACK = 0.1
"""What confidence may fall by for a tighter window."""
NUDGES = ((0, 0, 1.0), (0.08, 0.05, 1.0), (-0.05, 0.08, 1.0), (0, 0, 0.87))
"""By how much a window is moved, in sides of it, and scaled, to see whether its keypoints stay on the object."""
COARSE = 0.72
"""From one side that is searched to the next."""
STEP = 0.3
"""From one place that is searched to the next, in sides of the window."""
REFINEMENT = tuple(product((-0.1, 0, 0.1), (-0.1, 0, 0.1), (0.87, 1.0, 1.15)))
"""Moves and scales around the best window that are tried at last."""
STEADY = 0.045
"""Wavering of the middle at which no other window is searched for."""
CLEARLY = 0.8
"""The middle is left if another window has less than this share of its wavering."""
GLANCES = 6
"""Frames of a clip that are looked at, and fewer than twice as many."""
AT_ONCE = 16
"""Windows whose squares are held in memory together."""

logger = logging.getLogger("autolink")


def search_by_confidence(detector: WindowDetector, image: np.ndarray, name: str) -> Window:
    """The tightest window in which the model is certain; the middle where it does not doubt that, or is nowhere."""
    height, width = image.shape[:2]
    middle = whole(width, height, "crop")

    def judge(windows: list[Window]) -> Keypoints:
        return detector([cut(image, window, detector.size) for window in windows])

    if judge([middle]).confidence.mean() >= DOUBT:
        return middle
    for share in SIDES:
        windows = _tiles(width, height, share * min(width, height), APART)
        found = judge(windows)
        index = int(found.confidence.mean(1).argmax())
        if found.confidence[index].mean() >= CERTAIN:
            break
    else:
        return middle
    _warn_of_several(found, windows, index, name)
    window = windows[index]
    x, y = (torch.tensor(window[:2]) + found.xy[index].mean(0) * window.side / 2).tolist()
    windows = [inside(Window(x, y, window.side * share), width, height) for share in TIGHTER]
    certain = judge(windows).confidence.mean(1)
    return windows[int((certain >= certain.max() - SLACK).nonzero().max())]


def _warn_of_several(found: Keypoints, windows: list[Window], chosen: int, name: str) -> None:
    """Say so if keypoints are certain in places so far apart that they belong to two objects."""
    squares = torch.tensor(windows)[:, None]
    corners = squares[..., :2] + found.xy * squares[..., 2:] / 2
    low, high = corners.amin(1), corners.amax(1)
    apart = ((low > high[chosen]) | (high < low[chosen])).any(1)
    if (apart & (found.confidence.mean(1) >= CERTAIN)).any():
        x, y = corners[chosen].mean(0).round().int().tolist()
        logger.warning("%s: several may be in the picture; the one around pixel (%d, %d) is followed", name, x, y)


def search_by_steadiness(detector: WindowDetector, frames: Iterable[np.ndarray], name: str) -> Window | None:
    """The one window of a whole clip in which keypoints waver least.

    Windows may be larger than the frame's shorter side: a standing person in a portrait video wants that.

    Args:
        detector: Finds keypoints.
        frames: Of a clip, (H, W, 3) uint8; a few of them, evenly spread, are kept.
        name: Of the clip, for the progress bar.

    Returns:
        In the units of `relative_window`; the middle where no other window is clearly better. None if there are no
        frames.
    """
    images = glances(frames)
    if not images:
        return None
    height, width = images[0].shape[:2]
    middle = whole(width, height, "crop")
    windows = _places(width, height)
    with Bar(desc=f"searching {name}", total=1 + len(windows) + len(REFINEMENT), unit="window", leave=False) as bar:
        shaky = wavering(detector, images, [middle], bar).item()
        if shaky < STEADY:
            return relative_window(middle, width, height)
        best = windows[int(wavering(detector, images[::3], windows, bar).argmin())]
        moved = [
            Window(best.x + x * best.side, best.y + y * best.side, best.side * scale) for x, y, scale in REFINEMENT
        ]
        near = [inside(window, width, height, "pad") for window in moved]
        found = wavering(detector, images, near, bar)
    window = near[int(found.argmin())] if found.min() < CLEARLY * shaky else middle
    return relative_window(window, width, height)


def glances(frames: Iterable[np.ndarray]) -> list[np.ndarray]:
    """From `GLANCES` to twice as many frames of a clip, evenly spread; all of a shorter one."""
    kept, stride = [], 1
    for number, frame in enumerate(frames):
        if number % stride == 0:
            kept.append(frame)
            if len(kept) == 2 * GLANCES:
                kept, stride = kept[::2], 2 * stride
    return kept


def wavering(detector: WindowDetector, images: Sequence[np.ndarray], windows: Sequence[Window], bar: Bar) -> Tensor:
    """How far keypoints go astray when a window is nudged, over the size of the pose: (W,), the mean over images.

    Args:
        detector: Finds keypoints.
        images: (H, W, 3) uint8, of one clip, perhaps of several sizes.
        windows: In pixels of the first.
        bar: Is moved on by a step a window.
    """
    height, width = images[0].shape[:2]
    relative = [relative_window(window, width, height) for window in windows]
    astray, sizes = torch.zeros(len(windows)), torch.zeros(len(windows))
    for begin in range(0, len(windows), AT_ONCE):
        some = slice(begin, begin + AT_ONCE)
        for image in images:
            there = [absolute_window(window, image.shape[1], image.shape[0]) for window in relative[some]]
            nudged = [
                Window(window.x + x * window.side, window.y + y * window.side, window.side * scale)
                for window in there
                for x, y, scale in NUDGES
            ]
            squares, sides = torch.tensor(nudged)[:, None], torch.tensor([window.side for window in there])
            found = detector([cut(image, window, detector.size) for window in nudged]).xy
            points = (squares[..., :2] + found * squares[..., 2:] / 2).unflatten(0, (-1, len(NUDGES)))
            astray[some] += (points - points.mean(1, keepdim=True)).norm(dim=-1).mean((1, 2)) / sides
            sizes[some] += spread(points[:, 0]).flatten() / sides
        bar.update(len(relative[some]))
    return astray / sizes.clamp(min=MIN_SPREAD / 2 * len(images))


def _places(width: int, height: int) -> list[Window]:
    """Windows of all sides and places that a frame has room for along its longer side."""
    places, side = [], float(max(width, height))
    while side >= 0.4 * min(width, height):
        places += _tiles(width, height, side, STEP)
        side *= COARSE
    return places


def _tiles(width: int, height: int, side: float, step: float) -> list[Window]:
    """Windows of a side that cover a frame, at most `step` of it apart; centred where it is larger than the frame."""
    xs, ys = (
        np.linspace(side / 2, length - side / 2, math.ceil((length - side) / (step * side)) + 1).tolist()
        if side < length
        else [length / 2]
        for length in (width, height)
    )
    return [Window(x, y, side) for y in ys for x in xs]
