"""What adversarial training needs: logistic losses (Eq. 7, 8), the R1 penalty (Eq. 9), the discriminator.

The discriminator mirrors the generator of Figure 8c: residual Conv-LReLU-Conv-Down-LReLU blocks down to
8×8×512, then one linear layer; no normalisation. On demand it also sees how much the images of a batch vary.

Shapes: B batch, C channels, S side of the image.
"""

from __future__ import annotations

import math
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional

from autolink.layers import LEAKY_SLOPE, ConvDown, conv, scaled
from autolink.ranges import DoubledSide, check

SMALLEST_SIDE = 8
"""Side of the smallest feature map of discriminator and generators."""


def generator_loss(fake_logits: Tensor) -> Tensor:
    """Non-saturating generator loss, `log(1 + exp(−D(G(z))))` (Eq. 7), mean over the batch in float32."""
    return functional.softplus(-fake_logits.float()).mean()


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Logistic loss, `log(1 + exp(D(G(z)))) + log(1 + exp(−D(x)))` (Eq. 8), means in float32."""
    return functional.softplus(fake_logits.float()).mean() + functional.softplus(-real_logits.float()).mean()


def r1_penalty(real_logits: Tensor, real_images: Tensor) -> Tensor:
    """R1: squared norm of the gradient of each real image's logit, mean over the batch (Eq. 9).

    The print of Eq. 9 lacks the norm; this is the penalty of the work it cites (Mescheder et al. 2018),
    without its factor γ/2. Exact, by differentiating twice, so the logits must come from a forward pass in
    float32 (`Discriminator.forward(…, full_precision=True)`) that was not compiled.

    Add it to a loss that also depends on the logits themselves and run one `backward`. In a backward pass of
    its own the last bias gets no gradient at all, and DistributedDataParallel then skips averaging without a
    word (so does `static_graph=True`); such a pass needs `+ 0 * real_logits.sum()`.

    Args:
        real_logits: (B,) logits of the real images.
        real_images: (B, C, S, S), the tensor that the logits were computed from, with `requires_grad`.

    Returns:
        A scalar that can be differentiated with respect to the discriminator's parameters.
    """
    (gradient,) = torch.autograd.grad(real_logits.sum(), real_images, create_graph=True)
    return gradient.square().sum((1, 2, 3)).mean()


def channels_at(side: int, width: float) -> int:
    """Channels of a feature map of `side`² in generator and discriminator.

    512 up to 16², then halved with every doubling of the side: 64 at 128², as in Figure 8, and 32 at 256².
    """
    return scaled(min(512, 8192 // side), width)


class Discriminator(nn.Module):
    """One logit an image, high for real ones.

    Args:
        image_size: Side S of the images: 64, 128, 256, any power of two from 16 on.
        width: Scales the number of channels; 1 is Figure 8's.
        in_channels: 3, or more where images come with a condition, such as an edge map, as further channels.
        minibatch_std: Judge neighbours of a batch in pairs by their variation too (`pair_variation`), so that a
            generator is found out that makes the same image of every noise vector. Batches must then be even, and
            no pair may hold a real and a generated image. Without it, each logit depends on its own image alone.
    """

    def __init__(self, image_size: int, width: float = 1.0, in_channels: int = 3, minibatch_std: bool = False) -> None:
        super().__init__()
        self.minibatch_std = minibatch_std
        check("image size", DoubledSide, image_size)
        self.stem = conv(in_channels, channels_at(image_size, width))
        blocks = []
        while image_size > SMALLEST_SIDE:
            blocks.append(DownBlock(channels_at(image_size, width), channels_at(image_size // 2, width)))
            image_size //= 2
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear((channels_at(image_size, width) + minibatch_std) * image_size**2, 1)
        initialise(self.stem)
        nn.init.normal_(self.head.weight, std=self.head.in_features**-0.5)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor, full_precision: bool = False) -> Tensor:
        """Logits (B,) in float32 of images (B, C, S, S) in [−1, 1].

        Args:
            images: Real or generated images, with their condition if there is one.
            full_precision: Compute in float32 whatever autocast says, as R1 needs; autocast cannot be
                switched off from outside around a model that Accelerate prepared.
        """
        device = images.device.type
        with torch.autocast(device, enabled=False) if full_precision else nullcontext():
            if full_precision and images.dtype != torch.float64:
                images = images.float()
            features = self.blocks(functional.leaky_relu(self.stem(images), LEAKY_SLOPE))
        with torch.autocast(device, enabled=False):  # eight bits are too few for a logit
            features = features.to(self.head.weight.dtype)
            if self.minibatch_std:
                features = torch.cat([features, pair_variation(features)], dim=1)
            return self.head(features.flatten(1)).squeeze(1)


def pair_variation(features: Tensor) -> Tensor:
    """Standard deviation within each pair of neighbours, averaged over channels and places (Karras et al., 2018).

    Args:
        features: (B, C, H, W), B even.

    Returns:
        (B, 1, H, W), the same number everywhere in both images of a pair.
    """
    first, second = features.unflatten(0, (-1, 2)).unbind(1)
    deviation = ((first - second).square() / 4 + 1e-8).sqrt().mean((1, 2, 3))
    return deviation.repeat_interleave(2).view(-1, 1, 1, 1).expand(-1, 1, *features.shape[2:])


class DownBlock(nn.Module):
    """Conv-LReLU-Conv-Down-LReLU with a Conv(1×1)-Down shortcut added; halves the resolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = conv(inputs, inputs)
        self.conv_down = ConvDown(inputs, outputs)
        self.shortcut = ConvDown(inputs, outputs, kernel_size=1, bias=False)
        initialise(self.conv)
        initialise(self.conv_down)
        nn.init.normal_(self.shortcut.weight, std=inputs**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, S, S) → (B, outputs, S/2, S/2)."""
        body = functional.leaky_relu(self.conv(x), LEAKY_SLOPE)
        body = functional.leaky_relu(self.conv_down(body), LEAKY_SLOPE)
        return (body + self.shortcut(x)) * math.sqrt(0.5)  # the sum keeps the variance of its terms


def initialise(layer: nn.Conv2d | nn.Linear) -> None:
    """He initialisation for a layer that LReLU follows; biases start at zero."""
    nn.init.kaiming_normal_(layer.weight, a=LEAKY_SLOPE)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
