"""All benchmarks: `make bench` prints them and writes them into RESULTS.md, between its two marks."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import torch

from autolink.devices import computes_bfloat16, pick_device

HERE = Path(__file__).parent
RESULTS = HERE / "RESULTS.md"
BEGIN, END = "<!-- make bench writes from here -->\n", "<!-- to here -->\n"
BENCHMARKS = {
    "Edge map, forward + backward, float32": "edge_map.py",
    "Training step of the learner": "learner_step.py",
    "Inference, end to end": "inference.py",
    "GAN step": "gan_step.py",
    "Scale": "scale.py",
}


def machine() -> str:
    """What was measured on, in one line."""
    device = pick_device()
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"{os.cpu_count()} cores of {platform.machine()}"
    units = "with" if computes_bfloat16(device) else "without"
    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    return f"Machine: {name} {units} bf16 units; {versions}; {time.strftime('%Y-%m-%d')}."


def main() -> None:
    start = time.perf_counter()
    parts = [f"{machine()}\n"]
    print(parts[0], flush=True)
    for title, file in BENCHMARKS.items():
        print(f"## {title}\n", flush=True)
        command = [sys.executable, str(HERE / file)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            lines = []
            for line in process.stdout:
                print(line, end="", flush=True)
                lines.append(line)
        if process.returncode:
            raise SystemExit(f"{file} failed; {RESULTS.name} is left as it was")
        parts.append(f"## {title}\n\n{''.join(lines)}")
    parts.append(f"All of it took {(time.perf_counter() - start) / 60:.0f} minutes.\n")
    before, rest = RESULTS.read_text().split(BEGIN)
    after = rest.split(END)[1]
    RESULTS.write_text(f"{before}{BEGIN}\n{chr(10).join(parts)}\n{END}{after}")


if __name__ == "__main__":
    main()
