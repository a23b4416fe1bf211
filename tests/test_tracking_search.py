"""Where in a frame the object is: by a detector made for the test that knows three coloured dots, and a shipped one."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from tqdm import tqdm
from transfer_files import DOTS, DotDetector, scene

from autolink.batching import Batches
from autolink.data.skeleton import POSE_SIZE
from autolink.data.synthetic_figures import Figure, Scene
from autolink.tracking.search import (
    GLANCES,
    glances,
    search_by_confidence,
    search_by_steadiness,
    wavering,
)
from autolink.tracking.windows import Window, absolute_window, whole
from autolink_apps.pose_transfer import PoseTransfer


def test_a_frame_that_shows_the_object_as_it_should_is_left_as_it_is() -> None:
    assert search_by_confidence(DotDetector(), scene((205, 118, 90)), "clip") == whole(400, 240, "crop")


def test_a_small_object_in_a_corner_is_found_and_framed_tightly() -> None:
    window = search_by_confidence(DotDetector(), scene((345, 45, 18)), "clip")
    assert abs(window.x - 345) < 12 and abs(window.y - 45) < 12
    assert 2 * 18 / 1.1 <= window.side <= 2 * 18 / 0.4  # within what the detector is certain of
    assert window.side < 0.6 * 2 * 18 / 0.4  # and at the tight end of it


def test_two_objects_are_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    search_by_confidence(DotDetector(), scene((80, 120, 30)), "one")
    assert not caplog.text
    search_by_confidence(DotDetector(), scene((80, 120, 30), (320, 120, 30)), "two")
    assert "two: several may be in the picture" in caplog.text


def steadiest(*frames: np.ndarray) -> Window:
    """The window of a clip, in pixels."""
    height, width = frames[0].shape[:2]
    return absolute_window(search_by_steadiness(DotDetector(sure=False), frames, "clip"), width, height)


def corners(x: float, y: float, size: float) -> torch.Tensor:
    return torch.tensor([x, y]) + DOTS * size


def test_keypoints_that_stay_on_the_object_do_not_waver() -> None:
    """The dots' detector is exact where they are, and answers the middle of the window where they are not."""
    on, off = Window(300, 100, 100), Window(100, 100, 100)
    seen = wavering(DotDetector(sure=False), [scene((300, 100, 30))] * 2, [on, off], tqdm(disable=True))
    assert seen[0] < 0.02 < 1 < seen[1]


def test_the_steadiest_window_holds_the_object_in_all_frames() -> None:
    places = [(310, 50 + 10 * number, 22) for number in range(8)]
    window = steadiest(*(scene(at) for at in places))
    for at in places:
        assert ((corners(*at) - torch.tensor(window[:2])).abs().max() < window.side / 2).all()
    assert window.side < 240


def test_a_window_may_be_larger_than_a_tall_frame_is_wide() -> None:
    """The dots are further apart than the frame is wide; no window within it shows all three."""
    tall = scene((100, 220, 165), width=200, height=440)
    window = steadiest(tall)
    assert 200 < window.side <= 440 and window.x == 100
    assert window.y - window.side / 2 >= 0 and window.y + window.side / 2 <= 440


def test_the_middle_is_kept_unless_another_window_is_clearly_better() -> None:
    assert steadiest(scene((200, 120, 80))) == whole(400, 240, "crop")
    nothing = np.full((240, 400, 3), 128, np.uint8)
    assert steadiest(nothing) == whole(400, 240, "crop")
    assert search_by_steadiness(DotDetector(sure=False), [], "empty") is None


@pytest.mark.parametrize("count", [1, 5, 11, 12, 13, 100, 1000])
def test_glances_are_spread_over_a_clip_of_any_length(count: int) -> None:
    kept = glances(iter(range(count)))
    assert len(kept) == count if count < 2 * GLANCES else GLANCES <= len(kept) < 2 * GLANCES
    assert kept[0] == 0 and len({b - a for a, b in pairwise(kept)}) <= 1
    assert kept[-1] >= count - 1 - count / GLANCES


def test_a_figure_in_a_tall_frame_is_found_by_the_shipped_model() -> None:
    """Off the middle, and half as wide as the frame."""
    rng = np.random.default_rng(3)
    figure, side, (left, top) = Figure(rng), 96, (88, 190)
    wall = np.clip(Scene(rng).draw(320, 0.8), 0, 1)[:, :192] * 255
    frames = []
    for _ in range(2):
        image, coverage = figure.draw(*figure.place(rng.random(POSE_SIZE), rng.random()), side)
        frame = wall.copy()
        part = frame[top : top + side, left : left + side]
        part += coverage[..., None] * (image - part)
        frames.append(frame.astype(np.uint8))
    detector = PoseTransfer.from_pretrained("people-transfer").window_detector("float32", Batches(32))
    window = absolute_window(search_by_steadiness(detector, frames, "clip"), 192, 320)
    assert math.dist(window[:2], (left + side / 2, top + side / 2)) < 0.2 * side
    assert 1 / 1.35 < window.side / side < 1.35
