"""Video in and out: what a player would show, at the time it would show it, however the work ends."""

from __future__ import annotations

import math
import subprocess
import sys
import tracemalloc
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from autolink.errors import UserError
from autolink.video import VideoFrame, VideoReader, VideoWriter, open_frames, write_video

NTSC = Fraction(30000, 1001)
RED, GREEN, BLUE, WHITE = (200, 30, 30), (30, 180, 40), (40, 40, 200), (230, 230, 230)


def quarters(height: int = 48, width: int = 64) -> np.ndarray:
    """Red, green, blue, white from top left to bottom right."""
    image = np.empty((height, width, 3), np.uint8)
    image[: height // 2, : width // 2], image[: height // 2, width // 2 :] = RED, GREEN
    image[height // 2 :, : width // 2], image[height // 2 :, width // 2 :] = BLUE, WHITE
    return image


def corners(image: np.ndarray) -> list[tuple[int, ...]]:
    """Colours in the middle of the four quarters."""
    height, width = image.shape[:2]
    return [
        tuple(int(v) for v in image[y, x]) for y in (height // 4, 3 * height // 4) for x in (width // 4, 3 * width // 4)
    ]


def assert_quarters(image: np.ndarray, expected: list[tuple[int, ...]], tolerance: int = 4) -> None:
    found = corners(image)
    assert np.abs(np.array(found) - np.array(expected)).max() <= tolerance, f"{found} instead of {expected}"


def numbered(index: int, height: int = 32, width: int = 32) -> np.ndarray:
    return np.full((height, width, 3), (index * 37) % 250, np.uint8)


def make_clip(
    path: Path,
    images: list[np.ndarray],
    times: list[Fraction] | None = None,
    rate: Fraction | int = 25,
    codec: str = "libx264",
    sound: tuple[str, float] | None = None,
    sound_rate: int = 48_000,
    options: dict[str, str] | None = None,
    start: Fraction = Fraction(0),
    edit=lambda stream: None,
) -> Path:
    """A clip made by PyAV alone. `sound`: codec, seconds of it; silent but for a click at 0.5 s."""
    height, width = images[0].shape[:2] if images else (32, 32)
    times = times or [Fraction(i) / rate for i in range(len(images))]
    base = Fraction(1, 90_000)
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=Fraction(rate))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.time_base = stream.codec_context.time_base = base if codec != "mpeg4" else Fraction(1, 25)
        base = stream.codec_context.time_base
        stream.codec_context.colorspace = 1
        edit(stream)
        track = None
        if sound is not None:
            track = container.add_stream(sound[0], rate=sound_rate)
            track.codec_context.layout = "mono"
        for image, at in zip(images, times):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace=1, dst_color_range=1)
            frame.pts, frame.time_base = round((at + start) / base), base
            container.mux(stream.encode(frame))
        if images:
            container.mux(stream.encode(None))
        if track is not None:
            samples = np.zeros((1, int(sound[1] * sound_rate)), np.float32)
            click = int((0.5 + start) * sound_rate)
            samples[0, click : click + 400] = np.sin(np.arange(400) * 2 * math.pi / 40)
            for first in range(0, samples.shape[1], 1024):
                piece = samples[:, first : first + 1024]
                frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout="mono")
                frame.sample_rate, frame.pts, frame.time_base = sound_rate, first, Fraction(1, sound_rate)
                container.mux(track.encode(frame))
            container.mux(track.encode(None))
    return path


def sound_of(path: Path) -> tuple[str, float, float]:
    """Codec, time of the click, time of the end of the sound, in seconds after the first picture."""
    with av.open(str(path)) as container:
        picture = next(container.decode(video=0))
        start = picture.pts * picture.time_base
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        loudest, click, end = 0.0, 0.0, 0.0
        for frame in container.decode(stream):
            values = np.abs(frame.to_ndarray().astype(np.float64)).reshape(-1)
            first = float(frame.pts * frame.time_base - start)
            end = first + frame.samples / frame.sample_rate
            if values.max() > loudest:
                loudest, click = values.max(), first + int(values.argmax()) / frame.sample_rate
        return stream.codec_context.codec.canonical_name, click, end


def times_of(path: Path) -> list[Fraction]:
    with VideoReader(path) as frames:
        return [frame.time for frame in frames]


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


# -- sound ------------------------------------------------------------------------------------------


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
    refuses(tmp_path / "notes.txt", "text file")
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


KILLED = """
import sys
import numpy as np
from autolink.video import VideoWriter

image = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
with VideoWriter(sys.argv[1], 64, 64, 25) as video:
    for i in range(300):
        video.write(np.roll(image, i, axis=1))
    print("written", flush=True)
    sys.stdin.read()
"""


def test_after_kill_9_most_of_the_part_can_be_read(tmp_path):
    target = tmp_path / "a.mp4"
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(target)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout.readline().strip() == b"written"
    process.kill()  # SIGKILL
    process.wait()
    assert not target.exists()
    times = times_of(tmp_path / "a.mp4.part")
    assert len(times) >= 200
    assert times == [Fraction(i, 25) for i in range(len(times))]


# -- as a stream ------------------------------------------------------------------------------------


def test_memory_does_not_grow_with_the_length(tmp_path):
    """1,200 frames are 207 MB. tracemalloc sees numpy's memory, the peak of the process ffmpeg's too."""
    resource = pytest.importorskip("resource")
    y, x = np.mgrid[:180, :320]
    image = np.stack([x % 256, y, (x + y) // 2], axis=2).astype(np.uint8)

    def there_and_back(path: Path, length: int) -> int:
        with VideoWriter(path, 320, 180, 25) as video:
            for i in range(length):
                video.write(np.roll(image, i, axis=1))
        with VideoReader(path) as frames:
            return sum(1 for _ in frames)

    there_and_back(tmp_path / "short.mp4", 120)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    assert there_and_back(tmp_path / "long.mp4", 1200) == 1200
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3e6
    if sys.platform == "linux":  # kilobytes
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 30_000


def test_a_reader_can_be_read_twice_and_closed(tmp_path):
    write_video(tmp_path / "a.mp4", [numbered(i) for i in range(6)], 25)
    with open_frames(tmp_path / "a.mp4") as frames:
        assert [len(list(frames)) for _ in range(2)] == [6, 6]
        assert [a.time == b.time for a, b in zip(frames, frames)] == [True] * 6
        running = iter(frames)
        next(running)
    assert next(running, None) is None


# -- pictures as frames -----------------------------------------------------------------------------


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
