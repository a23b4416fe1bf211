"""Reading a table that pandas pickled, without running anything that the file names.

A pickle names functions and classes to call, which is why opening one from elsewhere can run anything. Here every such
name becomes an `_Inert` record of what it would have been called with, and the strings and arrays are picked out of
the records: neither pandas nor any other code of the file's choice takes part.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from autolink.errors import UserError
from autolink.files import kind_by_name


def read_pickled_points(path: Path) -> dict[str, np.ndarray]:
    """Points of images from a pickled table of one row an image: its file name, and an array of points.

    Returns:
        For each file name: (L, 2) float64.

    Raises:
        UserError: the file is damaged, or not such a table.
    """
    try:
        with open(path, "rb") as file:
            values = list(_values(_InertUnpickler(file).load(), set()))
    except (pickle.UnpicklingError, EOFError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: cannot be read as a pickled table ({error}); get it again") from error
    names = [value for value in values if isinstance(value, str) and kind_by_name(value) == "still"]
    points = [value for value in values if isinstance(value, np.ndarray) and value.ndim == 2]
    if not names or len(names) != len(points) or len({array.shape for array in points}) != 1:
        raise UserError(
            f"{path}: holds {len(names)} image names and {len(points)} arrays of points; expected as many of each, and "
            "all points of one shape"
        )
    return dict(zip(names, (array.astype(np.float64) for array in points), strict=True))


class _Inert:
    """What a pickle names, called with `given` and then set to `state`; it does nothing."""

    named = ""
    given: tuple[Any, ...]
    state: Any

    def __new__(cls, *given: Any) -> _Inert:
        made = object.__new__(cls)
        made.given, made.state = given, None
        return made

    def __init__(self, *given: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _InertUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type[_Inert]:
        return type("_Named", (_Inert,), {"named": f"{module}.{name}"})


def _values(node: Any, seen: set[int]) -> Iterator[str | np.ndarray]:
    """Strings and numeric arrays below a node in the file's order; what is there twice by reference comes once."""
    if isinstance(node, str):
        yield node
        return
    if not isinstance(node, (list, tuple, dict, _Inert)) or id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, _Inert):
        array = _array(node)
        if array is not None:
            yield array
            return
        node = (node.given, node.state)
    for child in node.values() if isinstance(node, dict) else node:
        yield from _values(child, seen)


def _array(node: _Inert) -> np.ndarray | None:
    """The array that a record of one of NumPy's two ways of pickling numeric arrays stands for."""
    if node.named.endswith("._frombuffer"):
        data, dtype, shape, order = node.given
    elif node.named.endswith("._reconstruct") and isinstance(node.state, tuple):
        _, shape, dtype, by_column, data = node.state
        order = "F" if by_column else "C"
    else:
        return None
    code, byte_order = dtype.given[0], dtype.state[1]
    if code[0] not in "fiu":  # objects: not an array of numbers, but a list of what else there is
        return None
    return np.frombuffer(data, np.dtype(code).newbyteorder(byte_order)).reshape(shape, order=order)
