"""Synthetic figures promise: a picture is a function of its index, and joints lie on the figure."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from autolink.data import JOINT_NAMES, SKELETON_LINKS, open_data, synthetic_clip
from autolink.data.skeleton import POSE_SIZE
from autolink.data.synthetic import FRAMES_A_CLIP, SyntheticFigures
from autolink.data.synthetic_figures import Figure


def test_synthetic_is_a_function_of_its_index():
    data, again = SyntheticFigures(64), SyntheticFigures(64)
    assert torch.equal(data[123].image, again[123].image)
    assert torch.equal(data[123].landmarks, again[123].landmarks)
    assert not torch.equal(data[123].image, SyntheticFigures(64, seed=1)[123].image)
    assert not torch.equal(data[0].image, SyntheticFigures(64, "val")[0].image)
    assert not set(data.clips) & set(SyntheticFigures(64, "val").clips)
    assert torch.equal(data[123].image, SyntheticFigures(64, "fit")[123].image)
    with pytest.raises(IndexError):
        data[len(data)]


def test_synthetic_is_the_same_picture_at_every_size():
    small, large = SyntheticFigures(32)[5], SyntheticFigures(128)[5]
    assert torch.equal(small.landmarks, large.landmarks)
    reduced = torch.nn.functional.avg_pool2d(large.image.float(), 4)
    assert (reduced - small.image.float()).abs().mean() < 8


def test_synthetic_fits_its_linear_map_on_the_first_figures_of_train():
    fit, train = SyntheticFigures(32, "fit"), SyntheticFigures(32)
    assert 0 < len(fit) < len(train) and fit.clips == train.clips[: len(fit)]
    assert torch.equal(fit[9].image, train[9].image)


def test_synthetic_figures_fill_the_image():
    """Small figures teach a network to put all its keypoints in one place."""
    joints = torch.stack([SyntheticFigures(16)[index].landmarks for index in range(0, 320, 8)])
    extent = (joints.amax(1) - joints.amin(1)).mean(0) / 2
    assert extent[0] > 0.4 and extent[1] > 0.65


def test_synthetic_joints_lie_on_the_figure():
    """Every joint is in the image, and inside the drawn silhouette."""
    rng = np.random.default_rng(0)
    for seed in range(40):
        figure = Figure(np.random.default_rng(seed))
        posed, origin = figure.place(rng.random(POSE_SIZE), rng.random())
        image, mask = figure.draw(posed, origin, 128)
        empty = figure.scene.draw(128, figure.floor) * 255
        joints = figure.joints(posed, origin)
        assert joints.min() > 0 and joints.max() < 1
        x, y = np.floor(joints.T * 128).astype(int)
        assert mask[y, x].min() > 0.9
        assert 0.02 < mask.mean() < 0.5
        # and what the mask leaves out is the scene, but for soft shadows, which only darken
        outside = mask == 0
        assert (image[outside] <= empty[outside] + 1).all()


def test_synthetic_links_are_a_tree_over_the_joints():
    reached = {0}
    for a, b in SKELETON_LINKS:
        assert a < b and a in reached
        reached.add(b)
    assert reached == set(range(len(JOINT_NAMES))) and len(SKELETON_LINKS) == len(JOINT_NAMES) - 1


def test_synthetic_clips_share_a_figure():
    data = open_data("synthetic", 64)
    assert data.landmark_count == len(JOINT_NAMES) and len(data) == len(data.clips) == 20_000
    first = [data[i] for i in range(FRAMES_A_CLIP)]
    assert {sample.clip for sample in first} == {data.clips[0]} != {data[FRAMES_A_CLIP].clip}
    # The upper corners show the same scene in all poses, and the figure moves.
    corners = torch.stack([sample.image[:, :6, :4] for sample in first])
    assert (corners == corners[0]).all()
    assert torch.stack([sample.landmarks for sample in first]).std(0).mean() > 0.05


def test_synthetic_clip_moves_smoothly():
    frames, joints = synthetic_clip(seed=3, frames=30, size=48)
    assert frames.shape == (30, 3, 48, 48) and frames.dtype == torch.uint8
    assert joints.shape == (30, len(JOINT_NAMES), 2) and joints.abs().max() < 1
    steps = (joints[1:] - joints[:-1]).norm(dim=-1)
    assert 0.005 < steps.mean() < 0.06 and steps.max() < 0.25
    same, same_motion = synthetic_clip(3, 30, 48)[0], synthetic_clip(3, 30, 48, identity_seed=9)
    assert torch.equal(frames, same)
    assert not torch.equal(frames, same_motion[0])
    # another body, the same dance
    a, b = joints - joints.mean(0), same_motion[1] - same_motion[1].mean(0)
    assert (a * b).sum() / (a.norm() * b.norm()) > 0.9
