"""Engines that draw edge maps: one meaning (`reference`), faster ways to the same numbers (`thrifty`, `triton`).

All take keypoints (B, K, 2), edge weights (E,) and σ² as a scalar or (E,), and return (B, 1, H, W).
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
from collections.abc import Callable

import torch
from torch import Tensor

from autolink.rasterize.reference import draw_edges_reference
from autolink.rasterize.thrifty import draw_edges_thrifty

__all__ = ["draw_edges_reference", "draw_edges_thrifty", "find_engine"]

Engine = Callable[[Tensor, Tensor, tuple[int, int], float | Tensor], Tensor]


def find_engine(name: str, device: torch.device) -> Engine:
    """The function that draws as `auto`, `thrifty`, `triton` or `reference` says, for keypoints on `device`.

    `auto` is `triton` on a GPU where Triton can compile (package and C compiler at hand, compute capability 7.0 or
    more), and `thrifty` elsewhere.

    Raises:
        ValueError: If there is no such engine, or it needs a package that is not installed.
    """
    if name == "auto":
        name = "triton" if _triton_compiles_for(device) else "thrifty"
    if name == "triton":
        if importlib.util.find_spec("triton") is None:
            raise ValueError("engine 'triton' needs the package triton, which is not installed: take 'thrifty'")
        from autolink.rasterize.triton import draw_edges_triton

        return draw_edges_triton
    engines = {"thrifty": draw_edges_thrifty, "reference": draw_edges_reference}
    if name not in engines:
        raise ValueError(f"engine is {name!r}; expected 'auto', 'thrifty', 'triton' or 'reference'")
    return engines[name]


@functools.cache
def _triton_compiles_for(device: torch.device) -> bool:
    if device.type != "cuda" or importlib.util.find_spec("triton") is None:
        return False
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    return compiler is not None and torch.cuda.get_device_capability(device) >= (7, 0)
