"""The one-euro filter, against its published recursion on one coordinate and against what it is for."""

from __future__ import annotations

import math

import pytest
import torch

from autolink.smoothing import OneEuroFilter

SQUARE = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]]) / 4


def published(values: list[float], times: list[float], min_cutoff: float, beta: float, speed_cutoff: float):
    """The algorithm as the paper states it, for one number at a time."""

    def alpha(cutoff: float, rate: float) -> float:
        tau, period = 1 / (2 * math.pi * cutoff), 1 / rate
        return 1 / (1 + tau / period)

    filtered, speed, result = values[0], 0.0, [values[0]]
    for i in range(1, len(values)):
        rate = 1 / (times[i] - times[i - 1])
        a = alpha(speed_cutoff, rate)
        speed = a * (values[i] - filtered) * rate + (1 - a) * speed
        a = alpha(min_cutoff + beta * abs(speed), rate)
        filtered = a * values[i] + (1 - a) * filtered
        result.append(filtered)
    return result


def test_on_a_line_it_is_the_published_filter_at_irregular_times() -> None:
    torch.manual_seed(3)
    times = (torch.rand(40, dtype=torch.float64) * 0.1 + 0.01).cumsum(0).tolist()
    values = (torch.randn(40, dtype=torch.float64) * 0.1).cumsum(0)
    smooth = OneEuroFilter(min_cutoff=0.7, beta=3.0, speed_cutoff=1.5)
    found = [smooth(torch.stack([v, 0 * v])[None], t)[0] for v, t in zip(values, times)]
    expected = published(values.tolist(), times, 0.7, 3.0, 1.5)
    assert torch.stack(found)[:, 0].tolist() == pytest.approx(expected, abs=1e-12)
    assert not torch.stack(found)[:, 1].any()


def test_the_direction_of_a_movement_does_not_matter() -> None:
    angle = math.radians(30)
    turn = torch.tensor([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    path = torch.randn(30, 4, 2).cumsum(0) * 0.03
    straight, turned = OneEuroFilter(), OneEuroFilter()
    for i, pose in enumerate(path):
        torch.testing.assert_close(straight(pose, i / 25) @ turn, turned(pose @ turn, i / 25), atol=1e-5, rtol=0)


def test_it_quiets_a_pose_at_rest_and_follows_one_that_moves() -> None:
    times = [i / 25 for i in range(50)]
    rest, jitter = OneEuroFilter(), SQUARE + torch.randn(50, 4, 2) * 0.004
    smoothed = torch.stack([rest(pose, time) for pose, time in zip(jitter, times)])
    assert smoothed[10:].std(0).mean() < 0.7 * jitter[10:].std(0).mean()
    move = OneEuroFilter()
    path = [SQUARE + 0.8 * time for time in times]  # across the image in 2.5 seconds
    lag = (torch.stack([move(pose, time) for pose, time in zip(path, times)]) - torch.stack(path)).abs()
    assert lag[25:].max() < 0.03


def test_the_first_frame_and_one_that_is_not_later_pass_unchanged() -> None:
    smooth = OneEuroFilter()
    assert torch.equal(smooth(SQUARE, 0.0), SQUARE)
    assert torch.equal(smooth(SQUARE + 1, 0.0), SQUARE + 1)
