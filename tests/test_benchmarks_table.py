"""The table promises: every benchmark is found or said to be missing, and its values are what training uses."""

from __future__ import annotations

import json
import logging
import sys

import pytest
import torch
from data_files import dots, one_line, picture
from scipy.io import savemat

from autolink.cli import main
from autolink.data import list_data, open_data
from autolink.data.benchmarks import BENCHMARKS
from autolink.errors import UserError
from autolink.learner.images import random_flip
from autolink.learner.options import with_recommendations
from autolink.train import Options, train

pytestmark = pytest.mark.usefixtures("own_data_only")


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_says_what_is_missing(tmp_path, name):
    """Nothing on disk, an empty folder of its name, no data root: each is one line with source, terms and layout."""
    row = BENCHMARKS[name]
    (tmp_path / "empty").mkdir()
    (tmp_path / "begun" / name).mkdir(parents=True)
    for root, status in (
        ("empty", "missing: no folder "),
        ("begun", f"incomplete: {tmp_path / 'begun' / name} has no "),
    ):
        with pytest.raises(UserError) as error:
            open_data(name, 16, data_root=tmp_path / root)
        one_line(error, name, status, row.source, row.terms, row.layout)
        line = next(line for line in list_data(tmp_path / root) if line.split()[0] == name)
        assert status in line and row.source in line and row.terms in line and "\n" not in line
    with pytest.raises(UserError, match=r"neither --data-root nor \$AUTOLINK_DATA is set"):
        open_data(name, 16)


def test_a_benchmark_is_described(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("AUTOLINK_DATA", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["autolink", "data", "celeba-wild"])
    main()
    facts = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert (facts["keypoints"], facts["thickness"], facts["protocol"]) == ("8", "0.0025", "interocular")
    assert (
        facts["status"].startswith("missing") and "stretched" in facts["crop"] and "0.00075 for K = 4" in facts["tuned"]
    )
    for arguments, expected in (
        (["mnist"], "error: 'mnist' is not a benchmark; these are: celeba-aligned"),
        (["celeba-wild", "b"], "Unrecognized options: b"),
    ):
        monkeypatch.setattr(sys, "argv", ["autolink", "data", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        assert stopped.value.code == 2 and expected in capsys.readouterr().err


def test_values_are_the_papers():
    """K of Tables 1 to 3 and Figures 9 to 23; σ² of Table 5, else the general 5e-5."""
    expected = {
        "celeba-aligned": (10, 5e-5),
        "celeba-wild": (8, 2.5e-3),
        "cub-aligned": (10, 5e-5),
        "cub-001": (4, 5e-5),
        "cub-all": (4, 5e-5),
        "flower": (32, 5e-5),
        "hands": (32, 5e-5),
        "horses": (32, 5e-5),
        "zebras": (32, 5e-5),
        "afhq": (32, 5e-5),
    }
    for name, values in expected.items():
        row = BENCHMARKS[name]
        assert (row.keypoints, row.thickness(row.keypoints)) == values, name
    assert {BENCHMARKS["celeba-wild"].thickness(k) for k in (4, 32)} == {7.5e-4}


def test_recommended_values_are_used_where_none_are_given(monkeypatch):
    monkeypatch.setattr("autolink.learner.options.on_processor", lambda: False)

    def decided(**given) -> tuple[int, float, bool]:
        options = with_recommendations(Options(**given))
        return options.keypoints, options.thickness, options.flip

    assert decided(data="celeba-wild") == (8, 2.5e-3, True)
    assert decided(data="celeba-wild", keypoints=4) == (4, 7.5e-4, True)
    assert decided(data="celeba-wild", keypoints=5, flip=False) == (5, 5e-5, False)
    assert decided(data="celeba-wild", thickness=1e-3) == (8, 1e-3, True)
    assert decided(data="photos/") == decided(data="synthetic") == (10, 5e-4, False)
    assert decided(data="photos/", keypoints=3, thickness=1e-2, flip=True) == (3, 1e-2, True)


def test_training_by_name_says_and_keeps_what_it_decided(tmp_path, caplog):
    for number in range(1, 7):
        picture(tmp_path / "flower" / "jpg" / f"image_{number:05}.jpg")
    savemat(tmp_path / "flower" / "setid.mat", {"trnid": [[1, 2]], "valid": [[3]], "tstid": [[4, 5, 6]]})
    size = dict(image_size=32, width=0.125, steps=1, batch_size=2)
    shared = dict(data="flower", data_root=tmp_path, perceptual="pyramid", mixed_precision="no", workers=0, **size)
    with caplog.at_level(logging.WARNING):
        train(Options(output=tmp_path / "run", **shared))
    assert any("--keypoints 32 --thickness 5e-05 --flip" in message for message in caplog.messages)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["keypoints"], config["thickness"], config["flip"]) == (32, 5e-5, True)
    caplog.clear()
    given = dict(keypoints=3, thickness=1e-2, flip=False)
    train(Options(output=tmp_path / "given", **shared, **given))
    assert not any("of the paper" in message for message in caplog.messages)


def test_flips_are_of_half_of_the_images_and_repeatable():
    images = torch.rand(64, 3, 4, 4)
    flipped = random_flip(images, torch.Generator().manual_seed(0))
    mirrored = [torch.equal(a, b.flip(-1)) for a, b in zip(flipped, images, strict=True)]
    same = [torch.equal(a, b) for a, b in zip(flipped, images, strict=True)]
    assert all(a != b for a, b in zip(mirrored, same, strict=True)) and 20 < sum(mirrored) < 44
    assert torch.equal(flipped, random_flip(images, torch.Generator().manual_seed(0)))


def test_a_name_is_looked_up_where_the_command_is_called_too(tmp_path, monkeypatch):
    for folder in ("trainA", "testA"):
        dots(tmp_path / "horse2zebra" / folder / "a.jpg", (32, 32), {0: (8, 8)}, 3)
    monkeypatch.chdir(tmp_path)
    assert len(open_data("horses", 16)) == 1
    (tmp_path / "elsewhere").mkdir()
    assert len(open_data("horses", 16, data_root=tmp_path / "elsewhere")) == 1
    monkeypatch.chdir(tmp_path / "horse2zebra")
    assert len(open_data("horses", 16)) == 1
