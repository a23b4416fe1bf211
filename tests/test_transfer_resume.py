"""Transfers that were interrupted: the same command goes on to the same result, another is refused."""

from __future__ import annotations

import os
import shutil
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from transfer_files import TIMES, arguments_for, pictures, run_transfer, tiny_model, write_clips, write_model

from autolink.video import open_frames
from autolink.video.outputs import FolderWriter
from autolink_apps.pose_transfer.saved_motion import load_motion, save_motion


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


def interrupt(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    """The command, stopped by Ctrl-C when six pictures are in its folder."""
    write = FolderWriter.write

    def interrupted(writer: FolderWriter, image: np.ndarray, time: Fraction) -> None:
        if writer.written == 6:
            raise KeyboardInterrupt
        write(writer, image, time)

    with monkeypatch.context() as broken:
        broken.setattr(FolderWriter, "write", interrupted)
        assert run_transfer(broken, *arguments) == 130


def test_an_interrupted_run_goes_on_to_the_same_result(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], clips: Path, model_file: Path, tmp_path: Path
) -> None:
    def arguments(name: str) -> list[object]:
        return [*arguments_for(clips, model_file, tmp_path / name), "--preview", "edges"]

    assert run_transfer(monkeypatch, *arguments("whole")) == 0
    interrupt(monkeypatch, *arguments("broken"))
    said = capfd.readouterr().err
    assert "6 of 20 frames are there; the same command with --resume goes on" in said and "Traceback" not in said
    kept = {file: file.stat().st_mtime_ns for file in (tmp_path / "broken").glob("*.png")}
    assert len(kept) == 6
    assert run_transfer(monkeypatch, *arguments("broken"), "--resume") == 0
    assert np.array_equal(pictures(tmp_path / "broken"), pictures(tmp_path / "whole"))
    assert all(file.stat().st_mtime_ns == time for file, time in kept.items())
    with open_frames(tmp_path / "broken-preview.mp4") as preview:
        assert [frame.time for frame in preview] == TIMES and (preview.width, preview.height) == (64, 32)
    capfd.readouterr()
    assert run_transfer(monkeypatch, *arguments("broken"), "--resume") == 0
    assert "already there" in capfd.readouterr().out


def test_only_the_same_command_goes_on_with_what_is_there(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], clips: Path, model_file: Path, tmp_path: Path
) -> None:
    model, driver, output = tmp_path / "model.safetensors", tmp_path / "driver.mp4", tmp_path / "out"
    model.write_bytes(model_file.read_bytes())
    driver.write_bytes((clips / "b.mp4").read_bytes())
    given = {"--src": clips / "a.mp4", "--driver": driver, "--model": model, "--output": output, "--preview": "edges"}

    def arguments(changed: dict[str, object]) -> list[object]:
        return ["--device", "cpu", *(part for pair in {**given, **changed}.items() for part in pair)]

    interrupt(monkeypatch, *arguments({}))
    kept = {file: file.stat().st_mtime_ns for file in output.glob("*.png")}
    driver_size = driver.stat().st_size

    def refusal(changed: dict[str, object]) -> str:
        capfd.readouterr()
        assert run_transfer(monkeypatch, *arguments(changed), "--resume") == 2
        (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
        return line

    with monkeypatch.context() as before_any_work:
        before_any_work.delattr("autolink_apps.pose_transfer.transfer.look")
        assert f"{output}: begun with --motion relative, not absolute;" in refusal({"--motion": "absolute"})
        assert "begun with --crop auto, not none;" in refusal({"--crop": "none"})
        assert "begun with --size None, not 48;" in refusal({"--size": 48})
        assert "begun with --max-frames None, not 9;" in refusal({"--max-frames": 9})
        assert "begun with --start 0, not 0.5;" in refusal({"--start": 0.5})
        other = f"--src {clips / 'a.mp4'} ({(clips / 'a.mp4').stat().st_size} bytes), not {clips / 'b.mp4'} ("
        assert other in refusal({"--src": clips / "b.mp4"})
        assert f"--model {model}, not {model_file};" in refusal({"--model": model_file})
        driver.write_bytes((clips / "a.mp4").read_bytes())
        assert f"--driver {driver} ({driver_size} bytes), not {driver} (" in refusal({})
        driver.write_bytes((clips / "b.mp4").read_bytes())
    assert "out-preview.mp4: begun with --preview edges, not side-by-side;" in refusal({"--preview": "side-by-side"})
    changed = tiny_model()
    torch.nn.init.zeros_(changed.network.to_image.weight)
    changed.save_pretrained(model)
    assert "begun with weights of the model " in refusal({})
    model.write_bytes(model_file.read_bytes())

    assert {file: file.stat().st_mtime_ns for file in output.glob("*.png")} == kept
    assert run_transfer(monkeypatch, *arguments({"--sound": "none"}), "--resume") == 0  # changes no picture
    assert len(pictures(output)) == 20
    assert sorted(path.name for path in output.iterdir() if path.suffix != ".png") == [".made.json", "times.csv"]
    left = ["driver.mp4", "model.safetensors", "out", "out-preview.mp4"]
    assert sorted(path.name for path in tmp_path.iterdir()) == left


def test_each_source_is_adapted_to_once_and_people_of_the_same_file_name_are_apart(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], clips: Path, model_file: Path, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder, clip in (("one", "a.mp4"), ("other", "b.mp4")):
        Path(folder).mkdir()
        shutil.copy(clips / clip, Path(folder) / "me.mp4")

    def adapted(person: str, *more: object) -> str:
        arguments = [
            "--src",
            f"{person}/me.mp4",
            "--driver",
            *(clips / name for name in ("a.mp4", "b.mp4")),
            "--resume",
        ]
        how = ["--perceptual", "pyramid", "--device", "cpu", "--max-frames", 2, "--preview", "off", "--output", person]
        assert run_transfer(monkeypatch, *arguments, "--model", model_file, *how, *(more or ("--adapt", 1))) == 0
        return capfd.readouterr().out

    assert adapted("one").count("adapting: runs/adapt-me\n") == 2  # for each driver
    made = Path("runs/adapt-me/model.safetensors").stat().st_mtime_ns
    assert adapted("other").count("adapting: runs/adapt-me-2\n") == 2
    for result in Path("one").glob("*-as-*.mp4"):
        result.unlink()
    adapted("one")
    assert Path("runs/adapt-me/model.safetensors").stat().st_mtime_ns == made
    for result in Path("one").glob("*-as-*.mp4"):
        result.unlink()
    assert "adapting: runs/adapt-me-3\n" in adapted("one", "--adapt", 1, "--crop", "none")


def test_a_transfer_goes_on_with_the_same_motion_alone(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], clips: Path, model_file: Path, tmp_path: Path
) -> None:
    motion = tmp_path / "motion.safetensors"
    arguments = arguments_for(clips, model_file, tmp_path / "first")
    assert run_transfer(monkeypatch, *arguments, "--save-motion", motion, "--preview", "off") == 0
    arguments = [*arguments_for(clips, model_file, tmp_path / "out"), "--preview", "off", "--driver", motion]
    interrupt(monkeypatch, *arguments)
    saved, size = load_motion(motion), motion.stat().st_size
    save_motion(motion, saved._replace(xy=saved.xy + 0.1))
    assert motion.stat().st_size == size
    capfd.readouterr()
    assert run_transfer(monkeypatch, *arguments, "--resume") == 2
    assert "out: begun with contents of --driver " in capfd.readouterr().err


def test_a_finished_result_of_something_older_is_not_taken_for_this_one(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], clips: Path, model_file: Path, tmp_path: Path
) -> None:
    driver = Path(shutil.copy(clips / "b.mp4", tmp_path / "b.mp4"))
    arguments = [*arguments_for(clips, model_file, tmp_path / "out.mp4"), "--preview", "off", "--driver", driver]
    arguments += ["--max-frames", 2, "--resume"]
    assert run_transfer(monkeypatch, *arguments) == run_transfer(monkeypatch, *arguments) == 0
    assert "already there" in capfd.readouterr().out
    made = (tmp_path / "out.mp4").read_bytes()
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert str(tmp_path) not in container.metadata["comment"]  # whoever gets the file learns nothing of the disk
        assert "generated" in container.metadata["description"]
    os.utime(driver)  # as a copy on another machine is newer
    assert run_transfer(monkeypatch, *arguments) == 0
    for other, named in (
        (["--motion", "absolute"], "--motion"),
        (["--sound", "none"], "--sound"),
        (["--src", driver], "contents of --src"),
        (["--max-frames", 3], "--max-frames"),
    ):
        assert run_transfer(monkeypatch, *arguments, *other) == 2
        assert f"out.mp4: made with other {named}; remove it" in capfd.readouterr().err
    shutil.copy(clips / "a.mp4", driver)
    assert run_transfer(monkeypatch, *arguments) == 2
    assert "made with other contents of --driver; remove it" in capfd.readouterr().err
    assert (tmp_path / "out.mp4").read_bytes() == made
    with av.open(str(clips / "b.mp4")) as read, av.open(str(tmp_path / "out.mp4"), "w") as write:
        write.add_stream_from_template(read.streams.video[0])  # as an earlier version wrote it, without a note
        write.mux(packet for packet in read.demux(video=0) if packet.dts is not None)
    os.utime(driver, (2e9, 2e9))
    assert run_transfer(monkeypatch, *arguments) == 2
    assert f"out.mp4: older than {driver}" in capfd.readouterr().err
    driver.unlink()
    assert run_transfer(monkeypatch, *arguments) == 0


@pytest.mark.parametrize("name", ["out.webm", "out.gif", "out.webp", "out.apng", "out"])
def test_every_kind_of_result_says_what_it_was_made_with(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    clips: Path,
    model_file: Path,
    tmp_path: Path,
    name: str,
) -> None:
    arguments = [*arguments_for(clips, model_file, tmp_path / name), "--max-frames", 3, "--resume"]
    assert run_transfer(monkeypatch, *arguments) == run_transfer(monkeypatch, *arguments, "--start", 0.0) == 0
    assert "already there" in capfd.readouterr().out
    for other, path in (("--smooth", tmp_path / name), ("--preview=edges", tmp_path / "out-preview.mp4")):
        assert run_transfer(monkeypatch, *arguments, other) == 2
        assert f"{path}: made with other {other.split('=')[0]}; remove it" in capfd.readouterr().err
    with open_frames(tmp_path / name) as frames:
        assert len(list(frames)) == (1 if name == "out.webp" else 3)  # of frames that look alike, WebP keeps one
    (tmp_path / "out-preview.mp4").unlink()
    assert run_transfer(monkeypatch, *arguments) == (2 if name == "out" else 0)
    assert (tmp_path / "out-preview.mp4").exists() == (name != "out")
