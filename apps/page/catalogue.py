"""Which models the page shows: the user's own first, then the shipped ones, then those of runs; and no others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from autolink.errors import UserError
from autolink_apps.page.loading import loaded
from autolink_apps.page.runs import Runs


class Catalogue:
    """The models that can be opened, by the names that the page has for them.

    Args:
        own: Files, folders or hub ids of the user.
        runs: A folder of runs, or None.
    """

    def __init__(self, own: Sequence[str] = (), runs: Runs | None = None) -> None:
        self.own, self.runs = own, runs

    def listed(self) -> list[dict[str, str]]:
        """Names of models, the first to be opened first, with their kinds and where they are from.

        Raises:
            UserError: If one of the user is none, or nothing can be opened.
        """
        (performers,) = loaded("performers")
        from autolink.weights import manifest, read_header, resolve

        kinds = {task: performer.kind for task, (_, performer) in performers.KINDS.items()}
        shipped = {name: entry["task"] for name, entry in manifest().items()}
        groups: dict[str, dict[str, str]] = {
            "own": {name: read_header(resolve(name))["task"] for name in self.own},
            "shipped": {name: task for wanted in kinds for name, task in shipped.items() if task == wanted},
            "runs": {},
        }
        for name, path in (self.runs.models() if self.runs else {}).items():
            try:
                groups["runs"][name] = read_header(path)["task"]
            except UserError:
                continue  # of another program
        return [
            {"name": f"run {name}" if of == "runs" else name, "kind": kinds[task], "of": of}
            for of, found in groups.items()
            for name, task in found.items()
            if task in kinds
        ]

    def source(self, name: str) -> tuple[str, int]:
        """Where a model is, and a number that changes when its file does.

        Raises:
            UserError: If it is none of those that are shown, or nothing can be opened.
        """
        loaded("performers")
        from autolink.weights import manifest

        if name in self.own or name in manifest():
            path = Path(name)
            return name, path.stat().st_mtime_ns if path.is_file() else 0
        of_run = (self.runs.models() if self.runs else {}).get(name.removeprefix("run "))
        if of_run is None or not name.startswith("run "):
            raise UserError(f"there is no model {name!r:.60} here; choose one of the list")
        return str(of_run), of_run.stat().st_mtime_ns
