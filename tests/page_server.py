"""A page that is served from this process, requests to it as its own browser would make them, and runs to show."""

from __future__ import annotations

import http.client
import json
import math
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import uvicorn
from PIL import Image
from websockets.sync.client import ClientConnection, connect

from autolink import AutoLink
from autolink.data import open_data
from autolink.video import write_video
from autolink.visualize import image_grid, save_png
from autolink_apps.page import app
from autolink_apps.page.catalogue import Catalogue
from autolink_apps.page.desk import Desk
from autolink_apps.page.jobs import DETECT, TRANSFER, Jobs
from autolink_apps.page.runs import Runs
from autolink_apps.page.serve import _listen
from autolink_apps.page.uploads import Uploads


class Served:
    """`autolink serve` without the process.

    Args:
        port: 0 for a free one.
        runs: A folder of runs.
        transfer: Makes videos.
        detect: Finds keypoints.
    """

    def __init__(
        self,
        port: int = 0,
        runs: Path | None = None,
        transfer: Sequence[str] = TRANSFER,
        detect: Sequence[str] = DETECT,
    ) -> None:
        listening = _listen("127.0.0.1", port)
        self.port = listening.getsockname()[1]
        self.host = f"127.0.0.1:{self.port}"
        self.address = f"http://{self.host}/?token=secret"
        access = app.Access("secret", frozenset({self.host}), self.port)
        self.uploads = Uploads()
        catalogue = Catalogue((), None if runs is None else Runs(runs))
        self.desk = Desk(self.uploads.find, catalogue.source, "cpu")
        self.jobs = Jobs(self.uploads.folder / "jobs", self.uploads.file, catalogue.source, "cpu", transfer, detect)
        config = uvicorn.Config(
            app.make_app(access, self.desk, self.uploads, catalogue, self.jobs),
            log_level="warning",
            ws="websockets-sansio",
            ws_max_size=1 << 20,
        )
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [listening]})
        self.thread.start()
        while self.thread.is_alive() and not self.server.started:
            time.sleep(0.01)

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join()

    def ask(self, method: str, path: str, body: object = None, **headers: str | None) -> tuple[int, dict, bytes]:
        said = {"Host": self.host, "Cookie": f"autolink-{self.port}=secret", "Origin": f"http://{self.host}"}
        said |= {name.replace("_", "-"): value for name, value in headers.items()}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in said.items():
            if value is not None:
                connection.putheader(name, value)
        if body is not None and "Content-Length" not in said:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body if body is not None else b"")
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()

    def upload(self, data: bytes, name: str) -> tuple[int, dict]:
        status, _, told = self.ask("POST", f"/api/files?name={name}", data)
        return status, json.loads(told)

    def live(self, **headers: str) -> ClientConnection:
        said = {"Cookie": f"autolink-{self.port}=secret", **headers}
        return connect(f"ws://{self.host}/live", origin=f"http://{self.host}", additional_headers=said, max_size=None)


def portrait(side: int = 256) -> Image.Image:
    """The head that the page shows first."""
    photo = Image.open(Path(matplotlib.get_data_path()) / "sample_data/grace_hopper.jpg").convert("RGB")
    return photo.crop((64, 40, 448, 424)).resize((side, side))


def small_clip(folder: Path, frames: int = 6, side: int = 128) -> Path:
    """A clip of that head, which sways."""
    moved = (
        portrait(side).rotate(8 * math.sin(index), Image.Resampling.BICUBIC, fillcolor=(120, 120, 120))
        for index in range(frames)
    )
    write_video(folder / "clip.mp4", map(np.asarray, moved), 10)
    return folder / "clip.mp4"


def make_runs(folder: Path, model: AutoLink | None) -> Path:
    """Two runs: `group/mine`, which is finished and left pictures and perhaps a model, and `other`, which goes on."""
    for name, steps, logged in (("group/mine", 300, 300), ("other", 900, 40)):
        (run := folder / name).mkdir(parents=True)
        (run / "config.json").write_text(json.dumps({"steps": steps, "data": "synthetic"}))
        rows = [
            {"step": step, "loss": 2.0 ** (-step / 60) + 0.3, "alpha": 1 + step / 1000}
            for step in range(10, logged + 1, 10)
        ]
        rows += [{"step": step, "held_out_loss": 2.0 ** (-step / 70) + 0.35} for step in range(100, logged + 1, 100)]
        rows.sort(key=lambda row: row["step"])
        (run / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = open_data("synthetic", 64, "val")
    for step in (100, 200, 300):
        images = [data[step // 100 + number].image for number in range(8)]
        save_png(folder / f"group/mine/samples/reconstructions-{step:07d}.png", image_grid(images, 4))
    if model is not None:
        model.save_pretrained(folder / "group/mine")
    return folder
