"""What the page and the server say to each other over the live connection, and how far each may go.

The page sends JSON, and frames of the camera as bytes: a number (u32, little endian), then a JPEG. The server answers
with a frame of bytes: the length of a JSON header (u32), the header, then the pictures or files that its `parts` list,
one after the other.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

from autolink.errors import UserError

REACH = 1.5
"""Points may lie outside the picture, whose edges are at −1 and +1, up to here."""
MOST_POINTS = 1024
SEEDS = 6
"""Faces that a generator shows."""
MOST_STEPS = 5000
MOST_MINUTES = 240
SIZES = (128, 256, 512)
"""Sides in pixels at which a result may be asked for."""

Kind = Literal["png", "edges", "svg", "json", "csv", "npz"]
"""What can be exported."""


@dataclass(frozen=True)
class Look:
    """What generated pictures look like."""

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4, 5)
    truncation: float = 0.7


@dataclass(frozen=True)
class Open:
    """Show a picture, or a moment of a clip, to a model."""

    model: str
    file: str | None = None
    """The id of an upload; None is what the model is shown at first."""
    moment: float = 0.0
    """Of a clip, from 0 (its start) to 1."""
    n: int = 0
    """A number that comes back with what is said of it."""


@dataclass(frozen=True)
class Pose:
    """Paint a pose."""

    n: int
    """A number that comes back with the picture."""
    xy: tuple[tuple[float, float], ...]
    look: Look
    size: int


@dataclass(frozen=True)
class Export:
    """Make a file of a pose."""

    kind: Kind
    xy: tuple[tuple[float, float], ...]
    look: Look


@dataclass(frozen=True)
class Frame:
    """A picture of the camera, to be acted out by what is open."""

    n: int
    """A number that comes back with the picture."""
    jpeg: bytes


@dataclass(frozen=True)
class Neutral:
    """Take the pose in which the camera sees one now as that of the picture."""


@dataclass(frozen=True)
class Watch:
    """Be shown what is painted for the camera, whoever's it is."""


Work = Open | Pose | Export | Frame
"""What is answered in turn."""
Message = Work | Neutral | Watch


@dataclass(frozen=True)
class Order:
    """Make a video of a source that moves as a driver does, or of one clip with its keypoints."""

    source: str
    """The id of an upload."""
    driver: str | None
    """The id of an upload; None where the keypoints of the source are wanted, as tables and drawn over it."""
    model: str
    adapt: int = 0
    """Steps by which the model is adapted to the source before."""
    learn: int = 0
    """Minutes in which a model is learned from both before, instead of one that is given."""
    whole: bool = False
    """Whether the result is put back into the source's whole frame."""


class Part(NamedTuple):
    """A picture or a file that goes with an answer."""

    name: str
    type: str
    data: bytes


def parse(text: str) -> Message:
    """What the page sent, checked.

    Raises:
        UserError: If it is not one of the messages, or a number is out of its range.
    """
    try:
        said = json.loads(text)
        kind = said.pop("type")
        if kind == "open":
            return _open(**said)
        if kind == "pose":
            return Pose(_whole(said["n"], 0, 2**53), _points(said["xy"]), _look(said["look"]), _size(said["size"]))
        if kind == "export":
            if said["kind"] not in get_args(Kind):
                raise ValueError(f"no export of this kind: {said['kind']!r:.40}")
            return Export(said["kind"], _points(said["xy"]), _look(said["look"]))
        if kind in ("neutral", "watch"):
            return Neutral(**said) if kind == "neutral" else Watch(**said)
        raise ValueError(f"no message of this kind: {kind!r:.40}")
    except KeyError as error:
        raise UserError(f"a message without {error} arrived") from error
    except (AttributeError, TypeError, ValueError, RecursionError) as error:
        raise UserError(f"a message arrived that cannot be used: {error}") from error


def parse_frame(data: bytes) -> Frame:
    """A picture of the camera: its number (u32, little endian), then a JPEG.

    Raises:
        UserError: If it is none.
    """
    if len(data) < 8 or data[4:6] != b"\xff\xd8":
        raise UserError("bytes arrived that are no picture of a camera")
    return Frame(struct.unpack_from("<I", data)[0], data[4:])


def parse_order(text: bytes) -> Order:
    """What the page asks to be made, checked.

    Raises:
        UserError: If it is no order, or a number is out of its range.
    """
    try:
        said = json.loads(text)
        order = Order(**said)
        for value in (order.source, order.model, "" if order.driver is None else order.driver):
            if not isinstance(value, str):
                raise ValueError("expected names of files and a model")
        _whole(order.adapt, 0, MOST_STEPS)
        _whole(order.learn, 0, MOST_MINUTES)
        if order.adapt and order.learn:
            raise ValueError("a model that is learned is not adapted as well")
        if order.driver is None and (order.adapt or order.learn or order.whole):
            raise ValueError("keypoints are found with a model as it is, in the whole frame")
        if not isinstance(order.whole, bool):
            raise ValueError("expected true or false")
        return order
    except (AttributeError, TypeError, ValueError, RecursionError) as error:
        raise UserError(f"an order arrived that cannot be used: {error}") from error


def frame(header: dict[str, Any], parts: Sequence[Part] = ()) -> bytes:
    """An answer as it goes over the wire."""
    listed = [{"name": part.name, "type": part.type, "bytes": len(part.data)} for part in parts]
    text = json.dumps({**header, "parts": listed}, allow_nan=False).encode()
    return b"".join([struct.pack("<I", len(text)), text, *(part.data for part in parts)])


def unframe(data: bytes) -> tuple[dict[str, Any], dict[str, bytes]]:
    """`frame` undone: the header, and the parts by name."""
    (length,) = struct.unpack_from("<I", data)
    header, at, parts = json.loads(data[4 : 4 + length]), 4 + length, {}
    for part in header["parts"]:
        parts[part["name"]] = data[at : at + part["bytes"]]
        at += part["bytes"]
    return header, parts


def _open(model: str, file: str | None = None, moment: float = 0.0, n: int = 0) -> Open:
    if not isinstance(model, str) or not isinstance(file, str | None):
        raise ValueError("expected names of a model and of a file")
    return Open(model, file, _number(moment, 0, 1), _whole(n, 0, 2**53))


def _points(xy: Any) -> tuple[tuple[float, float], ...]:
    if not isinstance(xy, list) or not 2 <= len(xy) <= MOST_POINTS:
        raise ValueError("expected a list of points")
    return tuple((_number(x, -REACH, REACH), _number(y, -REACH, REACH)) for x, y in xy)


def _look(said: Any) -> Look:
    seeds = said["seeds"]
    if not isinstance(seeds, list) or not 1 <= len(seeds) <= SEEDS:
        raise ValueError(f"expected 1 to {SEEDS} seeds")
    return Look(tuple(_whole(seed, 0, 2**31 - 1) for seed in seeds), _number(said["truncation"], 0, 1))


def _size(value: Any) -> int:
    if value not in SIZES:
        raise ValueError(f"expected one of the sizes {SIZES}")
    return int(value)


def _number(value: Any, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"expected a number, not {value!r:.40}")
    if not low <= value <= high:
        raise ValueError(f"expected a number from {low:g} to {high:g}, not {value:g}")
    return float(value)


def _whole(value: Any, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"expected a whole number from {low} to {high}, not {value!r:.40}")
    return value
