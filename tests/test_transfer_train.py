"""Runs of pose transfer: resume, precision, processes, mistakes."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.utils import set_seed
from first_step import assert_first_step
from PIL import Image
from transfer_files import tiny_model, write_autolink, write_clips, write_model

from autolink import AutoLink, UserError, draw_edges
from autolink.adversarial import Discriminator
from autolink.data import open_data
from autolink.data.pairs import FramePairs
from autolink.data.synthetic import SyntheticFigures
from autolink.losses import PerceptualLoss
from autolink.training import SeededBatches, seeded_generator
from autolink.weights import read_tensors
from autolink_apps.pose_transfer import PoseTransfer
from autolink_apps.pose_transfer import train as training
from autolink_apps.pose_transfer.augment import augment
from autolink_apps.pose_transfer.training_step import TrainingStep


@pytest.fixture(scope="module")
def autolink_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_autolink(tmp_path_factory.mktemp("autolink"))


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def frame_folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty folders, each with one figure in four poses."""
    root = tmp_path_factory.mktemp("frames")
    figures = SyntheticFigures(32, length=20 * 8)
    for number in range(20 * 4):
        image, _, _, clip = figures[number // 4 * 8 + number % 4]
        (root / Path(clip).name).mkdir(exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(root / Path(clip).name / f"{number % 4}.png")
    return root


def options_for(data: Path, autolink_file: Path | None, output: Path, **changes: object) -> training.Options:
    values = {
        "data": str(data),
        "autolink": str(autolink_file) if autolink_file else None,
        "output": output,
        "image_size": 32,
        "width": 0.1,
        "batch_size": 4,
        "steps": 6,
        "r1_every": 2,
        "perceptual": "pyramid",
        "mixed_precision": "no",
        "workers": 0,
        "log_every": 1,
        "sample_every": 3,
        "save_every": 3,
    }
    return training.Options(**{**values, **changes})


def test_resumed_run_equals_an_unbroken_one(frame_folders: Path, autolink_file: Path, tmp_path: Path) -> None:
    whole = options_for(frame_folders, autolink_file, tmp_path / "whole")
    training.train(whole)
    broken = options_for(frame_folders, autolink_file, tmp_path / "broken", steps=3)
    training.train(broken)
    training.train(dataclasses.replace(broken, steps=6, resume=True))
    for file in ("checkpoint.safetensors", "model.safetensors"):
        expected, found = (read_tensors(run.output / file) for run in (whole, broken))
        assert expected.keys() == found.keys()
        for name, tensor in expected.items():
            assert torch.equal(tensor, found[name]), name
    assert len(list((broken.output / "samples").glob("transfers-*.png"))) == 2
    logs = [(run.output / "log.jsonl").read_text().splitlines() for run in (whole, broken)]
    assert logs[0][-2:] == logs[1][-2:]
    assert json.loads(logs[0][-2]).keys() == {"step", "mse", "perceptual", "gan", "discriminator"}
    measured = {f"held_out_{name}{of}" for name in ("l1", "perceptual") for of in ("", "_of_copying")}
    assert json.loads(logs[0][-1]).keys() == {"step"} | measured


def test_several_data_sets_and_stills_are_learned_from(
    monkeypatch: pytest.MonkeyPatch, frame_folders: Path, autolink_file: Path, tmp_path: Path
) -> None:
    """Each as much as --data, all stills together; clips of all are held out; and another list is another run."""
    further, alone, others = (tmp_path / name for name in ("further", "alone", "others"))
    for number in range(60):
        for file in (
            further / f"clip{number % 2}" / f"{number}.png",
            alone / f"{number}.png",
            others / f"{number}.png",
        ):
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32), (4 * number, 0, 0)).save(file)
    learned, shown, load, look = [], [], training.endless_loader, training.network_inputs
    monkeypatch.setattr(training, "endless_loader", lambda pairs, *rest: learned.append(pairs) or load(pairs, *rest))
    monkeypatch.setattr(training, "network_inputs", lambda *given: shown.append(given[-1]) or look(*given))
    more = dict(mix_with=(str(further),), stills=(str(alone), str(others)))
    options = options_for(frame_folders, autolink_file, tmp_path / "run", steps=1, sample_every=0, **more)
    model = PoseTransfer.from_pretrained(training.train(options))
    (pairs,) = learned
    of = [pairs[index].clip for index in range(6)]
    assert [Path(clip).parts[0].rstrip("01") for clip in (of[1], of[4])] == ["clip", "clip"]
    assert all(clip.endswith(".png") for clip in (of[2], of[5])) and not any(".png" in clip for clip in of[:2])
    assert model.metadata["data"] == f"{frame_folders.name} and further and alone and others"
    reddish = (shown[-1][:, 0] > shown[-1][:, 2] + 0.05).flatten(1).float().mean(1) == 1  # the plain pictures
    assert reddish.any() and not reddish.all()
    with pytest.raises(UserError, match=r"--stills .*alone .*, but the run began with .*alone .*others"):
        training.train(dataclasses.replace(options, stills=(str(alone),), steps=2, resume=True))


def test_model_file_holds_the_average_and_the_autolink_as_it_was(
    frame_folders: Path, autolink_file: Path, tmp_path: Path
) -> None:
    model = PoseTransfer.from_pretrained(training.train(options_for(frame_folders, autolink_file, tmp_path, steps=2)))
    checkpoint = read_tensors(tmp_path / "checkpoint.safetensors")
    state = model.network.state_dict()
    assert all(torch.equal(tensor, checkpoint[f"module/ema/module.{name}"]) for name, tensor in state.items())
    assert any(not torch.equal(tensor, checkpoint[f"module/network/{name}"]) for name, tensor in state.items())
    original, kept = AutoLink.from_pretrained(autolink_file).state_dict(), model.autolink.state_dict()
    assert len(kept.pop("poses")) > 0  # of the data, since the AutoLink's file holds none
    assert all(torch.equal(tensor, original[name]) for name, tensor in kept.items())
    assert model.metadata["steps"] == 2 and model.metadata["options"]["gan_weight"] == 0.1


@pytest.mark.parametrize("appearance", ["bottleneck", "warped"])
def test_run_in_half_precision_without_discriminator(
    appearance: str, frame_folders: Path, autolink_file: Path, tmp_path: Path
) -> None:
    changes = {"gan_weight": 0, "steps": 3, "appearance": appearance, "mixed_precision": "bf16"}
    training.train(options_for(frame_folders, autolink_file, tmp_path, **changes))
    tensors = read_tensors(tmp_path / "checkpoint.safetensors")
    assert not any("discriminator" in name for name in tensors)
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    assert tensors["module/network/to_image.weight"].dtype == torch.float32
    first = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[0])
    assert first.keys() == {"step", "mse", "perceptual"}


def test_videos_are_learned_from_after_their_keypoints(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, clips: Path, tmp_path: Path
) -> None:
    """Without an AutoLink, one is trained first, and said to be."""
    monkeypatch.setenv("AUTOLINK_CACHE", str(tmp_path / "cache"))
    options = options_for(clips, None, tmp_path / "run", steps=2, batch_size=2, autolink_steps=2, keypoints=3)
    model = PoseTransfer.from_pretrained(training.train(options))
    assert "training one first" in caplog.text
    assert model.metadata["data"] == clips.name and model.config.autolink.keypoints == 3


TWO_PROCESSES = """
import sys
from pathlib import Path
import torch
from autolink_apps.pose_transfer import train as training

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
training.main()
"""


def test_two_processes_learn_as_one(frame_folders: Path, autolink_file: Path, tmp_path: Path) -> None:
    """Weights are equal in both, and close to those of one process that sees the same batches."""
    alone = options_for(frame_folders, autolink_file, tmp_path / "alone", steps=4, save_every=4, perceptual_weight=0)
    alone.augment = False  # draws are a process's own
    command_line = ["--no-augment"]
    for field in dataclasses.fields(alone):
        value = getattr(alone, field.name)
        if value is not None and not isinstance(value, bool | tuple):  # defaults will do for these
            value = tmp_path / "run" if field.name == "output" else value
            command_line += [f"--{field.name.replace('_', '-')}", str(value)]
    script = tmp_path / "two_processes.py"
    script.write_text(TWO_PROCESSES)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    run = [*launch, str(script), *command_line]
    done = subprocess.run(run, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    assert {path.name for path in (tmp_path / "run").glob("equal-*")} == {"equal-0", "equal-1"}
    training.train(alone)
    expected, found = (read_tensors(tmp_path / run / "checkpoint.safetensors") for run in ("alone", "run"))
    for name, tensor in expected.items():
        if name.startswith("module/"):
            torch.testing.assert_close(found[name], tensor, atol=2e-4, rtol=1e-2, msg=name)


def test_a_run_can_begin_with_the_network_of_another_model(
    frame_folders: Path, autolink_file: Path, tmp_path: Path
) -> None:
    begun = write_model(tmp_path / "begun")
    options = options_for(frame_folders, autolink_file, tmp_path / "run", steps=1, start_from=str(begun))
    model = PoseTransfer.from_pretrained(training.train(dataclasses.replace(options, learning_rate=0.0)))
    for name, tensor in tiny_model().network.state_dict().items():
        torch.testing.assert_close(model.network.state_dict()[name], tensor, msg=name)
    assert model.metadata["options"]["start_from"] == str(begun)
    assert 0 < model.metadata["usual_confidence"] < 1
    begun.unlink()  # all that it was is in the checkpoint
    training.train(dataclasses.replace(options, steps=2, learning_rate=0.0, resume=True, keypoints=8))
    write_model(tmp_path / "begun")
    wider = dataclasses.replace(options, output=tmp_path / "wider", width=0.2)
    with pytest.raises(UserError, match=r"width 0\.1, warped appearance, but asked for is 32², width 0\.2"):
        training.train(wider)
    assert not wider.output.exists()


def test_the_first_step_follows_the_gradients_of_the_formulas(
    frame_folders: Path, autolink_file: Path, tmp_path: Path
) -> None:
    """4 · MSE + perceptual distance + Eq. 7 for the network; Eq. 8 and R1 (Eq. 9) for the discriminator."""
    # An untrained discriminator has small slopes: such weights make all terms alike.
    weights = {"gan_weight": 30.0, "r1_gamma": 20.0, "r1_every": 3, "learning_rate": 1e-3}
    options = options_for(frame_folders, autolink_file, tmp_path, steps=1, **weights)
    training.train(options)
    logged = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[0])

    pairs = FramePairs(open_data(options.data, 32, "train"))
    chosen = next(iter(SeededBatches(len(pairs), 4, options.seed)))
    drawn = list(zip(*(pairs[i] for i in chosen)))[:2]
    source, driving = (torch.stack(frames).float() / 127.5 - 1 for frames in drawn)
    source, driving = augment(source, driving, seeded_generator(options.seed, 0, 0, "augment"))
    autolink = AutoLink.from_pretrained(autolink_file)
    set_seed(options.seed)
    model = PoseTransfer.around(autolink, 32, 0.1, "warped")
    judge = Discriminator(32, 0.1)
    with torch.no_grad():
        poses = [autolink.locate(images).xy for images in (source, driving)]
        edge_maps = [draw_edges(found, autolink.edge_weights, 32, autolink.config.thickness) for found in poses]
        edge_maps = [edge_map / autolink.edge_weights.max() for edge_map in edge_maps]
    made = model.network(source, poses[0], edge_maps[0], poses[1], edge_maps[1])
    real = driving.clone().requires_grad_()
    of_real, of_made = judge(real), judge(made)
    (slope,) = torch.autograd.grad(of_real.sum(), real, create_graph=True)
    terms = {
        "mse": ((made - driving) ** 2).mean(),
        "perceptual": PerceptualLoss("pyramid")(made, driving),
        "gan": torch.log(1 + torch.exp(-of_made)).mean(),
        # What was made before the network's step is judged.
        "discriminator": torch.log(1 + torch.exp(judge(made.detach()))).mean()
        + torch.log(1 + torch.exp(-of_real)).mean(),
    }
    for name, value in terms.items():
        assert logged[name] == pytest.approx(value.item(), rel=1e-4), name
    loss = 4 * terms["mse"] + terms["perceptual"] + 30 * terms["gan"]
    assert_first_step(tmp_path, "network", "network", model.network, loss, (0.9, 0.99), lambda _: 1e-3)
    loss = terms["discriminator"] + 20 / 2 * 3 * slope.square().sum((1, 2, 3)).mean()
    assert_first_step(tmp_path, "discriminator", "discriminator", judge, loss, (0.0, 0.99), lambda _: 1e-3)


def test_the_penalty_has_its_steps_and_all_of_its_weight(
    frame_folders: Path, autolink_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights: list[float] = []
    turn = TrainingStep.discriminator_turn
    monkeypatch.setattr(TrainingStep, "discriminator_turn", lambda *given: weights.append(given[-1]) or turn(*given))
    training.train(options_for(frame_folders, autolink_file, tmp_path, steps=5, r1_every=3, r1_gamma=0.8))
    assert weights == pytest.approx([1.2, 0, 0, 1.2, 0])


@pytest.mark.parametrize("given", [True, False])
def test_steps_of_an_autolink_are_told_where_one_may_be_trained(
    given: bool, autolink_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = options_for(tmp_path, autolink_file if given else None, tmp_path / "run")
    assert training.with_defaults(options).autolink_steps == 3000
    assert ("--autolink-steps" in caplog.text) != given


def test_mistakes_are_found_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        training.train(options_for(tmp_path / "nowhere", None, tmp_path / "run"))
    for name in "abcdefghij":
        Image.new("RGB", (32, 32)).save(tmp_path / f"{name}.png")
    with pytest.raises(UserError, match="two frames"):
        training.train(options_for(tmp_path, None, tmp_path / "run"))
    assert not (tmp_path / "run").exists()
