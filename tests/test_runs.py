"""Runs go on with what they began with, or not at all: options, data and models are compared, folders are taken."""

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
from PIL import Image

from autolink import UserError, runs, training
from autolink.train import Options, train


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
        **dict(keypoints=3, thickness=1e-2, perceptual="pyramid", mixed_precision="no"),
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
    "start_from": ("the run itself", r"--start-from begun \(\w+\), but the run began with None"),
    "steps": (1, "--steps 1: .* has done 2 already"),
}


@pytest.mark.parametrize("option", OTHER)
def test_another_option_is_refused_by_name_and_nothing_changes(option: str, images: Path, begun: Path) -> None:
    value, named = OTHER[option]
    value = str(begun) if option == "start_from" else value
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
            found = training.changed(note, given, other)
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
    with pytest.raises(UserError, match=r"--data .*images \(14 files, \w+\), but the run began with .*\(12 files"):
        train(again)
    for name in ("new.png", "notes.txt"):
        (images / name).unlink()
    train(again)
    write_images(images, seed=1)  # other pictures under the same names
    with pytest.raises(UserError, match=r"--data .*\(12 files, \w+\), but the run began with .*\(12 files"):
        train(dataclasses.replace(again, steps=4))


def test_a_run_folder_among_the_data_is_none_of_them(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_images(tmp_path / split)
    train(options(tmp_path, tmp_path / "train" / "run", sample_every=1))
    train(options(tmp_path, tmp_path / "train" / "run", steps=3, resume=True))


def test_a_model_to_begin_with_is_known_by_its_weights(images: Path, begun: Path, tmp_path: Path) -> None:
    model = tmp_path / "a.safetensors"
    model.write_bytes((begun / "model.safetensors").read_bytes())
    train(options(images, tmp_path / "run", start_from=str(model)))
    moved = tmp_path / "elsewhere" / "a.safetensors"
    moved.parent.mkdir()
    model.rename(moved)
    train(options(images, tmp_path / "run", start_from=str(moved), resume=True, steps=3))
    train(options(images, tmp_path / "other", seed=1))
    moved.write_bytes((tmp_path / "other" / "model.safetensors").read_bytes())
    with pytest.raises(UserError, match=r"--start-from a.safetensors \(\w+\), but the run began with a.safetensors"):
        train(options(images, tmp_path / "run", start_from=str(moved), resume=True, steps=4))


def test_runs_from_before_identities_and_options_that_are_newer_go_on(images: Path, tmp_path: Path) -> None:
    train(options(images, tmp_path / "run"))
    note = json.loads((tmp_path / "run" / "config.json").read_text())
    del note["identity"], note["agreement_weight"]
    (tmp_path / "run" / "config.json").write_text(json.dumps(note))
    with pytest.raises(UserError, match=r"--agreement-weight 0\.5, but the run began with 0\.0"):
        train(options(images, tmp_path / "run", resume=True, agreement_weight=0.5))
    train(options(images, tmp_path / "run", resume=True, steps=3))
    for damage in ('{"data": ', None):
        config = tmp_path / "run" / "config.json"
        config.write_text(damage) if damage else config.unlink()
        with pytest.raises(UserError, match=r"config.json: cannot be read .* what the run began with is unknown"):
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
import sys, time
from pathlib import Path
from autolink.runs import claim
claim(Path(sys.argv[1]))
print("taken", flush=True)
time.sleep(60)
"""


def test_a_folder_in_use_is_refused_until_its_process_is_gone(images: Path, begun: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(begun)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "taken\n"
        for resume in (False, True):
            with pytest.raises(UserError, match=rf"in use by another training \(process {holder.pid} on "):
                train(options(images, begun, resume=resume))
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    assert (begun / ".lock").read_text().startswith(f"{holder.pid} on ")  # a stale lock
    runs.claim(begun)
    runs.release(begun)


def test_processes_that_load_data_do_not_hold_the_folder(tmp_path: Path) -> None:
    """They are forked, and outlive a kill of the training by some seconds."""
    forks = HOLDER.replace("time.sleep(60)", "child = os.fork()\nif child: print(child, flush=True)\ntime.sleep(60)")
    command = [sys.executable, "-c", "import os" + forks, str(tmp_path)]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "taken\n"
    child = int(holder.stdout.readline())
    holder.kill()
    holder.wait()
    holder.stdout.close()
    try:
        runs.claim(tmp_path)
        runs.release(tmp_path)
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
