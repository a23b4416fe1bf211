"""`autolink evaluate` promises: the published protocol, one model or several seeds, and one line for a mistake."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from autolink import AutoLink
from autolink.cli import main
from autolink.data import benchmarks
from autolink.data.folder import ImageFiles
from autolink.metrics import PROTOCOLS, Labelled

JOINTS = 18


def run(monkeypatch, capsys, *arguments: object) -> dict:
    monkeypatch.setattr(sys, "argv", ["autolink", "evaluate", *map(str, arguments)])
    main()
    return json.loads(capsys.readouterr().out)


def mistake(monkeypatch, capsys, *arguments: object) -> str:
    monkeypatch.setattr(sys, "argv", ["autolink", "evaluate", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        main()
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert stopped.value.code == 2 and len(errors) == 1
    return errors[0]


@pytest.fixture
def landmark_folder(tmp_path) -> Path:
    """20 images to fit on, 6 to judge on; 18 landmarks, some unknown."""
    root, rng = tmp_path / "landmarks", np.random.default_rng(0)
    for split, count in (("train", 20), ("val", 6)):
        (root / split).mkdir(parents=True)
        rows = ["file,width,height," + ",".join(f"{axis}{i}" for i in range(JOINTS) for axis in "xy")]
        for i in range(count):
            Image.fromarray(rng.integers(0, 255, (64, 80, 3), dtype=np.uint8)).save(root / split / f"{i}.png")
            marks = rng.uniform(15, 60, (JOINTS, 2))
            known = rng.random(JOINTS) > 0.2 if i % 2 else np.ones(JOINTS, bool)
            fields = [f"{v:.1f}" if k else "" for mark, k in zip(marks, known) for v in mark]
            rows.append(f"{i}.png,80,64," + ",".join(fields))
        (root / f"{split}_landmarks.csv").write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture
def seeds(tiny, tmp_path) -> list[Path]:
    """Three run folders, as of three seeds."""
    folders = []
    for seed in range(3):
        torch.manual_seed(seed)
        model = AutoLink(tiny.config).eval()
        for parameter in model.parameters():
            parameter.data += torch.randn_like(parameter) * 0.05
        folders.append(tmp_path / f"seed{seed}")
        model.save_pretrained(folders[-1] / "model.safetensors", {"data": "none"})
    return folders


def read_csv(path: Path) -> torch.Tensor:
    """(N, L, 2) in the frame of the centre square of 80 x 64 images."""
    marks = np.genfromtxt(path, delimiter=",", skip_header=1)[:, 3:].reshape(-1, JOINTS, 2)
    return torch.from_numpy(((marks - [8, 0]) / 64 * 2 - 1).astype(np.float32))


def test_scores_are_those_of_the_protocol_on_detected_keypoints(monkeypatch, capsys, tiny, tiny_file, landmark_folder):
    parts = []
    for split, count in (("train", 20), ("val", 6)):
        files = sorted(str(i) for i in range(count))
        images = [Image.open(landmark_folder / split / f"{file}.png").crop((8, 0, 72, 64)) for file in files]
        marks = read_csv(landmark_folder / f"{split}_landmarks.csv")
        parts.append(Labelled(tiny.detect(images).xy, marks[[int(file) for file in files]]))
    report = run(monkeypatch, capsys, "--model", tiny_file, "--data", landmark_folder)
    assert report["protocol"] == "cub" and report["published"] == "error_percent_without_bias"
    assert report["normalised_by"] == "side of the image" and "top left" in report["frame"]
    for bias, ending in ((True, "with_bias"), (False, "without_bias")):
        assert report[f"error_percent_{ending}"] == pytest.approx(PROTOCOLS["cub"].score(*parts, bias), abs=0.01)
    shape = parts[0].landmarks.nanmean(0)
    mean_shape = (parts[1].landmarks - shape).norm(dim=-1).nanmean().item() / 2 * 100
    assert report["error_percent_of_mean_shape"] == pytest.approx(mean_shape, abs=0.01)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_benchmark_is_judged_by_its_protocol(monkeypatch, capsys, tiny_file, tmp_path, protocol):
    """The splits that it is asked for are "fit" and "test", and the published number is the protocol's."""
    count = {"interocular": 5, "h36m": 32}.get(protocol, JOINTS)
    rng, opened = np.random.default_rng(1), []
    for i in range(20):
        Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")

    def open_some(root: Path, image_size: int, split: str) -> ImageFiles:
        opened.append(split)
        files = [f"{i}.png" for i in (range(14) if split == "fit" else range(14, 20))]
        landmarks = np.random.default_rng(len(opened)).uniform(0, 64, (len(files), count, 2)).astype(np.float32)
        return ImageFiles("made", tmp_path, files, image_size, landmarks=landmarks)

    made = replace(benchmarks.BENCHMARKS["afhq"], open=open_some, missing=lambda _: None, protocol=protocol)
    monkeypatch.setitem(benchmarks.BENCHMARKS, "afhq", made)
    report = run(monkeypatch, capsys, "--model", tiny_file, "--data", "afhq", "--data-root", tmp_path)
    assert sorted(opened) == ["fit", "test"]
    assert report["protocol"] == protocol and report["train_images"] == 14 and report["test_images"] == 6
    expected = {"pck": "correct_percent_without_bias", "taichi": "error_pixels_with_bias"}
    assert report["published"] == expected.get(protocol, "error_percent_without_bias")
    assert isinstance(report[report["published"]], float)


def test_data_without_landmarks_say_how_steady_keypoints_are(monkeypatch, capsys, tiny_file, tmp_path):
    for i in range(20):
        pixels = np.random.default_rng(i).integers(0, 255, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((64, 64), Image.Resampling.BICUBIC).save(tmp_path / f"picture{i}.png")
    report = run(monkeypatch, capsys, "--model", tiny_file, "--data", tmp_path)
    assert report["warped_images"] == 2 and 0 < report["repeatability_percent"] < 50  # a tenth is held out
    assert report["connected_percent"] == 100 and "protocol" not in report  # all weights begin alike


def test_runs_give_each_and_mean_and_sample_deviation(monkeypatch, capsys, seeds, landmark_folder):
    report = run(monkeypatch, capsys, "--runs", *seeds, "--data", landmark_folder)
    single = [run(monkeypatch, capsys, "--model", seed, "--data", landmark_folder) for seed in seeds]
    assert report["runs"] == single and report["protocol"] == "cub"
    for key in ("error_percent_with_bias", "error_percent_without_bias", "error_percent_of_mean_shape"):
        values = [each[key] for each in single]
        assert report["mean"][key] == pytest.approx(sum(values) / 3, abs=0.01)
        assert report["standard_deviation"][key] == pytest.approx(np.std(values, ddof=1), abs=0.011)
    assert report["standard_deviation"]["error_percent_with_bias"] > 0.02
    assert report["standard_deviation"]["error_percent_of_mean_shape"] == 0


def test_one_run_has_no_deviation(monkeypatch, capsys, seeds, landmark_folder):
    report = run(monkeypatch, capsys, "--runs", seeds[0], "--data", landmark_folder)
    assert set(report["standard_deviation"].values()) == {None}
    assert report["mean"]["error_percent_with_bias"] == report["runs"][0]["error_percent_with_bias"]


def test_mistakes_get_one_line(monkeypatch, capsys, tiny, tiny_file, seeds, landmark_folder, tmp_path):
    data = ("--data", landmark_folder)
    assert "both --model and --runs" in mistake(monkeypatch, capsys, "--model", tiny_file, "--runs", seeds[0], *data)
    assert "neither --model nor --runs" in mistake(monkeypatch, capsys, *data)
    assert "seed9" in mistake(monkeypatch, capsys, "--runs", seeds[0], tmp_path / "seed9", *data)
    other = AutoLink(replace(tiny.config, keypoints=5)).save_pretrained(tmp_path / "five.safetensors", {"data": "none"})
    line = mistake(monkeypatch, capsys, "--runs", seeds[0], other, *data)
    assert "seed0 has 4" in line and "five.safetensors has 5" in line
