"""The main job on shipped weights, in a minute or two: `make demo`.

Detects keypoints on a portrait, samples faces, and makes one of them move as the portrait does, by the commands a user
would type; each is printed before it runs. The portrait is the one that Matplotlib ships; its motion is made here.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
import tyro
from PIL import Image
from torch.nn import functional

from autolink.errors import UserError, command
from autolink.geometry import pixel_grid
from autolink.pixels import to_uint8, unit_from_bytes
from autolink.ranges import Checked
from autolink.video import open_frames, write_video
from autolink.visualize import save_png

FRAMES = 75
"""Length of the made clip: three seconds."""
SIZE = 256
"""Side of the portrait in pixels."""
HEAD = (64, 40, 448, 424)
"""The head on Matplotlib's photograph: left, top, right and bottom in pixels."""
FACE, FACE_RADII = (0.05, 0.0), (0.55, 0.7)
"""Middle and radii of the face on the portrait cut out of it."""


@dataclass
class Options(Checked):
    """Run the demonstration."""

    output: Path = Path("demo")
    """Folder for inputs and results."""


def demo(output: Path) -> None:
    """Make the inputs, run the commands, and say where the results are."""
    started = time.monotonic()
    portrait, driver = output / "input/portrait.png", output / "input/driver.mp4"
    detected, moved, sampled = output / "keypoints", output / "transfer.mp4", output / "samples"
    try:
        import matplotlib
    except ImportError as error:
        raise UserError(
            "the portrait is one that Matplotlib ships, which is missing here: pip install 'autolink-graph[figures]'"
        ) from error
    photo = Image.open(Path(matplotlib.get_data_path()) / "sample_data/grace_hopper.jpg")
    image = torch.from_numpy(np.array(photo.crop(HEAD).resize((SIZE, SIZE)))).permute(2, 0, 1)
    save_png(portrait, image)
    clip = turning(image, FRAMES)
    write_video(driver, clip.permute(0, 2, 3, 1).numpy(), Fraction(25))

    run("autolink", "detect", "--model", "portraits", "--numbered", "--output", detected, portrait, driver)
    run("autolink", "gan", "sample", "--model", "portraits-gan", "--output", sampled)
    face = sorted(sampled.glob("pose-*_01.png"))[3]  # one that looks at the viewer
    run("autolink", "transfer", "--src", face, "--driver", driver, "--output", moved)

    overview = save_png(output / "overview.png", picture(output))
    print(f"\nDone in {time.monotonic() - started:.0f} s. Look at:")
    for what, path in [
        ("keypoints and graph on a portrait", detected / "overlays/portrait.png"),
        ("keypoints and graph on a video", detected / "overlays/driver.mp4"),
        ("faces: poses × appearances", sampled / "grid.png"),
        ("source | driver | edge map | result", output / "transfer-preview.mp4"),
        ("all of it in one picture", overview),
    ]:
        if not path.is_file():
            raise UserError(f"the demonstration did not write {path}")
        print(f"  {what:40}{path}")


def turning(portrait: torch.Tensor, frames: int) -> torch.Tensor:
    """A clip of a portrait (3, S, S) that turns its head left and right and nods: (T, 3, S, S) uint8.

    What is near the viewer, the middle of the face, moves against the rest, as it would if the head turned.
    """
    size = portrait.shape[-1]
    grid = pixel_grid(size, size)
    nearness = torch.exp(-((grid - torch.tensor(FACE)) / torch.tensor(FACE_RADII)).square().sum(-1))
    phase = torch.linspace(0, 2 * torch.pi, frames)[:, None, None]
    shift = torch.stack([0.2 * torch.sin(phase) * nearness, 0.1 * torch.sin(2 * phase) * nearness], dim=-1)
    images = unit_from_bytes(portrait).expand(frames, -1, -1, -1)
    return to_uint8(functional.grid_sample(images, grid - shift, padding_mode="border", align_corners=False))


def picture(output: Path) -> torch.Tensor:
    """What the commands made, in one picture (3, H, W): graph on a portrait | a face that follows it | samples."""
    found = Image.open(output / "keypoints/overlays/portrait.png")
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
