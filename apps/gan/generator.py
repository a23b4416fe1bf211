"""The conditional GAN of Figure 8c: an edge map says where things are, noise says what they look like.

    edge map ─► bicubic 32² ─► Conv-LReLU-Down 16²×128 ─► Conv-LReLU-Down 8²×512 ─┐
    z (256) ─► three Linear-LReLU ─► w (256) ─► styles ────────────┐              ▼
                          residual blocks WeightMod-LReLU-WeightMod-LReLU-Up to S² ─► Conv ─► image

StyleGAN2 without noise injection, equalised learning rates and path regularisation, and with the structure's
feature map where StyleGAN2 has a constant.

Shapes: B batch, K keypoints, C channels, S side of the image, P poses, N appearances, L modulated convolutions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from autolink.adversarial import SMALLEST_SIDE, channels_at, initialise
from autolink.layers import LEAKY_SLOPE, conv, down, scaled, up
from autolink.model import AutoLink, AutoLinkConfig
from autolink.pixels import unit_from_signed
from autolink.ranges import Count, DoubledSide, Width, check
from autolink.weights import PretrainedModel

NOISE_SIZE = 256
"""Length of the noise z."""
STYLE_SIZE = 256
"""Length of the embedding w."""
STRUCTURE_SIDE = 32
"""The edge map is brought to this side before the first convolution."""


def modulated_conv(x: Tensor, weight: Tensor, style: Tensor) -> Tensor:
    """Convolve each image with its own kernel, `weight · style` demodulated to unit norm (StyleGAN2).

    A kernel's style scales its input channels and its demodulation scales its output channels, so both can be
    applied to the images around one convolution that all of them share. That equals building B kernels and a
    grouped convolution, without the memory for them.

    Args:
        x: (B, C, H, W).
        weight: (D, C, k, k), k odd.
        style: (B, C).

    Returns:
        (B, D, H, W).
    """
    with torch.autocast(x.device.type, enabled=False):
        style = style.to(weight.dtype)
        # Demodulation undoes any factor in the style; without a large one, half precision cannot overflow.
        style = style / style.abs().amax(1, keepdim=True).clamp_min(1e-8)
        norm = style.square() @ weight.square().sum((2, 3)).T
        demodulation = torch.rsqrt(norm + 1e-8)  # (B, D)
    x = functional.conv2d(x * style[:, :, None, None].to(x.dtype), weight, padding=weight.shape[-1] // 2)
    return x * demodulation[:, :, None, None].to(x.dtype)


class ModulatedConv(nn.Module):
    """WeightMod: a 3×3 convolution whose kernel is modulated by the embedding w."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, 3, 3))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.style = nn.Linear(STYLE_SIZE, inputs)
        nn.init.normal_(self.weight, std=(inputs * 9) ** -0.5)
        nn.init.normal_(self.style.weight, std=STYLE_SIZE**-0.5)
        nn.init.ones_(self.style.bias)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """(B, inputs, H, W) and (B, 256) → (B, outputs, H, W)."""
        x = modulated_conv(x, self.weight, self.style(w))
        return x + self.bias[:, None, None].to(x.dtype)


class UpBlock(nn.Module):
    """WeightMod-LReLU-WeightMod-LReLU-Up with a Conv(1×1)-Up shortcut added; doubles the resolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = ModulatedConv(inputs, outputs)
        self.second = ModulatedConv(outputs, outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, kernel_size=1, bias=False)
        nn.init.normal_(self.shortcut.weight, std=inputs**-0.5)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """(B, inputs, H, W) and (B, 2, 256), an embedding for each convolution → (B, outputs, 2H, 2W)."""
        body = functional.leaky_relu(self.first(x, w[:, 0]), LEAKY_SLOPE)
        body = functional.leaky_relu(self.second(body, w[:, 1]), LEAKY_SLOPE)
        return up(body + self.shortcut(x))


def mapping_network() -> nn.Sequential:
    """Noise z (B, 256) to embedding w (B, 256): three Linear-LReLU."""
    layers: list[nn.Module] = []
    for inputs in (NOISE_SIZE, STYLE_SIZE, STYLE_SIZE):
        linear = nn.Linear(inputs, STYLE_SIZE)
        initialise(linear)
        layers += [linear, nn.LeakyReLU(LEAKY_SLOPE)]
    return nn.Sequential(*layers)


class StructureEncoder(nn.Module):
    """Edge map (B, 1, H, W) to the feature map F (B, 512, 8, 8) that the generator starts from."""

    def __init__(self, width: float) -> None:
        super().__init__()
        middle = scaled(128, width)
        self.first = conv(1, middle)
        self.second = conv(middle, channels_at(SMALLEST_SIDE, width))
        initialise(self.first)
        initialise(self.second)
        # Far from every edge the input is zero: start there from a constant of unit variance, as StyleGAN2
        # does.
        assert self.second.bias is not None
        nn.init.normal_(self.second.bias)

    def forward(self, edge_map: Tensor) -> Tensor:
        """(B, 1, H, W) → (B, 512, 8, 8)."""
        size = (STRUCTURE_SIDE, STRUCTURE_SIDE)
        # Antialiased, or an edge thinner than a cell of the 32² grid falls between its samples.
        return self.encode(functional.interpolate(edge_map.float(), size, mode="bicubic", antialias=True))

    def encode(self, edge_map: Tensor) -> Tensor:
        """`forward` from the edge map at 32² on: (B, 1, 32, 32) → (B, 512, 8, 8)."""
        x = down(functional.leaky_relu(self.first(edge_map), LEAKY_SLOPE))
        return down(functional.leaky_relu(self.second(x), LEAKY_SLOPE))


class Generator(nn.Module):
    """Edge maps and noise to images.

    Args:
        image_size: Side S of the images: 64, 128, 256, any power of two from 16 on.
        width: Scales the number of channels; 1 is Figure 8's.
    """

    def __init__(self, image_size: int, width: float = 1.0) -> None:
        super().__init__()
        check("image size", DoubledSide, image_size)
        self.mapping = mapping_network()
        self.structure = StructureEncoder(width)
        blocks = []
        side = SMALLEST_SIDE
        while side < image_size:
            blocks.append(UpBlock(channels_at(side, width), channels_at(2 * side, width)))
            side *= 2
        self.blocks = nn.ModuleList(blocks)
        self.to_image = conv(channels_at(image_size, width), 3)
        nn.init.normal_(self.to_image.weight, std=(self.to_image.in_channels * 9) ** -0.5)
        assert self.to_image.bias is not None
        nn.init.zeros_(self.to_image.bias)

    @property
    def layers(self) -> int:
        """Number L of modulated convolutions, from the coarsest on: two a doubling of the resolution."""
        return 2 * len(self.blocks)

    def per_layer(self, w: Tensor) -> Tensor:
        """Embeddings (B, 256) repeated for every layer, (B, L, 256); what has layers already stays as it is."""
        return w[:, None].expand(-1, self.layers, -1) if w.dim() == 2 else w

    def forward(self, edge_map: Tensor, z: Tensor) -> Tensor:
        """Images (B, 3, S, S) of edge maps (B, 1, H, W) in [0, 1] and noise (B, 256).

        The last convolution is linear: images learn to lie in [−1, 1] and are clamped only where they are
        shown.
        """
        return self.synthesise(edge_map, self.mapping(z))

    def synthesise(self, edge_map: Tensor, w: Tensor) -> Tensor:
        """`forward` from the embedding w on: (B, 256), or (B, L, 256) with one for each modulated convolution."""
        return self.paint(self.structure(edge_map), w)

    def paint(self, structure: Tensor, w: Tensor) -> Tensor:
        """`synthesise` from the structure's feature map (B, 512, 8, 8) on."""
        x = structure.contiguous(memory_format=torch.channels_last)
        w = self.per_layer(w)
        for number, block in enumerate(self.blocks):
            x = block(x, w[:, 2 * number : 2 * number + 2])
        return self.to_image(x).float() if x.dtype != torch.float64 else self.to_image(x)


@dataclass(frozen=True)
class ConditionalGANConfig:
    """What it takes to build a `ConditionalGAN`."""

    image_size: DoubledSide = 128
    """Side of the images: a power of two from 16 on."""
    width: Width = 1.0
    """Channel multiplier on the sizes of Figure 8."""
    poses: Count = 256
    """Number of poses in the bank."""
    autolink: AutoLinkConfig = field(default_factory=AutoLinkConfig)
    """The model whose edge map is the condition."""

    def __post_init__(self) -> None:
        """Restore the nested configuration that came out of a file's header as a dictionary."""
        if isinstance(self.autolink, Mapping):
            object.__setattr__(self, "autolink", AutoLinkConfig(**self.autolink))


class ConditionalGAN(PretrainedModel):
    """A generator with the frozen AutoLink whose poses it follows: all that sampling needs, in one file.

    `poses` (P, K, 2) is a bank of poses from the training images, and `w_average` (256,) the mean embedding
    that truncation pulls towards.
    """

    task: ClassVar[str] = "gan"
    Config: ClassVar[type] = ConditionalGANConfig
    config: ConditionalGANConfig
    poses: Tensor
    w_average: Tensor

    def __init__(self, config: ConditionalGANConfig) -> None:
        super().__init__(config)
        self.autolink = AutoLink(config.autolink).requires_grad_(False).eval()
        self.generator = Generator(config.image_size, config.width)
        self.register_buffer("poses", torch.zeros(config.poses, config.autolink.keypoints, 2))
        self.register_buffer("w_average", torch.zeros(STYLE_SIZE))

    def train(self, mode: bool = True) -> ConditionalGAN:
        """Set the generator's mode; the AutoLink stays in eval mode."""
        super().train(mode)
        self.autolink.eval()
        return self

    def condition(self, keypoints: Tensor) -> Tensor:
        """The generator's input for keypoints (B, K, 2): edge maps (B, 1, S, S), strongest edge at 1."""
        return self.autolink.relative_edge_map(keypoints, self.config.image_size)

    @torch.no_grad()
    def update_w_average(self, count: int = 4096) -> None:
        """Set `w_average` to the mean embedding of `count` fixed draws of noise."""
        z = torch.randn(count, NOISE_SIZE, generator=torch.Generator().manual_seed(0))
        self.w_average.copy_(self.generator.mapping(z.to(self.w_average.device)).mean(0))

    @torch.no_grad()
    def sample(self, keypoints: Tensor, z: Tensor, truncation: float = 1.0) -> Tensor:
        """Images with given poses and appearances.

        Args:
            keypoints: (B, K, 2) in [−1, 1].
            z: (B, 256), standard normal.
            truncation: ψ of the truncation trick; 1 samples what was learned, towards 0 appearances get more
                typical and less varied.

        Returns:
            (B, 3, S, S) in [0, 1].
        """
        return self.paint(keypoints, self.embed(z, truncation))

    @torch.no_grad()
    def sample_grid(self, keypoints: Tensor, z: Tensor, truncation: float = 1.0) -> Tensor:
        """Every pose (P, K, 2) with every appearance (N, 256), row by row: (P, N, 3, S, S) in [0, 1]."""
        return self.paint_grid(keypoints, self.embed(z, truncation))

    @torch.no_grad()
    def embed(self, z: Tensor, truncation: float = 1.0) -> Tensor:
        """Embeddings w (B, 256) of noise (B, 256), pulled towards their mean by the truncation (see `sample`)."""
        return self.w_average.lerp(self.generator.mapping(z).to(self.w_average), truncation)

    @torch.no_grad()
    def paint(self, keypoints: Tensor, w: Tensor) -> Tensor:
        """Images of poses (B, K, 2) and embeddings (B, 256) or, one a layer, (B, L, 256): (B, 3, S, S) in [0, 1]."""
        return unit_from_signed(self.generator.synthesise(self.condition(keypoints), w).clamp(-1, 1))

    @torch.no_grad()
    def paint_grid(self, keypoints: Tensor, w: Tensor) -> Tensor:
        """Every pose (P, K, 2) with every embedding (N, 256) or (N, L, 256): (P, N, 3, S, S) in [0, 1]."""
        return torch.stack([self.paint(pose.expand(len(w), -1, -1), w) for pose in keypoints])

    def mix(self, coarse: Tensor, fine: Tensor, crossover: int) -> Tensor:
        """Style mixing: the first `crossover` layers follow one embedding, the finer ones another.

        Args:
            coarse: (B, 256) or (B, L, 256).
            fine: Likewise.
            crossover: 0 to L.

        Returns:
            (B, L, 256).
        """
        coarse, fine = self.generator.per_layer(coarse), self.generator.per_layer(fine)
        return torch.cat([coarse[:, :crossover], fine[:, crossover:]], dim=1)
