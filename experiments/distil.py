"""Teach the built-in perceptual features to see as SqueezeNet does: `python -m experiments.distil --data SET...`.

The small network predicts the teacher's four stages on images and on damaged copies of them. Two errors are summed: of
the features, and of their change from image to copy, which is what a perceptual distance is made of.

Shapes: B pairs, S image side, C h w of a feature map.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from torch import Tensor, nn

from autolink import hub
from autolink.configuration import options_of
from autolink.data import open_data
from autolink.data.sample import spread
from autolink.errors import command
from autolink.features import BuiltinFeatures, FeaturesConfig
from autolink.losses import PerceptualLoss
from autolink.progress import as_asked
from autolink.ranges import Count, NotNegative, Side, Width, Workers
from autolink.runs import Stop
from autolink.training import (
    MAY_CHANGE,
    RunLog,
    RunOptions,
    StepBar,
    as_json,
    due,
    load_checkpoint,
    local_main_first,
    require_finite,
    require_finite_weights,
    save_checkpoint,
    seeded_generator,
    start,
)
from experiments.distil_images import damaged, scenes

SIDE = 160
"""Side of the stored images, of which crops are trained on."""
LARGE_SHARE = 0.25
"""Share of the steps on crops of 128², with a quarter of the pairs; the others are 64²."""
HELD_OUT = 64
"""Pairs of held-out images on which errors are measured while training."""
FAINT = 1e-3
"""Of a stage's variance: a squared change much smaller than this counts as none."""


@dataclass
class Options(RunOptions):
    """Distil perceptual features."""

    data: tuple[str, ...]  # type: ignore[assignment]  # of the others one is enough
    """Data sets to see, each as in `autolink train`; textures are always among them."""
    output: Path = Path("runs/features")
    """Run folder: checkpoint, model and log are written here."""
    batch_size: Count = 16
    """Pairs of image and damaged copy a step."""
    learning_rate: NotNegative = 4e-3
    """Of Adam; it falls to zero along a half cosine."""
    images: Count = 2500
    """Images kept of each data set, evenly spread over it."""
    image_size: tyro.conf.Suppress[Side] = 128
    width: tyro.conf.Suppress[Width] = 1.0
    workers: tyro.conf.Suppress[Workers | None] = None


@as_asked
def distil(options: Options) -> Path:
    """Train, and return the file of the features (`model.safetensors` in the run folder).

    Raises:
        UserError: If data, the teacher's weights or options cannot be used.
    """
    if options.push_to_hub:
        hub.reserve(options.push_to_hub)
    accelerator = start(options, may_change=MAY_CHANGE.keys() - {"steps"})  # the rate depends on them
    with local_main_first():  # videos are decoded into a cache once
        pools, held_out = ([_images(source, split, options) for source in options.data] for split in ("train", "val"))
    device = accelerator.device
    some = _pairs(pools, 64, seeded_generator(0, 0, 0, "deviations"), size=64)[0]
    teacher = _Normalised(PerceptualLoss("squeezenet").features.to(device), some.to(device))
    student = BuiltinFeatures(FeaturesConfig()).to(device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(student.parameters(), options.learning_rate, betas=(0.9, 0.99), fused=True)
    student, optimizer = accelerator.prepare(student.train(), optimizer)
    modules, optimizers = {"student": student}, {"adam": optimizer}
    step = load_checkpoint(accelerator, options.output, modules, optimizers)[0] if options.resume else 0
    log = RunLog(accelerator, options.output, step)
    stop = Stop(accelerator)
    progress = StepBar(accelerator, options, step, "features")

    while step < options.steps and not stop.came:
        for group in optimizer.param_groups:
            group["lr"] = options.learning_rate * share_of_rate(step, options.steps)
        generator = seeded_generator(options.seed, step, accelerator.process_index, "pairs")
        images, copies = _pairs(pools, options.batch_size // accelerator.num_processes, generator)
        with accelerator.autocast():
            errors = disagreement(student, teacher, images.to(device), copies.to(device))
        loss = errors["features"] + errors["changes"]
        optimizer.zero_grad()
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        step += 1
        progress.update()

        last = step == options.steps
        if due(step, options.log_every) or last:
            require_finite(loss.item(), step)
            log.numbers(step, {name: value.item() for name, value in errors.items()})
            progress.set_postfix({name: f"{value.item():.3f}" for name, value in errors.items()})
        if due(step, options.sample_every) or last:
            pairs = _pairs(held_out, HELD_OUT, seeded_generator(0, 0, 0, "held-out pairs"), size=64)
            with torch.no_grad(), accelerator.autocast():
                errors = disagreement(student, teacher, *(x.to(device) for x in pairs))
            log.numbers(step, {f"held_out_{name}": value.item() for name, value in errors.items()})
        if stop.asked() or due(step, options.save_every) or last:
            require_finite_weights(accelerator, modules, step)
            if accelerator.is_main_process:
                about = {"data": ", ".join(options.data), "steps": step, "torch": torch.__version__}
                about["options"] = as_json(options)
                accelerator.unwrap_model(student).save_pretrained(options.output, about)
            save_checkpoint(accelerator, options.output, step, modules, optimizers)
    progress.close()
    log.close()
    stop.leave(options.output, step, options.steps)
    accelerator.wait_for_everyone()
    file = options.output / "model.safetensors"
    if options.push_to_hub and accelerator.is_main_process:
        hub.push(options.push_to_hub, file)
    return file


def share_of_rate(step: int, steps: int) -> float:
    """Share of the learning rate at a step: it rises over 50 steps, and falls to zero along a half cosine."""
    return min(1, (step + 1) / 50) * (1 + math.cos(math.pi * step / steps)) / 2


def disagreement(student: nn.Module, teacher: nn.Module, images: Tensor, copies: Tensor) -> dict[str, Tensor]:
    """How far a student's features are from a teacher's of the same shapes, on pairs of images.

    Args:
        student: Images to stages (B, C, h, w).
        teacher: Likewise.
        images: (B, 3, S, S) in [−1, 1].
        copies: (B, 3, S, S), each like its image in part.

    Returns:
        Float32 scalars, means over stages that are 0 for equal networks and 1 for a student that tells nothing apart:
        `features`, the squared error over the teacher's variance, and `changes`, the squared error of the change
        within a pair over the teacher's squared change.
    """
    pairs = torch.cat([images, copies])
    with torch.no_grad():
        wanted = teacher(pairs)
    features, changes = [], []
    for w, s in zip(wanted, student(pairs)):
        w, s = w.float(), s.float()
        features.append((s - w).square().mean() / w.var())
        moved, seen_to_move = (x.diff(dim=0).squeeze(0) for x in (w.unflatten(0, (2, -1)), s.unflatten(0, (2, -1))))
        error = (seen_to_move - moved).square().mean((1, 2, 3))
        changes.append((error / (moved.square().mean((1, 2, 3)) + FAINT * w.var())).mean())
    return {"features": torch.stack(features).mean(), "changes": torch.stack(changes).mean()}


class _Normalised(nn.Module):
    """Features, each stage divided by its standard deviation on some images, so that no scales need be learned."""

    def __init__(self, features: nn.Module, images: Tensor) -> None:
        super().__init__()
        self.features = features
        self.deviations = [stage.float().std() for stage in features(images)]

    def forward(self, images: Tensor) -> list[Tensor]:
        return [stage.float() / deviation for stage, deviation in zip(self.features(images), self.deviations)]


def _pairs(
    pools: Sequence[np.ndarray], count: int, generator: torch.Generator, size: int | None = None
) -> tuple[Tensor, Tensor]:
    """Scenes and their damaged copies, each (count, 3, size, size); a quarter as many where `size` falls on 128."""
    if size is None:
        large = torch.rand((), generator=generator) < LARGE_SHARE
        size, count = (128, max(4, count // 4)) if large else (64, count)
    images = scenes(_picked(pools, count, generator), size, generator)
    copies = damaged(images, generator).contiguous(memory_format=torch.channels_last)
    return images.contiguous(memory_format=torch.channels_last), copies


def _picked(pools: Sequence[np.ndarray], count: int, generator: torch.Generator) -> Tensor:
    """(count, 3, SIDE, SIDE) uint8: a data set is drawn from as often as the root of its size asks."""
    weights = torch.tensor([len(pool) ** 0.5 for pool in pools])
    chosen = torch.multinomial(weights, count, replacement=True, generator=generator).tolist()
    places = torch.rand(count, generator=generator).tolist()
    return torch.stack([torch.from_numpy(pools[c][int(p * len(pools[c]))].copy()) for c, p in zip(chosen, places)])


def _images(source: str, split: str, options: Options) -> np.ndarray:
    """(N, 3, SIDE, SIDE) uint8 images of a data set, spread evenly over it."""
    data = open_data(source, SIDE, split, options.data_root)
    return np.stack([sample.image.numpy() for sample in spread(data, options.images)])


@command
def main() -> None:
    """Entry point of `python -m experiments.distil`."""
    distil(options_of(Options, __doc__))


if __name__ == "__main__":
    main()
