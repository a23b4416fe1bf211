"""What a run says on its way, and when it has to end."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from autolink.errors import UserError
from autolink.outputs import reported, write_text
from autolink.progress import is_read_by_a_program, tell
from autolink.runs import LOG, read_log, release
from autolink.trackers import track_picture
from autolink.visualize import save_png


class RunLog:
    """Numbers to `log.jsonl`, pictures to `samples/`, and both to the run's trackers; main process only.

    Args:
        accelerator: The run's accelerator.
        output: Run folder.
        step: Steps done before; what an interrupted run logged beyond them is dropped.
    """

    def __init__(self, accelerator: Accelerator, output: Path, step: int) -> None:
        self.accelerator, self.output = accelerator, output
        self.path = output / LOG
        if accelerator.is_main_process:
            lines = read_log(self.path) if step and self.path.is_file() else []
            kept = [line for line in lines if line["step"] <= step]
            write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """Record scalars of one step; where nobody sees the progress bar, as in a log file, they are printed."""
        if self.accelerator.is_main_process:
            if is_read_by_a_program():
                tell("numbers", step=step, **values)
            elif not sys.stderr.isatty():
                print(
                    f"step {step}:", ", ".join(f"{k} {v:.4g}" for k, v in values.items()), file=sys.stderr, flush=True
                )
            with reported(self.path), self.path.open("a") as file:
                file.write(json.dumps({"step": step, **{k: round(v, 6) for k, v in values.items()}}) + "\n")
        self.accelerator.log(dict(values), step=step)

    def close(self) -> None:
        """Finish the logs and leave the run folder; another run may follow in this process."""
        for tracker in self.accelerator.trackers:
            tracker.finish()
        release(self.output)

    def picture(self, step: int, name: str, image: Tensor) -> None:
        """Record a picture (3, H, W), uint8 or in [0, 1], as `samples/NAME-STEP.png`."""
        if self.accelerator.is_main_process:
            save_png(self.output / "samples" / f"{name}-{step:07d}.png", image)
            track_picture(self.accelerator, step, name, image)


class Diverged(UserError):
    """The loss or the weights of a run are no longer numbers."""


WHEN_DIVERGED = (
    "--resume goes on from the last checkpoint, with --mixed-precision no if it happens again; if that does not help, "
    "start a new run with a lower --learning-rate or a larger --thickness"
)


def require_finite(value: float, step: int) -> None:
    """Stop a run whose loss is no longer a number.

    Raises:
        Diverged: Always when `value` is not finite.
    """
    if not math.isfinite(value):
        raise Diverged(f"the loss became {value} at step {step}; {WHEN_DIVERGED}")


def require_finite_weights(accelerator: Accelerator, modules: Mapping[str, nn.Module], step: int) -> None:
    """Stop a run before weights that are no longer numbers take the place of good ones in its files.

    Raises:
        Diverged: In all processes, if any weight, average or statistic is not finite in one.
    """
    tensors = [tensor for module in modules.values() for tensor in module.state_dict().values()]
    finite = torch.stack([tensor.isfinite().all() for tensor in tensors])
    if accelerator.reduce((~finite).sum(), "sum").item():
        raise Diverged(f"the weights are no longer numbers at step {step}; {WHEN_DIVERGED}")
