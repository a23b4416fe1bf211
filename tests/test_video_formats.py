"""Outputs of all kinds: mp4, webm, animations and folders of pictures, chosen by their names."""

from __future__ import annotations

import csv
import math
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from video_files import (
    BLUE,
    GREEN,
    NTSC,
    RED,
    WHITE,
    assert_quarters,
    make_clip,
    numbered,
    quarters,
    sound_of,
    times_of,
)

from autolink.data.synthetic import synthetic_clip
from autolink.errors import UserError
from autolink.video import VideoFrame, VideoReader, check_output, open_frames, open_output, write_video


def written(path: Path, images: list[np.ndarray], rate: Fraction | float = 25, **options) -> Path:
    height, width = images[0].shape[:2]
    with open_output(path, width, height, rate, **options) as output:
        for image in images:
            output.write(image)
        assert (output.path, output.written) == (path, len(images))
        assert output.last_time == (len(images) - 1) / Fraction(rate)
    return path


# -- the choice -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind", "size"),
    [
        ("a.mp4", "h264", (50, 64)),
        ("a.WEBM", "vp9", (50, 64)),
        ("a.gif", "GIF", (49, 63)),
        ("a.webp", "WEBP", (49, 63)),
        ("a.APNG", "PNG", (49, 63)),
        ("a", "PNG", (49, 63)),
    ],
)
def test_the_name_chooses(tmp_path, name, kind, size):
    images = [quarters(49, 63) for _ in range(6)]
    for number, image in enumerate(images):  # else a WebP would show the first for longer
        image[0, 5 * number : 5 * number + 5] = 255
    path = written(tmp_path / "deep" / name, images)
    with open_frames(path) as frames:
        shown = list(frames)
        assert (frames.height, frames.width) == size
    assert len(shown) == 6
    for frame in shown:
        assert_quarters(frame.image, [RED, GREEN, BLUE, WHITE], tolerance=4)
    if path.suffix in (".mp4", ".WEBM"):
        with av.open(str(path)) as container:
            assert container.streams.video[0].codec_context.codec.canonical_name == kind
    else:
        with Image.open(path / "000005.png" if path.is_dir() else path) as picture:
            assert picture.format == kind


def test_names_that_cannot_be_written(tmp_path):
    (tmp_path / "film.webm").mkdir()
    (tmp_path / "file").write_text("no folder")
    for name, words in [
        ("a.avi", r"ending in \.mp4, \.webm, \.gif, \.webp or \.apng"),
        ("a.png", r"\.apng"),
        ("film.webm", "folder"),
        ("file", "a file of"),
    ]:
        for use in (check_output, lambda path: open_output(path, 32, 32, 25)):
            with pytest.raises(UserError, match=words) as caught:
                use(tmp_path / name)
            assert "\n" not in str(caught.value) and str(tmp_path / name) in str(caught.value)
    for name in ("a.mp4", "a.webm", "a.gif", "a.webp", "a.apng", "a", "film"):
        check_output(tmp_path / name)


@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "a.gif", "a.webp", "a.apng", "a"])
def test_without_a_frame_nothing_is_left(tmp_path, name):
    with pytest.raises(UserError, match="no frame"), open_output(tmp_path / name, 32, 32, 25):
        pass
    with pytest.raises(RuntimeError), open_output(tmp_path / name, 32, 32, 25):
        raise RuntimeError
    assert not list(tmp_path.iterdir())


# -- webm -------------------------------------------------------------------------------------------


def test_a_webm_has_exact_milliseconds_and_bt709(tmp_path):
    path = written(tmp_path / "a.webm", [numbered(i) for i in range(70)], NTSC)
    with VideoReader(path) as frames:
        assert frames.frame_rate == NTSC
        assert abs(frames.duration - 70 / NTSC) < Fraction(2, 1000)
        times = [frame.time for frame in frames]
    assert max(abs(time - i / NTSC) for i, time in zip(range(70), times, strict=True)) <= Fraction(1, 2000)
    with av.open(str(path)) as container:
        assert container.format.name == "matroska,webm"
        frame = next(container.decode(video=0))
        assert (frame.colorspace, frame.color_range, frame.format.name) == (1, 1, "yuv420p")


@pytest.mark.parametrize(
    ("codec", "copied"), [("libopus", True), ("aac", False), ("pcm_s16le", False), ("libmp3lame", False)]
)
def test_sound_in_a_webm_is_opus_and_in_time(tmp_path, codec, copied):
    source = make_clip(tmp_path / "a.mkv", [numbered(i) for i in range(50)], sound=(codec, 2.0))
    expected = sound_of(source)
    write_video(tmp_path / "b.webm", (numbered(i) for i in range(40)), 25, audio_from=source)
    kind, click, end = sound_of(tmp_path / "b.webm")
    assert kind == "opus"
    assert abs(click - expected[1]) < 0.008  # the length of the click
    assert abs(end - 1.6) < 0.07
    assert times_of(tmp_path / "b.webm") == [Fraction(i, 25) for i in range(40)]

    def packets(path: Path) -> list[bytes]:
        with av.open(str(path)) as container:
            return [bytes(packet) for packet in container.demux(container.streams.audio[0]) if packet.size]

    assert (packets(tmp_path / "b.webm") == packets(source)[: len(packets(tmp_path / "b.webm"))]) == copied


# -- sound of a piece -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "codec", "start"),
    [
        ("b.mp4", "aac", Fraction(3, 10)),
        ("b.mp4", "aac", -1),
        ("b.mp4", "pcm_s16le", 0.4),
        ("b.mp4", "pcm_s16le", -1),
        ("b.webm", "aac", Fraction(3, 10)),
        ("b.webm", "libopus", 0.4),
        ("b.webm", "libopus", -1),
        ("b", "aac", 0.4),
        ("b", "pcm_s16le", Fraction(3, 10)),
    ],
)
def test_sound_of_a_piece_starts_with_the_piece(tmp_path, name, codec, start):
    """The click is heard 0.5 s after the first picture of the source, which starts late in its file."""
    source = make_clip(tmp_path / "a.mkv", [numbered(i) for i in range(75)], sound=(codec, 3.5), start=Fraction(1, 2))
    path = written(tmp_path / name, [numbered(i) for i in range(40)], audio_from=source, audio_start=start)
    _, click, end = sound_of(path / "sound.m4a" if path.is_dir() else path)
    assert abs(click - (0.5 - float(start))) < 0.01
    assert abs(end - 1.6) < 0.07
    if not path.is_dir():
        with av.open(str(path)) as container:
            assert next(container.decode(video=0)).time == 0


def test_a_piece_after_the_end_of_the_sound_is_silent(tmp_path, caplog):
    source = make_clip(tmp_path / "a.mp4", [numbered(i) for i in range(75)], sound=("aac", 1.0))
    path = written(tmp_path / "b.mp4", [numbered(i) for i in range(10)], audio_from=source, audio_start=2)
    assert not VideoReader(path).has_audio
    assert "its sound ends before 2 s" in caplog.text


# -- animations -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.webp", "a.apng"])
def test_a_webp_or_apng_keeps_time_to_a_thousandth(tmp_path, name):
    times = [Fraction(i, 25) + Fraction(i % 3, 100) for i in range(12)]
    write_video(tmp_path / name, (VideoFrame(numbered(i), time) for i, time in enumerate(times)), 5)
    with open_frames(tmp_path / name) as frames:
        assert [frame.time for frame in frames] == times
        assert frames.duration == times[-1] + Fraction(1, 5)
    with Image.open(tmp_path / name) as picture:
        assert (picture.n_frames, picture.info["loop"]) == (12, 0)
    written(tmp_path / name, [numbered(i) for i in range(30)], NTSC)
    with open_frames(tmp_path / name) as frames:
        assert [frame.time for frame in frames] == [Fraction(round(i / NTSC * 1000), 1000) for i in range(30)]


@pytest.mark.parametrize("name", ["a.webp", "a.apng"])
def test_a_webp_or_apng_has_no_frame_that_viewers_would_slow_down(tmp_path, name):
    with open_frames(written(tmp_path / name, [numbered(i) for i in range(60)], 120)) as frames:
        times = [frame.time for frame in frames]
    assert min(b - a for a, b in pairwise(times)) > Fraction(1, 100) and len(times) >= 30


def test_what_a_webp_and_an_apng_lose(tmp_path):
    """Nothing in an APNG; in a WebP little where it is smooth."""
    y, x = np.mgrid[:65, :97]
    shades = np.stack([x * 2, y * 3, (x + y) % 128 + 64], axis=2).astype(np.uint8)
    images = [np.roll(shades, 3 * i, axis=1) for i in range(8)]
    for name, most, mean in (("a.apng", 0, 0), ("a.webp", 80, 3)):
        with open_frames(written(tmp_path / name, images)) as frames:
            errors = [np.abs(frame.image.astype(int) - image) for frame, image in zip(frames, images, strict=True)]
        assert np.max(errors) <= most and np.mean(errors) <= mean


def test_what_is_too_large_for_a_webp_is_said_before_the_work(tmp_path):
    with pytest.raises(UserError, match="20000x16, where a WebP has up to 16383"):
        open_output(tmp_path / "a.webp", 20_000, 16, 25)
    assert not list(tmp_path.iterdir())


def test_an_animation_of_one_frame_is_a_picture(tmp_path):
    for name in ("a.gif", "a.webp", "a.apng"):
        with open_frames(written(tmp_path / name, [quarters()])) as frames:
            assert_quarters(next(iter(frames)).image, [RED, GREEN, BLUE, WHITE])
            assert frames.frame_count == 1


@pytest.mark.parametrize("rate", [NTSC, Fraction(25), Fraction(7)])
def test_a_gif_keeps_time_to_a_hundredth(tmp_path, rate):
    path = written(tmp_path / "a.gif", [numbered(i) for i in range(60)], rate)
    assert times_of(path) == [Fraction(round(i / rate * 100), 100) for i in range(60)]
    with Image.open(path) as gif:
        assert (gif.n_frames, gif.info["loop"]) == (60, 0)
        gif.seek(59)
        assert gif.info["duration"] == round(100 / rate) * 10  # ms


def test_a_gif_has_no_frame_that_viewers_would_slow_down(tmp_path):
    """At 60 frames a second some come after 1/100 s, which browsers show for ten times as long."""
    times = times_of(written(tmp_path / "a.gif", [numbered(i) for i in range(60)], 60))
    assert min(b - a for a, b in pairwise(times)) == Fraction(2, 100)
    assert {Fraction(round(i / 60 * 100), 100) for i in range(60)} > set(times) and len(times) >= 30
    assert times[-1] > Fraction(95, 100)


def test_a_gif_shares_256_colours_among_its_frames(tmp_path):
    """Up to 255 colours have a place, whichever frame they are in; dithering moves a few pixels."""
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (5, 50, 3)).astype(np.uint8)
    images = [rng.permutation(np.repeat(few, 20, axis=0)).reshape(25, 40, 3) for few in colours]
    source = make_clip(tmp_path / "a.mp4", [numbered(0)] * 5, sound=("aac", 1.0))
    with VideoReader(written(tmp_path / "a.gif", images, 10, audio_from=source)) as frames:
        assert not frames.has_audio
        errors = [np.abs(frame.image.astype(int) - image) for frame, image in zip(frames, images, strict=True)]
    assert np.max(errors) <= 16 and np.mean(errors) < 0.05  # of 255


def test_a_gif_of_many_colours_looks_like_its_source(tmp_path):
    y, x = np.mgrid[:64, :96]
    shades = np.stack([x * 2, y * 3, (x + y) % 128 + 64], axis=2).astype(np.uint8)
    path = written(tmp_path / "a.gif", [np.roll(shades, 3 * i, axis=1) for i in range(8)])
    for i, frame in enumerate(VideoReader(path)):
        error = frame.image.astype(int) - np.roll(shades, 3 * i, axis=1)
        assert np.abs(error).mean() < 8  # of 255
        assert np.abs(error.mean(axis=(0, 1))).max() < 2


# -- folders ----------------------------------------------------------------------------------------


def test_a_folder_holds_the_pictures_as_they_are_and_their_times(tmp_path):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (9, 7, 3)).astype(np.uint8) for _ in range(12)]
    times = [math.pi / 50 * i for i in range(12)]
    write_video(tmp_path / "out", map(VideoFrame, images, times), 25)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *(f"{i:06d}.png" for i in range(12)),
        "times.csv",
    ]
    with open_frames(tmp_path / "out") as frames:
        assert all((frame.image == image).all() for frame, image in zip(frames, images, strict=True))
    header, *rows = csv.reader((tmp_path / "out" / "times.csv").read_text().splitlines())
    assert header == ["file", "seconds"] and [file for file, _ in rows] == [f"{i:06d}.png" for i in range(12)]
    assert max(abs(float(row[1]) - time) for row, time in zip(rows, times, strict=True)) < 1e-12


def test_a_clip_of_variable_rate_comes_back_from_a_folder_exactly(tmp_path):
    """Also after an hour, and if decimals do not hold it: to denominators of a million."""
    last = 3600 + Fraction(1, 999_983)
    times = [Fraction(0), Fraction(1, 90_000), Fraction(2, 90_000), 1 / NTSC, Fraction(1, 3), Fraction(7, 11), last]
    write_video(tmp_path / "folder", (VideoFrame(numbered(i), time) for i, time in enumerate(times)), 25)
    with open_frames(tmp_path / "folder") as frames:
        assert [frame.time for frame in frames] == times
        assert frames.frame_rate == (len(times) - 1) / times[-1] and frames.frame_count == len(times)
        assert frames.duration == times[-1] + 1 / frames.frame_rate
    clip = make_clip(tmp_path / "clip.mp4", [numbered(i) for i in range(9)], [Fraction(i * i, 90) for i in range(9)])
    with open_frames(clip) as frames:
        write_video(tmp_path / "again", frames, frames.frame_rate)
    with open_frames(tmp_path / "again") as frames:
        write_video(tmp_path / "again.mp4", frames, frames.frame_rate)
    assert times_of(tmp_path / "again.mp4") == times_of(clip)


def test_pictures_taken_away_leave_the_times_of_the_others(tmp_path):
    folder = tmp_path / "folder"
    write_video(folder, (VideoFrame(numbered(i), Fraction(i * i, 3)) for i in range(6)), 25)
    for number in (0, 3):
        (folder / f"{number:06d}.png").unlink()
    with open_frames(folder) as frames:
        assert [frame.time for frame in frames] == [Fraction(i * i - 1, 3) for i in (1, 2, 4, 5)]


WRONG_TIMES = {
    "a picture more": ("000002.png,0.08\n", "", "no time of 000002.png"),
    "a damaged row": ("0.04\n", "soon\n", "'soon' for 000001.png"),
    "a row cut off": (",0.08\n", "", "no time of 000002.png"),
    "times that stand still": ("0.08", "0.04", "000002.png is not later than 000001.png"),
    "another table": ("file,seconds", "frame,ms", "no time of 000000.png"),
    "no text": ("file", "\udcff", "no text"),
}


@pytest.mark.parametrize("what", WRONG_TIMES)
def test_times_that_do_not_fit_the_pictures_are_one_line(tmp_path, what):
    before, after, words = WRONG_TIMES[what]
    for number in range(3):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{number:06d}.png")
    rows = "file,seconds\n000000.png,0\n000001.png,0.04\n000002.png,0.08\n"
    assert before in rows
    (tmp_path / "times.csv").write_text(rows.replace(before, after), errors="surrogateescape")
    with pytest.raises(UserError, match=words) as caught:
        open_frames(tmp_path)
    assert str(tmp_path / "times.csv") in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_keeps_what_is_in_it_and_takes_no_second_set(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="no frame"), open_output(tmp_path, 8, 8, 25):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.jpg")
    for resume in (False, True):
        with pytest.raises(UserError, match="pictures in this folder already"):
            open_output(tmp_path, 8, 8, 25, resume=resume)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "photo.jpg"]


def test_what_a_file_says_of_itself_may_be_in_any_encoding(tmp_path: Path) -> None:
    make_clip(tmp_path / "a.mp4", [numbered(0), numbered(1)], edit=lambda stream: None)
    content = (tmp_path / "a.mp4").read_bytes()
    assert b"isomiso2" in content
    (tmp_path / "a.mp4").write_bytes(content.replace(b"isomiso2", b"isom\xd1so2"))  # brands are told as texts
    with VideoReader(tmp_path / "a.mp4") as frames:
        assert len(list(frames)) == 2


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".gif", ".webp", ".apng"])
def test_the_same_frames_become_the_same_bytes(tmp_path: Path, suffix: str) -> None:
    images = list(synthetic_clip(0, 30, 48)[0].permute(0, 2, 3, 1).contiguous().numpy())
    images = images[:4] if suffix == ".webp" else images
    files = [written(tmp_path / f"{number}{suffix}", images) for number in range(4)]
    assert len({file.read_bytes() for file in files}) == 1
