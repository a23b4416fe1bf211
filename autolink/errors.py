"""Errors that a user can mend, and how commands print them: one line, no traceback."""

from __future__ import annotations

import functools
import logging
import os
import sys
from collections.abc import Callable

logger = logging.getLogger(__name__)

_left_out: list[str] = []


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

    So do inputs that were left out on the way (`leave_out`), when all else is done.
    """

    @functools.wraps(main)
    def run(*args: object, **kwargs: object) -> None:
        _left_out.clear()
        try:
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
            if error.filename is None:  # not about a path: a defect of ours, which needs its traceback
                raise
            sys.exit(_fail(f"{error.filename}: {error.strerror}"))
        except Stopped as stopped:
            if stopped.done:
                print(f"interrupted: {stopped}", file=sys.stderr)
            sys.exit(128 + stopped.number)
        except KeyboardInterrupt as stopped:  # with what the user should know then, if anything
            print(": ".join(["interrupted", *map(str, stopped.args)]), file=sys.stderr)
            sys.exit(130)

    return run


def _fail(message: str) -> int:
    # An error in a worker process of a data loader arrives with its traceback in front of the message.
    message = message.rsplit(f"{UserError.__module__}.{UserError.__name__}: ", 1)[-1]
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return 2
