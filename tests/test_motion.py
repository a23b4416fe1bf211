"""Retargeting in keypoint space, against cases worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from autolink.data.skeleton import NECK, POSE_SIZE, SKELETON_LINKS
from autolink.data.synthetic_figures import Figure
from autolink_apps.pose_transfer.motion import (
    BUILD_LIMIT,
    MIN_BONE,
    SCALE_LIMITS,
    absolute,
    nearest_pair,
    normalised,
    relative,
    retarget,
    rooted,
    scale_between,
    skeleton,
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
    assert scale_between(SQUARE * 2, SQUARE / 5) == SCALE_LIMITS[1] == 3
    assert scale_between(SQUARE / 5, SQUARE * 2) == SCALE_LIMITS[0] == 1 / 3
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


# Bones

STICK = torch.tensor([[0.0, 0.0], [0.4, 0.0], [0.4, 0.2], [-0.4, 0.0], [-0.4, 0.2]])
"""A body (0) with two arms, each of an upper arm 0.4 and a forearm 0.2 long."""
ARMS = [(0, 1), (1, 2), (0, 3), (3, 4)]


def bone_lengths(poses: torch.Tensor) -> torch.Tensor:
    return torch.stack([(poses[..., b, :] - poses[..., a, :]).norm(dim=-1) for a, b in ARMS], dim=-1)


def test_root_is_the_most_central_and_parents_come_first() -> None:
    chain = [(3, 4), (0, 1), (2, 3), (1, 2)]
    pairs = rooted(chain, 5)
    assert pairs[0] == (2, 2) and sorted(pairs) == [(1, 0), (2, 1), (2, 2), (2, 3), (3, 4)]
    assert all(parent in [child for _, child in pairs[: index + 1]] for index, (parent, _) in enumerate(pairs))
    assert rooted(ARMS, 5)[0] == (0, 0)
    star = rooted([(0, 4), (1, 4), (2, 4), (3, 4)], 5)
    assert star[0] == (4, 4) and sorted(star[1:]) == [(4, 0), (4, 1), (4, 2), (4, 3)]


def test_keypoints_that_no_link_reaches_are_roots() -> None:
    assert sorted(rooted([(1, 2), (2, 3)], 5)) == [(0, 0), (2, 1), (2, 2), (2, 3), (4, 4)]
    assert rooted([], 2) == [(0, 0), (1, 1)]


def test_source_raises_its_own_short_arm() -> None:
    """Worked by hand: the driver turns its right arm up by 90 degrees about the body."""
    driving = STICK.clone()
    driving[1:3] = torch.tensor([[0.0, -0.4], [0.2, -0.4]])
    source = torch.tensor([[0.1, 0.1], [0.45, 0.1], [0.45, 0.3], [-0.35, 0.1], [-0.35, 0.3]])  # upper arms 0.35, 0.45
    scale = scale_between(source, STICK)
    assert 1 / BUILD_LIMIT < 0.35 / 0.4 / scale < BUILD_LIMIT  # the limit plays no part
    raised = torch.tensor([[0.1, 0.1], [0.1, -0.25], [0.3, -0.25], [-0.35, 0.1], [-0.35, 0.3]])
    torch.testing.assert_close(skeleton(driving, STICK, source, ARMS), raised)


def test_lengths_are_the_sources_while_the_drivers_bones_turn() -> None:
    angles = torch.linspace(0, 6, 40)
    bones = torch.stack([angles.cos(), angles.sin()], dim=-1)
    driving = torch.stack(
        [bones * 0, bones * 0.4, bones * 0.4 + bones.flip(-1) * 0.2, -bones * 0.4, -bones * 0.4 + bones * 0.2], dim=-2
    )
    source = torch.tensor([[0.0, 0.0], [0.36, 0.0], [0.36, 0.22], [-0.45, 0.0], [-0.45, 0.18]])
    made = skeleton(driving, STICK, source, ARMS)
    torch.testing.assert_close(bone_lengths(made), bone_lengths(source).expand(40, -1))
    made_bones, driver_bones = ((poses[:, [1, 2, 3, 4]] - poses[:, [0, 1, 0, 3]]) for poses in (made, driving))
    cross = made_bones[..., 0] * driver_bones[..., 1] - made_bones[..., 1] * driver_bones[..., 0]
    assert cross.abs().max() < 1e-6 and ((made_bones * driver_bones).sum(-1) > 0).all()  # the driver's directions


def test_a_bone_is_foreshortened_as_the_drivers() -> None:
    driving = STICK.clone()
    driving[2, 1] = 0.05  # a forearm that turned towards the viewer: a quarter of its length is left
    made = skeleton(driving, STICK, STICK * 1.2 - 0.1, ARMS)
    torch.testing.assert_close(bone_lengths(made), torch.tensor([0.4, 0.05, 0.4, 0.2]) * 1.2)


def test_driver_in_the_sources_pose_gives_the_source() -> None:
    source = STICK.clone()
    source[[1, 2], 0], source[[2, 4], 1] = 0.42, 0.23  # the same directions, another build
    reference = STICK * 0.7 + 0.1
    torch.testing.assert_close(skeleton(reference, reference, source, ARMS), source)
    clip = torch.randn(6, 5, 2).cumsum(0) * 0.03 + STICK
    torch.testing.assert_close(skeleton(clip, clip[2], clip[2], ARMS), clip)


def test_skeleton_moves_and_grows_with_its_source() -> None:
    driving = torch.randn(4, 5, 2).cumsum(0) * 0.05 + STICK
    source = STICK * 0.8 + torch.randn(5, 2) * 0.03
    made = skeleton(driving, STICK, source, ARMS)
    torch.testing.assert_close(skeleton(driving, STICK, source * 1.5 + 0.2, ARMS), made * 1.5 + 0.2)


def test_bodies_of_equal_proportions_move_as_by_relative_motion_from_the_same_pose() -> None:
    """Sums of bones in one ratio are the positions themselves, so the two rules agree."""
    driving = torch.randn(2, 3, 5, 2) * 0.2 + STICK
    source = STICK * 1.3 - 0.1
    made = skeleton(driving, STICK, source, ARMS)
    torch.testing.assert_close(made, relative(driving, STICK, source))
    torch.testing.assert_close(made[1, 2], skeleton(driving[1, 2], STICK, source, ARMS))


def test_without_links_every_keypoint_moves_by_relative_motion() -> None:
    driving, source = torch.randn(3, 5, 2), torch.randn(5, 2)
    torch.testing.assert_close(skeleton(driving, STICK, source, []), relative(driving, STICK, source))


@pytest.mark.parametrize(
    "reference, source",
    [(STICK * 0, STICK), (STICK, STICK * 0), (STICK * 0, STICK * 0), (STICK * 1e-9, STICK), (STICK, STICK * 1e30)],
)
def test_collapsed_poses_give_finite_ones(reference: torch.Tensor, source: torch.Tensor) -> None:
    driving = torch.cat([torch.randn(5, 5, 2), STICK[None] * 0])
    assert skeleton(driving, reference, source, ARMS).isfinite().all()


def test_a_bone_without_length_takes_the_ratio_of_the_bodies() -> None:
    reference = STICK.clone()
    reference[2] = reference[1] + MIN_BONE / 2
    made = skeleton(STICK, reference, STICK, ARMS)
    scale = scale_between(STICK, reference)
    torch.testing.assert_close(made[2] - made[1], torch.tensor([0.0, 0.2]) * scale)
    assert 0.9 < scale < 1.1


def test_proportions_are_limited() -> None:
    source = STICK.clone()
    source[2, 1] = 0.6  # a forearm three times the driver's
    scale = scale_between(source, STICK)
    made = skeleton(STICK, STICK, source, ARMS)
    assert (made[2] - made[1]).norm().item() == pytest.approx(0.2 * scale * BUILD_LIMIT)


def figure_clip(motion: int, who: int, frames: int = 40, **build: float) -> torch.Tensor:
    """True joints (T, 14, 2) of a figure that goes from pose to pose; a build other than random may be given."""
    figure = Figure(np.random.default_rng(who))
    figure.body = figure.body._replace(**build)
    keys = np.random.default_rng(motion).random((frames // 10 + 2, POSE_SIZE))
    poses = [(1 - t % 1) * keys[int(t)] + t % 1 * keys[int(t) + 1] for t in np.arange(frames) / 10]
    placed = [figure.place(pose, 0.5) for pose in poses]
    return torch.from_numpy(np.stack([figure.joints(*place) for place in placed]) * 2 - 1).float()


def test_a_child_that_moves_as_an_adult_does() -> None:
    """The same angles on another body are the truth, and bones come closer to it than positions do."""
    child = {"upper_arm": 0.11, "forearm": 0.10, "thigh": 0.15, "shin": 0.15, "head": 0.13}
    errors = {"relative": [], "absolute": [], "skeleton": []}
    for number in range(6):
        driver, truth = figure_clip(number, 100 + number), figure_clip(number, 200 + number, **child)
        source_clip = figure_clip(300 + number, 200 + number, **child)  # another video of the child
        pair = nearest_pair(source_clip, driver)
        for kind, error in errors.items():
            made = retarget(kind, driver, driver[pair[1]], source_clip[pair[0]], SKELETON_LINKS)
            shapes = [poses - poses[:, NECK : NECK + 1] for poses in (made, truth)]
            error.append((shapes[0] - shapes[1]).norm(dim=-1).mean().item())
    mean = {kind: sum(error) / len(error) for kind, error in errors.items()}
    assert mean["skeleton"] < 0.75 * mean["relative"] and mean["skeleton"] < 0.5 * mean["absolute"]
