"""A sweep: every variant is trained once, an interrupted one ends as an unbroken one, and the table adds up."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autolink import UserError, train
from autolink.commands.sweep import SWEEPS, Cell, Options, _selected, _summary, _table, sweep
from autolink.errors import Stopped
from autolink.training import Diverged


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> Path:
    """Ten images to learn from and four to judge on, with two landmarks each."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for split, count in (("train", 10), ("val", 4)):
        (root / split).mkdir()
        rows = ["file,width,height,x0,y0,x1,y1"]
        for i in range(count):
            blobs = Image.fromarray(rng.integers(0, 255, (4, 4, 3), dtype=np.uint8))
            blobs.resize((32, 32), Image.Resampling.BICUBIC).save(root / split / f"{i}.png")
            rows.append(f"{i}.png,32,32," + ",".join(f"{v:.1f}" for v in rng.uniform(4, 28, 4)))
        (root / f"{split}_landmarks.csv").write_text("\n".join(rows) + "\n")
    return root


def options(faces: Path, output: Path, **changes) -> Options:
    settings = {
        **dict(data=str(faces), sweep="keypoints", only=("2", "4"), output=output, steps=2, batch_size=2),
        **dict(image_size=32, width=0.125, thickness=1e-2, perceptual="pyramid", mixed_precision="no", workers=0),
        **dict(log_every=1, sample_every=2, save_every=1),
    }
    return Options(**{**settings, **changes})


def records(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open() as file:
        return [{k: v for k, v in row.items() if k != "model"} for row in csv.DictReader(file)]


def test_an_interrupted_sweep_ends_as_an_unbroken_one(faces, tmp_path, monkeypatch):
    table = sweep(options(faces, tmp_path / "whole", only=("4",), seeds=2))
    calls, real = [], train.train

    def interrupted_in_the_second_run(given):
        calls.append(given)
        if len(calls) == 2:
            real(replace(given, steps=1))
            raise KeyboardInterrupt
        return real(given)

    monkeypatch.setattr(train, "train", interrupted_in_the_second_run)
    with pytest.raises(KeyboardInterrupt):
        sweep(options(faces, tmp_path / "broken", only=("4",), seeds=2))
    sweep(options(faces, tmp_path / "broken", only=("4",), seeds=2))
    assert [(call.keypoints, call.seed, call.resume) for call in calls] == [(4, 0, False), (4, 1, False), (4, 1, True)]
    assert records(tmp_path / "broken") == records(tmp_path / "whole")

    rows = records(tmp_path / "whole")
    assert [(row["row"], row["seed"], row["keypoints"]) for row in rows] == [("4", "0", "4"), ("4", "1", "4")]
    errors = [float(row[rows[0]["published"]]) for row in rows]
    mean, spread = np.mean(errors), np.std(errors, ddof=1)
    assert f"| 4 | {mean:.2f} ± {spread:.2f} (2) |" in table.read_text()
    for picture in ("plot.png", "samples.png"):
        assert Image.open(tmp_path / "whole" / picture).size[0] > 100

    calls.clear()
    sweep(options(faces, tmp_path / "whole", only=("4",), seeds=2))
    assert calls == []  # all is done


def test_a_sweep_that_a_signal_ends_says_how_it_goes_on(faces, tmp_path, monkeypatch):
    def stopped(given):
        raise Stopped(f"{given.output}: stopped after step 1 of 2, which is saved", 15)

    monkeypatch.setattr(train, "train", stopped)
    with pytest.raises(Stopped, match="which is saved; the same command goes on"):
        sweep(options(faces, tmp_path))


def test_a_run_that_diverges_is_counted_and_does_not_stop_the_sweep(faces, tmp_path, monkeypatch):
    real = train.train

    def diverges_with_two(given):
        path = real(given)
        if given.keypoints == 2:
            raise Diverged("the loss became nan")
        return path

    monkeypatch.setattr(train, "train", diverges_with_two)
    table = sweep(options(faces, tmp_path)).read_text()
    assert "| 2 | 1 diverged |" in table and "| 4 | " in table
    assert records(tmp_path)[0]["diverged"] == "the loss became nan"
    with pytest.raises(UserError, match="every one diverged"):
        sweep(options(faces, tmp_path / "none", only=("2",)))


def test_mistakes_are_named_before_anything_is_trained(faces, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "train", lambda given: pytest.fail("trained"))
    with pytest.raises(UserError, match="--only 5: no such variant; the sweep has 2, 4, 8, 16, 32"):
        sweep(options(faces, tmp_path, only=("5",)))
    plain = tmp_path / "plain"
    plain.mkdir()
    for i in range(4):
        Image.new("RGB", (32, 32)).save(plain / f"{i}.png")
    with pytest.raises(UserError, match="no landmarks"):
        sweep(options(plain, tmp_path / "run"))
    (tmp_path / "sweep.json").write_text(json.dumps({"steps": 5}))
    with pytest.raises(UserError, match="holds a sweep with --data None"):
        sweep(options(faces, tmp_path))


def test_a_sweep_may_be_shared_but_not_changed(faces, tmp_path, monkeypatch):
    monkeypatch.setattr("autolink.commands.sweep._run", lambda *given: None)
    with pytest.raises(UserError, match="no run has a result"):
        sweep(options(faces, tmp_path))
    with pytest.raises(UserError, match="no run has a result"):  # other variants and seeds: the same sweep
        sweep(options(faces, tmp_path, only=("8",), seeds=3, workers=2))
    with pytest.raises(UserError, match="with --steps 2, not 9"):
        sweep(options(faces, tmp_path, steps=9))


@pytest.mark.parametrize("name", SWEEPS)
def test_every_variant_sets_options_that_training_has(name):
    for axis in SWEEPS[name]:
        for changes in axis.variants.values():
            changed = replace(train.Options("x", keypoints=4, thickness=1e-2), **changes)
            assert all(getattr(changed, key) == value for key, value in changes.items())


def test_tables_have_the_paper_s_sizes():
    sizes = {name: tuple(len(axis.variants) for axis in axes) for name, axes in SWEEPS.items()}
    assert sizes["table4"] == (6,) and sizes["table5"] == (13, 5) and sizes["table6"] == (9, 5)
    assert _selected(SWEEPS["table6"], ("0.8", "16", "32")) == [Cell("0.8", "16"), Cell("0.8", "32")]
    assert len(_selected(SWEEPS["table5"], ("8",))) == 13
    assert _selected(SWEEPS["thickness"], ("1e-4",)) == [Cell("0.0001", "")]


def test_a_table_of_two_axes_by_hand():
    axes = SWEEPS["table5"]
    results = [
        {"row": "0.001", "column": "4", "error": 2.0},
        {"row": "0.001", "column": "4", "error": 4.0},
        {"row": "0.001", "column": "8", "error": None},
        {"row": "0.01", "column": "4", "error": 1.234},
    ]
    assert _table(axes, results, "error", "error percent").splitlines() == [
        "error percent:",
        "",
        "| σ² | K = 4 | K = 8 |",
        "|---|---|---|",
        "| 0.001 | 3.00 ± 1.41 (2) | 1 diverged |",
        "| 0.01 | 1.23 | – |",
    ]
    assert _summary([1.0, None]) == "1.00 1 diverged"
