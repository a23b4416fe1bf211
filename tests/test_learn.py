"""Learning from two clips promises: minutes decide the steps; an interrupted run ends where an unbroken one does."""

from __future__ import annotations

import io
import json
import shutil
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transfer_files import tiny_model, write_clips

from autolink import UserError
from autolink import train as graph_training
from autolink.data import open_data
from autolink.runs import identity
from autolink.training import StepBar
from autolink.video import write_video
from autolink.weights import read_header, read_tensors
from autolink_apps.pose_transfer import PoseTransfer, learn
from autolink_apps.pose_transfer import train as network_training
from autolink_apps.pose_transfer.frames import held_out, keep_frames

PLAN = {
    "graph": {"image_size": 32, "width": 0.1, "batch_size": 4, "steps": 5, "every": 2},
    "network": {"image_size": 32, "width": 0.1, "batch_size": 4, "steps": 5, "every": 2},
}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"))


def planned(clips: Path, output: Path, driver: Path | None = None) -> Path:
    """A run folder whose plan is made: a few steps of tiny networks."""
    driver = driver or clips / "b.mp4"
    keep_frames(clips / "a.mp4", driver, output / "frames", 32)
    about = {"src": str((clips / "a.mp4").resolve()), "driver": str(driver.resolve())}
    (output / "plan.json").write_text(
        json.dumps({**about, "minutes": 1.0, "perceptual": "pyramid", "fit": "crop", **PLAN})
    )
    return output


def carry_out(clips: Path, output: Path) -> Path:
    how = {"device": "cpu", "perceptual": "pyramid", "resume": True}
    return learn.learn(clips / "a.mp4", clips / "b.mp4", 1.0, output, **how)


@pytest.fixture(scope="module")
def learned(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return carry_out(clips, planned(clips, tmp_path_factory.mktemp("learned") / "run"))


def gradual(path: Path, frames: int) -> Path:
    """Brightness tells the frame: its number, doubled."""
    write_video(path, [np.full((32, 32, 3), 2 * number, np.uint8) for number in range(frames)], 10)
    return path


def levels(images: list[torch.Tensor]) -> list[int]:
    return [round(image.float().mean().item() / 2) for image in images]


# What is learned


def test_the_model_says_what_it_was_learned_from(learned: Path) -> None:
    model = PoseTransfer.from_pretrained(learned.parent)  # the folder is a model's source
    assert model.config.image_size == 32 and model.config.autolink.keypoints == learn.KEYPOINTS
    about = read_header(learned)["metadata"]
    assert about["learned_from"] == {"src": "a.mp4", "driver": "b.mp4", "minutes": 1.0}
    assert about["usual_confidence"] == min(about["held_out"][clip]["confidence"] for clip in ("src", "driver")) > 0
    assert about["held_out"] == json.loads((learned.parent / "held_out.json").read_text())
    graph = read_tensors(learned.parent / "graph" / "model.safetensors")
    assert all(torch.equal(value, graph[name]) for name, value in model.autolink.state_dict().items())
    pictures = sorted((learned.parent / "network" / "samples").iterdir())
    assert (learned.parent / "preview.png").read_bytes() == pictures[-1].read_bytes() and len(pictures) == 3


@pytest.mark.parametrize("stage", ["graph", "network"])
def test_interrupted_in_a_stage_equals_unbroken(
    stage: str, monkeypatch: pytest.MonkeyPatch, learned: Path, clips: Path, tmp_path: Path
) -> None:
    output = planned(clips, tmp_path / "run")
    training = {"graph": graph_training, "network": network_training}[stage]
    save = training.save_checkpoint

    def save_and_stop(accelerator, folder, step, *rest, **more) -> None:
        if step == 4:  # the checkpoint of step 2 is there, and the steps after it are lost
            raise KeyboardInterrupt
        save(accelerator, folder, step, *rest, **more)

    with monkeypatch.context() as patched:
        patched.setattr(training, "save_checkpoint", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            carry_out(clips, output)
    assert (output / "network").exists() == (stage == "network") and not (output / "model.safetensors").exists()
    found, expected = read_tensors(carry_out(clips, output)), read_tensors(learned)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_what_is_done_is_not_done_again(monkeypatch: pytest.MonkeyPatch, learned: Path, clips: Path) -> None:
    def train(_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(graph_training, "train", train)
    monkeypatch.setattr(network_training, "train", train)
    assert carry_out(clips, learned.parent) == learned


def test_another_clip_of_the_same_name_is_refused(clips: Path, tmp_path: Path) -> None:
    """Noted when the plan was made, and compared also when all is done."""
    clip = shutil.copy(clips / "a.mp4", tmp_path / "a.mp4")
    how = {"device": "cpu", "perceptual": "pyramid", "resume": True}
    output = planned(tmp_path, tmp_path / "run", clips / "b.mp4")
    plan = json.loads((output / "plan.json").read_text())
    plan["identity"] = {name: identity(Path(plan[name])) for name in ("src", "driver")}
    (output / "plan.json").write_text(json.dumps(plan))
    gradual(clip, 40)
    with pytest.raises(UserError, match=r"begun with --src .*a\.mp4 \(\d+ bytes, \w+\), not .*a\.mp4 \("):
        learn.learn(clip, clips / "b.mp4", 1.0, output, **how)


def test_held_out_numbers_by_hand(clips: Path, tmp_path: Path) -> None:
    model = tiny_model()
    frames = tmp_path / "frames"
    keep_frames(clips / "a.mp4", clips / "b.mp4", frames, 128)

    def images(place: str) -> torch.Tensor:
        files = sorted((frames / place).iterdir())
        shown = [np.array(Image.open(f).resize((32, 32), Image.Resampling.BICUBIC, reducing_gap=3)) for f in files]
        return torch.from_numpy(np.stack(shown)).permute(0, 3, 1, 2) / 255

    found = held_out(model, frames)
    for clip in ("src", "driver"):
        seen, wanted = images(f"train/{clip}-0"), images(f"val/{clip}")
        assert len(seen) == 18 and len(wanted) == 2
        sums = dict.fromkeys(("l1", "l1_of_copying", "l1_of_nearest", "keypoint_spread", "confidence"), 0.0)
        for image in wanted:
            (pose, certain), poses = model.autolink.detect(image[None]), model.autolink.detect(seen).xy
            nearest = min(range(18), key=lambda n: (poses[n] - pose[0]).square().sum().item())
            with torch.no_grad():
                made = model.transfer(seen[:1], poses[:1], pose)[0]
            for name, other in (("l1", made), ("l1_of_copying", seen[0]), ("l1_of_nearest", seen[nearest])):
                sums[name] += (other - image).abs().mean().item() / 2
            sums["confidence"] += certain.mean().item() / 2
            sums["keypoint_spread"] += pose.var(dim=1, unbiased=False).sum().sqrt().item() / 2
        assert found[clip] == pytest.approx(sums, abs=2e-4)


@pytest.mark.parametrize(("driver", "warned"), [(0.21, False), (0.19, True), (0.81, True)])
def test_keypoints_that_differ_between_the_clips_are_a_warning(
    driver: float, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    learn._compare_spreads(0.4, driver)
    assert ("hardly mean the same" in caplog.text) == warned


@pytest.mark.parametrize(("made", "warned"), [(0.0399, False), (0.04, True)])
def test_the_end_says_how_good_the_model_is(
    made: float, warned: bool, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    good = {"l1": 0.01, "l1_of_copying": 0.02, "l1_of_nearest": 0.03}
    learn._say_how_good({"src": {"l1": made, "l1_of_copying": 0.04, "l1_of_nearest": 0.03}, "driver": good})
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("src:") and second.startswith("driver:")
    for shown in (f"{made:.2%}", "4.00%", "3.00%"):
        assert shown in first
    assert ("no better than the first frame" in caplog.text) == warned


def test_one_bar_goes_from_beginning_to_end(
    monkeypatch: pytest.MonkeyPatch, learned: Path, clips: Path, tmp_path: Path
) -> None:
    """On a terminal; here of a run that goes on after its first stage."""
    output = tmp_path / "run"
    shutil.copytree(learned.parent, output)
    shutil.rmtree(output / "network")
    (output / "model.safetensors").unlink()
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    carry_out(clips, output)
    drawn = [line.strip() for line in terminal.getvalue().replace("\n", "\r").split("\r") if "%|" in line]
    assert drawn and all(line.startswith("learning") for line in drawn)
    shares = [int(line.split("%|")[0].split()[-1]) for line in drawn]
    assert shares == sorted(shares) and shares[0] == 0 and shares[-1] == 100


def test_how_good_it_is_is_said_again_of_what_is_done(
    learned: Path, clips: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    carry_out(clips, learned.parent)
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == ["src", "driver"]


# What is learned from


def test_the_last_tenth_is_held_out_and_both_clips_count_alike(tmp_path: Path) -> None:
    short, long = gradual(tmp_path / "short.mp4", 20), gradual(tmp_path / "long.mp4", 100)
    frames = tmp_path / "frames"
    keep_frames(short, long, frames, 16)
    train, val = (open_data(str(frames), 16, split) for split in ("train", "val"))
    assert {clip: val.clips.count(clip) for clip in val.clips} == {"val/src": 2, "val/driver": 10}
    assert {clip: train.clips.count(clip) for clip in train.clips} == {
        "train/driver-0": 90,
        **{f"train/src-{copy}": 18 for copy in range(5)},  # as many frames as the driver's
    }
    driver = [sample.image for sample in train if sample.clip == "train/driver-0"]
    assert np.abs(np.subtract(levels(driver), range(90))).max() <= 2  # H.264
    assert np.abs(np.subtract(levels([sample.image for sample in val][:10]), range(90, 100))).max() <= 2


@pytest.mark.parametrize(("fit", "rows"), [("crop", [50] * 16), ("pad", [0] * 4 + [50] * 8 + [100] * 4)])
def test_a_tall_clip_is_cut_or_kept_whole(tmp_path: Path, fit: str, rows: list[int]) -> None:
    """A quarter black, half grey, a quarter white, from top to bottom."""
    frame = np.repeat(np.repeat(np.uint8([0, 100, 100, 200]), 16)[:, None, None], 32, 1).repeat(3, 2)
    write_video(tmp_path / "tall.mp4", [frame] * 20, 10)
    keep_frames(tmp_path / "tall.mp4", tmp_path / "tall.mp4", tmp_path / "frames", 16, fit)
    shown = open_data(str(tmp_path / "frames"), 16)[0].image
    assert np.abs(np.subtract(levels(list(shown[:, :, 8].T)), rows)).max() <= 6  # at borders, of chroma and resampling


# How long


def test_steps_are_what_fits_into_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(options: graph_training.Options) -> Path:
        """Two seconds for the first step, which sets things up, and half a second for any other."""
        assert options.steps == learn.PROBE_STEPS
        options.output.mkdir()
        accelerator = SimpleNamespace(is_main_process=True, num_processes=1, device=torch.device("cpu"))
        with StepBar(accelerator, options, 0, "graph") as bar:
            for step in range(options.steps):
                clock[0] += 0.5 + 2 * (step == 0)
                bar.update()
        return options.output

    clock = [1000.0]
    monkeypatch.setattr("autolink.training.pace.time.perf_counter", lambda: clock[0])

    options = graph_training.Options(data="none", output=tmp_path / "graph", steps=learn.PROBE_STEPS)
    stage = learn._timed(learn.Stage(64, 0.25, 16, 0, 0), train, options, 480)
    assert stage == learn.Stage(64, 0.25, 16, steps=960, every=120)
    assert not list(tmp_path.iterdir())  # the trial leaves nothing


@pytest.mark.parametrize(("step_of_large", "chosen"), [(0.1, 128), (0.2, 64)])
def test_the_graph_is_learned_from_small_images_if_time_is_short(
    step_of_large: float, chosen: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def timed(stage: learn.Stage, _: object, options: graph_training.Options, seconds: float) -> learn.Stage:
        assert options.thickness == {128: 1e-3, 64: 2.5e-3}[stage.image_size]
        return stage._replace(steps=round(seconds / {128: step_of_large, 64: 0.05}[stage.image_size]))

    monkeypatch.setattr(learn, "_timed", timed)
    shared = {"data": "none", "perceptual": "pyramid", "mixed_precision": "no", "learning_rate": 1e-4}
    stage = learn._plan_graph(shared, 0.15 * learn.ENOUGH_STEPS, tmp_path)
    assert stage.image_size == chosen


def test_the_network_begins_as_the_shipped_one_where_it_fits(tmp_path: Path) -> None:
    shared = {"data": "none", "perceptual": "pyramid", "mixed_precision": "no", "learning_rate": 1e-4}
    usual = learn.Stage(learn.IMAGE_SIZE, learn.WIDTH, 1, 1, 1)
    beginnings = [
        learn._network_options(shared, stage, tmp_path / "graph", tmp_path).start_from
        for stage in (usual, usual._replace(image_size=64), usual._replace(width=0.5))
    ]
    assert beginnings == ["faces-transfer", None, None]


def test_the_command_plans_for_its_minutes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], clips: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(learn, "IMAGE_SIZE", 32)
    monkeypatch.setattr(learn, "GRAPH_SIZES", {32: 2.5e-3})
    monkeypatch.setattr(learn, "WIDTH", 0.1)
    before = time.monotonic()
    assert command(monkeypatch, clips, tmp_path / "run", "--minutes", "0.03", "--perceptual", "pyramid") == 0
    seconds = time.monotonic() - before
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())
    # 1.8 s at a share of 0.35 and 0.55; slower than a step of 32² can be nowhere, nor can it take half a millisecond.
    assert 1 <= plan["graph"]["steps"] < 1500 and 1 <= plan["network"]["steps"] < 1800 and seconds < 60
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "run" / "model.safetensors")


# What is wrong


def command(monkeypatch: pytest.MonkeyPatch, clips: Path, output: Path, *more: object) -> int:
    arguments = ["--src", clips / "a.mp4", "--driver", clips / "b.mp4", "--output", output, "--device", "cpu", *more]
    monkeypatch.setattr(sys, "argv", ["learn", *map(str, arguments)])
    try:
        learn.main()
    except SystemExit as stopped:
        return stopped.code
    return 0


AGAIN = ["--output", "run", "--minutes", "1", "--perceptual", "pyramid", "--resume"]
WRONG = {
    "same clip twice": (["--src", "b.mp4"], "is source and driver"),
    "image as source": (["--src", "portrait.png"], "portrait.png: 1 frame(s), too few"),
    "short driver": (["--driver", "short.mp4"], "short.mp4: 9 frame(s), too few"),
    "missing driver": (["--driver", "nowhere.mp4"], "nowhere.mp4"),
    "no time": (["--minutes", "0"], "above 0"),
    "nothing to resume": (["--resume"], "no plan.json"),
    "taken folder": (["--output", "run"], "--resume"),
    "resumed with another clip": (["--output", "run", "--src", "short.mp4", "--resume"], "short.mp4"),
    "resumed with another time": (["--output", "run", "--minutes", "3", "--resume"], "not 3"),
    "resumed with another fit": ([*AGAIN, "--fit", "pad"], "not pad"),
    "no such device": (["--device", "abacus"], "--device abacus"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_cannot_be_learned_from_is_one_line(
    what: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], clips: Path, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("b.mp4").symlink_to(clips / "b.mp4")
    Image.new("RGB", (40, 40)).save("portrait.png")
    gradual(Path("short.mp4"), 9)
    planned(clips, Path("run"))
    arguments, named = WRONG[what]
    assert command(monkeypatch, clips, Path("new"), *arguments) == 2
    lines = capfd.readouterr().err.replace("\r", "\n").splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1 and named in errors[0]
    assert not any("Traceback" in line for line in lines)
    assert not Path("new/plan.json").exists()  # the folder can be named again


def test_missing_weights_of_the_features_are_one_line(
    monkeypatch: pytest.MonkeyPatch, clips: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("AUTOLINK_WEIGHTS", str(tmp_path / "empty"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", _offline)
    with pytest.raises(UserError, match="SqueezeNet1_1 weights are not on this machine") as error:
        learn.learn(clips / "a.mp4", clips / "b.mp4", 1, tmp_path / "run", device="cpu", perceptual="squeezenet")
    assert "--perceptual builtin" in str(error.value) and "\n" not in str(error.value)


def _offline(*_: object, **__: object) -> None:
    raise OSError("no network")
