"""The window that follows an object, or stays, with a detector made for the test that knows three coloured dots."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transfer_files import DOTS, DotDetector, scene, tiny_model

from autolink.batching import Batches
from autolink.errors import UserError
from autolink.tracking.follow import Follower, Part, Track, look, steady
from autolink.tracking.windows import Window, absolute_window, rebase, whole
from autolink.video import VideoFrame, open_frames


def walk(number: float) -> tuple[float, float, float]:
    """Where an object is that wanders through 50 frames, and grows."""
    return 60 + 2.5 * number, 60 + 0.5 * number, 20 + 0.05 * number


def in_pixels(pose: torch.Tensor, window: Window) -> torch.Tensor:
    return torch.tensor(window[:2]) + pose * window.side / 2


@pytest.mark.parametrize("together", [1, 5])
def test_the_window_follows_and_points_stay_true(together: int) -> None:
    follow = Follower(DotDetector(), "clip")
    sides = []
    for begin in range(0, 50, together):
        numbers = range(begin, begin + together)
        windows, found = follow([VideoFrame(scene(walk(number)), Fraction(number, 25)) for number in numbers])
        assert found.confidence.min() > 0.5
        for number, window, pose in zip(numbers, windows, found.xy):
            x, y, size = walk(number)
            error = in_pixels(pose, window) - (torch.tensor([x, y]) + DOTS * size)
            assert error.abs().max() < 0.1 * size
            assert abs(window.x - x) < 0.5 * window.side
            sides.append(window.side)
    assert sides[-1] > sides[0]
    assert max(abs(b - a) / a for a, b in pairwise(sides)) < 0.02  # it does not jump


def test_what_rests_beside_the_middle_leaves_its_window_alone() -> None:
    follow = Follower(DotDetector(), "clip")
    for number in range(5):
        ((window,), _) = follow([VideoFrame(scene((230, 110, 60)), Fraction(number, 25))])
        torch.testing.assert_close(torch.tensor(window), torch.tensor(whole(400, 240, "crop")), atol=0.5, rtol=0)


def test_a_calm_window_is_the_mean_of_half_a_second_before_and_after() -> None:
    times = [Fraction(number, 9) + Fraction(number > 20, 4) for number in range(30)]  # with a gap
    windows, points = torch.rand(30, 3) + 1, torch.rand(30, 4, 2)
    calm = steady(Track(points, torch.ones(30, 4), windows, times))
    for time, window, pose, seen, point in zip(times, calm.windows, calm.poses, windows, points):
        near = [abs(other - time) <= Fraction(1, 2) for other in times]
        torch.testing.assert_close(window, windows[near].mean(0))
        torch.testing.assert_close(window[:2] + pose * window[2] / 2, seen[:2] + point * seen[2] / 2)


def test_frames_seen_together_have_the_windows_of_those_seen_one_by_one() -> None:
    frames = [VideoFrame(scene(walk(number / 4)), Fraction(number, 25)) for number in range(40)]
    found, looks = [], []
    for together in (1, 5):
        detector = DotDetector()
        follow = Follower(detector, "clip")
        windows = [follow(frames[begin : begin + together])[0] for begin in range(0, 40, together)]
        found.append(torch.tensor([window for batch in windows for window in batch]))
        looks.append(detector.looks)
    assert (found[0] - found[1]).abs().max() < 0.5  # pixels; from first to last it moves by 25
    assert looks[0] - looks[1] == 40 - 40 // 5


def test_nobody_is_searched_for_less_and_less_often_and_may_come_later() -> None:
    detector = DotDetector()
    follow = Follower(detector, "clip")
    looks = []
    for number in range(50):
        ((window,), _) = follow([VideoFrame(scene(), Fraction(number, 5))])
        assert window == whole(400, 240, "crop")
        looks.append(detector.looked_at)
    searches = [n for n, (a, b) in enumerate(zip([0, *looks], looks)) if b - a > 20]
    assert searches[0] == 0 and 2 <= len(searches) <= 4
    for number in range(50, 100):
        ((window,), found) = follow([VideoFrame(scene((100, 180, 20)), Fraction(number, 5))])
        if found.confidence.min() > 0.5:
            break
    assert abs(window.x - 100) < 15 and abs(window.y - 180) < 15


@pytest.mark.parametrize("together", [1, 5])
def test_a_cut_to_another_place_is_searched_anew(together: int) -> None:
    follow = Follower(DotDetector(), "clip")
    images = [scene((60, 60, 20) if number < 12 else (330, 170, 20)) for number in range(60)]
    for begin in range(0, 60, together):
        numbers = range(begin, begin + together)
        windows, found = follow([VideoFrame(images[number], Fraction(number, 25)) for number in numbers])
    assert found.confidence.min() > 0.5 and abs(windows[-1].x - 330) < 20


@pytest.mark.parametrize("together", [1, 5])
def test_what_leaves_its_window_at_once_is_looked_for_around_it(together: int) -> None:
    """At frame 7, the third of five seen together, it is 20 pixels further right, half out of its window."""
    detector = DotDetector()
    follow = Follower(detector, "clip")
    for begin in range(0, 15, together):
        numbers = range(begin, begin + together)
        places = [(200 + 20 * (number >= 7), 120, 20) for number in numbers]
        windows, found = follow([VideoFrame(scene(at), Fraction(n, 25)) for n, at in zip(numbers, places)])
        assert found.confidence.min() > 0.5
        for at, window, pose in zip(places, windows, found.xy):
            assert (in_pixels(pose, window) - (torch.tensor(at[:2]) + DOTS * at[2])).abs().max() < 2
    assert abs(windows[-1].x - 220) < 0.2 * windows[-1].side


@pytest.fixture
def moving(tmp_path: Path) -> Path:
    for number in range(12):
        Image.fromarray(scene((60 + 8 * number, 60, 20))).save(tmp_path / f"{number}.png")
    return tmp_path


def test_a_track_holds_each_frames_window(moving: Path) -> None:
    with open_frames(moving) as frames:
        track = look(Part(frames), DotDetector(), "auto", "crop")
    assert track.poses.shape == (12, 3, 2) and track.confidence.shape == (12, 3) and track.windows.shape == (12, 3)
    fixed = rebase(track.poses, track.windows, track.windows[0])
    travelled = (fixed[-1] - fixed[0]) * track.windows[0, 2] * 120 / 2  # 120 pixels are half the shorter side
    assert (travelled - torch.tensor([88.0, 0.0])).abs().max() < 3


def test_a_window_that_stays_is_the_middle(moving: Path) -> None:
    with open_frames(moving) as frames:
        for crop, fit, side, sure in (
            ("none", "crop", 2.0, True),
            ("none", "crop", 2.0, False),
            ("auto", "pad", 2 * 400 / 240, True),
            ("auto", "pad", 2 * 400 / 240, False),
        ):
            track = look(Part(frames), DotDetector(sure), crop, fit)
            torch.testing.assert_close(track.windows, torch.tensor([[0.0, 0.0, side]]).expand(12, 3))


def test_an_unsure_detector_sees_all_of_a_clip_through_one_window(moving: Path) -> None:
    with open_frames(moving) as frames:
        track = look(Part(frames), DotDetector(sure=False), "auto", "crop")
        with pytest.raises(UserError, match="no frame of it is in the part asked for"):
            look(Part(frames, 9), DotDetector(sure=False), "auto", "crop")
    assert (track.windows == track.windows[0]).all()
    window = absolute_window(Window(*track.windows[0].tolist()), 400, 240)
    for number, pose in enumerate(track.poses):
        assert pose.abs().max() < 1
        x, y, size = 60 + 8 * number, 60, 20
        assert (in_pixels(pose, window) - (torch.tensor([x, y]) + DOTS * size)).abs().max() < size / 4  # a dot's radius


def test_part_of_a_clip(moving: Path) -> None:
    with open_frames(moving) as frames:  # 25 a second
        times = lambda *limits: [frame.time * 25 for frame in Part(frames, *limits)]  # noqa: E731
        assert times() == list(range(12))
        assert times(0.1, 0.3) == [3, 4, 5, 6, 7]
        assert times(Fraction(2, 25), Fraction(6, 25), 2) == [2, 3]
        assert [Part(frames, *limits).expected for limits in [(), (0.1, 0.3), (0.2,), (0, None, 4), (9,)]] == [
            12,
            6,
            7,
            4,
            0,
        ]


def test_confidence_is_scaled_to_what_is_usual_for_the_model() -> None:
    squares = [np.asarray(Image.effect_noise((32, 32), 80).convert("RGB"))] * 2
    model = tiny_model()
    plain = model.window_detector("float32", Batches(4))(squares)
    model.metadata["usual_confidence"] = plain.confidence.mean().item()
    scaled = model.window_detector("float32", Batches(4))(squares)
    assert torch.equal(scaled.xy, plain.xy)
    assert model.metadata["usual_confidence"] < 0.69 and not model.window_detector("float32", Batches(4)).sure
    assert torch.allclose(scaled.confidence, (plain.confidence * 0.8 / plain.confidence.mean()).clamp(max=1))
    model.metadata["usual_confidence"] = 0.95  # surer than faces: left as it is
    sure = model.window_detector("float32", Batches(4))
    assert torch.equal(sure(squares).confidence, plain.confidence) and sure.sure
