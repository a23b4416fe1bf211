"""Videos that the page makes: `autolink-transfer`, or `autolink detect` for keypoints, in a process of its own.

One goes on at a time, while others wait in a queue. A job keeps its files in a folder that goes with it. It can be
stopped, and goes on later where it was, or, where keypoints are found, from the beginning; what is said of how long it
takes comes from how long earlier stages took here.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from autolink.errors import UserError
from autolink_apps.page.messages import Order
from autolink_apps.page.uploads import Upload

TRANSFER = (sys.executable, "-m", "autolink_apps.pose_transfer.transfer")
DETECT = (sys.executable, "-m", "autolink", "detect")
WAITING = 8
"""Jobs that may wait."""
KEPT = 8
"""Jobs that are kept when they have ended; the oldest go."""
ROOM = 1_000_000_000
"""Bytes that must be free on the disk for a job to begin."""
PATIENCE = 30.0
"""Seconds in which a process that is stopped has to end."""
SOURCE, DRIVER = "uploaded-source", "uploaded-driver"
"""What the files are called for the command."""
FOUND = ".found"
"""The folder for what was found in a clip: none that a clip can be called."""
STARTING = 6.0
"""Seconds until the command has loaded what it needs, until it is known how long that takes here."""
PACES = {"looking": 0.012, "adapting": 1.0, "painting": 0.02, "finding": 0.02}
"""Seconds for a frame or a step on two cores, until it is known how long they take here; a frame is painted at 256²."""
LARGER = 6.0
"""How much more than `PACES` says a megapixel of the result costs, in times."""
LOOKED_AT = 1000
"""Frames of a source that are looked at."""
ENOUGH = 8
"""Frames or steps from which on a pace is believed."""
NOTES = 5

State = Literal["waiting", "going on", "done", "stopped", "failed"]
logger = logging.getLogger("autolink")


@dataclass
class Stage:
    """A part of a job."""

    name: str
    kind: str
    """Of `PACES`, or `starting` or `learning`, of which nothing is counted."""
    amount: float
    """In frames or steps of `PACES`; seconds of the others."""
    since: float = 0.0
    first: float = math.inf
    """What was done when it began, if it goes on."""
    done: int = 0
    of: int | None = None
    left: float | None = None


@dataclass
class Job:
    """A video that is made."""

    id: str
    order: Order
    source: Upload
    driver: Upload | None
    folder: Path
    stages: list[Stage]
    state: State = "waiting"
    at: int = 0
    """The stage, by its place in `stages`."""
    message: str = ""
    """What went wrong."""
    notes: list[str] = field(default_factory=list)
    """Of what the command warned."""
    begun: bool = False
    process: subprocess.Popen[str] | None = None
    said: list[str] = field(default_factory=list)
    """The last lines that were no objects."""

    @property
    def ended(self) -> bool:
        """Whether nothing more happens by itself."""
        return self.state in ("done", "stopped", "failed")

    @property
    def files(self) -> dict[str, Path]:
        """Where what is made is when it is there: `result.mp4`, and tables of keypoints."""
        if self.driver is not None:
            return {"result.mp4": self.folder / "result.mp4"}
        tables = {name: self.folder / FOUND / name for name in ("keypoints.csv", "keypoints.npz")}
        return {"result.mp4": self.folder / FOUND / "overlays" / f"{Path(self.clip).stem}.mp4", **tables}

    @property
    def clip(self) -> str:
        """What the source is called for the command that finds keypoints, whose tables name it."""
        return re.sub(r"[^\w. -]", "_", self.source.name).lstrip(".- ")[:60] or "clip"

    def called(self, name: str) -> str:
        """What one of the files is called when it is saved."""
        whose = Path(self.source.name).stem
        if self.driver is not None:
            whose += f"-as-{Path(self.driver.name).stem}"
        return f"{whose}{Path(name).suffix}" if name == "result.mp4" else f"{whose}-{name}"


class Jobs:
    """The queue.

    Args:
        folder: For the folders of jobs; made when it is needed.
        find: The upload of an id.
        source: Where the model of a name is, as `Catalogue.source` says.
        device: Where networks compute.
        transfer: The command that makes a video, but for its options.
        detect: The command that finds keypoints, likewise.
    """

    def __init__(
        self,
        folder: Path,
        find: Callable[[str], Upload],
        source: Callable[[str], tuple[str, int]],
        device: str = "auto",
        transfer: Sequence[str] = TRANSFER,
        detect: Sequence[str] = DETECT,
    ) -> None:
        self.folder, self.find, self.source, self.device = folder, find, source, device
        self.transfer, self.detect = transfer, detect
        self.jobs: dict[str, Job] = {}
        self.measured: dict[str, float] = {}
        self.changed = threading.Condition(threading.RLock())
        self.over = False
        self.thread = threading.Thread(target=self._run, name="jobs", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self.thread.start()

    def stop(self) -> None:
        """End what goes on, and forget all jobs."""
        with self.changed:
            self.over = True
            for job in self.jobs.values():
                self._end(job, patience=5)
            self.changed.notify_all()
        self.thread.join(timeout=10)
        shutil.rmtree(self.folder, ignore_errors=True)

    def listed(self) -> list[dict[str, Any]]:
        """What the page shows of all of them, the newest first."""
        with self.changed:
            return [self._described(job) for job in reversed(self.jobs.values())]

    def seconds(self, order: Order) -> float:
        """About how long an order would take."""
        with self.changed:
            return sum(map(self._expected, self._planned(order, *self._uploads(order))))

    def add(self, order: Order) -> dict[str, Any]:
        """Take an order.

        Raises:
            UserError: If it cannot be carried out, or too many wait.
        """
        source, driver = self._uploads(order)
        if driver is None and source.kind != "clip":
            raise UserError(f"{source.name} is a picture; open it on the view Pose, which shows and exports its points")
        if driver is not None and driver.kind != "clip":
            raise UserError(f"{driver.name} is a picture, so nothing moves in it; take a clip for the movement")
        if order.adapt and source.frames < 20:
            raise UserError(f"{source.name} has too few frames to learn from; take a clip of a second or more")
        if order.learn and source.kind != "clip":
            raise UserError(f"{source.name} is a picture; a new kind of object is learned from two clips")
        if order.learn and driver is not None and source.id == driver.id:
            raise UserError(f"{source.name} is both clips; a new kind of object is learned from two of them")
        self.source(order.model)  # so that one who names no model hears of it now
        with self.changed:
            if sum(job.state == "waiting" for job in self.jobs.values()) >= WAITING:
                raise UserError(f"{WAITING} videos wait already; stop one of them, or wait for the next to be done")
            self._make_room()
            id = secrets.token_hex(8)
            job = Job(id, order, source, driver, self.folder / id, self._planned(order, source, driver))
            job.folder.mkdir(parents=True)
            _give(source.path, job.folder / (job.clip if driver is None else SOURCE))
            if driver is not None:
                _give(driver.path, job.folder / DRIVER)
            self.jobs[id] = job
            self.changed.notify_all()
            return self._described(job)

    def cancel(self, id: str) -> None:
        """Stop a job, which can go on later.

        Raises:
            UserError: If there is none.
        """
        with self.changed:
            self._end(self.job(id))

    def resume(self, id: str) -> None:
        """Let a job go on that was stopped or went wrong.

        Raises:
            UserError: If there is none, or it has not ended.
        """
        with self.changed:
            job = self.job(id)
            if job.state not in ("stopped", "failed"):
                raise UserError("this video is not stopped")
            job.state, job.message = "waiting", ""
            self.jobs[id] = self.jobs.pop(id)  # behind those that wait
            self.changed.notify_all()

    def remove(self, id: str) -> None:
        """Forget a job and its files; it is stopped if it goes on.

        Raises:
            UserError: If there is none.
        """
        with self.changed:
            job = self.job(id)
            self._end(job)
            del self.jobs[id]
            if job.process is None:  # otherwise its thread does
                shutil.rmtree(job.folder, ignore_errors=True)

    def job(self, id: str) -> Job:
        """A job by its id.

        Raises:
            UserError: If there is none.
        """
        if id not in self.jobs:
            raise UserError("this video is no longer here")
        return self.jobs[id]

    def _uploads(self, order: Order) -> tuple[Upload, Upload | None]:
        return self.find(order.source), None if order.driver is None else self.find(order.driver)

    def _make_room(self) -> None:
        ended = [job for job in self.jobs.values() if job.ended]
        for job in ended[: max(0, len(ended) - KEPT + 1)]:
            self.remove(job.id)
        self.folder.mkdir(exist_ok=True)
        free = shutil.disk_usage(self.folder).free
        if free < ROOM:
            raise UserError(
                f"the disk has {free / 1e9:.1f} GB left where videos are made ({self.folder.parent}); free some space"
            )

    def _end(self, job: Job, patience: float = PATIENCE) -> None:
        if job.state == "waiting":
            job.state = "stopped"
        elif job.state == "going on":
            job.state = "stopped"
            if job.process is not None:
                job.process.send_signal(signal.SIGTERM)
                killer = threading.Timer(patience, job.process.kill)
                killer.daemon = True
                killer.start()

    def _run(self) -> None:
        while True:
            with self.changed:
                while not self.over and not (waiting := [j for j in self.jobs.values() if j.state == "waiting"]):
                    self.changed.wait()
                if self.over:
                    return
                job = waiting[0]
                job.state, job.at, job.said, job.notes = "going on", 0, [], []
                job.stages = self._planned(job.order, job.source, job.driver)
                job.stages[0].since = time.monotonic()
                job.process = self._begin(job)
            self._follow(job, job.process)

    def _begin(self, job: Job) -> subprocess.Popen[str] | None:
        """The command's process; None if there is nothing to begin it with."""
        try:
            process = subprocess.Popen(
                self._command(job),
                cwd=job.folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,  # Ctrl-C is for the server, which then ends the process in order
            )
        except (UserError, OSError) as error:
            job.state, job.message = "failed", str(error)
            return None
        job.begun = True
        if hasattr(os, "setpriority"):  # what is painted by hand goes first
            os.setpriority(os.PRIO_PROCESS, process.pid, 10)
        return process

    def _command(self, job: Job) -> list[str]:
        """What makes it, in its folder."""
        order, how = job.order, ["--progress", "json", "--device", self.device]
        if job.driver is None:
            shutil.rmtree(job.folder / FOUND, ignore_errors=True)  # of a process that was stopped
            model = self._model(order.model)
            return [*self.detect, *how, "--model", model, "--output", FOUND, "--crop", "auto", job.clip]
        command = [*self.transfer, *how, "--src", SOURCE, "--driver", DRIVER, "--output", "result.mp4"]
        command += ["--preview", "off"]
        command += ["--resume"] if job.begun else []
        # Features that are shipped: the page has nothing come from elsewhere, and others may not be here.
        command += ["--adapt", str(order.adapt), "--perceptual", "builtin"] if order.adapt else []
        command += ["--paste-back"] if order.whole else []
        return [*command, *(["--learn", str(order.learn)] if order.learn else ["--model", self._model(order.model)])]

    def _model(self, name: str) -> str:
        """A model as the command has it, which runs in another folder."""
        place = self.source(name)[0]
        return str(Path(place).resolve()) if Path(place).exists() else place

    def _follow(self, job: Job, process: subprocess.Popen[str] | None) -> None:
        """Hear what a process says until it ends."""
        if process is None or process.stderr is None:
            return
        for line in process.stderr:
            with self.changed:
                self._hear(job, line.rstrip("\n"))
        status = process.wait()
        with self.changed:
            job.process = None
            if job.id not in self.jobs:
                shutil.rmtree(job.folder, ignore_errors=True)
            elif status == 0:
                job.state = "done"
                shutil.rmtree(job.folder / "runs", ignore_errors=True)
            elif job.state == "going on":
                job.state, job.message = "failed", self._reason(job, status)

    def _hear(self, job: Job, line: str) -> None:
        if not line.startswith("{"):
            job.said = [*job.said[-50:], line]
            return
        said = json.loads(line)
        if said["event"] == "warning" and len(job.notes) < NOTES:
            job.notes.append(_for_people(said["message"], job))
        elif said["event"] == "progress":
            self._advance(job, said)

    def _advance(self, job: Job, said: dict[str, Any]) -> None:
        """Note how far a job is."""
        places = [place for place, stage in enumerate(job.stages) if said["stage"].startswith(stage.name)]
        if not places:  # of learning, or a search before the looking
            places = [place for place, stage in enumerate(job.stages) if stage.kind == "learning"]
        if not places:
            return
        if job.at == 0:
            self.measured["starting"] = time.monotonic() - job.stages[0].since
        job.at, stage = places[0], job.stages[places[0]]
        stage.since = stage.since or time.monotonic()
        if stage.kind == "learning":
            return
        stage.done, stage.of, stage.left = said["done"], said["of"], said["left"]
        stage.first = min(stage.first, stage.done)
        if stage.of and stage.done == stage.of >= stage.first + ENOUGH:
            share = (stage.of - stage.first) / stage.of  # the rest was done before it went on
            self.measured[stage.kind] = said["seconds"] / (stage.amount * share)

    def _planned(self, order: Order, source: Upload, driver: Upload | None) -> list[Stage]:
        size = 1 + LARGER * max(0.0, min(source.width, source.height, 2160) ** 2 - 256**2) / 1e6
        if driver is None:
            starting = Stage("starting", "starting", STARTING)
            return [starting, Stage("detect", "finding", source.frames * size)]
        looked = source.frames if order.adapt else min(source.frames, LOOKED_AT)
        stages = [
            Stage("starting", "starting", STARTING),
            Stage(f"looking at {DRIVER}", "looking", driver.frames),
            Stage(f"looking at {SOURCE}", "looking", looked),
        ]
        if order.learn:
            stages.insert(1, Stage("learning", "learning", 60 * order.learn))
        if order.adapt:
            stages.append(Stage(f"adapting to {SOURCE}", "adapting", order.adapt))
        return [*stages, Stage("painting", "painting", driver.frames * size)]

    def _expected(self, stage: Stage) -> float:
        """About how many seconds a stage takes, by what was measured, of it or else of others."""
        if stage.kind not in PACES:
            return self.measured.get(stage.kind, stage.amount)
        pace = self.measured.get(stage.kind)
        if pace is None:
            known = [self.measured[kind] / PACES[kind] for kind in self.measured.keys() & PACES]
            pace = PACES[stage.kind] * (sum(known) / len(known) if known else 1)
        return pace * stage.amount

    def _left(self, job: Job) -> float:
        """About how many seconds a job still takes."""
        if job.state == "waiting":
            return sum(map(self._expected, job.stages))
        stage, later = job.stages[job.at], sum(map(self._expected, job.stages[job.at + 1 :]))
        if stage.left is not None:
            return stage.left + later
        return max(0.0, self._expected(stage) - (time.monotonic() - stage.since)) + later

    def _described(self, job: Job) -> dict[str, Any]:
        passed = time.monotonic() - job.stages[0].since if job.state == "going on" else 0.0
        left = 0.0 if job.ended else self._left(job)
        return {
            "id": job.id,
            "state": job.state,
            "source": job.source.described(),
            "driver": job.driver and job.driver.described(),
            "order": vars(job.order),
            "stage": _in_words(job.stages[job.at], job),
            "left": round(left, 1),
            "share": round(passed / (passed + left), 3) if passed else 0.0,
            "ahead": list(self._waiting_before(job)),
            "message": job.message,
            "notes": job.notes,
        }

    def _waiting_before(self, job: Job) -> Iterator[str]:
        if job.state == "waiting":
            for other in self.jobs.values():
                if other is job:
                    return
                if not other.ended:
                    yield other.id

    def _reason(self, job: Job, status: int) -> str:
        """Why a process ended, for the person."""
        errors = [line.removeprefix("error: ") for line in job.said if line.startswith("error: ")]
        if status == 2 and errors:
            return _for_people(errors[-1], job)
        logger.error("a video could not be made (status %d):\n%s", status, "\n".join(job.said))
        if status in (-signal.SIGKILL, 128 + signal.SIGKILL):
            return "the process was ended from outside, perhaps for want of memory; it can go on"
        return "this did not work, by a fault of the program; the terminal shows more"


def _in_words(stage: Stage, job: Job) -> str:
    if stage.kind not in PACES:
        return {"starting": "Starting", "learning": "Learning from both clips"}[stage.kind]
    words = {"adapting": "Adapting to", "painting": "Painting"}.get(stage.kind, "Finding keypoints in")
    of = (
        ""
        if stage.of is None
        else f", {stage.done:,} of {stage.of:,} {'steps' if stage.kind == 'adapting' else 'frames'}"
    )
    driver = "" if job.driver is None else job.driver.name
    name = {f"looking at {DRIVER}": driver, "painting": ""}.get(stage.name, job.source.name)
    return f"{words} {name}".strip() + of


def _for_people(text: str, job: Job) -> str:
    """A line of the command with the names that the files had."""
    text = text.replace(str(job.folder) + os.sep, "")
    text = text.replace(SOURCE, job.source.name)
    text = text if job.driver is None else text.replace(DRIVER, job.driver.name)
    return re.sub(r"\bruns/[\w.-]+", "the model that is learned", text)


def _give(file: Path, place: Path) -> None:
    """Let a job have a file, for as long as it is there."""
    try:
        os.link(file, place)
    except OSError:
        shutil.copyfile(file, place)
