"""Errors that a user can mend, and how commands print them: one line, no traceback."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable


class UserError(Exception):
    """Something the user gave cannot be used; the message says what arrived, what was expected, what to do."""


def command(main: Callable[..., None]) -> Callable[..., None]:
    """Make `main` a console entry point: a `UserError` becomes one line on stderr and exit status 2."""

    @functools.wraps(main)
    def run(*args: object, **kwargs: object) -> None:
        try:
            main(*args, **kwargs)
        except UserError as error:
            sys.exit(_fail(str(error)))
        except BrokenPipeError:  # whoever read the output, such as `head`, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except OSError as error:
            if error.filename is None:  # not about a path: a defect of ours, which needs its traceback
                raise
            sys.exit(_fail(f"{error.filename}: {error.strerror}"))
        except KeyboardInterrupt as stopped:  # with what the user should know then, if anything
            print(": ".join(["interrupted", *map(str, stopped.args)]), file=sys.stderr)
            sys.exit(130)

    return run


def _fail(message: str) -> int:
    # An error in a worker process of a data loader arrives with its traceback in front of the message.
    message = message.rsplit(f"{UserError.__module__}.{UserError.__name__}: ", 1)[-1]
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return 2
