"""How a command says how far it is: a bar for a person, or a JSON object a line for a program (`--progress json`).

Every bar of the library is a `Bar`, and this module alone decides what becomes of it. The objects go to stderr, each in
a line of its own that begins with `{`; `docs/tools.md` lists their fields. Errors stay lines for a person.
"""

from __future__ import annotations

import functools
import io
import json
import logging
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, Protocol, TypeVar

from tqdm import tqdm

Progress = Literal["auto", "json", "off"]
"""auto: a bar where somebody sees it, on a terminal. json: an object a line on stderr. off: nothing."""
OFTEN = 0.5
"""Seconds between two objects of a bar, at least."""

_shown: Progress = "auto"
logger = logging.getLogger("autolink")


class Asks(Protocol):
    """Options that say how progress is shown."""

    progress: Progress


Options = TypeVar("Options", bound=Asks)
Result = TypeVar("Result")


@contextmanager
def showing(kind: Progress) -> Iterator[None]:
    """A block whose bars are of a kind; `auto` leaves it to what is around the block."""
    global _shown
    before = _shown
    if kind == "auto" or kind == before:
        yield
        return
    _shown = kind
    warnings = _Warnings()
    propagates = logger.propagate
    if kind == "json":
        logger.addHandler(warnings)
        logger.propagate = False
    try:
        yield
    finally:
        _shown = before
        logger.removeHandler(warnings)
        logger.propagate = propagates


def as_asked(work: Callable[[Options], Result]) -> Callable[[Options], Result]:
    """Let what a command does show its progress as its options say."""

    @functools.wraps(work)
    def run(options: Options) -> Result:
        with showing(options.progress):
            return work(options)

    return run


def is_read_by_a_program() -> bool:
    """Whether progress is written as JSON."""
    return _shown == "json"


def is_off() -> bool:
    """Whether nothing is to be seen of it."""
    return _shown == "off"


def tell(event: str, **values: Any) -> None:
    """Write an object on stderr, in a line; what is no finite number becomes null."""
    said = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in values.items()
    }
    sys.stderr.write(json.dumps({"event": event, **said}) + "\n")
    sys.stderr.flush()


class Bar(tqdm):  # type: ignore[type-arg]  # generic in its stubs alone
    """A progress bar, or what is written instead of it.

    Args:
        *args: As tqdm has them.
        hidden: Nothing is shown, as in all processes but the first.
        **kwargs: As tqdm has them.
    """

    def __init__(self, *args: Any, hidden: bool = False, **kwargs: Any) -> None:
        self._told = is_read_by_a_program() and not hidden
        if self._told:
            kwargs |= {"file": io.StringIO(), "mininterval": OFTEN, "disable": False}
        else:
            kwargs["disable"] = True if hidden or _shown == "off" else None
        super().__init__(*args, **kwargs)

    def display(self, msg: str | None = None, pos: int | None = None) -> bool | None:  # type: ignore[override]
        """Draw the bar, or write its state."""
        if not self._told:
            return super().display(msg, pos)
        state = self.format_dict
        done, total, seconds = state["n"], state["total"], state["elapsed"]
        rate = state["rate"] or ((done - state["initial"]) / seconds if seconds else 0)
        left = (total - done) / rate if total is not None and rate else None
        tell(
            "progress",
            stage=(state["prefix"] or state["unit"]).removesuffix(": "),
            done=done,
            of=total,
            unit=state["unit"],
            seconds=round(seconds, 2),
            left=None if left is None else round(max(left, 0), 2),
        )
        return True


class _Warnings(logging.Handler):
    """Writes what is logged as objects."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one."""
        tell("warning", message=record.getMessage())
