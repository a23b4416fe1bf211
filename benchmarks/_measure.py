"""What the benchmarks share: processes of their own, peaks of memory, tables."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch


def in_child(script: str, *arguments: object) -> Any:
    """What a benchmark's script prints as JSON on its last line, run in a process of its own."""
    command = [sys.executable, script, *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{result.stderr}")
    return json.loads(result.stdout.splitlines()[-1])


def peak_megabytes() -> float:
    """Peak memory of this process: of the GPU if it used one, else resident (Linux only)."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 1e6
    return resident_megabytes()


def resident_megabytes() -> float:
    """Peak resident memory of this process (Linux only)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


def seconds(action: Callable[[], object]) -> float:
    """How long an action takes, with the GPU's work waited for."""
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    wait()
    start = time.perf_counter()
    action()
    wait()
    return time.perf_counter() - start


def matrix_peak(device: torch.device, dtype: torch.dtype, side: int = 2048) -> float:
    """Best rate of a square matrix product in FLOP/s: what the processor can do, measured."""
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2 * side**3 / min(seconds(lambda: a @ b) for _ in range(10))


def print_table(header: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """A Markdown table, each row as soon as it is known."""
    header = list(header)
    print(f"| {' | '.join(header)} |\n|{'---|' * len(header)}")
    for row in rows:
        print(f"| {' | '.join(map(str, row))} |", flush=True)
    print()
