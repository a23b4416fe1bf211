"""How far a run is, and how long all of it will take here."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator

from autolink.progress import Bar, is_off
from autolink.training.options import SMALL_SIDE, SMALL_WIDTH, RunOptions, logger

_watches: list[Callable[[float], object]] = []


@contextmanager
def watching(step_done: Callable[[float], object]) -> Iterator[None]:
    """A block in which each step that is done is told, with the clock in seconds."""
    _watches.append(step_done)
    try:
        yield
    finally:
        _watches.remove(step_done)


@contextmanager
def step_times() -> Iterator[list[float]]:
    """A list that gets the clock, in seconds, at each step that is done in this block."""
    times: list[float] = []
    with watching(times.append):
        yield times


class StepBar(Bar):
    """A progress bar of training steps that, after the first of them, says how long all of them will take here.

    The first step sets things up and is not counted.

    Args:
        accelerator: The run's accelerator.
        options: The run's options.
        step: Steps done before.
        name: What learns.
    """

    MEASURED, ENOUGH, WORTH_TELLING, LONG = 4, 10.0, 60.0, 3600.0
    """Steps that are timed, or as many as take so many seconds; of what takes less is nothing said; what takes more is
    said with how to shorten it."""

    def __init__(self, accelerator: Accelerator, options: RunOptions, step: int, name: str) -> None:
        shown = accelerator.is_main_process
        super().__init__(desc=name, total=options.steps, initial=step, unit="step", hidden=not shown)
        self._name = name  # a bar that is not shown, as in a log file, has no `desc`
        self._accelerator, self._options, self._left = accelerator, options, options.steps - step
        self._since = 0.0
        self._timed: int | None = -1 if shown and not is_off() else None

    def update(self, n: float | None = 1) -> bool | None:
        """Count steps that were done."""
        self._left -= round(n or 0)
        for step_done in _watches:
            step_done(self._now())
        if self._timed is not None:
            self._timed = self._measured(self._timed)
        return super().update(n)

    def _measured(self, timed: int) -> int | None:
        """How many steps are timed after this one; None when all that are have been, which is when it is said."""
        if timed < 0:
            self._since = self._now()
        timed += 1
        if not timed:
            return timed
        seconds = self._now() - self._since if timed == self.MEASURED else time.perf_counter() - self._since
        if timed == self.MEASURED or seconds > self.ENOUGH:
            pace = seconds / timed
            if pace * self._left > self.WORTH_TELLING:
                with self.external_write_mode(file=sys.stderr):
                    logger.warning("%s: %s", self._name, forecast(self._left, pace, self._accelerator, self._options))
            return None
        return timed

    def _now(self) -> float:
        """The clock when the device has done what it was given."""
        if self._accelerator.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def forecast(steps: int, pace: float, accelerator: Accelerator, options: RunOptions) -> str:
    """How long some steps of `pace` seconds take, where, and, if that is long, which options shorten it."""
    count, device = accelerator.num_processes, "processor" if accelerator.device.type == "cpu" else "GPU"
    where = f"this {device}" if count == 1 else f"these {count} processes"
    text = f"{steps:,} steps of about {pace:.2g} s: {duration(steps * pace)} on {where}"
    if steps * pace < StepBar.LONG:
        return text
    shorter = [f"--width {SMALL_WIDTH}"] if options.width > SMALL_WIDTH else []
    shorter += [f"--image-size {SMALL_SIDE}"] if options.image_size > SMALL_SIDE else []
    shorter += ["--perceptual squeezenet"] if getattr(options, "perceptual", None) == "vgg16" else []
    return f"{text}; {', '.join([*shorter, 'fewer --steps'])} or a smaller --batch-size shorten it"


def duration(seconds: float) -> str:
    """Some time in words, in the largest unit of which there are two."""
    for name, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {name}"
    return f"{seconds:.0f} seconds"
