"""The built-in features: scenes to learn on, errors against the teacher, and a run that resumes."""

import json

import pytest
import torch
from accelerate.utils import set_seed
from first_step import assert_first_step
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision import models

from autolink import AutoLink, UserError
from autolink.features import BuiltinFeatures, FeaturesConfig
from autolink.losses import PerceptualLoss
from autolink.training import seeded_generator
from experiments.distil import Options, _images, _pairs, disagreement, distil, share_of_rate
from experiments.distil_images import DAMAGES, damaged, scenes, textures


def photos(count: int) -> torch.Tensor:
    """(count, 3, 160, 160) uint8 ramps, each of another colour."""
    ramp = torch.linspace(0, 255, 160).expand(count, 3, 160, 160)
    return (ramp * torch.rand(count, 3, 1, 1)).to(torch.uint8)


@pytest.mark.parametrize("size", [64, 128])
def test_scenes_are_images_of_the_size_asked_for_and_a_function_of_the_seed(size):
    first, again, other = (scenes(photos(4) * 0 + 90, size, seeded_generator(seed, 0, 0, "s")) for seed in (1, 1, 2))
    assert first.shape == (4, 3, size, size) and first.abs().max() <= 1
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_textures_vary_within_and_between():
    made = textures(6, 64, seeded_generator(0, 0, 0, "t"))
    assert made.shape == (6, 3, 64, 64) and (made.std((2, 3)) > 0.01).any(1).all()
    assert made.mean((2, 3)).std() > 0.05


@pytest.mark.parametrize("kind", DAMAGES, ids=lambda kind: kind.__name__)
def test_each_damage_changes_every_image_and_keeps_its_shape(kind):
    images = scenes(photos(8), 64, seeded_generator(3, 0, 0, "scene"))
    copies = kind(images, seeded_generator(0, 0, 0, "damage"))
    assert copies.shape == images.shape and copies.isfinite().all()
    assert ((copies - images).abs().mean((1, 2, 3)) > 1e-4).all()


def test_damage_reaches_every_image_of_a_batch_that_four_does_not_divide():
    images = scenes(photos(6), 64, seeded_generator(3, 0, 0, "scene"))
    copies = damaged(images, seeded_generator(1, 0, 0, "damage"))
    assert copies.shape == images.shape and ((copies - images).abs().mean((1, 2, 3)) > 1e-4).all()


class Stages(nn.Module):
    """Two stages: the image, and it halved; times a factor."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        return [self.factor * images, self.factor * images[..., ::2]]


def test_disagreement_is_nought_for_equals_and_one_for_a_student_that_sees_nothing():
    images = torch.randn(3, 3, 16, 16)
    copies = images + torch.randn_like(images)
    same = disagreement(Stages(1.0), Stages(1.0), images, copies)
    assert all(value == 0 for value in same.values())
    blind = disagreement(Stages(0.0), Stages(1.0), images, copies)
    assert blind["features"] == pytest.approx(1, abs=0.01)  # the mean of the values is about 0
    assert blind["changes"] == pytest.approx(1, abs=0.01)
    half = disagreement(Stages(0.5), Stages(1.0), images, copies)
    assert half["changes"] == pytest.approx(0.25, abs=0.01)  # half of the change is missed: a quarter of its square


@pytest.mark.parametrize("size", [64, 96, 128])
def test_stages_have_the_sizes_of_squeezenet(size):
    features = models.squeezenet1_1().features
    x, shapes = torch.zeros(1, 3, size, size), []
    for index, layer in enumerate(features[:13]):
        x = layer(x)
        if index in (1, 4, 7, 12):
            shapes.append(tuple(x.shape))
    own = BuiltinFeatures(FeaturesConfig())(torch.zeros(1, 3, size, size))
    assert [tuple(stage.shape) for stage in own] == shapes


def options(tmp_path, name: str, **changes) -> Options:
    settings = dict(data=("synthetic",), images=6, batch_size=4, mixed_precision="no", save_every=2, sample_every=4)
    return Options(output=tmp_path / name, **{**settings, "steps": 4, "log_every": 1, **changes})


def test_resumed_run_equals_an_unbroken_one_and_its_file_opens(tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOLINK_WEIGHTS", str(tmp_path))
    monkeypatch.setattr("experiments.distil.HELD_OUT", 4)
    save_file(models.squeezenet1_1().features.state_dict(), tmp_path / "squeezenet1_1_features.safetensors")
    whole = distil(options(tmp_path, "whole"))
    with monkeypatch.context() as interrupted:
        interrupted.setattr("experiments.distil.damaged", StopAt(calls=4))
        with pytest.raises(KeyboardInterrupt):
            distil(options(tmp_path, "parts"))
    parts = distil(options(tmp_path, "parts", resume=True))
    ours, theirs = load_file(whole), load_file(parts)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    logs = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert {"held_out_features", "held_out_changes"} <= logs[-1].keys() and len(logs) == 5
    model = BuiltinFeatures.from_pretrained(whole)
    assert model.metadata["data"] == "synthetic" and model.metadata["steps"] == 4
    with pytest.raises(UserError, match="holds a model for 'features'"):
        AutoLink.from_pretrained(whole)


def test_the_first_step_follows_the_gradient_of_both_terms(tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOLINK_WEIGHTS", str(tmp_path))
    monkeypatch.setattr("experiments.distil.HELD_OUT", 4)
    save_file(models.squeezenet1_1().features.state_dict(), tmp_path / "squeezenet1_1_features.safetensors")
    asked = options(tmp_path, "run", steps=1, learning_rate=0.05)
    distil(asked)

    pools = [_images("synthetic", "train", asked)]
    some, _ = _pairs(pools, 64, seeded_generator(0, 0, 0, "deviations"), size=64)
    images, copies = _pairs(pools, 4, seeded_generator(0, 0, 0, "pairs"))
    set_seed(0)
    teacher = PerceptualLoss("squeezenet").features
    student = BuiltinFeatures(FeaturesConfig()).train()
    with torch.no_grad():
        deviations = [stage.std() for stage in teacher(some)]
        wanted, changed = (
            [stage / deviation for stage, deviation in zip(teacher(x), deviations)] for x in (images, copies)
        )
    loss = 0
    for w, v, s, t in zip(wanted, changed, student(images), student(copies)):
        whole = torch.cat([w, v])
        loss = loss + (torch.cat([s, t]) - whole).square().mean() / whole.var() / 4
        error, change = (((t - s) - (v - w)).square().mean((1, 2, 3)), (v - w).square().mean((1, 2, 3)))
        loss = loss + (error / (change + 1e-3 * whole.var())).mean() / 4
    size = torch.stack([g.norm() for g in torch.autograd.grad(loss, list(student.parameters()), retain_graph=True)])
    clipped = loss / size.norm().clamp_min(1).item()
    assert_first_step(tmp_path / "run", "student", "adam", student, clipped, (0.9, 0.99), lambda _: 0.05 / 50)


def test_the_rate_rises_and_falls():
    shares = [share_of_rate(step, 1000) for step in (0, 24, 49, 500, 750, 999)]
    assert shares == pytest.approx([0.02, 0.4993, 0.9941, 0.5, 0.1464, 2.5e-6], abs=1e-4)


class StopAt:
    """`damaged`, interrupted at one of its calls."""

    def __init__(self, calls: int) -> None:
        self.left = calls

    def __call__(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        return damaged(images, generator)
