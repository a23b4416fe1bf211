"""The artist's case: photographs that move as clips do, one transfer a pair, each with a number and a row of a picture:

    python benchmarks/gallery.py --photos DIR FILE … --clips DIR --output runs/gallery

Pairs take photographs from what is given in turn, and clips, each spread evenly; of a clip among the photographs, its
first frame.
Every photograph is tried as it is, or set into a larger frame, so that faces are of several sizes in it. A row shows
the photograph, then moments of the driver, above those of the result. *Following* is the correlation of
`metrics.motion_correlation` between the driver's keypoints and those that the model's AutoLink finds in the result.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
import tyro
from _measure import print_table
from PIL import Image
from torch import Tensor
from torch.nn import functional

from autolink.data.sample import evenly
from autolink.errors import UserError, command
from autolink.files import walk, what_is
from autolink.model import centre_square
from autolink.pixels import unit_from_pictures
from autolink.ranges import Checked, Count, Range
from autolink.video import open_frames
from autolink.visualize import image_grid, save_png
from autolink_apps.pose_transfer import PoseTransfer
from autolink_apps.pose_transfer.metrics import motion_correlation
from autolink_apps.pose_transfer.options import Options as TransferOptions
from autolink_apps.pose_transfer.saved_motion import load_motion
from autolink_apps.pose_transfer.transfer import transfer

SHARES = (1.0, 0.6, 0.4)
"""Sides of photographs as shares of the frames that they are set into, in turn."""
ASPECTS = (1.0, 16 / 9, 3 / 4)
"""Width over height of those frames, in turn."""
MOMENTS, SIDE = 6, 128
"""Moments of a clip in a row, and their height in pixels."""


@dataclass
class Options(Checked):
    """Photographs that move as clips do."""

    photos: tuple[Path, ...]
    """Pictures and clips, or folders of them."""
    clips: Path
    """Folder of drivers."""
    output: Path = Path("runs/gallery")
    """Where photographs, results and the picture go."""
    pairs: Count = 12
    """How many."""
    max_frames: Annotated[int, Range(2)] = 60
    """Frames of each driver."""
    model: str = "faces-transfer"
    """The model."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda` …"""


class Pair(NamedTuple):
    """A photograph, a driver, and how the photograph was framed."""

    photo: Path
    driver: Path
    framing: str


def framed(image: np.ndarray, share: float, aspect: float) -> np.ndarray:
    """An image (H, W, 3) in the middle of a frame of its own mean colour, its height that share of the frame's."""
    height, width = image.shape[:2]
    if share == 1:
        return image
    rows = round(height / share)
    columns = max(width, round(rows * aspect))
    frame = np.empty((rows, columns, 3), np.uint8)
    frame[:] = image.mean((0, 1))
    top, left = (rows - height) // 2, (columns - width) // 2
    frame[top : top + height, left : left + width] = image
    return frame


def shown_in(path: Path, *kinds: str) -> list[Path]:
    """Files of these kinds: the path itself, or those in the folder."""
    return [file for file in (walk(path) if path.is_dir() else [path]) if what_is(file).kind in kinds]


def interleaved(groups: list[list[Path]], count: int) -> list[Path]:
    """So many files, taken from the groups in turn, of each at even distances."""
    share = -(-count // len(groups))
    spread = [[group[place] for place in evenly(len(group), share)] for group in groups]
    return [file for row in zip_longest(*spread) for file in row if file is not None][:count]


def pairs_of(options: Options) -> Iterator[Pair]:
    """The pairs; photographs are written into the output folder as they are framed.

    Raises:
        UserError: If there is no photograph or no clip.
    """
    photos = interleaved([shown_in(path, "still", "animation", "video") for path in options.photos], options.pairs)
    clips = shown_in(options.clips, "video")
    for found, given in ((photos, "--photos"), (clips, "--clips")):
        if not found:
            raise UserError(f"{given}: nothing in it that can be shown; give pictures, videos or folders of them")
    folder = options.output / "photos"
    folder.mkdir(parents=True, exist_ok=True)
    drivers = [clips[place] for place in evenly(len(clips), options.pairs)]
    for number, photo in enumerate(photos):
        share = SHARES[number % len(SHARES)]
        aspect = ASPECTS[number // len(SHARES) % len(ASPECTS)]
        with open_frames(photo) as frames:
            image = framed(next(iter(frames)).image, share, aspect)
        file = folder / f"{number:02d}-{photo.stem}.png"
        Image.fromarray(image).save(file)
        # Half the list further on, so that no one drives himself where photographs are first frames of clips.
        driver = drivers[(number + len(drivers) // 2) % len(drivers)]
        yield Pair(file, driver, f"{image.shape[1]}x{image.shape[0]}, {share:.0%}")


def moments(video: Path, count: int) -> tuple[Tensor, Tensor]:
    """The first `count` frames (T, 3, H, W) of a video in [0, 1], and the middle of some (MOMENTS, 3, SIDE, SIDE)."""
    with open_frames(video) as frames:
        images = unit_from_pictures([frame.image for frame in islice(frames, count)])
    left, top, side = centre_square(*images.shape[-2:])
    shown = images[evenly(len(images), MOMENTS), :, top : top + side, left : left + side]
    return images, functional.interpolate(shown, (SIDE, SIDE), mode="bilinear", antialias=True)


def perform(pair: Pair, judge: PoseTransfer, options: Options) -> tuple[list[object], Tensor]:
    """A pair's line of the table, and its two rows (2 + 2 · MOMENTS, 3, SIDE, SIDE) of the picture."""
    result = options.output / f"{pair.photo.stem}.mp4"
    motion = result.with_suffix(".safetensors")
    asked = {"model": options.model, "device": options.device, "preview": "off", "save_motion": motion}
    limits = {"max_frames": options.max_frames, "sound": "none"}
    transfer(TransferOptions(src=(pair.photo,), driver=(pair.driver,), output=result, **asked, **limits))
    made, shown = moments(result, options.max_frames)
    found = judge.autolink.detect(made, batch_size=16).xy.cpu()
    follows = motion_correlation(found, load_motion(motion).xy[: len(found)])
    photo, driver = (moments(file, options.max_frames)[1] for file in (pair.photo, pair.driver))
    rows = torch.cat([photo[:1], driver, photo[:1], shown])
    return [pair.photo.stem, pair.driver.stem, pair.framing, len(made), f"{follows:.2f}"], rows


@command
def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    judge = PoseTransfer.from_pretrained(options.model)
    lines, rows = zip(*(perform(pair, judge, options) for pair in pairs_of(options)))
    print(save_png(options.output / "gallery.png", image_grid(torch.cat(rows), columns=1 + MOMENTS)))
    print_table(("photograph", "driver", "frame, share of its height", "frames", "following"), lines)


if __name__ == "__main__":
    main()
