"""Optimiser steps that are skipped when a loss or a gradient is not finite, by all processes alike."""

from __future__ import annotations

from collections.abc import Mapping

from accelerate import Accelerator
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from autolink.training import WHEN_DIVERGED, Diverged

LIMIT = 20
"""So many skipped steps in a row end a run."""


class FiniteGuard:
    """Takes the steps of one optimiser, except those that would spoil its weights.

    Args:
        accelerator: The run's accelerator, which scales losses in float16.
        optimizer: The prepared optimiser.
        name: What it trains, for the message.
    """

    def __init__(self, accelerator: Accelerator, optimizer: Optimizer, name: str) -> None:
        self.accelerator, self.optimizer, self.name = accelerator, optimizer, name
        self.skipped = 0
        self.in_a_row = 0

    def step(self, loss: Tensor) -> bool:
        """Use the gradients, if they and the loss are finite in every process, and clear them.

        Args:
            loss: The loss that the gradients belong to, a scalar.

        Returns:
            Whether the weights were updated.

        Raises:
            Diverged: After 20 skipped steps in a row.
        """
        self.accelerator.unscale_gradients(self.optimizer)
        groups = self.optimizer.param_groups
        gradients = [p.grad for group in groups for p in group["params"] if p.grad is not None]
        bad = ~(loss.isfinite() & get_total_norm(gradients).isfinite())
        skip = self.accelerator.reduce(bad.float(), reduction="sum").item() > 0
        if not skip:
            self.optimizer.step()
        elif self.accelerator.scaler is not None:
            self.accelerator.scaler.update()  # gradients that overflowed in float16 ask for a smaller scale
        self.optimizer.zero_grad()
        self.skipped += skip
        self.in_a_row = self.in_a_row + 1 if skip else 0
        if self.in_a_row == LIMIT:
            raise Diverged(
                f"the {self.name}'s loss or gradients were not finite in {LIMIT} steps in a row; {WHEN_DIVERGED}"
            )
        return not skip

    def state(self) -> dict[str, int]:
        """What a checkpoint must hold."""
        return {"skipped": self.skipped, "in_a_row": self.in_a_row}

    def restore(self, state: Mapping[str, int]) -> None:
        """Go on from `state()`."""
        self.skipped, self.in_a_row = state["skipped"], state["in_a_row"]
