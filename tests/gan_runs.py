"""Small runs of the GAN: their images, their AutoLink, their options."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from autolink.model import AutoLink, AutoLinkConfig
from autolink_apps.gan import ConditionalGAN, ConditionalGANConfig
from autolink_apps.gan.train import Options

TINY = AutoLinkConfig(keypoints=4, image_size=32, width=0.1)


def write_images(folder: Path, count: int = 20) -> Path:
    """A folder of smooth random images."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 255, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((40, 36), Image.Resampling.BICUBIC).save(folder / f"image{number:02d}.png")
    return folder


def write_autolink(folder: Path) -> Path:
    """An untrained AutoLink of four keypoints."""
    torch.manual_seed(0)
    return AutoLink(TINY).save_pretrained(folder)


def tiny_gan() -> ConditionalGAN:
    """An untrained GAN of 32² with five poses."""
    torch.manual_seed(0)
    gan = ConditionalGAN(ConditionalGANConfig(image_size=32, width=0.1, poses=5, autolink=TINY))
    gan.poses.uniform_(-0.8, 0.8)
    gan.update_w_average()
    return gan.eval()


def options_for(images: Path, autolink_file: Path | None, output: Path, **changes) -> Options:
    """Options of a run of six steps."""
    values = dict(data=str(images), autolink=str(autolink_file) if autolink_file else None, output=output)
    values |= dict(image_size=32, width=0.1, batch_size=4, steps=6, r1_every=2, mixed_precision="no", workers=0)
    values |= dict(log_every=1, sample_every=3, save_every=3, metric_every=0)
    return Options(**{**values, **changes})


class Colours(nn.Module):
    """Features (N, 12) that need no weights: colours of the quarters of an image."""

    names = ("frechet", "kernel", "precision", "recall")

    def forward(self, images: Tensor) -> Tensor:
        return functional.adaptive_avg_pool2d(images, 2).flatten(1)
