"""The tables of the paper, in full: `autolink reproduce TABLE --dry-run` says which commands, which data, how long.

Without --dry-run the commands run, one after the other; those whose result is there are left out. docs/reproduction.md
says what has been run.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import tyro

from autolink.data.benchmarks import BENCHMARKS, GENERAL_THICKNESS
from autolink.errors import UserError, command
from autolink.ranges import Checked, Count

GFLOP_AN_IMAGE = 229
"""Of a training step at the paper's size (width 1, 128², VGG16 at 224²), see benchmarks/RESULTS.md."""
IMAGES = 20_000 * 64
"""Of one training of the paper."""
SHARE_OF_PEAK = {"cpu": 0.44, "cuda": 0.22}
"""Of a matrix product's speed that a step reaches: measured on a processor, and on a GPU what the paper's three hours
on one V100 (125 TFLOP/s) amount to."""
H100 = 989e12
"""FLOP/s of one H100 in bf16, by its data sheet."""


class Row(NamedTuple):
    """Trainings of one line of Tables 1 to 3."""

    data: str
    keypoints: int


TABLES: dict[str, tuple[Row, ...]] = {
    "1": (Row("celeba-wild", 4), Row("celeba-wild", 8), Row("celeba-aligned", 10)),
    "2": (Row("human36m", 16), Row("deepfashion", 16), Row("taichi", 10)),
    "3": (
        Row("cub-aligned", 10),
        Row("cub-001", 4),
        Row("cub-002", 4),
        Row("cub-003", 4),
        Row("cub-all", 4),
    ),
}
"""Landmarks of faces, of human bodies, and of birds."""
SWEEPS = {"4": ("table4", 6), "5": ("table5", 65), "6": ("table6", 45)}
"""Sub-commands of `autolink sweep`, and how many variants each trains."""


@dataclass
class Options(Checked):
    """Reproduce a table of the paper."""

    table: Annotated[Literal["1", "2", "3", "4", "5", "6"], tyro.conf.Positional]
    """1 faces, 2 bodies, 3 birds; 4 ways to draw edges, 5 keypoints and thickness, 6 masking."""
    output: Path = Path("runs/reproduce")
    """Folder of its runs."""
    data: tuple[str, ...] = ("celeba-wild",)
    """Data sets of the ablations, Tables 4 to 6; Tables 1 to 3 have their own."""
    seeds: Count = 10
    """Runs of each line or variant; the paper reports mean and deviation of ten."""
    thickness: Literal["general", "tuned"] = "general"
    """σ² of Tables 1 to 3: 5e-5 for all, or Table 5's best for the data and K."""
    dry_run: bool = False
    """Print commands, data and time, and do nothing."""


def commands_for(options: Options) -> list[tuple[list[str], Path]]:
    """The commands of a table, as words, each with the file or folder that is there when it has been done."""
    folder = options.output / f"table{options.table}"
    if options.table in SWEEPS:
        made = []
        for data in options.data:
            output = folder / data
            words = ["autolink", "sweep", SWEEPS[options.table][0], "--data", data, "--seeds", str(options.seeds)]
            made.append(
                ([*words, *_paper_size(), "--output", str(output)], Path())
            )  # a sweep knows itself what is done
        return made
    made = []
    for data, keypoints in TABLES[options.table]:
        thickness = GENERAL_THICKNESS if options.thickness == "general" else BENCHMARKS[data].thickness(keypoints)
        runs = [folder / f"{data}-k{keypoints}-{options.thickness}" / f"seed{seed}" for seed in range(options.seeds)]
        for seed, run in enumerate(runs):
            words = ["autolink", "train", "--data", data, "--keypoints", str(keypoints)]
            words += ["--thickness", f"{thickness:g}"]
            words += [*_paper_size(), "--seed", str(seed), "--output", str(run)]
            made.append((words, run / "model.safetensors"))
        judged = ["autolink", "evaluate", "--data", data, "--runs", *map(str, runs)]
        made.append((judged, Path()))
    return made


def _paper_size() -> list[str]:
    size = {"steps": "20000", "batch-size": "64", "image-size": "128", "width": "1", "learning-rate": "1e-4"}
    size |= {"perceptual": "vgg16", "detector": "paper"}
    return [word for name, value in size.items() for word in (f"--{name}", value)]


def plan(options: Options) -> str:
    """What a table takes, as text."""
    own = (row.data for row in TABLES.get(options.table, ()))
    names = list(dict.fromkeys(options.data if options.table in SWEEPS else own))
    lines = [" ".join(map(shlex.quote, words)) for words, _ in commands_for(options)]
    lines += ["", "data (below --data-root or $AUTOLINK_DATA):"]
    for name in names:
        about = BENCHMARKS.get(name)
        lines.append(f"  {name}" + (f": {about.source}; terms: {about.terms}" if about else ""))
    trainings = options.seeds * (
        SWEEPS[options.table][1] * len(options.data) if options.table in SWEEPS else len(TABLES[options.table])
    )
    here, there = speed(), H100 * SHARE_OF_PEAK["cuda"]
    lines += [
        "",
        f"{trainings} trainings of 20,000 steps of 64 images, {GFLOP_AN_IMAGE} GFLOP an image, estimated:",
        f"  this machine: {hours(trainings, here):,.0f} hours, at {here / 1e12:.2f} TFLOP/s, as busy as it is now",
        f"  one H100: {hours(trainings, there):,.1f} hours, used as well as the paper's V100 was",
    ]
    return "\n".join(lines)


def hours(trainings: int, flops: float) -> float:
    """How long trainings take at some FLOP/s."""
    return trainings * IMAGES * GFLOP_AN_IMAGE * 1e9 / flops / 3600


def speed() -> float:
    """FLOP/s of training on this machine, from those of a matrix product."""
    import torch

    from autolink.devices import computes_bfloat16, pick_device

    device = pick_device("auto")
    kind = torch.bfloat16 if computes_bfloat16(device) else torch.float32
    matrix = torch.randn(2048, 2048, device=device).to(kind)
    best = float("inf")
    for _ in range(6):
        if device.type == "cuda":
            torch.cuda.synchronize()
        begun = time.perf_counter()
        product = matrix @ matrix
        product[0, 0].item()  # waits for it
        best = min(best, time.perf_counter() - begun)
    return 2 * 2048**3 / best * SHARE_OF_PEAK.get(device.type, SHARE_OF_PEAK["cuda"])


def reproduce(options: Options) -> None:
    """Run the commands of a table, or print what it takes.

    Raises:
        UserError: If one of them fails.
    """
    if options.dry_run:
        print(plan(options))
        return
    for words, done in commands_for(options):
        if done != Path() and done.exists():
            continue
        print(f"$ {shlex.join(words)}", flush=True)
        begun = done.name == "model.safetensors" and (done.parent / "checkpoint.safetensors").exists()
        resumes = ["--resume"] if begun else []
        if subprocess.run([Path(sys.executable).with_name(words[0]), *words[1:], *resumes]).returncode:
            raise UserError(f"table {options.table} stopped: {shlex.join(words)} failed; the same command goes on")


@command
def main() -> None:
    """Entry point of `autolink reproduce`."""
    reproduce(tyro.cli(Options, description=__doc__))
