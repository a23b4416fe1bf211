"""Videos that the page makes: orders, the queue, what is told of a job, stopping and going on, what is left."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from autolink import UserError

pytest.importorskip("starlette", reason="needs autolink-graph[serve]")
from page_server import Served, small_clip

from autolink_apps.page import jobs as page_jobs
from autolink_apps.page.jobs import Jobs
from autolink_apps.page.messages import Order, parse_order
from autolink_apps.page.uploads import Upload

COMMAND = """
import json, signal, sys, time
from pathlib import Path

def tell(stage, done, of, seconds, left):
    said = dict(event="progress", stage=stage, done=done, of=of, unit="frame", seconds=seconds, left=left)
    print(json.dumps(said), file=sys.stderr, flush=True)

def end(number, frame):
    print("interrupted: some frames are there", file=sys.stderr)
    sys.exit(143)

signal.signal(signal.SIGTERM, end)
Path("options").write_text(json.dumps(sys.argv[1:]))
tell("looking at uploaded-driver", 0, 20, 0, None)
tell("looking at uploaded-driver", 20, 20, 2.0, 0.0)
print(json.dumps(dict(event="warning", message="uploaded-driver: several may be in the picture")), file=sys.stderr)
tell("looking at uploaded-source", 1, 1, 0.1, 0.0)
tell("painting", 5, 20, 1.0, 3.0)
go = Path("../go")
while not go.is_file():
    time.sleep(0.01)
what = go.read_text()
if what == "wrong":
    sys.exit(print("error: uploaded-source: 5 frame(s), too few to learn from", file=sys.stderr) or 2)
if what == "fault":
    raise ZeroDivisionError
Path("result.mp4").write_bytes(b"video")
"""


DETECT = """
import json, sys, time
from pathlib import Path

Path("options").write_text(json.dumps(sys.argv[1:]))
for done in (0, 7):
    said = dict(event="progress", stage="detect", done=done, of=20, unit="frame", seconds=done / 10, left=1.3)
    print(json.dumps(said), file=sys.stderr, flush=True)
while not Path("../go").is_file():
    time.sleep(0.01)
Path(".found/overlays").mkdir(parents=True)
Path(".found/overlays/bert.mp4").write_bytes(b"drawn")
Path(".found/keypoints.csv").write_text("source,frame")
"""


def upload(tmp_path: Path, name: str, kind: str, frames: int) -> Upload:
    path = tmp_path / f"file-{name}"
    path.write_bytes(b"content of " + name.encode())
    return Upload(name, path, f"{name}.mp4", kind, 256, 256, frames / 10, frames, "video/mp4")


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Jobs]:
    files = {
        "anna": upload(tmp_path, "anna", "picture", 1),
        "bert": upload(tmp_path, "bert", "clip", 20),
        "short": upload(tmp_path, "short", "clip", 5),
    }
    detect = (sys.executable, "-c", DETECT)
    made = Jobs(tmp_path / "jobs", files.__getitem__, lambda n: (n, 0), "cpu", (sys.executable, "-c", COMMAND), detect)
    made.start()
    yield made
    made.stop()
    assert not made.thread.is_alive() and not made.folder.exists()


def until(queue: Jobs, said: Callable[[dict], bool], place: int = 0) -> dict:
    """What is told of the newest job, or of one before, as soon as something is said of it."""
    deadline = time.monotonic() + 60
    while not said(told := queue.listed()[place]):
        assert time.monotonic() < deadline, told
        time.sleep(0.01)
    return told


def go(queue: Jobs, what: str = "done") -> None:
    queue.folder.mkdir(exist_ok=True)
    (queue.folder / "go").write_text(what)


def options(queue: Jobs, id: str) -> list[str]:
    return json.loads((queue.folder / id / "options").read_text())


PAINTING = "Painting, 5 of 20 frames"


def test_an_order_is_carried_out_and_tells_how_far_it_is(queue):
    before = queue.seconds(Order("anna", "bert", "faces-transfer"))
    id = queue.add(Order("anna", "bert", "faces-transfer", whole=True))["id"]
    told = until(queue, lambda job: job["stage"] == PAINTING)
    assert told["state"] == "going on" and told["left"] == 3.0 and 0 < told["share"] < 1
    assert told["notes"] == ["bert.mp4: several may be in the picture"]
    assert queue.seconds(Order("anna", "bert", "faces-transfer")) != before  # 0.1 s a frame, as was measured
    assert queue.measured["looking"] == pytest.approx(0.1)
    go(queue)
    assert until(queue, lambda job: job["state"] == "done")["left"] == 0
    said = options(queue, id)
    assert "--paste-back" in said and said[said.index("--model") + 1] == "faces-transfer" and "--resume" not in said
    assert queue.job(id).files["result.mp4"].read_bytes() == b"video"


def test_one_goes_on_and_the_others_wait_for_it(queue, monkeypatch):
    first, second, third = (queue.add(Order("anna", "bert", "m"))["id"] for _ in range(3))
    until(queue, lambda job: job["stage"] == PAINTING, place=2)
    assert [job["state"] for job in queue.listed()] == ["waiting", "waiting", "going on"]
    assert [job["ahead"] for job in queue.listed()] == [[first, second], [first], []]
    queue.cancel(second)
    monkeypatch.setattr(page_jobs, "WAITING", 1)
    with pytest.raises(UserError, match="wait already"):
        queue.add(Order("anna", "bert", "m"))
    go(queue)
    until(queue, lambda job: job["state"] == "done")
    assert {job["id"]: job["state"] for job in queue.listed()} == {third: "done", second: "stopped", first: "done"}


def test_a_job_is_stopped_and_goes_on_where_it_was(queue):
    id = queue.add(Order("anna", "bert", "m"))["id"]
    until(queue, lambda job: job["stage"] == PAINTING)
    process = queue.job(id).process
    queue.cancel(id)
    assert process.wait(20) == 143 and queue.listed()[0]["state"] == "stopped"
    queue.resume(id)
    go(queue)
    until(queue, lambda job: job["state"] == "done")
    assert "--resume" in options(queue, id)
    with pytest.raises(UserError, match="not stopped"):
        queue.resume(id)


def test_an_error_is_the_line_of_the_command_with_the_names_of_the_files(queue, caplog):
    id = queue.add(Order("bert", "bert", "m", adapt=150))["id"]
    go(queue, "wrong")
    told = until(queue, lambda job: job["state"] == "failed")
    assert told["message"] == "bert.mp4: 5 frame(s), too few to learn from"
    said = options(queue, id)
    assert said[-2:] == ["--model", "m"] and said[said.index("--adapt") + 1 :][:3] == ["150", "--perceptual", "builtin"]
    go(queue, "fault")
    queue.resume(id)
    told = until(queue, lambda job: job["state"] == "failed" and "fault" in job["message"])
    assert "ZeroDivisionError" in caplog.text and "Error" not in told["message"]


@pytest.mark.parametrize(
    "order, told",
    [
        (Order("bert", "anna", "m"), "nothing moves"),
        (Order("anna", "bert", "m", adapt=150), "too few frames"),
        (Order("anna", "bert", "m", learn=20), "two clips"),
        (Order("bert", "bert", "m", learn=20), "two of them"),
    ],
)
def test_an_order_that_cannot_be_carried_out_is_refused_at_once(queue, order, told):
    with pytest.raises(UserError, match=told):
        queue.add(order)
    assert queue.listed() == []


def test_learning_takes_its_minutes_and_needs_no_model(queue):
    order = Order("short", "bert", "m", learn=20)
    assert 1200 < queue.seconds(order) < 1300
    id = queue.add(order)["id"]
    told = until(queue, lambda job: job["stage"] == PAINTING)
    assert told["left"] < 1200
    said = options(queue, id)
    assert said[said.index("--learn") + 1] == "20" and "--model" not in said


def test_keypoints_are_found_in_a_clip_and_saved_under_its_name(queue):
    with pytest.raises(UserError, match="view Pose"):
        queue.add(Order("anna", None, "faces"))
    id = queue.add(Order("bert", None, "faces"))["id"]
    told = until(queue, lambda job: job["stage"] == "Finding keypoints in bert.mp4, 7 of 20 frames")
    assert told["driver"] is None and told["left"] == 1.3
    queue.cancel(id)
    queue.resume(id)
    go(queue)
    until(queue, lambda job: job["state"] == "done")
    said = options(queue, id)
    assert said[said.index("auto") + 1] == "bert.mp4" and "--resume" not in said
    job = queue.job(id)
    assert job.files["result.mp4"].read_bytes() == b"drawn" and job.files["keypoints.csv"].is_file()
    assert [job.called(name) for name in job.files] == ["bert.mp4", "bert-keypoints.csv", "bert-keypoints.npz"]


def test_nothing_is_left_of_jobs_that_go(queue, monkeypatch):
    monkeypatch.setattr(page_jobs, "KEPT", 2)
    go(queue)
    for _ in range(4):
        id = queue.add(Order("anna", "bert", "m"))["id"]
        until(queue, lambda job: job["state"] == "done")
    assert len(queue.listed()) == 2 and len([path for path in queue.folder.iterdir() if path.is_dir()]) == 2
    queue.remove(id)
    assert not (queue.folder / id).exists()
    (queue.folder / "go").unlink()
    id = queue.add(Order("anna", "bert", "m"))["id"]
    until(queue, lambda job: job["stage"] == PAINTING)
    process = queue.job(id).process
    queue.remove(id)
    assert process.wait(20) == 143
    deadline = time.monotonic() + 20
    while (queue.folder / id).exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not (queue.folder / id).exists()
    with pytest.raises(UserError, match="no longer here"):
        queue.cancel(id)


def test_a_full_disk_is_told_before_anything_is_made(queue, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=4e8))
    with pytest.raises(UserError, match=r"0\.4 GB left"):
        queue.add(Order("anna", "bert", "m"))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b'{"source": "a"}',
        b'{"source": "a", "driver": "b", "model": 3}',
        b'{"source": "a", "driver": "b", "model": "c", "adapt": -1}',
        b'{"source": "a", "driver": "b", "model": "c", "adapt": 1e9}',
        b'{"source": "a", "driver": "b", "model": "c", "learn": 100000}',
        b'{"source": "a", "driver": "b", "model": "c", "learn": 1, "adapt": 1}',
        b'{"source": "a", "driver": "b", "model": "c", "whole": "yes"}',
        b'{"source": "a", "driver": 1, "model": "c"}',
        b'{"source": "a", "driver": null, "model": "c", "adapt": 150}',
        b'{"source": "a", "driver": "b", "model": "c", "output": "/etc/passwd"}',
    ],
)
def test_orders_that_mean_nothing_are_refused(text):
    with pytest.raises(UserError):
        parse_order(text)


def test_jobs_are_served_over_http(tmp_path):
    running = Served(transfer=(sys.executable, "-c", COMMAND))
    try:
        _, clip = running.upload(small_clip(tmp_path).read_bytes(), "clip.mp4")
        assert clip["frames"] == 6 and clip["type"] == "video/mp4"
        status, headers, data = running.ask("GET", f"/api/files/{clip['id']}", Range="bytes=0-9")
        assert (status, headers["content-type"], len(data)) == (206, "video/mp4", 10)
        status, headers, data = running.ask("GET", f"/api/files/{clip['id']}/still.jpg?moment=1")
        assert (status, headers["content-type"]) == (200, "image/jpeg") and data[:2] == b"\xff\xd8"
        order = {"source": clip["id"], "driver": clip["id"], "model": "faces-transfer"}

        def post(path: str, said: object) -> tuple[int, dict]:
            status, _, told = running.ask("POST", path, json.dumps(said).encode())
            return status, json.loads(told)

        assert post("/api/jobs?seconds", order)[1]["seconds"] > 0
        for wrong in ({**order, "model": "/etc/passwd"}, {**order, "source": "../x"}, {"x": 1}):
            status, told = post("/api/jobs", wrong)
            assert status == 400 and told["message"]
        assert running.ask("POST", "/api/jobs", b"x" * 20_000)[0] == 413
        _, told = post("/api/jobs", order)
        path = f"/api/jobs/{told['id']}"
        assert running.ask("GET", f"{path}/result.mp4")[0] == 404  # not done
        (running.jobs.folder / "go").write_text("done")
        until(running.jobs, lambda job: job["state"] == "done")
        assert json.loads(running.ask("GET", "/api/jobs")[2])[0]["state"] == "done"
        status, headers, data = running.ask("GET", f"{path}/result.mp4?download", Range="bytes=1-3")
        assert (status, data) == (206, b"ide") and "clip-as-clip.mp4" in headers["content-disposition"]
        for method, where in (("POST", "/api/jobs/x/stop"), ("POST", f"{path}/explode"), ("DELETE", "/api/jobs/x")):
            assert running.ask(method, where, b"")[0] == 404
        for method, where in (("GET", "/api/jobs"), ("POST", "/api/jobs"), ("DELETE", path), ("GET", "/out")):
            assert running.ask(method, where, b"", Cookie=None)[0] == 403
            assert running.ask(method, where, b"", Origin="http://evil.example")[0] == 403
        assert running.ask("DELETE", path)[0] == 200 and json.loads(running.ask("GET", "/api/jobs")[2]) == []
    finally:
        running.stop()
    assert not running.uploads.folder.exists()
