"""The commands as a user types them: real files in, files out, and one line for every mistake."""

import csv
import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import autolink
from autolink.cli import COMMANDS, main
from autolink.commands import detect, evaluate
from autolink.video import VideoReader, write_video


def run(monkeypatch, *arguments):
    """Run `autolink ...` in this process."""
    monkeypatch.setattr(sys, "argv", ["autolink", *map(str, arguments)])
    main()


def mistake(monkeypatch, capsys, *arguments) -> str:
    """Run `autolink ...`, which must fail with status 2 and one line on stderr; returns that line."""
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, *arguments)
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert stopped.value.code == 2 and len(errors) == 1
    return errors[0]


@pytest.fixture
def picture(tmp_path) -> Path:
    path = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 64, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def clip(tmp_path) -> Path:
    frames = np.random.default_rng(1).integers(0, 255, (7, 48, 64, 3), dtype=np.uint8)
    write_video(tmp_path / "clip.mp4", frames, Fraction(30000, 1001))
    return tmp_path / "clip.mp4"


def test_detect_writes_table_arrays_and_overlays(monkeypatch, tiny_file, picture, clip, tmp_path, capsys):
    out = tmp_path / "out"
    run(monkeypatch, "detect", "--model", tiny_file, "--output", out, "--batch-size", "3", picture, clip)
    assert "8 frames" in capsys.readouterr().out
    rows = list(csv.DictReader((out / "keypoints.csv").open()))
    arrays = np.load(out / "keypoints.npz")
    assert arrays["keypoints"].shape == (8, 4, 2) and arrays["confidence"].shape == (8, 4)
    assert arrays["edges"].tolist() == [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]
    assert [int(row["frame"]) for row in rows] == [0, *range(7)]
    assert float(rows[2]["time"]) == pytest.approx(1001 / 30000, abs=1e-5)
    assert float(rows[0]["x1"]) == pytest.approx(arrays["keypoints"][0, 1, 0], abs=1e-3)

    image = torch.from_numpy(np.array(Image.open(picture))).permute(2, 0, 1)[None] / 255
    found = autolink.load(tiny_file).detect(image)
    expected = (found.xy[0].numpy() + 1) / 2 * [64, 80]
    assert np.allclose(arrays["keypoints"][0], expected, atol=1e-3)

    assert Image.open(out / "overlays" / "picture.png").size == (64, 80)
    with VideoReader(out / "overlays" / "clip.mp4") as video:
        assert (video.width, video.height, len(list(video))) == (64, 48, 7)


def test_detect_takes_folders_and_keeps_equal_names_apart(monkeypatch, tiny_file, picture, tmp_path):
    for name in ("a/x.png", "a/x.jpg", "b/x.png"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.open(picture).save(path)
    run(monkeypatch, "detect", "--model", tiny_file, "--output", tmp_path / "out", tmp_path / "images")
    written = sorted(p.relative_to(tmp_path / "out/overlays").as_posix() for p in (tmp_path / "out").rglob("*.png"))
    assert written == ["a/x.png", "a/x_.png", "b/x.png"]


def test_detect_on_a_video_of_1000_frames_holds_few_of_them(tiny, tmp_path):
    class Frames:
        path, alive, most = tmp_path / "endless.mp4", 0, 0

        def __iter__(self):
            from autolink.video import VideoFrame

            for i in range(1000):
                yield VideoFrame(np.zeros((16, 16, 3), np.uint8), Fraction(i, 25))

    stream = detect.detect_stream(tiny, Frames(), batch_size=10)
    pulled = [next(stream).frame for _ in range(25)]
    assert pulled == list(range(25))  # no need to reach the end of the video to answer its start


def test_evaluate_on_landmarks(monkeypatch, capsys, tiny_file, landmark_folder):
    run(monkeypatch, "evaluate", "--model", tiny_file, "--data", landmark_folder)
    report = json.loads(capsys.readouterr().out)
    assert report["train_images"] == 12 and report["test_images"] == 6 and report["landmarks"] == 5
    assert report["normalised_by"] == "distance between eye centres"
    assert report["error_percent_with_bias"] > 0 and report["error_percent_of_mean_shape"] > 0


@pytest.fixture
def landmark_folder(tmp_path) -> Path:
    """A set in the layout of a landmark csv: 12 images to fit on, 6 to test on, five landmarks."""
    root = tmp_path / "landmarks"
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 6)):
        (root / split).mkdir(parents=True)
        rows = ["file,width,height," + ",".join(f"{axis}{i}" for i in range(5) for axis in "xy")]
        for i in range(count):
            Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(root / split / f"{i}.png")
            rows.append(f"{i}.png,64,64," + ",".join(f"{v:.1f}" for v in rng.uniform(5, 60, 10)))
        (root / f"{split}_landmarks.csv").write_text("\n".join(rows) + "\n")
    return root


def test_mean_shape_error_against_numpy(tiny_file, landmark_folder):
    rows = {
        split: np.loadtxt(landmark_folder / f"{split}_landmarks.csv", delimiter=",", skiprows=1, usecols=range(3, 13))
        for split in ("train", "val")
    }
    truth = rows["val"].reshape(-1, 5, 2)
    errors = np.linalg.norm(truth - rows["train"].mean(0).reshape(5, 2), axis=-1)
    eyes = np.linalg.norm(truth[:, 0] - truth[:, 1], axis=-1)
    expected = (errors / eyes[:, None]).mean() * 100
    report = evaluate.evaluate(evaluate.Options(model=str(tiny_file), data=str(landmark_folder)))
    assert report["error_percent_of_mean_shape"] == pytest.approx(expected, abs=0.02)


def test_info_prints_the_header(monkeypatch, capsys, tiny_file):
    run(monkeypatch, "info", tiny_file)
    assert json.loads(capsys.readouterr().out)["config"]["keypoints"] == 4


def test_help_names_every_command(monkeypatch, capsys):
    run(monkeypatch, "--help")
    printed = capsys.readouterr().out
    assert all(name in printed for name in COMMANDS)


def test_mistakes_get_one_line(monkeypatch, capsys, tiny_file, clip, tmp_path):
    text = tmp_path / "texts"
    text.mkdir()
    (text / "a.txt").write_text("no picture")
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(tiny_file.read_bytes()[:500])
    detect = ("detect", "--output", tmp_path / "out", "--model", tiny_file)
    assert "no such file" in mistake(monkeypatch, capsys, *detect, tmp_path / "nothing")
    assert "no pictures or videos" in mistake(monkeypatch, capsys, *detect, text)
    assert "cut.mp4" in mistake(monkeypatch, capsys, *detect, cut)
    assert "a.txt" in mistake(monkeypatch, capsys, *detect, text / "a.txt")
    assert "broken" in mistake(monkeypatch, capsys, "info", broken)
    assert "usage" in mistake(monkeypatch, capsys, "info")
    for absent in ("cuda:99", "abacus", "cpu:x"):
        assert f"--device {absent}" in mistake(monkeypatch, capsys, *detect, "--device", absent, clip)
        assert absent in mistake(
            monkeypatch, capsys, "evaluate", "--model", tiny_file, "--data", text, "--device", absent
        )
    assert "not a command" in mistake(monkeypatch, capsys, "frobnicate")
    assert "onnx" in mistake(monkeypatch, capsys, "export", "--model", tiny_file, "--output", tmp_path / "m.bin")
    assert "no model" in mistake(
        monkeypatch, capsys, "evaluate", "--model", tmp_path / "x.safetensors", "--data", "faces"
    )
    train = ("train", "--output", tmp_path / "run", "--perceptual", "pyramid")
    assert str(text) in mistake(monkeypatch, capsys, *train, "--data", text)
    assert "nothing" in mistake(monkeypatch, capsys, *train, "--data", tmp_path / "nothing")


def test_a_reader_that_stops_early_is_no_mistake(tiny_file):
    command = [Path(sys.executable).with_name("autolink"), "info", str(tiny_file)]
    done = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    done.stdout.close()
    assert done.stderr.read() == "" and done.wait(timeout=120) == 1


def test_the_installed_command_answers(tiny_file):
    command = Path(sys.executable).with_name("autolink")
    done = subprocess.run([command, "info", str(tiny_file)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and json.loads(done.stdout)["task"] == "autolink"
    done = subprocess.run([command, "info", "nowhere"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and "Traceback" not in done.stderr
