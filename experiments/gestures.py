"""The README's picture of `hands`: what it finds on a held-out photograph of each gesture, without the photograph.

    python -m experiments.gestures DIR_OF_GESTURES docs/hands.png

`DIR_OF_GESTURES` holds a sub-folder for each gesture.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from autolink.data import open_data
from autolink.model import load
from autolink.pixels import unit_from_bytes
from autolink.visualize import image_grid, overlay, save_png

SIDE = 192
"""Of each drawn hand in pixels."""


def gestures(data: Path, model: str = "hands") -> torch.Tensor:
    """Keypoints and graph on black, a row of five gestures above the next: (3, H, W) uint8."""
    autolink = load(model)
    folders = sorted(folder for folder in data.iterdir() if folder.is_dir())
    firsts = [open_data(str(folder), autolink.config.image_size, "all")[0].image for folder in folders]
    found = autolink.detect(unit_from_bytes(torch.stack(firsts))).xy
    black = torch.zeros(len(found), 3, SIDE, SIDE)
    return image_grid(overlay(black, found, autolink.edge_weights), columns=5)


if __name__ == "__main__":
    save_png(Path(sys.argv[2]), gestures(Path(sys.argv[1])))
