"""Pose transfer: a UNet turns an edge map into an image with the looks of a source (Appendix C.2, Figure 8d).

`appearance="bottleneck"` is the paper's: the source is seen only as an 8²×512 feature beside the UNet's
smallest one. `appearance="warped"` adds, at every scale, the source's features moved to the driving pose
(`warp.py`), and blends the painted image with the warped source itself, which keeps identity and background.

The rule for sizes: a feature map of side r has min(512, 8192 / r) channels, times the width, and the UNet
goes down to side 8. So 128² is 128²×64, 64²×128, 32²×256, 16²×512, 8²×512 as in Figure 8; 64² begins at
64²×128 and 256² at 256²×32.

Shapes: B batch, K keypoints, S side of the network's images, R side of the source and of the result, r side of a
feature map, C its channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from autolink.adversarial import SMALLEST_SIDE, channels_at, initialise
from autolink.batching import Batches
from autolink.inference import Precision
from autolink.layers import LEAKY_SLOPE, ConvDown, conv, up
from autolink.model import AutoLink, AutoLinkConfig
from autolink.pixels import signed_from_unit
from autolink.ranges import DoubledSide, Width, check
from autolink.tracking.confidence import WindowDetector
from autolink.weights import PretrainedModel

from .composing import Sketch, compose, finished, settle
from .warp import MotionNet, resized, warp

Appearance = Literal["bottleneck", "warped"]


class Encoder(nn.Module):
    """Conv-LReLU, then Conv-LReLU-Conv-Down-LReLU blocks to 8² (no normalisation)."""

    def __init__(self, inputs: int, sides: list[int], width: float) -> None:
        super().__init__()
        channels = [channels_at(side, width) for side in sides]
        self.activation = nn.LeakyReLU(LEAKY_SLOPE)
        self.stem = nn.Sequential(conv(inputs, channels[0]), self.activation)
        self.blocks = nn.ModuleList(
            nn.Sequential(conv(i, o), self.activation, ConvDown(o, o), self.activation) for i, o in pairwise(channels)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, inputs, S, S) → features (B, C, r, r) from r = S to r = 8."""
        features = [self.stem(x.contiguous(memory_format=torch.channels_last))]
        for block in self.blocks:
            features.append(block(features[-1]))
        return features


class Source(NamedTuple):
    """A source image as the network knows it: encode once, drive with any number of poses."""

    pixels: Tensor
    """(B, 3, R, R) in [−1, 1], at the size that results have."""
    images: Tensor
    """(B, 3, S, S) in [−1, 1], as the network sees them."""
    keypoints: Tensor
    """(B, K, 2)."""
    edge_map: Tensor
    """(B, 1, S, S)."""
    features: list[Tensor]
    """(B, C, r, r) from r = S to r = 8."""

    def expand(self, batch: int) -> Source:
        """The same source for each of `batch` poses (views, no copies); one source only."""

        def each(x: Tensor) -> Tensor:
            return x.expand(batch, *x.shape[1:])

        return Source(
            each(self.pixels),
            each(self.images),
            each(self.keypoints),
            each(self.edge_map),
            [each(x) for x in self.features],
        )


class TransferNet(nn.Module):
    """UNet from a driving edge map and a source to an image.

    Args:
        image_size: Side S of the images: 64, 128 or 256 (any power of two from 16 works).
        width: Channel multiplier on the paper's sizes.
        appearance: `bottleneck` (the paper's) or `warped`.
    """

    def __init__(self, image_size: int = 128, width: float = 1.0, appearance: Appearance = "warped") -> None:
        super().__init__()
        check("image size", DoubledSide, image_size)
        sides = [image_size]
        while sides[-1] > SMALLEST_SIDE:
            sides.append(sides[-1] // 2)
        self.edge_encoder = Encoder(1, sides, width)
        self.appearance_encoder = Encoder(3, sides, width)
        self.motion = MotionNet(image_size, width) if appearance == "warped" else None
        skips = 2 if self.motion else 1
        inputs = 2 * channels_at(SMALLEST_SIDE, width)  # of the edge map and of the appearance
        blocks = []
        for side in reversed(sides[:-1]):  # Up, concatenate the shortcuts, then (Conv-LReLU)×2
            outputs = channels_at(side, width)
            blocks.append(
                nn.Sequential(
                    conv(inputs + skips * outputs, outputs),
                    nn.LeakyReLU(LEAKY_SLOPE),
                    conv(outputs, outputs),
                    nn.LeakyReLU(LEAKY_SLOPE),
                )
            )
            inputs = outputs
        self.decoder = nn.ModuleList(blocks)
        self.to_image = conv(inputs, 4 if self.motion else 3)
        # Without normalisation, the signal would fade over twenty layers of the default initialisation.
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                initialise(module)
        for head in [self.to_image] + ([self.motion.head] if self.motion else []):
            nn.init.normal_(head.weight, std=1e-2)  # near grey, and near the keypoints' own motion

    def encode(self, images: Tensor, keypoints: Tensor, edge_map: Tensor) -> Source:
        """Look at the source: images (B, 3, S, S) in [−1, 1], keypoints (B, K, 2), edge map (B, 1, S, S)."""
        return Source(images, images, keypoints, edge_map, self.appearance_encoder(images))

    def drive(self, source: Source, keypoints: Tensor, edge_map: Tensor) -> Sketch:
        """The source in poses (B, K, 2) with edge maps (B, 1, S, S)."""
        *skips, x = self.edge_encoder(edge_map)
        x = torch.cat([x, source.features[-1]], dim=1)
        if self.motion:
            motion = self.motion(source.images, source.keypoints, source.edge_map, keypoints, edge_map)
        for block, skip, looks in zip(self.decoder, reversed(skips), reversed(source.features[:-1])):
            shortcuts = [skip]
            if self.motion:
                visible = resized(motion.visibility, (looks.shape[-2], looks.shape[-1]))
                shortcuts.append(warp(looks, motion.flow) * visible.to(looks.dtype))
            x = block(torch.cat([up(x), *shortcuts], dim=1))
        x = self.to_image(x).float()
        if not self.motion:
            return Sketch(x)
        painted, blend = x.split([3, 1], dim=1)
        return Sketch(painted, torch.sigmoid(blend + 1), motion.flow)  # + 1: begins near the moved source

    def forward(
        self,
        images: Tensor,
        keypoints: Tensor,
        edge_map: Tensor,
        driving_keypoints: Tensor,
        driving_edge_map: Tensor,
    ) -> Tensor:
        """Images (B, 3, S, S) near [−1, 1]: `encode`, `drive` and `compose` in one call, for training."""
        sketch = self.drive(self.encode(images, keypoints, edge_map), driving_keypoints, driving_edge_map)
        return compose(sketch, images)


@dataclass(frozen=True)
class PoseTransferConfig:
    """What it takes to build a `PoseTransfer`."""

    image_size: DoubledSide = 128
    """Side of the square images in pixels, a power of two."""
    width: Width = 1.0
    """Channel multiplier on the sizes of Figure 8."""
    appearance: Appearance = "warped"
    """How the source's looks reach the result: `bottleneck` (the paper's) or `warped`."""
    autolink: AutoLinkConfig = field(default_factory=AutoLinkConfig)
    """The frozen model whose keypoints and graph drive the network."""

    def __post_init__(self) -> None:
        """Accept the nested configuration as a mapping, as a file's header holds it."""
        if isinstance(self.autolink, Mapping):
            object.__setattr__(self, "autolink", AutoLinkConfig(**self.autolink))


class PoseTransfer(PretrainedModel):
    """A frozen `AutoLink` and the network it drives; images in [0, 1]."""

    task: ClassVar[str] = "pose-transfer"
    Config: ClassVar[type] = PoseTransferConfig
    config: PoseTransferConfig

    def __init__(self, config: PoseTransferConfig) -> None:
        super().__init__(config)
        self.autolink = AutoLink(config.autolink).requires_grad_(False).eval()
        self.network = TransferNet(config.image_size, config.width, config.appearance)

    @classmethod
    def around(cls, autolink: AutoLink, image_size: int, width: float, appearance: Appearance) -> PoseTransfer:
        """A new network around a copy of a trained `AutoLink`."""
        model = cls(PoseTransferConfig(image_size, width, appearance, autolink.config))
        model.autolink.load_state_dict(autolink.state_dict())
        return model

    def window_detector(self, precision: Precision = "auto", batches: Batches | None = None) -> WindowDetector:
        """The AutoLink's detector for the squares that this network sees."""
        usual = self.metadata.get("usual_confidence")
        return WindowDetector(self.autolink, self.config.image_size, usual, precision, batches)

    def train(self, mode: bool = True) -> PoseTransfer:
        """Train the network; the `AutoLink` stays in eval mode."""
        super().train(mode)
        self.autolink.eval()
        return self

    @torch.no_grad()
    def edge_map(self, keypoints: Tensor) -> Tensor:
        """Edge map (B, 1, S, S) of poses (B, K, 2) as the network sees it: the heaviest edge scaled to 1."""
        return self.autolink.relative_edge_map(keypoints, self.config.image_size)

    def encode(self, images: Tensor, keypoints: Tensor) -> Source:
        """Look at source images (B, 3, R, R) in [0, 1] with their keypoints (B, K, 2).

        The network sees them at its own size; what is made of them has theirs.

        Raises:
            ValueError: If the images are not square, or smaller than what the network paints.
        """
        size, (height, width) = self.config.image_size, images.shape[-2:]
        if height != width or width < size:
            raise ValueError(f"encode takes squares of {size}x{size} or more, not {width}x{height}")
        pixels = signed_from_unit(images)
        if width > size:
            images = functional.interpolate(pixels, (size, size), mode="bilinear", align_corners=False, antialias=True)
        else:
            images = pixels
        return self.network.encode(images, keypoints, self.edge_map(keypoints))._replace(pixels=pixels)

    def drive(self, source: Source, keypoints: Tensor, keep_still: bool = True) -> Tensor:
        """Images (B, 3, R, R) in [0, 1] of one source, or of B sources, in poses (B, K, 2); see `sketch`."""
        return finished(self.sketch(source, keypoints, self.edge_map(keypoints), keep_still), source.pixels)

    def sketch(self, source: Source, keypoints: Tensor, edge_map: Tensor, keep_still: bool = True) -> Sketch:
        """`drive` up to the size of the result, which `finished` gives it: one frame after another, where it is large.

        Args:
            source: One, or B.
            keypoints: (B, K, 2).
            edge_map: (B, 1, S, S) of these keypoints.
            keep_still: Whether what the driver does not move stays the source's (`settle`).
        """
        if len(source.images) != len(keypoints):
            source = source.expand(len(keypoints))
        sketch = self.network.drive(source, keypoints, edge_map)
        return settle(sketch, source.keypoints, keypoints) if keep_still else sketch

    def transfer(
        self, source_images: Tensor, source_keypoints: Tensor, driving_keypoints: Tensor, keep_still: bool = True
    ) -> Tensor:
        """Put sources into poses; one source serves any number of poses.

        Args:
            source_images: (B, 3, R, R) or (1, 3, R, R) in [0, 1], of the network's size or larger.
            source_keypoints: (B, K, 2) or (1, K, 2), from `self.autolink.detect(source_images)`.
            driving_keypoints: (B, K, 2) poses *for the source*: retarget another's first (`motion.py`).
            keep_still: Whether what the driver does not move stays the source's, which training does not ask for.

        Returns:
            (B, 3, R, R) in [0, 1].
        """
        return self.drive(self.encode(source_images, source_keypoints), driving_keypoints, keep_still)
