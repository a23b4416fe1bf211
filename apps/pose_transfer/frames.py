"""The frames that a model is learned from (`learn.py`), and what it makes of those it has not seen.

Shapes: N frames of a clip, K keypoints, S image side.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from autolink.data import open_samples
from autolink.geometry import spread
from autolink.pixels import unit_from_bytes
from autolink.tracking.windows import Fit, cut, whole
from autolink.visualize import save_png

from .adapt import nearest_frames, read_frames
from .model import PoseTransfer

AT_ONCE = 8
"""Frames that are painted at once."""


def keep_frames(src: Path, driver: Path, folder: Path, size: int, fit: Fit = "crop") -> None:
    """Write square frames of both clips as `train/` and `val/`, a folder a clip; the last tenth of each is `val`.

    `fit` says how frames become square, as it does of `autolink-transfer`.

    The shorter clip's training frames are written as often as it takes to come near the number of the longer one's,
    so that both count alike.

    Raises:
        UserError: If a clip cannot be read, or is too short.
    """

    def see(_: int, image: np.ndarray) -> np.ndarray:
        height, width = image.shape[:2]
        return cut(image, whole(width, height, fit), size)

    clips = {"src": read_frames(src, size, see), "driver": read_frames(driver, size, see)}
    shutil.rmtree(folder, ignore_errors=True)
    longest = max(map(len, clips.values()))
    for name, images in clips.items():
        known, last = images.tensor_split([len(images) - max(2, round(len(images) / 10))])  # two make a pair
        copies = [(f"train/{name}-{number}", known) for number in range(round(longest / len(images)))]
        for place, members in [(f"val/{name}", last), *copies]:
            for number, image in enumerate(members):
                save_png(folder / place / f"{number:06d}.png", image)


@torch.inference_mode()
def held_out(model: PoseTransfer, frames: Path) -> dict[str, dict[str, float]]:
    """Error on the held-out frames of each clip, its first frame being the source: mean absolute, over the range.

    Returns:
        For `src` and `driver`: `l1` of the model; `l1_of_copying` the source; and `l1_of_nearest`, of the training
        frame whose keypoints are nearest to those of the held-out frame. Also `keypoint_spread`, the mean size of the
        poses (`motion.spread`): if it differs much, the keypoints do not mean the same on both clips; and their mean
        `confidence`.
    """
    size, device = model.config.image_size, model.autolink.device
    numbers = {}
    for clip in ("src", "driver"):
        known, last = _images(frames, size, "train", f"{clip}-0"), _images(frames, size, "val", clip)
        source, wanted = unit_from_bytes(known[:1].to(device)), unit_from_bytes(last.to(device))
        poses, confidence = model.autolink.detect(wanted, AT_ONCE)
        encoded = model.encode(source, model.autolink.detect(source).xy)
        made = torch.cat([model.drive(encoded, batch) for batch in poses.split(AT_ONCE)])
        nearest = unit_from_bytes(nearest_frames(model.autolink, known, poses).to(device))
        candidates = {"l1": made, "l1_of_copying": source, "l1_of_nearest": nearest}
        l1 = {name: (images - wanted).abs().mean() for name, images in candidates.items()}
        found = {**l1, "keypoint_spread": spread(poses).mean(), "confidence": confidence.mean()}
        numbers[clip] = {name: round(value.item(), 4) for name, value in found.items()}
    return numbers


def _images(frames: Path, size: int, split: str, clip: str) -> Tensor:
    """All frames of a clip, (N, 3, S, S) uint8."""
    data = open_samples(str(frames.resolve()), size, split)
    return torch.stack([data[index].image for index, place in enumerate(data.clips) if place == f"{split}/{clip}"])
