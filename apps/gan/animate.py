"""Interpolation as a video: `autolink-sample interpolate --vary pose --output poses.mp4`.

A grid of poses × appearances of which one axis becomes time; the other stands side by side. Through the poses, or
appearances w, goes a periodic cubic spline, so that the video loops. If the pose is given as one video or one table, it
is followed frame by frame instead.

Shapes: T frames, P poses, N appearances, M points that are interpolated, K keypoints, S image side.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import tyro
from scipy.interpolate import CubicSpline
from torch import Tensor
from torch.nn import functional

from autolink.errors import UserError, command
from autolink.pixels import to_uint8, unit_from_bytes
from autolink.progress import Bar
from autolink.ranges import Count, Range
from autolink.video import DEFAULT_FRAME_RATE, check_output, open_frames, write_video
from autolink.visualize import image_grid
from autolink_apps.gan.generator import ConditionalGAN
from autolink_apps.gan.poses import (
    TABLE_SUFFIXES,
    SampleOptions,
    check_options,
    draw,
    find_poses,
    is_clip,
    load_gan,
    pose_labels,
)

SMALLEST_CELL = 128
"""Images smaller than this are enlarged: videos store colours at half the resolution."""


@dataclass(kw_only=True)
class Options(SampleOptions):
    """A video in which the appearance changes and the pose stays, or the other way round."""

    output: Path
    """What to write: a name ending in .mp4, .webm, .gif, .webp or .apng, or a folder of pictures."""
    vary: Literal["appearance", "pose"] = "appearance"
    """What changes over time. Of the other, all that are asked for (--count poses, --columns appearances) stand side by
    side; with pose, the edge map is at the left."""
    steps: Count = 24
    """Frames from one pose or appearance to the next."""
    frame_rate: Annotated[float, Range(0, 100, above=True)] | None = None
    """Frames a second. Default: those of the video that is followed, or 25."""


def interpolate(options: Options) -> Path:
    """Write the video that the options ask for, and return its path.

    Raises:
        UserError: If model, poses or options cannot be used.
    """
    check_output(options.output)
    check_options(options)
    gan = load_gan(options)
    appearances, order = draw(options, gan)
    follow = options.vary == "pose" and len(options.pose) == 1 and is_clip(options.pose[0])
    found = (pose.keypoints.to(gan.poses.device) for pose in find_poses(options, gan, order, every=follow))
    if options.vary == "pose":
        poses = found if follow else loop(torch.stack(list(found)), options.steps, "poses")
        frames = (moving_frame(gan, pose, appearances) for pose in poses)
    else:
        held = torch.stack(list(found))
        changing = loop(gan.generator.per_layer(appearances), options.steps, "appearances")
        frames = (enlarged(to_uint8(gan.paint_grid(held, w[None])[:, 0])) for w in changing)
    rate = options.frame_rate or (followed_rate(options.pose[0]) if follow else DEFAULT_FRAME_RATE)
    write_video(options.output, Bar(frames, unit="frame"), Fraction(rate).limit_denominator(100_000))
    print(f"{options.output}: {options.vary} changes, at {float(rate):g} frames a second")
    return options.output


def loop(points: Tensor, steps: int, what: str) -> Iterator[Tensor]:
    """A closed curve through points (M, …): M · steps points (…), of which every steps-th is one of those given.

    Raises:
        UserError: If there are fewer than two points.
    """
    if len(points) < 2:
        raise UserError(f"between {len(points)} {what} nothing can be interpolated; give two or more")
    closed = torch.cat([points, points[:1]]).double().cpu()
    spline = CubicSpline(np.arange(len(closed)), closed.numpy(), bc_type="periodic")
    for index in range(len(points) * steps):
        yield torch.from_numpy(spline(index / steps)).to(points)


def moving_frame(gan: ConditionalGAN, pose: Tensor, appearances: Tensor) -> np.ndarray:
    """The edge map of a pose (K, 2), and the pose with each appearance, side by side: (H, W, 3) uint8."""
    return enlarged(torch.cat([pose_labels(gan, pose[None]), to_uint8(gan.paint_grid(pose[None], appearances)[0])]))


def enlarged(images: Tensor) -> np.ndarray:
    """Images (N, 3, S, S) uint8 side by side, each at least `SMALLEST_CELL` wide: (H, W, 3) uint8."""
    factor = -(-SMALLEST_CELL // images.shape[-1])
    if factor > 1:
        images = to_uint8(functional.interpolate(unit_from_bytes(images), scale_factor=factor, mode="bicubic"))
    return image_grid(images, columns=len(images)).permute(1, 2, 0).contiguous().numpy()


def followed_rate(path: Path) -> Fraction:
    """Frames a second of a video; of a table, which does not tell, 25."""
    if path.suffix.lower() in TABLE_SUFFIXES:
        return DEFAULT_FRAME_RATE
    with open_frames(path) as frames:
        return frames.frame_rate


@command
def main() -> None:
    """Entry point of `autolink-sample interpolate`."""
    interpolate(tyro.cli(Options, description=__doc__))
