"""How the cost of learning grows: keypoints, image size, batch, workers, processes. Tables, and `scale.png`."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from _measure import in_child, peak_megabytes, print_table, seconds
from accelerate import Accelerator
from matplotlib.figure import Figure
from PIL import Image
from torchvision import models

from autolink import draw_edges, features
from autolink.data import open_data
from autolink.devices import computes_bfloat16, pick_device
from autolink.losses import PerceptualLoss
from autolink.masking import patch_mask
from autolink.model import AutoLink, AutoLinkConfig
from autolink.training import RunOptions, endless_loader, to_network

PLOT = Path(__file__).parent / "scale.png"
KEYPOINTS, SIZE, BATCH = (8, 16, 32, 64), (64, 128, 256), (8, 16, 32)
BASE = {"keypoints": 10, "size": 128, "batch": 16}
STEPS = 3


def measure_step(keypoints: int, size: int, batch: int) -> dict[str, float]:
    """Seconds of a training step, of which drawing, at quarter width with SqueezeNet features; peak in megabytes.

    The batch is shared by the processes of the launcher, if there is one.
    """
    accelerator = Accelerator(mixed_precision="bf16" if computes_bfloat16(pick_device()) else "no")
    device, share = accelerator.device, batch // accelerator.num_processes
    torch.manual_seed(0)
    features._load_features = lambda *_: models.squeezenet1_1().features.state_dict()  # speed needs no training
    perceptual = PerceptualLoss("squeezenet").to(device)
    model = AutoLink(AutoLinkConfig(keypoints, 5e-4, size, width=0.25)).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), 1e-4, fused=True)
    model, optimizer = accelerator.prepare(model, optimizer)
    images = to_network(torch.randint(256, (share, 3, size, size), dtype=torch.uint8), device)
    mask = patch_mask(share, size, device=device)
    points = (torch.rand(share, keypoints, 2, device=device) * 2 - 1).requires_grad_()
    weights = torch.rand(keypoints * (keypoints - 1) // 2, device=device, requires_grad=True)

    def step() -> None:
        with accelerator.autocast():
            loss = perceptual(model(images, mask).images, images)
        optimizer.zero_grad()
        accelerator.backward(loss)
        optimizer.step()

    times = [seconds(step) for _ in range(STEPS + 1)]
    drawing = [seconds(lambda: draw_edges(points, weights, size, 5e-4).sum().backward()) for _ in range(STEPS + 1)]
    found = {"seconds": min(times[1:]), "drawing": min(drawing[1:]), "megabytes": peak_megabytes()}
    return {**found, "processes": accelerator.num_processes, "main": accelerator.is_main_process}


def launched(processes: int) -> dict[str, float]:
    """`measure_step` on the base case in one or more processes, with all cores shared by them."""
    threads = str(max(1, (os.cpu_count() or 1) // processes))
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={processes}", "--master_port=29577"]
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "ACCELERATE_USE_CPU": str(pick_device().type == "cpu")}
    arguments = ["--step", *map(str, BASE.values())]
    run = subprocess.run([*command, __file__, *arguments], env=environment, capture_output=True, text=True)
    answers = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
    found = next((answer for answer in answers if answer["main"]), None)
    if found is None or found["processes"] != processes:
        raise RuntimeError(f"{processes} processes did not run:\n{run.stderr}")
    return found


def loading(workers: int, folder: Path) -> float:
    """Images a second that come out of the loader, JPEG at 256² to 128², uint8."""
    data = open_data(str(folder), 128)
    options = RunOptions(data=str(folder), output=folder, batch_size=32, workers=workers)
    batches = endless_loader(data, options, Accelerator(cpu=True), 0)
    next(batches)
    start, count = time.perf_counter(), 12
    for _ in range(count):
        next(batches)
    return count * options.batch_size / (time.perf_counter() - start)


def steps_table() -> dict[str, list[tuple[int, dict[str, float]]]]:
    """Print how a step grows with each quantity, the others at `BASE`, and return the figures."""
    found: dict[str, list[tuple[int, dict[str, float]]]] = {}

    def rows() -> list[tuple[object, ...]]:
        for name, values in (("keypoints", KEYPOINTS), ("size", SIZE), ("batch", BATCH)):
            for value in values:
                case = {**BASE, name: value}
                step = in_child(__file__, "--step", *case.values())
                found.setdefault(name, []).append((value, step))
                per_image = step["seconds"] / case["batch"] * 1e3
                share = step["drawing"] / step["seconds"]
                label = f"{case['keypoints']} | {case['size']}² | {case['batch']}"
                yield label, f"{step['seconds']:.2f}", f"{per_image:.0f}", f"{share:.1%}", f"{step['megabytes']:.0f}"

    print_table(["keypoints", "image", "batch", "s/step", "ms/image", "of it drawing", "peak MB"], rows())
    return found


def processes_table() -> None:
    """Print one process against two that share the machine and the batch."""
    alone = launched(1)

    def rows() -> list[tuple[object, ...]]:
        for processes in (1, 2):
            step = alone if processes == 1 else launched(processes)
            speed = alone["seconds"] / step["seconds"]
            yield processes, f"{step['seconds']:.2f}", f"{BASE['batch'] / step['seconds']:.1f}", f"{speed:.2f}×"

    print_table(["processes", "s/step", "images/s", "speed"], rows())


def workers_table() -> None:
    """Print how fast images are decoded."""
    with tempfile.TemporaryDirectory() as folder:
        figures = open_data("synthetic", 256)
        for number in range(200):
            Image.fromarray(figures[number].image.permute(1, 2, 0).numpy()).save(Path(folder) / f"{number}.jpg")
        rows = [(workers, f"{loading(workers, Path(folder)):.0f}") for workers in (0, 1, 2)]
    print_table(["workers", "images/s"], rows)


def plot(found: dict[str, list[tuple[int, dict[str, float]]]]) -> None:
    """Milliseconds an image and the peak of memory against each quantity."""
    figure = Figure(figsize=(10, 3), layout="constrained")
    for axes, (name, points) in zip(figure.subplots(1, len(found)), found.items()):
        values = [value for value, _ in points]
        batches = [value if name == "batch" else BASE["batch"] for value in values]
        axes.plot(values, [1e3 * s["seconds"] / b for (_, s), b in zip(points, batches)], "o-", label="step")
        axes.plot(values, [1e3 * s["drawing"] / b for (_, s), b in zip(points, batches)], "s--", label="of it drawing")
        axes.set(xlabel=name, ylabel="ms an image", xscale="log", ylim=0, xticks=values, xticklabels=values)
        axes.minorticks_off()
    axes.legend()
    figure.savefig(PLOT, dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--step", nargs=3, type=int, metavar=("KEYPOINTS", "SIZE", "BATCH"))
    options = parser.parse_args()
    if options.step:
        print(json.dumps(measure_step(*options.step)))
        return
    print(f"A training step at quarter width; base case {BASE}, one quantity changed at a time:\n")
    found = steps_table()
    plot(found)
    print(f"![Cost of a step against keypoints, image size and batch]({PLOT.name})\n")
    print("Processes that share one machine and a batch of 16 (base case):\n")
    processes_table()
    print("Decoding, JPEG of 256² to 128²:\n")
    workers_table()


if __name__ == "__main__":
    main()
