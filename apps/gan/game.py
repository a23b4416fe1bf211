"""The two turns of a training step: gradients for the discriminator (Eq. 8, 9), then for the generator (Eq. 7).

A step's batch may be taken in several parts, to save memory: gradients add up to those of the whole batch, and
processes exchange them once a turn. Each turn is complete before the other network changes.

Shapes: B batch, S image side.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from autolink.adversarial import discriminator_loss, generator_loss, r1_penalty
from autolink.model import AutoLink
from autolink.pixels import unit_from_bytes

MOST_REMEMBERED = 200_000
"""Images whose poses are remembered: tens of megabytes. Where more are trained on, there are GPUs, and finding a pose
is a small part of a step."""
Augment = Callable[[Tensor, torch.Generator], Tensor]
"""Images (B, C, S, S) and draws to changed images."""


class Batch(NamedTuple):
    """What a step, or a part of it, is computed from."""

    real: Tensor
    """(B, 3, S, S) in [−1, 1]."""
    edge_maps: Tensor
    """(B, 1, S, S) of the same images."""
    z: Tensor
    """(B, 256)."""
    poses: Tensor
    """(B, K, 2) in [−1, 1], the keypoints that the edge maps show."""

    def split(self, parts: int) -> list[Batch]:
        """Equal parts; B must be a multiple of `parts`."""
        return [Batch(*part) for part in zip(*(tensor.chunk(parts) for tensor in self))]


class DiscriminatorTurn(NamedTuple):
    """What the discriminator's turn leaves."""

    values: dict[str, Tensor]
    """Means over the batch, for the log."""
    fakes: list[Tensor]
    """The generated images of each part."""


@dataclass
class Game:
    """Generator and discriminator, each called through what Accelerate made of it."""

    accelerator: Accelerator
    generator: nn.Module
    discriminator: nn.Module
    augment: Augment | None
    """Changes real and generated images alike before they are judged."""
    conditional: bool = True
    """Whether the discriminator sees edge maps."""
    autolink: AutoLink | None = None
    """Frozen; needed where the generator is told how far its keypoints are off."""

    def discriminator_turn(self, parts: Sequence[Batch], draws: torch.Generator, r1_weight: float) -> DiscriminatorTurn:
        """Add up the discriminator's gradients.

        Args:
            parts: The batch.
            draws: Where augmentation draws from.
            r1_weight: Weight of the R1 penalty; 0 leaves it out. It is part of the one backward pass, for
                DistributedDataParallel's sake (see `r1_penalty`), and is taken where the discriminator looks: at
                augmented images.
        """
        whole = len(parts) == 1
        turns = []
        for number, part in enumerate(parts):
            with self._synchronising(self.discriminator, number == len(parts) - 1):
                with torch.set_grad_enabled(whole):  # of one part, the graph is kept for the generator's turn
                    fake = self.generator(part.edge_maps, part.z)
                real, edge_maps = self._judged(part.real, part.edge_maps, draws)
                real.requires_grad_(r1_weight > 0)
                real_logits = self.discriminator(torch.cat([real, edge_maps], dim=1), full_precision=r1_weight > 0)
                judged = torch.cat(self._judged(fake.detach(), part.edge_maps, draws), dim=1)
                fake_logits = self.discriminator(judged)
                loss = discriminator_loss(real_logits, fake_logits)
                values = {"loss_discriminator": loss.detach()}
                if r1_weight > 0:
                    penalty = r1_penalty(real_logits, real)
                    values["r1"] = penalty.detach()
                    loss = loss + r1_weight * penalty
                self.accelerator.backward(loss / len(parts))
            values |= {"logit_real": real_logits.detach().mean(), "logit_fake": fake_logits.detach().mean()}
            turns.append((values, fake))
        all_values, fakes = zip(*turns)
        return DiscriminatorTurn(_means(all_values), list(fakes))

    def generator_turn(
        self, parts: Sequence[Batch], fakes: Sequence[Tensor], draws: torch.Generator, pose_weight: float = 0.0
    ) -> dict[str, Tensor]:
        """Add up the generator's gradients.

        The discriminator is frozen, and called without its wrapper, which would wait for gradients that never come.

        Args:
            parts: The batch.
            fakes: What the discriminator's turn left.
            draws: Where augmentation draws from.
            pose_weight: Weight of `pose_distance`; 0 leaves it out.
        """
        judge = self.accelerator.unwrap_model(self.discriminator)
        judge.requires_grad_(False)
        losses = []
        for number, (part, fake) in enumerate(zip(parts, fakes)):
            with self._synchronising(self.generator, number == len(parts) - 1):
                if len(parts) > 1:
                    fake = self.generator(part.edge_maps, part.z)
                loss = generator_loss(judge(torch.cat(self._judged(fake, part.edge_maps, draws), dim=1)))
                values = {"loss_generator": loss.detach()}
                if pose_weight > 0 and self.autolink is not None:
                    with self.accelerator.autocast():
                        distance = pose_distance(self.autolink, fake, part.poses)
                    values["pose_distance"] = distance.detach()
                    loss = loss + pose_weight * distance
                self.accelerator.backward(loss / len(parts))
            losses.append(values)
        judge.requires_grad_(True)
        return _means(losses)

    @torch.no_grad()
    def mean_logit(self, images: Tensor, edge_maps: Tensor, draws: torch.Generator) -> Tensor:
        """What the discriminator says, on average, of images (B, 3, S, S) and edge maps (B, 1, S, S): a scalar."""
        judge = self.accelerator.unwrap_model(self.discriminator)
        logits: Tensor = judge(torch.cat(self._judged(images, edge_maps, draws), dim=1))
        return logits.mean()

    def _judged(self, images: Tensor, edge_maps: Tensor, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        """Images (B, 3, S, S) and condition (B, 1 or 0, S, S) as the discriminator sees them."""
        seen = torch.cat([images, edge_maps], dim=1) if self.conditional else images
        seen = self.augment(seen, draws) if self.augment else seen
        return seen[:, :3], seen[:, 3:]

    def _synchronising(self, network: nn.Module, last: bool) -> AbstractContextManager[None]:
        """Processes exchange gradients in the backward pass of the last part only."""
        return nullcontext() if last else self.accelerator.no_sync(network)


class TrainingPoses:
    """Keypoints of training images, found when an image is first seen and remembered from then on.

    Detection takes a sixth of a step on a processor, and training images do not change.

    Args:
        accelerator: Its autocast is used.
        autolink: Frozen.
    """

    def __init__(self, accelerator: Accelerator, autolink: AutoLink) -> None:
        self.accelerator, self.autolink = accelerator, autolink
        self.known: dict[bytes, Tensor] = {}

    def __call__(self, images: Tensor) -> Tensor:
        """Poses (B, K, 2) in [−1, 1] of uint8 images (B, 3, S, S), on the AutoLink's device."""
        names = [hashlib.blake2b(image.numpy(), digest_size=16).digest() for image in images.contiguous()]
        device = self.autolink.device
        if not self.known.keys() >= set(names):
            # All of them, since networks may round differently in batches of other sizes.
            with self.accelerator.autocast():
                found = self.autolink.detect(unit_from_bytes(images.to(device))).xy
            if len(self.known) < MOST_REMEMBERED:
                self.known.update(zip(names, found.cpu(), strict=True))
            return found
        return torch.stack([self.known[name] for name in names]).to(device)


def pose_distance(autolink: AutoLink, images: Tensor, poses: Tensor) -> Tensor:
    """Mean distance of the keypoints found in images (B, 3, S, S) around [−1, 1] from poses (B, K, 2).

    Returns:
        A scalar, as a share of the image's side; differentiable in `images`.
    """
    offsets = autolink.locate(images.clamp(-1, 1)).xy - poses
    return (offsets.square().sum(-1) + 1e-8).sqrt().mean() / 2  # a plain norm has no gradient at 0


def _means(values: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([part[name] for part in values]).mean() for name in values[0]}
