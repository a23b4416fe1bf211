"""What all ways of writing frames have in common, and the plainest of them: a folder of numbered pictures."""

from __future__ import annotations

import logging
import os
import re
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from autolink import media
from autolink.errors import UserError
from autolink.images import IMAGE_SUFFIXES

logger = logging.getLogger(__name__)


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

    def __init__(self, path: Path | str, width: int, height: int, frame_rate: Fraction | float):
        self.path = Path(path)
        self.width, self.height = width, height
        self.frame_rate = Fraction(frame_rate).limit_denominator(100_000)
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
            self._abandon()

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
            self._abandon()
            raise UserError(f"{self.path}: not written, since there was no frame to write")
        self._complete(self.last_time + 1 / self.frame_rate)

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

    Beside them, `times.csv` says when each is shown (`file,seconds`), and `sound.m4a`, written at the end, is the
    sound of the same stretch of time.

    Args:
        path: the folder. It is made if needed, and must not hold pictures already.
        width: of the images, in pixels.
        height: likewise.
        frame_rate: see `FrameOutput`.
        audio_from: see `autolink.video.open_output`.
        audio_start: likewise.
        resume: go on after the pictures that an interrupted writer left in the folder.

    Raises:
        UserError: the folder or `audio_from` cannot be used, or what the folder holds is not of this size.
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
    ):
        super().__init__(path, width, height, frame_rate)
        self._soundtrack = media.Soundtrack.of(audio_from, media.MP4_SOUND, audio_start)
        times = self.path / "times.csv"
        with media.reported(self.path, "choose another place for it"):
            self._made = not self.path.exists()
            self.path.mkdir(parents=True, exist_ok=True)
            rows = self._kept(times) if resume and times.exists() else []
            if not rows and any(file.suffix.lower() in IMAGE_SUFFIXES for file in self.path.iterdir()):
                raise UserError(f"{path}: there are pictures in this folder already; choose another, or empty it")
            times.write_text("".join(["file,seconds\n", *rows]))
            self._times = open(times, "a")  # noqa: SIM115

    def _kept(self, times: Path) -> list[str]:
        """Rows of `times.csv` that are complete, with their pictures."""
        rows = []
        for row in times.read_text().splitlines(keepends=True)[1:]:
            match = re.fullmatch(r"(\d{6,}\.png),(\d+\.\d{9})\n", row)
            if match is None or match[1] != _name(self.written) or not (self.path / match[1]).is_file():
                break
            rows.append(row)
            self.written += 1
            self.last_time = Fraction(match[2])
        if rows:
            with Image.open(self.path / _name(0)) as picture:
                if picture.size != (self.width, self.height):
                    sizes = f"{picture.width}x{picture.height}, not {self.width}x{self.height}"
                    raise UserError(f"{self.path}: its pictures are {sizes}; choose another folder, or empty it")
        return rows

    def _put(self, image: np.ndarray, time: Fraction) -> None:
        picture = self.path / _name(self.written)
        part = picture.with_suffix(".png.part")
        with media.reported(self.path, f"the {self.written} pictures written so far are in it"):
            Image.fromarray(image).save(part, format="PNG")
            self._times.write(f"{picture.name},{float(time):.9f}\n")
            self._times.flush()
            os.replace(part, picture)

    def _complete(self, end: Fraction) -> None:
        self._times.close()
        if self._soundtrack is not None:
            with media.reported(self.path, "its pictures are complete, its sound is not"):
                self._soundtrack.write(self.path / "sound.m4a", end)

    def _abandon(self) -> None:
        self._times.close()
        if self.written:
            logger.warning("%s: not finished; the %d pictures written so far are in it", self.path, self.written)
            return
        (self.path / "times.csv").unlink(missing_ok=True)
        if self._made:
            with suppress(OSError):  # somebody else has put something there
                self.path.rmdir()


def _name(index: int) -> str:
    return f"{index:06d}.png"
