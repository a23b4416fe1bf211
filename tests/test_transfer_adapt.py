"""Adapting a transfer model to one source video: what it learns from, what it is measured on, resume, mistakes."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from first_step import assert_first_step
from PIL import Image
from transfer_files import tiny_model, write_model

from autolink import AutoLink, UserError
from autolink.data.pairs import FramePairs
from autolink.data.synthetic import synthetic_clip
from autolink.losses import PerceptualLoss
from autolink.training import SeededBatches, seeded_generator
from autolink.video import write_video
from autolink.weights import read_header, read_tensors
from autolink_apps.pose_transfer import PoseTransfer
from autolink_apps.pose_transfer import adapt as adapting
from autolink_apps.pose_transfer.augment import augment


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One figure that moves, forty frames of 48×40."""
    path = tmp_path_factory.mktemp("clip") / "figure.mp4"
    frames = synthetic_clip(0, 40, 48)[0].permute(0, 2, 3, 1).numpy()
    write_video(path, iter(frames[:, 4:44]), 25)
    return path


@pytest.fixture
def adapt(monkeypatch: pytest.MonkeyPatch, model_file: Path, clip: Path):
    """`adapt` of the tiny model to the clip, with a checkpoint every three steps."""
    monkeypatch.setattr(adapting, "EVERY", 3)
    values = {"device": "cpu", "batch_size": 4, "perceptual": "pyramid", "learning_rate": 2e-3}

    def run(steps: int, output: Path, source: Path = clip, **changes: object) -> Path:
        return adapting.adapt(str(model_file), source, steps, output, **{**values, **changes})

    return run


def test_held_out_frames_are_the_last_tenth_after_a_gap() -> None:
    known, held_out = adapting.split(torch.arange(200))
    assert held_out.tolist() == list(range(180, 200)) and known.tolist() == list(range(170))
    known, held_out = adapting.split(torch.arange(adapting.FEWEST_FRAMES))
    assert (len(known), held_out.tolist()) == (17, [18, 19])


def test_frames_of_a_long_source_are_at_even_distances(monkeypatch: pytest.MonkeyPatch, clip: Path) -> None:
    def number_of(number: int, frame: np.ndarray) -> np.ndarray:
        assert frame.shape == (40, 48, 3)
        return np.full((32, 32, 3), number, np.uint8)

    assert adapting.read_frames(clip, 32, number_of)[:, 0, 0, 0].tolist() == list(range(40))
    monkeypatch.setattr(adapting, "MOST_FRAMES", 25)
    assert adapting.read_frames(clip, 32, number_of)[:, 0, 0, 0].tolist() == list(range(0, 40, 2))
    assert adapting.read_frames(clip, 32).shape == (20, 3, 32, 32)


def test_nearest_frame_is_the_one_of_that_pose() -> None:
    autolink, frames = tiny_model().autolink, synthetic_clip(1, 40, 32)[0]
    poses = autolink.detect(frames[[7, 35]].float() / 255).xy
    assert torch.equal(adapting.nearest_frames(autolink, frames, poses), frames[[7, 35]])


def test_the_first_step_follows_the_gradient_of_the_formula(
    adapt, model_file: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """4 · MSE + perceptual distance between frames that are learned from."""
    monkeypatch.setattr("autolink.training.starting.computes_bfloat16", lambda device: False)
    adapt(1, tmp_path, augmented=True)
    model = PoseTransfer.from_pretrained(model_file)
    known, _ = adapting.split(adapting.read_frames(clip, 32))
    pairs = FramePairs(adapting.Frames("figure.mp4", known))
    drawn = list(zip(*(pairs[i] for i in next(iter(SeededBatches(len(pairs), 4, 0))))))[:2]
    looks, driving = (torch.stack(frames) / 127.5 - 1 for frames in drawn)
    looks, driving = augment(looks, driving, seeded_generator(0, 0, 0, "augment"))
    with torch.no_grad():
        poses = [model.autolink.locate(images).xy for images in (looks, driving)]
        edge_maps = [model.edge_map(found) for found in poses]
    made = model.network.train()(looks, poses[0], edge_maps[0], poses[1], edge_maps[1])
    loss = 4 * ((made - driving) ** 2).mean() + PerceptualLoss("pyramid")(made, driving)
    assert_first_step(tmp_path, "network", "network", model.network, loss, (0.9, 0.99), lambda _: 2e-3)


def test_adapting_lowers_the_error_on_frames_it_has_not_seen(
    adapt, capsys: pytest.CaptureFixture[str], model_file: Path, clip: Path, tmp_path: Path
) -> None:
    path = adapt(30, tmp_path)
    about = read_header(path)["metadata"]
    marks = about["held_out"]
    assert marks["after"]["l1"] < 0.9 * marks["before"]["l1"]
    assert marks["after"]["perceptual"] < marks["before"]["perceptual"]
    assert (about["adapted_from"], about["data"], about["frames"]) == (str(model_file), "figure.mp4", 34)
    assert about["original"] == {"data": "none"} and about["options"]["learning_rate"] == 2e-3

    said = capsys.readouterr().out.splitlines()[-5:]
    names = ["copying the source", "nearest frame learned from", "before", "after"]
    assert said[0].startswith("on 4 frames") and [line[:28].strip() for line in said[1:]] == names
    assert said[-1].split()[1:] == [f"{marks['after'][name]:.4f}" for name in ("l1", "perceptual")]

    # The numbers again, by hand: the averaged network on the last four frames, from four that it learned from.
    frames = adapting.read_frames(clip, 32).float() / 255
    source, wanted = frames[[0, 8, 17, 25]], frames[36:]
    model = PoseTransfer.from_pretrained(path)
    with torch.no_grad():
        poses = (model.autolink.detect(images).xy for images in (source, wanted))
        made = model.transfer(source, *poses, keep_still=False)
    assert (made - wanted).abs().mean().item() == pytest.approx(marks["after"]["l1"], rel=1e-2)  # bf16 where it pays
    assert (source - wanted).abs().mean().item() == pytest.approx(marks["copying the source"]["l1"], rel=1e-5)

    original = PoseTransfer.from_pretrained(model_file).autolink.state_dict()
    assert all(torch.equal(tensor, original[name]) for name, tensor in model.autolink.state_dict().items())
    shown = Image.open(tmp_path / "samples" / "adapted-0000030.png")
    assert shown.width > 5 * 32 and shown.height > 4 * 32  # source | driving | edge map | before | after


def test_resumed_adaptation_equals_an_unbroken_one(adapt, tmp_path: Path) -> None:
    adapt(6, tmp_path / "whole", augmented=True)
    adapt(3, tmp_path / "broken", augmented=True)
    adapt(6, tmp_path / "broken", augmented=True, resume=True)
    for file in ("checkpoint.safetensors", "model.safetensors"):
        expected, found = (read_tensors(tmp_path / run / file) for run in ("whole", "broken"))
        assert expected.keys() == found.keys()
        for name, tensor in expected.items():
            assert torch.equal(tensor, found[name]), name
    logs = [(tmp_path / run / "log.jsonl").read_text() for run in ("whole", "broken")]
    assert logs[0] == logs[1] and json.loads(logs[0].splitlines()[-1])["step"] == 6


def test_a_complete_adaptation_is_left_as_it_is(adapt, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = adapt(3, tmp_path)
    monkeypatch.setattr(adapting, "read_frames", None)  # would be called
    assert adapt(3, tmp_path, resume=True) == path
    with pytest.raises(UserError, match=r"adapted to figure\.mp4, not .* to another\.mp4"):
        adapt(3, tmp_path, source=Path("another.mp4"), resume=True)
    with pytest.raises(TypeError):
        adapt(6, tmp_path, resume=True)


def test_only_the_same_adaptation_goes_on(adapt, model_file: Path, clip: Path, tmp_path: Path) -> None:
    """Another person whose file has the same name, other weights under the name of the model, other options."""
    output = tmp_path / "run"
    adapt(3, output)
    other = tmp_path / clip.name
    write_video(other, iter(synthetic_clip(1, 40, 48)[0].permute(0, 2, 3, 1).numpy()), 25)
    before = {file: file.read_bytes() for file in output.rglob("*") if file.is_file()}
    for steps in (3, 6):
        with pytest.raises(UserError, match=r"--data .*figure.mp4 \(\d+ bytes, \w+\), but the run began with .*figure"):
            adapt(steps, output, source=other, resume=True)
        for name, value in dict(learning_rate=1e-3, batch_size=2, augmented=True, framing="--crop none").items():
            with pytest.raises(UserError, match="was begun with other options: --"):
                adapt(steps, output, resume=True, **{name: value})
    with pytest.raises(UserError, match=r"--steps 2: .* has done 3 already"):
        adapt(2, output, resume=True)
    original = model_file.read_bytes()
    try:
        changed = tiny_model()
        torch.nn.init.zeros_(changed.network.to_image.weight)
        changed.save_pretrained(model_file, {"data": "none"})
        with pytest.raises(UserError, match=r"--model model.safetensors \(\w+\), but the run began with model.safet"):
            adapt(3, output, resume=True)
    finally:
        model_file.write_bytes(original)
    assert {file: file.read_bytes() for file in output.rglob("*") if file.is_file()} == before


def test_frames_can_be_cut_by_the_caller(adapt, tmp_path: Path) -> None:
    seen = []

    def corner(number: int, frame: np.ndarray) -> np.ndarray:
        seen.append(number)
        return np.ascontiguousarray(frame[:32, :32])

    adapt(1, tmp_path, cut=corner)
    assert seen == list(range(40))


def test_how_sure_the_detector_usually_is_stays_known(clip: Path, tmp_path: Path) -> None:
    unsure = tiny_model().save_pretrained(tmp_path / "unsure", {"data": "none", "usual_confidence": 0.4})
    path = adapting.adapt(str(unsure), clip, 1, tmp_path / "run", device="cpu", batch_size=4, perceptual="pyramid")
    assert read_header(path)["metadata"]["usual_confidence"] == 0.4


@pytest.mark.parametrize(
    ("what", "named"),
    [("image", r"1 frame\(s\), too few"), ("short", r"12 frame\(s\), too few"), ("autolink", "pose-transfer")],
)
def test_what_cannot_be_adapted_is_one_line(
    what: str, named: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], model_file: Path,
    clip: Path, tmp_path: Path,
) -> None:  # fmt: skip
    source, model = clip, model_file
    if what == "image":
        Image.new("RGB", (40, 40)).save(source := tmp_path / "image.png")
    elif what == "short":
        write_video(source := tmp_path / "short.mp4", iter(np.zeros((12, 32, 32, 3), np.uint8)), 25)
    else:
        model = AutoLink(tiny_model().config.autolink).save_pretrained(tmp_path / "autolink.safetensors")
    arguments = ["adapt", "--model", model, "--src", source, "--output", tmp_path / "run", "--perceptual", "pyramid"]
    monkeypatch.setattr(sys, "argv", list(map(str, arguments)))
    with pytest.raises(SystemExit) as stopped:
        adapting.main()
    assert stopped.value.code == 2
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and re.search(named, errors[0])
    assert not (tmp_path / "run").exists()
