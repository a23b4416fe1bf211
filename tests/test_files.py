"""Files promise: what one is is told by its content at every entrance, and nothing but itself is read."""

from __future__ import annotations

import logging
import os
import struct
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from data_files import one_line, picture, video
from PIL import Image

from autolink.data import open_data
from autolink.errors import UserError
from autolink.files import MEDIA, STILLS, list_files, what_is
from autolink.video import open_frames, write_video
from autolink.video.containers import open_container

pytestmark = pytest.mark.usefixtures("own_data_only")

SECRET = 200
"""Brightness of a video that was not given."""
PLAYLISTS = {
    "hls.m3u8": "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:2\n#EXTINF:1.2,\nsecret.{kind}\n#EXT-X-ENDLIST\n",
    "concat.ffconcat": "ffconcat version 1.0\nfile secret.{kind}\n",
    "concat.mp4": "ffconcat version 1.0\nfile secret.{kind}\n",
    "concat.jpg": "ffconcat version 1.0\nfile secret.{kind}\n",
    "session.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nt=0 0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    "dash.mpd": '<?xml version="1.0"?>\n<MPD><Period><BaseURL>secret.{kind}</BaseURL></Period></MPD>\n',
    "imf.xml": '<?xml version="1.0"?>\n<CompositionPlaylist><Id>urn:uuid:1</Id></CompositionPlaylist>\n',
    "pls.pls": "[playlist]\nFile1=secret.{kind}\n",
    "graph.avi": "movie=secret.{kind}",
}


@pytest.fixture(scope="module")
def secret(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a video that nobody gave."""
    folder = tmp_path_factory.mktemp("secret")
    write_video(folder / "secret.mp4", [np.full((48, 64, 3), SECRET, np.uint8)] * 12, 10)
    return folder


@pytest.mark.parametrize("name", PLAYLISTS)
def test_a_playlist_reads_no_other_file(secret: Path, name: str) -> None:
    """Whatever it is called, and whatever ffmpeg would make of it."""
    given = secret / name
    given.write_text(PLAYLISTS[name].replace("{kind}", "mp4"))
    with pytest.raises(UserError) as error, open_frames(given) as frames:
        list(frames)
    one_line(error, name)


@pytest.mark.parametrize("name", ["p%03d.png", "p*.png", "p%03d.mp4"])
def test_a_pattern_is_a_name(tmp_path: Path, name: str) -> None:
    """ffmpeg takes such a name for those of a series of pictures."""
    for i in range(3):
        picture(tmp_path / f"p{i:03d}.png", colour=(SECRET,) * 3)
    with Image.new("RGB", (40, 30), (10, 10, 10)) as image:
        image.save(tmp_path / name, format="PNG")
    with open_frames(tmp_path / name) as frames:
        assert [frame.image.mean() for frame in frames] == [10]
    with pytest.raises(av.error.FFmpegError):
        open_container(tmp_path / name)


def test_what_commands_wrote_below_a_folder_is_no_input(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def files(*names: str) -> None:
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()

    def listed(folder: str = "", output: Path | None = None) -> list[str]:
        return list_files(tmp_path, tmp_path / folder, STILLS, output=output)

    files("a.png", "b/c.png", "overlays/mine.png")
    own = ["a.png", "b/c.png", "overlays/mine.png"]
    assert listed() == own
    files("run/config.json", "run/log.jsonl", "run/samples/s.png", "b/found/keypoints.csv", "b/found/overlays/c.png")
    files("drawn/graph.json", "drawn/edges.png", "sweep/sweep.json", "sweep/plot.png")
    assert listed() == listed() == own
    named = [f"{tmp_path / name}: left out" for name in ("b/found/overlays", "drawn", "run", "sweep")]
    assert [record.getMessage().split(",")[0] for record in caplog.records] == named
    assert listed("run") == ["run/samples/s.png"]  # if it is asked for
    files("sampled/grid.png")
    assert listed(output=tmp_path / "b/../sampled") == own
    assert listed(output=tmp_path) == [*own, "sampled/grid.png"]


def test_a_film_that_refers_to_another_file_reads_nothing_of_it(secret: Path) -> None:
    """QuickTime can keep pictures elsewhere, by an alias; ffmpeg follows one only if it is told to."""
    film = (secret / "secret.mp4").read_bytes()
    (secret / "alias.mov").write_bytes(with_boxes(film, dref=lambda old: old[:8] + alias("secret.mp4"), mdat=blank))
    with pytest.raises(UserError) as error:
        open_frames(secret / "alias.mov")
    one_line(error, "alias.mov")
    with av.open(str(secret / "alias.mov"), container_options={"enable_drefs": "1"}) as told:
        assert next(told.decode(video=0)).to_ndarray(format="gray").mean() == pytest.approx(SECRET, abs=4)


def with_boxes(film: bytes, **changed: Callable[[bytes], bytes]) -> bytes:
    """An mp4 with the contents of some boxes changed."""
    made = b""
    while film:
        length, kind = struct.unpack(">I4s", film[:8])
        content, film = film[8:length], film[length:]
        if kind in (b"moov", b"trak", b"mdia", b"minf", b"dinf"):
            content = with_boxes(content, **changed)
        content = changed.get(kind.decode("latin-1"), lambda old: old)(content)
        made += struct.pack(">I4s", len(content) + 8, kind) + content
    return made


def blank(old: bytes) -> bytes:
    return bytes(len(old))


def alias(name: str) -> bytes:
    """An entry of `dref` for a file in the same folder."""
    path = f"folder:{name}".encode()
    record = bytes(50) + bytes([len(name)]) + name.encode().ljust(63, b"\0") + bytes(16)
    record += struct.pack(">HH", 1, 1) + bytes(16)  # one level up and one down from where they meet
    record += struct.pack(">HH", 2, len(path)) + path + bytes(len(path) % 2) + struct.pack(">HH", 0xFFFF, 0)
    record = record.ljust(170, b"\0")
    return struct.pack(">I4sI", 12 + len(record), b"alis", 0) + record


def saved(**options: object) -> Callable[[Path], None]:
    """Writes a picture in a format of Pillow's."""
    return lambda path: Image.new("RGB", (40, 30), (200, 20, 20)).save(path, **options)


def moving(**options: object) -> Callable[[Path], None]:
    """Writes three pictures as an animation."""
    frames = [Image.new("RGB", (40, 30), (60 * i, 20, 20)) for i in range(3)]
    return lambda path: frames[0].save(path, save_all=True, append_images=frames[1:], **options)


def film(format: str, codec: str = "mpeg4") -> Callable[[Path], None]:
    """Writes a video in a container of ffmpeg's."""

    def write(path: Path) -> None:
        with av.open(str(path), "w", format=format) as output:
            stream = output.add_stream(codec, rate=10)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for seed in range(3):
                noise = np.random.default_rng(seed).integers(0, 255, (48, 64, 3), np.uint8)
                output.mux(stream.encode(av.VideoFrame.from_ndarray(noise, "rgb24")))
            output.mux(stream.encode(None))

    return write


def heic(path: Path) -> None:
    path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")


KINDS = {
    "JPEG": ("still", saved(format="JPEG")),
    "PNG": ("still", saved(format="PNG")),
    "PNG with a long profile": ("still", saved(format="PNG", icc_profile=bytes(range(256)) * 40)),
    "WebP": ("still", saved(format="WEBP")),
    "BMP": ("still", saved(format="BMP")),
    "TIFF": ("still", saved(format="TIFF")),
    "PPM": ("still", saved(format="PPM")),
    "JPEG 2000": ("still", saved(format="JPEG2000")),
    "AVIF": ("still", saved(format="AVIF")),
    "GIF of one frame": ("still", saved(format="GIF")),
    "GIF": ("animation", moving(format="GIF")),
    "animated WebP": ("animation", moving(format="WEBP")),
    "animated PNG": ("animation", moving(format="PNG", icc_profile=bytes(range(256)) * 40)),
    "mp4": ("video", film("mp4")),
    "mov": ("video", film("mov")),
    "Matroska": ("video", film("matroska")),
    "AVI": ("video", film("avi")),
    "transport stream": ("video", film("mpegts", "mpeg2video")),
    "program stream": ("video", film("mpeg", "mpeg2video")),
    "FLV": ("video", film("flv", "flv1")),
    "ASF": ("video", film("asf")),
    "raw H.264": ("video", film("h264", "libx264")),
    "text": ("other", lambda path: path.write_text("P1 is what the free text in BM says\n")),
    "arrays": ("other", lambda path: np.save(path.open("wb"), np.zeros(30))),
    "playlist": ("other", lambda path: path.write_text("#EXTM3U\n")),
    "HEIC": ("other", heic),
}


@pytest.mark.parametrize("name", ["x.jpg", "x.mp4", "x.dat", "x"])
@pytest.mark.parametrize("content", KINDS)
def test_content_says_what_a_file_is(tmp_path: Path, content: str, name: str) -> None:
    """Whatever it is called; a name counts where the content says nothing, so that its reader can name the file."""
    kind, write = KINDS[content]
    write(tmp_path / name)
    meant = {"x.jpg": "still", "x.mp4": "video"}.get(name, "other")
    assert what_is(tmp_path / name).kind == (meant if content in ("text", "arrays") else kind)
    if kind != "other":
        with open_frames(tmp_path / name) as frames:
            assert len(list(frames)) == (1 if kind == "still" else 3)


def test_a_pipe_is_told_that_it_cannot_be_read_twice(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    for call in (open_frames, what_is, lambda path: open_data(str(path), 16)):
        with pytest.raises(UserError) as error:
            call(tmp_path / "pipe.mp4")
        one_line(error, "pipe.mp4", "read twice")
    picture(tmp_path / "a.png")
    assert list_files(tmp_path, tmp_path, MEDIA) == ["a.png"]


def test_what_is_left_out_is_named_once_with_its_number(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for i in range(20):
        heic(tmp_path / f"IMG_{i:04d}.HEIC")
    for name in ("a.jpg", "b.jpg"):
        picture(tmp_path / name)
    video(tmp_path / "clip.mp4", frames=2)
    (tmp_path / "unfinished.jpg.part").write_bytes((tmp_path / "a.jpg").read_bytes())
    (tmp_path / "times.csv").write_text("")
    with caplog.at_level(logging.WARNING):
        for split in ("train", "val"):
            assert len(open_data(str(tmp_path), 16, split)) == 1
    assert len(caplog.messages) == 1
    one_message = caplog.messages[0]
    assert "left out 22 files that are no pictures" in one_message and "\n" not in one_message
    for part in ("20 .heic (HEIF: install pillow-heif)", "1 .mp4 (videos)", "1 .part (unfinished)"):
        assert part in one_message


def test_a_folder_of_nothing_that_is_read_says_what_would_help(tmp_path: Path) -> None:
    heic(tmp_path / "a.jpg")
    with pytest.raises(UserError) as error:
        open_data(str(tmp_path), 16)
    one_line(error, "a.jpg", "install pillow-heif")
    assert list_files(tmp_path, tmp_path, STILLS) == []


def test_one_damaged_picture_of_a_folder_of_frames_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for i in range(5):
        picture(tmp_path / f"{i}.png", colour=(50 * i, 20, 20))
    (tmp_path / "0.png").write_bytes(b"")
    (tmp_path / "2.png").write_bytes((tmp_path / "2.png").read_bytes()[:60])
    with open_frames(tmp_path) as frames:
        for _ in range(2):
            assert [(frame.image[0, 0, 0], frame.time) for frame in frames] == [
                *((50 * i, i / frames.frame_rate) for i in (1, 3, 4))
            ]
    assert [sum(name in message for message in caplog.messages) for name in ("0.png", "2.png")] == [1, 1]


def test_a_gif_that_claims_to_be_huge_is_refused_in_one_line(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.gif")
    content = path.read_bytes()
    path.write_bytes(content[:6] + b"\xff\xff\xff\xff" + content[10:])  # its width and height
    with pytest.raises(UserError) as error, open_frames(path) as frames:
        list(frames)
    one_line(error, "a.gif")
