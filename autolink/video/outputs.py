"""What all ways of writing frames have in common, and the plainest of them: a folder of numbered pictures.

As long as an output is unfinished, a small file beside it (`begun_file`) says what it was begun with; it goes on with
the same alone. A finished one holds a word for each thing that it was made with (`made_with`), so that it is not taken
for something else.
"""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from autolink.errors import UserError
from autolink.files import STILLS, holds
from autolink.images import png
from autolink.outputs import write_json, write_text
from autolink.video.animations import ANIMATION_SUFFIXES, read_note
from autolink.video.containers import open_media, reported
from autolink.video.sound import MP4_SOUND, Soundtrack

logger = logging.getLogger(__name__)

_TIMES, _MADE = "times.csv", ".made.json"


def begun_file(path: Path) -> Path:
    """Where it says what an unfinished output was begun with; of a finished one there is no such file."""
    return path / "part.json" if path.is_dir() else path.with_name(f"{path.name}.part.json")


def is_complete(path: Path | str) -> bool:
    """Whether an output of this name is there and finished."""
    path = Path(path)
    return (path.is_file() or (path / _TIMES).is_file()) and not begun_file(path).is_file()


def check_begun(path: Path | str, settings: Mapping[str, Any]) -> None:
    """Whether an output can go on with these settings: to know before the work begins.

    Raises:
        UserError: it is unfinished and was begun with others.
    """
    if begun_file(Path(path)).is_file():
        require_same(Path(path), settings)


def require_same(path: Path, settings: Mapping[str, Any]) -> None:
    """Raise a `UserError` unless an unfinished output was begun with these settings, among others."""
    note = begun_file(path)
    try:
        begun = json.loads(note.read_text()) if note.is_file() else {}
    except ValueError as error:
        raise UserError(f"{note}: damaged, so what {path} was begun with is unknown; begin anew") from error
    for name, value in settings.items():
        was = begun.get(name, "unknown")
        if was != value:
            raise UserError(f"{path}: begun with {name} {was}, not {value}; go on with the same, or begin anew")


def require_made_with(path: Path | str, about: Mapping[str, Any]) -> bool:
    """Whether a finished output was made with these settings; False if it does not say with which.

    Raises:
        UserError: it was made with others.
    """
    path = Path(path)
    words = _made_with(path)
    for name, word in json.loads(_words(about)).items():
        if words and words.get(name) != word:
            raise UserError(f"{path}: made with other {name}; remove it, or name another --output")
    return bool(words)


def _words(about: Mapping[str, Any]) -> str:
    """Names of settings with a word for each value, which tells nothing of it, as JSON."""
    whole = {name: int(v) if isinstance(v, float) and v.is_integer() else v for name, v in about.items()}
    values = {name: json.dumps(value, sort_keys=True).encode() for name, value in whole.items()}
    return json.dumps({name: hashlib.blake2b(value, digest_size=4).hexdigest() for name, value in values.items()})


def _made_with(path: Path) -> dict[str, str]:
    """What a finished output holds of what it was made with, or nothing."""
    text: Any = None
    try:
        if path.is_dir():
            text = (path / _MADE).read_text()
        elif path.suffix.lower() in ANIMATION_SUFFIXES:
            text = read_note(path)
        else:
            with open_media(path) as container:
                text = next((value for key, value in container.metadata.items() if key.lower() == "comment"), None)
        words = json.loads(text)
    except (OSError, UserError, ValueError, TypeError):  # no such note
        return {}
    return words if isinstance(words, dict) else {}


class FrameOutput:
    """Where frames are written to, one after the other: what `autolink.video.open_output` returns.

    A context manager. If its block ends by an exception, what was written stays, a warning says where, and
    opening the same output with `resume` goes on from there.

    Attributes:
        path: the file or folder that is written.
        width: of the images, in pixels.
        height: likewise.
        frame_rate: frames a second: spacing of frames written without a time, and how long the last is shown.
        written: frames in the output so far; just after opening, those kept of an interrupted one, else 0.
        last_time: when the last of them is shown, in seconds, or None.
    """

    def __init__(
        self,
        path: Path | str,
        width: int,
        height: int,
        frame_rate: Fraction | float,
        settings: Mapping[str, Any] | None,
        about: Mapping[str, Any] | None,
    ):
        self.path = Path(path)
        self.width, self.height = width, height
        self.frame_rate = Fraction(frame_rate).limit_denominator(100_000)
        self._settings = {**(settings or {}), "size": f"{width}x{height}", "frame rate": str(self.frame_rate)}
        self._note = _words(about) if about else ""
        self.written = 0
        self.last_time: Fraction | None = None
        self._open = True

    def __enter__(self) -> FrameOutput:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        if kind is None:
            self.close()
        elif self._open:
            self._open = False
            self._leave()

    def write(self, image: np.ndarray, time: Fraction | float | None = None) -> None:
        """Appends a frame.

        Args:
            image: (height, width, 3) uint8 RGB.
            time: seconds, at least 0 and later than the last frame's; if not given, 1/frame_rate after it.

        Raises:
            ValueError: an image of another size or type, or a time that is not later.
            UserError: it cannot be written, for instance since the disk is full.
        """
        shape = self.height, self.width, 3
        if image.shape != shape or image.dtype != np.uint8:
            raise ValueError(f"expected an image of {shape} uint8, got {image.shape} {image.dtype}")
        if time is None:
            time = Fraction(0) if self.last_time is None else self.last_time + 1 / self.frame_rate
        time = Fraction(time)
        if time < 0 or (self.last_time is not None and self._tick(time) <= self._tick(self.last_time)):
            raise ValueError(f"times of frames must rise, from 0: got {time} s after {self.last_time} s")
        self._put(image, time)
        self.written += 1
        self.last_time = time

    def close(self) -> None:
        """Completes the output.

        Raises:
            UserError: no frame was written, or the output cannot be completed.
        """
        if not self._open:
            return
        self._open = False
        if self.last_time is None:
            self._leave()
            raise UserError(f"{self.path}: not written, since there was no frame to write")
        self._complete(self.last_time + 1 / self.frame_rate)
        begun_file(self.path).unlink(missing_ok=True)

    def _note_settings(self) -> None:
        """Says what is begun here, once what an earlier writer has left is gone."""
        write_json(begun_file(self.path), self._settings)

    def _leave(self) -> None:
        if not self.written:
            begun_file(self.path).unlink(missing_ok=True)
        self._abandon()

    def _tick(self, time: Fraction) -> Fraction | int:
        """What a time becomes in the file."""
        return time

    def _put(self, image: np.ndarray, time: Fraction) -> None:
        raise NotImplementedError

    def _complete(self, end: Fraction) -> None:
        """Makes the output whole; `end` seconds is when its last frame ends."""
        raise NotImplementedError

    def _abandon(self) -> None:
        """Keeps what there is in order, and says where; leaves nothing if there is nothing."""
        raise NotImplementedError


class FolderWriter(FrameOutput):
    """Writes pictures `000000.png`, `000001.png`, … into a folder, each complete as soon as it is there.

    Beside them, `times.csv` says when each is shown (`file,seconds`), so that `read_times` finds fractions of
    denominators up to a million again, and `sound.m4a`, written at the end, is the sound of the same stretch of time.

    Args:
        path: the folder. It is made if needed, and must not hold pictures already.
        width: of the images, in pixels.
        height: likewise.
        frame_rate: see `FrameOutput`.
        audio_from: see `autolink.video.open_output`.
        audio_start: likewise.
        resume: go on after the pictures that an interrupted writer left in the folder.
        settings: see `autolink.video.open_output`.
        about: likewise; it is kept in a hidden file.

    Raises:
        UserError: the folder or `audio_from` cannot be used, or what the folder holds was begun with other settings.
    """

    def __init__(
        self,
        path: Path | str,
        width: int,
        height: int,
        frame_rate: Fraction | float,
        audio_from: Path | str | None = None,
        *,
        audio_start: Fraction | float = 0,
        resume: bool = False,
        settings: Mapping[str, Any] | None = None,
        about: Mapping[str, Any] | None = None,
    ):
        super().__init__(path, width, height, frame_rate, settings, about)
        self._soundtrack = Soundtrack.of(audio_from, MP4_SOUND, audio_start)
        times = self.path / _TIMES
        with reported(self.path, "choose another place for it"):
            self._made = not self.path.exists()
            self.path.mkdir(parents=True, exist_ok=True)
            rows = self._kept(times) if resume and begun_file(self.path).is_file() and times.is_file() else []
            if not rows and holds(self.path, STILLS, nested=False):
                raise UserError(f"{path}: there are pictures in this folder already; choose another, or empty it")
            (self.path / _MADE).unlink(missing_ok=True)
            times.write_text("".join(["file,seconds\n", *rows]))
            if not rows:
                self._note_settings()
            self._times = open(times, "a", encoding="utf-8")  # noqa: SIM115

    def _kept(self, times: Path) -> list[str]:
        """Rows of `times.csv` that are complete, with their pictures."""
        rows = []
        for row in times.read_text(encoding="utf-8").splitlines(keepends=True)[1:]:
            match = re.fullmatch(r"(\d{6,}\.png),(\d+\.\d{12})\n", row)
            if match is None or match[1] != _name(self.written) or not (self.path / match[1]).is_file():
                break
            rows.append(row)
            self.written += 1
            self.last_time = _exact(match[2])
        if rows:
            require_same(self.path, self._settings)
        return rows

    def _put(self, image: np.ndarray, time: Fraction) -> None:
        picture = self.path / _name(self.written)
        part = picture.with_suffix(".png.part")
        with reported(self.path, f"the {self.written} pictures written so far are in it"):
            part.write_bytes(png(image))
            self._times.write(f"{picture.name},{Decimal(time.numerator) / time.denominator:.12f}\n")
            self._times.flush()
            os.replace(part, picture)

    def _complete(self, end: Fraction) -> None:
        self._times.close()
        if self._soundtrack is not None:
            with reported(self.path, "its pictures are complete, its sound is not"):
                self._soundtrack.write(self.path / "sound.m4a", end)
        if self._note:
            write_text(self.path / _MADE, self._note)

    def _abandon(self) -> None:
        with suppress(OSError):  # the exception that brought us here is the one to tell
            self._times.close()
        (self.path / _name(self.written)).with_suffix(".png.part").unlink(missing_ok=True)
        if self.written:
            logger.warning("%s: not finished; the %d pictures written so far are in it", self.path, self.written)
            return
        (self.path / _TIMES).unlink(missing_ok=True)
        if self._made:
            with suppress(OSError):  # somebody else has put something there
                self.path.rmdir()


def _name(index: int) -> str:
    return f"{index:06d}.png"


def read_times(folder: Path, pictures: Sequence[Path]) -> list[Fraction] | None:
    """When the pictures of a folder are shown, in seconds since the first, as its `times.csv` says; None without one.

    Rows of pictures that are not there are left aside.

    Raises:
        UserError: It cannot be read, lacks a picture, or its times do not rise from one picture to the next.
    """
    file = folder / _TIMES
    if not file.is_file():
        return None
    try:
        with open(file, newline="", encoding="utf-8-sig") as text:
            seconds = {str(row.get("file")): row.get("seconds") for row in csv.DictReader(text)}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _wrong_times(file, f"no text of columns file,seconds ({error})") from error
    times = [_time_of(picture.name, seconds, file) for picture in pictures]
    for (before, earlier), (picture, time) in pairwise(zip(pictures, times)):
        if time <= earlier:
            raise _wrong_times(file, f"{picture.name} is not later than {before.name}")
    return [time - times[0] for time in times]


def _time_of(name: str, seconds: Mapping[str, str | None], file: Path) -> Fraction:
    text = seconds.get(name)
    if not text:
        raise _wrong_times(file, f"no time of {name}")
    try:
        return _exact(text)
    except (ValueError, ZeroDivisionError) as error:
        raise _wrong_times(file, f"'{text}' for {name} is no number of seconds") from error


def _exact(seconds: str) -> Fraction:
    """The time that twelve decimals stand for: fractions of denominators up to a million are further apart."""
    return Fraction(seconds).limit_denominator(1_000_000)


def _wrong_times(file: Path, what: str) -> UserError:
    return UserError(f"{file} does not fit the pictures: {what}; mend it, or remove it for 25 pictures a second")
