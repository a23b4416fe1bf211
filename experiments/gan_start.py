"""Write what a training of a GAN has reached into `pretrained/starts/`: `python -m experiments.gan_start RUN FILE`.

`--start-from NAME` of another training begins with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from autolink.errors import command
from autolink.training import CHECKPOINT
from autolink.weights import read_metadata, read_tensors, write_safetensors
from autolink_apps.gan.beginning import NETWORKS


@dataclass
class Options:
    """Write what a run has reached into a file that another run can begin with."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder."""
    file: Annotated[Path, tyro.conf.Positional]
    """File to write, ending in .safetensors."""


def write_start(run: Path, file: Path) -> None:
    """Write the networks of a run's checkpoint in half precision.

    Raises:
        UserError: If the run has no checkpoint, or the file cannot be written.
    """
    checkpoint = run / CHECKPOINT
    tensors = {name: value for name, value in read_tensors(checkpoint).items() if name.startswith(NETWORKS)}
    half = {name: value.half() if value.is_floating_point() else value for name, value in tensors.items()}
    write_safetensors(file, half, {"run": read_metadata(checkpoint)["run"]})


@command
def main() -> None:
    """Entry point of `python -m experiments.gan_start`."""
    options = tyro.cli(Options, description=__doc__)
    write_start(options.run, options.file)


if __name__ == "__main__":
    main()
