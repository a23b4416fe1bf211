"""Train variants and compare them: `autolink sweep edges --data NAME_OR_DIR --output DIR`, the ablations of Tables 4–6.

Every option of `autolink train` is one of a sweep too, and holds for all its runs but for what is varied. A sweep that
was interrupted goes on when the same command is given again: finished runs are read, a half one is resumed. Several
processes may share a sweep by taking different variants with `--only`; the last one to finish writes the whole table.

In the output folder: `VARIANT/seed-N` (run folders), `results.csv` (a line a run), `table.md`, `plot.png` (Figure 5),
`samples.png` (the graphs of all variants on the same images, Figures 6 and 7; sweeps of one axis).
"""

from __future__ import annotations

import csv
import dataclasses
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import tyro
from torch import Tensor

from autolink import train
from autolink.commands import evaluate
from autolink.configuration import options_of
from autolink.data import open_samples
from autolink.errors import Stopped, UserError, command
from autolink.graph import detect_spread
from autolink.learner.options import FOR_PROCESSOR, with_sizes
from autolink.model import load
from autolink.outputs import read_json, refuse_inputs, replacing, write_json, write_text
from autolink.pixels import unit_from_bytes
from autolink.plots import is_number, samples_figure, save_figure, sweep_figure
from autolink.ranges import Count
from autolink.training import (
    CHECKPOINT,
    MAY_CHANGE,
    Diverged,
    begun,
    changed,
    logger,
    note_of,
    on_processor,
    say_what_was_decided,
)
from autolink.visualize import image_grid, overlay


class Axis(NamedTuple):
    """What a sweep varies."""

    name: str
    variants: Mapping[str, Mapping[str, Any]]
    """Label → the options of `autolink train` that it sets."""


class Cell(NamedTuple):
    """A row and a column of the table; the column is "" where the sweep has one axis."""

    row: str
    column: str


def _values(name: str, option: str, values: Sequence[float]) -> Axis:
    return Axis(name, {f"{value:g}": {option: value} for value in values})


EDGES = Axis(
    "edge map",
    {
        "original": {},
        "fixed α": {"fixed_alpha": True},
        "shared learnable thickness": {"learned_thickness": "shared"},
        "independent learnable thickness": {"learned_thickness": "independent"},
        "edge-specific channels": {"drawing": "edge-channels"},
        "keypoints without edges": {"drawing": "keypoints"},
    },
)
KEYPOINTS = _values("K", "keypoints", (2, 4, 8, 16, 32))
THICKNESS = _values(
    "σ²",
    "thickness",
    (1e-5, 2.5e-5, 5e-5, 7.5e-5, 1e-4, 2.5e-4, 5e-4, 7.5e-4, 1e-3, 2.5e-3, 5e-3, 7.5e-3, 1e-2),
)
MASK_RATIO = _values("masked share", "mask_ratio", (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9))
MASK_CELLS = _values("cells a side", "mask_cells", (4, 8, 16, 32, 64))
LOSS = Axis("distance of features", {"L1": {"loss_norm": "l1"}, "L2": {"loss_norm": "l2"}})
OPTIMIZER = Axis("optimiser", {"Adam": {"optimizer": "adam"}, "AdamW": {"optimizer": "adamw"}})

Name = Literal["edges", "keypoints", "thickness", "masking", "cells", "loss", "optimizer", "table4", "table5", "table6"]
SWEEPS: dict[str, tuple[Axis, ...]] = {
    "edges": (EDGES,),
    "keypoints": (KEYPOINTS,),
    "thickness": (THICKNESS,),
    "masking": (MASK_RATIO,),
    "cells": (MASK_CELLS,),
    "loss": (LOSS,),
    "optimizer": (OPTIMIZER,),
    "table4": (EDGES,),
    "table5": (THICKNESS, KEYPOINTS),
    "table6": (MASK_RATIO, MASK_CELLS),
}
TOPOLOGY = "links_found_percent"
"""Shown beside the error where the data's links are known."""
OWN, ONE_RUNS = {"seed", "seeds", "only"}, {"steps", "mixed_precision"}
"""Options in which commands that share a sweep may differ, and those that may change in one run but not in a sweep."""
SHOWN = 8
"""Images in a row of `samples.png`."""
SAMPLE_SIZE = 128
"""Side of each of them in pixels."""


@dataclass(kw_only=True)
class Options(train.Options):
    """Train variants of AutoLink over seeds, evaluate each, and write a table and a plot."""

    sweep: Annotated[Name, tyro.conf.Positional]
    """What to vary; table4 is edges, table5 thickness × keypoints, table6 masking × cells."""
    output: Path = Path("runs/sweep")
    """Folder of the sweep."""
    seeds: Count = 1
    """Runs of each variant, with the seeds --seed, --seed + 1, … (the paper takes ten)."""
    only: tuple[str, ...] = ()
    """Labels of the variants to train, such as 8 16 for `keypoints`; default: all."""
    resume: tyro.conf.Suppress[bool] = False


def sweep(options: Options) -> Path:
    """Train what is missing, evaluate it, and write table and plots.

    Returns:
        The table, `table.md` in the sweep's folder.

    Raises:
        UserError: If data or options cannot be used, or the folder holds another sweep.
    """
    asked, options = options, with_sizes(options)
    if on_processor():
        say_what_was_decided(asked, options, FOR_PROCESSOR)
    axes = SWEEPS[options.sweep]
    selected = _selected(axes, options.only)
    if open_samples(options.data, options.image_size, "val", options.data_root).landmark_count == 0:
        raise UserError(f"{options.data} has no landmarks to compare variants by; give a set that has")
    _claim(options)
    todo = [(cell, seed) for seed in range(options.seed, options.seed + options.seeds) for cell in selected]
    for number, (cell, seed) in enumerate(todo):
        logger.warning("run %d of %d: %s, seed %d", number + 1, len(todo), _title(axes, cell), seed)
        _run(options, cell, seed)
    return report(options)


def _selected(axes: Sequence[Axis], only: Sequence[str]) -> list[Cell]:
    """The cells whose labels are among `only`; an axis of which no label is named is taken whole."""
    only = [f"{float(label):g}" if is_number(label) else label for label in only]  # 1e-4 and 0.0001 are the same
    known = [label for axis in axes for label in axis.variants]
    unknown = [label for label in only if label not in known]
    if unknown:
        raise UserError(f"--only {unknown[0]}: no such variant; the sweep has {', '.join(known)}")
    chosen = [[label for label in axis.variants if label in only] or list(axis.variants) for axis in axes]
    return [Cell(row, column) for row in chosen[0] for column in (chosen[1] if len(axes) > 1 else [""])]


def _claim(options: Options) -> None:
    """Note what the sweep is in its folder, or refuse a folder that holds another."""
    about = {name: value for name, value in note_of(options).items() if name not in OWN}
    path = options.output / "sweep.json"
    other = changed(begun(path), options, about, MAY_CHANGE.keys() - ONE_RUNS) if path.is_file() else None
    if other is not None:
        option, was, now = other
        raise UserError(
            f"{options.output} holds a sweep with {option} {was}, not {now}; repeat its options to go on, or name "
            "another --output"
        )
    refuse_inputs([options.output], [options.data])
    write_json(path, about)


def _run(options: Options, cell: Cell, seed: int) -> None:
    """Train and evaluate one variant, as far as that is not done; the outcome is `result.json` in its folder."""
    axes = SWEEPS[options.sweep]
    folder = _folder(options.output, cell, seed)
    if (folder / "result.json").is_file():
        return
    settings = {field.name: getattr(options, field.name) for field in dataclasses.fields(train.Options)}
    for axis, label in zip(axes, cell):
        settings.update(axis.variants[label])
    settings.update(seed=seed, output=folder, resume=(folder / CHECKPOINT).is_file())
    try:
        model = train.train(train.Options(**settings))
        result = evaluate.evaluate(evaluate.Options(data=options.data, model=str(model), data_root=options.data_root))
    except Stopped as stopped:
        stopped.again = "the same command"
        raise
    except Diverged as error:
        result = {"diverged": str(error)}
    write_json(folder / "result.json", result)


def _folder(output: Path, cell: Cell, seed: int) -> Path:
    """The run folder of a variant: its labels, without what is awkward in a path."""
    return output / re.sub(r"[^\w.-]+", "-", "_".join(filter(None, cell))) / f"seed-{seed}"


def _title(axes: Sequence[Axis], cell: Cell) -> str:
    return ", ".join(f"{axis.name} {label}" for axis, label in zip(axes, cell))


def report(options: Options) -> Path:
    """Write `results.csv`, `table.md`, `plot.png` and `samples.png` from all results in a sweep's folder.

    Returns:
        The table.

    Raises:
        UserError: If no run of it came to an end without diverging.
    """
    output, axes = options.output, SWEEPS[options.sweep]
    results = _results(output, axes)
    finished = [result for result in results if "diverged" not in result]
    if not finished:
        raise UserError(f"{output}: no run has a result; every one diverged, take a larger --thickness")
    published = finished[0]["published"]
    metrics = [metric for metric in (published, TOPOLOGY) if metric in finished[0]]
    for result in results:
        result.update({metric: result.get(metric) for metric in metrics})
    keys = list(dict.fromkeys(key for result in finished for key in result))
    with replacing(output / "results.csv") as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*keys, "diverged"])
        writer.writeheader()
        writer.writerows(results)
    titles = {metric: metric.replace("_", " ") for metric in metrics}
    save_figure(sweep_figure(results, titles), output / "plot.png")
    if len(axes) == 1:
        save_figure(samples_figure(_samples(options, finished)), output / "samples.png")
    table = output / "table.md"
    write_text(table, "\n\n".join(_table(axes, results, metric, titles[metric]) for metric in metrics) + "\n")
    return table


def _samples(options: Options, finished: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """The graph of each variant's first finished seed on the same held-out images: variant → (3, H, W) uint8."""
    data = open_samples(options.data, SAMPLE_SIZE, "val", options.data_root)
    strips: dict[str, Tensor] = {}
    for result in finished:
        if result["row"] not in strips:
            model = load(_folder(options.output, Cell(result["row"], ""), result["seed"]))
            images, keypoints, _ = detect_spread(model, data, SHOWN)
            drawn = overlay(unit_from_bytes(images), keypoints, model.edge_weights)
            strips[result["row"]] = image_grid(drawn, columns=SHOWN)
    return strips


def _results(output: Path, axes: Sequence[Axis]) -> list[dict[str, Any]]:
    """One flat record for each result on disk, in the order of the axes and seeds."""
    names = [axis.name for axis in axes] + [""]
    found = []
    for cell in _selected(axes, ()):
        seeds = sorted(int(path.parent.name[5:]) for path in _folder(output, cell, 0).parent.glob("seed-*/result.json"))
        for seed in seeds:
            result = read_json(_folder(output, cell, seed) / "result.json")
            place = {"row_axis": names[0], "row": cell.row, "column_axis": names[1], "column": cell.column}
            found.append({**place, "seed": seed, **result})
    return found


def _table(axes: Sequence[Axis], results: Sequence[Mapping[str, Any]], metric: str, title: str) -> str:
    """A table in Markdown: mean ± standard deviation over seeds, variants of the first axis as rows."""
    rows = list(dict.fromkeys(result["row"] for result in results))
    columns = list(dict.fromkeys(result["column"] for result in results))
    heads = [f"{axes[1].name} = {column}" for column in columns] if len(axes) > 1 else [title]
    lines = [f"| {axes[0].name} | {' | '.join(heads)} |", "|---" * (len(columns) + 1) + "|"]
    for row in rows:
        cells = [
            _summary([r[metric] for r in results if (r["row"], r["column"]) == (row, column)]) for column in columns
        ]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    caption = [] if len(axes) == 1 else [title + ":", ""]
    return "\n".join([*caption, *lines])


def _summary(values: Sequence[float | None]) -> str:
    """`5.24 ± 0.29 (3)` of three runs; runs that diverged are counted."""
    numbers = [value for value in values if value is not None]
    diverged = len(values) - len(numbers)
    text = f"{statistics.mean(numbers):.2f}" if numbers else ""
    if len(numbers) > 1:
        text += f" ± {statistics.stdev(numbers):.2f} ({len(numbers)})"
    return (text + (f" {diverged} diverged" if diverged else "")).strip() or "–"


@command
def main() -> None:
    """Entry point of `autolink sweep`."""
    print(sweep(options_of(Options)).read_text(encoding="utf-8"), end="")
