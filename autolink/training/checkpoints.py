"""Averaged weights, and all of a run in one file, from which it goes on exactly."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from autolink.errors import UserError
from autolink.training.options import CHECKPOINT
from autolink.weights import header_part, read_metadata, read_tensors, write_safetensors

Averaged = TypeVar("Averaged", bound=nn.Module)


class Ema(AveragedModel, Generic[Averaged]):
    """Exponential moving average of a model's parameters and buffers; what is saved, sampled and measured.

    Args:
        model: The model to follow, before it is wrapped for several devices.
        decay: Share kept at each step, reached after a ramp (1 + n)/(10 + n) so that early steps are forgotten.
    """

    module: Averaged

    def __init__(self, model: Averaged, decay: float = 0.999) -> None:
        def average(averages: Sequence[Tensor], current: Sequence[Tensor], updates: Tensor | int) -> None:
            count = int(updates)
            keep = min(decay, (1 + count) / (10 + count))
            for mean, value in zip(averages, current):
                if mean.is_floating_point():
                    mean.lerp_(value.to(mean), 1 - keep)
                else:
                    mean.copy_(value)

        super().__init__(model, multi_avg_fn=average, use_buffers=True)
        self.requires_grad_(False)
        self.eval()


def save_checkpoint(
    accelerator: Accelerator,
    output: Path,
    step: int,
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, Optimizer],
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write all it takes to go on into one file, atomically; the main process writes, all wait.

    Args:
        accelerator: The run's accelerator.
        output: Run folder.
        step: Steps done.
        modules: Name → module, wrapped or not.
        optimizers: Name → optimiser.
        extra: Anything else that JSON can hold.
    """
    if accelerator.is_main_process:
        tensors: dict[str, Tensor] = {}
        for name, module in modules.items():
            for key, value in accelerator.unwrap_model(module).state_dict().items():
                tensors[f"module/{name}/{key}"] = value.contiguous()
        for name, optimizer in optimizers.items():
            for parameter, state in optimizer.state_dict()["state"].items():
                for key, value in state.items():
                    tensors[f"optimizer/{name}/{parameter}/{key}"] = value.contiguous()
        scaler = accelerator.scaler.state_dict() if accelerator.scaler is not None else None
        header = {"step": step, "scaler": scaler, "extra": dict(extra or {})}
        write_safetensors(output / CHECKPOINT, tensors, {"run": json.dumps(header)})
    accelerator.wait_for_everyone()


def load_checkpoint(
    accelerator: Accelerator,
    output: Path,
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, Optimizer],
) -> tuple[int, dict[str, Any]]:
    """Restore what `save_checkpoint` wrote into the same modules and optimisers.

    Returns:
        Steps done, and `extra`.

    Raises:
        UserError: If the file is damaged or belongs to a run with other options.
    """
    path = output / CHECKPOINT
    tensors = read_tensors(path)
    header = progress_of(path)

    def under(prefix: str) -> dict[str, Tensor]:
        return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}

    try:
        for name, module in modules.items():
            accelerator.unwrap_model(module).load_state_dict(under(f"module/{name}/"))
        for name, optimizer in optimizers.items():
            state: dict[int, dict[str, Tensor]] = {}
            for key, value in under(f"optimizer/{name}/").items():
                parameter, entry = key.split("/")
                state.setdefault(int(parameter), {})[entry] = value
            optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
            _restore_layout(optimizer)
    except (RuntimeError, ValueError, KeyError) as error:
        raise UserError(
            f"{path} belongs to a run with other options than these; repeat the command that started it with --resume "
            f"({str(error).splitlines()[-1].strip()})"
        ) from error
    if accelerator.scaler is not None and header["scaler"] is not None:
        accelerator.scaler.load_state_dict(header["scaler"])
    return header["step"], header["extra"]


def progress_of(path: Path) -> dict[str, Any]:
    """What the header of a checkpoint holds: `step`, `scaler` and `extra`."""
    header = header_part(path, read_metadata(path), "run")
    if not isinstance(header.get("step"), int) or not {"scaler", "extra"} <= header.keys():
        raise UserError(f"{path}: its header does not say how far the run was; start a new run with another --output")
    return header


def _restore_layout(optimizer: Optimizer) -> None:
    """Give moments their parameter's strides again: fused optimisers walk through memory, not through indices."""
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if value.shape == parameter.shape and value.stride() != parameter.stride():
                state[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
