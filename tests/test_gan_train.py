"""Training the GAN: exact resume, gradients in parts, skipped steps, what a dry run prints, what is pushed."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import set_seed
from first_step import assert_first_step
from gan_runs import TINY, options_for, write_autolink, write_images
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from autolink import draw_edges, hub
from autolink.adversarial import Discriminator
from autolink.data import open_data
from autolink.errors import UserError
from autolink.model import AutoLink
from autolink.training import Diverged, Ema, SeededBatches, seeded_generator
from autolink.weights import read_tensors
from autolink_apps.gan import ConditionalGAN, ConditionalGANConfig, Generator, ada, dry_run, game, guard
from autolink_apps.gan import train as training
from autolink_apps.gan.augment import augment
from autolink_apps.gan.game import Batch, Game, TrainingPoses, pose_distance
from autolink_apps.gan.guard import FiniteGuard


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def autolink_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_autolink(tmp_path_factory.mktemp("autolink"))


def log_of(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("policy", ["diff", "ada"])
def test_resumed_run_equals_an_unbroken_one(
    policy: str, images: Path, autolink_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adaptive: interrupted between two adjustments, after a skipped step, the batch taken in two parts."""
    monkeypatch.setattr(ada, "TARGET", -math.inf)
    monkeypatch.setattr(ada, "HORIZON", 32)  # p is 0.5 from the fourth step on
    changes = {"augment": policy, "accumulate": 2 if policy == "ada" else 1}
    whole = options_for(images, autolink_file, tmp_path / "whole", **changes)
    training.train(whole)
    broken = dataclasses.replace(whole, output=tmp_path / "broken", steps=3)
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
    logs = [log_of(run.output) for run in (whole, broken)]
    for lines in logs:
        for line in lines:
            line.pop("images_per_second", None)
    assert logs[0] == logs[1]
    assert logs[0][-1].keys() == {"step", "pose_error", "pose_error_chance", "pose_error_real"}
    held_out = [line["logit_held_out"] for line in logs[0] if "logit_held_out" in line]
    assert len(set(held_out)) == len(held_out) == 6  # other images at every step
    if policy == "ada":
        assert [line["ada_p"] for line in logs[0] if "ada_p" in line] == [0, 0, 0, 0.5, 0.5, 0.5]


def test_the_first_step_follows_the_gradients_of_the_formulas(
    images: Path, autolink_file: Path, tmp_path: Path
) -> None:
    """Eq. 8 and R1 (Eq. 9) for the discriminator, then Eq. 7 and the pose for the generator, all as augmented."""
    # An untrained network has small slopes, and moves its keypoints little: such weights make all terms alike.
    weights = {"r1_every": 3, "r1_gamma": 70, "pose_weight": 1e4, "learning_rate": 1e-3, "augment": "diff"}
    training.train(options_for(images, autolink_file, tmp_path, steps=1, **weights))

    data = open_data(str(images), 32)
    real = torch.stack([data[index].image for index in next(iter(SeededBatches(len(data), 4, 0)))]) / 127.5 - 1
    autolink = AutoLink.from_pretrained(autolink_file)
    set_seed(0)
    gan = ConditionalGAN(ConditionalGANConfig(32, 0.1, len(data), TINY))
    judge = Discriminator(32, 0.1, 4, minibatch_std=True)
    draws = seeded_generator(0, 0, 0, "gan")
    with torch.no_grad():
        poses, edge_weights = autolink.locate(real).xy, autolink.edge_weights
        edge_maps = draw_edges(poses, edge_weights, 32, TINY.thickness) / edge_weights.max()
    fake = gan.generator(edge_maps, torch.randn(4, 256, generator=draws))

    def seen(shown: torch.Tensor) -> torch.Tensor:
        return augment(torch.cat([shown, edge_maps], dim=1), draws)

    image, condition = seen(real).split([3, 1], dim=1)
    real_logits = judge(torch.cat([image.requires_grad_(), condition], dim=1))
    (slope,) = torch.autograd.grad(real_logits.sum(), image, create_graph=True)
    loss = (1 + judge(seen(fake.detach())).exp()).log().mean() + (1 + (-real_logits).exp()).log().mean()
    loss = loss + 70 / 2 * 3 * slope.square().sum((1, 2, 3)).mean()
    assert_first_step(tmp_path, "discriminator", "discriminator", judge, loss, (0.0, 0.99), lambda _: 1e-3)

    learned = read_tensors(tmp_path / "checkpoint.safetensors")
    judge.load_state_dict({name: learned[f"module/discriminator/{name}"] for name in judge.state_dict()})
    off = autolink.locate(fake.clamp(-1, 1)).xy - poses
    loss = (1 + (-judge(seen(fake))).exp()).log().mean()
    loss = loss + 1e4 * 4 * (off.square().sum(-1) + 1e-8).sqrt().mean() / 2

    def rate(name: str) -> float:
        return 1e-5 if name.startswith("mapping.") else 1e-3

    assert_first_step(tmp_path, "generator", "generator", gan.generator, loss, (0.0, 0.99), rate, last="mapping.")


def test_poses_of_training_images_are_found_once(images: Path, autolink_file: Path) -> None:
    autolink = AutoLink.from_pretrained(autolink_file)
    data = open_data(str(images), 32)
    batch = torch.stack([data[index].image for index in range(4)])
    expected = autolink.detect(batch.float() / 255).xy
    poses = TrainingPoses(Accelerator(), autolink)
    assert torch.equal(poses(batch), expected)
    mixed = torch.stack([batch[0], data[4].image])  # one of them is new
    torch.testing.assert_close(poses(mixed), autolink.detect(mixed.float() / 255).xy)
    autolink.detect = None
    order = [2, 0, 3, 3]
    torch.testing.assert_close(poses(batch[order]), expected[order])


def test_penalty_and_pose_have_their_steps_and_all_of_their_weight(
    images: Path, autolink_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights: dict[str, list[float]] = {"discriminator_turn": [], "generator_turn": []}
    for name, turn in ((name, getattr(Game, name)) for name in weights):

        def watched(*given: object, name: str = name, turn: Callable = turn) -> object:
            weights[name].append(given[-1])
            return turn(*given)

        monkeypatch.setattr(Game, name, watched)
    decays: list[float] = []
    monkeypatch.setattr(training, "Ema", lambda network, decay: decays.append(decay) or Ema(network, decay))
    changes = {"r1_every": 3, "r1_gamma": 0.8, "pose_weight": 2.0, "ema_images": 400, "sample_every": 6}
    training.train(options_for(images, autolink_file, tmp_path, **changes))
    assert weights["discriminator_turn"] == pytest.approx([1.2, 0, 0, 1.2, 0, 0])
    assert weights["generator_turn"] == pytest.approx([8.0, 0, 0, 0, 8.0, 0])
    assert decays == [pytest.approx(0.5 ** (4 / 400))]


def test_pictures_are_in_tensorboard(images: Path, autolink_file: Path, tmp_path: Path) -> None:
    training.train(options_for(images, autolink_file, tmp_path, steps=2, sample_every=1))
    (events,) = tmp_path.rglob("events.out.tfevents*")
    board = EventAccumulator(str(events)).Reload()
    assert [event.step for event in board.Images("samples")] == [1, 2]
    assert "pose_error_real" in board.Tags()["scalars"]


# Gradients in parts


def networks() -> tuple[Generator, Discriminator]:
    torch.manual_seed(0)
    return Generator(32, 0.1), Discriminator(32, 0.1, 4, minibatch_std=True)


def tiny_autolink() -> AutoLink:
    torch.manual_seed(1)
    return AutoLink(TINY).requires_grad_(False).eval()


def batch_of(size: int) -> Batch:
    images, edge_maps = torch.randn(size, 3, 32, 32), torch.rand(size, 1, 32, 32)
    return Batch(images, edge_maps, torch.randn(size, 256), torch.rand(size, 4, 2) * 2 - 1)


@pytest.mark.parametrize(("r1_weight", "pose_weight"), [(0.0, 0.0), (3.0, 0.0), (0.0, 2.0)])
def test_gradients_in_parts_are_those_of_the_whole_batch(r1_weight: float, pose_weight: float) -> None:
    batch = batch_of(8)
    autolink = tiny_autolink()
    gradients, values = [], []
    for parts in (1, 4):  # of four parts, each is one pair
        generator, discriminator = networks()
        played = Game(Accelerator(cpu=True), generator, discriminator, None, autolink=autolink)
        turn = played.discriminator_turn(batch.split(parts), torch.Generator(), r1_weight)
        gradients.append([parameter.grad for parameter in discriminator.parameters()])
        assert all(parameter.grad is None for parameter in generator.parameters())
        before = [gradient.clone() for gradient in gradients[-1]]
        seen = played.generator_turn(batch.split(parts), turn.fakes, torch.Generator(), pose_weight)
        assert all(map(torch.equal, before, gradients[-1]))  # the generator's turn leaves them alone
        gradients[-1] = gradients[-1] + [parameter.grad for parameter in generator.parameters()]
        values.append({**turn.values, **seen})
    for whole, added in zip(*gradients):
        torch.testing.assert_close(added, whole, rtol=1e-5, atol=1e-5 * whole.abs().max().item() + 1e-7)
    assert values[0].keys() == values[1].keys() and ("r1" in values[0]) == (r1_weight > 0)
    assert ("pose_distance" in values[0]) == (pose_weight > 0)
    for name, value in values[0].items():
        torch.testing.assert_close(values[1][name], value, rtol=1e-5, atol=1e-5)


def test_r1_is_of_the_image_as_judged_and_not_of_its_edge_map() -> None:
    generator, discriminator = networks()
    batch = batch_of(2)
    seen = torch.cat(batch[:2], dim=1).double() / 2
    played = Game(Accelerator(cpu=True), generator, discriminator, lambda images, _: images / 2)
    found = played.discriminator_turn([batch], torch.Generator(), 1.0).values["r1"]
    judge = discriminator.double()
    direction, step = torch.zeros_like(seen), 1e-6
    direction[:, :3] = torch.randn(2, 3, 32, 32).double()
    seen.requires_grad_()
    (gradient,) = torch.autograd.grad(judge(seen).sum(), seen)
    with torch.no_grad():
        along = (judge(seen + step * direction).sum() - judge(seen - step * direction).sum()) / (2 * step)
    torch.testing.assert_close(along, (gradient * direction).sum(), rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(found.double(), gradient[:, :3].square().sum((1, 2, 3)).mean(), rtol=1e-3, atol=1e-8)


def test_pose_distance_is_the_pose_error_and_its_gradient_is_that_of_differences() -> None:
    autolink, images = tiny_autolink().double(), torch.rand(2, 3, 32, 32).double() - 0.5
    found = autolink.locate(images).xy
    poses = found + torch.tensor([0.3, 0.4]).double()  # each half of 0.5 off, as a share of the side
    assert pose_distance(autolink, images, poses).item() == pytest.approx(0.25, abs=1e-6)
    direction, step = torch.randn_like(images), 1e-5
    images.requires_grad_()
    (gradient,) = torch.autograd.grad(pose_distance(autolink, images, poses), images)
    with torch.no_grad():
        ends = [pose_distance(autolink, images + sign * step * direction, poses) for sign in (1, -1)]
    torch.testing.assert_close((ends[0] - ends[1]) / (2 * step), (gradient * direction).sum(), rtol=1e-4, atol=1e-9)
    assert pose_distance(autolink, images, found).item() < 1e-4


# Skipped steps


def test_a_step_that_is_not_finite_is_skipped() -> None:
    layer = nn.Linear(2, 1)
    adam = torch.optim.Adam(layer.parameters())
    watched = FiniteGuard(Accelerator(cpu=True), adam, "layer")
    for loss, gradient in ((1.0, float("nan")), (float("inf"), 1.0)):
        weight = layer.weight.clone()
        layer.weight.grad, layer.bias.grad = torch.full((1, 2), 1.0), torch.tensor([gradient])
        assert not watched.step(torch.tensor(loss))
        assert torch.equal(layer.weight, weight) and not adam.state and layer.weight.grad is None
    assert watched.state() == {"skipped": 2, "in_a_row": 2}
    layer.weight.grad = torch.ones(1, 2)
    assert watched.step(torch.tensor(1.0)) and not torch.equal(layer.weight, weight)
    assert watched.state() == {"skipped": 2, "in_a_row": 0}
    with pytest.raises(Diverged, match="layer's loss or gradients were not finite in 20 steps in a row"):
        for _ in range(guard.LIMIT):
            watched.step(torch.tensor(float("nan")))
    assert watched.skipped == 22


def test_gradients_that_overflow_lower_the_scale_of_float16() -> None:
    layer, _ = nn.Linear(1, 1, bias=False), Accelerator(cpu=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    sgd = AcceleratedOptimizer(torch.optim.SGD(layer.parameters(), lr=1.0), scaler=scaler)
    processes = SimpleNamespace(
        scaler=scaler,
        unscale_gradients=lambda optimizer: scaler.unscale_(optimizer.optimizer),
        reduce=lambda value, reduction: value,
    )
    watched, weight = FiniteGuard(processes, sgd, "layer"), layer.weight.item()
    for multiply, expected in ((float("inf"), weight), (1.0, weight - 2.0)):
        loss = (layer.weight * 2).sum()
        scaler.scale(loss).backward()
        layer.weight.grad *= multiply
        watched.step(loss.detach())
        assert layer.weight.item() == pytest.approx(expected)
        assert scaler.get_scale() == 512
    assert watched.skipped == 1


def test_a_run_survives_a_step_that_is_not_finite(
    images: Path, autolink_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, real_loss = [], game.generator_loss

    def once_broken(logits: torch.Tensor) -> torch.Tensor:
        calls.append(len(calls))
        return real_loss(logits) * (float("nan") if len(calls) == 2 else 1)

    monkeypatch.setattr(game, "generator_loss", once_broken)
    training.train(options_for(images, autolink_file, tmp_path, steps=3))
    lines = [line for line in log_of(tmp_path) if "skipped" in line]
    assert [line["skipped"] for line in lines] == [0, 1, 1]
    assert ["loss_generator" in line for line in lines] == [True, False, True]
    assert all(tensor.isfinite().all() for tensor in read_tensors(tmp_path / "checkpoint.safetensors").values())


def test_the_average_forgets_half_after_as_many_images_as_asked_for() -> None:
    layer = nn.Linear(1, 1)
    ema = Ema(layer, decay=0.5 ** (8 / 400))  # batches of 8, half-life 400 images
    for value, steps in ((0.0, 2000), (1.0, 50)):
        layer.weight.data.fill_(value)
        for _ in range(steps):
            ema.update_parameters(layer)
    assert ema.module.weight.item() == pytest.approx(0.5, abs=1e-3)


# Before and after a run


def test_a_dry_run_takes_the_autolink_that_the_run_would(tmp_path: Path) -> None:
    """The benchmark `hands` shows other pictures than those the shipped `hands` learned from."""
    run = training.Options(data="cats", output=tmp_path / "run", image_size=64, width=0.25)
    assert dry_run._autolink(run, tmp_path) == "cats"
    stand_in = dry_run._autolink(dataclasses.replace(run, data="hands"), tmp_path)
    assert stand_in == str(tmp_path / "autolink.safetensors")


def test_dry_run_prints_the_cost_and_writes_nothing(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No AutoLink is given, and none is trained."""
    options = ["--data", images, "--output", tmp_path / "run", "--image-size", 32, "--width", 0.1, "--batch-size", 4]
    options += ["--metric-every", 0, "--workers", 0, "--mixed-precision", "no", "--dry-run"]
    monkeypatch.setattr(sys, "argv", ["train", *map(str, options)])
    training.main()
    printed = capsys.readouterr().out
    count = sum(parameter.numel() for parameter in Generator(32, 0.1).parameters())
    assert f"generator: {count / 1e6:.2f} M parameters" in printed
    assert "GiB" in printed
    (speed,) = [line.split() for line in printed.splitlines() if line.startswith("speed")]
    assert float(speed[1]) * float(speed[3]) == pytest.approx(4, rel=0.1)
    assert not (tmp_path / "run").exists()


class Hub:
    """What takes the place of the hub's API."""

    seen: dict[str, str]

    def create_repo(self, repository: str, exist_ok: bool) -> None:
        assert exist_ok
        Hub.seen = {"created": repository}

    def upload_folder(self, repo_id: str, folder_path: str, commit_message: str) -> None:
        Hub.seen["pushed"] = repo_id
        Hub.seen |= {path.name: path for path in Path(folder_path).iterdir()}
        Hub.seen["card"] = (Path(folder_path) / "README.md").read_text()
        Hub.seen["steps"] = ConditionalGAN.from_pretrained(Path(folder_path) / "model.safetensors").metadata["steps"]


def test_trained_model_is_pushed_with_a_card(
    images: Path, autolink_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "HfApi", Hub)
    monkeypatch.setattr(hub, "get_token", lambda: "hf_token")
    training.train(options_for(images, autolink_file, tmp_path, steps=2, push_to_hub="someone/faces"))
    assert Hub.seen["created"] == Hub.seen["pushed"] == "someone/faces" and Hub.seen["steps"] == 2
    assert {"model.safetensors", "README.md"} < Hub.seen.keys()
    card = Hub.seen["card"]
    assert huggingface_hub.ModelCard(card).data.library_name == "autolink"
    assert "autolink-sample --model someone/faces" in card and "8 images" in " ".join(card.split())
    assert "| pose_error_real |" in card


def test_a_missing_token_is_found_before_anything_is_trained(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "get_token", lambda: None)
    with pytest.raises(UserError, match="no token"):
        training.train(options_for(images, None, tmp_path / "run", push_to_hub="someone/faces"))
    assert not (tmp_path / "run").exists()


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


@pytest.mark.parametrize("wrong", ["data", "size"])
def test_mistakes_are_found_before_anything_is_trained(wrong: str, images: Path, tmp_path: Path) -> None:
    data, size, named = (tmp_path / "nowhere", 32, "nowhere") if wrong == "data" else (images, 96, "96")
    with pytest.raises(UserError, match=named):
        training.train(options_for(data, None, tmp_path / "run", image_size=size))
    assert not (tmp_path / "run").exists()


def test_a_batch_that_cannot_be_taken_in_parts_is_named(images: Path, autolink_file: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--batch-size 12 .* 4 parts"):
        training.train(options_for(images, autolink_file, tmp_path / "a", batch_size=12, accumulate=4))
    with pytest.raises(UserError, match="--accumulate 0"):
        training.train(options_for(images, autolink_file, tmp_path / "b", accumulate=0))
