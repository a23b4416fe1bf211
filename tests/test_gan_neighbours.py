"""Samples beside their closest training images: copies and collapse show, on a tiny model through the real command."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from gan_runs import Colours, tiny_gan, write_images
from PIL import Image

from autolink import cli
from autolink.data import open_data
from autolink_apps.gan import neighbours
from autolink_apps.gan.metrics import nearest
from autolink_apps.gan.neighbours import closer, closest, sample_at_poses_of


def test_nearest_by_hand() -> None:
    distances, indices = nearest(torch.tensor([[0.0, 0], [3, 4]]), torch.tensor([[3.0, 4], [0, 1], [6, 8]]), 2)
    assert distances.tolist() == [[1, 5], [0, 18**0.5]] and indices.tolist() == [[1, 0], [0, 1]]


def test_share_of_pairs_by_hand() -> None:
    assert closer(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 3.0])) == (2 + 0 + 0.5) / 4
    same = torch.rand(50)
    assert closer(same, same) == 0.5


def test_copies_are_found_wherever_they_are_in_the_data(tmp_path: Path) -> None:
    data = open_data(str(write_images(tmp_path / "images", 50)), 32, "train")
    wanted = [0, len(data) - 1, 7]
    copies = torch.stack([data[number].image for number in wanted]).float() / 255
    others = torch.rand(3, 3, 32, 32)
    found, far = closest(data, Colours(), copies, others)
    assert found.indices[:, 0].tolist() == wanted and found.distances[:, 0].max() == 0
    assert closer(found.distances[:, 0], far.distances[:, 0]) == 1
    assert neighbours.summary(found, data)["closest"] == [data[number].name for number in wanted]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def call(*arguments: object) -> None:
        given = ["autolink-sample", "neighbours", "--output", tmp_path / "out", *arguments]
        monkeypatch.setattr(sys, "argv", list(map(str, given)))
        monkeypatch.setattr(neighbours, "open_features", lambda *_: Colours())
        cli.sample()

    return call


def test_the_command_shows_samples_in_the_poses_of_held_out_images(run, tmp_path: Path, capsys) -> None:
    images = write_images(tmp_path / "images", 40)
    gan = tiny_gan()
    gan.save_pretrained(tmp_path / "model", {"options": {"data": str(images)}})
    run("--model", tmp_path / "model", "--samples", 3, "--seed", 1)
    assert f"no --data given: using '{images}'" in capsys.readouterr().err
    training, held_out = (open_data(str(images), 32, part) for part in ("train", "val"))
    count = min(3, len(held_out))
    report = json.loads((tmp_path / "out/neighbours.json").read_text())
    assert report["training_images"] == len(training) and report["held_out"]["count"] == count
    shown = np.asarray(Image.open(tmp_path / "out/neighbours.png"))
    strip = 2 * (3 * 34 - 2 + 4)
    assert shown.shape == (count * (32 + 8) - 8, 2 * strip + 8, 3)

    real = torch.stack([held_out[n * len(held_out) // count].image for n in range(count)])
    made = sample_at_poses_of(gan, real.float() / 255, seed=1, truncation=1.0)
    assert np.abs(shown[:32, :32] / 255 - made[0].permute(1, 2, 0).numpy()).max() < 0.01
    assert np.array_equal(shown[:32, strip // 2 : strip // 2 + 32], real[0].permute(1, 2, 0).numpy())
    looked = {sample.name: sample.image for sample in (training[n] for n in range(len(training)))}
    nearest_one = looked[report["samples"]["closest"][0]].permute(1, 2, 0).numpy()
    assert np.array_equal(shown[:32, 34:66], nearest_one)
    suspect = int(np.argmin(report["samples"]["distances"]))
    worst = made[suspect].permute(1, 2, 0).numpy()
    assert np.abs(shown[:32, strip + 8 : strip + 40] / 255 - worst).max() < 0.01


def test_mistakes_give_one_line(run, tmp_path: Path, capsys) -> None:
    model = tiny_gan().save_pretrained(tmp_path / "model")
    write_images(tmp_path / "one", 3)
    for arguments, said in (
        (("--samples", 0), "--samples 0"),
        ((), "does not say on which images"),
        (("--data", tmp_path / "nowhere"), "no such file or folder"),
    ):
        with pytest.raises(SystemExit) as stopped:
            run("--model", model, *arguments)
        error = capsys.readouterr().err
        assert stopped.value.code == 2 and said in error and "Traceback" not in error
    assert not (tmp_path / "out").exists()
