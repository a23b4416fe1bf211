"""Videos that cannot be read, and how writing ends, whatever ends it."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from video_files import make_clip, numbered, times_of

from autolink.errors import UserError
from autolink.video import VideoReader, VideoWriter, open_frames, write_video

# -- what cannot be read ----------------------------------------------------------------------------


def refuses(path: Path, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        open_frames(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_files_that_are_no_video(tmp_path):
    refuses(tmp_path / "nothing.mp4", "no such file")
    (tmp_path / "text.mp4").write_text("this is not a video\n" * 50)
    refuses(tmp_path / "text.mp4", "expected a video")
    (tmp_path / "notes.txt").write_text("neither is this\n" * 50)
    refuses(tmp_path / "notes.txt", "is text")
    (tmp_path / "empty.mp4").write_bytes(b"")
    refuses(tmp_path / "empty.mp4", "expected a video")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").write_text("hello")
    refuses(tmp_path / "folder", "no pictures")
    (tmp_path / "text.png").write_text("hello")
    refuses(tmp_path / "text.png", "cannot be read as a picture")
    with pytest.raises(UserError, match="a folder"):
        VideoReader(tmp_path / "folder")


@pytest.mark.parametrize("index_in_front", [False, True])
@pytest.mark.parametrize("part", [0.3, 0.6, 0.95])
def test_a_truncated_mp4_is_refused(tmp_path, index_in_front, part):
    options = {"movflags": "faststart"} if index_in_front else {}
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (32, 32, 3)).astype(np.uint8) for _ in range(20)]
    source = make_clip(tmp_path / "a.mp4", images, options=options)
    data = source.read_bytes()
    source.write_bytes(data[: int(len(data) * part)])
    refuses(source, "cut off")


def test_a_video_without_frames_is_refused(tmp_path):
    source = make_clip(tmp_path / "none.mp4", [], sound=("aac", 1.0))
    refuses(source, "no frame|no video")


def test_damaged_packets_are_skipped_and_reported(tmp_path, caplog):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (64, 64, 3)).astype(np.uint8) for _ in range(12)]

    def full_range(stream):
        stream.pix_fmt = "yuvj420p"

    source = make_clip(tmp_path / "a.avi", images, codec="mjpeg", edit=full_range)
    with av.open(str(source)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    data = bytearray(source.read_bytes())
    position, size = packets[5]
    data[position + 8 : position + 8 + size] = bytes(size)
    source.write_bytes(data)
    with VideoReader(source) as frames:
        seen = len(list(frames))
    assert seen == 11
    assert "1 damaged packet" in caplog.text


# -- how writing ends -------------------------------------------------------------------------------


def test_an_exception_leaves_the_old_file_and_a_playable_part(tmp_path):
    target = tmp_path / "a.mp4"
    write_video(target, [numbered(1)] * 3, 25)
    before = target.read_bytes()
    with pytest.raises(RuntimeError, match="network"), VideoWriter(target, 32, 32, 25) as video:
        for i in range(20):
            video.write(numbered(i))
        raise RuntimeError("network")
    assert target.read_bytes() == before
    assert len(times_of(tmp_path / "a.mp4.part")) == 20

    with pytest.raises(RuntimeError), VideoWriter(tmp_path / "new.mp4", 32, 32, 25):
        raise RuntimeError
    assert not list(tmp_path.glob("new*"))


def test_success_leaves_the_video_alone(tmp_path):
    write_video(tmp_path / "deep" / "a.mp4", [numbered(1)] * 3, 25)
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["a.mp4"]


def test_no_frames_no_file(tmp_path):
    with pytest.raises(UserError, match="no frame"):
        write_video(tmp_path / "a.mp4", [], 25)
    with pytest.raises(UserError, match="no frame"), VideoWriter(tmp_path / "a.mp4", 32, 32, 25):
        pass
    assert not list(tmp_path.iterdir())


def test_outputs_and_sounds_that_cannot_be_used(tmp_path):
    with pytest.raises(UserError, match=r"\.mp4"):
        VideoWriter(tmp_path / "a.avi", 32, 32, 25)
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match="folder"):
        VideoWriter(tmp_path / "folder.mp4", 32, 32, 25)
    with pytest.raises(UserError, match="no such file"):
        VideoWriter(tmp_path / "a.mp4", 32, 32, 25, audio_from=tmp_path / "missing.mp4")
    with pytest.raises(UserError, match="choose another place"):
        VideoWriter(tmp_path / "file" / "a.mp4", 32, 32, 25)
    with VideoWriter(tmp_path / "a.mp4", 32, 32, 25) as video:
        for wrong in (np.zeros((32, 32, 3), np.float32), np.zeros((32, 30, 3), np.uint8)):
            with pytest.raises(ValueError, match="expected an image of"):
                video.write(wrong)
        video.write(numbered(0))
