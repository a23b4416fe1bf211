"""All benchmarks, as the tables of RESULTS.md: `make bench`."""

from __future__ import annotations

import platform
import runpy
import sys
from pathlib import Path

import torch

BENCHMARKS = {"Edge map, forward + backward, 128², float32": "edge_map.py"}


def main() -> None:
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.processor() or platform.machine()}")
    for title, file in BENCHMARKS.items():
        print(f"\n## {title}\n", flush=True)
        sys.argv = [file]
        runpy.run_path(str(Path(__file__).parent / file), run_name="__main__")


if __name__ == "__main__":
    main()
