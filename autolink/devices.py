"""Where to compute, and in which precision: one answer for every command."""

from __future__ import annotations

import torch

from autolink.errors import UserError


def pick_device(wanted: str = "auto") -> torch.device:
    """The device asked for, or the best there is.

    Args:
        wanted: `auto`, `cpu`, `cuda`, `cuda:1`, `mps` …

    Raises:
        UserError: If it is not there.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        wanted = next(device for device, available in there.items() if available)
    kind, _, number = wanted.partition(":")
    beyond = kind == "cuda" and number.isdecimal() and int(number) >= torch.cuda.device_count()
    if not there.get(kind, False) or beyond or (number and not number.isdecimal()):
        raise UserError(f"--device {wanted}: there is none here; --device auto takes what there is")
    return torch.device(wanted)


def computes_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is computed by the device's own units, and so is faster than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.cpu._is_amx_tile_supported()
