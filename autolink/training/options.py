"""What every training run is told, and when something is due."""

from __future__ import annotations

import dataclasses
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from autolink.progress import Progress
from autolink.ranges import Checked, Count, Seed, Side, Whole, Width, Workers

logger = logging.getLogger("autolink")

CHECKPOINT, CONFIG = "checkpoint.safetensors", "config.json"
MAY_CHANGE = {
    "output": "a run may be moved",
    "data_root": "so may data that are known by name",
    "steps": "more of them",
    "mixed_precision": "other machines have other units, and a run that diverged may go on without",
    "workers": "the data are the same",
    "accumulate": "the gradients are the same",
    **dict.fromkeys(
        ("log_every", "sample_every", "save_every", "progress", "log_with"), "what is seen and saved on the way"
    ),
    **dict.fromkeys(("metric_every", "metric_images", "metric_features"), "what is measured on the way"),
    **dict.fromkeys(("resume", "dry_run", "push_to_hub"), "what is done beside training"),
}
"""Options that need not be those that a run began with when it goes on, and why; all others must be. A kind of run
may have fewer or more (`may_change`)."""
DATA_OPTIONS, MODEL_OPTIONS = ("data", "mix_with", "stills"), ("start_from", "autolink", "model")
"""Options that name data sets, and models: what they lead to is compared too."""
SMALL_WIDTH, SMALL_SIDE = 0.25, 64
"""Width and side of an image with which a processor learns in hours."""


@dataclass
class RunOptions(Checked):
    """Options that every training command has."""

    data: str
    """A folder of images or clips, a landmark set, a video, a benchmark's name, tar shards (`s/{000..099}.tar`), or
    `synthetic`."""
    output: Path
    """Run folder: checkpoint, model, logs and pictures are written here."""
    data_root: Path | None = None
    """Where benchmarks are looked up by name; default $AUTOLINK_DATA."""
    steps: Count = 20_000
    """Training steps in all."""
    batch_size: Count = 64
    """Images a step, over all devices together."""
    image_size: Side = 128
    """Side of the square training images: 64, 128 or 256."""
    width: Width = 1.0
    """Channel multiplier on the paper's networks; 0.25 is a good size for a CPU."""
    seed: Seed = 0
    """Seed of weights, data order, masks and noise."""
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    """`auto` takes bf16 where the processor has units for it, else float32."""
    resume: bool = False
    """Go on from the checkpoint in the run folder."""
    workers: Workers | None = None
    """Processes that decode images; default: half of the cores, at most 8."""
    log_every: Whole = 50
    """Steps between lines in the logs; 0: one at the end alone."""
    sample_every: Whole = 500
    """Steps between pictures and held-out measurements; 0: at the end alone."""
    save_every: Whole = 500
    """Steps between checkpoints; 0: one at the end alone."""
    push_to_hub: str | None = None
    """Repository on the Hugging Face hub, `user/name`, to which the trained model is pushed with a card."""
    log_with: tuple[str, ...] = ("auto",)
    """Where numbers and pictures go besides the run folder: any of tensorboard, wandb, trackio, mlflow, comet_ml, aim,
    clearml, dvclive and swanlab that is installed; auto: tensorboard if it is; none: nowhere."""
    progress: Progress = "auto"
    """auto: a bar where somebody sees it, on a terminal. json: an object a line on stderr, for a program. off: none."""

    def model_source(self, option: str) -> str:
        """Where `autolink.weights.resolve` finds the model that one of `MODEL_OPTIONS` names."""
        return getattr(self, option)


def as_json(options: Any) -> dict[str, Any]:
    """A dataclass of options as what JSON can hold."""
    return json.loads(json.dumps(dataclasses.asdict(options), default=str))


def due(step: int, every: int) -> bool:
    """Whether something that is done every so many steps, or with 0 never, is to be done at this one."""
    return every > 0 and step % every == 0
