"""Where numbers and pictures of a training go besides its run folder: TensorBoard and what else Accelerate knows."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.tracking import TensorBoardTracker, get_available_trackers
from accelerate.utils import LoggerType
from torch import Tensor

from autolink.errors import UserError
from autolink.pixels import to_uint8

PROJECT = "autolink"
"""What runs are put under by trackers that have projects."""
TENSORBOARD = "tensorboard"
LISTS = ("wandb", "swanlab")
"""Trackers that show pictures, and take them as lists."""
logger = logging.getLogger("autolink")


def chosen_trackers(wanted: Sequence[str]) -> list[str]:
    """The names that `--log-with` leads to here.

    Args:
        wanted: Names; `auto` is TensorBoard where it is installed, `none` is none.

    Raises:
        UserError: If one is not known, or not installed.
    """
    known = [str(LoggerType(name)) for name in LoggerType.list() if name != str(LoggerType.ALL)]
    here = [str(name) for name in get_available_trackers()]
    names: list[str] = []
    for name in wanted:
        if name == "auto":
            names += [TENSORBOARD] if TENSORBOARD in here else []
        elif name not in (*known, "none"):
            raise UserError(f"--log-with {name}: give auto, none, or of {', '.join(known)} one or more")
        elif name != "none" and name not in here:
            package = "'autolink-graph[tensorboard]'" if name == TENSORBOARD else name.replace("_", "-")
            raise UserError(f"--log-with {name}: it is not installed; pip install {package}")
        elif name != "none":
            names.append(name)
    return list(dict.fromkeys(names))


def begin_tracking(accelerator: Accelerator, names: Sequence[str], output: Path, options: Mapping[str, Any]) -> None:
    """Open trackers for a run; TensorBoard's files are in its folder."""
    others = [name for name in names if name != TENSORBOARD]
    named = {"wandb": "name", "trackio": "name", "mlflow": "run_name"}
    accelerator.log_with = [LoggerType(name) for name in others]
    about = {tracker: {option: output.name} for tracker, option in named.items()}
    accelerator.init_trackers(PROJECT, config=dict(options) if others else None, init_kwargs=about)
    if TENSORBOARD in names:
        board = TensorBoardTracker(TENSORBOARD, output)
        if hasattr(board, "start"):  # of older versions of Accelerate it has begun when it is made
            board.start()
        accelerator.trackers.append(board)


def track_picture(accelerator: Accelerator, step: int, name: str, image: Tensor) -> None:
    """Show a picture (3, H, W), uint8 or in [0, 1], wherever pictures can be shown."""
    for tracker in accelerator.trackers:
        if tracker.name == TENSORBOARD:
            tracker.writer.add_image(name, image, step)
        elif tracker.name in LISTS:
            pixels = image.cpu() if image.dtype == torch.uint8 else to_uint8(image)
            tracker.log_images({name: [pixels.permute(1, 2, 0).numpy()]}, step=step)
