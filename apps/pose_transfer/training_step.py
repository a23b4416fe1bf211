"""One training step of pose transfer and the look at its result: what `train.py` and `adapt.py` share.

A step has two turns: gradients for the network (mean squared error, perceptual distance, Eq. 7), then for the
discriminator (Eq. 8, 9), if there is one.

Shapes: B batch, K keypoints, S image side, N held-out pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional

from autolink.adversarial import discriminator_loss, generator_loss, r1_penalty
from autolink.data.sample import evenly
from autolink.losses import PerceptualLoss
from autolink.pixels import to_uint8, unit_from_signed
from autolink.visualize import edge_map_image, image_grid

from .model import PoseTransfer

AT_ONCE = 8
"""Held-out pairs that are painted at once, and that a picture shows."""


class Inputs(NamedTuple):
    """What `TransferNet.forward` takes."""

    images: Tensor
    """(B, 3, S, S) in [−1, 1]: the source."""
    keypoints: Tensor
    """(B, K, 2)."""
    edge_map: Tensor
    """(B, 1, S, S)."""
    driving_keypoints: Tensor
    """(B, K, 2)."""
    driving_edge_map: Tensor
    """(B, 1, S, S)."""


@torch.no_grad()
def network_inputs(accelerator: Accelerator, model: PoseTransfer, source: Tensor, driving: Tensor) -> Inputs:
    """Find keypoints in images (B, 3, S, S) in [−1, 1] and draw them, with the frozen AutoLink."""
    with accelerator.autocast():  # half precision moves keypoints by 0.04 pixels of 128, and finds them faster
        found = model.autolink.locate(torch.cat([source, driving])).xy
    keypoints, driving_keypoints = found.chunk(2)
    edge_map, driving_edge_map = model.edge_map(found).chunk(2)
    return Inputs(source, keypoints, edge_map, driving_keypoints, driving_edge_map)


@dataclass
class TrainingStep:
    """The network and what it is judged by; networks are called through what Accelerate made of them."""

    accelerator: Accelerator
    network: nn.Module
    perceptual: PerceptualLoss | None
    mse_weight: float
    perceptual_weight: float
    discriminator: nn.Module | None = None
    gan_weight: float = 0.0

    def network_turn(self, inputs: Inputs, driving: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Add up the network's gradients.

        Args:
            inputs: The source and the pose.
            driving: (B, 3, S, S) in [−1, 1], what should come out.

        Returns:
            The terms of the loss before they are weighted, and what came out, (B, 3, S, S) without gradients.
        """
        made = self.network(*inputs).float()
        terms = {"mse": functional.mse_loss(made, driving)}
        loss = self.mse_weight * terms["mse"]
        with self.accelerator.autocast():
            if self.perceptual is not None:
                terms["perceptual"] = self.perceptual(made, driving)
                loss = loss + self.perceptual_weight * terms["perceptual"]
            if self.discriminator is not None:
                # Frozen, and called without its wrapper, which would wait for gradients that never come.
                judge = self.accelerator.unwrap_model(self.discriminator)
                judge.requires_grad_(False)
                terms["gan"] = generator_loss(judge(made))
                judge.requires_grad_(True)
                loss = loss + self.gan_weight * terms["gan"]
        self.accelerator.backward(loss)
        return {name: term.detach() for name, term in terms.items()}, made.detach()

    def discriminator_turn(self, driving: Tensor, made: Tensor, r1_weight: float) -> dict[str, Tensor]:
        """Add up the discriminator's gradients.

        Args:
            driving: (B, 3, S, S), real images.
            made: (B, 3, S, S), what the network made, without gradients.
            r1_weight: Weight of the R1 penalty; 0 leaves it out.
        """
        assert self.discriminator is not None
        real = driving.detach().requires_grad_(r1_weight > 0)
        # One forward and one backward pass: else processes would not average R1 (see `r1_penalty`).
        logits = self.discriminator(torch.cat([real, made]), full_precision=r1_weight > 0)
        real_logits, fake_logits = logits.chunk(2)
        loss = discriminator_loss(real_logits, fake_logits)
        values = {"discriminator": loss.detach()}
        if r1_weight > 0:
            loss = loss + r1_weight * r1_penalty(real_logits, real)
        self.accelerator.backward(loss)
        return values


@torch.no_grad()
def paint(accelerator: Accelerator, model: PoseTransfer, inputs: Inputs) -> Tensor:
    """What the model makes of N pairs: (N, 3, S, S) in [−1, 1]."""
    with accelerator.autocast():
        made = [model.network(*batch).float() for batch in zip(*(part.split(AT_ONCE) for part in inputs))]
    return torch.cat(made).clamp(-1, 1)


@torch.no_grad()
def errors(
    accelerator: Accelerator, perceptual: PerceptualLoss | None, images: Tensor, wanted: Tensor
) -> dict[str, float]:
    """Distance of images (N, 3, S, S) in [−1, 1] from those wanted.

    Returns:
        `l1`, the mean absolute error over the range of values, and `perceptual` where there is such a loss.
    """
    values = {"l1": (images - wanted).abs().mean().item() / 2}
    if perceptual is not None:
        with accelerator.autocast():
            parts = [perceptual(*batch) * len(batch[0]) for batch in zip(images.split(AT_ONCE), wanted.split(AT_ONCE))]
        values["perceptual"] = torch.stack(parts).sum().item() / len(images)
    return values


def picture(inputs: Inputs, driving: Tensor, *made: Tensor) -> Tensor:
    """Some pairs at even distances, a row each: source | driving | edge map | what was made; (3, H, W) uint8."""
    shown = evenly(len(driving), AT_ONCE)
    images = [unit_from_signed(part[shown]) for part in (inputs.images, driving, *made)]
    images.insert(2, edge_map_image(inputs.driving_edge_map[shown]))
    rows = torch.stack([to_uint8(image) for image in images], dim=1).flatten(0, 1)
    return image_grid(rows, columns=len(images))
