"""Train the conditional GAN of Appendix C.1: `accelerate launch apps/gan/train.py --data DIR`.

Poses come from a frozen AutoLink; the generator gives each the looks that a noise vector asks for, and the
discriminator judges image and edge map together.

Shapes: B batch, K keypoints, S image side.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from autolink import hub
from autolink.adversarial import Discriminator
from autolink.configuration import options_of
from autolink.data import open_data, open_samples
from autolink.data.sample import spread
from autolink.errors import UserError, command
from autolink.features import Features
from autolink.learner.bank import BANK, detect_samples
from autolink.learner.options import FOR_PROCESSOR
from autolink.losses import light_features
from autolink.model import AutoLink
from autolink.pixels import signed_from_unit, unit_from_bytes
from autolink.progress import as_asked
from autolink.ranges import OPEN, Count, DoubledSide, NotNegative, Open, Whole, Width
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
    logger,
    on_processor,
    processes,
    require_finite_weights,
    save_checkpoint,
    say_what_was_decided,
    seeded_generator,
    start,
    to_network,
)
from autolink.weights import without_memory
from autolink_apps.gan.ada import INTERVAL, AdaptiveAugmentation
from autolink_apps.gan.augment import augment
from autolink_apps.gan.beginning import begin_with, find_start
from autolink_apps.gan.curve import draw_curve
from autolink_apps.gan.dry_run import rehearse
from autolink_apps.gan.game import Batch, Game, TrainingPoses
from autolink_apps.gan.generator import NOISE_SIZE, ConditionalGAN, ConditionalGANConfig, Generator
from autolink_apps.gan.guard import FiniteGuard
from autolink_apps.gan.metrics import (
    Distances,
    FeatureNetwork,
    fixed_noise,
    open_features,
    pose_consistency,
    real_pose_error,
)
from autolink_apps.gan.sample import labelled_grid

ON_GPU = {
    "steps": 100_000,
    "batch_size": 32,
    "image_size": 128,
    "width": 1.0,
    "perceptual": "vgg16",
    "autolink_steps": 20_000,
}
"""What options are that were left open, where there is a GPU."""
ON_PROCESSOR = {
    "steps": 13_500,
    "batch_size": 16,
    "image_size": 64,
    "width": 0.25,
    "perceptual": light_features,
    "autolink_steps": 3_000,
}
"""The same where there is none: those of `faces-gan`."""
MAPPING_RATE = 0.01
"""The mapping network's share of the learning rate, as in StyleGAN2."""
POSE_EVERY = 4
"""Steps from one look at the generated poses to the next, weighted up accordingly."""
HELD_OUT = 64
"""Held-out poses on which pose consistency is measured while training."""
SHOWN = 6
"""Held-out poses, and appearances, in a picture."""
LEARNER = ("autolink_steps", "perceptual")
"""Options for an AutoLink that must be trained first; when a run goes on, the AutoLink itself is compared."""


@dataclass
class Options(RunOptions):
    """Train a GAN that takes a pose from an edge map and an appearance from noise."""

    output: Path = Path("runs/gan")
    """Run folder: checkpoint, model, logs and pictures are written here."""
    autolink: str | None = None
    """The AutoLink: a shipped name, file, folder or hub id. Default: one for this data from the run folder or
    shipped; else one is trained first."""
    start_from: str | None = None
    """Begin with the networks of another run, of the same width and of the same or half the image size: its folder, a
    file that `autolink_apps.gan.beginning` wrote, or a name in `pretrained/starts/`. The AutoLink may be another."""
    autolink_steps: Open[Count] = OPEN
    """Steps to train an AutoLink for, if one must be trained; default 20,000, on a processor 3,000."""
    perceptual: Open[Features] = OPEN
    """Features of the loss of an AutoLink that must be trained: vgg16 (default), squeezenet (default on a processor),
    builtin (default there if SqueezeNet's weights cannot be had) or pyramid."""
    image_size: Open[DoubledSide] = OPEN
    """Side of the square images: 64, 128 or 256; default 128, on a processor 64."""
    width: Open[Width] = OPEN
    """Channel multiplier on the paper's networks; default 1, on a processor 0.25."""
    steps: Open[Count] = OPEN
    """Training steps in all; default 100,000, on a processor 13,500."""
    batch_size: Open[Count] = OPEN
    """Images a step, over all devices together; default 32, on a processor 16."""
    learning_rate: NotNegative = 3e-4
    """Adam's, for generator and discriminator; StyleGAN2's 2e-3 belongs to its equalised learning rates."""
    r1_gamma: NotNegative = 1.0
    """Weight γ of the R1 penalty, γ/2 · |∇D|². More on few or large images, less on many."""
    r1_every: Count = 16
    """Steps from one R1 penalty to the next, weighted up accordingly."""
    pose_weight: NotNegative = 10.0
    """Weight of the distance, as a share of the image's side, between the keypoints asked for and those that the frozen
    AutoLink finds in what the generator makes; 0 leaves the pose to the discriminator, as the paper does."""
    ema_images: Count = 10_000
    """Images after which the averaged generator has forgotten half; fewer while training begins."""
    discriminator: Literal["conditional", "unconditional"] = "conditional"
    """Whether the discriminator sees the edge map beside the image. If not, nothing holds a pose in place."""
    augment: Literal["ada", "diff", "none"] = "ada"
    """Change real and generated images alike before they are judged, for small data sets: `ada` as often as the
    discriminator's overfitting asks for, which held-out images show; `diff` always, by colour, shift and cutout."""
    accumulate: Count = 1
    """Parts that a step's batch is taken in, to save memory; the gradients are those of the whole batch."""
    metric_every: Whole = 5_000
    """Steps between measurements of the distance to the training images; 0 measures none."""
    metric_images: Count = 5_000
    """Generated, and training images, that are measured; published FIDs take 50,000 generated ones."""
    metric_features: FeatureNetwork = "auto"
    """Features of the distances: `inception` (FID, KID, precision, recall), `squeezenet` (the same under names of their
    own), or `auto`: Inception's where its weights can be had."""
    dry_run: bool = False
    """Take two steps, write nothing, print parameters, memory and speed."""

    def model_source(self, option: str) -> str:
        """As of all runs; but of a run to start from, its networks are meant and not its model."""
        source = super().model_source(option)
        return str(find_start(source)) if option == "start_from" else source


@as_asked
def train(options: Options) -> Path:
    """Train, and return the file of the trained model (`model.safetensors` in the run folder).

    Raises:
        UserError: If data, weights or options cannot be used.
    """
    options = with_defaults(options)
    if options.start_from is not None and not options.resume:
        with without_memory():
            networks = _networks(options)
        begin_with(options.start_from, networks)
    # What can be wrong with the options is found before an AutoLink is trained.
    parts = 2 * options.accumulate * (count := processes().num_processes)
    if options.batch_size % parts:
        raise UserError(
            f"--batch-size {options.batch_size} must give each of {count} processes an even number of images in each "
            f"of {options.accumulate} parts; take a multiple of {parts}"
        )
    if options.push_to_hub:
        hub.reserve(options.push_to_hub)
    with local_main_first():  # videos are decoded into a cache once
        data = open_data(options.data, options.image_size, "train", options.data_root)
        others = open_samples(options.data, options.image_size, "val", options.data_root)
        features = open_features(options.metric_features, torch.device("cpu")) if options.metric_every else None
    source = autolink_for(options.autolink, options, perceptual=options.perceptual, steps=options.autolink_steps)
    autolink = AutoLink.from_pretrained(source)
    accelerator = start(replace(options, autolink=str(source)), may_change={*MAY_CHANGE, *LEARNER})
    device, rank = accelerator.device, accelerator.process_index
    bank = spread(data, BANK)
    config = ConditionalGANConfig(options.image_size, options.width, len(bank), autolink.config)
    gan = ConditionalGAN(config).to(device).to(memory_format=torch.channels_last)
    gan.autolink.load_state_dict(autolink.state_dict())
    gan.poses.copy_(detect_samples(gan.autolink, bank).xy)
    held_out = spread(others, HELD_OUT)
    held_out_poses = detect_samples(gan.autolink, held_out).xy
    examples = unit_from_bytes(torch.stack([sample.image for sample in held_out]).to(device))
    held_out_real, held_out_maps = signed_from_unit(examples), gan.condition(held_out_poses)
    mark = {"pose_error_real": real_pose_error(gan.autolink, examples)}
    distances = None
    if features is not None:
        distances = Distances(accelerator, gan, data, features.to(device), options.metric_images)

    judge = _discriminator(options).to(device).to(memory_format=torch.channels_last)
    generator, discriminator = gan.generator, judge
    ema = Ema(generator, decay=0.5 ** (options.batch_size / options.ema_images))
    if options.start_from and not options.resume:
        new = begin_with(options.start_from, {"generator": generator, "discriminator": discriminator, "ema": ema})
        logger.warning("begun with %s; %d tensors of its networks are new", find_start(options.start_from), new)
    gan.generator = ema.module  # what is shown, measured and saved is the average

    adam = partial(torch.optim.Adam, lr=options.learning_rate, betas=(0.0, 0.99), fused=True)
    # At full speed the mapping network drifts to one large w for all noise, and appearances collapse into one.
    mapping: dict[str, Any] = {
        "params": generator.mapping.parameters(),
        "lr": options.learning_rate * MAPPING_RATE,
    }
    rest = [p for name, p in generator.named_parameters() if not name.startswith("mapping.")]
    generator_adam = adam([{"params": rest}, mapping])
    discriminator_adam = adam(discriminator.parameters())
    generator, discriminator, generator_adam, discriminator_adam = accelerator.prepare(
        generator, discriminator, generator_adam, discriminator_adam
    )
    guards = {
        "generator": FiniteGuard(accelerator, generator_adam, "generator"),
        "discriminator": FiniteGuard(accelerator, discriminator_adam, "discriminator"),
    }
    adaptive = AdaptiveAugmentation(accelerator, options.batch_size) if options.augment == "ada" else None
    policy = {"ada": adaptive, "diff": augment, "none": None}[options.augment]
    conditional = options.discriminator == "conditional"
    training_poses = TrainingPoses(accelerator, gan.autolink)
    game = Game(accelerator, generator, discriminator, policy, conditional, gan.autolink)
    modules = {"generator": generator, "discriminator": discriminator, "ema": ema}
    optimizers = {"generator": generator_adam, "discriminator": discriminator_adam}
    stateful: dict[str, FiniteGuard | AdaptiveAugmentation] = {**guards}
    if adaptive:
        stateful["adaptive"] = adaptive
    step = 0
    if options.resume:
        step, states = load_checkpoint(accelerator, options.output, modules, optimizers)
        for name in stateful.keys() & states:
            stateful[name].restore(states[name])
    log = RunLog(accelerator, options.output, step)
    stop = Stop(accelerator)
    batches = endless_loader(data, options, accelerator, step)
    progress = StepBar(accelerator, options, step, "generator and discriminator")
    values: dict[str, Tensor] = {}
    measured: dict[str, float] = {}
    logged, since = step, time.perf_counter()

    def held_out_logit(count: int) -> Tensor:
        """Of `count` held-out images, others at each step and in each process, seen as the training images are."""
        first = (step * accelerator.num_processes + rank) * count
        chosen = (first + torch.arange(count, device=device)) % len(held_out)
        draws = seeded_generator(options.seed, step, rank, "held-out images")
        return game.mean_logit(held_out_real[chosen], held_out_maps[chosen], draws)

    while step < options.steps and not stop.came:
        draws = seeded_generator(options.seed, step, rank, "gan")
        images = next(batches).image
        real, poses = to_network(images, device), training_poses(images)
        z = torch.randn(len(real), NOISE_SIZE, generator=draws).to(device)
        parts = Batch(real, gan.condition(poses), z, poses).split(options.accumulate)

        r1_weight = options.r1_gamma / 2 * options.r1_every if step % options.r1_every == 0 else 0.0
        turn = game.discriminator_turn(parts, draws, r1_weight)
        if guards["discriminator"].step(turn.values["loss_discriminator"]):
            values |= turn.values
            if adaptive and due(step + 1, INTERVAL):
                held_out_mean = held_out_logit(len(parts[0].real))
                adaptive.observe(values["logit_real"], held_out_mean, values["logit_fake"])
        pose_weight = options.pose_weight * POSE_EVERY if step % POSE_EVERY == 0 else 0.0
        seen = game.generator_turn(parts, turn.fakes, draws, pose_weight)
        if guards["generator"].step(seen["loss_generator"]):
            values |= seen
        ema.update_parameters(accelerator.unwrap_model(generator))
        step += 1
        progress.update()

        last = step == options.steps
        if due(step, options.log_every) or last:
            values["logit_held_out"] = held_out_logit(len(parts[0].real))
            means = {k: accelerator.reduce(v, reduction="mean").item() for k, v in values.items()}
            values.clear()
            speed = (step - logged) * options.batch_size / (time.perf_counter() - since)
            counts = {"skipped": sum(guard.skipped for guard in guards.values()), "images_per_second": speed}
            controlled = adaptive.numbers() if adaptive else {}
            log.numbers(step, {"images": step * options.batch_size, **means, **controlled, **counts})
            progress.set_postfix({name: f"{value:.2f}" for name, value in means.items() if name.startswith("loss")})
        looked = due(step, options.sample_every) or last
        compared = distances if due(step, options.metric_every) or last else None
        if looked and accelerator.is_main_process:
            gan.update_w_average()
            measured |= pose_consistency(gan, held_out_poses) | mark
            log.numbers(step, {name: measured[name] for name in measured if name.startswith("pose_error")})
            shown = labelled_grid(gan, held_out_poses[:SHOWN], fixed_noise(SHOWN, device))
            log.picture(step, "samples", shown)
        if compared is not None:
            found = compared.measure()
            measured |= found
            if found:
                log.numbers(step, {"images": step * options.batch_size, **found})
        if (looked or compared is not None) and accelerator.is_main_process and find_spec("matplotlib"):
            draw_curve([options.output], options.output / "curve.png")
        if stop.asked() or due(step, options.save_every) or last:
            require_finite_weights(accelerator, modules, step)
            if accelerator.is_main_process:
                about = {
                    "data": data.name,
                    "steps": step,
                    "torch": torch.__version__,
                    "options": as_json(options),
                }
                gan.update_w_average()
                gan.save_pretrained(options.output, about)
            states = {name: part.state() for name, part in stateful.items()}
            save_checkpoint(accelerator, options.output, step, modules, optimizers, states)
        if due(step, options.log_every) or last:
            logged, since = step, time.perf_counter()  # what was measured and saved in between does not count
    progress.close()
    log.close()
    stop.leave(options.output, step, options.steps)
    model = options.output / "model.safetensors"
    if options.push_to_hub and accelerator.is_main_process:
        hub.push(options.push_to_hub, model, measured)
    return model


def _networks(options: Options) -> dict[str, nn.Module]:
    """Those that a start has, untrained."""
    generator = Generator(options.image_size, options.width)
    return {"generator": generator, "discriminator": _discriminator(options), "ema": Ema(generator)}


def _discriminator(options: Options) -> Discriminator:
    channels = 4 if options.discriminator == "conditional" else 3
    return Discriminator(options.image_size, options.width, channels, minibatch_std=True)


def with_defaults(options: Options) -> Options:
    """The options with all that was left open decided, for the device; and say so."""
    defaults = ON_PROCESSOR if on_processor() else ON_GPU
    if options.autolink is not None:  # none will be trained
        defaults = {name: value for name, value in defaults.items() if name not in LEARNER}
    asked, options = options, decided(options, defaults)
    if on_processor() and not options.resume:
        say_what_was_decided(asked, options, FOR_PROCESSOR)
    return options


@command
def main() -> None:
    """Entry point of `accelerate launch apps/gan/train.py`."""
    options = with_defaults(options_of(Options, __doc__))
    if options.dry_run:
        rehearse(options, train)
    else:
        train(options)


if __name__ == "__main__":
    main()
