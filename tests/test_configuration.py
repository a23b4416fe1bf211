"""Options from a file, `--config FILE`, and where numbers of a training go."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest

from autolink import UserError, trackers
from autolink.configuration import options_of, read_options
from autolink.trackers import chosen_trackers
from autolink.train import Options, main, train
from autolink_apps.gan import train as gan

FILES = {
    "a.yaml": "data: photos\nlearning-rate: 1e-4\noutput: runs/a\nlog_with: [none]\nflip: true\nsteps: 12\n",
    "a.toml": 'data = "photos"\n"learning-rate" = 1e-4\noutput = "runs/a"\nlog_with = ["none"]\n'
    "flip = true\nsteps = 12\n",
    "a.json": '{"data": "photos", "learning-rate": 1e-4, "output": "runs/a", "log_with": ["none"], "flip": true, '
    '"steps": 12, "thickness": null}',
}


def asked(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> Options:
    monkeypatch.setattr(sys, "argv", ["train", *map(str, arguments)])
    return options_of(Options)


@pytest.mark.parametrize("name", FILES)
def test_options_come_from_a_file_and_what_is_given_beside_it_comes_first(name, monkeypatch, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_text(FILES[name])
    found = asked(monkeypatch, "--steps", 7, "--config", file)
    plain = Options(data="photos", output=Path("runs/a"), learning_rate=1e-4, log_with=("none",), flip=True, steps=7)
    assert found == plain and asked(monkeypatch, f"--config={file}", "--steps", "7") == plain


def test_what_a_file_leaves_out_must_be_given(monkeypatch, tmp_path: Path, capsys) -> None:
    (tmp_path / "a.yaml").write_text("steps: 12\n")
    assert asked(monkeypatch, "--config", tmp_path / "a.yaml", "--data", "b") == Options(data="b", steps=12)
    with pytest.raises(SystemExit):
        asked(monkeypatch, "--config", tmp_path / "a.yaml")
    assert "--data" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.yaml", "stepz: 3", "'stepz' is no option of this command; did you mean steps"),
        ("a.yaml", "steps: -3", "steps -3: give a whole number from 1 on"),
        ("a.yaml", "steps: many", "steps 'many': give a whole number from 1 on"),
        ("a.yaml", "data: 5", "data 5: give text"),
        ("a.yaml", "perceptual: vgg99", "give one of vgg16"),
        ("a.yaml", "- steps", "holds no options by name"),
        ("a.yaml", "a: [", "cannot be read as yaml"),
        ("a.json", "{", "cannot be read as json"),
        ("a.toml", "a", "cannot be read as toml"),
        ("a.ini", "", "expected a file name ending in .yaml"),
        ("b.yaml", None, "No such file"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line(name, text, said, monkeypatch, tmp_path: Path, capsys) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(sys, "argv", ["train", "--config", str(tmp_path / name), "--output", str(tmp_path / "run")])
    with pytest.raises(SystemExit) as stopped:
        main()
    printed = capsys.readouterr().err
    assert stopped.value.code == 2 and printed.count("\n") == 1 and said in printed and name in printed


def test_the_note_of_a_run_is_such_a_file(tmp_path: Path, monkeypatch) -> None:
    """Another run with the same options: only what was asked beside training is left out."""
    size = dict(batch_size=2, image_size=32, width=0.125, workers=0, detector="paper", perceptual="pyramid")
    options = Options(data="synthetic", output=tmp_path / "run", steps=1, keypoints=3, log_with=("none",), **size)
    train(options)
    train(Options(**{**vars(options), "steps": 2, "resume": True}))
    note = json.loads((tmp_path / "run" / "config.json").read_text())
    again = asked(monkeypatch, "--config", tmp_path / "run" / "config.json", "--output", tmp_path / "other")
    assert note["resume"] and not again.resume
    assert {**note, "output": str(tmp_path / "other"), "resume": False}.items() >= {
        name: str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
        for name, value in vars(again).items()
    }.items()
    assert not list((tmp_path / "run").rglob("events.out*"))


def test_a_note_of_another_command_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"data": "x", "keypoints": 3, "identity": {}}))
    with pytest.raises(UserError, match="'keypoints' is no option of this command"):
        read_options(gan.Options, tmp_path / "config.json")


def test_trackers_are_what_accelerate_knows_and_has(monkeypatch) -> None:
    monkeypatch.setattr(trackers, "get_available_trackers", lambda: ["tensorboard"])
    assert chosen_trackers(("auto",)) == chosen_trackers(("tensorboard", "auto")) == ["tensorboard"]
    assert chosen_trackers(("none",)) == []
    with pytest.raises(UserError, match="--log-with wandb: it is not installed; pip install wandb"):
        chosen_trackers(("wandb",))
    with pytest.raises(UserError, match=r"--log-with tensorbord: give auto, none, or of .*tensorboard"):
        chosen_trackers(("tensorbord",))
    monkeypatch.setattr(trackers, "get_available_trackers", list)
    assert chosen_trackers(("auto",)) == []
    with pytest.raises(UserError, match=r"pip install 'autolink-graph\[tensorboard\]'"):
        chosen_trackers(("tensorboard",))


def test_without_tensorboard_a_training_says_where_its_numbers_are(tmp_path: Path, monkeypatch, caplog) -> None:
    monkeypatch.setattr(trackers, "get_available_trackers", list)
    size = dict(batch_size=2, image_size=32, width=0.125, workers=0, detector="paper", perceptual="pyramid")
    train(Options(data="synthetic", output=tmp_path / "run", steps=1, keypoints=3, **size))
    assert any("log.jsonl and pictures in samples/ alone" in record.getMessage() for record in caplog.records)
    assert (tmp_path / "run/log.jsonl").is_file() and list((tmp_path / "run/samples").iterdir())


@pytest.mark.parametrize("module", ["autolink.commands.figures", "autolink.commands.sweep"])
def test_figures_without_matplotlib_are_one_line(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(sys.modules):
        if name.split(".")[0] == "matplotlib" or name in (module, "autolink.plots"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib.axes", None)
    with pytest.raises(UserError, match=r"pip install 'autolink-graph\[figures\]'"):
        importlib.import_module(module)
