"""The conditional GAN: its parts against second ways to compute them, its sampler."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from gan_runs import TINY, tiny_gan, write_autolink, write_images
from PIL import Image
from torch.nn import functional

from autolink import cli
from autolink.layers import LEAKY_SLOPE
from autolink_apps.gan import ConditionalGAN, ConditionalGANConfig, Generator, export
from autolink_apps.gan.generator import StructureEncoder, modulated_conv


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def autolink_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_autolink(tmp_path_factory.mktemp("autolink"))


@pytest.fixture(scope="module")
def gan_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_gan().save_pretrained(tmp_path_factory.mktemp("gan"), {"data": "noise"})


# The generator


def test_modulation_is_the_grouped_convolution() -> None:
    x, weight, style = torch.randn(3, 8, 5, 6), torch.randn(7, 8, 3, 3), torch.randn(3, 8) + 1
    kernels = weight * style[:, None, :, None, None]  # (B, D, C, k, k)
    kernels = kernels / (kernels.square().sum((2, 3, 4), keepdim=True) + 1e-8).sqrt()
    grouped = functional.conv2d(x.flatten(0, 1)[None], kernels.flatten(0, 1), padding=1, groups=3)
    torch.testing.assert_close(modulated_conv(x, weight, style), grouped.view(3, 7, 5, 6), atol=1e-5, rtol=1e-5)


def test_modulation_ignores_the_scale_of_a_style_and_survives_half_precision() -> None:
    x, weight, style = torch.randn(2, 8, 4, 4), torch.randn(8, 8, 3, 3) / 9, torch.randn(2, 8)
    expected = modulated_conv(x, weight, style)
    torch.testing.assert_close(modulated_conv(x, weight, style * 1e6), expected, atol=1e-4, rtol=1e-4)
    with torch.autocast("cpu", torch.float16):
        halved = modulated_conv(x, weight, style * 1e6)
    torch.testing.assert_close(halved.float(), expected, atol=0.02, rtol=0.02)


@pytest.mark.parametrize("image_size", [64, 128, 256])
def test_generator_trains_every_parameter(image_size: int) -> None:
    torch.manual_seed(0)
    generator = Generator(image_size, width=0.05)
    made = generator(torch.rand(2, 1, image_size, image_size), torch.randn(2, 256))
    assert made.shape == (2, 3, image_size, image_size)
    assert 0.1 < made.std() < 5
    made.square().sum().backward()
    for name, parameter in generator.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_generator_has_the_sizes_of_figure_8() -> None:
    generator = Generator(128)
    assert [(m.in_features, m.out_features) for m in generator.mapping[::2]] == [(256, 256)] * 3
    assert [layer.negative_slope for layer in generator.mapping[1::2]] == [LEAKY_SLOPE] * 3
    assert generator.structure.first.out_channels == 128
    assert [block.second.weight.shape[0] for block in generator.blocks] == [512, 256, 128, 64]
    assert StructureEncoder(1.0)(torch.zeros(1, 1, 128, 128)).shape == (1, 512, 8, 8)


def test_structure_sees_an_edge_that_is_one_pixel_wide() -> None:
    encoder = StructureEncoder(0.1)
    edge_maps = torch.zeros(8, 1, 256, 256)
    for shift in range(8):  # wherever it lies between the samples of the 32² grid
        edge_maps[shift, :, :, 128 + shift] = 1
    difference = encoder(edge_maps) - encoder(torch.zeros(1, 1, 256, 256))
    strength = difference.abs().sum((1, 2, 3))
    assert strength.min() > 0.5 * strength.max() > 0


def test_sampling_depends_on_pose_and_appearance() -> None:
    gan, z = tiny_gan(), torch.randn(3, 256)
    grid = gan.sample_grid(gan.poses[:2], z)
    assert grid.shape == (2, 3, 3, 32, 32)
    assert grid.min() >= 0 and grid.max() <= 1
    assert (grid[0] - grid[1]).abs().mean() > 1e-3
    assert (grid[:, 0] - grid[:, 1]).abs().mean() > 1e-3
    torch.testing.assert_close(gan.sample(gan.poses[1:2], z[2:]), grid[1, 2:], atol=1e-5, rtol=1e-5)


def test_truncation_ends_in_the_average_appearance() -> None:
    gan, z = tiny_gan(), torch.randn(3, 256)
    poses = gan.poses[:1].expand(3, -1, -1)
    spread = [gan.sample(poses, z, truncation).std(0).mean() for truncation in (0.0, 0.5, 1.0)]
    assert spread[0] == 0 < spread[1] < spread[2]


def test_condition_reaches_one_whatever_the_edge_weights() -> None:
    gan = tiny_gan()
    drawn = gan.condition(gan.poses)
    assert 0.5 < drawn.max() <= 1
    assert gan.autolink.edge_weights.max() < 0.1


def test_keypoints_without_edges_are_a_condition_too() -> None:
    gan = ConditionalGAN(ConditionalGANConfig(32, 0.1, 2, replace(TINY, drawing="keypoints"))).eval()
    keypoints, z = (torch.randint(8, 24, (2, 4, 2)) * 2 + 1) / 32 - 1, torch.randn(2, 256)  # at centres of pixels
    assert gan.condition(keypoints).amax((1, 2, 3)).tolist() == pytest.approx([1, 1], abs=1e-5)
    exported = export._Sampling(gan, 0.7)(keypoints, z)
    torch.testing.assert_close(exported, gan.sample(keypoints, z, 0.7), atol=1e-4, rtol=0)


def test_file_restores_the_model_and_its_frozen_autolink(gan_file: Path) -> None:
    gan, z = tiny_gan(), torch.randn(2, 256)
    restored = ConditionalGAN.from_pretrained(gan_file)
    assert restored.config == gan.config
    assert restored.metadata == {"data": "noise"}
    assert torch.equal(restored.sample(restored.poses[:2], z), gan.sample(gan.poses[:2], z))
    restored.train()
    assert restored.generator.training and not restored.autolink.training
    assert not any(parameter.requires_grad for parameter in restored.autolink.parameters())


# Sampling


def run_sampler(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["autolink-sample", *map(str, arguments)])
    try:
        cli.sample()
    except SystemExit as stopped:
        return stopped.code
    return 0


def test_sampler_writes_every_pose_with_every_appearance(
    monkeypatch: pytest.MonkeyPatch, gan_file: Path, images: Path, tmp_path: Path
) -> None:
    poses = [images / "image00.png", images / "image01.png"]
    arguments = ["--model", gan_file, "--pose", *poses, "--columns", 3, "--device", "cpu"]
    assert run_sampler(monkeypatch, *arguments, "--output", tmp_path / "one") == 0
    names = {f"image0{row}_0{column}.png" for row in range(2) for column in range(3)}
    assert {path.name for path in (tmp_path / "one").iterdir()} == {"grid.png", *names}
    grid = np.asarray(Image.open(tmp_path / "one/grid.png"))
    assert grid.shape == (2 * 34 - 2, 4 * 34 - 2, 3)
    single = np.asarray(Image.open(tmp_path / "one/image01_02.png"))
    assert np.array_equal(grid[34:66, 3 * 34 : 3 * 34 + 32], single)

    assert run_sampler(monkeypatch, *arguments, "--output", tmp_path / "again") == 0
    assert run_sampler(monkeypatch, *arguments, "--seed", 1, "--output", tmp_path / "other") == 0
    one, again, other = ((tmp_path / run / "grid.png").read_bytes() for run in ("one", "again", "other"))
    assert one == again != other


def test_sampler_takes_poses_of_the_model_without_any_given(
    monkeypatch: pytest.MonkeyPatch, gan_file: Path, tmp_path: Path
) -> None:
    assert run_sampler(monkeypatch, "--model", gan_file, "--output", tmp_path, "--count", 4, "--columns", 2) == 0
    assert len(list(tmp_path.glob("pose-*_*.png"))) == 8


@pytest.mark.parametrize("what", ["missing pose", "text", "empty folder", "damaged", "no model", "other task"])
def test_wrong_input_is_one_line(
    what: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    gan_file: Path,
    autolink_file: Path,
    images: Path,
    tmp_path: Path,
) -> None:
    model, pose = gan_file, images / "image00.png"
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "damaged.safetensors").write_bytes(gan_file.read_bytes()[:-1000])
    if what in ("missing pose", "text", "empty folder"):
        pose = {"missing pose": tmp_path / "none.png", "text": tmp_path / "text.png"}.get(what, tmp_path / "empty")
    else:
        model = {"damaged": tmp_path / "damaged.safetensors", "other task": autolink_file}.get(what, "no-such-gan")
    arguments = ["--model", model, "--pose", pose, "--output", tmp_path / "out"]
    assert run_sampler(monkeypatch, *arguments) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ") and printed.count("\n") == 1
    assert str(pose if what in ("missing pose", "text", "empty folder") else model) in printed
    assert not (tmp_path / "out").exists()
