"""Whose a run folder is: what a run was begun with, who is at work in it, and whether it is asked to stop.

A run goes on with what it was begun with, or not at all. Of a file that is its name, its size and what is in it; of a
folder, names and sizes of its files and what is in some of them; of a model, its weights. Where they lie and the times
of files are no part of it: whoever copies data to another machine changes them.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import signal
import socket
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator

from autolink.errors import Stopped, UserError
from autolink.files import walk
from autolink.outputs import reported
from autolink.weights import read_metadata, read_tensors, resolve

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOG, LOCK = "log.jsonl", ".lock"
SAMPLE, SAMPLES = 2**16, 64
"""Of a file, so many pieces of so many bytes are looked at, which is all of it up to 4 MiB."""
LOOKED_INTO = 64
"""Files of a folder that are looked into, spread evenly over their list; 8 such pieces of each, or more of fewer."""
SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name)]
"""What asks for the end: clusters, Ctrl-C, and Slurm before the time is up (`--signal=USR1@60`)."""
logger = logging.getLogger("autolink")


def identity(path: Path, name: str | None = None) -> str:
    """A file or folder as it is now, in words that change when it does.

    Args:
        path: The file or folder.
        name: What to call it; default: its path.

    Raises:
        UserError: There is none.
    """
    _require(path)
    path = path.resolve()
    if path.is_dir():
        return identity_of_files(list(walk(path)), path, str(name or path))
    return f"{name or path} ({path.stat().st_size} bytes, {contents(path)})"


def identity_of_files(files: Sequence[Path], folder: Path, name: str) -> str:
    """Several files as they are now, see `contents`."""
    size, word = _listing(folder, files)
    return f"{name} ({len(files)} files of {size} bytes, {word})"


def is_of_times(identity: str) -> bool:
    """Whether this is the identity of a folder as older runs noted it: by the times of its files, which say nothing."""
    return re.search(r"\(\d+ files, \w+\)", identity) is not None


def contents(path: Path) -> str:
    """A word that changes with what is in a file, or with the files of a folder.

    Not noticed is a change that keeps a file's size and lies between the pieces that are looked at, of a file of more
    than 4 MiB; and of a folder, one that keeps names and sizes and touches none of the files that are looked into, of
    more than `LOOKED_INTO`, or lies between the pieces of one of them, which are all of it up to 512 KiB.

    Raises:
        UserError: There is no such file.
    """
    _require(path)
    if path.is_dir():
        return _listing(path, list(walk(path)))[1]
    digest = hashlib.blake2b(digest_size=6)
    _look_into(path, SAMPLES, digest)
    return digest.hexdigest()


def _require(path: Path) -> None:
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; check the path")


def _listing(folder: Path, files: Sequence[Path]) -> tuple[int, str]:
    """Bytes of some files, and a word for their names from a folder on, their sizes and what is in them."""
    digest, total = hashlib.blake2b(digest_size=6), 0
    for path in map(str, files):
        try:
            size = os.stat(path).st_size
        except FileNotFoundError:  # a link to nowhere
            size = os.lstat(path).st_size
        name = path.removeprefix(str(folder)).replace(os.sep, "/")
        digest.update(f"{name}\0{size}\0".encode("utf-8", "surrogateescape"))
        total += size
    looked_into = min(len(files), LOOKED_INTO)
    for number in range(looked_into):
        file = files[number * len(files) // looked_into]
        with suppress(OSError):  # who reads it says so
            if file.is_file():  # and no pipe
                _look_into(file, 8 * LOOKED_INTO // looked_into, digest)
    return total, digest.hexdigest()


def _look_into(path: Path, pieces: int, digest: hashlib.blake2b) -> None:
    """Add so many pieces of a file to a digest, or all of it if it is no longer than they are."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        if size <= pieces * SAMPLE:
            digest.update(file.read())
            return
        for number in range(pieces):
            file.seek(number * (size - SAMPLE) // (pieces - 1))
            digest.update(file.read(SAMPLE))


def weights(file: Path) -> str:
    """A word that changes with the weights in a model's file, or with how they are put together.

    Raises:
        UserError: The file is none of a model.
    """
    digest = hashlib.blake2b(read_metadata(file).get("config", "").encode(), digest_size=6)
    for name, tensor in sorted(read_tensors(file).items()):  # in a file they have no order, nor do its notes
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def weights_identity(source: str) -> str:
    """A model by its name and its weights, for runs that begin with it; not by its path, which may change.

    Raises:
        UserError: There is no such model.
    """
    return f"{Path(source).name} ({weights(resolve(source))})"


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
    _held[folder] = lock
    with reported(folder / LOCK):
        os.ftruncate(lock, 0)
        os.write(lock, f"{os.getpid()} on {socket.gethostname()}".encode())


def release(folder: Path) -> None:
    """Leave a folder to others."""
    lock = _held.pop(folder.resolve(), None)
    if lock is not None:
        os.close(lock)


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """A block in which a folder is this process's, see `claim`."""
    claim(folder)
    try:
        yield
    finally:
        release(folder)


class Stop:
    """Whether a training is asked to end, after the step that it is at and a checkpoint; its loop asks once a step.

    Signals are heard from then on until `leave`, or until nothing refers to the `Stop` any more, as after an exception.
    A second Ctrl-C ends at once, but not in several processes, whose launcher sends each signal again.

    Args:
        accelerator: The run's.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.came = False
        self._accelerator, self._heard, self._before = accelerator, 0, None
        self._restore = lambda: None
        if threading.current_thread() is threading.main_thread():
            self._restore = weakref.finalize(self, _Ears(self).restore)

    def asked(self) -> bool:
        """Whether this was the last step. All processes hear the same, those that compute together a step later."""
        heard = self._heard > 0
        if self._accelerator.num_processes > 1:
            before, flag = self._before, torch.tensor(float(heard), device=self._accelerator.device)
            self._before = self._accelerator.reduce(flag, "sum")  # read in the next step, when it costs no waiting
            heard = before is not None and before.item() > 0
        self.came = heard
        return heard

    def leave(self, output: Path, step: int, steps: int) -> None:
        """After the loop: hear no signals any more, and end the command if one asked for it.

        Raises:
            Stopped: Then, with how to go on.
        """
        self._restore()
        if self.came:
            done = f"{output}: stopped after step {step} of {steps}, which is saved"
            raise Stopped(done if self._accelerator.is_main_process else "", self._heard or signal.SIGTERM)

    def hear(self, number: int) -> None:
        """Take note of a signal."""
        if number == signal.SIGINT and self._heard and self._accelerator.num_processes == 1:
            raise KeyboardInterrupt
        if not self._heard and self._accelerator.is_main_process:
            os.write(2, b"\nstopping after this step\n")  # print() may have been interrupted by the signal
        self._heard = self._heard or number


class _Ears:
    """What handles signals for a `Stop` in its own process; those that it forks to load data go on until it ends."""

    def __init__(self, stop: Stop) -> None:
        self.stop, self.process = weakref.ref(stop), os.getpid()
        self.before: dict[int, Any] = {}
        for number in SIGNALS:
            current = signal.getsignal(number)
            self.before[number] = current.before[number] if isinstance(current, _Ears) else current
            signal.signal(number, self)

    def __call__(self, number: int, _: FrameType | None) -> None:
        if os.getpid() == self.process and (stop := self.stop()) is not None:
            stop.hear(number)

    def restore(self) -> None:
        for number, handler in self.before.items():
            if signal.getsignal(number) is self:
                signal.signal(number, signal.SIG_DFL if handler is None else handler)


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
