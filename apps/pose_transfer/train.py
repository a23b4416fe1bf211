"""Learn pose transfer from clips: `accelerate launch apps/pose_transfer/train.py --data DIR_OF_CLIPS`.

Two frames of one clip: the edge map of one and the looks of the other give back the first (Appendix C.2). The
loss is mean squared error, perceptual distance and the adversarial loss of Eq. 7–9. Only the network learns;
the AutoLink that finds the keypoints and draws the edge maps is frozen.

Shapes: B batch, K keypoints, S image side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import default_collate

from autolink import hub
from autolink.adversarial import Discriminator
from autolink.configuration import options_of
from autolink.data import SampleSet, open_samples
from autolink.data.pairs import FramePairs, StillPairs
from autolink.data.sample import Items, Mixture
from autolink.errors import UserError, command
from autolink.features import Features
from autolink.learner.bank import bank_of
from autolink.learner.options import FOR_PROCESSOR
from autolink.losses import PerceptualLoss, light_features
from autolink.model import AutoLink
from autolink.pixels import unit_from_signed
from autolink.progress import as_asked
from autolink.ranges import OPEN, Count, DoubledSide, KeypointCount, NotNegative, Open, Width
from autolink.runs import Stop
from autolink.train import autolink_for
from autolink.training import (
    MAY_CHANGE,
    Ema,
    RunLog,
    RunOptions,
    StepBar,
    as_json,
    decided,
    due,
    endless_loader,
    load_checkpoint,
    local_main_first,
    on_processor,
    require_finite,
    require_finite_weights,
    save_checkpoint,
    say_what_was_decided,
    seeded_generator,
    start,
    to_network,
)
from autolink_apps.pose_transfer.augment import augment
from autolink_apps.pose_transfer.model import Appearance, PoseTransfer
from autolink_apps.pose_transfer.training_step import TrainingStep, errors, network_inputs, paint, picture

if TYPE_CHECKING:
    from autolink_apps.pose_transfer.adapt import Run

ON_GPU = {
    "steps": 20_000,
    "batch_size": 64,
    "image_size": 128,
    "width": 1.0,
    "perceptual": "vgg16",
    "autolink_steps": 20_000,
}
"""What options are that were left open, where there is a GPU."""
ON_PROCESSOR = {
    "steps": 3_000,
    "batch_size": 16,
    "image_size": 64,
    "width": 0.25,
    "perceptual": light_features,
    "autolink_steps": 3_000,
}
"""The same where there is none."""
LEARNER = ("autolink_steps", "keypoints")
"""Options for an AutoLink that must be trained first; when a run goes on, the AutoLink itself is compared."""
HELD_OUT = 64
"""Held-out pairs on which the error is measured while training."""


@dataclass
class Options(RunOptions):
    """Train pose transfer on clips. The paper states no weights, rates or batch size: these are ours."""

    output: Path = Path("runs/pose-transfer")
    """Run folder: checkpoint, model, logs and pictures are written here."""
    steps: Open[Count] = OPEN
    """Training steps in all; default 20,000, on a processor 3,000."""
    batch_size: Open[Count] = OPEN
    """Images a step, over all devices together; default 64, on a processor 16."""
    image_size: Open[DoubledSide] = OPEN
    """Side of the square images: 64, 128 or 256; default that of --start-from, else 128, on a processor 64."""
    width: Open[Width] = OPEN
    """Channel multiplier on the paper's networks; default that of --start-from, else 1, on a processor 0.25."""
    mix_with: tuple[str, ...] = ()
    """Further clips, named as --data is; each data set is as much of the training as --data."""
    stills: tuple[str, ...] = ()
    """Pictures of single individuals, for looks that no clip shows: each is paired with a warped copy of itself. All of
    them together are as much of the training as --data."""
    autolink: str | None = None
    """Frozen AutoLink: file, folder, shipped name or hub id. Else this data's is used, or trained."""
    appearance: Appearance = "warped"
    """How the source's looks reach the result: bottleneck (the paper's) or warped (moved along, at all
    scales)."""
    start_from: str | None = None
    """Begin with the network of this transfer model, of the same size, width and appearance."""
    augment: bool = True
    """Change the colours of both frames of a pair alike, mirror them, turn, shift and scale them a little."""
    mse_weight: NotNegative = 4.0
    """Weight of the mean squared error (images in [−1, 1])."""
    perceptual_weight: NotNegative = 1.0
    """Weight of the perceptual distance."""
    gan_weight: NotNegative = 0.1
    """Weight of the adversarial loss (Eq. 7); 0 trains without a discriminator."""
    r1_gamma: NotNegative = 1.0
    """Weight γ of the R1 penalty, γ/2 · |∇D|² (Eq. 9)."""
    r1_every: Count = 16
    """Steps from one R1 penalty to the next, weighted up accordingly."""
    learning_rate: NotNegative = 2e-4
    """Adam's, of both networks."""
    perceptual: Open[Features] = OPEN
    """Features of the loss: vgg16 (the paper's; default), squeezenet (ten times lighter; default on a processor),
    builtin (shipped; default there if SqueezeNet's weights cannot be had), pyramid (weaker)."""
    autolink_steps: Open[Count] = OPEN
    """Steps to train an AutoLink for, if one must be trained; default 20,000, on a processor 3,000."""
    keypoints: KeypointCount = 16
    """Keypoints K of an AutoLink that must be trained."""


class Weights(NamedTuple):
    """Of the terms of the loss; what they are is said by the options of those names."""

    mse: float = 4.0
    perceptual: float = 1.0
    gan: float = 0.0
    r1_gamma: float = 0.0
    r1_every: int = 1

    def r1(self, step: int) -> float:
        """That of the R1 penalty at a step."""
        return self.r1_gamma / 2 * self.r1_every if step % self.r1_every == 0 else 0.0


@as_asked
def train(options: Options) -> Path:
    """Train, and return the file of the trained model (`model.safetensors` in the run folder).

    Raises:
        UserError: If data, weights or options cannot be used.
    """
    if options.push_to_hub:
        hub.reserve(options.push_to_hub)
    start_from = None if options.resume else options.start_from
    begun = None if start_from is None else PoseTransfer.from_pretrained(start_from)
    options = with_defaults(options, begun)
    # Opened before anything is trained, so that a mistyped path is found at once.
    with local_main_first():  # videos are decoded into a cache once
        pairs = _training_pairs(options)
        others = [FramePairs(_opened(name, options, "val")) for name in _clips(options)]
    if begun is not None:
        _require_alike(begun, options)
    chosen = autolink_for(
        options.autolink,
        options,
        perceptual=options.perceptual,
        keypoints=options.keypoints,
        steps=options.autolink_steps,
    )
    autolink = AutoLink.from_pretrained(chosen)

    accelerator = start(replace(options, autolink=str(chosen)), may_change={*MAY_CHANGE, *LEARNER})
    device = accelerator.device
    shown = [pair for part in others for pair in part.spread(HELD_OUT // len(others))]
    held_out = [to_network(frames, device) for frames in default_collate(shown)[:2]]
    perceptual = PerceptualLoss(options.perceptual).to(device) if options.perceptual_weight else None

    model = PoseTransfer.around(autolink, options.image_size, options.width, options.appearance)
    if begun is not None:
        model.network.load_state_dict(begun.network.state_dict())
    model = model.to(device)
    if not len(model.autolink.poses):
        model.autolink.poses = bank_of(model.autolink, options).xy
    usual_confidence = model.autolink.detect(unit_from_signed(held_out[1])).confidence.mean().item()

    def examine(model: PoseTransfer) -> tuple[dict[str, float], Tensor]:
        inputs = network_inputs(accelerator, model, *held_out)
        made = paint(accelerator, model, inputs)
        found, copied = (errors(accelerator, perceptual, images, held_out[1]) for images in (made, held_out[0]))
        numbers = found | {f"{name}_of_copying": value for name, value in copied.items()}
        return numbers, picture(inputs, held_out[1], made)

    def about(step: int) -> dict[str, Any]:
        known = {"data": pairs.name, "autolink": str(chosen), "usual_confidence": usual_confidence}
        return {**known, "steps": step, "torch": torch.__version__, "options": as_json(options)}

    weights = options.mse_weight, options.perceptual_weight, options.gan_weight, options.r1_gamma, options.r1_every
    names = "transfer network", "transfers"
    teach(accelerator, options, model, perceptual, Weights(*weights), pairs, examine, about, *names)
    file = options.output / "model.safetensors"
    if options.push_to_hub and accelerator.is_main_process:
        hub.push(options.push_to_hub, file)
    return file


def _clips(options: Options) -> list[str]:
    return [options.data, *options.mix_with]


def _opened(name: str, options: Options, split: str) -> SampleSet:
    return open_samples(name, options.image_size, split, options.data_root)


def _training_pairs(options: Options) -> Items:
    """What is learned from: pairs of frames of one data set, or of several, and of stills.

    Raises:
        UserError: If one cannot be opened, or clips have no pairs.
    """
    parts: list[Items] = []
    for name in _clips(options):
        pairs = FramePairs(_opened(name, options, "train"), options.seed)
        pairs.warn_of_strangers()
        parts.append(pairs)
    stills: list[Items] = [StillPairs(_opened(name, options, "train"), options.seed) for name in options.stills]
    if stills:
        parts.append(Mixture(*stills))
    return Mixture(*parts) if len(parts) > 1 else parts[0]


def teach(
    accelerator: Accelerator,
    options: Options | Run,
    model: PoseTransfer,
    perceptual: PerceptualLoss | None,
    weights: Weights,
    pairs: Items,
    examine: Callable[[PoseTransfer], tuple[dict[str, float], Tensor]],
    about: Callable[[int], dict[str, Any] | None],
    name: str,
    pictures: str,
) -> None:
    """Train a model's network, whatever it is at first, to paint one frame of a pair in the pose of the other.

    Args:
        accelerator: The run's accelerator.
        options: The run's options.
        model: Is what is saved, sampled and measured: from here on it holds the average of the network that learns.
        perceptual: The loss.
        weights: Of the terms of the loss.
        pairs: What to learn from.
        examine: Measures the model as it is now: numbers of held-out frames, and a picture.
        about: What the model's file says after so many steps; it is not written where that is None.
        name: Of what learns.
        pictures: What they are called.
    """
    device, rank = accelerator.device, accelerator.process_index
    network = model.network.train().to(memory_format=torch.channels_last)
    ema = Ema(network)
    model.network = ema.module
    adam = torch.optim.Adam(network.parameters(), options.learning_rate, betas=(0.9, 0.99), fused=True)
    network, adam = accelerator.prepare(network, adam)
    modules, optimizers = {"network": network, "ema": ema}, {"network": adam}
    discriminator = None
    if weights.gan:
        discriminator = Discriminator(model.config.image_size, model.config.width)
        discriminator = discriminator.to(device).to(memory_format=torch.channels_last)
        judge_adam = torch.optim.Adam(discriminator.parameters(), options.learning_rate, betas=(0.0, 0.99), fused=True)
        discriminator, judge_adam = accelerator.prepare(discriminator, judge_adam)
        modules["discriminator"], optimizers["discriminator"] = discriminator, judge_adam
    turns = TrainingStep(accelerator, network, perceptual, weights.mse, weights.perceptual, discriminator, weights.gan)

    step = load_checkpoint(accelerator, options.output, modules, optimizers)[0] if options.resume else 0
    log = RunLog(accelerator, options.output, step)
    stop = Stop(accelerator)
    batches = endless_loader(pairs, options, accelerator, step)
    progress = StepBar(accelerator, options, step, name)

    while step < options.steps and not stop.came:
        source, driving = (to_network(frames, device) for frames in next(batches)[:2])
        if options.augment:
            source, driving = augment(source, driving, seeded_generator(options.seed, step, rank, "augment"))
        adam.zero_grad()
        losses, made = turns.network_turn(network_inputs(accelerator, model, source, driving), driving)
        adam.step()
        ema.update_parameters(accelerator.unwrap_model(network))
        if discriminator is not None:
            judge_adam.zero_grad()
            losses |= turns.discriminator_turn(driving, made, weights.r1(step))
            judge_adam.step()

        step += 1
        progress.update()
        last = step == options.steps
        if due(step, options.log_every) or last:
            values = {of: accelerator.reduce(value, "mean").item() for of, value in losses.items()}
            require_finite(sum(values.values()), step)
            log.numbers(step, values)
            progress.set_postfix({of: f"{value:.3f}" for of, value in values.items()})
        if due(step, options.sample_every) or last:
            numbers, shown = examine(model)
            log.numbers(step, {f"held_out_{of}": value for of, value in numbers.items()})
            log.picture(step, pictures, shown)
        if stop.asked() or due(step, options.save_every) or last:
            require_finite_weights(accelerator, modules, step)
            if accelerator.is_main_process and (said := about(step)) is not None:
                model.save_pretrained(options.output, said)
            save_checkpoint(accelerator, options.output, step, modules, optimizers)
    progress.close()
    log.close()
    stop.leave(options.output, step, options.steps)
    accelerator.wait_for_everyone()  # the file is there for whoever goes on with it


def with_defaults(options: Options, begun: PoseTransfer | None = None) -> Options:
    """The options with all that was left open decided: by the model to start from, or for the device; and say so."""
    known = {} if begun is None else {name: getattr(begun.config, name) for name in ("image_size", "width")}
    asked, options = options, decided(options, ON_PROCESSOR if on_processor() else ON_GPU, known)
    if on_processor() and not options.resume:
        given = asked if asked.autolink is None else replace(asked, autolink_steps=options.autolink_steps)
        say_what_was_decided(given, options, FOR_PROCESSOR)
    return options


def _require_alike(begun: PoseTransfer, options: Options) -> None:
    """Raise a `UserError` unless the network of `--start-from` is of the kind that the options ask for."""
    found, wanted = ((x.image_size, x.width, x.appearance) for x in (begun.config, options))
    if found != wanted:
        kinds = ["{}², width {:g}, {} appearance".format(*kind) for kind in (found, wanted)]
        raise UserError(f"--start-from {options.start_from}: its network is {kinds[0]}, but asked for is {kinds[1]}")


@command
def main() -> None:
    """Entry point of `apps/pose_transfer/train.py`."""
    train(options_of(Options, __doc__))


if __name__ == "__main__":
    main()
