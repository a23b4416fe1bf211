"""Whose a run folder is: what a run was begun with, and who is at work in it.

A run goes on with what it was begun with, or not at all. Of a file that is its path, its size and what is in it; of a
folder, names, sizes and times of its files; of a model, its weights, wherever they lie.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autolink.errors import UserError
from autolink.files import walk
from autolink.outputs import reported
from autolink.weights import resolve

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOG, LOCK = "log.jsonl", ".lock"
WHOLE, SAMPLES, SAMPLE = 2**22, 64, 2**16
"""Bytes of a file up to which all of it is looked at; of a larger one, so many pieces of so many bytes are."""
logger = logging.getLogger("autolink")


def identity(path: Path, name: str | None = None) -> str:
    """A file or folder as it is now, in words that change when it does.

    Args:
        path: The file or folder.
        name: What to call it; default: its path.
    """
    path = path.resolve()
    if path.is_dir():
        files = _files(path)
        return f"{name or path} ({len(files)} files, {_listing(path, files)})"
    return f"{name or path} ({path.stat().st_size} bytes, {contents(path)})"


def contents(path: Path) -> str:
    """A word that changes with what is in a file, or with the files of a folder."""
    if path.is_dir():
        return _listing(path, _files(path))
    size, digest = path.stat().st_size, hashlib.blake2b(digest_size=6)
    with open(path, "rb") as file:
        if size <= WHOLE:
            digest.update(file.read())
        else:
            for number in range(SAMPLES):
                file.seek(number * (size - SAMPLE) // (SAMPLES - 1))
                digest.update(file.read(SAMPLE))
    return digest.hexdigest()


def _listing(folder: Path, files: Sequence[Path]) -> str:
    digest = hashlib.blake2b(digest_size=6)
    for file in files:
        about = file.stat()
        line = f"{file.relative_to(folder)}\0{about.st_size}\0{about.st_mtime_ns}\0"
        digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _files(folder: Path) -> list[Path]:
    """Files below a folder, without those that trainings write into it."""
    files = [file for file in walk(folder) if file.is_file()]
    runs = {file.parent for file in files if file.name == LOG}
    return [file for file in files if runs.isdisjoint(file.parents)] if runs else files


def weights_identity(source: str) -> str:
    """A model by its name and its weights, for runs that begin with it; not by its path, which may change.

    Raises:
        UserError: There is no such model.
    """
    return f"{Path(source).name} ({hashlib.sha256(resolve(source).read_bytes()).hexdigest()[:12]})"


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """The first of some settings that was another before, as an option, with what it was and what it is."""
    for name, value in now.items():
        if before.get(name) != value:
            return f"--{name.replace('_', '-')}", before.get(name), value
    return None


_held: dict[Path, int] = {}


def claim(folder: Path) -> None:
    """Take a folder, which is made if needed, for this process: until `release`, or until the process ends.

    A record lock: it ends with the process, however that ends, and is not inherited by processes that load data.

    Raises:
        UserError: If another process has it, or it cannot be written to.
    """
    folder = folder.resolve()
    if folder in _held:
        return
    with reported(folder / LOCK):
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if fcntl is None:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            owner = os.read(lock, 200).decode(errors="replace") or "of another machine"
            os.close(lock)
            raise UserError(
                f"{folder} is in use by another training (process {owner}); wait for it or stop it, or name another "
                "folder"
            ) from error
        logger.warning("%s: nothing is locked there (%s); see that no other training writes into it", folder, error)
    os.ftruncate(lock, 0)
    os.write(lock, f"{os.getpid()} on {socket.gethostname()}".encode())
    _held[folder] = lock


def release(folder: Path) -> None:
    """Leave a folder to others."""
    lock = _held.pop(folder.resolve(), None)
    if lock is not None:
        os.close(lock)


def read_log(path: Path) -> list[dict[str, float]]:
    """The lines of a `log.jsonl`, without a last one that was torn when its run was killed.

    Raises:
        UserError: If another one is damaged.
    """
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    read = []
    for number, line in enumerate(lines, 1):
        try:
            read.append(json.loads(line))
        except ValueError as error:
            if number < len(lines):
                raise UserError(f"{path}: line {number} is no JSON ({error}); mend or remove it") from error
    return read
