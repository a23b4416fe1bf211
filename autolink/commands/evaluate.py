"""How good keypoints are: `autolink evaluate --model M --data NAME_OR_DIR` prints JSON.

Of any data, how steadily keypoints follow a known warp of the image, and how much of the graph hangs together. Of
data with landmarks, how well keypoints predict them: a benchmark is judged by the protocol that was published for it,
any other by the distance between the eyes where they are known, else by the side of the image.
"""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from autolink.data import open_samples
from autolink.data.benchmarks import BENCHMARKS
from autolink.data.sample import LinkedSamples, SampleSet
from autolink.devices import pick_device
from autolink.errors import UserError, command
from autolink.graph import connectedness, topology
from autolink.metrics import EYES, PROTOCOLS, Labelled, five_landmarks, interocular_error
from autolink.model import AutoLink, load
from autolink.progress import Bar, Progress, as_asked
from autolink.ranges import Checked, Count
from autolink.repeatability import repeatability
from autolink.weights import read_header, resolve

VARIANTS = ("with_bias", "without_bias", "of_mean_shape")
"""Endings of the scores in a report: two linear maps, and no keypoints at all."""


@dataclass
class Options(Checked):
    """Measure on held-out data how steady keypoints are and, where there are landmarks, how well they predict them."""

    data: str
    """A data set, with landmarks or without: its folder or its name."""
    model: str | None = None
    """A shipped name, a file, a folder or a hub id."""
    runs: tuple[str, ...] = ()
    """Instead of one model: several, such as the run folders of ten seeds. Adds their mean and standard deviation."""
    data_root: Path | None = None
    """Where data sets are looked up by name; default $AUTOLINK_DATA."""
    batch_size: Count = 64
    """Images at a time."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1`, `mps` …"""
    progress: Progress = "auto"
    """auto: a bar where somebody sees it, on a terminal. json: an object a line on stderr, for a program. off: none."""


@as_asked
def evaluate(options: Options) -> dict[str, Any]:
    """What `autolink evaluate` prints: the report of one model, or of several runs and what they have in common.

    Raises:
        UserError: If a model or the data cannot be used.
    """
    if (options.model is None) == (not options.runs):
        given = "neither --model nor --runs" if options.model is None else "both --model and --runs"
        raise UserError(f"{given} given; expected --model for one model, or --runs for several")
    return _rounded(_evaluate_runs(options) if options.model is None else _evaluate_model(options.model, options))


def _evaluate_model(name: str, options: Options) -> dict[str, Any]:
    """Steadiness, connectedness and, of data with landmarks, the scores against them."""
    model = load(name, pick_device(options.device))
    test_data = open_samples(options.data, model.config.image_size, "test", options.data_root)
    return {
        "model": name,
        "data": options.data,
        "keypoints": model.config.keypoints,
        **repeatability(model, test_data, batch_size=options.batch_size),
        "connected_percent": connectedness(model.graph.matrix()) * 100,
        **(_landmark_scores(model, test_data, options) if test_data.landmark_count else {}),
    }


def _landmark_scores(model: AutoLink, test_data: SampleSet, options: Options) -> dict[str, Any]:
    """Scores with and without bias, beside that of always predicting the mean shape."""
    fit_data = open_samples(options.data, model.config.image_size, "fit", options.data_root)
    fit, test = (Labelled(*model.detect_all(data, options.batch_size, workers=1)) for data in (fit_data, test_data))
    protocol_name = _protocol_of(options.data, test.landmarks.shape[1])
    protocol = PROTOCOLS[protocol_name]
    fit_nothing, test_nothing = (Labelled(part.keypoints[:, :0], part.landmarks) for part in (fit, test))
    scores = (
        protocol.score(fit, test, True),
        protocol.score(fit, test, False),
        protocol.score(fit_nothing, test_nothing, True),
    )
    return {
        "train_images": len(fit.keypoints),
        "test_images": len(test.keypoints),
        "landmarks": test.landmarks.shape[1],
        "protocol": protocol_name,
        "published": f"{protocol.measures}_{'with' if protocol.bias else 'without'}_bias",
        "normalised_by": protocol.normalised_by,
        "frame": "origin at the top left corner of the square image, which is one unit wide",
        **{f"{protocol.measures}_{ending}": score for ending, score in zip(VARIANTS, scores, strict=True)},
        **_of_five_landmarks(fit, test),
        **_topology_where_known(model, test_data, options.batch_size),
    }


def _of_five_landmarks(fit: Labelled, test: Labelled) -> dict[str, float]:
    """Of faces with 68 landmarks also the error of CelebA's five, by which papers compare; without bias, as theirs."""
    if test.landmarks.shape[1] != 68:
        return {}
    fit, test = (Labelled(part.keypoints, five_landmarks(part.landmarks)) for part in (fit, test))
    return {"five_landmarks_error_percent": interocular_error(fit, test)}


def _topology_where_known(model: AutoLink, data: SampleSet, batch_size: int) -> dict[str, Any]:
    """How many of the true links the graph has found, if the data say which they are (`synthetic` does)."""
    return topology(model, data, batch_size=batch_size) if isinstance(data, LinkedSamples) else {}


def _evaluate_runs(options: Options) -> dict[str, Any]:
    """A report each, and mean and sample standard deviation of every score."""
    sizes = {run: read_header(resolve(run))["config"].get("keypoints") for run in options.runs}
    if len(set(sizes.values())) > 1:
        differ = ", ".join(f"{run} has {size}" for run, size in sizes.items())
        raise UserError(f"--runs expects runs that differ in their seed, not in their number of keypoints: {differ}")
    bar = Bar(options.runs, desc="evaluate", unit="run")
    reports = [_evaluate_model(run, options) for run in bar]
    scores = {key: [report[key] for report in reports] for key in reports[0] if key.endswith((*VARIANTS, "_percent"))}
    return {
        "data": options.data,
        **{key: reports[0][key] for key in ("protocol", "published") if key in reports[0]},
        "mean": {key: statistics.mean(values) for key, values in scores.items()},
        "standard_deviation": {k: statistics.stdev(v) if len(v) > 1 else None for k, v in scores.items()},
        "runs": reports,
    }


def _rounded(value: Any) -> Any:
    """A report with two decimals."""
    if isinstance(value, dict):
        return {key: _rounded(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_rounded(entry) for entry in value]
    return round(value, 2) if isinstance(value, float) else value


def _protocol_of(data: str, landmark_count: int) -> str:
    """The name of the protocol by which a data set is judged, see the module's text."""
    benchmark = BENCHMARKS.get(data)
    if benchmark is not None and benchmark.protocol is not None:
        return benchmark.protocol
    return "interocular" if landmark_count in EYES else "cub"


@command
def main() -> None:
    """Entry point of `autolink evaluate`."""
    print(json.dumps(evaluate(tyro.cli(Options)), indent=2))
