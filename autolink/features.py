"""The frozen feature extractors through which images are compared, listed in `FEATURES`.

A further one is one entry there: options, checks and messages know it by its name. Extractors take images
(B, 3, S, S) in [−1, 1] and return a list of feature maps (B, C, h, w), and run under the caller's autocast.

Shapes: B batch, S image side, C h w of a feature map.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models import WeightsEnum

from autolink.errors import UserError
from autolink.layers import conv, down
from autolink.pixels import unit_from_signed
from autolink.ranges import Count, Whole
from autolink.weights import PretrainedModel, is_finite, read_tensors, shipped_file, without_memory

Layers = TypeVar("Layers", bound=nn.Module)

SMALLEST_SIDE = 32
"""Smaller images are enlarged to this side for the networks that would reduce them to nothing."""
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class NetworkFeatures(nn.Module):
    """Activations of an ImageNet classifier of torchvision at a few of its layers.

    Args:
        classifier: Makes it; what is used of it is its `features`.
        release: Its weights.
        file: Of these, as `.safetensors` in the folder of weights.
        taps: Indices of the layers whose output is returned.
    """

    layers: nn.Sequential
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        classifier: Callable[[], models.VGG | models.SqueezeNet],
        release: WeightsEnum,
        file: str,
        taps: tuple[int, ...],
    ) -> None:
        super().__init__()
        with without_memory():  # of VGG16, what is not wanted takes most of its 553 MB, and seconds to fill
            layers = classifier().features[: taps[-1] + 1]
        self.layers = layers.to_empty(device="cpu")
        self.taps = taps
        self.layers.load_state_dict(_load_features(release, file, self.layers.state_dict()))
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
        copies[key] = copy.deepcopy(layers).to(*key).to(memory_format=torch.channels_last)
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
    """A small network that predicts SqueezeNet's four stages; `experiments.distil` trains it.

    Each stage is computed by 3×3 convolutions from the one before, and read out by a 1×1 convolution. Sizes are
    SqueezeNet's: convolutions of stride 2 have no padding.
    """

    task = "features"
    Config = FeaturesConfig

    def __init__(self, config: FeaturesConfig) -> None:
        super().__init__(config)
        inputs = (3, *config.channels)
        stages = nn.ModuleList(_stage(*sizes) for sizes in zip(inputs, config.channels, config.depths))
        heads = nn.ModuleList(
            nn.Sequential(nn.Conv2d(i, o, kernel_size=1), nn.ReLU(inplace=True))
            for i, o in zip(config.channels, config.outputs)
        )
        self.layers = nn.ModuleDict({"stages": stages, "heads": heads})
        self.copies: dict[tuple[torch.device, torch.dtype], nn.ModuleDict] = {}

    def forward(self, images: Tensor) -> list[Tensor]:
        """Feature maps (B, C, h, w) of images (B, 3, S, S) in [−1, 1]."""
        x = images.contiguous(memory_format=torch.channels_last)
        layers = self.layers if self.training else _in_autocast_precision(self.layers, x, self.copies)
        features = []
        for stage, head in zip(layers["stages"].children(), layers["heads"].children()):
            x = stage(x)
            features.append(head(x))
        return features


def _stage(inputs: int, outputs: int, depth: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, kernel_size=3, stride=2), nn.ReLU(inplace=True)]
    for _ in range(depth):
        layers += [conv(outputs, outputs), nn.ReLU(inplace=True)]
    for layer in layers[::2]:
        assert isinstance(layer, nn.Conv2d) and layer.bias is not None
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


class Extractor(NamedTuple):
    """How a feature extractor is opened, and what `PerceptualLoss` must know of it."""

    open: Callable[[], nn.Module]
    """Makes it, with its weights; a `UserError` where they cannot be had."""
    alike: bool = False
    """Whether its stages are of like magnitude, and weigh the same; else each is divided by its standard deviation."""
    smallest: int = 1
    """Side to which smaller images are enlarged."""


squeezenet = partial(
    NetworkFeatures,
    models.squeezenet1_1,
    models.SqueezeNet1_1_Weights.IMAGENET1K_V1,
    "squeezenet1_1_features.safetensors",
)

FEATURES: dict[str, Extractor] = {
    # ReLU 1_2, 2_2, 3_3 and 4_3, by their place in torchvision's list; they weigh the same in the official code, too.
    "vgg16": Extractor(
        partial(
            NetworkFeatures,
            models.vgg16,
            models.VGG16_Weights.IMAGENET1K_V1,
            "vgg16_features.safetensors",
            (3, 8, 15, 22),
        ),
        alike=True,
    ),
    # After the first ReLU and after each group of fire modules of one resolution; the last is some thirty times the
    # first.
    "squeezenet": Extractor(partial(squeezenet, (1, 4, 7, 12)), smallest=SMALLEST_SIDE),
    "builtin": Extractor(lambda: BuiltinFeatures.from_pretrained(shipped_file("features")), smallest=SMALLEST_SIDE),
    "pyramid": Extractor(PyramidFeatures),
}
"""Feature extractors by name: the paper's; one that takes a tenth of the work; one that is shipped with this package,
taught by SqueezeNet; and pixels and gradients over scales, which teach far less."""

if TYPE_CHECKING:
    Features = str
    Perceptual = str
else:
    Features = Literal[tuple(FEATURES)]
    """Names of `FEATURES`."""
    Perceptual = Literal[tuple(["lpips", *FEATURES])]
    """LPIPS on SqueezeNet as people's judgements calibrated it, or a loss of training, which nobody calibrated."""


def _load_features(release: WeightsEnum, file: str, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights in the names of torchvision's `features`: from `$AUTOLINK_WEIGHTS`, torchvision's cache, or its site.

    In `$AUTOLINK_WEIGHTS` either the tensors of `features` as `.safetensors`, or torchvision's own `.pth` file.
    """
    name = type(release).__name__.removesuffix("_Weights")  # such as SqueezeNet1_1
    original = release.url.rsplit("/", 1)[1]
    folders = [Path(os.environ["AUTOLINK_WEIGHTS"])] if os.environ.get("AUTOLINK_WEIGHTS") else []
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    for folder in [*folders, cache]:
        if (folder / file).is_file():
            state = read_tensors(folder / file)
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
