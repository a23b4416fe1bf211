"""Videos promise: decoded once, each a clip, and a broken one does not stop the others."""

from __future__ import annotations

import logging

import pytest
import torch
from data_files import one_line, video

from autolink.data import clips as clips_module
from autolink.data import open_data
from autolink.errors import UserError

pytestmark = pytest.mark.usefixtures("own_data_only")


def test_folder_of_videos(tmp_path):
    root = tmp_path / "videos"
    for i in range(3):
        video(root / f"v{i}.mp4", level=30 * i)
    train, val = open_data(str(root), 32), open_data(str(root), 32, "val")
    assert len(train) == 3 * 10 and len(val) == 3 * 2  # fewer than ten videos: the last tenth of each, two at least
    assert set(train.clips) == set(val.clips) == {"v0.mp4", "v1.mp4", "v2.mp4"}
    assert {sample.name for sample in val} == {f"v{i}.mp4/{n:06}.jpg" for i in range(3) for n in (10, 11)}
    for n, sample in enumerate(val):
        assert (sample.image.float() - (30 * (n // 2) + 80 + 8 * (n % 2))).abs().max() < 6
        assert sample.image.shape == (3, 32, 32)


def test_many_videos_are_held_out_as_a_whole(tmp_path):
    root = tmp_path / "videos"
    for i in range(10):
        video(root / f"v{i}.mp4", frames=3)
    train, val = open_data(str(root), 16), open_data(str(root), 16, "val")
    assert len(set(val.clips)) == 1 and len(set(train.clips)) == 9 and not set(train.clips) & set(val.clips)


def test_whole_people_are_held_out(tmp_path):
    """Also of fewer than ten videos; whoever is not named is somebody of his own."""
    root = tmp_path / "videos"
    for i in range(8):
        video(root / f"v{i}.mp4", frames=3)
    lines = [f"v{i}.mp4,{'ann' if i % 2 else 'bob'}" for i in range(6)]
    (root / "people.csv").write_text("\n".join(["clip,person", *lines]))
    train, val = open_data(str(root), 16), open_data(str(root), 16, "val")
    assert {*train.people, *val.people} == {"ann", "bob", "v6.mp4", "v7.mp4"}
    assert len({*val.people}) == 1 and not {*train.people} & {*val.people}
    assert all(
        (person == "ann") == (clip in ("v1.mp4", "v3.mp4", "v5.mp4")) for clip, person in zip(train.clips, train.people)
    )
    (root / "people.csv").write_text("\n".join(["clip,person", *(f"v{i}.mp4,ann" for i in range(8))]))
    assert open_data(str(root), 16, "val").clips == [f"v{i}.mp4" for i in range(8)]  # one person cannot be held out


@pytest.mark.parametrize(
    "text, named",
    [
        ("clip,person\nv0.mp4,ann\nv9.mp4,bob\n", "names 'v9.mp4', which is no file"),
        ("file,who\nv0.mp4,ann\n", "expected a header 'clip,person'"),
        ("clip,person\nv0.mp4\n", "two fields in each line"),
        ("", "expected a header 'clip,person'"),
    ],
)
def test_people_that_cannot_be_told_are_one_line(tmp_path, text, named):
    video(tmp_path / "videos" / "v0.mp4")
    (tmp_path / "videos" / "people.csv").write_text(text)
    with pytest.raises(UserError) as error:
        open_data(str(tmp_path / "videos"), 16)
    one_line(error, named)


def test_videos_are_decoded_once(tmp_path, monkeypatch):
    path = video(tmp_path / "one.mp4")
    first = open_data(str(path), 32)
    assert len(first) == 10 and first.name == "one"

    def decode(*_):
        raise AssertionError("decoded again")

    with monkeypatch.context() as patched:
        patched.setattr(clips_module, "open_frames", decode)
        assert torch.equal(open_data(str(path), 32)[3].image, first[3].image)
    video(path, frames=20)  # a change is noticed
    assert len(open_data(str(path), 32)) == 18
    assert not list((tmp_path / "cache").rglob("part-*"))


@pytest.mark.parametrize("cleaned", ["a frame", "all frames", "the count"])
def test_frames_that_were_removed_from_the_cache_are_made_again(cleaned, tmp_path):
    path = video(tmp_path / "one.mp4")
    first = open_data(str(path), 32)
    (folder,) = (tmp_path / "cache" / "frames").iterdir()
    for frame in folder.glob({"a frame": "000003.jpg", "all frames": "*.jpg", "the count": "count"}[cleaned]):
        frame.unlink()
    again = open_data(str(path), 32)
    assert again.names == first.names and all(torch.equal(a.image, b.image) for a, b in zip(again, first, strict=True))


def test_truncated_video_is_named_and_skipped(tmp_path, caplog):
    root = tmp_path / "videos"
    whole = video(root / "whole.mp4")
    (root / "cut.mp4").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    (root / "text.mov").write_text("hello")
    with caplog.at_level(logging.WARNING):
        assert set(open_data(str(root), 16).clips) == {"whole.mp4"}
    assert sum("cut.mp4" in m for m in caplog.messages) == sum("text.mov" in m for m in caplog.messages) == 1
    whole.unlink()
    with pytest.raises(UserError) as error:
        open_data(str(root), 16)
    one_line(error, "none of its 2 video(s) can be read")


def test_cache_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    path = video(tmp_path / "one.mp4")
    (tmp_path / "file").touch()
    monkeypatch.setenv("AUTOLINK_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError) as error:
        open_data(str(path), 16)
    one_line(error, "AUTOLINK_CACHE")


def test_real_video(real_data):
    data = open_data(str(real_data / "clips" / "speaker_man.mp4"), 64)
    assert set(data.clips) == {"speaker_man.mp4"} and len(data) > 100
    assert data[0].image.float().std() > 20
