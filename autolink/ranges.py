"""What an option may be: declared with its type, and checked whenever one is set, from whichever entrance.

Every field of a dataclass of options (`Checked`) that holds numbers says which: `steps: Count = 1000`. Models hold
their configurations to the same (`check_fields`). Not-a-number and infinity are never in a range.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import numbers
import os
import types
import typing
from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, cast

from autolink.errors import UserError


@dataclass(frozen=True)
class Range:
    """The numbers from `least` to `most`, both included."""

    least: float = -math.inf
    most: float = math.inf
    above: bool = False
    """Whether `least` itself is left out."""
    of: str = ""
    """A name in `SERIES`: only the numbers in it."""

    def __contains__(self, value: float) -> bool:
        """Whether a number is one of them."""
        if not math.isfinite(value) or not self.least <= value <= self.most or (self.above and value == self.least):
            return False
        return not self.of or SERIES[self.of](value)

    def describe(self, kind: type) -> str:
        """What to give, such as `a whole number from 1 on`."""
        numbers_ = f"a {self.of or ('whole number' if kind is int else 'number')}"
        least, most = (f"{bound:,}" if isinstance(bound, int) else f"{bound:g}" for bound in (self.least, self.most))
        if self.above:
            return f"{numbers_} above {least}" + ("" if self.most == math.inf else f", {most} at most")
        if self.most == math.inf:
            return "a finite number" if self.least == -math.inf else f"{numbers_} from {least} on"
        return f"{numbers_} from {least} to {most}"


SERIES = {
    "multiple of 16": lambda value: value % 16 == 0,
    "power of two": lambda value: math.frexp(value)[0] == 0.5,
}

NOTHING = "nothing"

T = TypeVar("T")
if TYPE_CHECKING:
    Open = Annotated[T, "left open"]
else:
    Open = T | None
"""An option that may be left open (`OPEN`), and is decided before anybody uses it: `steps: Open[Count] = OPEN`."""
OPEN: Any = None

Count = Annotated[int, Range(1)]
Whole = Annotated[int, Range(0)]
Seed = Annotated[int, Range(0, 2**32 - 1)]
"""What NumPy takes."""
Workers = Annotated[int, Range(0, 1024)]
Side = Annotated[int, Range(16, 4096, of="multiple of 16")]
"""Of an image, for networks that halve it four times."""
DoubledSide = Annotated[int, Range(16, 4096, of="power of two")]
"""Of an image, for networks that begin or end at 8²."""
KeypointCount = Annotated[int, Range(2, 1024)]
"""Fewer make no graph."""

Number = Annotated[float, Range()]
Positive = Annotated[float, Range(0, above=True)]
NotNegative = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1)]
Width = Annotated[float, Range(0, 16, above=True)]
EdgeWeight = Annotated[float, Range(0, 1000, above=True)]
Thickness = Annotated[float, Range(1e-8, 100)]
"""σ²: from what is far less than a pixel to what lights the whole image."""


class Checked:
    """A dataclass of options, none of which can be set to what its type does not allow."""

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an option.

        Raises:
            UserError: If its type does not allow the value; the message says what does.
        """
        check(f"--{name.replace('_', '-')}", _hints(cast(Hashable, type(self))).get(name, Any), value)
        super().__setattr__(name, value)


def check_fields(config: Any) -> None:
    """Hold all fields of a dataclass to their types.

    Raises:
        UserError: If a value is of another kind, or out of its range.
    """
    for field in dataclasses.fields(config):
        check(field.name, _hints(cast(Hashable, type(config)))[field.name], getattr(config, field.name))


@functools.cache
def _hints(options: Hashable) -> dict[str, Any]:
    return typing.get_type_hints(options, include_extras=True)


def check(label: str, kind: Any, value: Any) -> None:
    """Raise a `UserError`, which begins with the label, unless the type allows the value."""
    expected = _expected(kind, value)
    if expected:
        shown = f"{value:.12g}" if isinstance(value, float) else repr(value)
        raise UserError(f"{label} {shown}: give {expected}")


def _expected(kind: Any, value: Any) -> str:
    """What `value` should be, or nothing if it is what it should be.

    Numbers, switches, words, tuples of them and nested dataclasses are looked at; other types are whatever they are.
    """
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        known = next((extra for extra in parts[1:] if isinstance(extra, Range)), None)
        return _expected(parts[0], value) if known is None else _expected_number(parts[0], known, value)
    if origin in (typing.Union, types.UnionType):
        wrong = [_expected(part, value) for part in parts]
        return "" if "" in wrong else " or ".join(text for text in wrong if text != NOTHING)
    if origin is tuple and parts[-1] is Ellipsis:
        if not isinstance(value, (tuple, list)):
            return f"a list; of each, {_expected(parts[0], value)}".rstrip(", ")
        return next(filter(None, (_expected(parts[0], part) for part in value)), "")
    if origin is Literal:
        return "" if value in parts else f"one of {', '.join(map(str, parts))}"
    if kind in (int, float):
        return _expected_number(kind, Range(), value)
    if kind is str:
        return "" if isinstance(value, (str, os.PathLike)) else "text"
    if kind is types.NoneType:
        return "" if value is None else NOTHING
    if isinstance(kind, type) and (kind is bool or dataclasses.is_dataclass(kind)):
        return "" if isinstance(value, kind) else "true or false" if kind is bool else f"a {kind.__name__}"
    return ""


def _expected_number(kind: type, known: Range, value: Any) -> str:
    abstract = numbers.Integral if kind is int else numbers.Real
    fits = isinstance(value, abstract) and not isinstance(value, bool)
    return "" if fits and value in known else known.describe(kind)
