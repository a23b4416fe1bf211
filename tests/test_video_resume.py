"""Outputs that were interrupted: what is left of them, and that going on gives what no interruption would have."""

from __future__ import annotations

import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from video_files import make_clip, numbered, sound_of, times_of

from autolink.errors import UserError
from autolink.video import FrameOutput, VideoFrame, check_begun, is_complete, open_frames, open_output

NAMES = ["a.mp4", "a.webm", "a.gif", "a.webp", "a.apng", "folder"]
TIMES = [Fraction(i, 25) + Fraction(i % 3, 100) for i in range(300)]  # of a variable frame rate


def open_at(folder: Path, name: str, **options) -> FrameOutput:
    return open_output(folder / name, 32, 32, 25, **options)


def write(output: FrameOutput, until: int) -> None:
    for i in range(output.written, until):
        output.write(numbered(i), TIMES[i])


def interrupt(folder: Path, name: str, at: int, **options) -> int:
    """Presses Ctrl-C after some frames; returns how many were there before."""
    with pytest.raises(KeyboardInterrupt), open_at(folder, name, **options) as output:
        before = output.written
        write(output, at)
        raise KeyboardInterrupt
    return before


def finish(folder: Path, name: str, length: int, **options) -> int:
    """Goes on, up to the end; returns how many frames were there already."""
    with open_at(folder, name, resume=True, **options) as output:
        kept = output.written
        assert output.last_time == (TIMES[kept - 1] if kept else None)
        write(output, length)
    return kept


def kill(folder: Path, killed: Path) -> None:
    """What `kill -9` would leave of outputs in `folder`: their files as they are now."""
    shutil.copytree(folder, killed)


def assert_complete(folder: Path, name: str, length: int) -> None:
    """Every frame is there, at its time, and nothing else is."""
    assert is_complete(folder / name)
    left = [f"{i:06d}.png" for i in range(length)] + ["times.csv"] if name == "folder" else [name]
    assert sorted(p.name for p in (folder / name if name == "folder" else folder).iterdir()) == left
    with open_frames(folder / name) as frames:
        shown = list(frames)
    assert len(shown) == length
    grey = np.array([frame.image.mean() for frame in shown])
    assert np.abs(grey - [numbered(i)[0, 0, 0] for i in range(length)]).max() < 6
    if name == "folder":
        rows = (folder / name / "times.csv").read_text().splitlines()
        assert rows == ["file,seconds"] + [f"{i:06d}.png,{float(TIMES[i]):.12f}" for i in range(length)]
    else:
        tick = {"a.mp4": 90_000, "a.gif": 100}.get(name, 1000)
        assert [frame.time for frame in shown] == [Fraction(round(time * tick), tick) for time in TIMES[:length]]


KILLED = f"""
import sys
from contextlib import ExitStack
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_video_resume import NAMES, open_at, write

with ExitStack() as files:
    for output in [files.enter_context(open_at(Path(sys.argv[1]), name)) for name in NAMES]:
        write(output, 300)
    print("written", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> Path:
    """Where a process wrote one output of every kind, until it was killed."""
    folder = tmp_path_factory.mktemp("killed")
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout.readline().strip() == b"written"
    process.kill()  # SIGKILL
    process.wait()
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_after_kill_9_most_of_it_can_be_read(killed, name):
    part = killed / ("folder" if name == "folder" else f"{name}.part")
    times = [frame.time for frame in open_frames(part)]
    assert len(times) >= 200
    assert times == TIMES[: len(times)]
    assert not is_complete(killed / name)


@pytest.mark.parametrize("name", NAMES)
def test_after_kill_9_it_goes_on(killed, tmp_path, name):
    for path in killed.glob(f"{name}*"):
        (shutil.copytree if path.is_dir() else shutil.copy)(path, tmp_path / path.name)
    kept = finish(tmp_path, name, 300)
    assert kept >= 200 and (kept < 300 or name == "folder")
    assert_complete(tmp_path, name, 300)


@pytest.mark.parametrize("name", NAMES)
def test_ctrl_c_loses_no_frame_however_often(tmp_path, name, caplog):
    assert interrupt(tmp_path, name, 30) == 0
    left = tmp_path / ("folder" if name == "folder" else f"{name}.part")
    assert f"not finished; {'the 30 pictures' if name == 'folder' else 'what'}" in caplog.text
    assert str(left) in caplog.text
    assert len(list(open_frames(left))) == 30
    assert interrupt(tmp_path, name, 31, resume=True) == 30
    assert interrupt(tmp_path, name, 31, resume=True) == 31
    assert len(list(open_frames(left))) == 31
    assert interrupt(tmp_path, name, 70, resume=True) == 31
    assert "part2" not in caplog.text
    assert finish(tmp_path, name, 75) == 70
    assert_complete(tmp_path, name, 75)


def test_the_result_is_the_uninterrupted_one_to_a_player(tmp_path):
    """Number, times and length are; only how frames after the interruption are packed may differ."""

    def timing(path: Path) -> list:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            lengths = [container.duration, stream.duration * stream.time_base, stream.average_rate, stream.frames]
            return lengths + sorted(packet.pts for packet in container.demux(stream) if packet.size)

    interrupt(tmp_path, "a.mp4", 60)
    finish(tmp_path, "a.mp4", 90)
    with open_output(tmp_path / "whole.mp4", 32, 32, 25) as whole:
        write(whole, 90)
    assert timing(tmp_path / "a.mp4") == timing(tmp_path / "whole.mp4")


@pytest.mark.parametrize("name", ["a.mp4", "a.webm"])
def test_killed_while_it_went_on(tmp_path, name):
    first, second = tmp_path / "first", tmp_path / "second"
    interrupt(first, name, 70)
    with pytest.raises(KeyboardInterrupt), open_at(first, name, resume=True) as output:
        write(output, 300)
        kill(first, second)
        raise KeyboardInterrupt
    assert (second / f"{name}.part2").stat().st_size
    assert 170 <= finish(second, name, 300) < 300
    assert_complete(second, name, 300)


def test_killed_just_when_both_parts_were_joined(tmp_path):
    interrupt(tmp_path, "a.mp4", 20)
    with pytest.raises(KeyboardInterrupt), open_at(tmp_path, "a.mp4", resume=True) as output:
        write(output, 150)
        kill(tmp_path, tmp_path / "before")
        raise KeyboardInterrupt
    shutil.move(tmp_path / "before" / "a.mp4.part2", tmp_path / "a.mp4.part2")
    shutil.rmtree(tmp_path / "before")
    assert finish(tmp_path, "a.mp4", 160) == 150
    assert_complete(tmp_path, "a.mp4", 160)


def test_ctrl_c_in_the_middle_of_a_frame_gives_up_its_group(tmp_path):
    """Packets that the encoder has handed out and the file has not got would be missing ever after."""
    with pytest.raises(KeyboardInterrupt), open_at(tmp_path, "a.mp4") as output:
        write(output, 120)
        output._container = Interrupted(output._container)
        write(output, 170)
    assert 0 < finish(tmp_path, "a.mp4", 180) < 120
    assert_complete(tmp_path, "a.mp4", 180)


class Interrupted:
    """A container that loses packets to a Ctrl-C."""

    def __init__(self, container):
        self._container = container

    def mux(self, packets) -> None:
        if packets:
            self.mux = self._container.mux
            raise KeyboardInterrupt

    def __getattr__(self, name: str):
        return getattr(self._container, name)


def test_a_failure_while_completing_loses_nothing(tmp_path, monkeypatch):
    target = tmp_path / "a.mp4"
    failing = pytest.raises(UserError, match=r"a\.mp4\.part")
    with monkeypatch.context() as patch, failing, open_at(tmp_path, "a.mp4") as output:
        write(output, 40)
        patch.setattr("os.replace", lambda *paths: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    assert not target.exists()
    assert finish(tmp_path, "a.mp4", 40) == 40  # nothing more to write
    assert_complete(tmp_path, "a.mp4", 40)


@pytest.mark.parametrize("name", NAMES)
def test_without_anything_to_go_on_from_it_begins(tmp_path, name):
    assert finish(tmp_path, name, 5) == 0
    assert_complete(tmp_path, name, 5)


def test_killed_within_the_first_group_it_begins_again(tmp_path):
    with pytest.raises(RuntimeError), open_output(tmp_path / "first" / "a.mp4", 32, 32, 25) as output:
        for i in range(45):
            output.write(numbered(0), TIMES[i])
        kill(tmp_path / "first", tmp_path / "second")
        raise RuntimeError
    assert 0 < len(times_of(tmp_path / "second" / "a.mp4.part")) < 50
    assert finish(tmp_path / "second", "a.mp4", 20) == 0
    assert_complete(tmp_path / "second", "a.mp4", 20)


def test_a_part_with_nothing_in_it_begins_again(tmp_path, caplog):
    (tmp_path / "a.mp4.part").write_bytes(b"")  # killed before the first fragment
    assert finish(tmp_path, "a.mp4", 5) == 0
    assert "nothing in it can be used" in caplog.text
    assert_complete(tmp_path, "a.mp4", 5)


def test_unless_asked_it_does_not_go_on(tmp_path):
    interrupt(tmp_path, "a.mp4", 20)
    with open_at(tmp_path, "a.mp4") as output:
        assert output.written == 0
        write(output, 10)
    assert_complete(tmp_path, "a.mp4", 10)


def test_what_was_begun_with_other_settings_is_left_alone(tmp_path):
    for name in ("a.mp4", "folder"):
        interrupt(tmp_path, name, 20)
        with pytest.raises(UserError, match="begun with size 32x32, not 64x48"):
            open_output(tmp_path / name, 64, 48, 25, resume=True)
        with pytest.raises(UserError, match="begun with frame rate 25, not 30000/1001"):
            open_output(tmp_path / name, 32, 32, 29.97002997, resume=True)
    with pytest.raises(UserError, match="pictures in this folder already"):
        open_output(tmp_path / "folder", 32, 32, 25)
    assert len(times_of(tmp_path / "a.mp4.part")) == 20
    assert finish(tmp_path, "a.mp4", 25) == finish(tmp_path, "folder", 25) == 20


@pytest.mark.parametrize("name", NAMES)
def test_what_the_caller_says_that_it_depends_on_must_be_the_same(tmp_path, name):
    begun = {"--motion": "relative", "--end": None, "--start": 0}
    interrupt(tmp_path, name, 20, settings=begun)
    left = sorted((path, path.stat().st_size) for path in tmp_path.rglob("*"))
    for option, value in [("--motion", "absolute"), ("--end", 2.5), ("--start", 1), ("--crop", "auto")]:
        words = f"begun with {option} {begun.get(option, 'unknown')}, not {value};"
        with pytest.raises(UserError, match=words) as caught:
            open_at(tmp_path, name, resume=True, settings={**begun, option: value})
        assert "\n" not in str(caught.value) and str(tmp_path / name) in str(caught.value)
        with pytest.raises(UserError, match=words):
            check_begun(tmp_path / name, {option: value})
    assert sorted((path, path.stat().st_size) for path in tmp_path.rglob("*")) == left
    check_begun(tmp_path / name, {"--start": 0.0})
    assert interrupt(tmp_path, name, 22, resume=True) == 20  # as before, whoever goes on with it
    with pytest.raises(UserError, match="begun with --motion relative"):
        open_at(tmp_path, name, resume=True, settings={"--motion": "absolute"})
    assert finish(tmp_path, name, 25, settings=begun) == 22
    assert_complete(tmp_path, name, 25)
    check_begun(tmp_path / name, {"--motion": "absolute"})  # nothing is unfinished here


@pytest.mark.parametrize("name", ["a.mp4", "folder"])
def test_begun_anew_it_depends_on_what_it_is_begun_with_then(tmp_path, name):
    interrupt(tmp_path, name, 20, settings={"--motion": "relative"})
    if name == "folder":
        for picture in (tmp_path / name).glob("*.png"):
            picture.unlink()
    interrupt(tmp_path, name, 10, settings={"--motion": "absolute"})
    assert finish(tmp_path, name, 25, settings={"--motion": "absolute"}) == 10
    assert_complete(tmp_path, name, 25)


@pytest.mark.parametrize(("begun", "words"), [(None, "begun with size unknown"), ("{", "part.json: damaged")])
def test_a_part_of_which_nothing_is_known_is_not_gone_on_from(tmp_path, begun, words):
    interrupt(tmp_path, "a.mp4", 20)
    note = tmp_path / "a.mp4.part.json"
    note.unlink() if begun is None else note.write_text(begun)
    with pytest.raises(UserError, match=words):
        open_at(tmp_path, "a.mp4", resume=True)
    assert len(times_of(tmp_path / "a.mp4.part")) == 20


def test_times_must_rise_after_what_is_there(tmp_path):
    interrupt(tmp_path, "a.mp4", 20)
    with pytest.raises(ValueError, match="must rise"), open_at(tmp_path, "a.mp4", resume=True) as output:
        output.write(numbered(0), TIMES[19])
    with open_at(tmp_path, "a.mp4", resume=True) as output:
        output.write(numbered(0))
    assert times_of(tmp_path / "a.mp4")[-1] == TIMES[19] + Fraction(1, 25)


@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "folder"])
def test_its_sound_is_that_of_the_whole(tmp_path, name):
    frames = [VideoFrame(numbered(i), TIMES[i]) for i in range(50)]
    source = make_clip(tmp_path / "source.mp4", [frame.image for frame in frames], sound=("aac", 2.0))
    folder = tmp_path / "out"
    interrupt(folder, name, 20, audio_from=source)
    finish(folder, name, 40, audio_from=source)
    heard = folder / name / "sound.m4a" if name == "folder" else folder / name
    codec, click, end = sound_of(heard)
    assert codec == ("opus" if name == "a.webm" else "aac")
    assert abs(click - 0.5) < 0.01
    assert abs(end - 1.6) < 0.07
