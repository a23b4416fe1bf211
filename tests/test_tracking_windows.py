"""Windows of frames: cutting, moving points between them, and putting painted squares back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from autolink.images import square
from autolink.tracking.windows import (
    FEATHER,
    Window,
    absolute_window,
    aligned,
    content,
    cut,
    inside,
    paste,
    rebase,
    relative_window,
    whole,
)


def ramp(height: int, width: int) -> np.ndarray:
    """Red tells twice the x, green twice the y of a pixel's middle."""
    y, x = np.mgrid[:height, :width] * 2 + 1
    return np.stack([x, y, np.zeros_like(x)], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("shape", [(40, 60), (61, 37)])
def test_the_middle_is_cut_as_in_training(shape: tuple[int, int]) -> None:
    frame = np.random.default_rng(0).integers(0, 255, (*shape, 3), dtype=np.uint8)
    found = cut(frame, whole(shape[1], shape[0], "crop"), 32)
    assert np.array_equal(found, np.asarray(square(Image.fromarray(frame), 32)))


def test_a_window_shows_what_is_there_to_a_fraction_of_a_pixel() -> None:
    window = Window(51.3, 40.6, 24)
    found = cut(ramp(100, 120), window, 16).astype(float) / 2
    middles = (np.arange(16) + 0.5) * 1.5 - 12
    assert np.abs(found[..., 0] - (51.3 + middles)).max() <= 0.5
    assert np.abs(found[..., 1] - (40.6 + middles)[:, None]).max() <= 0.5


def test_beyond_the_frame_its_edge_repeats() -> None:
    frame = ramp(40, 20)
    found = cut(frame, whole(20, 40, "pad"), 80).astype(int)  # two pixels for one; 20 of them on either side
    assert np.array_equal(found[:, :20], np.repeat(found[:, 20:21], 20, axis=1))
    assert np.array_equal(found[:, 60:], np.repeat(found[:, 59:60], 20, axis=1))
    assert np.abs(found[:, 20:60, 0] / 2 - (np.arange(40) + 0.5) / 2).max() <= 0.5
    corner = cut(frame, Window(0, 0, 20), 20)
    assert np.array_equal(corner[10:, 10:], frame[:10, :10]) and (corner[:10, :10] == frame[0, 0]).all()


@pytest.mark.parametrize("width, height", [(40, 60), (33, 19), (1000, 10)])
def test_content_of_a_padded_square_has_the_aspect_and_even_sides(width: int, height: int) -> None:
    rows, columns = content(width, height, 64)
    shape = columns.stop - columns.start, rows.stop - rows.start
    assert max(shape) == 64 and not shape[0] % 2 and not shape[1] % 2
    assert abs(min(shape) - 64 * min(width, height) / max(width, height)) <= (1 if min(shape) > 2 else 2)


@pytest.mark.parametrize("width, height", [(40, 61), (33, 19)])
def test_content_of_a_square_of_the_frames_own_size_is_the_frame(width: int, height: int) -> None:
    frame, side = ramp(height, width), max(width, height)
    padded = cut(frame, aligned(whole(width, height, "pad")), side)
    assert np.array_equal(padded[content(width, height, side)], frame)


def test_an_aligned_window_is_cut_and_put_back_without_a_change() -> None:
    frame = np.random.default_rng(0).integers(0, 255, (70, 100, 3), dtype=np.uint8)
    for window in (Window(40.3, 33.7, 30.5), Window(14.2, 14, 27.9), whole(100, 70, "crop"), whole(100, 69, "crop")):
        placed = aligned(window)
        left, top = (round(middle - placed.side / 2) for middle in placed[:2])
        assert max(abs(a - b) for a, b in zip(placed, window)) <= 1
        side = int(placed.side)
        # A track keeps windows in single precision.
        stored = Window(*torch.tensor(relative_window(placed, 100, 70)).tolist())
        square = cut(frame, absolute_window(stored, 100, 70), side)
        assert np.array_equal(square, frame[top : top + side, left : left + side])
        assert np.array_equal(paste(frame, square, absolute_window(stored, 100, 70)), frame)


def test_points_keep_their_place_in_the_frame_from_window_to_window() -> None:
    seen, wanted = torch.tensor([10.0, 20.0, 8.0]), torch.tensor([12.0, 16.0, 4.0])
    found = rebase(torch.tensor([[0.5, -1.0]]), seen, wanted)  # pixel (12, 16)
    assert torch.equal(found, torch.tensor([[0.0, 0.0]]))
    points = torch.rand(5, 3, 2)
    windows = torch.rand(5, 3) + 1
    torch.testing.assert_close(rebase(rebase(points, windows, wanted), wanted.expand(5, 3), windows), points)


def test_windows_fit_frames_of_other_sizes() -> None:
    window = Window(30, 20, 16)
    relative = relative_window(window, 60, 80)
    assert absolute_window(relative, 60, 80) == pytest.approx(window)
    assert absolute_window(relative, 120, 160) == pytest.approx(Window(60, 40, 32))
    assert relative_window(whole(60, 80, "crop"), 60, 80) == (0, 0, 2)


def test_a_window_is_moved_into_the_frame() -> None:
    assert inside(Window(1, 59, 20), 50, 60) == (10, 50, 20)
    assert inside(Window(30, 30, 99), 50, 60) == (25, 30, 50)


@pytest.mark.parametrize("window", [Window(40.3, 33.7, 30.5), Window(14, 14, 28), Window(50, 35, 70)])
def test_what_was_cut_and_put_back_changes_nothing(window: Window) -> None:
    frame = ramp(70, 100)
    again = paste(frame, cut(frame, window, 32), window).astype(int)
    assert np.abs(again - frame).max() <= 6  # edges of a coarser square
    assert np.abs(again - frame).mean() < 0.5


@pytest.mark.parametrize("window", [Window(50, 35, 40), Window(50, 35, 10), Window(60, 30, 120)])
def test_a_pasted_square_fades_into_the_frame(window: Window) -> None:
    frame = np.zeros((70, 100, 3), np.uint8)
    found = paste(frame, np.full((32, 32, 3), 200, np.uint8), window)
    y, x = np.mgrid[:70, :100] + 0.5
    from_edge = window.side / 2 - np.maximum(abs(x - window.x), abs(y - window.y))
    assert (found[from_edge < 0] == 0).all()
    deep = from_edge > FEATHER * window.side + 1
    assert deep.any() and (found[deep] == 200).all()
    assert frame.max() == 0  # the source's frame serves again


def test_a_square_does_not_fade_towards_the_frames_own_edges() -> None:
    found = paste(np.zeros((60, 100, 3), np.uint8), np.full((32, 32, 3), 200, np.uint8), whole(100, 60, "crop"))
    assert (found[:, 30:70] == 200).all() and (found[:, :20] == 0).all() and 0 < found[30, 23, 0] < 200


def test_a_window_may_be_as_large_as_a_whole_tall_frame() -> None:
    assert inside(Window(10, 10, 500), 200, 400) == Window(100, 100, 200)
    assert inside(Window(10, 10, 500), 200, 400, "pad") == Window(100, 200, 400)
    assert inside(Window(10, 100, 300), 200, 400, "pad") == Window(100, 150, 300)
    assert inside(Window(10, 390, 100), 200, 400, "pad") == Window(50, 350, 100)
