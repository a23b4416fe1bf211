"""`autolink detect` and `autolink-transfer` end to end: decode, detect, draw, paint, encode.

Clips are a portrait that turns its head, 256² at 25 frames a second, made here; models are the shipped `faces` and
`faces-transfer` (128², quarter width); all other options are the commands' defaults, so that overlays and previews are
written, and a transfer reads its driver twice. Each row is a process of its own: frames a second from the call to the
finished file, model loading included, and the peak of its memory. *Plain* is the same command with one stage after
another, networks as they were trained, float32.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import itertools
import json
import statistics
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import matplotlib
import numpy as np
import torch
from _measure import in_child, print_table, resident_megabytes, seconds
from PIL import Image

from autolink import model
from autolink.commands import detect
from autolink.devices import computes_bfloat16, pick_device
from autolink.tracking import follow
from autolink.video import write_video
from autolink_apps.demo import HEAD, turning
from autolink_apps.pose_transfer import models, painting

transferring = importlib.import_module("autolink_apps.pose_transfer.transfer")

SIZE, FRAMES, LONG = 256, 250, 6  # a clip of ten seconds, and one of six times as much
COMMANDS = {"detect": 32, "transfer": 16}  # and their usual batch sizes
PLAIN = "plain"
PRECISIONS = ("float32", "bfloat16", PLAIN)


def make_clips(folder: Path) -> None:
    """`portrait.png`, `10.mp4` and `60.mp4`."""
    photo = Image.open(Path(matplotlib.get_data_path()) / "sample_data/grace_hopper.jpg")
    portrait = photo.crop(HEAD).resize((SIZE, SIZE))
    portrait.save(folder / "portrait.png")
    frames = turning(torch.from_numpy(np.array(portrait)).permute(2, 0, 1), FRAMES).permute(0, 2, 3, 1).numpy()
    write_video(folder / "10.mp4", frames, 25)
    write_video(folder / "60.mp4", itertools.chain.from_iterable(itertools.repeat(frames, LONG)), 25)


def use_plain_path() -> None:
    """Exchange this process's fast paths for the plain ones."""

    def in_turn(items: Iterable[object], depth: int = 1) -> Iterator[object]:
        yield from items

    for module in (model, detect, follow, painting, transferring):
        module.ahead = in_turn
    for module in (detect, models):
        module.fold = lambda model: model


def measure(command: str, folder: Path, length: int, batch: int, precision: str, device: str) -> dict[str, object]:
    """One command on one clip: frames a second, megabytes and, of `detect`, the keypoints in pixels."""
    plain = precision == PLAIN
    if plain:
        use_plain_path()
    usual = {"batch_size": batch, "precision": "float32" if plain else precision, "device": device}
    clip, name = folder / f"{length}.mp4", f"{command}-{length}-{batch}-{precision}-{device}"
    if command == "detect":
        options = detect.Options(inputs=(clip,), output=folder / name, **usual)
        action = lambda: detect.detect(options)  # noqa: E731
    else:
        output = folder / f"{name}.mp4"
        options = transferring.Options(src=(folder / "portrait.png",), driver=(clip,), output=output, **usual)
        action = lambda: transferring.transfer(options)  # noqa: E731
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        elapsed = seconds(action)
    result = {"rate": FRAMES * length // 10 / elapsed, "megabytes": resident_megabytes()}
    if device == "cuda":
        result["gpu_megabytes"] = torch.cuda.max_memory_allocated() / 1e6
    if command == "detect":
        result["keypoints"] = np.load(folder / name / "keypoints.npz")["keypoints"].tolist()
    return result


def compare_settings(folder: Path, device: str, repetitions: int) -> None:
    """Batch sizes and precisions against the plain path, alternating."""
    native = computes_bfloat16(torch.device(device))
    large = [64] if device == "cuda" else []
    found: dict[tuple[str, str], np.ndarray] = {}

    def rows() -> Iterator[list[object]]:
        for command, usual in COMMANDS.items():
            cases = [(usual, PLAIN), (usual, "float32")]
            cases += [(batch, "bfloat16") for batch in sorted({1, 8, usual, *large})] if native else [(1, "float32")]
            runs = {case: [] for case in cases}
            for _ in range(repetitions):
                for case in cases:
                    runs[case].append(in_child(__file__, "--measure", command, folder, 10, *case, device))
            plain = best(runs[usual, PLAIN])
            for (batch, precision), measured in runs.items():
                rate = best(measured)
                memory = [f"{max(run['megabytes'] for run in measured):.0f}"]
                if device == "cuda":
                    memory.append(f"{max(run['gpu_megabytes'] for run in measured):.0f}")
                if command == "detect":
                    found[precision] = np.array(measured[0]["keypoints"])
                yield [command, device, precision, batch, f"{rate:.0f}", f"{rate / plain:.2f}×", *memory]

    memory = ["peak MB"] + (["GPU MB"] if device == "cuda" else [])
    print_table(["command", "device", "precision", "batch", "frames/s", "against plain", *memory], rows())
    for precision in [p for p in PRECISIONS if p in found and p != PLAIN]:
        moved = np.linalg.norm(found[precision] - found[PLAIN], axis=-1) * 128 / SIZE
        mean, most = f"{moved.mean():.4f}", f"{moved.max():.4f}"
        print(f"{precision} moves keypoints by {mean} pixels of 128² on average, by {most} at most.\n")


def best(runs: list[dict[str, float]]) -> float:
    return max(run["rate"] for run in runs)


def compare_lengths(folder: Path, device: str, repetitions: int) -> None:
    """Peak memory of a minute against ten seconds."""

    def rows() -> Iterator[list[object]]:
        for command, usual in COMMANDS.items():
            precision = "bfloat16" if computes_bfloat16(torch.device(device)) else "float32"
            short, long = (
                [in_child(__file__, "--measure", command, folder, length, usual, precision, device) for _ in range(n)]
                for length, n in ((10, repetitions), (60, 1))
            )
            memory = [statistics.median(run["megabytes"] for run in runs) for runs in (short, long)]
            rates = [best(runs) for runs in (short, long)]
            yield [
                command,
                device,
                *(f"{rate:.0f}" for rate in rates),
                *(f"{mb:.0f}" for mb in memory),
                f"{memory[1] / memory[0] - 1:+.1%}",
            ]

    header = "command | device | frames/s, 10 s | frames/s, 60 s | peak MB, 10 s | peak MB, 60 s | more for 60 s"
    print_table(header.split(" | "), rows())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", nargs=6, metavar=("COMMAND", "FOLDER", "LENGTH", "BATCH", "PRECISION", "DEVICE"))
    parser.add_argument("--repetitions", type=int, default=1)
    options = parser.parse_args()
    if options.measure:
        command, folder, length, batch, precision, device = options.measure
        print(json.dumps(measure(command, Path(folder), int(length), int(batch), precision, device)))
        return
    with tempfile.TemporaryDirectory() as folder:
        make_clips(Path(folder))
        for device in ["cpu"] + (["cuda"] if pick_device().type == "cuda" else []):
            compare_settings(Path(folder), device, options.repetitions)
            compare_lengths(Path(folder), device, options.repetitions)


if __name__ == "__main__":
    main()
