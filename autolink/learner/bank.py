"""The bank of poses that goes into a model's file.

Shapes: P poses, K keypoints.
"""

from __future__ import annotations

import torch

from autolink.data import open_data
from autolink.data.sample import Sample, spread
from autolink.detector import Keypoints
from autolink.model import AutoLink
from autolink.pixels import pictures_from_bytes
from autolink.training import (
    RunOptions,
)

BANK = 256
"""Poses of training images that go into a model's file, at most."""


def bank_of(model: AutoLink, options: RunOptions) -> Keypoints:
    """Poses (P, K, 2) of up to `BANK` training images, and their confidences, on the model's device."""
    return detect_samples(model, spread(open_data(options.data, options.image_size, "train", options.data_root), BANK))


def detect_samples(model: AutoLink, samples: list[Sample]) -> Keypoints:
    """Keypoints of N samples, on the model's device."""
    return model.detect(pictures_from_bytes(torch.stack([sample.image for sample in samples])), 32)
