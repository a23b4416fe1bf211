"""How well keypoints predict human landmarks: `autolink evaluate --model M --data NAME_OR_DIR` prints JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from autolink.data import open_data
from autolink.devices import pick_device
from autolink.errors import UserError, command
from autolink.metrics import interocular_distance, landmark_errors
from autolink.model import AutoLink, load


@dataclass
class Options:
    """Fit a linear map from keypoints to landmarks on the training split, and report its error on the held-out one."""

    model: str
    """A shipped name, a file, a folder or a hub id."""
    data: str
    """A data set with landmarks: its folder or its name."""
    data_root: Path | None = None
    """Where data sets are looked up by name; default $AUTOLINK_DATA."""
    batch_size: int = 64
    """Images at a time."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1`, `mps` …"""


def evaluate(options: Options) -> dict[str, Any]:
    """Errors in percent, with and without bias, beside the error of always predicting the mean shape.

    Errors are normalised by the distance between the eye centres where the landmarks have eyes (68 or 5 points), else
    by the side of the image.

    Raises:
        UserError: If model or data cannot be used, or the data have no landmarks.
    """
    model = load(options.model, pick_device(options.device))
    splits = []
    for split in ("train", "val"):
        data = open_data(options.data, model.config.image_size, split, options.data_root)
        if data.landmark_count == 0:
            raise UserError(f"{options.data} has no landmarks to evaluate against; give a set with a landmark csv")
        splits.append(_detect_all(model, data, options, split))
    (train_keypoints, train_landmarks), (keypoints, landmarks) = splits

    distance = interocular_distance(landmarks)
    unit = torch.ones(len(landmarks)) if distance is None else distance / 2  # both in shares of the image's side
    mean_shape = landmark_errors(train_keypoints[:, :0], train_landmarks, keypoints[:, :0], landmarks, bias=True)

    def percent(errors: Tensor) -> float:
        return round((errors / unit[:, None]).nanmean().item() * 100, 2)

    def regression(bias: bool) -> float:
        return percent(landmark_errors(train_keypoints, train_landmarks, keypoints, landmarks, bias))

    return {
        "model": options.model,
        "data": options.data,
        "train_images": len(train_keypoints),
        "test_images": len(keypoints),
        "keypoints": model.config.keypoints,
        "landmarks": landmarks.shape[1],
        "normalised_by": "side of the image" if distance is None else "distance between eye centres",
        "error_percent_with_bias": regression(bias=True),
        "error_percent_without_bias": regression(bias=False),
        "error_percent_of_mean_shape": percent(mean_shape),
    }


def _detect_all(model: AutoLink, data: Dataset, options: Options, split: str) -> tuple[Tensor, Tensor]:
    """Keypoints (N, K, 2) and landmarks (N, L, 2) of a whole data set, on the CPU."""
    keypoints, landmarks = [], []
    for sample in tqdm(DataLoader(data, options.batch_size, num_workers=1), desc=f"detect ({split})", leave=False):
        keypoints.append(model.detect(sample.image.float() / 255).xy.cpu())
        landmarks.append(sample.landmarks)
    return torch.cat(keypoints), torch.cat(landmarks)


@command
def main() -> None:
    """Entry point of `autolink evaluate`."""
    print(json.dumps(evaluate(tyro.cli(Options, prog="autolink evaluate")), indent=2))


if __name__ == "__main__":
    main()
