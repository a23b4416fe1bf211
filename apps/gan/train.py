"""Train the conditional GAN of Appendix C.1: `accelerate launch apps/gan/train.py --data DIR`.

Poses come from a frozen AutoLink; the generator gives each the looks that a noise vector asks for, and the
discriminator judges image and edge map together.

Shapes: B batch, K keypoints, S image side.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from autolink.adversarial import (
    Discriminator,
    check_image_size,
    discriminator_loss,
    generator_loss,
    r1_penalty,
)
from autolink.data import open_data
from autolink.errors import UserError, command
from autolink.losses import Features
from autolink.model import AutoLink
from autolink.train import autolink_for
from autolink.training import (
    Ema,
    RunLog,
    RunOptions,
    as_json,
    endless_loader,
    load_checkpoint,
    local_main_first,
    require_finite,
    save_checkpoint,
    seeded_generator,
    start,
    to_network,
)
from autolink_apps.gan.augment import augment
from autolink_apps.gan.generator import NOISE_SIZE, ConditionalGAN, ConditionalGANConfig
from autolink_apps.gan.sample import labelled_grid

MAPPING_RATE = 0.01
"""The mapping network's share of the learning rate, as in StyleGAN2."""
BANK = 256
"""Poses of training images that go into the model's file."""
HELD_OUT = 64
"""Held-out poses on which pose consistency is measured while training."""
SHOWN = 6
"""Held-out poses, and appearances, in a picture."""


@dataclass
class Options(RunOptions):
    """Train a GAN that takes a pose from an edge map and an appearance from noise."""

    output: Path = Path("runs/gan")
    """Run folder: checkpoint, model, logs and pictures are written here."""
    autolink: str | None = None
    """The AutoLink: a shipped name, file, folder or hub id. Default: one for this data from the run folder or
    shipped; else one is trained first."""
    autolink_steps: int = 20_000
    """Steps to train an AutoLink for, if one must be trained."""
    perceptual: Features = "vgg16"
    """Features of the loss of an AutoLink that must be trained: vgg16, squeezenet or pyramid."""
    steps: int = 100_000
    """Training steps in all."""
    batch_size: int = 32
    """Images a step, over all devices together."""
    learning_rate: float = 3e-4
    """Adam's, for generator and discriminator; StyleGAN2's 2e-3 belongs to its equalised learning rates."""
    r1_gamma: float = 1.0
    """Weight γ of the R1 penalty, γ/2 · |∇D|². More on few or large images, less on many."""
    r1_every: int = 16
    """Steps from one R1 penalty to the next, weighted up accordingly."""
    ema_images: int = 10_000
    """Images after which the averaged generator has forgotten half; fewer while training begins."""
    discriminator: Literal["conditional", "unconditional"] = "conditional"
    """Whether the discriminator sees the edge map beside the image. If not, nothing holds a pose in place."""
    augment: Literal["diff", "none"] = "diff"
    """`diff` changes real and generated images alike before they are judged: for small data sets."""


def train(options: Options) -> Path:
    """Train, and return the file of the trained model (`model.safetensors` in the run folder).

    Raises:
        UserError: If data, weights or options cannot be used.
    """
    # What can be wrong with the options is found before an AutoLink is trained.
    check_image_size(options.image_size)
    with local_main_first():  # videos are decoded into a cache once
        data = open_data(options.data, options.image_size, "train", options.data_root)
        held_out = open_data(options.data, options.image_size, "val", options.data_root)
    learner = {"perceptual": options.perceptual, "steps": options.autolink_steps}
    source = autolink_for(options.autolink, options, **learner)
    autolink = AutoLink.from_pretrained(source)
    accelerator = start(options)
    if options.batch_size // accelerator.num_processes % 2:
        raise UserError(f"--batch-size {options.batch_size} must give each process an even number of images")
    device, rank = accelerator.device, accelerator.process_index
    config = ConditionalGANConfig(options.image_size, options.width, min(BANK, len(data)), autolink.config)
    gan = ConditionalGAN(config).to(device, memory_format=torch.channels_last)
    gan.autolink.load_state_dict(autolink.state_dict())
    gan.poses.copy_(poses_of(gan.autolink, data, config.poses))
    held_out_poses = poses_of(gan.autolink, held_out, min(HELD_OUT, len(held_out)))

    channels = 4 if options.discriminator == "conditional" else 3
    judge = Discriminator(options.image_size, options.width, channels, minibatch_std=True)
    judge = judge.to(device, memory_format=torch.channels_last)
    generator, discriminator = gan.generator, judge
    ema = Ema(generator, decay=0.5 ** (options.batch_size / options.ema_images))
    gan.generator = ema.module  # what is shown, measured and saved is the average

    adam = {"lr": options.learning_rate, "betas": (0.0, 0.99), "fused": True}
    # At full speed the mapping network drifts to one large w for all noise, and appearances collapse into one.
    mapping = {"params": generator.mapping.parameters(), "lr": options.learning_rate * MAPPING_RATE}
    others = [p for name, p in generator.named_parameters() if not name.startswith("mapping.")]
    generator_adam = torch.optim.Adam([{"params": others}, mapping], **adam)
    discriminator_adam = torch.optim.Adam(discriminator.parameters(), **adam)
    generator, discriminator, generator_adam, discriminator_adam = accelerator.prepare(
        generator, discriminator, generator_adam, discriminator_adam
    )
    modules = {"generator": generator, "discriminator": discriminator, "ema": ema}
    optimizers = {"generator": generator_adam, "discriminator": discriminator_adam}
    step = load_checkpoint(accelerator, options.output, modules, optimizers)[0] if options.resume else 0
    log = RunLog(accelerator, options.output, step)
    batches = endless_loader(data, options, accelerator, step)
    progress = tqdm(total=options.steps, initial=step, unit="step", disable=not accelerator.is_main_process)
    values: dict[str, Tensor] = {}

    while step < options.steps:
        real = to_network(next(batches).image, device)
        with accelerator.autocast():
            poses = gan.autolink.detect((real + 1) / 2).xy
        edge_maps = gan.condition(poses)
        draws = seeded_generator(options.seed, step, rank, "gan")
        z = torch.randn(len(real), NOISE_SIZE, generator=draws)
        fake = generator(edge_maps, z.to(device))

        # Discriminator. R1 is part of the one backward pass, for DistributedDataParallel's sake (see `r1_penalty`).
        penalised = step % options.r1_every == 0
        real.requires_grad_(penalised)
        real_logits = discriminator(to_judge(real, edge_maps, draws, options), full_precision=penalised)
        fake_logits = discriminator(to_judge(fake.detach(), edge_maps, draws, options))
        loss = discriminator_loss(real_logits, fake_logits)
        values["loss_discriminator"] = loss.detach()
        if penalised:
            penalty = r1_penalty(real_logits, real)
            values["r1"] = penalty.detach()
            loss = loss + options.r1_gamma / 2 * options.r1_every * penalty
        discriminator_adam.zero_grad()
        accelerator.backward(loss)
        discriminator_adam.step()

        # Generator, on the same images. The discriminator is frozen, and called without its wrapper, which
        # would wait for gradients that never come.
        judge.requires_grad_(False)
        loss = generator_loss(judge(to_judge(fake, edge_maps, draws, options)))
        values["loss_generator"] = loss.detach()
        generator_adam.zero_grad()
        accelerator.backward(loss)
        generator_adam.step()
        judge.requires_grad_(True)
        ema.update_parameters(accelerator.unwrap_model(generator))
        values["logit_real"], values["logit_fake"] = real_logits.detach().mean(), fake_logits.detach().mean()
        step += 1
        progress.update()

        last = step == options.steps
        if step % options.log_every == 0 or last:
            means = {k: accelerator.reduce(v, reduction="mean").item() for k, v in values.items()}
            require_finite(means["loss_generator"] + means["loss_discriminator"], step)
            log.numbers(step, {"images": step * options.batch_size, **means})
            progress.set_postfix(D=f"{means['loss_discriminator']:.2f}", G=f"{means['loss_generator']:.2f}")
        if accelerator.is_main_process and (step % options.sample_every == 0 or last):
            gan.update_w_average()
            log.numbers(step, pose_consistency(gan, held_out_poses))
            shown = labelled_grid(gan, held_out_poses[:SHOWN], fixed_noise(SHOWN, device))
            log.picture(step, "samples", shown)
        if step % options.save_every == 0 or last:
            save_checkpoint(accelerator, options.output, step, modules, optimizers)
            if accelerator.is_main_process:
                about = {
                    "data": data.name,
                    "steps": step,
                    "torch": torch.__version__,
                    "options": as_json(options),
                }
                gan.update_w_average()
                gan.save_pretrained(options.output, about)
    progress.close()
    log.close()
    return options.output / "model.safetensors"


def to_judge(images: Tensor, edge_maps: Tensor, draws: torch.Generator, options: Options) -> Tensor:
    """What the discriminator sees of images (B, 3, S, S) with edge maps (B, 1, S, S): (B, 3 or 4, S, S)."""
    if options.discriminator == "conditional":
        images = torch.cat([images, edge_maps], dim=1)
    return augment(images, draws) if options.augment == "diff" else images


def poses_of(autolink: AutoLink, data: Dataset, count: int) -> Tensor:
    """Keypoints (count, K, 2) of images spread evenly over a data set."""
    picked = [index * len(data) // count for index in range(count)]
    found = []
    for start_at in range(0, count, 32):
        images = torch.stack([data[index].image for index in picked[start_at : start_at + 32]])
        found.append(autolink.detect(images.float() / 255).xy)
    return torch.cat(found)


def fixed_noise(count: int, device: torch.device) -> Tensor:
    """The same noise (count, 256) whenever it is asked for, so that pictures of a run can be compared."""
    return torch.randn(count, NOISE_SIZE, generator=seeded_generator(0, 0, 0, "shown")).to(device)


def pose_consistency(gan: ConditionalGAN, poses: Tensor) -> dict[str, float]:
    """How well generated images keep the poses (P, K, 2) they were made from.

    Returns:
        `pose_error`: mean distance between the keypoints asked for and those found again in the image, in
        percent of its side; and `pose_error_chance`: the same against poses of other images, which is what a
        generator scores that ignores its edge map.
    """
    found = gan.autolink.detect(gan.sample(poses, fixed_noise(len(poses), poses.device))).xy
    error = (found - poses).norm(dim=-1).mean() / 2 * 100
    chance = (found - poses.roll(1, 0)).norm(dim=-1).mean() / 2 * 100
    return {"pose_error": error.item(), "pose_error_chance": chance.item()}


@command
def main() -> None:
    """Entry point of `accelerate launch apps/gan/train.py`."""
    train(tyro.cli(Options, description=__doc__))


if __name__ == "__main__":
    main()
