"""The transfer network and its flow: sizes, gradients, closed forms, files."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from transfer_files import tiny_model, write_model

from autolink import AutoLink, AutoLinkConfig, UserError
from autolink.data.synthetic import SyntheticFigures
from autolink.geometry import pixel_grid
from autolink_apps.pose_transfer import PoseTransfer, TransferNet
from autolink_apps.pose_transfer.warp import RIGIDITY, SOFTNESS, MotionNet, keypoint_flow, warp


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("appearance", ["bottleneck", "warped"])
@pytest.mark.parametrize("image_size", [64, 128, 256])
def test_network_trains_every_parameter(image_size: int, appearance: str) -> None:
    network = TransferNet(image_size, 0.05, appearance)
    images, edge_maps = torch.rand(2, 3, image_size, image_size) * 2 - 1, torch.rand(2, 1, image_size, image_size)
    source, driving = torch.rand(2, 2, 5, 2) * 2 - 1
    made = network(images, source, edge_maps, driving, edge_maps.flip(-1))
    assert made.shape == images.shape
    (made - 1).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("appearance", ["bottleneck", "warped"])
def test_network_can_learn_pairs_by_heart(appearance: str) -> None:
    figures = SyntheticFigures(32, length=16)
    samples = [figures[index] for index in (0, 8, 1, 9)]  # two figures in two poses
    images = torch.stack([sample.image for sample in samples]).float() / 127.5 - 1
    poses = torch.stack([sample.landmarks for sample in samples])
    edge_maps = AutoLink(AutoLinkConfig(poses.shape[1], 5e-3, 32, 0.1)).edge_map(poses, 32).detach() * 50
    inputs = [part for x in (images, poses, edge_maps) for part in x.chunk(2)]
    source, driving, source_pose, driving_pose, source_edges, driving_edges = inputs
    network = TransferNet(32, 0.1, appearance)
    adam = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(100):
        error = (network(source, source_pose, source_edges, driving_pose, driving_edges) - driving).square().mean()
        adam.zero_grad()
        error.backward()
        adam.step()
    assert error.item() < 0.5 * (source - driving).square().mean().item()


def test_network_has_the_sizes_of_figure_8() -> None:
    network = TransferNet(128, appearance="bottleneck")
    features = network.edge_encoder(torch.zeros(1, 1, 128, 128))
    expected = [(64, 128), (128, 64), (256, 32), (512, 16), (512, 8)]
    assert [(f.shape[1], f.shape[2]) for f in features] == expected
    assert network.decoder[0][0].in_channels == 512 + 512 + 512  # smallest feature, appearance, shortcut
    assert [block[0].out_channels for block in network.decoder] == [512, 256, 128, 64]
    assert not any("batchnorm" in type(module).__name__.lower() for module in network.modules())


def test_an_odd_size_is_refused_in_one_line() -> None:
    with pytest.raises(UserError, match="power of two"):
        TransferNet(96)


def test_equal_poses_do_not_warp() -> None:
    pose, images = torch.rand(2, 6, 2) * 2 - 1, torch.rand(2, 3, 64, 64)
    flow = keypoint_flow(pose, pose, 32)
    assert flow.abs().max() == 0
    torch.testing.assert_close(warp(images, flow), images, atol=1e-5, rtol=0)


def test_flow_carries_keypoints_to_where_they_go() -> None:
    source, driving = torch.rand(2, 3, 5, 2) * 1.6 - 0.8
    flow = keypoint_flow(source, driving, 128)
    at_keypoints = torch.nn.functional.grid_sample(flow, driving[:, None], align_corners=False)[:, :, 0]
    assert (driving + at_keypoints.transpose(1, 2) - source).abs().max() < 0.15
    assert (driving - source).abs().max() > 0.5


def test_flow_of_an_affine_motion_is_that_motion() -> None:
    driving = torch.tensor([[-0.7, -0.7], [0.7, -0.6], [0.6, 0.7], [-0.7, 0.6], [0.1, 0.0]])[None]
    matrix, shift = torch.tensor([[0.9, -0.3], [0.2, 1.1]]), torch.tensor([0.1, -0.05])
    flow = keypoint_flow(driving @ matrix + shift, driving, 16)
    grid = pixel_grid(16, 16)
    expected = grid @ matrix + shift - grid
    assert (flow[0].permute(1, 2, 0) - expected).abs().max() < 0.1 * expected.abs().max()  # but for the rigidity


def test_flow_is_the_ridge_regression_around_each_pixel() -> None:
    source, driving = torch.rand(2, 6, 2, dtype=torch.float64) * 2 - 1
    flow = keypoint_flow(source[None], driving[None], 5)[0].permute(1, 2, 0).double()
    for place, found in zip(pixel_grid(5, 5, dtype=torch.float64).flatten(0, 1), flow.flatten(0, 1)):
        weights = 1 / ((driving - place).square().sum(1) + SOFTNESS**2)
        weights = weights / weights.sum()
        moved, (middle, shift) = source - driving, (weights @ x for x in (driving, source - driving))
        inputs, targets = ((weights.sqrt()[:, None] * x) for x in (driving - middle, moved - shift))
        ridge = RIGIDITY**0.5 * torch.eye(2, dtype=torch.float64)  # as two more keypoints that should not move
        linear = torch.linalg.lstsq(torch.cat([inputs, ridge]), torch.cat([targets, 0 * ridge])).solution
        torch.testing.assert_close(found, shift + (place - middle) @ linear, atol=1e-4, rtol=1e-4)


def test_motion_begins_by_following_the_keypoints() -> None:
    network = MotionNet(32, 0.1)
    torch.nn.init.zeros_(network.head.weight)
    network.head.bias.data = torch.tensor([0.5, -0.5, 0.0, 0.0])
    source, driving = torch.rand(2, 2, 5, 2) * 2 - 1
    flow, visibility = network(
        torch.rand(2, 3, 32, 32), source, torch.rand(2, 1, 32, 32), driving, torch.rand(2, 1, 32, 32)
    )
    mostly = 1 / (1 + math.exp(-1))
    residual = torch.tensor([0.05, -0.05]).view(1, 2, 1, 1)  # a tenth of what the head says
    torch.testing.assert_close(flow, mostly * keypoint_flow(source, driving, 16) + residual)
    torch.testing.assert_close(visibility, torch.full((2, 1, 16, 16), mostly))


@pytest.mark.parametrize("driving", [torch.zeros(1, 5, 2), torch.linspace(-0.5, 0.5, 5)[None, :, None].expand(1, 5, 2)])
def test_flow_of_degenerate_poses_is_finite_and_translates(driving: torch.Tensor) -> None:
    flow = keypoint_flow(driving + torch.tensor([0.2, -0.1]), driving, 16)
    torch.testing.assert_close(flow, torch.tensor([0.2, -0.1])[None, :, None, None].expand_as(flow), atol=1e-4, rtol=0)


def test_warp_moves_whole_pixels_and_repeats_the_border() -> None:
    images = torch.rand(1, 3, 8, 8)
    flow = torch.zeros(1, 2, 4, 4)
    flow[:, 0] = 2 / 8  # fetch from one pixel to the right
    moved = warp(images, flow)
    torch.testing.assert_close(moved[..., :-1], images[..., 1:])
    torch.testing.assert_close(moved[..., -1], images[..., -1])


def test_half_precision_does_not_round_positions() -> None:
    source, driving = torch.rand(2, 1, 4, 2) * 2 - 1
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(keypoint_flow(source, driving, 16), keypoint_flow(source.double(), driving.double(), 16))
    images = torch.rand(1, 3, 32, 32)
    model = tiny_model()
    exact = model.transfer(images, source, driving)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(model.transfer(images, source, driving), exact, atol=0.03, rtol=0)


@pytest.mark.parametrize("appearance", ["bottleneck", "warped"])
@torch.no_grad()
def test_one_source_serves_many_poses(appearance: str) -> None:
    model, images, poses = tiny_model(appearance), torch.rand(3, 3, 32, 32), torch.rand(3, 4, 2) * 2 - 1
    source = model.encode(images[:1], poses[:1])
    made = model.drive(source, poses)
    assert made.shape == (3, 3, 32, 32) and made.min() >= 0 and made.max() <= 1
    for one, pose in zip(made, poses):
        torch.testing.assert_close(model.transfer(images[:1], poses[:1], pose[None])[0], one, atol=1e-5, rtol=0)
    other = model.drive(model.encode(images[1:2], poses[:1]), poses)
    assert (other - made).abs().mean() > 1e-5  # the source's looks matter
    assert (made[1] - made[2]).abs().mean() > 1e-6  # and so does the pose


def test_network_sees_an_edge_map_that_reaches_one() -> None:
    model = tiny_model()
    drawn = model.edge_map(torch.rand(2, 4, 2) - 0.5)
    assert 0.5 < drawn.max() <= 1
    assert model.autolink.edge_weights.max() < 0.1


def test_file_restores_the_model_and_its_frozen_autolink(model_file: Path) -> None:
    model, restored = tiny_model(), PoseTransfer.from_pretrained(model_file)
    assert restored.config == model.config
    pose, images = torch.rand(1, 4, 2), torch.rand(1, 3, 32, 32)
    assert torch.equal(restored.transfer(images, pose, -pose), model.transfer(images, pose, -pose))
    restored.train()
    assert restored.network.training and not restored.autolink.training
    assert not any(parameter.requires_grad for parameter in restored.autolink.parameters())
