"""Where to compute, in which precision, and by how many processes: one answer for every command."""

from __future__ import annotations

import logging
import os

import torch

from autolink.errors import UserError

SHARED_MEMORY = "/dev/shm"
logger = logging.getLogger(__name__)


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
    """Whether bfloat16 is computed by the device's own units, and so is faster than float32.

    Of processors with AMX (Intel's from 2023 on) about five times, with AVX-512's bf16 (AMD's from 2022 on) 1.4 to 1.8
    times.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and (torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


def fitting_workers(wanted: int, batch_bytes: int, prefetched: int = 2) -> int:
    """As many processes that decode images, of those wanted, as shared memory has room for; says so if it has less.

    Batches come from them through shared memory; where that is full, as in containers, the system kills them.

    Args:
        wanted: Processes.
        batch_bytes: Size of a batch.
        prefetched: Batches that each of them makes in advance.
    """
    try:
        memory = os.statvfs(SHARED_MEMORY)
    except (AttributeError, OSError):  # another system
        return wanted
    room = memory.f_bavail * memory.f_frsize
    fitting = min(wanted, room // (batch_bytes * (prefetched + 1)))
    if fitting < wanted:
        logger.warning(
            "%s has %.1f MB, room for %d processes that decode images beside this one, not %d; a container gets more "
            "of it by --shm-size",
            *(SHARED_MEMORY, room / 1e6, fitting, wanted),
        )
    return fitting
