"""`autolink serve`: the page, on this machine and for its user alone.

    autolink serve                          # the shipped models
    autolink serve --model runs/mine        # your own first
    autolink serve --runs runs              # with curves and pictures of trainings, also of one that goes on

It prints an address with a secret in it and opens it in the browser. Another machine's browser reaches it through a
tunnel (`ssh -L 8421:127.0.0.1:8421 host`), or with `--host 0.0.0.0 --allow-host NAME:8421`, unencrypted.
"""

from __future__ import annotations

import os
import secrets
import socket
import sys
import webbrowser
from dataclasses import dataclass
from pathlib import Path
from threading import Timer
from typing import Annotated

import tyro

from autolink.errors import UserError, command
from autolink.ranges import Checked, Range

TOKEN = "AUTOLINK_PAGE_TOKEN"
"""Environment variable with a secret of one's own, so that the address stays the same from one start to the next."""


@dataclass
class Options(Checked):
    """Show the page."""

    model: tuple[str, ...] = ()
    """Models that are listed before the shipped ones: files, folders or hub ids; the first is opened first."""
    runs: Path | None = None
    """Folder of runs whose curves, pictures and models are shown; default: `runs`, if there is one here."""
    host: str = "127.0.0.1"
    """Address to listen on; any but this machine's own needs --allow-host."""
    port: Annotated[int, Range(0, 65535)] = 8421
    """Port to listen on; 0 takes a free one."""
    allow_host: tuple[str, ...] = ()
    """Names under which browsers may reach the server from elsewhere, as in `mybox:8421`."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1`, `mps` …"""
    open: bool = True
    """Open the browser."""


def serve(options: Options) -> None:
    """Serve until interrupted.

    Raises:
        UserError: If the options cannot be used, or a package is missing.
    """
    try:
        import uvicorn

        from autolink_apps.page.app import LONGEST_MESSAGE, Access, make_app
        from autolink_apps.page.catalogue import Catalogue
        from autolink_apps.page.desk import Desk
        from autolink_apps.page.jobs import Jobs
        from autolink_apps.page.runs import Runs
        from autolink_apps.page.uploads import Uploads
    except ModuleNotFoundError as error:
        if error.name not in ("uvicorn", "starlette", "websockets"):
            raise
        raise UserError(f"the page needs {error.name}: pip install 'autolink-graph[serve]'") from error
    local = options.host in ("127.0.0.1", "localhost", "::1")
    if not local and not options.allow_host:
        raise UserError(
            f"--host {options.host} lets other machines in; say under which names they may, as in "
            f"--allow-host {socket.gethostname()}:{options.port}"
        )
    if options.runs is not None and not options.runs.is_dir():
        raise UserError(f"--runs {options.runs}: no such folder; give the folder in which runs are")
    folder = options.runs or Path("runs")
    listening = _listen(options.host, options.port)
    port = listening.getsockname()[1]
    token = os.environ.get(TOKEN) or secrets.token_urlsafe(18)
    hosts = frozenset({f"127.0.0.1:{port}", f"localhost:{port}", f"[::1]:{port}", *options.allow_host})
    address = f"http://127.0.0.1:{port}/?token={token}"

    def ready() -> None:
        print(f"autolink serves {address}\nstop it with Ctrl+C", flush=True)
        if options.open:
            Timer(0.1, webbrowser.open, [address]).start()

    uploads = Uploads()
    catalogue = Catalogue(options.model, Runs(folder) if folder.is_dir() else None)
    desk = Desk(uploads.find, catalogue.source, options.device)
    jobs = Jobs(uploads.folder / "jobs", uploads.file, catalogue.source, options.device)
    app = make_app(Access(token, hosts, port), desk, uploads, catalogue, jobs, ready)
    config = uvicorn.Config(
        app,
        log_level="warning",
        ws="websockets-sansio",
        ws_max_size=LONGEST_MESSAGE,
        ws_per_message_deflate=False,  # pictures do not get smaller
        timeout_graceful_shutdown=2,
        server_header=False,
    )
    try:
        uvicorn.Server(config).run(sockets=[listening])
    finally:
        if desk.thread.is_alive():  # in the midst of loading or painting, where Python would end with a cry of its own
            os._exit(130)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family)
    try:
        if sys.platform != "win32":  # there it would let two servers have one port
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
    except (OSError, OverflowError) as error:
        listening.close()
        raise UserError(
            f"cannot listen on {host}:{port} ({error}); give another --port, or 0 for a free one"
        ) from error
    return listening


@command
def main() -> None:
    """Entry point of `autolink serve`."""
    # Threads of torch that wait without spinning: beside another busy program pictures come twenty times as fast.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    serve(tyro.cli(Options, prog="autolink serve", description=__doc__))


if __name__ == "__main__":
    main()
