"""The conditional GAN: its parts against second ways to compute them, its training run, its sampler."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from autolink.errors import UserError
from autolink.layers import LEAKY_SLOPE
from autolink.model import AutoLink, AutoLinkConfig
from autolink.weights import read_tensors
from autolink_apps.gan import ConditionalGAN, ConditionalGANConfig, Generator
from autolink_apps.gan import sample as sampling
from autolink_apps.gan import train as training
from autolink_apps.gan.augment import augment, change_colours, cut_out, translate
from autolink_apps.gan.generator import StructureEncoder, modulated_conv

TINY = AutoLinkConfig(keypoints=4, image_size=32, width=0.1)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 20 smooth random images."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(20):
        pixels = np.random.default_rng(number).integers(0, 255, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((40, 36), Image.Resampling.BICUBIC).save(folder / f"image{number:02d}.png")
    return folder


@pytest.fixture(scope="module")
def autolink_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return AutoLink(TINY).save_pretrained(tmp_path_factory.mktemp("autolink"))


@pytest.fixture(scope="module")
def gan_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_gan().save_pretrained(tmp_path_factory.mktemp("gan"), {"data": "noise"})


def tiny_gan() -> ConditionalGAN:
    torch.manual_seed(0)
    gan = ConditionalGAN(ConditionalGANConfig(image_size=32, width=0.1, poses=5, autolink=TINY))
    gan.poses.uniform_(-0.8, 0.8)
    gan.update_w_average()
    return gan.eval()


def options_for(images: Path, autolink_file: Path | None, output: Path, **changes) -> training.Options:
    values = {
        "data": str(images),
        "autolink": str(autolink_file) if autolink_file else None,
        "output": output,
        "image_size": 32,
        "width": 0.1,
        "batch_size": 4,
        "steps": 6,
        "r1_every": 2,
        "mixed_precision": "no",
        "workers": 0,
        "log_every": 1,
        "sample_every": 3,
        "save_every": 3,
    }
    return training.Options(**{**values, **changes})


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


def test_file_restores_the_model_and_its_frozen_autolink(gan_file: Path) -> None:
    gan, z = tiny_gan(), torch.randn(2, 256)
    restored = ConditionalGAN.from_pretrained(gan_file)
    assert restored.config == gan.config
    assert restored.metadata == {"data": "noise"}
    assert torch.equal(restored.sample(restored.poses[:2], z), gan.sample(gan.poses[:2], z))
    restored.train()
    assert restored.generator.training and not restored.autolink.training
    assert not any(parameter.requires_grad for parameter in restored.autolink.parameters())


# Augmentation


def test_middle_draws_change_nothing_but_saturation() -> None:
    images, half = torch.rand(2, 4, 16, 16) * 2 - 1, torch.full((2, 1, 1, 1), 0.5)
    torch.testing.assert_close(change_colours(images[:, :3], half, half, half), images[:, :3])
    assert torch.equal(translate(images, half, half), images)


def test_translation_moves_whole_pixels() -> None:
    images = torch.rand(2, 1, 16, 16)
    x, y = torch.tensor([0.999, 0.0]).view(2, 1, 1, 1), torch.tensor([0.5, 0.7]).view(2, 1, 1, 1)
    moved = translate(images, x, y)  # by (+2, 0) and (−2, +1)
    assert torch.equal(moved[0, :, :, 2:], images[0, :, :, :-2]) and moved[0, :, :, :2].abs().sum() == 0
    assert torch.equal(moved[1, :, 1:, :-2], images[1, :, :-1, 2:]) and moved[1, :, 0].abs().sum() == 0


def test_cutout_hides_half_the_side() -> None:
    centre = torch.full((1, 1, 1, 1), 0.5)
    kept = cut_out(torch.ones(1, 1, 16, 16), centre, centre)
    assert kept[..., 4:12, 4:12].sum() == 0
    assert kept.sum() == 16 * 16 - 8 * 8


def test_edge_map_moves_with_its_image_and_keeps_its_values() -> None:
    images = torch.rand(8, 3, 32, 32) + 10  # bright everywhere, so that zeros are what was shifted in or hidden
    changed = augment(torch.cat([images, torch.ones(8, 1, 32, 32)], dim=1), torch.Generator().manual_seed(0))
    assert torch.equal((changed[:, :3] == 0).all(1), changed[:, 3] == 0)
    assert set(changed[:, 3].unique().tolist()) == {0.0, 1.0}


def test_augmentation_is_differentiable() -> None:
    images = torch.randn(1, 4, 8, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: augment(x, torch.Generator().manual_seed(3)), images)


# Training


def test_resumed_run_equals_an_unbroken_one(images: Path, autolink_file: Path, tmp_path: Path) -> None:
    whole = options_for(images, autolink_file, tmp_path / "whole")
    training.train(whole)
    broken = options_for(images, autolink_file, tmp_path / "broken", steps=3)
    training.train(broken)
    training.train(dataclasses.replace(broken, steps=6, resume=True))
    for file in ("checkpoint.safetensors", "model.safetensors"):
        expected, found = (read_tensors(run.output / file) for run in (whole, broken))
        assert expected.keys() == found.keys()
        for name, tensor in expected.items():
            assert torch.equal(tensor, found[name]), name
    before = read_tensors(whole.output / "checkpoint.safetensors")
    assert {name.split("/")[1] for name in before} == {"generator", "discriminator", "ema"}
    assert len(list((broken.output / "samples").glob("samples-*.png"))) == 2
    logs = [[json.loads(line) for line in (r.output / "log.jsonl").read_text().splitlines()] for r in (whole, broken)]
    assert [line["step"] for line in logs[0]] == [line["step"] for line in logs[1]]
    assert logs[0][-2]["loss_generator"] == logs[1][-2]["loss_generator"]
    assert logs[0][-1].keys() == {"step", "pose_error", "pose_error_chance"}


def test_model_file_holds_the_average_and_poses_of_the_data(images: Path, autolink_file: Path, tmp_path: Path) -> None:
    gan = ConditionalGAN.from_pretrained(training.train(options_for(images, autolink_file, tmp_path, steps=2)))
    checkpoint = read_tensors(tmp_path / "checkpoint.safetensors")
    for name, tensor in gan.generator.state_dict().items():
        assert torch.equal(tensor, checkpoint[f"module/ema/module.{name}"]), name
    different = [n for n, t in gan.generator.state_dict().items() if not t.equal(checkpoint[f"module/generator/{n}"])]
    assert different
    assert len(gan.poses) == 18  # of 20 images two are held out
    assert gan.poses.std(0).max() > 0
    original = AutoLink.from_pretrained(autolink_file)
    for name, tensor in gan.autolink.state_dict().items():
        assert torch.equal(tensor, original.state_dict()[name]), name
    assert gan.metadata["steps"] == 2 and gan.metadata["options"]["image_size"] == 32


def test_unconditional_bf16_run_without_augmentation(images: Path, autolink_file: Path, tmp_path: Path) -> None:
    changes = {"discriminator": "unconditional", "augment": "none", "mixed_precision": "bf16", "steps": 3}
    training.train(options_for(images, autolink_file, tmp_path, **changes))
    tensors = read_tensors(tmp_path / "checkpoint.safetensors")
    assert tensors["module/discriminator/stem.weight"].shape[1] == 3
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    assert tensors["module/generator/to_image.weight"].dtype == torch.float32


TWO_PROCESSES = """
import sys
from pathlib import Path
import torch
from accelerate import Accelerator
from autolink.adversarial import Discriminator, discriminator_loss, r1_penalty
from autolink_apps.gan import train as training

def loss_of(discriminator, images):
    real, fake = images.clone().requires_grad_(), images.flip(-1)
    real_logits = discriminator(real, full_precision=True)
    return discriminator_loss(real_logits, discriminator(fake)) + 8 * r1_penalty(real_logits, real)

def check_r1_is_averaged(accelerator):
    torch.manual_seed(0)
    images, alone = torch.randn(4, 3, 32, 32), Discriminator(32, 0.1)
    shared = accelerator.prepare(Discriminator(32, 0.1))
    accelerator.unwrap_model(shared).load_state_dict(alone.state_dict())
    loss_of(alone, images).backward()
    half = images.chunk(2)[accelerator.process_index]
    accelerator.backward(loss_of(shared, half))
    for one, two in zip(alone.parameters(), accelerator.unwrap_model(shared).parameters()):
        torch.testing.assert_close(two.grad, one.grad, rtol=1e-4, atol=1e-5)

save = training.save_checkpoint
def save_if_equal(accelerator, output, step, modules, optimizers):
    assert accelerator.num_processes == 2
    for name, module in modules.items():
        weights = torch.cat([p.detach().flatten() for p in module.parameters()])
        first, second = accelerator.gather(weights[None])
        assert torch.equal(first, second), name
    (Path(output) / f"equal-{accelerator.process_index}").touch()
    save(accelerator, output, step, modules, optimizers)
training.save_checkpoint = save_if_equal

accelerator = Accelerator()
assert accelerator.num_processes == 2
check_r1_is_averaged(accelerator)
sys.argv = sys.argv[:1] + OPTIONS
training.main()
"""


def test_two_processes_keep_equal_weights(images: Path, tmp_path: Path) -> None:
    """Also trains an AutoLink first, in two processes, because none is given."""
    command_line = ["--data", str(images), "--output", str(tmp_path / "run"), "--perceptual", "pyramid"]
    for name in ("autolink-steps", "steps"):
        command_line += [f"--{name}", "4"]
    for name, value in (
        ("image-size", 32),
        ("width", 0.1),
        ("batch-size", 4),
        ("r1-every", 2),
        ("workers", 0),
    ):
        command_line += [f"--{name}", str(value)]
    script = tmp_path / "two_processes.py"
    script.write_text(TWO_PROCESSES.replace("OPTIONS", repr([*command_line, "--mixed-precision", "no"])))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [*launch, str(script)], env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as launched:
        try:
            _, printed = launched.communicate(timeout=300)
        except subprocess.TimeoutExpired:
            os.killpg(launched.pid, signal.SIGKILL)  # with its two processes, which would wait for ever
            raise
    assert launched.returncode == 0, printed[-4000:]
    assert "training one first" in printed
    assert {path.name for path in (tmp_path / "run").glob("equal-*")} == {"equal-0", "equal-1"}
    assert ConditionalGAN.from_pretrained(tmp_path / "run/model.safetensors").metadata["steps"] == 4
    assert (tmp_path / "run/autolink/model.safetensors").is_file()


@pytest.mark.parametrize("wrong", ["data", "size"])
def test_mistakes_are_found_before_anything_is_trained(wrong: str, images: Path, tmp_path: Path) -> None:
    data, size, named = (tmp_path / "nowhere", 32, "nowhere") if wrong == "data" else (images, 96, "96")
    with pytest.raises(UserError, match=named):
        training.train(options_for(data, None, tmp_path / "run", image_size=size))
    assert not (tmp_path / "run").exists()


# Sampling


def run_sampler(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["autolink-sample", *map(str, arguments)])
    try:
        sampling.main()
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


def test_sampler_keeps_files_of_one_name_apart() -> None:
    files = [Path("a/x.png"), Path("b/x.jpg"), Path("y.png")]
    assert sampling.unique_names(files) == ["x-1", "x-2", "y"]


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
