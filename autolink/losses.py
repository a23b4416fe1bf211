"""Perceptual reconstruction loss (Eq. 6), as one of the feature extractors of `features.py` sees images.

The paper writes the squared L2 distance of features; the official code takes the mean absolute difference, which is
the default here because it reproduces the published numbers.

Shapes: B batch, S image side.
"""

from __future__ import annotations

import warnings
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from autolink.errors import UserError
from autolink.features import FEATURES, Features, NetworkFeatures

Norm = Literal["l1", "l2"]


class PerceptualLoss(nn.Module):
    """Distance between images as a frozen feature extractor sees them.

    Args:
        features: One of `FEATURES`.
        norm: `l1` (official code) or `l2` (Eq. 6) between features.
        input_size: Side to which images are resized before the extractor; None leaves them as they are, but
            for images too small for the network. The official code uses 224 with VGG16.

    Raises:
        UserError: If the extractor's weights are neither on this machine nor to be downloaded.
    """

    def __init__(self, features: Features = "vgg16", norm: Norm = "l1", input_size: int | None = None) -> None:
        super().__init__()
        extractor = FEATURES[features]
        self.features = extractor.open()
        self.standardise, self.smallest = not extractor.alike, extractor.smallest
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
        size = self.input_size or max(images.shape[-1], self.smallest)
        if size != images.shape[-1]:
            images = functional.interpolate(images, size=size, mode="bilinear", align_corners=False)
        return self.features(images)


def light_features() -> Features:
    """What a processor learns well from and soon: SqueezeNet's features if they can be had, else the shipped ones."""
    try:
        PerceptualLoss("squeezenet")
    except UserError:
        return "builtin"
    return "squeezenet"


def lpips_distance() -> nn.Module:
    """LPIPS 0.1 on SqueezeNet: from two (B, 3, S, S) in [−1, 1] to (B, 1, 1, 1); frozen.

    The ImageNet weights are found as for `PerceptualLoss`; the package brings those that were calibrated.

    Raises:
        UserError: If the weights are neither on this machine nor to be downloaded.
    """
    import lpips  # seconds, which training need not wait

    network = PerceptualLoss("squeezenet").features
    assert isinstance(network, NetworkFeatures)
    features = network.layers.state_dict()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lpips calls torchvision as one did before its 0.13
        distance = lpips.LPIPS(net="squeeze", pnet_rand=True, verbose=False)
    trunk = distance.net  # its layers keep torchvision's numbers within slices: slice3.6.squeeze.weight
    trunk.load_state_dict({name: features[name.split(".", 1)[1]] for name in trunk.state_dict()})
    return distance.requires_grad_(False)


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
