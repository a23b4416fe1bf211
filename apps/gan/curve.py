"""What was measured while a GAN trained, against images seen: `autolink gan curve RUN... --output PNG`.

Training itself draws it as `curve.png` in its run folder after each measurement; several runs come into one figure
here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from autolink.errors import UserError, command
from autolink.ranges import Checked

PANELS = {
    "distance to training images": {"fid": "FID", "squeezenet_frechet": "Fréchet, SqueezeNet's features"},
    "share of images": {
        "precision": "precision",
        "recall": "recall",
        "squeezenet_precision": "precision, SqueezeNet's features",
        "squeezenet_recall": "recall, SqueezeNet's features",
    },
    "keypoints off, % of the image's side": {
        "pose_error": "from those asked for",
        "pose_error_chance": "from those of other images",
        "pose_error_real": "real images, reconstructed",
    },
}


@dataclass
class Options(Checked):
    """Draw what was measured in training runs, against images seen."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run folders."""
    output: Path = Path("curve.png")
    """The picture to write."""


def draw_curve(runs: Sequence[Path], path: Path) -> Path:
    """Draw the measurements of runs into one figure, and return its path.

    Raises:
        UserError: If there are no runs, a folder has no log, or nothing was measured.
    """
    from autolink.plots import measurements_figure, save_figure  # an extra, without which one trains all the same

    if not runs:
        raise UserError("no run given; expected the folders of training runs")
    return save_figure(measurements_figure(runs, PANELS), path)


@command
def main() -> None:
    """Entry point of `autolink gan curve`."""
    options = tyro.cli(Options, description=__doc__)
    print(draw_curve(options.runs, options.output))


if __name__ == "__main__":
    main()
