"""The main job on shipped weights, in a minute or two: `make demo`.

Detects keypoints, moves one figure as another moves, animates a portrait, and samples faces, by the commands a user
would type; each is printed before it runs. The inputs are made here, but for the portrait, which Matplotlib ships.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import matplotlib
import numpy as np
import torch
import tyro
from PIL import Image

from autolink.data.synthetic import synthetic_clip
from autolink.errors import UserError, command
from autolink.video import open_frames, write_video
from autolink.visualize import save_png

FRAMES = 75
"""Length of the made clips: three seconds."""
SIZE = 128
"""Side of the made clips in pixels."""


@dataclass
class Options:
    """Run the demonstration."""

    output: Path = Path("demo")
    """Folder for inputs and results."""


def demo(output: Path) -> None:
    """Make the inputs, run the commands, and say where the results are."""
    started = time.monotonic()
    inputs = output / "input"
    inputs.mkdir(parents=True, exist_ok=True)
    portrait = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    for name, motion, figure in [("figure", 3, 11), ("dancer", 7, 4)]:
        frames, _ = synthetic_clip(motion, FRAMES, SIZE, identity_seed=figure)
        write_video(inputs / f"{name}.mp4", frames.permute(0, 2, 3, 1).numpy(), Fraction(25))

    dancer, figure = inputs / "dancer.mp4", inputs / "figure.mp4"
    detected, moved, sampled = output / "keypoints", output / "transfer.mp4", output / "samples"
    run("autolink", "detect", "--model", "faces", "--numbered", "--output", detected / "portrait", portrait)
    run("autolink", "detect", "--model", "synthetic", "--output", detected / "dancer", dancer)
    run("autolink-transfer", "--model", "synthetic-transfer", "--src", figure, "--driver", dancer, "--output", moved)
    run("autolink-sample", "--model", "faces-gan", "--output", sampled)

    overview = save_png(output / "overview.png", picture(output))
    print(f"\nDone in {time.monotonic() - started:.0f} s. Look at:")
    for what, path in [
        ("keypoints and graph on a portrait", detected / "portrait/overlays/grace_hopper.png"),
        ("keypoints and graph on a video", detected / "dancer/overlays/dancer.mp4"),
        ("source | driver | edge map | result", output / "transfer-preview.mp4"),
        ("faces: poses × appearances", sampled / "grid.png"),
        ("all of it in one picture", overview),
    ]:
        if not path.is_file():
            raise UserError(f"the demonstration did not write {path}")
        print(f"  {what:40}{path}")


def picture(output: Path) -> torch.Tensor:
    """What the commands made, in one picture (3, H, W): graph on a portrait | motion of a figure | samples."""
    found = Image.open(output / "keypoints/portrait/overlays/grace_hopper.png")
    samples = Image.open(output / "samples/grid.png")
    with open_frames(output / "transfer-preview.mp4") as video:
        moments = [image for number, (image, _) in enumerate(video) if number % (FRAMES // 3) == 10]
    motion = Image.fromarray(np.concatenate(moments))
    scaled = [part.resize((round(part.width * 400 / part.height), 400)) for part in (found, motion, samples)]
    row = np.concatenate([np.asarray(part.convert("RGB")) for part in scaled], axis=1)
    return torch.from_numpy(row).permute(2, 0, 1)


def run(*arguments: object) -> None:
    """Print a command and run it.

    Raises:
        UserError: If it fails.
    """
    words = [str(argument) for argument in arguments]
    print(f"\n$ {shlex.join(words)}", flush=True)
    installed = Path(sys.executable).with_name(words[0])
    if subprocess.run([installed, *words[1:]]).returncode != 0:
        raise UserError(f"the demonstration stopped: {words[0]} failed")


@command
def main() -> None:
    """Entry point of `python -m autolink_apps.demo`."""
    demo(tyro.cli(Options, description=__doc__).output)


if __name__ == "__main__":
    main()
