"""How commands start, and the errors that a user can mend: one line, no traceback."""

from __future__ import annotations

import codecs
import errno
import functools
import logging
import os
import shutil
import signal
import sys
import threading
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from tqdm import tqdm

from autolink import __version__

logger = logging.getLogger(__name__)

_left_out: list[str] = []
_WIDTHS = 40, 240  # columns that are printed in; in three or fewer, the library that draws help does not end
_SPELLED = {
    "²": "^2",
    "³": "^3",
    "½": "1/2",
    "×": "x",
    "·": "*",
    "±": "+-",
    "≥": ">=",
    "≤": "<=",
    "…": "...",
    "∞": "inf",
}
_SPELLED |= {**dict.fromkeys("−–—─", "-"), "∞": "inf", "→": "->", "►": ">", "│": "|", "’": "'"}


NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What the system says of a full disk, of a user's share of it, and of a file that is as long as a file may be."""


class UserError(Exception):
    """Something the user gave cannot be used; the message says what arrived, what was expected, what to do."""


def leave_out(error: UserError) -> None:
    """Name one of many inputs that cannot be used, and go on; the command's status will say so in the end."""
    logger.warning("skipped %s", error)
    _left_out.append(str(error))


class Stopped(KeyboardInterrupt):
    """A signal asked a command to end, and what was done until then is kept.

    Args:
        done: What is kept, for the user; nothing is printed without.
        number: The signal's.

    Attributes:
        again: What goes on from there.
    """

    def __init__(self, done: str, number: int) -> None:
        super().__init__(done)
        self.done, self.number, self.again = done, number, "the same command with --resume"

    def __str__(self) -> str:
        return f"{self.done}; {self.again} goes on"


def command(main: Callable[..., None]) -> Callable[..., None]:
    """Make `main` a console entry point: a `UserError` becomes one line on stderr and exit status 2.

    So do inputs that were left out on the way (`leave_out`), when all else is done. SIGTERM ends it as Ctrl-C does.
    `--version` alone says which autolink this is, and nothing more is done.
    """

    @functools.wraps(main)
    def run(*args: object, **kwargs: object) -> None:
        _prepare_terminal()
        _left_out.clear()
        if sys.argv[1:] == ["--version"]:
            print(f"autolink {__version__}")
            return
        try:
            with _ending_by_sigterm():
                main(*args, **kwargs)
            if _left_out:
                number = "one input" if len(_left_out) == 1 else f"{len(_left_out)} inputs"
                raise UserError(
                    f"{number} could not be used, all others are done; skipped {'; '.join(_left_out[:3])}"
                    + (f"; and {len(_left_out) - 3} more, named above" if len(_left_out) > 3 else "")
                )
        except UserError as error:
            sys.exit(_fail(str(error)))
        except BrokenPipeError:  # whoever read the output, such as `head`, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except OSError as error:
            if error.filename is None and error.errno not in NO_ROOM:  # a defect of ours, which needs its traceback
                raise
            advice = "; free some space" if error.errno in NO_ROOM else ""
            sys.exit(_fail(f"{error.filename or 'a file cannot be written'}: {error.strerror}{advice}"))
        except Stopped as stopped:
            if stopped.done:
                _tell(f"interrupted: {stopped}")
            sys.exit(128 + stopped.number)
        except KeyboardInterrupt as stopped:  # with what the user should know then, if anything
            _tell(": ".join(["interrupted", *map(str, stopped.args)]))
            sys.exit(130)

    return run


@contextmanager
def _ending_by_sigterm() -> Iterator[None]:
    """A block that SIGTERM ends in order, unless it is handled already."""
    taken = threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM)
    if taken:  # SIG_DFL is 0
        yield
        return
    signal.signal(signal.SIGTERM, _end)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is _end:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _end(number: int, _: FrameType | None) -> None:
    raise Stopped("", number)


def _prepare_terminal() -> None:
    """Let everything be printed, whatever the encoding and the width of what it is printed to."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, ValueError):  # replaced by something else, or closed
            stream.reconfigure(errors="autolink.spelled")  # type: ignore[union-attr]
    width = shutil.get_terminal_size().columns
    if not _WIDTHS[0] <= width <= _WIDTHS[1]:
        os.environ["COLUMNS"] = str(min(max(width, _WIDTHS[0]), _WIDTHS[1]))


def _spell(error: UnicodeError) -> tuple[bytes, int]:
    """Characters that an encoding lacks, spelled in ASCII; what stands for a byte of a file's name is that byte."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return b"".join(map(_spelled, error.object[error.start : error.end])), error.end


def _spelled(character: str) -> bytes:
    if "\udc80" <= character <= "\udcff":
        return character.encode("ascii", "surrogateescape")
    if character in _SPELLED:
        return _SPELLED[character].encode()
    plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore")
    name = unicodedata.name(character, "")
    return plain or (name.split()[-1].lower().encode() if name.startswith("GREEK") else b"?")


codecs.register_error("autolink.spelled", _spell)


def _fail(message: str) -> int:
    # An error in a worker process of a data loader arrives with its traceback in front of the message.
    message = message.rsplit(f"{UserError.__module__}.{UserError.__name__}: ", 1)[-1]
    _tell("error: " + " ".join(message.split()))
    return 2


def _tell(line: str) -> None:
    """Print a line of its own on stderr, whatever progress bar is drawn there."""
    with tqdm.external_write_mode(file=sys.stderr):
        print(line, file=sys.stderr)
