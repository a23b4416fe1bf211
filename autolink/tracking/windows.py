"""From a frame of any shape to the network's square and back: windows, cutting, pasting; nothing is learned here.

A window is a square of a frame. Points are `(x, y)` in [−1, 1] of a window, or in pixels of the frame.

Shapes: T frames, K keypoints, H W pixels of a frame, S side of a square: of the network's images, or of the result.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

from autolink.geometry import from_pixels

Fit = Literal["crop", "pad"]

FEATHER = 0.12
"""Share of a window's side over which a pasted square fades into the frame."""


class Window(NamedTuple):
    """A square of a frame, in pixels; pixel i spans [i, i + 1)."""

    x: float
    """Of the middle."""
    y: float
    side: float


def whole(width: int, height: int, fit: Fit) -> Window:
    """The largest centred square of a frame (`crop`), or the smallest that holds all of it (`pad`)."""
    return Window(width / 2, height / 2, min(width, height) if fit == "crop" else max(width, height))


def inside(window: Window, width: int, height: int, fit: Fit = "crop") -> Window:
    """The window made no larger than that of `whole`, and moved into the frame; centred where it is larger."""
    side = min(window.side, whole(width, height, fit).side)
    x, y = (
        min(max(at, side / 2), length - side / 2) if side < length else length / 2
        for at, length in ((window.x, width), (window.y, height))
    )
    return Window(x, y, side)


def aligned(window: Window) -> Window:
    """The window moved and scaled by less than a pixel, to edges of pixels; so it is cut out without resampling."""
    side = max(1, round(window.side))
    left, top = (math.trunc(_tidy(middle - window.side / 2)) for middle in window[:2])
    return Window(left + side / 2, top + side / 2, side)


def _tidy(length: float) -> float:
    """A number of pixels; a whole one without the rounding that it went through."""
    return round(length) if abs(length - round(length)) < 1e-3 else length


def cut(frame: np.ndarray, window: Window, size: int) -> np.ndarray:
    """What a window shows of a frame (H, W, 3) uint8: (S, S, 3), antialiased; beyond the frame its edge repeats."""
    height, width = frame.shape[:2]
    scale = _tidy(window.side) / size  # pixels of the frame for one of the square
    left, top = _tidy(window.x - window.side / 2), _tidy(window.y - window.side / 2)
    columns, rows = _covered(left, width, scale, size), _covered(top, height, scale, size)
    box = (left + columns[0] * scale, top + rows[0] * scale, left + columns[1] * scale, top + rows[1] * scale)
    box = max(box[0], 0), max(box[1], 0), min(box[2], width), min(box[3], height)  # but for rounding they are
    shape = columns[1] - columns[0], rows[1] - rows[0]
    part = Image.fromarray(frame).resize(shape, Image.Resampling.BICUBIC, box=box, reducing_gap=3.0)
    around = (rows[0], size - rows[1]), (columns[0], size - columns[1]), (0, 0)
    return np.pad(np.asarray(part), around, mode="edge")


def _covered(start: float, length: int, scale: float, size: int) -> tuple[int, int]:
    """Which pixels of a square that begins at `start` lie within [0, length] of the frame; at least one."""
    first = min(max(math.ceil(-start / scale - 1e-6), 0), size - 1)
    return first, max(min(math.floor((length - start) / scale + 1e-6), size), first + 1)


def content(width: int, height: int, size: int) -> tuple[slice, slice]:
    """Rows and columns of the square that show a frame under `pad`; an even number of each, or all of its own."""
    if size == max(width, height):
        left, top = (size - width) // 2, (size - height) // 2
        return slice(top, top + height), slice(left, left + width)
    scale = size / max(width, height) / 2
    columns, rows = max(2, round(width * scale) * 2), max(2, round(height * scale) * 2)
    left, top = (size - columns) // 2, (size - rows) // 2
    return slice(top, top + rows), slice(left, left + columns)


def rebase(points: Tensor, seen: Tensor, wanted: Tensor) -> Tensor:
    """Points of one window in the coordinates of another.

    Args:
        points: (..., K, 2).
        seen: (..., 3), the windows (x, y, side) they were found in.
        wanted: (..., 3), those in which they are wanted.
    """
    pixels = seen[..., None, :2] + points * seen[..., None, 2:] / 2
    return (pixels - wanted[..., None, :2]) * 2 / wanted[..., None, 2:]


def in_frame(points: Tensor, window: Window, height: int, width: int) -> Tensor:
    """Points (..., 2) in [−1, 1] of a window, in [−1, 1] of its frame of H × W pixels."""
    return from_pixels(points.new_tensor(window[:2]) + points * window.side / 2, height, width)


def paste(frame: np.ndarray, painted: np.ndarray, window: Window) -> np.ndarray:
    """A painted square put back into its window of a frame.

    The square fades out towards the window's edges, but not towards those that are the frame's own.

    Args:
        frame: (H, W, 3) uint8.
        painted: (S, S, 3) uint8.
        window: where the square was cut.

    Returns:
        (H, W, 3) uint8, a new array.
    """
    height, width = frame.shape[:2]
    left, top = _tidy(window.x - window.side / 2), _tidy(window.y - window.side / 2)
    window = window._replace(side=_tidy(window.side))
    first = max(math.floor(left), 0), max(math.floor(top), 0)
    last = min(math.ceil(left + window.side), width), min(math.ceil(top + window.side), height)
    image = Image.fromarray(painted)
    if window.side < len(painted):  # shrunk with antialiasing, which `transform` has not
        image = image.resize((math.ceil(window.side),) * 2, Image.Resampling.BICUBIC)
    scale = image.width / window.side
    placing = (scale, 0, (first[0] - left) * scale, 0, scale, (first[1] - top) * scale)
    shape = last[0] - first[0], last[1] - first[1]
    placed = image.transform(shape, Image.Transform.AFFINE, placing, Image.Resampling.BICUBIC)
    fade_x = _fade(np.arange(*(first[0], last[0])) + 0.5, left, window.side, width)
    fade_y = _fade(np.arange(*(first[1], last[1])) + 0.5, top, window.side, height)
    share = (fade_y[:, None] * fade_x[None])[..., None]
    result = frame.copy()
    behind = result[first[1] : last[1], first[0] : last[0]]
    behind[:] = np.rint(behind + share * (np.asarray(placed, np.float32) - behind))
    return result


def _fade(places: np.ndarray, start: float, side: float, length: int) -> np.ndarray:
    """Share of the square at pixel centres along one axis: 0 at its edges, 1 from `FEATHER` of its side on."""
    share = np.ones(len(places), np.float32)
    if start > 0:
        share = np.minimum(share, (places - start) / (FEATHER * side))
    if start + side < length:
        share = np.minimum(share, (start + side - places) / (FEATHER * side))
    return np.clip(share, 0, 1).astype(np.float32)


def relative_window(window: Window, width: int, height: int) -> Window:
    """A window in units of half the frame's shorter side, from its middle; so it fits frames of other sizes."""
    unit = min(width, height) / 2
    return Window((window.x - width / 2) / unit, (window.y - height / 2) / unit, window.side / unit)


def absolute_window(window: Window, width: int, height: int) -> Window:
    """`relative_window` undone: in pixels of a frame."""
    unit = min(width, height) / 2
    return Window(width / 2 + window.x * unit, height / 2 + window.y * unit, window.side * unit)
