"""Runs go on with what they began with, or not at all, are alone in their folder, and stop where they can go on."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import gan_runs
import numpy as np
import pytest
import torch
import transfer_files
from PIL import Image
from safetensors.torch import save_file
from torchvision import models

from autolink import UserError, errors, runs, training
from autolink.runs import Stop
from autolink.train import Options, autolink_for, train
from autolink.training import Diverged, Ema
from autolink.video import write_video
from autolink.weights import read_header, read_metadata, read_tensors
from autolink_apps.gan import train as gan_training
from autolink_apps.pose_transfer import adapt as adapting
from autolink_apps.pose_transfer import train as transfer_training
from experiments.distil import Options as DistilOptions
from experiments.distil import distil


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"))


def write_images(folder: Path, count: int = 12, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    folder.mkdir(exist_ok=True)
    for number in range(count):
        pixels = rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    return folder


def options(images: Path, output: Path, **changes: object) -> Options:
    settings = {
        **dict(data=str(images), output=output, steps=2, batch_size=2, image_size=32, width=0.125, workers=0),
        **dict(keypoints=3, thickness=1e-2, perceptual="pyramid", mixed_precision="no", learning_rate=1e-4),
        **dict(log_every=1, sample_every=100, save_every=1),
    }
    return Options(**{**settings, **changes})


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def begun(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two steps; tests leave it as it is."""
    output = tmp_path_factory.mktemp("runs") / "begun"
    train(options(images, output))
    return output


OTHER = {
    "seed": (1, "--seed 1, but the run began with 0"),
    "batch_size": (4, "--batch-size 4, but the run began with 2"),
    "learning_rate": (2e-4, "--learning-rate 0.0002, but the run began with 0.0001"),
    "thickness": (2e-2, "--thickness 0.02, but the run began with 0.01"),
    "flip": (True, "--flip True, but the run began with False"),
    "perceptual": ("builtin", "--perceptual builtin, but the run began with pyramid"),
    "mix_with": ("synthetic", "--mix-with synthetic, but the run began with None"),
    "data": ("synthetic", "--data synthetic, but the run began with "),
    "start_from": ("a copy of its model", r"--start-from copy.safetensors \(\w+\), but the run began with None"),
    "steps": (1, "--steps 1: .* has done 2 already"),
}


@pytest.mark.parametrize("option", OTHER)
def test_another_option_is_refused_by_name_and_nothing_changes(
    option: str, images: Path, begun: Path, tmp_path: Path
) -> None:
    value, named = OTHER[option]
    if option == "start_from":
        value = str(tmp_path / "copy.safetensors")
        Path(value).write_bytes((begun / "model.safetensors").read_bytes())
    before = files(begun)
    with pytest.raises(UserError, match=named):
        train(dataclasses.replace(options(images, begun, resume=True, steps=3), **{option: value}))
    assert files(begun) == before


def test_every_option_is_compared_or_named_among_those_that_may_change(images: Path, tmp_path: Path) -> None:
    given = options(images, tmp_path)
    note = training.note_of(given)
    for field in dataclasses.fields(given):
        if field.name not in (*training.DATA_OPTIONS, *training.MODEL_OPTIONS):
            other = {**note, field.name: "another"}
            found = training.changed({**note, **note["identity"]}, given, other)
            assert (found is None) == (field.name in training.MAY_CHANGE), field.name


def test_what_may_change_may(images: Path, begun: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    for name, content in files(begun).items():
        (moved / name).parent.mkdir(parents=True, exist_ok=True)
        (moved / name).write_bytes(content)
    how = dict(steps=3, log_every=2, sample_every=2, save_every=2, workers=1, mixed_precision="bf16")
    train(options(images, moved, resume=True, **how))
    assert json.loads((moved / "config.json").read_text())["steps"] == 3


def test_data_that_changed_are_noticed(begun: Path, tmp_path: Path) -> None:
    images = write_images(tmp_path / "images")
    train(options(images, tmp_path / "run"))
    again = options(images, tmp_path / "run", resume=True, steps=3)
    (images / "notes.txt").touch()
    (images / ".DS_Store").touch()
    Image.new("RGB", (32, 32)).save(images / "new.png")
    with pytest.raises(UserError, match=r"--data .*images \(14 files of \d+ .*, but the run began with .*\(12 files"):
        train(again)
    for name in ("new.png", "notes.txt"):
        (images / name).unlink()
    train(again)
    pixels = bytearray((images / "05.png").read_bytes())
    pixels[1000] ^= 1
    (images / "05.png").write_bytes(pixels)
    with pytest.raises(UserError, match=r"--data .*\(12 files of \d+ .*, but the run began with .*\(12 files"):
        train(dataclasses.replace(again, steps=4))


def test_data_and_run_that_were_copied_to_another_machine_go_on(tmp_path: Path) -> None:
    """Copies have other times, and links of the data set become files."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    images = write_images(here / "images")
    (images / "link.png").symlink_to(images / "03.png")
    train(options(images, here / "run"))
    shutil.copytree(here, there, copy_function=shutil.copyfile)
    for number, file in enumerate(sorted((there / "images").iterdir())):
        os.utime(file, (number, number))
    train(options(there / "images", there / "run", resume=True, steps=3))
    (there / "run").rename(tmp_path / "run")  # away from the data
    train(options(there / "images", tmp_path / "run", resume=True, steps=4))
    note = json.loads((tmp_path / "run/config.json").read_text())
    assert note["identity"]["data"].startswith("images (13 files of ")


def test_a_single_file_of_data_may_lie_elsewhere_too(tmp_path: Path) -> None:
    """As noted by older runs, with the folder that it was in."""
    clip = tmp_path / "one" / "clip.mp4"
    write_video(clip, iter(np.random.default_rng(0).integers(0, 255, (12, 32, 32, 3), dtype=np.uint8)), 25)
    train(options(clip, tmp_path / "run"))
    config = tmp_path / "run" / "config.json"
    config.write_text(config.read_text().replace('"data": "clip.mp4 (', f'"data": "{clip} ('))
    (tmp_path / "one").rename(tmp_path / "other, too")
    train(options(tmp_path / "other, too" / "clip.mp4", tmp_path / "run", resume=True, steps=3))


def test_what_is_looked_at_of_a_folder_is_bounded_and_spread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    for number in range(200):
        (tmp_path / f"data/{number:03}.jpg").write_bytes(bytes(100))
    with open(tmp_path / "data/199.mp4", "wb") as file:
        file.truncate(2**32)
    os.mkfifo(tmp_path / "data/pipe.jpg")  # who opened it would wait for ever
    seen = []
    look_into = runs._look_into
    monkeypatch.setattr(runs, "_look_into", lambda *given: (seen.append(given[0].name), look_into(*given)))
    before = runs.contents(tmp_path / "data")
    assert len(seen) == runs.LOOKED_INTO and seen[0] == "000.jpg" and seen[-1] >= "195.jpg"
    for name in (seen[7], seen[40]):
        (tmp_path / "data" / name).write_bytes(bytes(99) + b"x")
        assert before != (before := runs.contents(tmp_path / "data"))


def test_a_run_folder_among_the_data_is_none_of_them(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_images(tmp_path / split)
    train(options(tmp_path, tmp_path / "train" / "run", sample_every=1))
    train(options(tmp_path, tmp_path / "train" / "run", steps=3, resume=True))


def test_a_model_to_begin_with_is_known_by_its_weights_and_needed_at_the_beginning_alone(
    images: Path, begun: Path, tmp_path: Path
) -> None:
    model = tmp_path / "a.safetensors"
    model.write_bytes((begun / "model.safetensors").read_bytes())
    train(options(images, tmp_path / "run", start_from=str(model)))
    moved = tmp_path / "elsewhere" / "a.safetensors"
    moved.parent.mkdir()
    model.rename(moved)
    train(options(images, tmp_path / "run", start_from=str(moved), resume=True, steps=3))
    train(options(images, tmp_path / "other", seed=1))
    model.write_bytes((tmp_path / "other" / "model.safetensors").read_bytes())
    with pytest.raises(UserError, match=r"--start-from a.safetensors \(\w+\), but the run began with a.safetensors"):
        train(options(images, tmp_path / "run", start_from=str(model), resume=True, steps=4))
    moved.unlink()
    train(options(images, tmp_path / "run", start_from=str(moved), resume=True, steps=4))
    noted = json.loads((tmp_path / "run" / "config.json").read_text())["identity"]["start_from"]
    assert noted == runs.weights_identity(str(begun)).replace("begun", "a.safetensors")


def test_runs_from_before_identities_and_options_that_are_newer_go_on(images: Path, tmp_path: Path) -> None:
    train(options(images, tmp_path / "run"))
    note = json.loads((tmp_path / "run" / "config.json").read_text())
    del note["identity"], note["agreement_weight"]
    (tmp_path / "run" / "config.json").write_text(json.dumps(note))
    with pytest.raises(UserError, match=r"--agreement-weight 0\.5, but the run began with 0\.0"):
        train(options(images, tmp_path / "run", resume=True, agreement_weight=0.5))
    train(options(images, tmp_path / "run", resume=True, steps=3))
    config = tmp_path / "run" / "config.json"
    note = json.loads(config.read_text())
    note["identity"]["data"] = f"{images} (12 files, 0123456789ab)"  # of times, as it once was noted
    config.write_text(json.dumps(note))
    with pytest.raises(UserError, match="--data synthetic, but the run began with "):
        train(options("synthetic", tmp_path / "run", resume=True, steps=4))
    train(options(images, tmp_path / "run", resume=True, steps=4))
    assert "12 files of" in json.loads(config.read_text())["identity"]["data"]
    for damage, named in (('{"data": ', "damaged"), (None, "is missing, so what was begun there is unknown")):
        config.write_text(damage) if damage else config.unlink()
        with pytest.raises(UserError, match=rf"config\.json.*{named}"):
            train(options(images, tmp_path / "run", resume=True, steps=4))


# Logs


def test_a_torn_last_line_of_the_log_is_dropped_and_no_other(images: Path, tmp_path: Path) -> None:
    train(options(images, tmp_path / "whole", steps=4, sample_every=1))
    train(options(images, tmp_path / "run", sample_every=1))
    log = tmp_path / "run" / "log.jsonl"
    with log.open("a") as file:
        file.write('{"step": 3, "lo')
    train(options(images, tmp_path / "run", sample_every=1, resume=True, steps=3))
    log.write_text(log.read_text().rstrip("\n"))  # torn between line and end of line: nothing is lost
    train(options(images, tmp_path / "run", sample_every=1, resume=True, steps=4))
    assert log.read_text() == (tmp_path / "whole" / "log.jsonl").read_text()
    lines = log.read_text().splitlines()
    log.write_text("\n".join([lines[0], lines[1][:9], *lines[2:]]))
    with pytest.raises(UserError, match=r"log\.jsonl: line 2 is no JSON"):
        train(options(images, tmp_path / "run", sample_every=1, resume=True, steps=5))


# Folders


HOLDER = """
import os, sys, time
from pathlib import Path
from autolink.runs import claim
claim(Path(sys.argv[1]))
child = os.fork()
if child:
    print(child, flush=True)
time.sleep(60)
"""


def test_a_folder_in_use_is_refused_until_its_process_is_gone(images: Path, begun: Path) -> None:
    """The processes that load its data, which are forked, outlive a kill of the training by some seconds."""
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(begun)], stdout=subprocess.PIPE, text=True)
    child = int(holder.stdout.readline())
    try:
        for resume in (False, True):
            with pytest.raises(UserError, match=rf"in use by another training \(process {holder.pid} on "):
                train(options(images, begun, resume=resume))
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    try:
        assert (begun / ".lock").read_text().startswith(f"{holder.pid} on ")  # a stale lock
        runs.claim(begun)
        runs.release(begun)
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_file_system_without_locks_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(runs.fcntl, "lockf", no_locks)
    runs.claim(tmp_path)
    runs.release(tmp_path)
    assert "nothing is locked there ([Errno 37] No locks available)" in caplog.text


# Stopping


@pytest.fixture
def stopped_by(monkeypatch: pytest.MonkeyPatch) -> Callable[[signal.Signals], None]:
    """Sends a signal to the training of this process in its second step."""

    def choose(number: signal.Signals) -> None:
        asked, calls = Stop.asked, []

        def ask(stop: Stop) -> bool:
            calls.append(stop.came)
            if len(calls) == 2:
                os.kill(os.getpid(), number)
            return asked(stop)

        monkeypatch.setattr(Stop, "asked", ask)

    return choose


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_ends_a_run_after_its_step_and_it_goes_on_from_there(
    number: signal.Signals, stopped_by: Callable, images: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    before = signal.getsignal(number)
    stopped_by(number)
    how = dict(steps=3, save_every=100)
    with pytest.raises(SystemExit) as ended:
        errors.command(lambda: train(options(images, tmp_path / "broken", **how)))()
    assert ended.value.code == 128 + number
    line = f"{tmp_path / 'broken'}: stopped after step 2 of 3, which is saved; the same command with --resume goes on"
    said = capfd.readouterr().err
    assert said.splitlines()[-1] == f"interrupted: {line}" and "stopping after this step" in said
    assert signal.getsignal(number) == before
    train(options(images, tmp_path / "broken", resume=True, **how))
    train(options(images, tmp_path / "whole", **how))
    for file in ("checkpoint.safetensors", "model.safetensors"):
        found, expected = (read_tensors(tmp_path / run / file) for run in ("broken", "whole"))
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert files(tmp_path / "broken")["log.jsonl"] == files(tmp_path / "whole")["log.jsonl"]


def gan_run(images: Path, output: Path, **how: object) -> Path:
    return gan_training.train(gan_runs.options_for(images, gan_runs.write_autolink(output / "given"), output, **how))


def transfer_run(images: Path, output: Path, **how: object) -> Path:
    same = dict(image_size=32, width=0.1, batch_size=2, perceptual="pyramid", mixed_precision="no", workers=0)
    autolink = transfer_files.write_autolink(output / "given")
    given = dict(data=str(images), autolink=str(autolink), output=output, **same)
    return transfer_training.train(transfer_training.Options(**given, **how))


def adapt_run(images: Path, output: Path, *, steps: int, resume: bool = False, **_: object) -> Path:
    model = transfer_files.write_model(output / "given")
    how = dict(device="cpu", batch_size=2, perceptual="pyramid", resume=resume)
    return adapting.adapt(str(model), images / "train" / "a", steps, output, **how)


def distil_run(images: Path, output: Path, **how: object) -> Path:
    return distil(DistilOptions(data=(str(images),), output=output, images=6, batch_size=4, **how))


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    for split, count in (("train", 24), ("val", 4)):
        for clip in "ab":
            (folder / split).mkdir(exist_ok=True)
            write_images(folder / split / clip, count, ord(clip))
    return folder


@pytest.mark.parametrize("run", [gan_run, transfer_run, adapt_run, distil_run])
def test_every_training_stops_and_goes_on(
    run: Callable[..., Path], stopped_by: Callable, clips: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AUTOLINK_WEIGHTS", str(tmp_path))
    squeezenet = models.squeezenet1_1().features.state_dict()
    save_file(squeezenet, tmp_path / "squeezenet1_1_features.safetensors")
    monkeypatch.setattr("experiments.distil.HELD_OUT", 4)
    stopped_by(signal.SIGTERM)
    how = dict(steps=3, save_every=100)
    with pytest.raises(errors.Stopped, match="stopped after step 2 of 3, which is saved"):
        run(clips, tmp_path / "run", **how)
    assert json.loads(read_metadata(tmp_path / "run" / "checkpoint.safetensors")["run"])["step"] == 2
    assert read_header(run(clips, tmp_path / "run", resume=True, **how))["metadata"]["steps"] == 3


def test_an_autolink_that_is_trained_on_the_way_goes_on_by_the_same_command(
    stopped_by: Callable, images: Path, tmp_path: Path
) -> None:
    stopped_by(signal.SIGTERM)
    how = dict(perceptual="pyramid", keypoints=3, thickness=1e-2, steps=3, batch_size=2)
    with pytest.raises(errors.Stopped, match="the same command goes on"):
        autolink_for(None, options(images, tmp_path), **how)
    assert read_header(autolink_for(None, options(images, tmp_path), **how))["metadata"]["steps"] == 3
    with pytest.raises(UserError, match=r"autolink was begun with other options: --width 0\.25"):
        autolink_for(None, options(images, tmp_path, width=0.25), **how)


def test_a_second_ctrl_c_ends_at_once_and_a_second_sigterm_does_not() -> None:
    stop = Stop(SimpleNamespace(num_processes=1, is_main_process=True))
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGTERM)
    assert stop.asked() and stop.came
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


class Struck(torch.utils.data.Dataset):
    """Each process that loads it gets all signals, as launchers and terminals send them to whole groups."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        for number in runs.SIGNALS:
            os.kill(os.getpid(), number)
        return os.getpid()


def test_processes_that_load_data_go_on(tmp_path: Path) -> None:
    alone = SimpleNamespace(process_index=0, num_processes=1, device=torch.device("cpu"))
    batches = training.endless_loader(Struck(), options(tmp_path, tmp_path, workers=1), alone, 0)
    (pid, _), again = next(batches).tolist(), next(batches).tolist()
    assert pid != os.getpid() and again == [pid, pid]


def test_several_processes_stop_after_the_same_step() -> None:
    flags: list[torch.Tensor] = []

    def reduce(flag: torch.Tensor, _: str) -> torch.Tensor:  # of two processes, the other hears nothing
        flags.append(flag)
        return flag + 0

    shared = dict(num_processes=2, is_main_process=False, device="cpu")
    hears = Stop(SimpleNamespace(reduce=reduce, **shared))
    deaf = Stop(SimpleNamespace(reduce=lambda flag, _: flag + flags[-1], **shared))
    hears.hear(signal.SIGTERM)
    steps = [(hears.asked(), deaf.asked()) for _ in range(2)]
    assert steps == [(False, False), (True, True)]
    with pytest.raises(errors.Stopped):
        deaf.leave(Path("run"), 2, 3)


# What is saved


@pytest.mark.parametrize("part", ["model", "average"])
def test_weights_that_are_no_numbers_never_replace_good_ones(
    part: str, images: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    update, calls = Ema.update_parameters, []

    def spoil(ema: Ema, model: torch.nn.Module) -> None:
        update(ema, model)
        calls.append(part)
        if len(calls) == 2:  # after the loss was computed, which is finite
            (model if part == "model" else ema.module).graph.scaled_logits.data[0] = float("inf")

    monkeypatch.setattr(Ema, "update_parameters", spoil)
    with pytest.raises(Diverged, match="no longer numbers at step 2; --resume goes on from the last checkpoint"):
        train(options(images, tmp_path, steps=4, log_every=3))
    for file in ("checkpoint.safetensors", "model.safetensors"):
        assert all(tensor.isfinite().all() for tensor in read_tensors(tmp_path / file).values())
    assert json.loads(read_metadata(tmp_path / "checkpoint.safetensors")["run"])["step"] == 1
