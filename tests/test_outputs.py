"""What is under a name is the old file or the whole new one, whatever happens while it is written."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import torch

from autolink import UserError
from autolink.outputs import Replacement, read_json, refuse_inputs, replacing, write_json, write_text
from autolink.plots import save_figure, sweep_figure
from autolink.video import write_video
from autolink.visualize import save_png
from autolink.weights import write_safetensors

NearlyFull = Callable[[int], AbstractContextManager[None]]


@pytest.fixture
def umask() -> Iterator[Callable[[int], int]]:
    """Sets this process's umask; afterwards it is as before."""
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB; only root may make one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True)
    if made.returncode != 0:
        pytest.skip("a small disk can be mounted by root alone")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def noise(path: Path) -> None:
    save_png(path, torch.randint(0, 256, (3, 300, 300), dtype=torch.uint8))


def figure(path: Path) -> None:
    result = {"row_axis": "a", "row": "1", "column_axis": "", "column": "", "loss": 1.0}
    save_figure(sweep_figure([result], {"loss": "loss"}), path)


WRITERS = {
    "text.md": lambda path: write_text(path, "x" * 200_000),
    "report.json": lambda path: write_json(path, list(range(50_000))),
    "picture.png": noise,
    "weights.safetensors": lambda path: write_safetensors(path, {"a": torch.rand(50_000)}, {}),
    "figure.pdf": figure,
}


@pytest.mark.parametrize("name", WRITERS)
def test_access_rights_follow_the_umask(name: str, tmp_path: Path, umask: Callable[[int], int]) -> None:
    for mask, mode in ((0o022, 0o644), (0o077, 0o600), (0o002, 0o664)):
        umask(mask)
        WRITERS[name](tmp_path / name)
        assert (tmp_path / name).stat().st_mode & 0o777 == mode
    assert [file.name for file in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_one_line_and_loses_nothing(name: str, tmp_path: Path, nearly_full: NearlyFull) -> None:
    path = tmp_path / name
    for there in ([], [name]):
        with nearly_full(2_000), pytest.raises(UserError, match=f"{name}: cannot be written .*; free some space"):
            WRITERS[name](path)
        assert [file.name for file in tmp_path.iterdir()] == there
        path.write_bytes(b"of the run before")
    assert path.read_bytes() == b"of the run before"


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_file_system(name: str, small_disk: Path) -> None:
    (small_disk / "other").write_bytes(bytes(60_000))
    (small_disk / name).write_bytes(b"before")
    with pytest.raises(UserError, match=f"{name}: cannot be written .No space left on device.; free some space"):
        WRITERS[name](small_disk / name)
    assert sorted(file.name for file in small_disk.iterdir()) == sorted([name, "other"])
    assert (small_disk / name).read_bytes() == b"before"


def test_what_a_failing_block_has_begun_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "table.csv"
    for _ in range(2):
        with pytest.raises(KeyError), replacing(path) as part:
            part.write_text("half")
            raise KeyError
        assert list(path.parent.iterdir()) == []
    (path.parent / "table.csv.part").write_text("of a run that was killed")
    write_text(path, "whole")
    assert path.read_text() == "whole" and list(path.parent.iterdir()) == [path]


def test_what_stands_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe.csv")
    for path, why in {
        tmp_path / "folder.csv": "there is a folder of this name",
        tmp_path / "pipe.csv": "a device or a pipe",
        Path("/dev/null"): "a device or a pipe",
        tmp_path / "file" / "table.csv": "(File exists|Not a directory)",
        tmp_path / f"{'n' * 300}.csv": "File name too long",
        Path("/proc/table.csv"): "No such file or directory",
    }.items():
        with pytest.raises(UserError, match=f"^{path}: .*{why}"):
            write_text(path, "")
    assert not Path("/dev/null").is_file()


def test_a_file_system_without_access_rights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "chmod", refuse)
    monkeypatch.setattr(os, "chmod", refuse)
    write_safetensors(tmp_path / "a.safetensors", {"a": torch.ones(3)}, {})
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_read_only_file_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "kept.csv"
    path.write_text("kept")
    monkeypatch.setattr(os, "access", lambda *_: False)  # as for all but root
    with pytest.raises(UserError, match=f"{path}: cannot be written .Permission denied"):
        write_text(path, "")
    assert path.read_text() == "kept"


def test_links_are_written_through(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "near.csv").symlink_to(tmp_path / "far" / "table.csv")
    for text in ("first", "second"):
        write_text(tmp_path / "near.csv", text)
        assert (tmp_path / "near.csv").is_symlink() and (tmp_path / "far" / "table.csv").read_text() == text


def test_until_the_commit_the_old_file_is_there(tmp_path: Path) -> None:
    path = tmp_path / "array.npy"
    np.save(path, np.zeros(3))
    file = Replacement(path)
    with open(file.part, "wb") as part:
        np.save(part, np.ones(3))
    assert np.load(path).sum() == 0
    file.commit()
    file.discard()
    assert np.load(path).sum() == 3


def test_an_output_that_is_an_input_is_refused_by_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo = tmp_path / "photo.png"
    photo.touch()
    (tmp_path / "soft.png").symlink_to(photo)
    (tmp_path / "hard.png").hardlink_to(photo)
    monkeypatch.chdir(tmp_path)
    for output in ("photo.png", "./photo.png", f"../{tmp_path.name}/photo.png", "soft.png", "hard.png", photo):
        with pytest.raises(UserError, match="is an input and would be overwritten; choose another --output"):
            refuse_inputs(["new.png", output], [None, "faces", photo])
    refuse_inputs(["new.png"], [photo, "new.png", None])
    Path("clip.mp4.part").touch()  # what an interrupted run left, taken as a source
    with pytest.raises(UserError, match=r"clip.mp4.part is an input and would be overwritten"):
        refuse_inputs(["clip.mp4"], ["clip.mp4.part"])


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'"text"', b"\xff\xfe", b"[" * 100_000])
def test_json_that_is_damaged_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"config\.json: damaged"):
        read_json(path)
    write_json(path, {"steps": 3})
    assert read_json(path) == {"steps": 3}


@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "a.gif", "folder"])
def test_a_video_on_a_full_disk(name: str, tmp_path: Path, nearly_full: NearlyFull) -> None:
    path = tmp_path / name
    frames = np.random.default_rng(0).integers(0, 255, (20, 96, 96, 3), dtype=np.uint8)
    if path.suffix:
        write_video(path, frames[:2], 25)
        before = path.read_bytes()
    with nearly_full(20_000), pytest.raises(UserError, match=f"{name}: .*; free some space; "):
        write_video(path, frames, 25)
    if path.suffix:
        assert path.read_bytes() == before
    assert not list(tmp_path.rglob("*.png*"))
