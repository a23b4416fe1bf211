"""Video in and out: what a player would show, at the time it would show it, as a stream."""

from __future__ import annotations

import math
import sys
import tracemalloc
from fractions import Fraction
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
    corners,
    make_clip,
    numbered,
    quarters,
    sound_of,
    times_of,
)

from autolink.video import VideoFrame, VideoReader, VideoWriter, open_frames, write_video

# -- time -------------------------------------------------------------------------------------------


def test_variable_frame_rate_comes_back_exactly(tmp_path):
    rng = np.random.default_rng(0)
    steps = [Fraction(int(n), 90_000) for n in rng.integers(400, 30_000, 80)]
    times = [sum(steps[:i], Fraction(0)) for i in range(80)]
    source = make_clip(tmp_path / "vfr.mp4", [numbered(i) for i in range(80)], times)
    assert times_of(source) == times

    with VideoReader(source) as frames:
        write_video(tmp_path / "copy.mp4", frames, frames.frame_rate)
    assert times_of(tmp_path / "copy.mp4") == times


@pytest.mark.parametrize("rate", [NTSC, Fraction(24000, 1001), Fraction(60000, 1001), Fraction(5)])
def test_frame_rates_do_not_drift(tmp_path, rate):
    write_video(tmp_path / "a.mp4", (numbered(i) for i in range(70)), rate)
    with VideoReader(tmp_path / "a.mp4") as frames:
        assert frames.frame_rate == rate
        assert frames.frame_count == 70
        assert abs(frames.duration - 70 / rate) < Fraction(1, 1000)
        assert [f.time for f in frames] == [i / rate for i in range(70)]


def test_times_that_fit_no_frame_rate_are_kept_to_a_tick(tmp_path):
    times = [math.pi / 50 * i for i in range(20)]
    write_video(tmp_path / "a.mp4", (VideoFrame(numbered(i), t) for i, t in enumerate(times)), 29.97)
    assert max(abs(float(a) - b) for a, b in zip(times_of(tmp_path / "a.mp4"), times)) <= 0.5 / 90_000


def test_times_start_at_the_first_frame(tmp_path):
    source = make_clip(tmp_path / "late.mkv", [numbered(i) for i in range(5)], start=Fraction(2))
    assert times_of(source) == [Fraction(i, 25) for i in range(5)]


def test_times_must_rise(tmp_path):
    with pytest.raises(ValueError, match="must rise"), VideoWriter(tmp_path / "a.mp4", 32, 32, 25) as video:
        video.write(numbered(0), Fraction(1))
        video.write(numbered(0), Fraction(1))


# -- geometry and colour ----------------------------------------------------------------------------


@pytest.mark.parametrize("degrees", [90, -90, 180])
def test_rotation(tmp_path, degrees):
    path = tmp_path / "r.mp4"
    source = make_clip(path, [quarters()] * 3, edit=lambda stream: stream.set_display_rotation(degrees))
    with av.open(str(source)) as container:
        rotation = next(container.decode(video=0)).rotation
    assert abs(rotation) == abs(degrees)
    with VideoReader(source) as frames:
        image = next(iter(frames)).image
        assert (frames.height, frames.width) == image.shape[:2]
        assert (frames.height, frames.width) == ((48, 64) if degrees == 180 else (64, 48))
    assert_quarters(image, corners(np.rot90(quarters(), k=round(rotation / 90) % 4)))


def test_mirrored_and_rotated(tmp_path):
    def turn(stream):
        stream.set_display_rotation(90, hflip=True)

    source = make_clip(tmp_path / "m.mp4", [quarters()], edit=turn)
    with VideoReader(source) as frames:
        assert_quarters(next(iter(frames)).image, corners(np.rot90(quarters())[:, ::-1]))


@pytest.mark.parametrize(("aspect", "size"), [(Fraction(4, 3), (48, 85)), (Fraction(2, 3), (72, 64))])
def test_pixels_are_made_square(tmp_path, aspect, size):
    def stretch(stream):
        stream.codec_context.sample_aspect_ratio = aspect

    source = make_clip(tmp_path / "s.mp4", [quarters()] * 3, edit=stretch)
    with VideoReader(source) as frames:
        image = next(iter(frames)).image
        assert (frames.height, frames.width) == image.shape[:2] == size
    assert_quarters(image, [RED, GREEN, BLUE, WHITE])


def test_odd_sizes_are_padded_with_their_edge(tmp_path):
    image = quarters(49, 63)
    write_video(tmp_path / "odd.mp4", [image] * 3, 25)
    with VideoReader(tmp_path / "odd.mp4") as frames:
        assert (frames.height, frames.width) == (50, 64)
        shown = next(iter(frames)).image.astype(int)
    assert np.abs(shown[:, 63] - shown[:, 62]).max() <= 8
    assert np.abs(shown[49] - shown[48]).max() <= 8


def test_colours_survive_a_round_trip(tmp_path):
    rng = np.random.default_rng(1)
    patches = rng.integers(0, 256, (6, 8, 3)).astype(np.uint8)
    image = patches.repeat(32, 0).repeat(32, 1)
    write_video(tmp_path / "a.mp4", [image] * 10, 25)
    with VideoReader(tmp_path / "a.mp4") as frames:
        for shown, _ in frames:
            middles = shown.reshape(6, 32, 8, 32, 3)[:, 8:24, :, 8:24].transpose(0, 2, 1, 3, 4).astype(int)
            error = np.abs(middles - patches[:, :, None, None])
            assert error.max() <= 3 and error.mean() < 0.8  # of 255
    with av.open(str(tmp_path / "a.mp4")) as container:
        tags = container.streams.video[0].codec_context
        assert (tags.colorspace, tags.color_primaries, tags.color_trc, tags.color_range) == (1, 1, 1, 1)
        assert tags.pix_fmt == "yuv420p" and tags.codec.canonical_name == "h264"


def test_full_range_video_is_read_as_such(tmp_path):
    path = tmp_path / "jpeg.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        frame = av.VideoFrame.from_ndarray(quarters(), format="rgb24")
        frame = frame.reformat(format="yuvj420p", dst_colorspace=5, dst_color_range=2)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with VideoReader(path) as frames:
        assert_quarters(next(iter(frames)).image, [RED, GREEN, BLUE, WHITE], tolerance=6)


@pytest.mark.parametrize("matrix", [1, 5])  # BT.709, BT.601
@pytest.mark.parametrize("limited", [True, False])
def test_matrix_and_range_are_read_as_the_file_says(tmp_path, matrix, limited):
    """Against the definition: Y' of a colour by its matrix, in 16 to 235 or 0 to 255."""
    red, blue = {1: (0.2126, 0.0722), 5: (0.299, 0.114)}[matrix]
    rgb = np.array(RED) / 255
    luma = red * rgb[0] + (1 - red - blue) * rgb[1] + blue * rgb[2]
    chroma = (rgb[2] - luma) / (2 - 2 * blue), (rgb[0] - luma) / (2 - 2 * red)
    scales = (219, 16, 224) if limited else (255, 0, 255)
    planes = np.empty((48 * 3 // 2, 64), np.uint8)
    planes[:48] = round(luma * scales[0] + scales[1])
    planes[48:60], planes[60:] = (round(value * scales[2] + 128) for value in chroma)
    path = tmp_path / "flat.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"qp": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = matrix, 1 if limited else 2
        container.mux(stream.encode(av.VideoFrame.from_ndarray(planes, format="yuv420p")))
        container.mux(stream.encode(None))
    with VideoReader(path) as frames:
        (frame,) = frames
    assert np.abs(frame.image.astype(int) - RED).max() <= 2


@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [
        ("a.mov", "qtrle", "argb"),
        ("a.mov", "png", "rgba"),
        ("a.mov", "prores_ks", "yuva444p10le"),
        ("a.webm", "libvpx-vp9", "yuva420p"),
        ("a.webm", "libvpx", "yuva420p"),
    ],
)
def test_transparency_shows_grey_as_in_pictures(tmp_path, name, codec, pixels):
    image = np.dstack([quarters(), np.full((48, 64), 255, np.uint8)])
    image[24:, :32, 3], image[24:, 32:, 3] = 0, 128  # blue cannot be seen, white half
    with av.open(str(tmp_path / name), "w") as container:
        options = {"auto-alt-ref": "0"} if codec == "libvpx" else {}
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
        for i in range(5):
            frame = av.VideoFrame.from_ndarray(image, format="rgba").reformat(format=pixels)
            frame.pts, frame.time_base = i, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with VideoReader(tmp_path / name) as frames:
        shown = list(frames)
    assert [frame.time for frame in shown] == [Fraction(i, 25) for i in range(5)]
    assert_quarters(shown[4].image, [RED, GREEN, (128, 128, 128), (179, 179, 179)], tolerance=6)


# -- as a stream ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "length"), [(".mp4", 2000), (".webm", 300), (".gif", 150), (".webp", 150), (".apng", 150)]
)
def test_memory_does_not_grow_with_the_length(tmp_path, suffix, length):
    """150 frames are 17 MB. tracemalloc sees numpy's memory, the peak of the process ffmpeg's too."""
    resource = pytest.importorskip("resource")
    y, x = np.mgrid[:144, :256]
    image = np.stack([x, y, (x + y) // 2], axis=2).astype(np.uint8)

    def there_and_back(path: Path, length: int) -> int:
        with VideoWriter(path, 256, 144, 25) as video:
            for i in range(length):
                video.write(np.roll(image, i, axis=1))
        with open_frames(path) as frames:
            return sum(1 for _ in frames)

    there_and_back(tmp_path / f"short{suffix}", 100)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    assert there_and_back(tmp_path / f"long{suffix}", length) == length
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3e6
    if sys.platform == "linux":  # kilobytes
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 10_000


def test_a_reader_can_be_read_twice_and_closed(tmp_path):
    write_video(tmp_path / "a.mp4", [numbered(i) for i in range(6)], 25)
    with open_frames(tmp_path / "a.mp4") as frames:
        assert [len(list(frames)) for _ in range(2)] == [6, 6]
        assert [a.time == b.time for a, b in zip(frames, frames)] == [True] * 6
        running = iter(frames)
        next(running)
    assert next(running, None) is None


# -- pictures as frames -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["clip.mp4", "clip.webm", "clip.gif"])
@pytest.mark.parametrize("start", [0, Fraction(3, 2)])
def test_the_frame_at_a_moment_is_that_of_reading_all(tmp_path, name, start):
    path = tmp_path / name
    if path.suffix == ".mp4":
        make_clip(path, [numbered(i) for i in range(60)], options={"movflags": "faststart"}, start=Fraction(start))
    else:
        write_video(path, (numbered(i) for i in range(60)), 25)
    with open_frames(path) as video:
        frames = list(video)
        for wanted in (0, 0.5, 1.01, 2.2, 9):
            found, expected = video.at(wanted), next((f for f in frames if f.time >= wanted), frames[-1])
            assert found.time == expected.time and np.array_equal(found.image, expected.image)


def test_a_folder_of_pictures_in_natural_order(tmp_path):
    for i in (10, 9, 2, 1):
        Image.fromarray(np.full((20, 30, 3), i, np.uint8)).save(tmp_path / f"frame{i}.png")
    (tmp_path / "notes.txt").write_text("not a frame")
    with open_frames(tmp_path) as frames:
        assert (frames.width, frames.height, frames.frame_count, frames.has_audio) == (30, 20, 4, False)
        assert frames.frame_rate == 25 and frames.duration == Fraction(4, 25)
        assert [(int(f.image[0, 0, 0]), f.time * 25) for f in frames] == [(1, 0), (2, 1), (9, 2), (10, 3)]


def test_a_picture_is_one_upright_frame(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # shown rotated by 90 degrees clockwise
    Image.fromarray(quarters()).save(tmp_path / "photo.jpg", quality=95, exif=exif)
    with open_frames(tmp_path / "photo.jpg") as frames:
        assert (frames.width, frames.height, frames.frame_count) == (48, 64, 1)
        (frame,) = frames
    assert frame.time == 0
    assert_quarters(frame.image, corners(np.rot90(quarters(), k=-1)), tolerance=8)


# -- real clips -------------------------------------------------------------------------------------


def test_a_real_clip_with_sound(tmp_path, real_data):
    source = real_data / "clips" / "face_man_audio.mp4"
    with open_frames(source) as frames:
        write_video(tmp_path / "copy.mp4", frames, frames.frame_rate, audio_from=source)
    with open_frames(source) as frames, open_frames(tmp_path / "copy.mp4") as copies:
        assert copies.has_audio and copies.frame_rate == frames.frame_rate == 25
        pairs = list(zip((f.time for f in frames), (f.time for f in copies), strict=True))
        assert len(pairs) == 221 and all(a == b for a, b in pairs)
        first, copy = next(iter(frames)).image, next(iter(copies)).image
        assert np.abs(first.astype(int) - copy).mean() < 2
    assert abs(sound_of(tmp_path / "copy.mp4")[2] - 221 / 25) < 0.07


def test_a_real_clip_with_pixels_that_are_not_square(real_data):
    with open_frames(real_data / "clips" / "faces" / "d9.mp4") as frames:  # 512 x 480, 15:16
        assert (frames.width, frames.height) == (512, 512)


def test_log_messages_stay_out_of_python(tmp_path):
    """Else a decoding thread that logs and the thread that ends it wait for each other (torchvision 0.21)."""
    for use in (
        lambda: write_video(tmp_path / "v.mp4", [np.zeros((16, 16, 3), np.uint8)] * 3, 25),
        lambda: list(VideoReader(tmp_path / "v.mp4")),
    ):
        av.logging.set_level(av.logging.ERROR)
        use()
        assert av.logging.get_level() is None
