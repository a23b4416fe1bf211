"""`autolink-transfer` on clips made here."""

from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transfer_files import (
    TIMES,
    arguments_for,
    pictures,
    run_transfer,
    tiny_model,
    write_autolink,
    write_clips,
    write_model,
)

from autolink.images import square
from autolink.video import open_frames, write_video
from autolink_apps.pose_transfer import PoseTransfer, casting
from autolink_apps.pose_transfer.composing import Sketch


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def autolink_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_autolink(tmp_path_factory.mktemp("autolink"))


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".apng"])
def test_animations_drive_and_are_written(
    monkeypatch: pytest.MonkeyPatch, clips: Path, model_file: Path, tmp_path: Path, suffix: str
) -> None:
    times = [Fraction(t, 100) for t in (0, 4, 12, 24, 28)]
    with open_frames(clips / "a.mp4") as frames:
        write_video(tmp_path / f"driver{suffix}", (f._replace(time=t) for f, t in zip(frames, times)), 25)
    arguments = ["--src", clips / "a.mp4", "--driver", tmp_path / f"driver{suffix}", "--model", model_file]
    output = tmp_path / f"out{suffix}"
    assert run_transfer(monkeypatch, *arguments, "--output", output, "--preview", "off", "--device", "cpu") == 0
    with open_frames(output) as result:
        found = [frame.time for frame in result]
    # An untrained model paints frames that look alike; a WebP shows the first of such for longer.
    assert found == times if suffix != ".webp" else (found[0] == 0 and set(found) <= set(times))


def test_result_keeps_the_drivers_times_and_sound(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], clips: Path, model_file: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.mp4"
    assert run_transfer(monkeypatch, *arguments_for(clips, model_file, output)) == 0
    said = capsys.readouterr().out
    assert "reference: frame" in said and "source: frame" in said and str(model_file) in said
    assert said.splitlines()[-2:] == [str(output), str(tmp_path / "out-preview.mp4")]
    with open_frames(clips / "b.mp4") as driver, open_frames(output) as result:
        assert [frame.time for frame in result] == [frame.time for frame in driver] == TIMES
        assert (result.width, result.height) == (40, 40) and result.has_audio  # the source's square
    with open_frames(tmp_path / "out-preview.mp4") as preview:
        frames = list(preview)
        assert (preview.width, preview.height) == (4 * 32, 32) and preview.has_audio
        assert len(frames) == len(TIMES)
        sources = np.stack([frame.image[:, :32] for frame in frames]).astype(float)
        drivers = np.stack([frame.image[:, 32:64] for frame in frames]).astype(float)
        assert sources.std(0).mean() < 3 < drivers.std(0).max()  # the source rests, the driver moves
    assert {path.name for path in tmp_path.iterdir()} == {"out.mp4", "out-preview.mp4"}  # no leftovers


def test_result_is_what_the_parts_make(
    monkeypatch: pytest.MonkeyPatch, clips: Path, model_file: Path, tmp_path: Path
) -> None:
    """One batch by hand: absolute motion, first frames, no streaming."""
    arguments = arguments_for(clips, model_file, tmp_path / "out.mp4")
    arguments += [
        "--crop",
        "none",
        "--motion",
        "absolute",
        "--source-frame",
        "first",
        "--preview",
        "off",
        "--sound",
        "none",
    ]
    assert run_transfer(monkeypatch, *arguments) == 0

    def squares(path: Path, size: int) -> torch.Tensor:
        with open_frames(path) as frames:
            images = np.stack([square(Image.fromarray(frame.image), size) for frame in frames])
        return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255

    model = PoseTransfer.from_pretrained(model_file)
    source, driver = squares(clips / "a.mp4", 40)[:1], squares(clips / "b.mp4", 32)
    with torch.no_grad():
        expected = model.transfer(source, model.autolink.detect(source).xy, model.autolink.detect(driver).xy)
    with open_frames(tmp_path / "out.mp4") as result:
        assert not result.has_audio
        found = np.stack([frame.image for frame in result]) / 255
    assert np.abs(found - expected.permute(0, 2, 3, 1).numpy()).mean() < 0.02  # H.264 and bf16
    assert not (tmp_path / "out-preview.mp4").exists()


def test_a_clip_drives_itself_by_relative_as_by_absolute_motion(
    monkeypatch: pytest.MonkeyPatch, clips: Path, model_file: Path, tmp_path: Path
) -> None:
    made = []
    for motion in ("relative", "absolute"):
        arguments = ["--src", clips / "b.mp4", "--driver", clips / "b.mp4", "--model", model_file, "--motion", motion]
        arguments += ["--source-frame", 3, "--reference", 3, "--preview", "off", "--output", tmp_path / f"{motion}.mp4"]
        assert run_transfer(monkeypatch, *arguments) == 0
        with open_frames(tmp_path / f"{motion}.mp4") as result:
            made.append(np.stack([frame.image for frame in result]).astype(float))
    assert np.abs(made[0] - made[1]).max() <= 2


def test_image_source_padding_and_limits(
    monkeypatch: pytest.MonkeyPatch, clips: Path, model_file: Path, tmp_path: Path
) -> None:
    with open_frames(clips / "b.mp4") as frames:
        Image.fromarray(next(iter(frames)).image).save(tmp_path / "portrait.png")  # 40×60
    monkeypatch.chdir(tmp_path)
    arguments = ["--src", "portrait.png", "--driver", clips / "b.mp4", "--model", model_file, "--fit", "pad"]
    assert run_transfer(monkeypatch, *arguments, "--max-frames", 5, "--reference", "first", "--smooth") == 0
    with open_frames(tmp_path / "portrait-as-b.mp4") as result:
        assert [frame.time for frame in result] == TIMES[:5]
        assert (result.width, result.height) == (40, 60)  # as the source
    with open_frames(tmp_path / "portrait-as-b-preview.mp4") as preview:
        assert (preview.width, preview.height) == (128, 32)


def test_out_of_memory_halves_the_batch_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, clips: Path, model_file: Path, tmp_path: Path
) -> None:
    options = ["--preview", "off", "--precision", "float32", "--max-frames", 6]
    assert run_transfer(monkeypatch, *arguments_for(clips, model_file, tmp_path / "whole"), *options) == 0
    sketch = PoseTransfer.sketch

    def hungry(model: PoseTransfer, source: object, keypoints: torch.Tensor, *others: object) -> Sketch:
        if len(keypoints) > 1:
            raise torch.OutOfMemoryError("no more")
        return sketch(model, source, keypoints, *others)

    monkeypatch.setattr(PoseTransfer, "sketch", hungry)
    assert run_transfer(monkeypatch, *arguments_for(clips, model_file, tmp_path / "spared"), *options) == 0
    assert "out of memory with 4 frames at a time; going on with 2" in caplog.text
    difference = np.abs(pictures(tmp_path / "whole").astype(int) - pictures(tmp_path / "spared"))
    assert len(difference) == 6 and difference.max() <= 1


def test_pasted_back_the_result_is_the_source_but_for_the_painted_square(
    monkeypatch: pytest.MonkeyPatch, clips: Path, model_file: Path, tmp_path: Path
) -> None:
    arguments = [*arguments_for(clips, model_file, tmp_path / "out"), "--preview", "off", "--crop", "none"]
    arguments += ["--paste-back", "--source-frame", 7, "--max-frames", 5]
    assert run_transfer(monkeypatch, *arguments) == 0
    found = pictures(tmp_path / "out")
    with open_frames(clips / "a.mp4") as frames:
        source = [frame.image for frame in frames][7]
    assert found.shape == (5, 40, 48, 3)
    assert (found[:, :, :4] == source[:, :4]).all() and (found[:, :, -4:] == source[:, -4:]).all()
    assert np.abs(found[:, 10:30, 14:34].astype(int) - source[10:30, 14:34]).mean() > 1


def test_a_running_source_is_matched_by_time_and_may_set_the_length(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], clips: Path, model_file: Path, tmp_path: Path
) -> None:
    arguments = [*arguments_for(clips, model_file, tmp_path / "out.mp4"), "--source-frame", "running", "--paste-back"]
    assert run_transfer(monkeypatch, *arguments, "--crop", "none") == 0
    assert "set by a.mp4, the source, which ends before the driver" in capsys.readouterr().out
    shorter = [time for time in TIMES if time < Fraction(20, 25)]  # a.mp4 has 20 frames of 1/25 s
    with open_frames(tmp_path / "out.mp4") as result, open_frames(clips / "a.mp4") as source:
        frames, behind = list(result), [frame.image.astype(int) for frame in source]
    assert [frame.time for frame in frames] == shorter
    for image, time in frames:
        right = image[:, -4:].astype(int)
        errors = [np.abs(right - candidate[:, -4:]).mean() for candidate in behind]
        assert errors[int(time * 25)] < min(errors) + 1  # resting columns look alike


def test_part_of_the_driver_with_its_sound_or_the_sources(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], clips: Path, model_file: Path, tmp_path: Path
) -> None:
    arguments = [
        *arguments_for(clips, model_file, tmp_path / "part.mp4"),
        "--preview",
        "off",
        "--source-frame",
        "first",
    ]
    assert run_transfer(monkeypatch, *arguments, "--start", 0.5, "--end", 2.5) == 0
    assert "set by --end" in capsys.readouterr().out
    kept = [time for time in TIMES if 0.5 <= time < 2.5]
    with open_frames(tmp_path / "part.mp4") as result:
        assert [frame.time for frame in result] == [time - kept[0] for time in kept] and result.has_audio
    for name, source in (("silent", "a.mp4"), ("sources", "b.mp4")):
        inputs = ["--src", clips / source, "--driver", clips / "a.mp4", "--model", model_file, "--preview", "off"]
        output = ["--max-frames", 3, "--sound", "source", "--output", tmp_path / f"{name}.mp4"]
        assert run_transfer(monkeypatch, *inputs, *output) == 0
    with open_frames(tmp_path / "silent.mp4") as silent, open_frames(tmp_path / "sources.mp4") as sources:
        assert not silent.has_audio and sources.has_audio


def test_a_saved_motion_drives_as_its_video_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], clips: Path, model_file: Path, tmp_path: Path
) -> None:
    saved = tmp_path / "actor.safetensors"
    arguments = [*arguments_for(clips, model_file, tmp_path / "filmed"), "--save-motion", saved, "--preview", "off"]
    assert run_transfer(monkeypatch, *arguments) == 0
    driven = ["--src", clips / "a.mp4", "--driver", saved, "--device", "cpu", "--batch-size", 4]
    assert run_transfer(monkeypatch, *driven, "--model", model_file, "--output", tmp_path / "saved") == 0
    assert np.array_equal(pictures(tmp_path / "saved"), pictures(tmp_path / "filmed"))
    times = [(tmp_path / name / "times.csv").read_text() for name in ("saved", "filmed")]
    assert times[0] == times[1]
    with open_frames(tmp_path / "saved-preview.mp4") as preview:
        assert preview.width == 3 * 32  # source | edge map | result
    other = tiny_model()
    with torch.no_grad():
        next(other.autolink.parameters()).mul_(1.5)
    foreign = other.save_pretrained(tmp_path / "other.safetensors")
    capsys.readouterr()
    assert run_transfer(monkeypatch, *driven, "--model", foreign, "--output", tmp_path / "foreign") == 2
    assert "keypoints of another AutoLink" in capsys.readouterr().err


def test_all_pairs_of_several_inputs_and_one_bad_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], clips: Path, model_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "bad.mp4").write_text("not a video")
    loads = []
    load = PoseTransfer.from_pretrained
    monkeypatch.setattr(PoseTransfer, "from_pretrained", lambda *args: loads.append(args) or load(*args))
    arguments = ["--src", clips / "a.mp4", tmp_path / "bad.mp4", clips / "b.mp4", "--driver", clips / "b.mp4"]
    arguments += [clips / "a.mp4", "--model", model_file, "--max-frames", 2, "--preview", "off", "--device", "cpu"]
    arguments += ["--output", tmp_path / "all"]
    assert run_transfer(monkeypatch, *arguments) == 2
    made = {path.name for path in (tmp_path / "all").iterdir()}
    assert made == {"a-as-b.mp4", "a-as-a.mp4", "b-as-b.mp4", "b-as-a.mp4"} and len(loads) == 1
    said = capsys.readouterr()
    errors = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert errors == ["error: 2 of 6 transfers failed: bad.mp4 as b.mp4, bad.mp4 as a.mp4"]
    assert said.err.count("failed: bad.mp4 as") == 3
    assert run_transfer(monkeypatch, *arguments, "--resume") == 2
    assert capsys.readouterr().out.count("already there") == 4


@pytest.mark.parametrize("option, module, folder", [("--adapt", "adapt", "adapt-a"), ("--learn", "learn", "learn-a-b")])
def test_a_model_is_made_before_if_wanted(
    option: str, module: str, folder: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    clips: Path, model_file: Path, tmp_path: Path,
) -> None:  # fmt: skip
    """The training itself has tests of its own; here: it is asked for what was wanted, and its model is used."""
    asked = {}

    def make(*given: object, **named: object) -> Path:
        asked.update(given=given, inference=torch.is_inference_mode_enabled(), **named)
        made = tiny_model()
        torch.nn.init.zeros_(made.network.to_image.weight)
        return made.save_pretrained(tmp_path / "made.safetensors")

    name = f"autolink_apps.pose_transfer.{module}"
    monkeypatch.setitem(sys.modules, name, SimpleNamespace(**{module: make, "IMAGE_SIZE": 32}))
    monkeypatch.chdir(tmp_path)
    arguments = ["--src", clips / "a.mp4", "--driver", clips / "b.mp4", "--device", "cpu", "--max-frames", 2, option, 7]
    arguments += ["--model", model_file] if option == "--adapt" else []
    assert run_transfer(monkeypatch, *arguments) == 0
    assert Path("runs") / folder in asked["given"] and 7 in asked["given"] and clips / "a.mp4" in asked["given"]
    assert asked["device"] == "cpu" and not asked["resume"] and not asked["inference"]
    said = capsys.readouterr().out
    assert f"runs/{folder}" in said and f"model: {tmp_path / 'made.safetensors'}" in said
    if option == "--adapt":
        frame = np.random.default_rng(0).integers(0, 255, (40, 48, 3), dtype=np.uint8)
        assert np.array_equal(asked["cut"](0, frame), np.asarray(square(Image.fromarray(frame), 32)))


def test_uncertain_keypoints_are_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, clips: Path, model_file: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(casting, "LOW_CONFIDENCE", 1.1)
    assert run_transfer(monkeypatch, *arguments_for(clips, model_file, tmp_path / "out.mp4")) == 0
    assert "uncertain keypoints in 20 of 20 frames" in caplog.text


WRONG = {
    "missing source": ("--src", "nowhere.mp4", "nowhere.mp4"),
    "missing driver": ("--driver", "nowhere.mp4", "nowhere.mp4"),
    "text as source": ("--src", "text.txt", "text.txt"),
    "text as driver": ("--driver", "text.mp4", "text.mp4"),
    "empty folder": ("--driver", "empty", "empty"),
    "truncated video": ("--driver", "truncated.mp4", "truncated.mp4"),
    "no model": ("--model", "nothing", "nothing"),
    "damaged model": ("--model", "damaged.safetensors", "damaged.safetensors"),
    "model of another task": ("--model", "autolink.safetensors", "pose-transfer"),
    "no such frame": ("--reference", "99", "20 frames"),
    "no frame at all": ("--source-frame", "best", "best"),
    "input as output": ("--output", "b.mp4", "is an input"),
    "link to an input as output": ("--output", "linked.mp4", "is an input"),
    "input as motion": ("--save-motion", "linked.mp4", "is an input"),
    "unknown suffix": ("--output", "out.avi", "mp4"),
    "no batch": ("--batch-size", "0", "--batch-size"),
    "a size below the network's": ("--size", "16", "--size 16: the model paints 32x32; expected 32 or more"),
    "end before start": ("--end", "0", "--end 0: give a number above 0"),
    "beyond the end": ("--start", "99", "no frame of it"),
    "learned and given": ("--learn", "5", "leave out --model"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_input_is_one_line(
    what: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], clips: Path, model_file: Path,
    autolink_file: Path, tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    video = (clips / "b.mp4").read_bytes()
    Path("b.mp4").write_bytes(video)
    Path("linked.mp4").hardlink_to("b.mp4")
    Path("truncated.mp4").write_bytes(video[: len(video) // 2])
    Path("text.txt").write_text("not a video")
    Path("text.mp4").write_text("not a video")
    Path("empty").mkdir()
    Path("damaged.safetensors").write_bytes(model_file.read_bytes()[:-100])
    Path("autolink.safetensors").write_bytes(autolink_file.read_bytes())
    option, value, named = WRONG[what]
    arguments = {"--src": clips / "a.mp4", "--driver": "b.mp4", "--model": model_file, "--output": "out.mp4"}
    arguments[option] = value
    assert run_transfer(monkeypatch, *(part for pair in arguments.items() for part in pair)) == 2
    lines = capfd.readouterr().err.replace("\r", "\n").splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1 and named in errors[0]
    assert not any("Traceback" in line for line in lines)
    assert Path("b.mp4").read_bytes() == video and not Path("out.mp4").exists()
