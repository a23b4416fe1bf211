"""How files are written: beside, then renamed, so that under its name a file is the old one or the whole new one.

Every output goes through here, but for those that grow for hours and can be gone on with: videos and folders of
pictures have rules of their own (`autolink.video`). What the system refuses on the way is one line that names the file.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from autolink.errors import NO_ROOM, UserError

PARTS = (".part", ".part2")
"""What is added to the names of files that are not finished; the second is of videos alone."""


def unwritten(path: Path | str, error: OSError | str) -> UserError:
    """What to tell the user when a file cannot be written."""
    room = isinstance(error, OSError) and error.errno in NO_ROOM
    advice = "free some space, or choose another place for it" if room else "choose another place for it"
    return UserError(f"{path}: cannot be written ({_reason(error, path)}); {advice}")


def _reason(error: OSError | str, path: Path | str) -> str:
    if isinstance(error, str) or error.strerror is None:
        return str(error)
    about = str(error.filename or path)
    return error.strerror if about in (str(path), f"{path}.part") else f"{about}: {error.strerror}"


@contextmanager
def reported(path: Path | str) -> Iterator[None]:
    """A block that writes a file; what the system refuses in it becomes a `UserError` that names the file."""
    try:
        yield
    except OSError as error:
        raise unwritten(path, error) from error


class Replacement:
    """A file on its way: whoever makes it writes to `part`, and at last it takes its place by `commit`.

    `replacing` is the short form; this is for files that stay open while other things happen.

    Args:
        path: the file's name. Folders on the way to it are made. Through a symbolic link the file that it leads to is
            replaced, as if it were written to.

    Raises:
        UserError: no file of this name can be written there.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        with reported(path):
            self._target = Path(os.path.realpath(path)) if self.path.is_symlink() else self.path
            if self._target.is_dir():
                raise UserError(f"{path}: there is a folder of this name; choose another")
            if self._target.exists() and not self._target.is_file():
                raise UserError(f"{path}: a device or a pipe, which nothing can be renamed to; expected a file name")
            if self._target.exists() and not os.access(self._target, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            self._target.parent.mkdir(parents=True, exist_ok=True)
            self.part = self._target.with_name(f"{self._target.name}.part")
            self.part.unlink(missing_ok=True)  # of a run that was killed
            with open(self.part, "xb") as file:
                self._mode = os.fstat(file.fileno()).st_mode  # as umask and folder have it

    def commit(self) -> None:
        """Gives the finished file its name, and the access rights of any other new file.

        Raises:
            UserError: that is refused.
        """
        with reported(self.path):
            if self.part.stat().st_mode != self._mode:  # some libraries keep their files from everyone else
                with suppress(OSError):  # not every file system has access rights
                    self.part.chmod(self._mode & 0o777)
            os.replace(self.part, self._target)

    def discard(self) -> None:
        """Removes what is unfinished, if anything is."""
        with suppress(OSError):  # the exception that brought us here is the one to tell
            self.part.unlink(missing_ok=True)


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """A block that writes the file it is given, `NAME.part`; then it is renamed, or, if the block fails, removed.

    Raises:
        UserError: the file cannot be written: a full or read-only disk, a folder of its name, a name too long, …
    """
    file = Replacement(path)
    try:
        with reported(path):
            yield file.part
        file.commit()
    finally:
        file.discard()


def write_text(path: Path | str, text: str) -> None:
    """Writes a text as UTF-8. Names of files that are not UTF-8 keep their bytes. See `replacing`."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8", errors="surrogateescape")


def write_json(path: Path | str, value: Any, indent: int = 2) -> None:
    """Writes what JSON can hold. See `replacing`."""
    write_text(path, json.dumps(value, indent=indent) + "\n")


def read_json(path: Path | str) -> dict[str, Any]:
    """Reads what `write_json` wrote of a dictionary.

    Raises:
        UserError: the file holds no such thing.
    """
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError):  # a text that is not UTF-8 is a ValueError too
        value = None
    if not isinstance(value, dict):
        raise UserError(f"{path}: damaged, expected the JSON that was written there; put it right, or delete it")
    return value


def refuse_inputs(outputs: Iterable[Path | str], inputs: Iterable[Path | str | None]) -> None:
    """To call before the work begins: whether a file that would be written is one that is read, by any name or link.

    Args:
        outputs: files that will be written, and their parts before.
        inputs: files that are read; what is no file, such as a shipped model's name or None, is passed over.

    Raises:
        UserError: one is both.
    """
    read = {_identity(path) for path in inputs if path is not None} - {None}
    for path in outputs:
        for written in (path, *(f"{path}{end}" for end in PARTS)):
            if _identity(written) in read:
                raise UserError(f"{written} is an input and would be overwritten; choose another --output")


def _identity(path: Path | str) -> tuple[int, int] | None:
    try:
        stat = os.stat(path)
    except OSError:  # nothing there
        return None
    return stat.st_dev, stat.st_ino
