"""A step of the GAN: modulated convolution in two forms, and what R1 costs lazily and at every step."""

from __future__ import annotations

import torch
from _measure import print_table, seconds
from accelerate import Accelerator
from torch import Tensor
from torch.nn import functional

from autolink.adversarial import Discriminator
from autolink.devices import computes_bfloat16, pick_device
from autolink_apps.gan import generator as gan
from autolink_apps.gan.augment import augment
from autolink_apps.gan.game import Batch, Game
from autolink_apps.gan.train import Options

DEVICE = pick_device()
ON_GPU = DEVICE.type == "cuda"
OPTIONS = Options(data="synthetic")
SCALING = gan.modulated_conv


def grouped_conv(x: Tensor, weight: Tensor, style: Tensor) -> Tensor:
    """StyleGAN2's own form of `modulated_conv`: a kernel an image, and a convolution with a group an image."""
    kernels = weight * style.to(weight.dtype)[:, None, :, None, None]  # (B, D, C, k, k)
    kernels = kernels * torch.rsqrt(kernels.square().sum((2, 3, 4), keepdim=True) + 1e-8)
    batch, channels, height, width = x.shape
    x = x.reshape(1, batch * channels, height, width)
    x = functional.conv2d(x, kernels.flatten(0, 1).to(x.dtype), padding=weight.shape[-1] // 2, groups=batch)
    return x.view(batch, -1, height, width)


def convolutions() -> list[tuple[object, ...]]:
    """Forward and backward of one modulated convolution in both forms."""
    dtype = torch.bfloat16 if computes_bfloat16(DEVICE) else torch.float32
    for batch, channels, side in [(16, 512, 8), (16, 512, 16), (16, 256, 32), (16, 64, 64)]:
        x = torch.randn(batch, channels, side, side, device=DEVICE, dtype=dtype)
        x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
        weight = torch.randn(channels, channels, 3, 3, device=DEVICE, requires_grad=True)
        style = torch.randn(batch, channels, device=DEVICE, requires_grad=True)

        def once(form, x=x, weight=weight, style=style):
            with torch.autocast(DEVICE.type, dtype, enabled=dtype != torch.float32):
                out = form(x, weight, style)
            return torch.autograd.grad(out.float().square().mean(), (x, weight, style))

        times = {form: [] for form in (grouped_conv, SCALING)}
        for _ in range(4):
            for form in times:
                times[form].append(seconds(lambda form=form: once(form)))
        grouped, scaling = (min(of) for of in times.values())
        size = f"{batch}×{channels}×{side}²"
        yield size, f"{grouped * 1e3:.1f}", f"{scaling * 1e3:.1f}", f"**{grouped / scaling:.1f}×**"


class Trainer:
    """The networks and one step of `apps/gan/train.py`, in one process."""

    def __init__(self, size: int, width: float, batch: int) -> None:
        like = {"device": DEVICE, "memory_format": torch.channels_last}
        accelerator = Accelerator(mixed_precision="bf16" if computes_bfloat16(DEVICE) else "no")
        generator = gan.Generator(size, width).to(**like)
        discriminator = Discriminator(size, width, 4, minibatch_std=True).to(**like)
        self.adams = [
            torch.optim.Adam(network.parameters(), 3e-4, betas=(0.0, 0.99), fused=True)
            for network in (generator, discriminator)
        ]
        self.game = Game(accelerator, *accelerator.prepare(generator, discriminator), augment)
        real = torch.rand(batch, 3, size, size, device=DEVICE).contiguous(memory_format=torch.channels_last)
        edge_maps = torch.rand(batch, 1, size, size, device=DEVICE)
        z, poses = torch.randn(batch, gan.NOISE_SIZE, device=DEVICE), torch.zeros(batch, 10, 2, device=DEVICE)
        self.parts = [Batch(real, edge_maps, z, poses)]

    def step(self, penalised: bool) -> None:
        """One update of both networks."""
        draws = torch.Generator().manual_seed(0)
        turn = self.game.discriminator_turn(self.parts, draws, float(penalised))
        self.adams[1].step()
        self.adams[1].zero_grad()
        self.game.generator_turn(self.parts, turn.fakes, draws)
        self.adams[0].step()
        self.adams[0].zero_grad()


def steps() -> list[tuple[object, ...]]:
    """Seconds per thousand images in all combinations of form and frequency."""
    cases = [(64, 1.0, 64), (128, 1.0, 64)] if ON_GPU else [(64, 0.25, 16), (128, 0.25, 16), (64, 1.0, 8)]
    for size, width, batch in cases:
        trainer = Trainer(size, width, batch)
        plain, penalised, grouped = [], [], []
        for _ in range(4):
            plain.append(seconds(lambda t=trainer: t.step(False)))
            penalised.append(seconds(lambda t=trainer: t.step(True)))
            gan.modulated_conv = grouped_conv
            grouped.append(seconds(lambda t=trainer: t.step(False)))
            gan.modulated_conv = SCALING
        without, always, other = (min(times) * 1000 / batch for times in (plain, penalised, grouped))
        lazy = without + (always - without) / OPTIONS.r1_every
        yield (
            f"{size}², width {width}, batch {batch}",
            f"{without:.1f}",
            f"**{lazy:.1f}** (+{lazy / without - 1:.0%})",
            f"{always:.1f} (+{always / without - 1:.0%})",
            f"{lazy + other - without:.1f}",
        )


def main() -> None:
    torch.manual_seed(0)
    print("One modulated convolution, forward + backward:\n")
    print_table(["batch×channels×side²", "grouped ms", "scaling ms", "faster"], convolutions())
    print(f"Seconds per thousand images (s/kimg); lazy is every {OPTIONS.r1_every} steps:\n")
    print_table(["", "without R1", "lazy R1", "R1 at every step", "lazy R1, grouped form"], steps())


if __name__ == "__main__":
    main()
