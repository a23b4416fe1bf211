"""Run folders, read only: which there are, what they logged, and the pictures and models that they left.

Everything is found by listing what is there; what a request names is looked up in that list and never made into a path.
"""

from __future__ import annotations

import json
import math
import os
import socket
import time
from pathlib import Path
from typing import Any, NamedTuple

from autolink.errors import UserError

DEPTH = 4
"""Folders below the given one in which runs are looked for."""
MOST = 200
"""Runs that are listed, the newest first."""
POINTS = 600
"""Points of a curve, at most: more than there are pixels would not be seen."""
ALIVE = 120
"""Seconds after the last line of its log for which a run counts as going on, if nothing else tells."""
LOG, CONFIG, LOCK, MODEL, SAMPLES = "log.jsonl", "config.json", ".lock", "model.safetensors", "samples"


class Run(NamedTuple):
    """A run folder."""

    id: str
    """Its path from the folder of runs."""
    path: Path


class Runs:
    """The runs below a folder.

    Args:
        folder: May appear later.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()

    def found(self) -> list[Run]:
        """The runs, the newest first; links that lead out of the folder are not followed."""
        runs = []
        for here, folders, files in os.walk(self.folder):
            path = Path(here)
            depth = len(path.relative_to(self.folder).parts)
            folders[:] = [] if depth >= DEPTH else sorted(n for n in folders if n != SAMPLES and not n.startswith("."))
            if LOG in files and _inside(path / LOG, self.folder):
                runs.append((path.joinpath(LOG).stat().st_mtime, Run(path.relative_to(self.folder).as_posix(), path)))
        return [run for _, run in sorted(runs, key=lambda found: found[0], reverse=True)[:MOST]]

    def run(self, id: str) -> Run:
        """One by its id.

        Raises:
            UserError: If there is none.
        """
        for run in self.found():
            if run.id == id:
                return run
        raise UserError("this run is no longer there")

    def listed(self) -> list[dict[str, Any]]:
        """What the page shows of each."""
        return [self._about(run) for run in self.found()]

    def described(self, id: str) -> dict[str, Any]:
        """What the page shows of one: `curves` of all that was logged, and `samples` by name, with their steps."""
        run = self.run(id)
        return {**self._about(run), "curves": curves(run.path / LOG), "samples": _samples(run.path, self.folder)}

    def picture(self, id: str, name: str, step: int) -> Path:
        """A picture of a run.

        Raises:
            UserError: If there is none.
        """
        run = self.run(id)
        if step not in _samples(run.path, self.folder).get(name, []):
            raise UserError("this picture is no longer there")
        return run.path / SAMPLES / f"{name}-{step:07d}.png"

    def models(self) -> dict[str, Path]:
        """The models that runs left, by the ids of the runs."""
        paths = {run.id: run.path / MODEL for run in self.found()}
        return {id: path for id, path in paths.items() if path.is_file() and _inside(path, self.folder)}

    def _about(self, run: Run) -> dict[str, Any]:
        log, config = run.path / LOG, _config(run.path)
        step = next((row["step"] for row in reversed(_rows(log)) if "step" in row), 0)
        of = config.get("steps") if isinstance(config.get("steps"), int) else None
        alive = _at_work(run.path) or time.time() - log.stat().st_mtime < ALIVE
        state = "finished" if of is not None and step >= of else "going on" if alive else "stopped"
        model = (run.path / MODEL).is_file() and _inside(run.path / MODEL, self.folder)
        return {
            "id": run.id,
            "step": step,
            "of": of,
            "state": state,
            "data": str(config.get("data", "")),
            "model": model,
        }


def curves(log: Path) -> dict[str, list[tuple[int, float]]]:
    """What was logged, by name: steps and values, thinned to `POINTS`; what is no finite number is left out."""
    series: dict[str, list[tuple[int, float]]] = {}
    for row in _rows(log):
        for name, value in row.items():
            if name != "step" and isinstance(value, int | float) and math.isfinite(value):
                series.setdefault(name, []).append((row["step"], value))
    return {name: _thinned(points) for name, points in series.items()}


def _thinned(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """Evenly, and with the first and the last."""
    if len(points) <= POINTS:
        return points
    return [points[round(place * (len(points) - 1) / (POINTS - 1))] for place in range(POINTS)]


def _rows(log: Path) -> list[dict[str, Any]]:
    """The whole lines of a log; a last one that is being written is left out."""
    rows = []
    for line in log.read_bytes().splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows


def _config(run: Path) -> dict[str, Any]:
    try:
        config = json.loads((run / CONFIG).read_bytes())
    except (OSError, ValueError):  # not yet there, or just being written
        return {}
    return config if isinstance(config, dict) else {}


def _at_work(run: Path) -> bool:
    """Whether the process that took a run is there, where /proc tells: some write their log once an hour."""
    try:
        number, _, host = (run / LOCK).read_text().partition(" on ")
    except (OSError, ValueError):
        return False
    return number.isdecimal() and host == socket.gethostname() and Path("/proc", number).exists()


def _samples(run: Path, root: Path) -> dict[str, list[int]]:
    """Steps of the pictures of a run, by their name."""
    found: dict[str, list[int]] = {}
    folder = run / SAMPLES
    for path in sorted(folder.glob("*-???????.png")) if folder.is_dir() else ():
        name, _, step = path.stem.rpartition("-")
        if step.isdecimal() and _inside(path, root):
            found.setdefault(name, []).append(int(step))
    return found


def _inside(path: Path, root: Path) -> bool:
    """Whether a file is in a folder in truth, and not by a link alone."""
    return path.resolve().is_relative_to(root)
