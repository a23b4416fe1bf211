"""Files promise: what one is is told by its content at every entrance, and nothing but itself is read."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from data_files import one_line, picture
from PIL import Image

from autolink.errors import UserError
from autolink.files import STILLS, list_files
from autolink.media import open_container
from autolink.video import open_frames, write_video

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
    assert listed() == listed() == own
    named = [f"{tmp_path / 'b/found/overlays'}: left out", f"{tmp_path / 'run'}: left out"]
    assert [record.getMessage().split(",")[0] for record in caplog.records] == named
    assert listed("run") == ["run/samples/s.png"]  # if it is asked for
    files("sampled/grid.png")
    assert listed(output=tmp_path / "b/../sampled") == own
    assert listed(output=tmp_path) == [*own, "sampled/grid.png"]
