"""The data sets known by name: `autolink data [NAME]`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from autolink.data import describe_data, list_data
from autolink.errors import command
from autolink.ranges import Checked


@dataclass
class Options(Checked):
    """List the data sets known by name, and which are on this machine, or all that is known of one.

    The folder of data sets is told by the variable AUTOLINK_DATA.
    """

    name: Annotated[str | None, tyro.conf.Positional] = None
    """One of them."""


@command
def main() -> None:
    """Entry point of `autolink data`."""
    name = tyro.cli(Options).name
    for line in list_data() if name is None else describe_data(name):
        print(line)
