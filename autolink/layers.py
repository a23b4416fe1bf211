"""What the networks share: widths, resampling and the two convolution blocks of Figure 8.

Shapes: B batch, C channels, H W pixels.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

LEAKY_SLOPE = 0.2


def scaled(channels: int, width: float) -> int:
    """Channels of a layer at a network width of `width`: the nearest multiple of 8, at least 8."""
    return max(8, round(channels * width / 8) * 8)


def down(x: Tensor) -> Tensor:
    """Halve the resolution. On even sizes a 2×2 average is exactly bilinear interpolation by ×0.5."""
    return functional.avg_pool2d(x, 2)


def up(x: Tensor) -> Tensor:
    """Double the resolution bilinearly."""
    return functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


class Down(nn.Module):
    """`down` as a module."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H/2, W/2)."""
        return down(x)


class Up(nn.Module):
    """`up` as a module."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, 2H, 2W)."""
        return up(x)


def conv(inputs: int, outputs: int, bias: bool = True) -> nn.Conv2d:
    """A 3×3 convolution that keeps the resolution (`Conv` in Figure 8)."""
    return nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=bias)


def conv_bn_relu(inputs: int, outputs: int) -> list[nn.Module]:
    """`Conv-BN-LReLU`; the convolution has no bias because the normalisation has one."""
    return [conv(inputs, outputs, bias=False), nn.BatchNorm2d(outputs), nn.LeakyReLU(LEAKY_SLOPE)]
