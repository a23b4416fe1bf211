"""What an evaluation leaves: a table for a reader, numbers for a program, a csv of every clip, and pictures.

The output folder holds `report.json`, `tables.md`, and for each protocol `NAME.csv` and `NAME.png`, a clip a line:
source, then what was judged, at the middle of the clip.
"""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from autolink.outputs import replacing, write_json, write_text
from autolink.visualize import image_grid, save_png

SHOWN = 8
"""Clips in a picture."""

COLUMNS = {
    "l1": ("L1 ↓", 1),
    "psnr": ("PSNR, dB ↑", 1),
    "perceptual": ("perceptual ↓", 1),
    "keypoints": ("keypoints, % ↓", 100),
    "landmarks": ("landmarks, % ↓", 100),
    "looks": ("looks ↓", 1),
    "sharpness": ("sharpness, % of the truth", 100),
    "flicker": ("flicker", 1),
    "background": ("background ↓", 1),
    "correlation": ("motion ↑", 1),
    "looks_from_source": ("looks from source ↓", 1),
    "looks_from_driver": ("looks from driver", 1),
    "closer_to_source": ("closer to source, % ↑", 100),
}
"""How a number is called in tables, and by what it is multiplied there."""


class Row(NamedTuple):
    """One clip."""

    clip: str
    frames: int
    """That were judged."""
    scores: dict[str, dict[str, float]]
    """Numbers by name, by what was judged."""
    person: str = ""
    """Who it shows."""


class Report:
    """Collects rows and pictures, a clip at a time.

    Args:
        output: Folder to write, or None.
    """

    def __init__(self, output: Path | None) -> None:
        self.output = output
        self.rows: dict[str, list[Row]] = {}
        self.pictures: dict[str, list[Tensor]] = {}

    def add(self, protocol: str, row: Row, source: Tensor, videos: Mapping[str, Tensor]) -> None:
        """Take up the scores of a clip; of its source (3, S, S) and videos (T, 3, S, S), what is shown."""
        self.rows.setdefault(protocol, []).append(row)
        shown = self.pictures.setdefault(protocol, [])
        if self.output is not None and len(self.rows[protocol]) <= SHOWN:
            shown += [source, *(video[len(video) // 2] for video in videos.values())]

    def finish(self, about: dict[str, Any]) -> dict[str, Any]:
        """Print the tables on stderr, write the folder, and return all as one object for JSON."""
        report, tables = dict(about), []
        for protocol, rows in self.rows.items():
            means = mean_scores(rows)
            frames = sum(row.frames for row in rows)
            scores = {name: {key: _plain(value) for key, value in of.items()} for name, of in means.items()}
            report[protocol] = {"clips": len(rows), "frames": frames, "scores": scores}
            tables.append(f"{protocol}: {len(rows)} clips, {frames} frames\n\n{table(means)}")
            if "l1" in next(iter(means.values())):  # there is a truth
                tables.append(f"by person:\n\n{table_of_people(rows)}")
        text = f"{about['model']} on {about['data']}, perceptual: {about['perceptual']}\n\n" + "\n\n".join(tables)
        print(f"\n{text}", file=sys.stderr)
        if self.output is not None:
            write_text(self.output / "tables.md", text + "\n")
            write_json(self.output / "report.json", report)
            for protocol, rows in self.rows.items():
                _write_csv(self.output / f"{protocol}.csv", rows)
                columns = 1 + len(rows[0].scores)
                save_png(self.output / f"{protocol}.png", image_grid(self.pictures[protocol], columns))
        return report


def mean_scores(rows: list[Row]) -> dict[str, dict[str, float]]:
    """Means over clips, of those where the number is defined; NaN if it is nowhere."""

    def mean(name: str, key: str) -> float:
        values = [row.scores[name][key] for row in rows if not math.isnan(row.scores[name][key])]
        return sum(values) / len(values) if values else math.nan

    return {name: {key: mean(name, key) for key in scores} for name, scores in rows[0].scores.items()}


def table_of_people(rows: list[Row]) -> str:
    """A markdown table, a line for each person: errors, means over the clips that show the person."""
    people: dict[str, list[Row]] = {}
    for row in rows:
        people.setdefault(row.person, []).append(row)
    judged = [name for name, of in mean_scores(rows).items() if of["l1"]]  # a true clip has none
    columns = [(name, key) for key in ("l1", "perceptual") for name in judged]
    lines = [["person", "clips", *(f"{COLUMNS[key][0]} {name}" for name, key in columns)]]
    lines.append(["---"] * len(lines[0]))
    for person, own in people.items():
        means = mean_scores(own)
        lines.append([person, str(len(own)), *(_shown(means[name][key]) for name, key in columns)])
    return _markdown(lines)


def table(scores: Mapping[str, Mapping[str, float]]) -> str:
    """A markdown table, a line for each of those judged."""
    keys = list(next(iter(scores.values())))
    lines = [["", *(COLUMNS[key][0] for key in keys)], ["---"] * (len(keys) + 1)]
    lines += [[name, *(_shown(of[key] * COLUMNS[key][1]) for key in keys)] for name, of in scores.items()]
    return _markdown(lines)


def _markdown(lines: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _shown(value: float) -> str:
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞"
    return f"{round(value, 4) + 0.0:.4f}" if abs(value) < 1 else f"{value:.2f}"  # + 0.0: no minus zero


def _plain(value: float) -> float | None:
    """Four digits of a number; None of what JSON has no number for."""
    return float(f"{value:.4g}") if math.isfinite(value) else None


def _write_csv(path: Path, rows: list[Row]) -> None:
    keys = list(next(iter(rows[0].scores.values())))
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        lines = csv.writer(file)
        lines.writerow(["clip", "person", "frames", "judged", *keys])
        for row in rows:
            for name, scores in row.scores.items():
                lines.writerow([row.clip, row.person, row.frames, name, *(f"{scores[key]:.6g}" for key in keys)])
