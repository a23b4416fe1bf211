"""Commands start and print in any terminal, and on machines on which something usual is missing."""

from __future__ import annotations

import csv
import errno
import importlib
import io
import os
import re
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import autolink
from autolink import cli, devices
from autolink.commands.detect import Options, detect
from autolink.data.cache import cache_folder
from autolink.data.landmarks import read_landmarks
from autolink.errors import UserError, command
from autolink.video import open_frames, write_video
from autolink_apps.gan.poses import _read_csv

ROOT = Path(__file__).parent.parent
PACKAGES = {"autolink": "autolink", "apps": "autolink_apps", "pretrained": "autolink.pretrained"}
COMMANDS = [
    ".".join([PACKAGES[top], *path.relative_to(ROOT / top).with_suffix("").parts])
    for top in PACKAGES
    for path in sorted((ROOT / top).rglob("*.py"))
    if re.search(r"^@command\ndef main\(", path.read_text(encoding="utf-8"), re.M)
]


class Terminal:
    """What a command prints, to stdout and stderr of an encoding."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
        self.files = io.BytesIO(), io.BytesIO()
        for name, file in zip(("stdout", "stderr"), self.files):
            monkeypatch.setattr(sys, name, io.TextIOWrapper(file, encoding, write_through=True))

    def printed(self) -> bytes:
        return b"".join(file.getvalue() for file in self.files)


@pytest.mark.parametrize(("encoding", "columns"), [("ascii", "2"), ("cp1252", "1"), ("utf-8", "1000000000")])
@pytest.mark.parametrize("module", COMMANDS)
def test_help_of_every_command(module: str, encoding: str, columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    main = importlib.import_module(module).main
    monkeypatch.setattr(sys, "argv", ["command", "--help"])
    monkeypatch.setenv("COLUMNS", columns)
    terminal = Terminal(monkeypatch, encoding)
    try:
        main()
    except SystemExit as stopped:
        assert stopped.code == 0
    printed = terminal.printed().decode(encoding)
    assert "--help" in printed and len(printed) < 1e5


def test_every_command_says_which_version_it_is(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["command", "--version"])
    for module in COMMANDS:
        importlib.import_module(module).main()
        assert capsys.readouterr() == (f"autolink {autolink.__version__}\n", ""), module


def test_every_command_is_in_the_tree_and_help_says_how_it_was_called(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    assert {module for module, _ in cli.COMMANDS.values()} == {*COMMANDS} - {"autolink.cli", "autolink_apps.demo"}
    called = {
        cli.main: ("autolink transfer", "autolink transfer export", "autolink gan mix"),
        cli.transfer: ("autolink-transfer", "autolink-transfer export"),
        cli.sample: ("autolink-sample", "autolink-sample grid", "autolink-sample mix"),
    }
    for entry, words in ((entry, words) for entry, many in called.items() for words in many):
        monkeypatch.setattr(sys, "argv", [*words.split(), "--help"])
        with pytest.raises(SystemExit):
            entry()
        assert f"usage: {words.replace('sample grid', 'sample')} [" in capsys.readouterr().out


def test_the_tree_says_at_each_branch_what_it_has(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    for words, line in ((), "gan mix "), (("--help",), "transfer export "), (("gan",), "mix "), (("gan", "-h"), "mix "):
        monkeypatch.setattr(sys, "argv", ["autolink", *words])
        cli.main()
        assert f"\n  {line}" in capsys.readouterr().out
    for words, said in (
        (("figure",), "'figure' is not a command of autolink; it has train, detect"),
        (("gan", "x"), "'x' is not a command of autolink gan; it has sample"),
    ):
        monkeypatch.setattr(sys, "argv", ["autolink", *words])
        with pytest.raises(SystemExit):
            cli.main()
        assert said in capsys.readouterr().err


def test_characters_that_an_encoding_lacks_are_spelled(monkeypatch: pytest.MonkeyPatch) -> None:
    for encoding, expected in (("ascii", b"sigma^2 128x128 -1 -> A"), ("latin-1", b"sigma\xb2 128\xd7128 -1 -> \xc4")):
        terminal = Terminal(monkeypatch, encoding)
        command(lambda: print("σ² 128×128 −1 → Ä", end=""))()
        assert terminal.printed() == expected


@pytest.fixture
def strange(tmp_path: Path) -> Path:
    """A picture in a folder, both of names that are not UTF-8."""
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    try:
        os.mkdir(folder)
    except OSError:
        pytest.skip("names that are not UTF-8 are refused by this file system")
    path = Path(os.fsdecode(folder + b"/\xff.png"))
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)).save(path)
    return path


def test_names_that_are_not_utf_8_are_written_as_they_are(strange: Path, tiny_file: Path, tmp_path: Path) -> None:
    out = strange.parent / "out"
    formats = ("csv", "npz", "deeplabcut", "moseq")
    detect(Options((strange,), str(tiny_file), out, formats=formats))
    with open(out / "keypoints.csv", newline="", encoding="utf-8", errors="surrogateescape") as file:
        assert [row["source"] for row in csv.DictReader(file)] == [str(strange)]
    assert os.fsencode(strange) in (out / "keypoints.csv").read_bytes()
    assert np.load(out / "keypoints.npz")["sources"].tolist() == [str(strange)]
    assert _read_csv(out / "keypoints.csv")[0][0] == str(strange)
    assert (out / "overlays" / f"{strange.stem}.png").is_file()
    assert np.load(out / "coordinates.npz").files == [r"caf\xe9"] and len(list((out / "deeplabcut").iterdir())) == 1


def test_names_that_are_not_utf_8_are_printed_as_they_are(strange: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        print(strange)
        raise UserError(f"{strange}: no")

    terminal = Terminal(monkeypatch, "utf-8")
    with pytest.raises(SystemExit):
        command(refuse)()
    assert terminal.printed() == os.fsencode(strange) + b"\nerror: " + os.fsencode(strange) + b": no\n"


def test_a_mistyped_path_is_no_model_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def ask(*_: object, **__: object) -> None:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", ask)
    monkeypatch.setattr(huggingface_hub.utils, "get_session", ask)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "faces2").mkdir(parents=True)
    with pytest.raises(UserError, match=r"no model 'runs/face2': .*; did you mean 'runs/faces2'"):
        autolink.load("runs/face2")
    with pytest.raises(UserError, match="did you mean 'faces'"):
        autolink.load("face")


def test_a_hub_that_does_not_answer_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked = []

    class Session:
        def head(self, url: str, timeout: float) -> None:
            asked.append(timeout)
            raise ConnectionError("Name or service not known")

    monkeypatch.setattr(huggingface_hub.utils, "get_session", Session)
    monkeypatch.chdir(tmp_path)
    started = time.monotonic()
    with pytest.raises(UserError, match=r"no model 'someone/keypoints': .*\(Name or service not known\)"):
        autolink.load("someone/keypoints")
    assert len(asked) == 1 and asked[0] <= 5 and time.monotonic() - started < 5
    assert not huggingface_hub.constants.HF_HUB_OFFLINE


def test_processes_are_no_more_than_shared_memory_has_room_for(monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    def left(room: int) -> None:
        monkeypatch.setattr(devices.os, "statvfs", lambda _: SimpleNamespace(f_bavail=room // 4096, f_frsize=4096))

    left(2**30)
    assert devices.fitting_workers(8, 2**20, prefetched=4) == 8 and not caplog.records
    left(2**24)
    assert devices.fitting_workers(8, 2**20, prefetched=4) == 3  # each has four batches ready and one in its hands
    left(2**17)
    assert devices.fitting_workers(8, 2**20, prefetched=4) == 0
    assert "/dev/shm has 0.1 MB, room for 0 processes" in caplog.records[-1].getMessage()


def test_a_full_disk_is_one_line_whoever_meets_it(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    def fill() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(SystemExit) as stopped:
        command(fill)()
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "error: a file cannot be written: No space left on device; free some space\n"


def test_without_a_home_the_cache_must_be_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("AUTOLINK_CACHE", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as for a user whom the system does not know
    with pytest.raises(UserError, match="no home folder is known here; set AUTOLINK_CACHE"):
        cache_folder("frames")
    monkeypatch.setenv("AUTOLINK_CACHE", str(tmp_path))
    assert cache_folder("frames") == tmp_path / "frames"


def test_a_labelled_picture_may_have_a_name_that_is_not_utf_8(strange: Path) -> None:
    (strange.parent / "landmarks.csv").write_bytes(b"file,width,height,x0,y0\n\xff.png,64,48,32,24\n")
    assert read_landmarks(strange.parent / "landmarks.csv")[strange.name][1].tolist() == [[32, 24]]


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a.mp4", "a.jpg"])
def test_frames_may_be_written_to(name: str, tmp_path: Path) -> None:
    frames = [np.full((48, 64, 3), value, np.uint8) for value in (0, 100, 200)]
    if name.endswith("mp4"):
        write_video(tmp_path / name, frames, 5)
    else:
        first, *others = map(Image.fromarray, frames)
        first.save(tmp_path / name, **({} if name.endswith("jpg") else {"save_all": True, "append_images": others}))
    with warnings.catch_warnings(), open_frames(tmp_path / name) as read:
        warnings.simplefilter("error")  # of torch, about memory that is not to be written to
        assert len([torch.from_numpy(frame.image) for frame in read]) == (1 if name.endswith("jpg") else 3)
