"""A page that is served from this process, and requests to it as its own browser would make them."""

from __future__ import annotations

import http.client
import json
import threading
import time

import uvicorn
from websockets.sync.client import ClientConnection, connect

from autolink_apps.page import app
from autolink_apps.page.desk import Desk
from autolink_apps.page.serve import _listen
from autolink_apps.page.uploads import Uploads


class Served:
    """`autolink serve` without the process.

    Args:
        port: 0 for a free one.
    """

    def __init__(self, port: int = 0) -> None:
        listening = _listen("127.0.0.1", port)
        self.port = listening.getsockname()[1]
        self.host = f"127.0.0.1:{self.port}"
        self.address = f"http://{self.host}/?token=secret"
        access = app.Access("secret", frozenset({self.host}), self.port)
        self.uploads = Uploads()
        self.desk = Desk(self.uploads.find, "cpu")
        config = uvicorn.Config(
            app.make_app(access, self.desk, self.uploads),
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
