"""The routes of the page, and who may use them: no torch here, so that the page is there at once.

Every request must name this host, come from this page if it says where it comes from, and know the secret that stands
in the address that was printed. The secret arrives once in the address, and is a cookie from then on.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import mimetypes
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from autolink.errors import UserError
from autolink_apps.page import messages
from autolink_apps.page.catalogue import Catalogue
from autolink_apps.page.desk import FAULT, Client, Desk
from autolink_apps.page.jobs import Jobs
from autolink_apps.page.uploads import LARGEST, TooLarge, Uploads

LONGEST_MESSAGE = 1 << 20
"""Bytes of a message over the live connection."""
LAX = {"/", "/out", "/assets/icon.svg", "/assets/app.css"}
"""What answers without the secret: with nothing but how to get in."""
PAGES = {"/": "index.html", "/out": "out.html"}
"""What may be opened with the secret in the address."""
LONGEST_ORDER = 10_000
"""Bytes."""
RESULTS = {".mp4": "video/mp4", ".csv": "text/csv", ".npz": "application/zip"}
"""Types of what jobs make."""
BACKLOG = 2
"""Pictures that wait to be sent to one who watches; later ones are left out until there is room."""
logger = logging.getLogger("autolink")


@dataclass(frozen=True)
class Access:
    """Who may use the page."""

    token: str
    hosts: frozenset[str]
    """Values of the `Host` header, with port."""
    port: int

    @property
    def cookie(self) -> str:
        """Its name: cookies do not tell ports apart, names do."""
        return f"autolink-{self.port}"


def make_app(
    access: Access,
    desk: Desk,
    uploads: Uploads,
    catalogue: Catalogue,
    jobs: Jobs,
    ready: Callable[[], None] | None = None,
) -> Starlette:
    """The application.

    Args:
        access: Who may use it.
        desk: Paints; is started and stopped with the application.
        uploads: Keeps files; is emptied when the application stops.
        catalogue: Which models are shown.
        jobs: Makes videos; is started and stopped with the application.
        ready: Called when the desk is started.
    """
    assets = _assets()

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        desk.start()
        jobs.start()
        if ready:
            ready()
        yield
        await run_in_threadpool(jobs.stop)
        await run_in_threadpool(desk.stop)
        uploads.close()

    async def page(request: Request) -> Response:
        if not _knows(request, access):
            return Response(assets["locked.html"][1], 403, media_type="text/html")
        response = Response(assets[PAGES[request.url.path]][1], media_type="text/html")
        response.set_cookie(access.cookie, access.token, httponly=True, samesite="strict", path="/")
        return response

    async def asset(request: Request) -> Response:
        found = assets.get(request.path_params["name"])
        return Response(found[1], media_type=found[0]) if found else _refused(404, "there is no such file")

    async def list_models(request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(catalogue.listed))

    async def list_runs(request: Request) -> Response:
        return JSONResponse(None if catalogue.runs is None else await run_in_threadpool(catalogue.runs.listed))

    async def run(request: Request) -> Response:
        said = request.query_params
        try:
            if catalogue.runs is None:
                raise UserError("no folder of runs is shown")
            if "sample" not in said:
                return JSONResponse(await run_in_threadpool(catalogue.runs.described, said.get("id", "")))
            step = int(step) if (step := said.get("step", "")).isdecimal() else -1
            path = await run_in_threadpool(catalogue.runs.picture, said.get("id", ""), said["sample"], step)
            return Response(await run_in_threadpool(path.read_bytes), media_type="image/png")
        except UserError as error:
            return _refused(404, str(error))

    async def receive(request: Request) -> Response:
        length = request.headers.get("content-length", "")
        if not length.isdecimal():
            return _refused(411, "the size of the file is missing")
        if int(length) > LARGEST:
            return _refused(413, f"the file has more than {LARGEST // 10**6} MB; give a smaller one")
        try:
            path = await uploads.receive(request.stream())
            name = Path(request.query_params.get("name", "file")).name[:100] or "file"
            upload = await run_in_threadpool(uploads.add, path, name)
        except TooLarge as error:
            return _refused(413, str(error))
        except UserError as error:
            return _refused(415, str(error))
        return JSONResponse(upload.described())

    async def list_jobs(request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(jobs.listed))

    async def add_job(request: Request) -> Response:
        length = request.headers.get("content-length", "")
        if not length.isdecimal() or int(length) > LONGEST_ORDER:
            return _refused(413, "this is no order")
        try:
            order = messages.parse_order(await request.body())
            if "seconds" in request.query_params:
                return JSONResponse({"seconds": await run_in_threadpool(jobs.seconds, order)})
            return JSONResponse(await run_in_threadpool(jobs.add, order))
        except UserError as error:
            return _refused(400, str(error))

    async def change_job(request: Request) -> Response:
        id, what = request.path_params["id"], request.path_params.get("what", "remove")
        change = {"stop": jobs.cancel, "resume": jobs.resume, "remove": jobs.remove}.get(what)
        if change is None:
            return _refused(404, "there is no such thing to do")
        try:
            await run_in_threadpool(change, id)
        except UserError as error:
            return _refused(404, str(error))
        return JSONResponse({})

    async def result(request: Request) -> Response:
        try:
            job = jobs.job(request.path_params["id"])
        except UserError as error:
            return _refused(404, str(error))
        name = request.path_params["name"]
        path = job.files.get(name)
        if job.state != "done" or path is None or not path.is_file():
            return _refused(404, "this file is not there, or not done")
        how = "attachment" if "download" in request.query_params else "inline"
        return FileResponse(
            path, media_type=RESULTS[path.suffix], filename=job.called(name), content_disposition_type=how
        )

    async def content(request: Request) -> Response:
        try:
            upload = uploads.file(request.path_params["id"])
            if not upload.type:
                raise UserError("this file is of a kind that browsers do not show")
            return FileResponse(upload.path, media_type=upload.type)
        except UserError as error:
            return _refused(404, str(error))

    async def still(request: Request) -> Response:
        try:
            moment = min(max(float(request.query_params.get("moment", "0")), 0.0), 1.0)
            data = await run_in_threadpool(uploads.still, request.path_params["id"], moment)
            return Response(data, media_type="image/jpeg")
        except (UserError, ValueError) as error:
            return _refused(404, str(error))

    async def live(socket: WebSocket) -> None:
        await socket.accept()
        loop, answers = asyncio.get_running_loop(), asyncio.Queue[bytes]()

        def answer(given: bytes) -> None:
            loop.call_soon_threadsafe(answers.put_nowait, given)

        def put_if_room(given: bytes) -> None:
            if answers.qsize() < BACKLOG:
                answers.put_nowait(given)

        def show(given: bytes) -> None:
            loop.call_soon_threadsafe(put_if_room, given)

        client = Client(answer, show)

        async def send() -> None:
            while True:
                await socket.send_bytes(await answers.get())

        desk.join(client)
        sending = asyncio.create_task(send())
        try:
            while True:
                try:
                    said = await socket.receive()
                    if said["type"] == "websocket.disconnect":
                        break
                    text, data = said.get("text"), said.get("bytes")
                    desk.want(client, messages.parse(text or "") if data is None else messages.parse_frame(data))
                except UserError as error:
                    answers.put_nowait(messages.frame({"type": "error", "about": "message", "message": str(error)}))
        except WebSocketDisconnect:
            pass
        finally:
            desk.leave(client)
            sending.cancel()

    routes = [
        *(Route(path, page) for path in PAGES),
        Route("/assets/{name}", asset),
        Route("/api/models", list_models),
        Route("/api/runs", list_runs),
        Route("/api/run", run),
        Route("/api/files", receive, methods=["POST"]),
        Route("/api/files/{id}", content),
        Route("/api/files/{id}/still.jpg", still),
        Route("/api/jobs", list_jobs),
        Route("/api/jobs", add_job, methods=["POST"]),
        Route("/api/jobs/{id}", change_job, methods=["DELETE"]),
        Route("/api/jobs/{id}/{name}", result),
        Route("/api/jobs/{id}/{what}", change_job, methods=["POST"]),
        WebSocketRoute("/live", live),
    ]

    async def explain(request: Request, error: Exception) -> Response:
        return _refused(503, str(error))

    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers={UserError: explain})
    app.add_middleware(Guard, access=access)
    return app


class Guard:
    """Refuses who may not use the page, tells browsers to load nothing from elsewhere, answers where all else fails.

    Args:
        app: What is guarded.
        access: Who may.
    """

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self.app, self.access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a connection through, or refuse it."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        connection = HTTPConnection(scope)
        refused = self._refused(connection, scope)
        if refused and scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
            return
        respond, begun = _with_headers(send, connection.headers.get("host", "")), scope["type"] == "websocket"

        async def answer(message: Message) -> None:
            nonlocal begun
            begun = True
            await respond(message)

        try:
            await (refused or self.app)(scope, receive, answer)
        except Exception:
            if begun:
                raise
            logger.exception("the page could not be served")
            await _refused(500, FAULT)(scope, receive, respond)

    def _refused(self, connection: HTTPConnection, scope: Scope) -> Response | None:
        host, origin = connection.headers.get("host", ""), connection.headers.get("origin")
        if host not in self.access.hosts:
            return _refused(421, "this server does not answer to that name")
        unsafe = scope["type"] == "websocket" or scope["method"] not in ("GET", "HEAD")
        if origin not in ({f"http://{host}"} if unsafe else {f"http://{host}", None}):
            return _refused(403, "this request comes from another page")
        if scope["path"] not in LAX and not _knows(connection, self.access):
            return _refused(403, "open the address that the terminal shows")
        return None


def _knows(connection: HTTPConnection, access: Access) -> bool:
    """Whether a connection knows the secret."""
    said = connection.cookies.get(access.cookie) or ""
    if connection.scope["path"] in PAGES:
        said = connection.query_params.get("token", said)
    return hmac.compare_digest(said.encode(), access.token.encode())


def _with_headers(send: Send, host: str) -> Send:
    """`send` that adds what a browser should know of every answer."""
    policy = "; ".join(
        [
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; media-src 'self' blob:",
            f"connect-src 'self' ws://{host}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        ]
    )
    headers = {
        "content-security-policy": policy,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "cache-control": "no-store",
    }
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]

    async def respond(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], *raw]}
        await send(message)

    return respond


def _refused(status: int, message: str) -> JSONResponse:
    return JSONResponse({"message": message}, status)


def _assets() -> dict[str, tuple[str, Any]]:
    """What the page is made of, by name: its type and content; nothing else is ever served as an asset."""
    mimetypes.add_type("text/javascript", ".js")  # whatever the machine's registry says
    folder = resources.files("autolink_apps.page") / "assets"
    kinds = {file.name: mimetypes.guess_type(file.name)[0] or "" for file in folder.iterdir()}
    return {name: (kind, (folder / name).read_bytes()) for name, kind in kinds.items()}
