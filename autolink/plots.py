"""Figures with axes: the edge-weight matrix, training curves, measurements of a run, and what a sweep found.

Colours tell apart for colour-blind readers and in grey: Okabe and Ito's for lines, with a marker each, and matplotlib's
`cividis` for magnitudes.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from torch import Tensor

from autolink.errors import UserError
from autolink.outputs import read_json, replacing
from autolink.runs import LOG, read_log

try:
    from matplotlib.axes import Axes
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import EngFormatter
except ImportError as error:
    raise UserError(
        "figures are drawn by Matplotlib, which is missing here: pip install 'autolink-graph[figures]'"
    ) from error

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vP*"
DASHES = ("-", "--", ":", "-.")
FAINTEST = 1e-4
"""Edge weights below this share of the strongest have the darkest colour."""
FAR_APART = 30
"""An axis whose largest value is more than so many times its smallest is logarithmic."""


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure, as the file's ending says, and make its folder.

    Raises:
        UserError: If it cannot be written, or nothing is known to be written under such an ending.
    """
    path = Path(path)
    kind, kinds = path.suffix.removeprefix(".").lower(), figure.canvas.get_supported_filetypes()
    if kind not in kinds:
        raise UserError(f"{path}: expected a file name ending in .{', .'.join(sorted(kinds))}")
    drawn = io.BytesIO()  # matplotlib's PDF has errors of its own on a full disk
    figure.savefig(drawn, dpi=150, format=kind)
    with replacing(path) as part:
        part.write_bytes(drawn.getbuffer())
    return path


def edge_matrix_figure(matrix: Tensor) -> Figure:
    """The symmetric matrix of edge weights (K, K) as in Figure 2, on a logarithmic scale of colours."""
    weights = matrix.detach().cpu().numpy().astype(float)
    np.fill_diagonal(weights, np.nan)
    strongest = np.nanmax(weights) or 1.0  # a graph of keypoints alone has no weights
    figure = Figure(figsize=(5.2, 4.4), layout="constrained")
    axes = figure.subplots()
    norm = LogNorm(strongest * FAINTEST, strongest)
    shown = axes.imshow(np.maximum(weights, strongest * FAINTEST), cmap="cividis", norm=norm)
    ticks = range(0, len(weights), 1 if len(weights) <= 16 else 2)
    axes.set(xlabel="keypoint", ylabel="keypoint", xticks=ticks, yticks=ticks)
    figure.colorbar(shown, label="edge weight", extend="min")
    return figure


def training_figure(runs: Sequence[Path]) -> Figure:
    """Loss, held-out loss and edge weights against steps, one colour a run, from each run folder's `log.jsonl`.

    Raises:
        UserError: If a folder has no log.
    """
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    panels = {"loss": "loss", "held_out_loss": "held-out loss", "edge_weight_max": "edge weight, strongest and median"}
    axes = dict(zip(panels, figure.subplots(1, len(panels))))
    for number, run in enumerate(runs):
        lines = _read_log(run)
        colour = OKABE_ITO[number % len(OKABE_ITO)]
        label = run.resolve().name if len(runs) > 1 else None
        for key, panel in axes.items():
            _curve(panel, lines, key, color=colour, label=label)
        _curve(axes["edge_weight_max"], lines, "edge_weight_median", color=colour, linestyle="--")
    for key, title in panels.items():
        axes[key].set(xlabel="step", title=title)
        axes[key].grid(alpha=0.3)
    axes["edge_weight_max"].set_yscale("log")
    if len(runs) > 1:
        axes["loss"].legend(fontsize="small")
    return figure


def _read_log(run: Path) -> list[dict[str, float]]:
    path = run / LOG
    if not path.is_file():
        raise UserError(f"{run}: no log.jsonl in it; give the folder that a training run wrote (its --output)")
    return read_log(path)


def _curve(axes: Axes, lines: Sequence[Mapping[str, float]], key: str, scale: float = 1, **style: Any) -> None:
    points = [(line["step"] * scale, line[key]) for line in lines if key in line]
    axes.plot([step for step, _ in points], [value for _, value in points], **style)


def measurements_figure(runs: Sequence[Path], panels: Mapping[str, Mapping[str, str]]) -> Figure:
    """What was measured during training against images seen, from each run folder's `log.jsonl` and `config.json`.

    Colours tell runs apart, dashes and markers what was measured.

    Args:
        runs: Run folders.
        panels: Label of a panel's y axis → name in the log → what the legend calls it. What was never measured is left
            out.

    Raises:
        UserError: If a folder has no log, or nothing of this was measured.
    """
    logs = [_read_log(run) for run in runs]
    measured = {key for lines in logs for line in lines for key in line}
    shown = {panel: {key: name for key, name in keys.items() if key in measured} for panel, keys in panels.items()}
    shown = {panel: keys for panel, keys in shown.items() if keys}
    if not shown:
        raise UserError(f"{runs[0]}: nothing has been measured in it yet")
    figure = Figure(figsize=(4.4 * len(shown), 3.8), layout="constrained")
    for axes, (panel, keys) in zip(np.atleast_1d(figure.subplots(1, len(shown))), shown.items()):
        for number, (run, lines) in enumerate(zip(runs, logs)):
            images_a_step = read_json(run / "config.json")["batch_size"]
            for style, key in enumerate(keys):
                dashes = {"linestyle": DASHES[style % len(DASHES)], "marker": MARKERS[style % len(MARKERS)]}
                colour = OKABE_ITO[number % len(OKABE_ITO)]
                _curve(axes, lines, key, images_a_step, color=colour, markersize=3, **dashes)
        axes.set(xlabel="images seen", ylabel=panel)
        axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.grid(alpha=0.3)
        axes.legend(axes.lines[: len(keys)], keys.values(), fontsize="small")
    if len(runs) > 1:
        colours = [Line2D([], [], color=OKABE_ITO[number % len(OKABE_ITO)]) for number in range(len(runs))]
        names = [run.resolve().name for run in runs]
        figure.legend(colours, names, loc="outside upper center", ncols=len(runs), fontsize="small")
    return figure


def sweep_figure(results: Sequence[Mapping[str, Any]], metrics: Mapping[str, str]) -> Figure:
    """What a sweep measured against what it varied (Figure 5 and Tables 4–6 as a picture).

    Numbers make an axis with a line for each variant of the second axis, anything else makes bars; a mark is the mean
    over seeds and its bar the standard deviation.

    Args:
        results: One mapping a run: `row_axis`, `row`, `column_axis` and `column` ("" where there is no second axis),
            and the metrics (None where a run diverged).
        metrics: Metric → its title; one panel each.
    """
    figure = Figure(figsize=(4.8 * len(metrics), 3.8), layout="constrained")
    numeric = all(is_number(result["row"]) for result in results)
    for axes, (metric, title) in zip(np.atleast_1d(figure.subplots(1, len(metrics))), metrics.items()):
        (_draw_lines if numeric else _draw_bars)(axes, results, metric)
        axes.set_title(title)
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
    return figure


def _draw_lines(axes: Axes, results: Sequence[Mapping[str, Any]], metric: str) -> None:
    for number, column in enumerate(dict.fromkeys(result["column"] for result in results)):
        measured = _mean_and_spread([result for result in results if result["column"] == column], metric)
        if not measured:
            continue
        means, spreads = zip(*measured.values())
        places = [float(row) for row in measured]
        label = f"{results[0]['column_axis']} = {column}" if column else None
        color, marker = OKABE_ITO[number % len(OKABE_ITO)], MARKERS[number % len(MARKERS)]
        axes.errorbar(places, means, spreads, capsize=3, label=label, color=color, marker=marker)
    values = [float(result["row"]) for result in results]
    if max(values) > FAR_APART * min(values):
        axes.set_xscale("log")
    axes.set_xlabel(results[0]["row_axis"])
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize="small")


def _draw_bars(axes: Axes, results: Sequence[Mapping[str, Any]], metric: str) -> None:
    measured = _mean_and_spread(results, metric)
    for number, (row, (centre, spread)) in enumerate(measured.items()):
        axes.barh(row, centre, xerr=spread or None, color=OKABE_ITO[min(number, 1)], capsize=3)  # the first stands out
    axes.invert_yaxis()


def _mean_and_spread(results: Sequence[Mapping[str, Any]], metric: str) -> dict[str, tuple[float, float]]:
    """Row → mean and standard deviation over the seeds that did not diverge; rows without any are left out."""
    values: dict[str, list[float]] = {}
    for result in results:
        if result[metric] is not None:
            values.setdefault(result["row"], []).append(result[metric])
    return {row: (mean(given), stdev(given) if len(given) > 1 else 0.0) for row, given in values.items()}


def is_number(text: str) -> bool:
    """Whether a label is a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def samples_figure(strips: Mapping[str, Tensor]) -> Figure:
    """Rows of pictures under each other, each with its name (Figures 6 and 7): name → (3, H, W) uint8."""
    first = next(iter(strips.values()))
    width = 9.0
    height = width * first.shape[1] / first.shape[2] + 0.35  # and a line of text
    figure = Figure(figsize=(width, height * len(strips)), layout="constrained")
    for axes, (name, strip) in zip(np.atleast_1d(figure.subplots(len(strips), 1)), strips.items()):
        axes.imshow(strip.permute(1, 2, 0).numpy())
        axes.set_title(name, loc="left", fontsize="medium")
        axes.axis("off")
    return figure
