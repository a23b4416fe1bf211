"""Fine-tune a transfer model on one source video: `autolink transfer adapt --model M --src V`.

A source video holds hundreds of frames of exactly the person wanted. The last tenth of them is never learned from, and
neither are those just before it, which show nearly the same; on that tenth the model is measured before and after,
beside copying the source and beside the frame learned from whose pose is nearest. There is no discriminator: a model's
file holds none, and a new one would have to be trained first.

Shapes: N frames, K keypoints, S image side.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from accelerate import Accelerator
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from autolink.data import Sample
from autolink.data.pairs import FramePairs
from autolink.data.sample import evenly
from autolink.errors import UserError, command
from autolink.features import Features
from autolink.images import square
from autolink.losses import PerceptualLoss
from autolink.model import AutoLink
from autolink.pixels import pictures_from_bytes
from autolink.progress import Bar
from autolink.ranges import Count, NotNegative
from autolink.training import (
    RunOptions,
    as_json,
    note_of,
    require_same,
    start,
    to_network,
)
from autolink.video import open_frames
from autolink.weights import read_header

from .model import PoseTransfer
from .train import Weights, teach
from .training_step import errors, network_inputs, paint, picture

FEWEST_FRAMES, MOST_FRAMES = 20, 1000
"""A source with fewer frames is refused; of a longer one, frames at even distances are taken."""
HELD_OUT = 64
"""Held-out frames on which the error is measured."""
EVERY = 50
"""Steps from one checkpoint, measurement and picture to the next."""

Cut = Callable[[int, np.ndarray], np.ndarray]
"""From number and pixels (H, W, 3) of a frame to the square that the network sees, (S, S, 3); uint8."""


@dataclass
class Run(RunOptions):
    """Everything an adaptation depends on, for the run folder and the model's file."""

    model: str = ""
    perceptual: Features = "squeezenet"
    learning_rate: NotNegative = 8e-4
    augment: bool = False
    framing: str = "middle"


def adapt(
    model: str,
    source: Annotated[Path, tyro.conf.arg(name="src")],
    steps: Count = 700,
    output: Path = Path("runs/adapted"),
    *,
    device: str = "auto",
    resume: bool = False,
    batch_size: Count = 8,
    learning_rate: NotNegative = 8e-4,
    augmented: Annotated[bool, tyro.conf.arg(name="augment")] = False,
    perceptual: Features | None = None,
    cut: Annotated[Cut | None, tyro.conf.Suppress] = None,
    framing: Annotated[str, tyro.conf.Suppress] = "middle",
) -> Path:
    """Fine-tune a transfer model on the frames of one source video, and say what it was worth.

    Not to be called in `torch.inference_mode`.

    Args:
        model: The transfer model to begin with: a shipped name, a file, a folder or a hub id.
        source: A video, or a folder of its frames.
        steps: Steps in all.
        output: Run folder: checkpoint, model, logs and pictures are written here.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps` …
        resume: Go on from the checkpoint in the run folder; a run that is complete is left as it is.
        batch_size: Pairs of frames a step.
        learning_rate: Adam's.
        augmented: Change both frames of a pair alike, as in training. Of a single clip, it costs more than it brings
            in a few hundred steps.
        perceptual: Features of the loss: vgg16, squeezenet, builtin or pyramid; default: those the model was trained
            with.
        cut: What of a frame the network sees; default: its centred square.
        framing: `cut` in words, which are compared when a run goes on.

    Returns:
        The file of the adapted model, `model.safetensors` in the run folder.

    Raises:
        UserError: If the source, the model or an option cannot be used.
    """
    original = PoseTransfer.from_pretrained(model)
    size = original.config.image_size
    perceptual = perceptual or original.metadata.get("options", {}).get("perceptual", "squeezenet")
    options = Run(
        data=os.path.join(source.parent, source.name),  # a path, also in the working directory
        output=output,
        steps=steps,
        batch_size=batch_size,
        image_size=size,
        width=original.config.width,
        resume=resume,
        workers=0,  # the frames are in memory
        log_every=EVERY,
        sample_every=EVERY,
        save_every=EVERY,
        model=model,
        perceptual=perceptual,
        learning_rate=learning_rate,
        augment=augmented,
        framing=framing,
    )
    if resume and _is_complete(options, source):
        return output / "model.safetensors"
    known, held_out = split(read_frames(source, size, cut))
    accelerator = start(options, device)
    distance = PerceptualLoss(perceptual).to(accelerator.device)
    adapted = original.to(accelerator.device)
    examination = Examination(accelerator, adapted, distance, known, held_out)

    def about(step: int) -> dict[str, Any] | None:
        if step % EVERY and step != steps:  # interrupted, and not measured
            return None
        said = {"data": source.name, "steps": step, "adapted_from": model, "torch": torch.__version__}
        said |= {"frames": len(known), "held_out": examination.marks, "options": as_json(options)}
        if "usual_confidence" in original.metadata:  # of the detector, which stays as it is
            said["usual_confidence"] = original.metadata["usual_confidence"]
        return {**said, "original": original.metadata}

    pairs, name = FramePairs(Frames(source.name, known)), f"adapting to {source.name}"
    teach(accelerator, options, adapted, distance, Weights(), pairs, examination.look, about, name, "adapted")
    if accelerator.is_main_process:
        print(examination.table())
    return output / "model.safetensors"


class Examination:
    """How well a model paints frames that were not learned from, beside simpler ways to come by them.

    Args:
        accelerator: The run's accelerator.
        model: The model as it is before it is adapted.
        perceptual: The loss's.
        known: (N, 3, S, S) uint8, frames to learn from; some of them, at even distances, are the sources.
        held_out: (M, 3, S, S) uint8, the others; up to `HELD_OUT` of them.

    Attributes:
        marks: Errors by who made the images.
    """

    def __init__(
        self, accelerator: Accelerator, model: PoseTransfer, perceptual: PerceptualLoss, known: Tensor, held_out: Tensor
    ) -> None:
        self.accelerator, self.perceptual = accelerator, perceptual
        self.wanted = to_network(held_out[evenly(len(held_out), HELD_OUT)], accelerator.device)
        sources = to_network(known[evenly(len(known), len(self.wanted))], accelerator.device)
        self.inputs = network_inputs(accelerator, model, sources, self.wanted)
        self.before = paint(accelerator, model, self.inputs)
        nearest = nearest_frames(model.autolink, known, self.inputs.driving_keypoints)
        self.marks = {
            "copying the source": self._errors(sources),
            "nearest frame learned from": self._errors(to_network(nearest, accelerator.device)),
            "before": self._errors(self.before),
        }

    def look(self, adapted: PoseTransfer) -> tuple[dict[str, float], Tensor]:
        """Errors of the model, and a picture: source | driving | edge map | before | after."""
        after = paint(self.accelerator, adapted, self.inputs)
        self.marks["after"] = self._errors(after)
        return self.marks["after"], picture(self.inputs, self.wanted, self.before, after)

    def _errors(self, images: Tensor) -> dict[str, float]:
        return errors(self.accelerator, self.perceptual, images, self.wanted)

    def table(self) -> str:
        """The errors, a line each."""
        lines = [f"{f'on {len(self.wanted)} frames not learned from':28}{'L1':>8}{'perceptual':>12}"]
        return "\n".join(
            [*lines, *(f"{name:28}{m['l1']:8.4f}{m['perceptual']:12.4f}" for name, m in self.marks.items())]
        )


def _is_complete(options: Run, source: Path) -> bool:
    """Whether the model in the run folder has learned for so many steps.

    Raises:
        UserError: If the run was begun with another source, or with other options.
    """
    file = options.output / "model.safetensors"
    if not file.is_file():
        return False
    about = read_header(file)["metadata"]
    if about["data"] != source.name:
        raise UserError(
            f"--resume: {options.output} holds {about['adapted_from']} adapted to {about['data']}, not {options.model} "
            f"to {source.name}; name another --output"
        )
    require_same(options, note_of(options))
    return about["steps"] == options.steps


class Frames(Dataset[Sample]):
    """Frames (N, 3, S, S) uint8 of one clip, in memory."""

    landmark_count = 0

    def __init__(self, name: str, images: Tensor) -> None:
        self.name, self.images = name, images
        self.clips = [name] * len(images)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        return Sample(self.images[index], torch.zeros(0, 2), str(index), self.name)


def read_frames(source: Path, size: int, cut: Cut | None = None) -> Tensor:
    """Up to `MOST_FRAMES` frames of a source at even distances, as squares: (N, 3, S, S) uint8.

    Raises:
        UserError: If it cannot be read, or has fewer than `FEWEST_FRAMES`.
    """
    kept: list[np.ndarray] = []
    step = 1
    with open_frames(source) as frames:
        for number, frame in enumerate(Bar(frames, f"reading {source.name}", frames.frame_count)):
            if number % step == 0:
                kept.append(cut(number, frame.image) if cut else np.array(square(Image.fromarray(frame.image), size)))
            if len(kept) > MOST_FRAMES:
                kept, step = kept[::2], step * 2
    if len(kept) < FEWEST_FRAMES:
        raise UserError(
            f"{source}: {len(kept)} frame(s), too few to learn from; give a video of at least {FEWEST_FRAMES} frames"
        )
    return torch.from_numpy(np.stack(kept)).permute(0, 3, 1, 2).contiguous()


def split(frames: Tensor) -> tuple[Tensor, Tensor]:
    """Frames (N, …) in their order: those to learn from, and the last tenth, to measure on.

    Between the two, half as many as are held out are left out: neighbours in time are nearly equal.
    """
    count = len(frames) // 10
    return frames[: -(count + max(1, count // 2))], frames[-count:]


def nearest_frames(autolink: AutoLink, frames: Tensor, poses: Tensor) -> Tensor:
    """For each of the poses (M, K, 2), the one of frames (N, 3, S, S) uint8 whose keypoints are nearest."""
    found = autolink.detect(pictures_from_bytes(frames), batch_size=32).xy.to(poses.device)
    return frames[torch.cdist(poses.flatten(1), found.flatten(1)).argmin(1).cpu()]


@command
def main() -> None:
    """Entry point of `autolink transfer adapt`."""
    print(tyro.cli(adapt))


if __name__ == "__main__":
    main()
