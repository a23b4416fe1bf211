"""Files that the page was given: kept by a random id in a private folder that goes when the server stops.

What a file is, its content says, not its name (`autolink.files`); it is read as by every command (`autolink.video`).
"""

from __future__ import annotations

import filecmp
import io
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from PIL import Image

from autolink.errors import UserError
from autolink.files import what_is
from autolink.images import read_image, shown_size
from autolink.video import open_frames

LARGEST = 200_000_000
"""Bytes of a file."""
MEGAPIXELS = 40
LONGEST = 600
"""Seconds of a clip."""
SHOWN = 1024
"""Pixels of the longer side of what is shown of a file."""
KEPT = 32
"""Files that are kept; the oldest go."""


class TooLarge(UserError):
    """A file has more bytes than are taken."""


class _TooManyPixels(UserError):
    """A picture or video has more pixels than are taken."""


@dataclass(frozen=True)
class Upload:
    """A file that can be opened."""

    id: str
    path: Path
    name: str
    """What it was called."""
    kind: Literal["picture", "clip"]
    width: int
    height: int
    seconds: float
    """0 for a picture."""
    frames: int
    """About; 1 of a picture."""
    type: str
    """Of its content, as browsers call it, if they can play it."""

    def described(self) -> dict[str, str | int | float]:
        """What the page is told of it."""
        return {
            "id": self.id,
            "name": self.name,
            "kind": self.kind,
            "width": self.width,
            "height": self.height,
            "seconds": self.seconds,
            "frames": self.frames,
            "type": self.type,
        }


class Uploads:
    """The files that the page was given."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="autolink-page-"))  # for this user alone
        self.files: dict[str, Upload] = {}

    def close(self) -> None:
        """Remove them all."""
        shutil.rmtree(self.folder, ignore_errors=True)

    async def receive(self, chunks: AsyncIterator[bytes]) -> Path:
        """Write what arrives, and count it.

        Raises:
            TooLarge: If it is too much.
        """
        path, count = self.folder / secrets.token_hex(8), 0
        try:
            with path.open("wb") as file:
                async for chunk in chunks:
                    count += len(chunk)
                    if count > LARGEST:
                        raise TooLarge(f"the file has more than {LARGEST // 10**6} MB; give a smaller one")
                    file.write(chunk)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return path

    def add(self, path: Path, name: str) -> Upload:
        """Take a file that was received; one that is here already keeps its id.

        Raises:
            UserError: If it is neither a picture nor a clip, or too large a one; the file is removed.
        """
        try:
            upload = _identified(path, name)
        except UserError:
            path.unlink(missing_ok=True)
            raise
        for known in self.files.values():
            if known.path.stat().st_size == path.stat().st_size and filecmp.cmp(known.path, path, shallow=False):
                path.unlink()
                upload = replace(upload, id=known.id, path=known.path)
                del self.files[known.id]  # it is the newest now
                break
        self.files[upload.id] = upload
        while len(self.files) > KEPT:
            self.files.pop(next(iter(self.files))).path.unlink(missing_ok=True)
        return upload

    def file(self, id: str) -> Upload:
        """A file by its id.

        Raises:
            UserError: If there is no such file.
        """
        if id not in self.files:
            raise UserError("this file is no longer here; open it again")
        return self.files[id]

    def still(self, id: str, moment: float) -> bytes:
        """A picture, or a moment of a clip, as a JPEG of `SHOWN` pixels at most.

        Raises:
            UserError: If there is no such file.
        """
        picture = self.find(id, moment)
        picture.thumbnail((SHOWN, SHOWN))
        picture.save(buffer := io.BytesIO(), "JPEG", quality=90)
        return buffer.getvalue()

    def find(self, id: str, moment: float) -> Image.Image:
        """A picture, or the moment of a clip from 0 to 1, as RGB and upright.

        Raises:
            UserError: If there is no such file.
        """
        upload = self.file(id)
        with open_frames(upload.path) as frames:
            return Image.fromarray(frames.at(moment * upload.seconds).image)


def _identified(path: Path, name: str) -> Upload:
    what = what_is(path)
    if what.kind == "other":
        about = ": ".join(filter(None, [what.name, what.advice]))
        raise UserError(f"{name} is neither a picture nor a video" + (f" ({about})" if about else ""))
    try:
        if what.kind != "video":
            _check_size(name, *shown_size(path))  # before anything is decoded
        if what.kind == "still":
            read_image(path)
        with open_frames(path) as frames:
            seconds = float(frames.duration or 0) if what.moves else 0.0
            kind: Literal["clip", "picture"] = "clip" if what.moves else "picture"
            count = frames.frame_count or max(1, round(seconds * frames.frame_rate)) if what.moves else 1
            type = "video/mp4" if what.kind == "video" else Image.MIME.get(what.name, "")
            upload = Upload(path.name, path, name, kind, frames.width, frames.height, seconds, count, type)
    except _TooManyPixels:
        raise
    except UserError as error:
        raise UserError(f"{name} cannot be read as a {what.kind}; it is cut off or damaged") from error
    _check_size(name, upload.width, upload.height)
    if seconds > LONGEST:
        raise UserError(f"{name} is {seconds / 60:.0f} minutes long; give a clip of {LONGEST // 60} minutes or less")
    return upload


def _check_size(name: str, width: int, height: int) -> None:
    if width * height > MEGAPIXELS * 10**6:
        raise _TooManyPixels(f"{name} has {width} × {height} pixels; {MEGAPIXELS} megapixels are the most")
