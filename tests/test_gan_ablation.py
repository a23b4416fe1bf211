"""The ablation of the GAN: one run a variant, both kinds of weights measured, and it goes on where it was stopped."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from pathlib import Path

import pytest
from gan_runs import Colours, options_for, write_autolink, write_images

from autolink.errors import UserError
from autolink_apps.gan import evaluate, train

SCRIPT = Path(__file__).parent.parent / "benchmarks/gan_ablation.py"


@pytest.fixture
def ablation(monkeypatch: pytest.MonkeyPatch):
    specification = importlib.util.spec_from_file_location("gan_ablation", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    monkeypatch.setitem(__import__("sys").modules, "gan_ablation", module)  # where dataclasses look names up
    specification.loader.exec_module(module)
    for place in (train, evaluate):
        monkeypatch.setattr(place, "open_features", lambda *_: Colours())
    monkeypatch.setattr(module, "METRICS", ("frechet", "recall"))
    variants = {name: module.VARIANTS[name] for name in ("R1 every step", "no augmentation")}
    monkeypatch.setattr(module, "VARIANTS", variants)
    return module


def test_variants_are_trained_measured_and_not_trained_twice(ablation, tmp_path: Path, monkeypatch) -> None:
    images, autolink = write_images(tmp_path / "images"), write_autolink(tmp_path / "autolink")
    run = options_for(images, autolink, tmp_path / "out", steps=2, r1_every=16, metric_images=8)
    options = ablation.Options(**{f.name: getattr(run, f.name) for f in dataclasses.fields(run)})
    trained = []
    once = train.train

    def counted(options: train.Options) -> Path:
        trained.append((options.r1_every, options.augment, options.seed))
        if len(trained) == 2:
            raise KeyboardInterrupt
        return once(options)

    monkeypatch.setattr(train, "train", counted)
    with pytest.raises(KeyboardInterrupt):
        ablation.ablate(options)
    lines = ablation.ablate(options).read_text().splitlines()
    assert trained == [(1, "ada", 0), (16, "none", 0), (16, "none", 0)]
    assert lines[0].startswith("8 images of ") and lines[2].startswith("| variant | weights | frechet | recall | pose")
    assert [line.split(" | ")[:2] for line in lines[4:]] == [
        ["| R1 every step", "averaged"],
        ["| R1 every step", "last"],
        ["| no augmentation", "averaged"],
        ["| no augmentation", "last"],
    ]
    result = json.loads((tmp_path / "out/R1-every-step/result.json").read_text())
    assert lines[5].split(" | ")[2] == f"{result['last']['frechet']:.3g}"
    assert result["last"]["frechet"] != result["averaged"]["frechet"]
    assert (tmp_path / "out/curve.png").is_file()
    with pytest.raises(UserError, match="holds an ablation with other options"):
        ablation.ablate(dataclasses.replace(options, steps=3))
