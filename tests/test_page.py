"""The page's server, without a browser, against a real port: who may use it, what it takes, and what it answers."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from autolink import AutoLink, UserError
from autolink.runs import claimed

pytest.importorskip("starlette", reason="needs autolink-graph[serve]")
import websockets
from page_server import Served, make_runs, portrait
from websockets.sync.client import ClientConnection, connect

from autolink_apps.page import app, performers, uploads
from autolink_apps.page.camera import IN_A_ROW
from autolink_apps.page.catalogue import Catalogue
from autolink_apps.page.desk import Client, Desk
from autolink_apps.page.follow import FEWEST, NAMES, following
from autolink_apps.page.messages import Frame, Look, Neutral, Open, Part, Pose, frame, parse, unframe
from autolink_apps.page.performers import first_picture, load
from autolink_apps.page.runs import POINTS, Runs, curves
from autolink_apps.page.serve import Options, _listen, serve

LOOK = {"seeds": [0, 1], "truncation": 0.7}


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    running = Served()
    yield running
    running.stop()
    assert not running.uploads.folder.exists()  # nothing that was uploaded stays


def hear(socket: ClientConnection, *kinds: str) -> tuple[dict, dict[str, bytes]]:
    """The next answer of one of the kinds."""
    while True:
        header, parts = unframe(socket.recv(timeout=300))  # others may be at work on the machine
        if header["type"] in (*kinds, "error"):
            return header, parts


def image_file(width: int = 64, height: int = 48, kind: str = "PNG") -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer := io.BytesIO(), kind)
    return buffer.getvalue()


# Messages


def pose(**changes: object) -> str:
    return json.dumps({"type": "pose", "n": 1, "xy": [[0, 0], [0.5, -1.5]], "look": LOOK, "size": 256} | changes)


def test_messages_are_read_as_they_were_meant():
    assert parse(pose()) == Pose(1, ((0.0, 0.0), (0.5, -1.5)), Look((0, 1), 0.7), 256)
    assert parse('{"type": "open", "model": "faces"}') == Open("faces", None, 0.0)
    parts = [Part("a", "image/jpeg", b"\xff\0\xff"), Part("b", "text/plain", b"")]
    header, data = unframe(frame({"type": "painted", "n": 3}, parts))
    assert header["n"] == 3 and data == {"a": b"\xff\0\xff", "b": b""}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1]",
        "[" * 100_000,
        '{"type": "pose"}',
        '{"type": "drop"}',
        '{"type": "open", "model": 3}',
        '{"type": "open", "model": "faces", "moment": 2}',
        '{"type": "open", "model": "faces", "path": "/etc/passwd"}',
        '{"type": "export", "kind": "pickle", "xy": [[0, 0], [0, 0]], "look": {}}',
        pose(n=-1),
        pose(n=True),
        pose(size=4096),
        pose(size="256"),
        pose(xy=[]),
        pose(xy=[[0, 0], [float("nan"), 0]]),
        pose(xy=[[0, 0], [float("inf"), 0]]),
        pose(xy=[[0, 0], [1.6, 0]]),
        pose(xy=[[0, 0], [1, 2, 3]]),
        pose(xy=[[0, 0], ["1", 2]]),
        pose(xy=[[0, 0]] * 5000),
        pose(look={"seeds": [], "truncation": 1}),
        pose(look={"seeds": [2**40], "truncation": 1}),
        pose(look={"seeds": [1.5], "truncation": 1}),
        pose(look={"seeds": [1], "truncation": 9}),
        pose(look=7),
        '{"type": "neutral", "pose": 1}',
        '{"type": "watch", "whom": "others"}',
    ],
)
def test_a_message_that_means_nothing_is_refused(text):
    with pytest.raises(UserError):
        parse(text)


# Who may use it


ROUTES = [
    ("GET", "/"),
    ("GET", "/assets/app.js"),
    ("GET", "/api/models"),
    ("POST", "/api/files?name=a"),
    ("GET", "/live"),
]


@pytest.mark.parametrize("method, path", ROUTES)
def test_every_route_wants_the_host_the_page_and_the_secret(served, method, path):
    assert served.ask(method, path, b"", Host="evil.example")[0] == 421
    assert served.ask(method, path, b"", Host=f"127.0.0.1:{served.port + 1}")[0] == 421
    assert served.ask(method, path, b"", Origin="http://evil.example")[0] == 403
    assert served.ask(method, path, b"", Cookie=None)[0] == 403
    assert served.ask(method, path, b"", Cookie=f"autolink-{served.port}=Secret")[0] == 403


@pytest.mark.parametrize(
    "changed", [{"Cookie": "none=1"}, {"Host": "evil.example"}, {"origin": "http://evil.example"}, {"origin": None}]
)
def test_the_live_connection_wants_them_too(served, changed):
    headers = {"Cookie": f"autolink-{served.port}=secret", **changed}
    origin = headers.pop("origin", f"http://{served.host}")
    with pytest.raises(websockets.InvalidStatus):
        connect(f"ws://{served.host}/live", origin=origin, additional_headers=headers)


def test_a_post_from_nowhere_is_refused(served):
    assert served.ask("POST", "/api/files?name=a", b"x", Origin=None)[0] == 403


def test_the_secret_becomes_a_cookie_that_scripts_do_not_see(served):
    status, headers, body = served.ask("GET", "/?token=secret", Cookie=None, Origin=None)
    assert status == 200 and b"autolink" in body
    cookie = headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie
    assert served.ask("GET", "/?token=other", Origin=None)[0] == 403


def test_the_browser_is_told_to_load_nothing_from_elsewhere(served):
    for path in ("/", "/assets/app.js", "/api/models", "/nothing"):
        headers = served.ask("GET", path)[1]
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"] and "https:" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
        assert not [name for name in headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    "path", ["/assets/../app.py", "/assets/%2e%2e/app.py", "/assets/..%2fapp.py", "/assets//etc/passwd"]
)
def test_nothing_but_the_page_is_an_asset(served, path):
    assert served.ask("GET", path)[0] == 404


WIDGET = "widget.js", "widget.css"


def test_the_page_is_light():
    parts = [content for name, (_, content) in app._assets().items() if name not in ("locked.html", *WIDGET)]
    assert len(parts) <= 12 and sum(map(len, parts)) <= 100_000


def test_the_page_is_there_before_torch_is():
    code = "import sys, autolink_apps.page.app, autolink_apps.page.serve; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "False", done.stderr


def test_what_cannot_be_served_is_said_in_one_line(monkeypatch):
    with pytest.raises(UserError, match="--allow-host"):
        serve(Options(host="0.0.0.0", open=False))
    with pytest.raises(UserError, match="0 to 65,535"):
        Options(port=70_000)
    taken = _listen("127.0.0.1", 0)
    taken.listen()
    with pytest.raises(UserError, match=r"in use.*another --port"):
        serve(Options(port=taken.getsockname()[1], open=False))
    taken.close()
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(UserError, match=r"autolink-graph\[serve\]"):
        serve(Options(open=False))


# Files


def test_pictures_and_clips_are_told_by_their_content(served, tmp_path, monkeypatch):
    status, told = served.upload(image_file(), "picture.mp4")
    assert (status, told["kind"], told["width"], told["height"]) == (200, "picture", 64, 48)
    frames = [Image.fromarray(np.full((32, 48, 3), shade, np.uint8)) for shade in (0, 120, 240)]
    frames[0].save(tmp_path / "clip.gif", save_all=True, append_images=frames[1:], duration=500)
    status, told = served.upload((tmp_path / "clip.gif").read_bytes(), "clip.png")
    assert (status, told["kind"]) == (200, "clip") and told["seconds"] == pytest.approx(1.5, abs=0.6)
    monkeypatch.setattr(uploads, "LONGEST", 0.6)
    status, refused = served.upload((tmp_path / "clip.gif").read_bytes(), "clip.png")
    assert status == 415 and "give a clip of" in refused["message"]
    shades = [np.asarray(served.uploads.find(told["id"], moment)).mean() for moment in (0, 0.5, 1)]
    assert shades == sorted(shades) and shades[2] - shades[0] > 200
    assert served.uploads.files[told["id"]].path.parent.stat().st_mode & 0o077 == 0


def test_a_file_that_is_there_already_is_not_kept_twice(served):
    first, second = (served.upload(image_file(70), name)[1] for name in ("a.png", "b.png"))
    assert first["id"] == second["id"] and (first["name"], second["name"]) == ("a.png", "b.png")
    assert served.upload(image_file(71), "a.png")[1]["id"] != first["id"]


@pytest.mark.parametrize(
    "data, told",
    [
        (b"", "empty"),
        (b"hello, this is a text\n" * 20, "neither a picture nor a video"),
        (image_file()[:200], "cut off or damaged"),
        (b"%PDF-1.4 " + b"x" * 1000, "neither a picture nor a video"),
    ],
)
def test_other_files_are_refused_by_their_name(served, data, told):
    before = set(served.uploads.folder.iterdir())
    status, answer = served.upload(data, "holiday.png")
    assert status == 415 and told in answer["message"] and answer["message"].startswith("holiday.png")
    assert str(served.uploads.folder) not in answer["message"]
    assert set(served.uploads.folder.iterdir()) == before


def test_a_playlist_does_not_read_other_files(served, tmp_path):
    secret = tmp_path / "secret.mp4"
    secret.write_bytes(image_file())
    for text in (
        f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{secret}\n",
        f"ffconcat version 1.0\nfile {secret}\n",
    ):
        status, answer = served.upload(text.encode(), "clip.mp4")
        assert status == 415 and "playlist" in answer["message"]


def test_too_much_is_refused_before_it_is_read(served, monkeypatch):
    assert served.ask("POST", "/api/files?name=a", b"x", Content_Length=str(uploads.LARGEST + 1))[0] == 413
    chunked = served.ask("POST", "/api/files?name=a", b"", Transfer_Encoding="chunked", Content_Length=None)
    assert chunked[0] in (400, 411)
    monkeypatch.setattr(uploads, "LARGEST", 1000)
    before = set(served.uploads.folder.iterdir())
    status, told = served.upload(bytes(5000), "big.png")
    assert status == 413 and "MB" in told["message"] and set(served.uploads.folder.iterdir()) == before


def test_a_picture_of_too_many_pixels_is_not_decoded(served):
    Image.new("1", (8000, 6000)).save(buffer := io.BytesIO(), "PNG")
    status, told = served.upload(buffer.getvalue(), "bomb.png")
    assert status == 415 and "megapixels" in told["message"]


# Painting


def test_a_picture_is_opened_moved_and_exported(served):
    with served.live() as socket:
        socket.send(json.dumps({"type": "open", "model": "faces-transfer"}))
        told, parts = hear(socket, "opened")
        assert told["kind"] == "portrait" and told["sure"] and len(told["points"]) == 10
        assert [slider["name"] for slider in told["sliders"]] == list(NAMES[True]) and len(told["poses"]) == 8
        assert Image.open(io.BytesIO(parts["shown"])).size[0] >= 256
        strip = Image.open(io.BytesIO(parts["thumbnails"]))
        assert strip.width == 8 * strip.height
        wanted = {"xy": told["points"], "look": LOOK}
        socket.send(json.dumps({"type": "pose", "n": 7, "size": 256, **wanted}))
        painted, first = hear(socket, "painted")
        assert painted["n"] == 7 and painted["count"] == 1
        moved = [[x + 0.1, y] for x, y in told["points"]]
        socket.send(json.dumps({"type": "pose", "n": 8, "size": 256, "xy": moved, "look": LOOK}))
        _, second = hear(socket, "painted")
        for name in ("result", "edges"):
            before, after = (np.asarray(Image.open(io.BytesIO(part[name]))).astype(float) for part in (first, second))
            assert np.abs(before - after).mean() > 2
        files = {}
        for kind in ("png", "edges", "svg", "json", "csv", "npz"):
            socket.send(json.dumps({"type": "export", "kind": kind, **wanted}))
            header, parts = hear(socket, "file")
            files[kind] = (header["name"], parts["file"])
    for kind in ("png", "edges"):
        assert "generated" in Image.open(io.BytesIO(files[kind][1])).text["Comment"]
    assert files["svg"][0].endswith(".svg") and files["svg"][1].count(b"<circle") == 10
    assert json.loads(files["json"][1])["points"] == told["points"]
    rows = files["csv"][1].decode().splitlines()
    assert rows[0] == "keypoint,x,y,pixel_x,pixel_y" and len(rows) == 11
    arrays = np.load(io.BytesIO(files["npz"][1]))
    assert np.allclose(arrays["keypoints"], told["points"], atol=1e-4) and arrays["edges"].shape == (45, 2)
    pixels = np.array([row.split(",")[3:] for row in rows[1:]], float)
    assert np.allclose(pixels, (np.array(told["points"]) + 1) * 256, atol=0.1)  # of the portrait of 512²


def test_a_generator_shows_as_many_as_were_asked_for(served):
    with served.live() as socket:
        socket.send(json.dumps({"type": "open", "model": "faces-gan"}))
        told, parts = hear(socket, "opened")
        assert told["kind"] == "generator" and "shown" not in parts
        socket.send(json.dumps({"type": "pose", "n": 1, "size": 128, "xy": told["points"], "look": LOOK}))
        painted, parts = hear(socket, "painted")
        strip = Image.open(io.BytesIO(parts["result"]))
        assert painted["count"] == 2 and strip.width == 2 * strip.height


def test_a_picture_of_something_else_is_opened_with_a_doubt(served):
    _, told = served.upload(image_file(400, 300, "JPEG"), "noise.jpg")
    with served.live() as socket:
        socket.send(json.dumps({"type": "open", "model": "faces-transfer", "file": told["id"]}))
        opened, _ = hear(socket, "opened")
        assert opened["type"] == "opened" and opened["sure"] is False


def test_a_small_head_is_looked_at_from_near_and_shown_in_its_own_pixels(served):
    wall = Image.new("RGB", (3000, 2000), (120, 120, 120))
    portrait = first_picture(load("faces-transfer", "faces-transfer", "cpu"))
    wall.paste(portrait.resize((900, 900), Image.Resampling.BICUBIC), (1900, 900))
    wall.save(buffer := io.BytesIO(), "PNG")
    _, told = served.upload(buffer.getvalue(), "party.png")
    with served.live() as socket:
        socket.send(json.dumps({"type": "open", "model": "faces-transfer", "file": told["id"]}))
        opened, parts = hear(socket, "opened")
        assert opened["sure"] and Image.open(io.BytesIO(parts["shown"])).size == (512, 512)
        shown = np.asarray(Image.open(io.BytesIO(parts["shown"])).convert("RGB")).astype(float)
        assert (np.abs(shown - 120).max(-1) < 8).mean() < 0.6  # of the wall
        sizes = {}
        for size in (128, 512):
            wanted = {"xy": opened["points"], "look": LOOK, "size": size}
            socket.send(json.dumps({"type": "pose", "n": size, **wanted}))
            sizes[size] = Image.open(io.BytesIO(hear(socket, "painted")[1]["result"]))
    assert [image.width for image in sizes.values()] == [128, 512]
    assert np.abs(np.asarray(sizes[512]).astype(float) - shown).mean() < 6


def test_mistakes_over_the_live_connection_are_answered(served):
    with served.live() as socket:
        for said, about in [
            ("nonsense", "message"),
            (pose(), "pose"),  # nothing is open
            ('{"type": "open", "model": "no-such-model"}', "open"),
            ('{"type": "open", "model": "features"}', "open"),
            ('{"type": "open", "model": "faces", "file": "0123456789abcdef"}', "open"),
        ]:
            socket.send(said)
            header, _ = hear(socket)
            assert (header["type"], header["about"]) == ("error", about) and "Traceback" not in header["message"]
        socket.send('{"type": "open", "model": "faces"}')
        hear(socket, "opened")
        socket.send(pose())  # two points, for a model of sixteen
        assert "16" in hear(socket)[0]["message"]
        socket.send("x" * (2 << 20))
        with pytest.raises(websockets.ConnectionClosed):
            hear(socket)


# The camera


def seen_by_a_camera(shift: int = 0, n: int = 1) -> bytes:
    """The head as a camera of 320 × 240 pixels would have it."""
    frame = Image.new("RGB", (320, 240), (120, 120, 120))
    frame.paste(portrait(200), (60 + shift, 20))
    frame.save(buffer := io.BytesIO(), "JPEG", quality=90)
    return struct.pack("<I", n) + buffer.getvalue()


def test_a_picture_acts_out_what_the_camera_sees_from_its_neutral_pose_on(served):
    with served.live() as socket, served.live() as other:
        other.send('{"type": "watch"}')
        socket.send('{"type": "open", "model": "faces-transfer"}')
        hear(socket, "opened")
        neutral, pictures = [], []
        for n in range(IN_A_ROW + 1):
            socket.send(seen_by_a_camera(0, n))
            header, parts = hear(socket, "acted")
            assert header["n"] == n and header["sure"] and len(header["seen"]) == 10
            neutral.append(header["neutral"])
            pictures.append(np.asarray(Image.open(io.BytesIO(parts["result"]))).astype(float))
        assert neutral == [False] * (IN_A_ROW - 1) + [True] * 2
        assert np.abs(pictures[-1] - pictures[0]).mean() < 2  # nothing has moved
        seen = np.array(header["seen"])
        assert (np.abs(seen) < 1).all()
        for n in range(4):
            socket.send(seen_by_a_camera(24, 50 + n))
            header, parts = hear(socket, "acted")
        moved = np.asarray(Image.open(io.BytesIO(parts["result"]))).astype(float)
        assert np.abs(moved - pictures[0]).mean() > 4
        assert (np.array(header["seen"]) - seen)[:, 0].mean() == pytest.approx(24 / 160, abs=0.03)
        socket.send('{"type": "neutral"}')
        socket.send(seen_by_a_camera(24, 60))
        _, parts = hear(socket, "acted")
        back = np.asarray(Image.open(io.BytesIO(parts["result"]))).astype(float)
        assert np.abs(back - pictures[0]).mean() < 2
        header, parts = hear(other, "acted")  # whoever watches sees the same
        assert header["n"] == 0 and np.asarray(Image.open(io.BytesIO(parts["result"]))).shape == (256, 256, 3)


def test_frames_that_cannot_be_acted_out_are_answered(served):
    with served.live() as socket:
        socket.send(seen_by_a_camera())
        assert "no picture is open" in hear(socket)[0]["message"]
        socket.send('{"type": "open", "model": "faces"}')
        hear(socket, "opened")
        socket.send(seen_by_a_camera())
        assert "makes no pictures move" in hear(socket)[0]["message"]
        socket.send('{"type": "open", "model": "faces-transfer"}')
        hear(socket, "opened")
        large = io.BytesIO()
        Image.new("L", (2000, 1500)).save(large, "JPEG")
        broken = seen_by_a_camera()[:300]
        for data, told in (
            (b"x", "no picture of a camera"),
            (b"\0\0\0\0" + image_file(), "no picture of a camera"),
            (broken, "cannot be read"),
            (b"\0\0\0\0" + large.getvalue(), "send smaller ones"),
        ):
            socket.send(data)
            header, _ = hear(socket)
            assert header["type"] == "error" and told in header["message"]
        noise = struct.pack("<I", 5) + image_file(320, 240, "JPEG")
        socket.send(noise)
        header, _ = hear(socket, "acted")
        assert (header["sure"], header["neutral"]) == (False, False)


# Runs


@pytest.fixture
def run_folder(tmp_path: Path, tiny: AutoLink) -> Path:
    return make_runs(tmp_path / "runs", tiny)


def test_runs_are_listed_with_what_they_logged(run_folder):
    runs = Runs(run_folder)
    (mine, other) = sorted(runs.listed(), key=lambda run: run["id"])
    assert (mine["id"], mine["step"], mine["of"], mine["model"]) == ("group/mine", 300, 300, True)
    assert mine["state"] == "finished"
    assert (other["id"], other["of"], other["state"], other["model"]) == ("other", 900, "going on", False)
    told = runs.described("group/mine")
    rows = [json.loads(line) for line in (run_folder / "group/mine/log.jsonl").read_text().splitlines()]
    assert told["curves"]["loss"] == [(row["step"], row["loss"]) for row in rows if "loss" in row]
    assert told["curves"]["held_out_loss"] == [
        (row["step"], row["held_out_loss"]) for row in rows if "held_out_loss" in row
    ]
    assert told["samples"] == {"reconstructions": [100, 200, 300]}
    assert runs.picture("group/mine", "reconstructions", 200).is_file()
    os.utime(run_folder / "other/log.jsonl", (1, 1))
    assert runs.listed()[-1]["state"] == "stopped"
    with claimed(run_folder / "other"):  # by a training that logs seldom
        assert runs.listed()[-1]["state"] == ("going on" if Path("/proc/self").exists() else "stopped")


def test_a_log_that_is_being_written_is_read_as_far_as_it_goes(run_folder):
    with (run_folder / "other/log.jsonl").open("a") as file:
        file.write('{"step": 50, "loss": NaN}\n[3]\n{"step": 60, "lo')
    assert curves(run_folder / "other/log.jsonl")["loss"][-1][0] == 40
    (run_folder / "other/config.json").write_text('{"steps": 9')
    assert Runs(run_folder).described("other")["of"] is None
    long = "".join(json.dumps({"step": step, "loss": step / 2}) + "\n" for step in range(5000))
    (run_folder / "other/log.jsonl").write_text(long)
    thinned = curves(run_folder / "other/log.jsonl")["loss"]
    assert len(thinned) == POINTS and thinned[0] == (0, 0.0) and thinned[-1] == (4999, 2499.5)


@pytest.mark.parametrize("id", ["..", "../runs/other", "/etc", "", ".", "group", "other/../other"])
def test_no_other_folder_is_a_run(run_folder, id):
    with pytest.raises(UserError, match="no longer there"):
        Runs(run_folder).described(id)


def test_links_out_of_the_folder_are_not_followed(run_folder, tmp_path):
    outside = make_runs(tmp_path / "outside", None)
    (run_folder / "linked").symlink_to(outside / "other")
    (run_folder / "other/samples").mkdir()
    (run_folder / "other/samples/secret-0000001.png").symlink_to(
        outside / "group/mine/samples/reconstructions-0000100.png"
    )
    (run_folder / "other/model.safetensors").symlink_to(tmp_path / "outside/x.safetensors")
    runs = Runs(run_folder)
    assert {run["id"] for run in runs.listed()} == {"group/mine", "other"}
    assert runs.described("other")["samples"] == {} and set(runs.models()) == {"group/mine"}


def test_only_models_that_are_listed_are_opened(run_folder, tiny_file):
    catalogue = Catalogue((str(tiny_file),), Runs(run_folder))
    listed = catalogue.listed()
    assert listed[0] == {"name": str(tiny_file), "kind": "reconstruction", "of": "own"}
    assert listed[-1] == {"name": "run group/mine", "kind": "reconstruction", "of": "runs"}
    assert catalogue.source("run group/mine")[0] == str(run_folder / "group/mine/model.safetensors")
    for name in ("/etc/passwd", "someone/on-the-hub", "group/mine", "run ../outside", str(run_folder / "group/mine")):
        with pytest.raises(UserError, match="choose one of the list"):
            catalogue.source(name)


def test_runs_are_served(run_folder):
    running = Served(runs=run_folder)
    try:
        assert len(json.loads(running.ask("GET", "/api/runs")[2])) == 2
        told = json.loads(running.ask("GET", "/api/run?id=group%2Fmine")[2])
        assert told["samples"] == {"reconstructions": [100, 200, 300]}
        status, headers, data = running.ask("GET", "/api/run?id=group%2Fmine&sample=reconstructions&step=100")
        assert (status, headers["content-type"]) == (200, "image/png") and Image.open(io.BytesIO(data)).width > 0
        for query in (
            "id=x",
            "id=group%2Fmine&sample=..%2F..%2Fmodel&step=1",
            "id=group%2Fmine&sample=reconstructions&step=7",
        ):
            assert running.ask("GET", f"/api/run?{query}")[0] == 404
        with running.live() as socket:
            socket.send('{"type": "open", "model": "run group/mine"}')
            opened, _ = hear(socket, "opened")
            assert opened["kind"] == "reconstruction" and len(opened["points"]) == 4
    finally:
        running.stop()


def test_without_runs_there_are_none(served):
    assert json.loads(served.ask("GET", "/api/runs")[2]) is None
    assert served.ask("GET", "/api/run?id=a")[0] == 404
    with pytest.raises(UserError, match="--runs"):
        serve(Options(runs=Path("/no/such/folder"), open=False))


# The desk


class Waiting:
    """A client that is never served, to see in which order the desk would."""

    def __init__(self, desk: Desk, *wanted: object) -> None:
        self.client = Client(lambda answer: None)
        desk.join(self.client)
        for message in wanted:
            desk.want(self.client, message)


def numbered(n: int) -> Pose:
    return Pose(n, ((0.0, 0.0), (0.0, 0.0)), Look(), 256)


def test_of_many_poses_the_newest_is_painted_and_clients_take_turns():
    desk = Desk(lambda file, moment: None, lambda name: (name, 0))
    first = Waiting(desk, numbered(1), numbered(2), numbered(3)).client
    second = Waiting(desk, Open("faces"), numbered(4)).client
    assert desk._next() == (first, numbered(3))
    desk.want(first, numbered(5))
    assert desk._next() == (second, Open("faces"))
    assert desk._next() == (first, numbered(5))
    assert desk._next() == (second, numbered(4))
    assert desk._next() is None
    for n in range(3):
        desk.want(first, Frame(n, b""))
    assert desk._next() == (first, Frame(2, b"")) and desk._next() is None
    desk.want(second, numbered(6))
    desk.leave(second)
    assert desk._next() is None


def test_what_was_asked_of_the_picture_before_is_forgotten_and_what_is_asked_of_the_new_one_is_not():
    desk = Desk(lambda file, moment: None, lambda name: (name, 0))
    before = Waiting(desk, numbered(1), Frame(2, b""), Neutral(), Open("faces")).client
    assert desk._next() == (before, Open("faces")) and desk._next() is None and not before.neutral
    after = Waiting(desk, Open("faces"), numbered(1), Frame(2, b""), Neutral()).client
    assert [desk._next() for _ in range(3)] == [(after, Open("faces")), (after, Frame(2, b"")), (after, numbered(1))]
    assert after.neutral


def test_whoever_asks_while_a_picture_is_opened_is_answered(monkeypatch):
    served = Served()
    opening = performers.Portrait.open

    def slowly(self: performers.Portrait, picture: Image.Image | None) -> performers.Scene:
        time.sleep(0.5)
        return opening(self, picture)

    monkeypatch.setattr(performers.Portrait, "open", slowly)
    with served.live() as socket, served.live() as other:
        other.send(json.dumps({"type": "open", "n": 1, "model": "faces-transfer"}))  # the desk is busy for a while
        socket.send(json.dumps({"type": "open", "n": 4, "model": "faces-transfer"}))
        socket.send(seen_by_a_camera(0, 5))
        assert hear(socket, "opened")[0]["n"] == 4
        assert hear(socket, "acted")[0]["n"] == 5
        socket.send(pose(n=6))  # of another number of points
        told, _ = hear(socket)
        assert (told["type"], told["about"], told["n"]) == ("error", "pose", 6)
        socket.send(json.dumps({"type": "open", "n": 7, "model": "no-such-model"}))
        assert hear(socket)[0]["n"] == 7
    served.stop()


def test_without_networks_the_page_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "autolink_apps.page.performers", None)
    served = Served()
    told = "The networks cannot be loaded: import of autolink_apps.page.performers halted"
    status, headers, body = served.ask("GET", "/api/models")
    assert status == 503 and json.loads(body)["message"].startswith(told) and "content-security-policy" in headers
    with served.live() as socket:
        for said in ('{"type": "open", "model": "faces"}', pose(), seen_by_a_camera()):
            socket.send(said)
            header, _ = hear(socket)
            assert header["type"] == "error" and header["message"].startswith(told)
    monkeypatch.setattr(served.jobs, "listed", lambda: 1 / 0)
    status, headers, body = served.ask("GET", "/api/jobs")
    assert status == 500 and "fault" in json.loads(body)["message"] and "content-security-policy" in headers
    served.stop()


# What follows


def test_other_points_follow_as_a_regression_on_the_bank_would_say():
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(4000, 3, generator=generator).double()
    bank = (hidden @ torch.randn(3, 10, generator=generator).double()).unflatten(1, (5, 2)) * 0.1
    bank += 0.01 * torch.randn(bank.shape, generator=generator)
    covariance = following(bank, torch.ones(5, 5), NAMES[False]).covariance
    vectors = (bank - bank.mean(0)).flatten(1)
    known = vectors[:, 4:6]  # the point that is dragged
    regressed = torch.linalg.lstsq(known, vectors).solution
    conditional = (covariance[:, 4:6] @ torch.linalg.inv(covariance[4:6, 4:6])).T
    assert torch.allclose(conditional, regressed, rtol=0.05, atol=0.02)


def test_a_slider_moves_the_pose_along_itself_and_no_other():
    bank = torch.randn(300, 6, 2, generator=torch.Generator().manual_seed(1)).double() * 0.1
    bank += torch.randn(6, 2, generator=torch.Generator().manual_seed(2))
    found = following(bank, torch.ones(6, 6), NAMES[False])
    read = torch.stack([slider.read for slider in found.sliders])
    move = torch.stack([slider.move for slider in found.sliders])
    assert torch.allclose(read @ move.T, torch.eye(4).double(), atol=1e-9)
    turned = found.sliders[0].move.unflatten(0, (6, 2)).mean(0)
    assert turned[0] > abs(turned[1])  # the first goes sideways
    assert len(found.poses) == 8 and torch.cdist(*[found.poses.flatten(1)] * 2).fill_diagonal_(1).min() > 0.05


def test_without_a_bank_points_follow_along_the_graph():
    chain = torch.diag(torch.ones(4), 1)
    found = following(torch.zeros(FEWEST - 1, 5, 2), chain + chain.T, NAMES[False])
    carried = found.covariance[:, 0].unflatten(0, (5, 2)) / found.covariance[0, 0]
    assert not found.sliders and carried[:, 1].abs().max() == 0
    assert (carried[:-1, 0] > carried[1:, 0]).all() and 0.5 < carried[1, 0] < 1
