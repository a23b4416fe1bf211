"""Drawing edges, forward and backward: `thrifty` against the formula (`reference`), in one run, on this machine.

Time is the median of alternating repetitions; memory is the growth of the process's peak in a process of its own.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from autolink import draw_edges

CASES = [(8, 10), (8, 16), (4, 32), (1, 64)]  # batch, keypoints
SIZE, THICKNESS = 128, 1e-3


def make(batch: int, keypoints: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    points = torch.rand(batch, keypoints, 2) * 2 - 1
    weights = torch.rand(keypoints * (keypoints - 1) // 2)
    return points.requires_grad_(), weights.requires_grad_()


def once(engine: str, points: torch.Tensor, weights: torch.Tensor) -> float:
    start = time.perf_counter()
    draw_edges(points, weights, SIZE, THICKNESS, engine).sum().backward()
    return time.perf_counter() - start


def peak() -> float:
    """Peak resident memory of this process in megabytes; Linux only (getrusage would count the parent's too)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def peak_growth(engine: str, batch: int, keypoints: int) -> float:
    """Megabytes by which drawing once raises the peak of a fresh process."""
    command = [sys.executable, __file__, "--memory", engine, str(batch), str(keypoints)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--memory", nargs=3, metavar=("ENGINE", "BATCH", "KEYPOINTS"))
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    if options.memory:
        engine, batch, keypoints = options.memory
        once(engine, *make(1, 2))  # libraries loaded, threads started
        before = peak()
        once(engine, *make(int(batch), int(keypoints)))
        print(peak() - before)
        return

    print("| batch | keypoints | reference s | thrifty s | faster | reference MB | thrifty MB | smaller |")
    print("|---|---|---|---|---|---|---|---|")
    for batch, keypoints in CASES:
        inputs = make(batch, keypoints)
        engines = ("reference", "thrifty")
        times: dict[str, list[float]] = {engine: [] for engine in engines}
        for _ in range(options.repetitions + 1):
            for engine in engines:
                times[engine].append(once(engine, *inputs))
        slow, fast = (statistics.median(times[engine][1:]) for engine in engines)
        large, small = (peak_growth(engine, batch, keypoints) for engine in engines)
        print(
            f"| {batch} | {keypoints} | {slow:.3f} | {fast:.4f} | {slow / fast:.0f}× "
            f"| {large:.0f} | {small:.0f} | {'more than ' if small < 1 else ''}{large / max(small, 1):.0f}× |",
            flush=True,
        )


if __name__ == "__main__":
    main()
