"""Adaptive augmentation: changes applied with a probability that grows while the discriminator overfits (ADA).

Karras et al., "Training Generative Adversarial Networks with Limited Data", 2020. Overfitting is their r_v (Eq. 1): how
much of the way from training images to generated ones the logits of held-out images are. Their r_t, which needs no
held-out images, takes a discriminator that is merely ahead of its generator for one that knows its images by heart. The
transformations are kornia's: those of place act on image and edge map as one, those of colour on the image alone. As
long as none is applied always, what they change does not leak into generated images.

Shapes: B batch, C channels (red, green, blue and possibly a condition), S side of the image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import kornia.augmentation as kornia
import torch
from accelerate import Accelerator
from kornia.color import rgb_to_yuv, yuv_to_rgb
from torch import Tensor, nn

from autolink.pixels import signed_from_unit, unit_from_signed
from autolink.training import global_draws

TARGET = 0.5
"""What `overfitting` is held at."""
HORIZON = 500_000
"""Images after which the probability can have gone from 0 to 1."""
INTERVAL = 4
"""Steps from one adjustment to the next."""


class AdaptiveAugmentation:
    """Augmentation of what the discriminator sees, with the controller of its probability.

    Args:
        accelerator: The run's accelerator.
        batch_size: Images a step, over all processes.
    """

    def __init__(self, accelerator: Accelerator, batch_size: int) -> None:
        self.accelerator, self.batch_size = accelerator, batch_size
        self.probability = 0.0
        self.overfitting = 0.0
        self._build()

    def _build(self) -> None:
        self.places, self.colours = of_place(self.probability), of_colour(self.probability)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Change each image by draws of its own.

        Args:
            images: (B, C, S, S) float32, the first three channels around [−1, 1].
            generator: Where the draws come from; a generator on the CPU.

        Returns:
            (B, C, S, S), differentiable once in `images`.
        """
        if self.probability == 0:
            return images
        images = turn_quarters(images, self.probability, generator)
        with global_draws(generator):  # kornia's
            moved = self.places(images)
            colours = self.colours(unit_from_signed(moved[:, :3]))  # kornia's brightness and contrast are of [0, 1]
        colours = change_chroma(signed_from_unit(colours), self.probability, generator)
        return torch.cat([colours, moved[:, 3:]], dim=1)

    def observe(self, real: Tensor, held_out: Tensor, fake: Tensor) -> None:
        """Adjust the probability, every fourth step, by mean logits (scalars) of images that were augmented alike.

        Args:
            real: Of training images.
            held_out: Of images that are not trained on.
            fake: Of generated images.
        """
        means = self.accelerator.reduce(torch.stack([real, held_out, fake]).float(), reduction="mean")
        self.overfitting = overfitting(*means.tolist())
        change = INTERVAL * self.batch_size / HORIZON
        change = change if self.overfitting > TARGET else -change
        self.probability = min(max(self.probability + change, 0.0), 1.0)
        self._build()

    def numbers(self) -> dict[str, float]:
        """For the log: `ada_p`, the probability, and `ada_r`, the overfitting that it follows."""
        return {"ada_p": self.probability, "ada_r": self.overfitting}

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold."""
        return {"probability": self.probability, "overfitting": self.overfitting}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state()`."""
        self.probability, self.overfitting = state["probability"], state["overfitting"]
        self._build()


def overfitting(real: float, held_out: float, fake: float) -> float:
    """r_v of mean logits.

    Returns:
        0 where held-out images are believed as much as training images, 1 where as little as generated ones; 0 also
        where the discriminator does not tell real images from generated ones at all.
    """
    return (real - held_out) / (real - fake) if real > fake else 0.0


def turn_quarters(images: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """0, 1, 2 or 3 quarter turns, equally often, with a probability, of images (B, C, S, S).

    kornia's own rounds a draw from a range, so that those at the range's ends come half as often.
    """
    turned, quarters = torch.rand(2, len(images), generator=generator)
    quarters = torch.where(turned < probability, (quarters * 4).long(), 0).tolist()
    return torch.stack([image.rot90(count, (1, 2)) for image, count in zip(images, quarters)])


def of_place(probability: float) -> nn.Sequential:
    """Mirroring, shifts, turns and scaling, each applied with a probability; any channels."""
    edges = {"padding_mode": "reflection", "p": probability}
    return nn.Sequential(
        kornia.RandomHorizontalFlip(p=probability / 2),
        kornia.RandomAffine(degrees=0.0, translate=(1 / 8, 1 / 8), **edges),
        kornia.RandomAffine(degrees=180.0, scale=(0.8, 1.25), **edges),
    )


def of_colour(probability: float) -> nn.Sequential:
    """Brightness and contrast, each with a probability; what leaves [0, 1] is kept, not clamped."""
    return nn.Sequential(
        kornia.RandomBrightness((0.8, 1.2), clip_output=False, p=probability),
        kornia.RandomContrast((0.6, 1.6), clip_output=False, p=probability),
    )


def change_chroma(images: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Any hue, and saturation × 0–2, each with a probability, of images (B, 3, S, S) around [−1, 1].

    A rotation and scaling of the plane of colours. kornia's own hue and saturation clamp, and a clamped pixel of a
    generated image would teach nothing.
    """
    turned, scaled, angle, factor = torch.rand(4, len(images), 1, 1, generator=generator).to(images)
    angle = torch.where(turned < probability, (angle * 2 - 1) * math.pi, 0)
    factor = torch.where(scaled < probability, factor * 2, 1)
    y, u, v = rgb_to_yuv(images).unbind(1)
    u, v = factor * (u * angle.cos() - v * angle.sin()), factor * (u * angle.sin() + v * angle.cos())
    return yuv_to_rgb(torch.stack([y, u, v], dim=1))
