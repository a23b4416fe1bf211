"""Who plays whom: frames chosen, uncertain frames bridged, and the source's frames matched by time."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from transfer_files import tiny_model

from autolink import UserError
from autolink.graph import maximum_spanning_tree
from autolink.tracking.follow import Track, steady
from autolink.tracking.windows import rebase
from autolink.video import VideoFrame
from autolink_apps.pose_transfer import motion
from autolink_apps.pose_transfer.casting import bridged, candidates, cast, kept_inside, resting, running

NAMES = Path("source.mp4"), Path("driver.mp4")


def track_of(poses: torch.Tensor, confidence: list[float] | None = None, rate: int = 10) -> Track:
    count = len(poses)
    certain = torch.tensor(confidence or [0.9] * count)[:, None].expand(count, poses.shape[1])
    times = [Fraction(number, rate) for number in range(count)]
    return Track(poses, certain, torch.tensor([[0.0, 0.0, 2.0]]).expand(count, 3), times)


@pytest.fixture
def poses() -> torch.Tensor:
    return torch.rand(8, 4, 2) - 0.5


def test_the_most_similar_frames_are_chosen_and_said(poses: torch.Tensor, capsys: pytest.CaptureFixture[str]) -> None:
    source = track_of(torch.stack([torch.rand(4, 2), poses[5] * 0.5 + 0.2, torch.rand(4, 2)]))
    casting = cast(tiny_model(), source, track_of(poses), NAMES)
    assert casting.source_frame == 1
    torch.testing.assert_close(casting.poses[5], source.poses[1])
    torch.testing.assert_close(casting.poses[2] - casting.poses[5], (poses[2] - poses[5]) * 0.5)  # half as large
    said = capsys.readouterr().out
    assert "frame 1 of source.mp4" in said and "frame 5 of driver.mp4" in said


def test_an_uncertain_frame_is_no_reference_and_takes_its_pose_from_its_neighbours(poses: torch.Tensor) -> None:
    driver = track_of(poses, [0.9, 0.1, 0.1, 0.9, 0.9, 0.9, 0.9, 0.1])
    found = bridged(driver)
    torch.testing.assert_close(found[1], poses[0] * 2 / 3 + poses[3] / 3)
    torch.testing.assert_close(found[7], poses[6])
    torch.testing.assert_close(found[3:7], poses[3:7])
    casting = cast(tiny_model(), track_of(poses[2:3] * 0.9), driver, NAMES)
    assert not torch.allclose(casting.poses[2], poses[2] * 0.9)
    nobody = track_of(poses, [0.1] * 8)
    torch.testing.assert_close(bridged(nobody), poses)  # nothing better is known


@pytest.mark.parametrize("kind", ["relative", "absolute"])
def test_at_its_reference_the_driver_leaves_the_source_as_it_is(kind: str, poses: torch.Tensor) -> None:
    source = track_of(torch.rand(1, 4, 2) - 0.5)
    casting = cast(tiny_model(), source, track_of(poses), NAMES, kind, "3", "first")
    expected = poses[3] if kind == "absolute" else source.poses[0]
    torch.testing.assert_close(casting.poses[3], expected)


def test_skeleton_takes_the_bones_of_the_models_own_tree(poses: torch.Tensor) -> None:
    model, source = tiny_model(), track_of((torch.rand(1, 4, 2) - 0.5) * 0.6)
    found = cast(model, source, track_of(poses * 0.6), NAMES, "skeleton", "3", "first").poses
    links = maximum_spanning_tree(model.autolink.graph.matrix())
    torch.testing.assert_close(found, motion.skeleton(poses * 0.6, poses[3] * 0.6, source.poses[0], links))


def test_frames_that_are_not_there(poses: torch.Tensor) -> None:
    for changes in ({"reference": "8"}, {"chosen": "8"}):
        with pytest.raises(UserError, match="0 to 7"):
            cast(tiny_model(), track_of(poses), track_of(poses), NAMES, **changes)
    assert candidates("running", 3.5) == (3.5, None) and candidates("first", 9) == (None, 1)
    assert candidates("7", 9) == (None, 8) and candidates("auto", 9)[0] is None


def test_poses_stay_in_the_picture() -> None:
    pose = torch.tensor([[-0.2, -0.3], [0.4, 0.5]])
    moves = torch.tensor([[0.0, 0.0], [1.0, 0.0], [-2.0, 0.9]])
    found = kept_inside(pose + moves[:, None])
    torch.testing.assert_close(found[0], pose)
    torch.testing.assert_close(found[1], pose + torch.tensor([0.6, 0.0]))
    torch.testing.assert_close(found[2], pose + torch.tensor([-0.8, 0.5]))
    huge = torch.tensor([[[-1.5, 0.0], [1.5, 0.0]]])
    assert torch.equal(kept_inside(huge), huge)


def test_a_calm_camera_loses_no_point_and_does_not_shake(poses: torch.Tensor) -> None:
    count = 60
    along = torch.linspace(-1, 1, count)
    windows = torch.stack([along, 0 * along, 1 + 0 * along], 1) + 0.05 * torch.randn(count, 3)
    shaky = track_of((torch.rand(1, 4, 2) - 0.5).expand(count, 4, 2), rate=25)._replace(windows=windows)
    calm = steady(shaky)
    middle = torch.tensor([0.0, 0.0, 2.0])
    torch.testing.assert_close(
        rebase(calm.poses, calm.windows, middle), rebase(shaky.poses, shaky.windows, middle), atol=1e-5, rtol=0
    )
    shake = [track.windows.diff(n=2, dim=0).square().mean() for track in (shaky, calm)]
    assert shake[1] < 0.1 * shake[0]
    torch.testing.assert_close(calm.windows[30], windows[18:43].mean(0))  # half a second before and after


def frames_at(*times: float) -> list[VideoFrame]:
    return [VideoFrame(np.full((2, 2, 3), number, np.uint8), Fraction(time)) for number, time in enumerate(times)]


def test_a_running_source_shows_what_a_player_would_show() -> None:
    source = frames_at(0, 0.5, 0.75, 2)
    times = [Fraction(n, 4) for n in range(10)]
    shown = list(running(source, times))
    assert [frame.index for frame in shown] == [0, 0, 1, 2, 2, 2, 2, 2, 3, 3]
    assert all(frame.image[0, 0, 0] == frame.index for frame in shown)


def test_a_resting_source_is_one_frame() -> None:
    shown = list(resting(frames_at(0, 1, 2), 1, 5))
    assert [frame.index for frame in shown] == [1] * 5 and shown[4].image[0, 0, 0] == 1
