"""How commands say how far they are: a bar on a terminal, or JSON for programs, decided in one place."""

from __future__ import annotations

import json
import logging
import os
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from autolink import training
from autolink.commands import detect
from autolink.errors import Stopped, command
from autolink.progress import Bar, as_asked, showing
from autolink.training import RunLog, RunOptions, StepBar


def events(capsys: pytest.CaptureFixture[str]) -> list[dict]:
    """What stderr says: nothing but objects."""
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_bar_is_a_line_of_json_for_a_program(capsys):
    with showing("json"), Bar(desc="painting", total=8, initial=2, unit="frame") as bar:
        for _ in range(6):
            bar.update()
    with showing("json"):
        list(Bar(iter("abc"), unit="pose"))  # of unknown length
    said = events(capsys)
    known = [line for line in said if line["stage"] == "painting"]
    assert [known[0]["done"], known[-1]["done"]] == [2, 8]
    assert all(line["event"] == "progress" and line["of"] == 8 and line["unit"] == "frame" for line in known)
    assert known[0]["left"] is None and known[-1]["left"] == 0
    unknown = said[-1]
    assert (unknown["stage"], unknown["done"], unknown["of"], unknown["left"]) == ("pose", 3, None, None)


def test_where_nobody_looks_nothing_is_shown(capsys):
    for kind in ("auto", "off"):
        with showing(kind):
            list(Bar(range(3)))
    with showing("json"), showing("off"):
        list(Bar(range(3)))
    with showing("json"):
        list(Bar(range(3), hidden=True))
    assert capsys.readouterr().err == ""


def test_what_is_around_a_block_decides_where_it_says_nothing(capsys):
    work = as_asked(lambda options: list(Bar(range(2), desc="work")))
    with showing("json"):
        work(SimpleNamespace(progress="auto"))
    assert events(capsys)[-1]["done"] == 2
    work(SimpleNamespace(progress="json"))
    assert events(capsys)[-1]["done"] == 2
    work(SimpleNamespace(progress="auto"))
    assert events(capsys) == []


def test_warnings_and_numbers_are_objects_too(capsys, tmp_path):
    accelerator = SimpleNamespace(is_main_process=True, log=lambda *_, **__: None)
    with showing("json"):
        logging.getLogger("autolink").warning("%s: no head in it", "a.mp4")
        RunLog(accelerator, tmp_path, 0).numbers(50, {"loss": 0.25, "ratio": float("inf")})
    assert events(capsys) == [
        {"event": "warning", "message": "a.mp4: no head in it"},
        {"event": "numbers", "step": 50, "loss": 0.25, "ratio": None},
    ]
    logging.getLogger("autolink").warning("as ever")
    assert "{" not in capsys.readouterr().err


def test_steps_of_a_training_are_told(capsys, tmp_path, monkeypatch):
    accelerator = SimpleNamespace(is_main_process=True, num_processes=1, device=torch.device("cpu"))
    clock = iter(np.arange(0.0, 1e6, 40))
    monkeypatch.setattr(training.pace.time, "perf_counter", lambda: next(clock))
    with showing("json"), StepBar(accelerator, RunOptions("x", tmp_path, steps=20_000), 5, "network") as bar:
        bar.update()
        bar.update()
    said = events(capsys)
    assert said[-1]["stage"] == "network" and said[-1]["done"] == 7 and said[-1]["unit"] == "step"
    assert ["9 days" in line["message"] for line in said if line["event"] == "warning"] == [True]


def test_a_command_tells_how_far_it_is(tiny, tmp_path, capsys):
    model = tiny.save_pretrained(tmp_path / "model")
    for number in range(3):
        Image.new("RGB", (40, 40), (number, 90, 60)).save(tmp_path / f"{number}.png")
    inputs = tuple(sorted(tmp_path.glob("*.png")))
    detect.detect(detect.Options(inputs, str(model), tmp_path / "out", overlays=False, progress="json"))
    last = events(capsys)[-1]
    assert (last["stage"], last["done"], last["of"]) == ("detect", 3, 3)


@pytest.mark.parametrize("said, told", [("half is there", "half is there; the same command"), ("", "")])
def test_sigterm_ends_a_command_in_order(said, told, capsys):
    kept = []

    @command
    def main() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        except KeyboardInterrupt as asked:
            kept.append(asked.number)
            raise Stopped(said, asked.number) from None

    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 128 + signal.SIGTERM and kept == [signal.SIGTERM]
    assert (told in capsys.readouterr().err) and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
