"""Perceptual reconstruction loss (Eq. 6) and the feature extractors it can look through.

The paper writes the squared L2 distance of features; the official code takes the mean absolute difference, which is
the default here because it reproduces the published numbers.

Shapes: B batch, S image side, C h w of a feature map.
"""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torchvision import models

from autolink.errors import UserError
from autolink.layers import down
from autolink.weights import read_tensors

Features = Literal["vgg16", "squeezenet", "pyramid"]
Norm = Literal["l1", "l2"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class PerceptualLoss(nn.Module):
    """Distance between images as a frozen feature extractor sees them.

    Args:
        features: `vgg16` (ReLU 1_2, 2_2, 3_3, 4_3; the paper's), `squeezenet` (a tenth of the work), or `pyramid`
            (pixels and gradients over scales; needs no weights and learns far less).
        norm: `l1` (official code) or `l2` (Eq. 6) between features.
        input_size: Side to which images are resized before the extractor; None leaves them as they are. The official
            code uses 224 with VGG16.

    Raises:
        UserError: If the extractor's weights are neither on this machine nor to be downloaded.
    """

    def __init__(self, features: Features = "vgg16", norm: Norm = "l1", input_size: int | None = None) -> None:
        super().__init__()
        self.features: nn.Module
        if features == "pyramid":
            self.features = PyramidFeatures()
        elif features == "vgg16":
            # ReLU 1_2, 2_2, 3_3 and 4_3 by their place in torchvision's list.
            network = models.vgg16().features[:23]
            self.features = NetworkFeatures("vgg16", network, taps=(3, 8, 15, 22))
        else:
            # After the first ReLU and after each group of fire modules of one resolution.
            network = models.squeezenet1_1().features
            self.features = NetworkFeatures("squeezenet", network, taps=(1, 4, 7, 12))
        # VGG's stages are of like magnitude and weigh the same in the official code. The others' are not:
        # SqueezeNet's last stage is some thirty times its first.
        self.standardise = features != "vgg16"
        self.power = 1 if norm == "l1" else 2
        self.input_size = input_size
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> PerceptualLoss:
        """Stay in eval mode: the extractor is frozen."""
        return super().train(False)

    def forward(self, predicted: Tensor, target: Tensor) -> Tensor:
        """Mean over stages of the distance between features.

        Args:
            predicted: (B, 3, S, S) in [−1, 1]; gradients flow to it.
            target: (B, 3, S, S) in [−1, 1].

        Returns:
            A float32 scalar. The extractor runs under the caller's autocast, distances in float32.
        """
        with torch.no_grad():
            targets = self._stages(target.detach())
        predictions = self._stages(predicted)
        losses = []
        for seen, wanted in zip(predictions, targets):
            loss = mean_difference(seen, wanted, self.power)
            if self.standardise:
                loss = loss / (_standard_deviation(wanted) + 1e-6) ** self.power
            losses.append(loss)
        return torch.stack(losses).mean()

    def _stages(self, images: Tensor) -> list[Tensor]:
        if self.input_size is not None and self.input_size != images.shape[-1]:
            images = functional.interpolate(images, size=self.input_size, mode="bilinear", align_corners=False)
        return self.features(images)


def mean_difference(predicted: Tensor, target: Tensor, power: int) -> Tensor:
    """Mean of |predicted − target|^power for a power of 1 or 2, summed in float32; differentiable in `predicted`.

    Keeps one tensor of the inputs' precision for the gradient. A difference of features in half precision is rounded
    once, and never to zero, so the gradient of the absolute value is exact.
    """
    return _MeanDifference.apply(predicted, target, power)


class _MeanDifference(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, power: int) -> Tensor:
        difference = a - b
        ctx.power = power
        ctx.save_for_backward(difference)
        return torch.linalg.vector_norm(difference, power, dtype=torch.float32) ** power / difference.numel()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (difference,) = ctx.saved_tensors
        step = difference.sign() if ctx.power == 1 else difference * 2
        return step.mul_(grad / difference.numel()), None, None


def _standard_deviation(x: Tensor) -> Tensor:
    """Standard deviation of all values, summed in float32."""
    mean_square = torch.linalg.vector_norm(x, dtype=torch.float32) ** 2 / x.numel()
    return (mean_square - x.mean(dtype=torch.float32) ** 2).clamp_min(0).sqrt()


class NetworkFeatures(nn.Module):
    """Activations of an ImageNet classifier at a few of its layers.

    Args:
        name: `vgg16` or `squeezenet`; names the file of weights.
        layers: The classifier's `features`, in torchvision's layout.
        taps: Indices of the layers whose output is returned.
    """

    def __init__(self, name: str, layers: nn.Sequential, taps: tuple[int, ...]) -> None:
        super().__init__()
        self.layers = layers[: taps[-1] + 1]
        self.taps = taps
        self.layers.load_state_dict(_load_features(name, set(self.layers.state_dict())))
        self.copies: dict[tuple[torch.device, torch.dtype], nn.Sequential] = {}
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Feature maps (B, C, h, w) of images (B, 3, S, S) in [−1, 1]."""
        x = ((images.float() + 1) / 2 - self.mean) / self.std
        x = x.contiguous(memory_format=torch.channels_last)
        stages = []
        for index, layer in enumerate(self._layers_for(x)):
            x = layer(x)
            if index in self.taps:
                stages.append(x)
        return stages

    def _layers_for(self, x: Tensor) -> nn.Sequential:
        """The layers in the precision of autocast, converted once: autocast converts frozen weights at each use."""
        kind = x.device.type
        if not torch.is_autocast_enabled(kind):
            return self.layers
        key = (x.device, torch.get_autocast_dtype(kind))
        if key not in self.copies:
            self.copies[key] = copy.deepcopy(self.layers).to(*key, memory_format=torch.channels_last)
        return self.copies[key]


class PyramidFeatures(nn.Module):
    """Pixels and their horizontal and vertical differences at four scales."""

    def forward(self, images: Tensor) -> list[Tensor]:
        """Four scales of the image, each with its gradients, as twelve maps."""
        stages = []
        x = images.float()
        for _ in range(4):
            stages += [x, x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]]
            x = down(x)
        return stages


_RELEASES = {
    "vgg16": (models.VGG16_Weights.IMAGENET1K_V1, "vgg16_features.safetensors"),
    "squeezenet": (models.SqueezeNet1_1_Weights.IMAGENET1K_V1, "squeezenet1_1_features.safetensors"),
}


def _load_features(name: str, wanted: set[str]) -> dict[str, Tensor]:
    """Weights in the names of torchvision's `features`: from `$AUTOLINK_WEIGHTS`, torchvision's cache, or its site.

    In `$AUTOLINK_WEIGHTS` either the tensors of `features` as `.safetensors`, or torchvision's own `.pth` file.
    """
    release, converted = _RELEASES[name]
    original = release.url.rsplit("/", 1)[1]
    folders = [Path(os.environ["AUTOLINK_WEIGHTS"])] if os.environ.get("AUTOLINK_WEIGHTS") else []
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    for folder in [*folders, cache]:
        if (folder / converted).is_file():
            state = read_tensors(folder / converted)
            break
        if (folder / original).is_file():
            state = torch.load(folder / original, map_location="cpu", weights_only=True)
            break
    else:
        try:
            state = release.get_state_dict(progress=True, check_hash=True)
        except (OSError, RuntimeError) as error:  # urllib's errors are OSErrors; a wrong hash is a RuntimeError
            raise UserError(
                f"the {name} weights are not on this machine and could not be downloaded; put {original} from "
                f"{release.url} into {folders[0] if folders else cache} (or set AUTOLINK_WEIGHTS to its folder), or "
                "run with --perceptual pyramid, which needs no weights but learns less"
            ) from error
    state = {key.removeprefix("features."): value for key, value in state.items()}
    missing = wanted - set(state)
    if missing:
        raise UserError(
            f"the {name} weights found lack {sorted(missing)[0]} and {len(missing) - 1} more; get {original} again"
        )
    return {key: value for key, value in state.items() if key in wanted}
