"""Motion templates: the keypoints of a driver as a file, so that it is looked at once and drives any number of sources.

A template is a `.safetensors` like the models (`autolink info FILE` shows its header): `xy` and `confidence`, and the
times of the frames as exact fractions of a second, since videos have rates like 30000/1001. It says which model found
the keypoints, because those of another mean something else.

Shapes: T frames, K keypoints.
"""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from autolink.commands.calibrate import fingerprint
from autolink.errors import UserError
from autolink.weights import read_header, read_tensors, write_model

__all__ = ["TASK", "Motion", "fingerprint", "load_motion", "save_motion"]

TASK = "motion"


class Motion(NamedTuple):
    """What one model saw of a driver."""

    xy: Tensor
    """(T, K, 2) float32, keypoints in [−1, 1] of the square that the model saw."""
    confidence: Tensor
    """(T, K) float32 in [0, 1]."""
    times: list[Fraction]
    """T, in seconds since the first frame, rising."""
    frame_rate: Fraction
    """Frames a second, on average."""
    size: tuple[int, int]
    """Width and height of the driver's frames in pixels."""
    model: str
    """`fingerprint` of the AutoLink that found the keypoints."""


def save_motion(path: Path, motion: Motion) -> Path:
    """Write a template, atomically; folders on the way to it are made.

    Returns:
        The file written.

    Raises:
        UserError: If the name does not end in `.safetensors`.
    """
    if path.suffix != ".safetensors":
        raise UserError(f"{path}: a motion is saved as .safetensors; give a name that ends so")
    tensors = {
        "xy": motion.xy.float(),
        "confidence": motion.confidence.float(),
        "times": torch.tensor([time.as_integer_ratio() for time in motion.times], dtype=torch.int64).reshape(-1, 2),
    }
    config = {
        "frame_rate": list(motion.frame_rate.as_integer_ratio()),
        "size": list(motion.size),
        "detector": motion.model,
    }
    frames, keypoints = motion.confidence.shape
    metadata = {"frames": frames, "keypoints": keypoints, "seconds": float(motion.times[-1]) if frames else 0.0}
    write_model(path, tensors, TASK, config, metadata, half=False)
    return path


def load_motion(path: Path) -> Motion:
    """Read what `save_motion` wrote, the same to the last bit.

    Raises:
        UserError: If it is no such file, or was damaged.
    """
    header = read_header(path)
    if header["task"] != TASK:
        raise UserError(f"{path} holds a model for '{header['task']}'; expected a motion that --save-motion wrote")
    config, tensors = header["config"], read_tensors(path)
    try:
        motion = Motion(
            tensors["xy"],
            tensors["confidence"],
            [Fraction(count, ticks) for count, ticks in tensors["times"].tolist()],
            Fraction(*config["frame_rate"]),
            tuple(config["size"]),
            config["detector"],
        )
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise _damaged(path) from error
    if not _is_whole(motion):
        raise _damaged(path)
    return motion


def _is_whole(motion: Motion) -> bool:
    """Whether the parts of a motion belong together."""
    frames = len(motion.times)
    return (
        frames > 0
        and motion.xy.shape == (*motion.confidence.shape, 2)
        and len(motion.xy) == frames
        and all(before < after for before, after in pairwise(motion.times))
        and motion.frame_rate > 0
        and len(motion.size) == 2
    )


def _damaged(path: Path) -> UserError:
    return UserError(f"{path}: frames, times and keypoints of this motion do not belong together; save it again")
