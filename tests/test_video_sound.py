"""The sound of a video: in time with its pictures, and as it was where an mp4 can hold it."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest
from video_files import make_clip, numbered, sound_of

from autolink.errors import UserError
from autolink.video import VideoFrame, VideoReader, write_video


@pytest.mark.parametrize(
    ("name", "codec", "arrives_as"),
    [
        ("a.mp4", "aac", "aac"),
        ("a.ts", "aac", "aac"),
        ("a.mkv", "libmp3lame", "mp3"),
        ("a.mkv", "libopus", "opus"),
        ("a.mkv", "flac", "flac"),
        ("a.mov", "pcm_s16le", "aac"),
        ("a.mkv", "pcm_s16le", "aac"),
        ("a.ts", "mp2", "aac"),
    ],
)
def test_sound_is_kept_in_time_and_ends_with_the_video(tmp_path, name, codec, arrives_as):
    source = make_clip(tmp_path / name, [numbered(i) for i in range(50)], sound=(codec, 2.0))
    expected = sound_of(source)
    with VideoReader(source) as frames:
        assert frames.has_audio
        write_video(tmp_path / "all.mp4", frames, frames.frame_rate, audio_from=source)
    kept = sound_of(tmp_path / "all.mp4")
    assert kept[0] == arrives_as
    assert abs(kept[1] - expected[1]) < 0.002
    assert abs(kept[1] - 0.5) < 0.03  # mp3 and mpeg-ts keep the delay of the encoder
    assert abs(kept[2] - 2.0) < 0.07

    write_video(tmp_path / "half.mp4", (numbered(i) for i in range(25)), 25, audio_from=source)
    assert 0.9 < sound_of(tmp_path / "half.mp4")[2] < 1.07


def test_sound_that_is_copied_is_the_same_bytes(tmp_path):
    source = make_clip(tmp_path / "a.mp4", [numbered(i) for i in range(50)], sound=("aac", 2.0))
    with VideoReader(source) as frames:
        write_video(tmp_path / "b.mp4", frames, frames.frame_rate, audio_from=source)

    def packets(path):
        with av.open(str(path)) as container:
            return [bytes(p) for p in container.demux(container.streams.audio[0]) if p.size]

    assert packets(tmp_path / "b.mp4") == packets(source)


@pytest.mark.parametrize("codec", ["aac", "pcm_s16le"])
def test_sound_stays_with_the_pictures_of_a_file_that_starts_late(tmp_path, codec):
    source = make_clip(
        tmp_path / "late.mkv", [numbered(i) for i in range(50)], sound=(codec, 4.0), start=Fraction(3, 2)
    )
    with VideoReader(source) as frames:
        write_video(tmp_path / "b.mp4", frames, frames.frame_rate, audio_from=source)
    _, click, end = sound_of(tmp_path / "b.mp4")
    assert abs(click - 0.5) < 0.03
    assert abs(end - 2.0) < 0.07


def test_pictures_that_start_late_in_the_output_keep_the_sound_in_place(tmp_path):
    source = make_clip(tmp_path / "a.mp4", [numbered(i) for i in range(50)], sound=("aac", 2.0))
    late = [VideoFrame(numbered(i), Fraction(1, 4) + Fraction(i, 25)) for i in range(25)]
    write_video(tmp_path / "b.mp4", late, 25, audio_from=source)
    _, click, _ = sound_of(tmp_path / "b.mp4")
    assert abs(click - 0.25) < 0.01  # a quarter of a second nearer to the first picture


def test_a_source_without_sound_gives_a_video_without(tmp_path):
    source = make_clip(tmp_path / "mute.mp4", [numbered(0)] * 5)
    with VideoReader(source) as frames:
        assert not frames.has_audio
        write_video(tmp_path / "b.mp4", frames, frames.frame_rate, audio_from=source)
    assert not VideoReader(tmp_path / "b.mp4").has_audio


def test_a_sound_file_without_pictures_can_be_used(tmp_path):
    path = tmp_path / "tone.wav"
    with av.open(str(path), "w") as container:
        track = container.add_stream("pcm_s16le", rate=44_100)
        samples = np.zeros((1, 44_100), np.int16)
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate = 44_100
        container.mux(track.encode(frame))
        container.mux(track.encode(None))
    write_video(tmp_path / "b.mp4", [numbered(i) for i in range(10)], 25, audio_from=path)
    codec, _, end = sound_of(tmp_path / "b.mp4")
    assert codec == "aac"
    assert 0.35 < end < 0.47
    with pytest.raises(UserError, match="no video in it, only audio"):
        VideoReader(path)
