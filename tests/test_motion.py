"""Retargeting in keypoint space, against cases worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from autolink_apps.pose_transfer.motion import (
    SCALE_LIMITS,
    absolute,
    nearest_pair,
    normalised,
    relative,
    scale_between,
    spread,
)

SQUARE = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]]) / 4


def turned(pose: torch.Tensor, degrees: float) -> torch.Tensor:
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return pose @ torch.tensor([[cos, sin], [-sin, cos]])


def test_spread_is_the_distance_of_a_squares_corners_from_its_centre() -> None:
    assert spread(SQUARE + 0.3).item() == pytest.approx(math.sqrt(2) / 4)


def test_normalised_forgets_place_and_size_alone() -> None:
    torch.testing.assert_close(normalised(SQUARE * 0.5 + 0.2), normalised(SQUARE))
    assert (normalised(turned(SQUARE, 10)) - normalised(SQUARE)).abs().max() > 0.1


def test_absolute_motion_is_the_drivers() -> None:
    assert absolute(SQUARE) is SQUARE


def test_relative_motion_of_a_resting_driver_is_the_source() -> None:
    driver = (SQUARE * 0.5 - 0.1).expand(5, -1, -1)
    torch.testing.assert_close(relative(driver, driver[0], SQUARE), SQUARE.expand(5, -1, -1))


def test_relative_motion_of_the_sources_own_clip_is_that_clip() -> None:
    clip = torch.randn(6, 4, 2).cumsum(0) * 0.05 + SQUARE
    torch.testing.assert_close(relative(clip, clip[2], clip[2]), clip)


def test_relative_motion_is_scaled_to_the_source() -> None:
    driver = SQUARE / 2 + torch.tensor([0.2, 0.0])
    moved = relative(driver + torch.tensor([0.1, -0.05]), driver, SQUARE)  # half as large: it moves twice as far
    torch.testing.assert_close(moved, SQUARE + torch.tensor([0.2, -0.1]))


def test_a_larger_driver_that_turns_turns_the_source_alike() -> None:
    moved = relative(turned(SQUARE * 2, 30), SQUARE * 2, SQUARE + 0.1)
    torch.testing.assert_close(moved, turned(SQUARE, 30) + 0.1)


@pytest.mark.parametrize("degenerate", [torch.zeros(4, 2), SQUARE * 0.01])
def test_a_degenerate_pose_does_not_scale_motion(degenerate: torch.Tensor) -> None:
    assert scale_between(SQUARE, degenerate) == 1 == scale_between(degenerate, SQUARE)
    assert normalised(degenerate).abs().max() <= 0.1


def test_scale_is_limited() -> None:
    assert scale_between(SQUARE * 2, SQUARE / 5) == SCALE_LIMITS[1]
    assert scale_between(SQUARE / 5, SQUARE * 2) == SCALE_LIMITS[0]
    assert scale_between(SQUARE, SQUARE / 2) == pytest.approx(2)


def test_reference_is_the_pose_most_like_the_source_wherever_and_however_large() -> None:
    driver = torch.stack([turned(SQUARE, angle) for angle in (40, 25, 5, -10)]) * 0.4 + 0.3
    assert nearest_pair(SQUARE[None], driver) == (0, 2)
    sources = torch.stack([turned(SQUARE, angle) for angle in (80, -12, 60)])
    assert nearest_pair(sources, driver) == (1, 3)
    assert nearest_pair(sources, driver[:1]) == (2, 0)


def test_reference_is_found_in_a_clip_that_is_compared_in_pieces() -> None:
    driver = torch.randn(5000, 4, 2)
    driver[4500] = SQUARE * 0.7 - 0.2
    assert nearest_pair(SQUARE[None], driver) == (0, 4500)


def test_first_of_equal_poses_is_the_reference() -> None:
    assert nearest_pair(SQUARE[None], SQUARE.expand(7, -1, -1)) == (0, 0)
