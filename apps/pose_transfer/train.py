"""Learn pose transfer from clips: `accelerate launch apps/pose_transfer/train.py --data DIR_OF_CLIPS`.

Two frames of one clip: the edge map of one and the looks of the other give back the first (Appendix C.2). The
loss is mean squared error, perceptual distance and the adversarial loss of Eq. 7–9. Only the network learns;
the AutoLink that finds the keypoints and draws the edge maps is frozen.

Shapes: B batch, K keypoints, S image side.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from accelerate import Accelerator
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from autolink.adversarial import Discriminator, discriminator_loss, generator_loss, r1_penalty
from autolink.data import open_data
from autolink.errors import command
from autolink.losses import Features, PerceptualLoss
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
    start,
    to_network,
)
from autolink.visualize import edge_map_image, image_grid, to_uint8
from autolink_apps.pose_transfer.model import Appearance, PoseTransfer
from autolink_apps.pose_transfer.pairs import FramePairs

HELD_OUT = 64
"""Held-out pairs on which the error is measured while training."""
SHOWN = 8
"""Held-out pairs in a picture."""


@dataclass
class Options(RunOptions):
    """Train pose transfer on clips. The paper states no weights, rates or batch size: these are ours."""

    output: Path = Path("runs/pose-transfer")
    """Run folder: checkpoint, model, logs and pictures are written here."""
    autolink: str | None = None
    """Frozen AutoLink: file, folder, shipped name or hub id. Else this data's is used, or trained."""
    appearance: Appearance = "warped"
    """How the source's looks reach the result: bottleneck (the paper's) or warped (moved along, at all
    scales)."""
    mse_weight: float = 4.0
    """Weight of the mean squared error (images in [−1, 1])."""
    perceptual_weight: float = 1.0
    """Weight of the perceptual distance."""
    gan_weight: float = 0.1
    """Weight of the adversarial loss (Eq. 7); 0 trains without a discriminator."""
    r1_gamma: float = 1.0
    """Weight γ of the R1 penalty, γ/2 · |∇D|² (Eq. 9)."""
    r1_every: int = 16
    """Steps from one R1 penalty to the next, weighted up accordingly."""
    learning_rate: float = 2e-4
    """Adam's, of both networks."""
    perceptual: Features = "vgg16"
    """Features of the loss: vgg16 (the paper's), squeezenet (ten times lighter), pyramid (no weights,
    weaker)."""
    autolink_steps: int = 20_000
    """Steps to train an AutoLink for, if one must be trained."""
    keypoints: int = 16
    """Keypoints K of an AutoLink that must be trained."""


def train(options: Options) -> Path:
    """Train, and return the file of the trained model (`model.safetensors` in the run folder).

    Raises:
        UserError: If data, weights or options cannot be used.
    """
    # Opened before anything is trained, so that a mistyped path is found at once.
    with local_main_first():  # videos are decoded into a cache once
        pairs = FramePairs(open_data(options.data, options.image_size, "train", options.data_root), options.seed)
        others = FramePairs(open_data(options.data, options.image_size, "val", options.data_root))
    learner = {"perceptual": options.perceptual, "keypoints": options.keypoints}
    learner["steps"] = options.autolink_steps
    chosen = autolink_for(options.autolink, options, **learner)
    autolink = AutoLink.from_pretrained(chosen)

    accelerator = start(options)
    device = accelerator.device
    held_out = [to_network(torch.stack(images), device) for images in zip(*others.spread(HELD_OUT))]
    perceptual = PerceptualLoss(options.perceptual).to(device) if options.perceptual_weight else None

    # `model` is what is saved, sampled and measured: it holds the average of the network that learns.
    model = PoseTransfer.around(autolink, options.image_size, options.width, options.appearance).to(device)
    network = model.network.to(memory_format=torch.channels_last)
    model.network = (ema := Ema(network)).module
    adam = torch.optim.Adam(network.parameters(), options.learning_rate, betas=(0.9, 0.99), fused=True)
    network, adam = accelerator.prepare(network, adam)
    modules, optimizers = {"network": network, "ema": ema}, {"network": adam}
    if options.gan_weight:
        judge = Discriminator(options.image_size, options.width)
        judge = judge.to(device, memory_format=torch.channels_last)
        judge_adam = torch.optim.Adam(judge.parameters(), options.learning_rate, betas=(0.0, 0.99), fused=True)
        discriminator, judge_adam = accelerator.prepare(judge, judge_adam)
        modules["discriminator"], optimizers["discriminator"] = discriminator, judge_adam

    step = load_checkpoint(accelerator, options.output, modules, optimizers)[0] if options.resume else 0
    log = RunLog(accelerator, options.output, step)
    batches = endless_loader(pairs, options, accelerator, step)
    progress = tqdm(total=options.steps, initial=step, unit="step", disable=not accelerator.is_main_process)

    while step < options.steps:
        source, driving = (to_network(frames, device) for frames in next(batches))
        with accelerator.autocast():  # half precision moves keypoints by 0.04 pixels of 128, and finds them faster
            inputs = _inputs(model, source, driving)
        made = network(*inputs).float()

        losses = {"mse": functional.mse_loss(made, driving)}
        loss = options.mse_weight * losses["mse"]
        with accelerator.autocast():
            if perceptual is not None:
                losses["perceptual"] = perceptual(made, driving)
                loss = loss + options.perceptual_weight * losses["perceptual"]
            if options.gan_weight:
                # Frozen, and called without its wrapper, which would wait for gradients that never come.
                judge.requires_grad_(False)
                losses["gan"] = generator_loss(judge(made))
                judge.requires_grad_(True)
                loss = loss + options.gan_weight * losses["gan"]
        adam.zero_grad()
        accelerator.backward(loss)
        adam.step()
        ema.update_parameters(accelerator.unwrap_model(network))

        if options.gan_weight:
            penalised = step % options.r1_every == 0
            real = driving.detach().requires_grad_(penalised)
            # One forward and one backward pass: else processes would not average R1 (see `r1_penalty`).
            both = torch.cat([real, made.detach()])
            real_logits, fake_logits = discriminator(both, full_precision=penalised).chunk(2)
            losses["discriminator"] = loss = discriminator_loss(real_logits, fake_logits)
            if penalised:
                loss = loss + options.r1_gamma / 2 * options.r1_every * r1_penalty(real_logits, real)
            judge_adam.zero_grad()
            accelerator.backward(loss)
            judge_adam.step()

        step += 1
        progress.update()
        last = step == options.steps
        if step % options.log_every == 0 or last:
            values = {name: accelerator.reduce(value.detach(), "mean").item() for name, value in losses.items()}
            require_finite(sum(values.values()), step)
            log.numbers(step, values)
            progress.set_postfix({name: f"{value:.3f}" for name, value in values.items()})
        if step % options.sample_every == 0 or last:
            numbers, picture = _examine(accelerator, model, *held_out)
            log.numbers(step, numbers)
            log.picture(step, "transfers", picture)
        if step % options.save_every == 0 or last:
            save_checkpoint(accelerator, options.output, step, modules, optimizers)
            if accelerator.is_main_process:
                about = {
                    "data": pairs.frames.name,
                    "steps": step,
                    "autolink": str(chosen),
                    "torch": torch.__version__,
                }
                model.save_pretrained(options.output, {**about, "options": as_json(options)})
    progress.close()
    log.close()
    return options.output / "model.safetensors"


@torch.no_grad()
def _inputs(model: PoseTransfer, source: Tensor, driving: Tensor) -> tuple[Tensor, ...]:
    """What the network takes (`TransferNet.forward`), of images (B, 3, S, S) in [−1, 1]."""
    found = model.autolink.locate(torch.cat([source, driving])).xy
    source_keypoints, driving_keypoints = found.chunk(2)
    source_edges, driving_edges = model.edge_map(found).chunk(2)
    return source, source_keypoints, source_edges, driving_keypoints, driving_edges


@torch.no_grad()
def _examine(
    accelerator: Accelerator, model: PoseTransfer, source: Tensor, driving: Tensor
) -> tuple[dict[str, float], Tensor]:
    """Mean absolute error, over the range of values, of the averaged network and of copying the source.

    The picture's columns are source | driving | edge map | result.
    """
    inputs = _inputs(model, source, driving)
    with accelerator.autocast():
        made = [model.network(*batch).float() for batch in zip(*(x.split(SHOWN) for x in inputs))]
    made = torch.cat(made).clamp(-1, 1)
    numbers = {
        "held_out_l1": (made - driving).abs().mean().item() / 2,
        "held_out_l1_of_copying": (source - driving).abs().mean().item() / 2,
    }
    shown = slice(0, SHOWN)
    images = [
        source[shown] / 2 + 0.5,
        driving[shown] / 2 + 0.5,
        edge_map_image(inputs[-1][shown]),
        made[shown] / 2 + 0.5,
    ]
    rows = torch.stack([to_uint8(image) for image in images], dim=1).flatten(0, 1)
    return numbers, image_grid(rows, columns=len(images))


@command
def main() -> None:
    """Entry point of `apps/pose_transfer/train.py`."""
    train(tyro.cli(Options, description=__doc__))


if __name__ == "__main__":
    main()
