"""`--dry-run`: what a training run will cost, from two real steps whose files are thrown away."""

from __future__ import annotations

import json
import resource
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from accelerate import PartialState

from autolink.learner.options import Options as LearnerOptions
from autolink.learner.options import with_recommendations
from autolink.model import AutoLink
from autolink.train import is_shipped_for
from autolink.training import CHECKPOINT
from autolink.weights import read_tensors
from autolink_apps.gan.metrics import open_features

if TYPE_CHECKING:
    from autolink_apps.gan.train import Options


def rehearse(options: Options, train: Callable[[Options], Path]) -> None:
    """Run two steps of a run elsewhere, print parameters, memory and speed.

    The first step has the R1 penalty and so the most memory; the second is timed.

    Args:
        options: The run's. Where it would train an AutoLink first, an untrained one of the same size stands in.
        train: The training command.
    """
    if options.metric_every:
        open_features(options.metric_features, torch.device("cpu"))
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "run"
        source = options.autolink or _autolink(options, Path(folder))
        short = replace(options, output=output, autolink=source, steps=2, log_every=1, dry_run=False, resume=False)
        train(replace(short, sample_every=3, save_every=3, metric_every=0, push_to_hub=None))
        if PartialState().is_main_process:
            _report(output, options.batch_size)


def _autolink(options: Options, folder: Path) -> str:
    trained = options.output / "autolink/model.safetensors"
    if trained.is_file():
        return str(trained)
    if is_shipped_for(options.data):
        return options.data
    like = LearnerOptions(data=options.data, image_size=options.image_size, width=options.width)
    config = with_recommendations(like).model_config
    return str(AutoLink(config).save_pretrained(folder / "autolink.safetensors"))


def _report(output: Path, batch_size: int) -> None:
    tensors = read_tensors(output / CHECKPOINT)
    for network in ("generator", "discriminator"):
        prefix = f"module/{network}/"
        count = sum(tensor.numel() for name, tensor in tensors.items() if name.startswith(prefix))
        print(f"{network}: {count / 1e6:.2f} M parameters")
    on_gpu = torch.cuda.is_available()
    peak = torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    lines = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    speed = next(line["images_per_second"] for line in lines if line["step"] == 2 and "images_per_second" in line)
    print(f"memory: {peak / 2**30:.2f} GiB at most, in this process{' on the GPU' if on_gpu else ''}")
    print(f"speed: {batch_size / speed:.3f} s/step, {speed:.1f} images/s")
