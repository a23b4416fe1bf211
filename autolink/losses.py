"""Perceptual reconstruction loss (Eq. 6) and the feature extractors it can look through.

The paper writes the squared L2 distance of features; the official code takes the mean absolute difference, which is
the default here because it reproduces the published numbers.

Shapes: B batch, S image side, C h w of a feature map.
"""

from __future__ import annotations

import copy
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from scipy.sparse.csgraph import minimum_spanning_tree
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torchvision import models

from autolink.errors import UserError
from autolink.layers import conv, down
from autolink.pixels import unit_from_signed
from autolink.ranges import Count, Whole
from autolink.weights import PretrainedModel, is_finite, read_tensors, shipped_file

Features = Literal["vgg16", "squeezenet", "builtin", "pyramid"]
Norm = Literal["l1", "l2"]

Layers = TypeVar("Layers", bound=nn.Module)

KNOT = 0.01
"""Squared size of a pose, half the image's side being 1, below which its shape is not compared."""
SMALLEST_SIDE = 32
"""Smaller images are enlarged to this side for the networks that would reduce them to nothing."""
LINKED_SHARE = 0.3
"""Share of the heaviest edge's weight that links of the tree are held above: more than the fifth from which
`graph.connectedness` counts an edge as seen, so that they stay seen."""
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class PerceptualLoss(nn.Module):
    """Distance between images as a frozen feature extractor sees them.

    Args:
        features: `vgg16` (ReLU 1_2, 2_2, 3_3, 4_3; the paper's), `squeezenet` (a tenth of the work), `builtin` (shipped
            with this package, taught by SqueezeNet), or `pyramid` (pixels and gradients over scales; learns far less).
        norm: `l1` (official code) or `l2` (Eq. 6) between features.
        input_size: Side to which images are resized before the extractor; None leaves them as they are, but
            for images too small for the network (`SMALLEST_SIDE`). The official code uses 224 with VGG16.

    Raises:
        UserError: If the extractor's weights are neither on this machine nor to be downloaded.
    """

    def __init__(self, features: Features = "vgg16", norm: Norm = "l1", input_size: int | None = None) -> None:
        super().__init__()
        self.features: nn.Module
        if features == "pyramid":
            self.features = PyramidFeatures()
        elif features == "builtin":
            self.features = BuiltinFeatures.from_pretrained(shipped_file("features"))
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
        self.smallest = SMALLEST_SIDE if features in ("squeezenet", "builtin") else 1
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

    features = PerceptualLoss("squeezenet").features.layers.state_dict()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lpips calls torchvision as one did before its 0.13
        distance = lpips.LPIPS(net="squeeze", pnet_rand=True, verbose=False)
    trunk = distance.net  # its layers keep torchvision's numbers within slices: slice3.6.squeeze.weight
    trunk.load_state_dict({name: features[name.split(".", 1)[1]] for name in trunk.state_dict()})
    return distance.requires_grad_(False)


def disagreement(keypoints: Tensor, clips: Sequence[str]) -> Tensor:
    """How differently shaped the clips' mean poses are, whatever their places and sizes: 0 (alike) to 1.

    Reconstruction alone may give a keypoint one meaning on one individual and another on the next, since visible
    patches tell the decoder who it is. Two individuals that are filmed alike take similar poses on average.

    Args:
        keypoints: (B, K, 2).
        clips: The clip of each image of the batch.
    """
    members = [torch.tensor([clip == one for clip in clips], device=keypoints.device) for one in sorted(set(clips))]
    means = torch.stack([keypoints[those].mean(0) for those in members])
    centred = (means - means.mean(1, keepdim=True)).float()
    # A knot of keypoints has no shape yet, and counts little.
    shapes = centred / (centred.square().sum((1, 2), keepdim=True) + KNOT).sqrt()
    return (shapes - shapes.mean(0)).square().sum((1, 2)).mean()


def faintness(weights: Tensor, count: int, share: float = LINKED_SHARE) -> Tensor:
    """How far the tree of the heaviest edges, which links all keypoints, is from being seen: 0 when all of it is.

    Reconstruction alone asks for pairs: an edge says where its two ends are, and faint edges cost a decoder nothing
    that amplifies them. The graph then falls into pieces.

    Args:
        weights: (E,) positive, over i < j row by row.
        count: Number of keypoints K.
        share: Of the heaviest weight, from which an edge is seen.

    Returns:
        Mean over the tree's edges of how much fainter than `share` they are, as a logarithm; differentiable in
        `weights`.
    """
    first, second = torch.triu_indices(count, count, 1)
    heavy = torch.zeros(count, count, dtype=torch.float64)
    heavy[first, second] = weights.detach().double().cpu()
    tree = torch.from_numpy(minimum_spanning_tree(-heavy.numpy()).toarray())[first, second] != 0
    relative = weights[tree.to(weights.device)] / weights.max()
    return (math.log(share) - relative.log()).clamp_min(0).mean()


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
        self.layers.load_state_dict(_load_features(name, self.layers.state_dict()))
        self.copies: dict[tuple[torch.device, torch.dtype], nn.Sequential] = {}
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Feature maps (B, C, h, w) of images (B, 3, S, S) in [−1, 1]."""
        x = (unit_from_signed(images.float()) - self.mean) / self.std
        x = x.contiguous(memory_format=torch.channels_last)
        stages = []
        for index, layer in enumerate(self._layers_for(x)):
            x = layer(x)
            if index in self.taps:
                stages.append(x)
        return stages

    def _layers_for(self, x: Tensor) -> nn.Sequential:
        return _in_autocast_precision(self.layers, x, self.copies)


def _in_autocast_precision(layers: Layers, x: Tensor, copies: dict[tuple[torch.device, torch.dtype], Layers]) -> Layers:
    """Frozen layers in the precision of autocast, converted once: autocast would convert them at each use."""
    kind = x.device.type
    if not torch.is_autocast_enabled(kind):
        return layers
    key = (x.device, torch.get_autocast_dtype(kind))
    if key not in copies:
        copies[key] = copy.deepcopy(layers).to(*key, memory_format=torch.channels_last)
    return copies[key]


@dataclass(frozen=True)
class FeaturesConfig:
    """What `BuiltinFeatures` is built from."""

    channels: tuple[Count, ...] = (32, 64, 128, 224)
    """Channels of the layers of each stage; a stage begins with a convolution of stride 2."""
    depths: tuple[Whole, ...] = (0, 1, 2, 2)
    """Further convolutions of each stage."""
    outputs: tuple[Count, ...] = (64, 128, 256, 512)
    """Feature maps of each stage, as many as the teacher has."""


class BuiltinFeatures(PretrainedModel):
    """A small network that predicts SqueezeNet's four stages; `autolink.distil` trains it.

    Each stage is computed by 3×3 convolutions from the one before, and read out by a 1×1 convolution. Sizes are
    SqueezeNet's: convolutions of stride 2 have no padding.
    """

    task = "features"
    Config = FeaturesConfig

    def __init__(self, config: FeaturesConfig) -> None:
        super().__init__(config)
        inputs = (3, *config.channels)
        self.layers = nn.ModuleDict(
            {
                "stages": nn.ModuleList(_stage(*sizes) for sizes in zip(inputs, config.channels, config.depths)),
                "heads": nn.ModuleList(
                    nn.Sequential(nn.Conv2d(i, o, kernel_size=1), nn.ReLU(inplace=True))
                    for i, o in zip(config.channels, config.outputs)
                ),
            }
        )
        self.copies: dict[tuple[torch.device, torch.dtype], nn.ModuleDict] = {}

    def forward(self, images: Tensor) -> list[Tensor]:
        """Feature maps (B, C, h, w) of images (B, 3, S, S) in [−1, 1]."""
        x = images.contiguous(memory_format=torch.channels_last)
        layers = self.layers if self.training else _in_autocast_precision(self.layers, x, self.copies)
        features = []
        for stage, head in zip(layers["stages"], layers["heads"]):
            x = stage(x)
            features.append(head(x))
        return features


def _stage(inputs: int, outputs: int, depth: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, kernel_size=3, stride=2), nn.ReLU(inplace=True)]
    for _ in range(depth):
        layers += [conv(outputs, outputs), nn.ReLU(inplace=True)]
    for layer in layers[::2]:
        nn.init.kaiming_normal_(layer.weight)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)


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


def _load_features(name: str, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
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
            state = _read_release(folder / original, release.url)
            break
    else:
        try:
            state = release.get_state_dict(progress=True, check_hash=True)
        except (OSError, RuntimeError) as error:  # urllib's errors are OSErrors; a wrong hash is a RuntimeError
            raise UserError(
                f"the {name} weights are not on this machine and could not be downloaded; put {original} from "
                f"{release.url} into {folders[0] if folders else cache} (or set AUTOLINK_WEIGHTS to its folder), or "
                "run with --perceptual builtin, whose weights are shipped"
            ) from error
    state = {key.removeprefix("features."): value for key, value in state.items()}
    unlike = [key for key, value in wanted.items() if key not in state or state[key].shape != value.shape]
    if unlike:
        raise UserError(
            f"the {name} weights found lack {unlike[0]} and {len(unlike) - 1} more, or have them in another shape; get "
            f"{original} again"
        )
    return {key: state[key] for key in wanted}


def _read_release(path: Path, url: str) -> dict[str, Tensor]:
    """Torchvision's own file of weights, of which nothing is run.

    Raises:
        UserError: If it is cut off, or something else.
    """
    try:
        state = dict(torch.load(path, map_location="cpu", weights_only=True))
        if not all(is_finite(value) for value in state.values()):
            raise ValueError("not a finite number everywhere")
        return state
    except Exception as error:  # of a damaged file torch raises almost anything
        reason = " ".join(str(error).split())[:80] or type(error).__name__
        raise UserError(
            f"{path} is cut off or damaged ({reason}); delete it, and it is downloaded again, or get it from {url}"
        ) from error
