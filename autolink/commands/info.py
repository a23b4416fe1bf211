"""What a model file says of itself: `autolink info M`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from autolink.errors import UserError, command
from autolink.graph import connectedness
from autolink.model import AutoLink, load
from autolink.ranges import Checked
from autolink.weights import read_header, resolve


@dataclass
class Options(Checked):
    """Print task, configuration and metadata of a model, and of an AutoLink how much of its graph hangs together."""

    model: Annotated[str, tyro.conf.Positional] = ""
    """A shipped name, a file, a folder or a hub id."""


def info(model: str) -> dict[str, Any]:
    """What is known of a model.

    Raises:
        UserError: If it is none, or none was given.
    """
    if not model:
        raise UserError("usage: autolink info M, where M is a shipped name, a file, a folder or a hub id")
    path = resolve(model)
    size = round(path.stat().st_size / 1e6, 2)
    header = read_header(path)
    if header["task"] == AutoLink.task:
        header["connected_percent"] = round(connectedness(load(path).graph.matrix()) * 100, 1)
    return {"file": str(path), "megabytes": size, **header}


@command
def main() -> None:
    """Entry point of `autolink info`."""
    print(json.dumps(info(tyro.cli(Options).model), indent=2))
