"""What the networks share: widths, resampling and the two convolution blocks of Figure 8.

Shapes: B batch, C channels, H W pixels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
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
    return _Up.apply(x) if x.device.type == "cpu" and x.requires_grad else _double(x)


def _double(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


class _Up(torch.autograd.Function):
    """Bilinear doubling whose gradient is a depthwise convolution, which processors run faster than its loop."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _double(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        taps = grad.new_tensor([0.25, 0.75, 0.75, 0.25])
        channels = grad.shape[1]
        kernel = torch.outer(taps, taps).expand(channels, 1, 4, 4).contiguous()
        edges_repeated = functional.pad(grad, (1, 1, 1, 1), mode="replicate")
        return functional.conv2d(edges_repeated, kernel, stride=2, groups=channels)


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


class ConvDown(nn.Conv2d):
    """Conv-Down as one convolution: a k×k kernel averaged over 2×2 offsets is a (k+1)×(k+1) kernel of stride 2.

    The same function of the same parameters as `down(conv(x))`, to rounding and with the same borders, for 4/9 of
    the multiplications if k is 3.
    """

    def __init__(self, inputs: int, outputs: int, kernel_size: int = 3, bias: bool = True) -> None:
        super().__init__(inputs, outputs, kernel_size, padding=kernel_size // 2, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) → (B, outputs, H/2, W/2); H, W even."""
        return functional.conv2d(x, self.kernel(), self.bias, stride=2, padding=self.padding)

    def kernel(self) -> Tensor:
        """(outputs, inputs, k + 1, k + 1): what the input is convolved with."""
        offsets = ((0, 1, 0, 1), (1, 0, 0, 1), (0, 1, 1, 0), (1, 0, 1, 0))
        a, b, c, d = (functional.pad(self.weight, offset) for offset in offsets)
        return (a + b + c + d) / 4


def conv_bn_relu(inputs: int, outputs: int) -> list[nn.Module]:
    """`Conv-BN-LReLU`; the convolution has no bias because the normalisation has one."""
    return [conv(inputs, outputs, bias=False), nn.BatchNorm2d(outputs), nn.LeakyReLU(LEAKY_SLOPE, inplace=True)]
