"""What makes a trained network fast without changing its answers: fewer layers, and half precision where it pays.

`fold` is exact up to rounding: in eval mode BatchNorm is a linear map of its convolution's output, so the two are one
convolution, also where the convolution's outputs are averaged over 2×2 (`ConvDown`).
"""

from __future__ import annotations

from typing import Literal, TypeVar

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from autolink.devices import computes_bfloat16
from autolink.layers import ConvDown

Precision = Literal["auto", "float32", "bfloat16"]
"""In what networks compute. `auto` takes bfloat16 where the device has units for it. Keypoints, edges and flows are
computed in float32 in any case."""

Model = TypeVar("Model", bound=nn.Module)


def fold(model: Model) -> Model:
    """Make a trained model fast, in place: same answers, but it can be neither trained nor saved any more.

    In every `nn.Sequential`, a `BatchNorm2d` that follows a convolution becomes part of it, and a `ConvDown` computes
    its kernel once. All weights are laid out channels last.

    Returns:
        The model, in eval mode and without gradients.
    """
    model.eval().requires_grad_(False)
    for layers in [module for module in model.modules() if isinstance(module, nn.Sequential)]:
        for index, layer in enumerate(layers):
            before = layers[index - 1] if index else None
            if isinstance(layer, ConvDown):
                layers[index] = _plain(layer)
            elif isinstance(layer, nn.BatchNorm2d) and isinstance(before, nn.Conv2d):
                layers[index - 1] = fuse_conv_bn_eval(before, layer)
                layers[index] = nn.Identity()  # the others keep their places
    return model.to(memory_format=torch.channels_last)


def _plain(layer: ConvDown) -> nn.Conv2d:
    """The same as a plain convolution of stride 2."""
    kernel, biased = layer.kernel(), layer.bias is not None
    padding = layer.kernel_size[0] // 2
    plain = nn.Conv2d(layer.in_channels, layer.out_channels, kernel.shape[-1], 2, padding, bias=biased)
    plain.weight, plain.bias = nn.Parameter(kernel, requires_grad=False), layer.bias
    return plain.eval()


def half_precision(device: torch.device, wanted: Precision = "auto") -> torch.autocast:
    """Autocast to bfloat16, or none, for a block in which networks run on the device."""
    enabled = wanted == "bfloat16" or (wanted == "auto" and computes_bfloat16(device))
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)
