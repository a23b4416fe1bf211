"""The first step of a training run, read from its checkpoint and compared with gradients that the test computes.

After one step from nothing Adam's moments are (1 − β₁)·g and (1 − β₂)·g², so a checkpoint tells the gradient g.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from autolink.weights import read_tensors


def assert_first_step(
    run: Path,
    network: str,
    optimizer: str,
    module: nn.Module,
    loss: Tensor,
    betas: tuple[float, float],
    rate: Callable[[str], float],
    *,
    last: str = "nothing",
    decay: float = 0.0,
) -> None:
    """Compare every parameter's gradient, its two moments, and the step that they led to.

    Args:
        run: The run's folder, with the checkpoint of step 1.
        network: The network's name in the checkpoint.
        optimizer: The optimiser's name in the checkpoint.
        module: The network as it was before the step.
        loss: What should have been differentiated, computed with it.
        betas: Adam's.
        rate: The learning rate of a parameter of this name.
        last: What the names of those parameters begin with that the optimiser counts last.
        decay: AdamW's weight decay.
    """
    saved = read_tensors(run / "checkpoint.safetensors")
    parameters = sorted(module.named_parameters(), key=lambda named: named[0].startswith(last))
    gradients = torch.autograd.grad(loss, [parameter for _, parameter in parameters], retain_graph=True)
    least = 1e-5 * max(gradient.abs().max().item() for gradient in gradients)  # some are zero, but for rounding
    for number, ((name, before), gradient) in enumerate(zip(parameters, gradients)):
        after = saved[f"module/{network}/{name}"]
        first, second = (saved[f"optimizer/{optimizer}/{number}/{of}"] for of in ("exp_avg", "exp_avg_sq"))
        step = first / (1 - betas[0])
        error, size = (x.square().mean().sqrt().item() for x in (step - gradient, gradient))
        assert error < 0.02 * size + least, f"{name}: a gradient of {size:.2e} is {error:.2e} off"
        torch.testing.assert_close(second, (1 - betas[1]) * step**2, rtol=1e-4, atol=1e-15)
        expected = before.detach() * (1 - rate(name) * decay) - rate(name) * step / (step.abs() + 1e-8)
        torch.testing.assert_close(after, expected, rtol=1e-6, atol=1e-3 * rate(name))
