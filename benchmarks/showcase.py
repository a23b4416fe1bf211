"""Contact sheets of what `autolink-transfer` makes of real clips, one a scene:

    python benchmarks/showcase.py --clips DIR_OF_CLIPS --output runs/showcase

A sheet shows moments at even distances, one above the other: source | driver | edge map | result. Clips are looked up
by the names in `SCENES`. Scenes that adapt or learn a model take minutes (`--only` chooses some); finished ones are
kept, and the same command goes on after an interruption.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import tyro
from torch.nn import functional

from autolink.data.sample import evenly
from autolink.errors import UserError, command
from autolink.pixels import unit_from_pictures
from autolink.ranges import Checked
from autolink.video import open_frames
from autolink.visualize import image_grid, save_png
from autolink_apps.pose_transfer import transfer
from autolink_apps.pose_transfer.options import Options as TransferOptions
from autolink_apps.pose_transfer.options import preview_path

MOMENTS = 8
"""Moments of a result on its sheet."""
WIDTH = 768
"""Of a sheet, in pixels."""


class Scene(NamedTuple):
    """A transfer: names of two clips, and options of `autolink-transfer`."""

    source: str
    driver: str
    options: dict[str, object]


WHOLE = {"fit": "pad"}
"""For clips in portrait format."""
LEARNED = "runs/learn-squats_portrait_5fps-dance_portrait_audio/model.safetensors"
"""What the first of the two scenes with these clips has learned serves both."""
SCENES = {
    "head on a head": Scene("face_woman_652f.mp4", "face_man_audio.mp4", {}),
    "speaker on a speaker": Scene("speaker_woman.mp4", "speaker_man.mp4", {"learn": 20.0}),
    "squats as the dance": Scene("squats_portrait_5fps.mp4", "dance_portrait_audio.mp4", WHOLE | {"learn": 20.0}),
    "dance as the squats": Scene("dance_portrait_audio.mp4", "squats_portrait_5fps.mp4", WHOLE | {"model": LEARNED}),
    "tai-chi as the dance": Scene("taichi_meadow.mp4", "dance_portrait_audio.mp4", WHOLE | {"learn": 20.0}),
}


@dataclass
class Options(Checked):
    """Contact sheets of transfers between real clips."""

    clips: Path
    """Folder with the clips."""
    output: Path = Path("runs/showcase")
    """Where videos and sheets go."""
    only: tuple[Literal[tuple(SCENES)], ...] = tuple(SCENES)
    """Some of the scenes."""


def show(options: Options) -> list[Path]:
    """Perform the scenes; returns their sheets.

    Raises:
        UserError: If a scene is unknown, or a clip cannot be used.
    """
    unknown = set(options.only) - set(SCENES)
    if unknown:
        raise UserError(f"no scene is called {', '.join(sorted(unknown))}; there are: {', '.join(SCENES)}")
    return [perform(name, SCENES[name], options) for name in options.only]


def perform(name: str, scene: Scene, options: Options) -> Path:
    """The sheet of one scene."""
    video = options.output / f"{name.replace(' ', '-')}.mp4"
    asked = TransferOptions(
        src=(options.clips / scene.source,),
        driver=(options.clips / scene.driver,),
        output=video,
        resume=True,
        **scene.options,
    )
    transfer.transfer(asked)
    sheet = save_png(video.with_suffix(".png"), contact_sheet(preview_path(video)))
    print(f"sheet: {sheet}")
    return sheet


def contact_sheet(video: Path) -> torch.Tensor:
    """Frames of a video at even distances, one above the other: (3, H, W) uint8."""
    with open_frames(video) as frames:
        images = [frame.image for frame in frames]
    shown = unit_from_pictures([images[place] for place in evenly(len(images), MOMENTS)])
    size = (round(WIDTH * shown.shape[2] / shown.shape[3]), WIDTH)
    return image_grid(functional.interpolate(shown, size, mode="bilinear", antialias=True), columns=1)


@command
def main() -> None:
    show(tyro.cli(Options, description=__doc__))


if __name__ == "__main__":
    main()
