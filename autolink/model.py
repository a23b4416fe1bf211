"""AutoLink: detector, graph and decoder as one model (Figure 2).

Shapes: B batch, K keypoints, E = K(K−1)/2 edges, H W pixels, S image side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.functional import pil_to_tensor

from autolink.decoder import InpaintingDecoder
from autolink.detector import KeypointDetector, Keypoints, locate
from autolink.edges import EdgeGraph
from autolink.geometry import from_pixels, to_pixels
from autolink.weights import PretrainedModel

MAX_DETECTOR_SIZE = 128
"""The detector never sees more than 128² pixels (paper and official code); larger images are resized to it."""


@dataclass(frozen=True)
class AutoLinkConfig:
    """What it takes to build an `AutoLink`."""

    keypoints: int = 10
    """Number of keypoints K."""
    thickness: float = 5e-4
    """σ² of the edges (Eq. 2)."""
    image_size: int = 128
    """Side of the square images in pixels, a multiple of 16."""
    width: float = 1.0
    """Channel multiplier on the sizes of Figure 8."""
    learn_alpha: bool = True
    """Whether α of Eq. 5 is learned."""


class Reconstruction(NamedTuple):
    """What one pass through the autoencoder yields."""

    images: Tensor
    """(B, 3, S, S) reconstruction, around [−1, 1]."""
    keypoints: Tensor
    """(B, K, 2)."""
    edge_map: Tensor
    """(B, 1, S, S)."""


class AutoLink(PretrainedModel):
    """Keypoints linked by a shared graph, learned from unlabelled images of one kind of object."""

    task: ClassVar[str] = "autolink"
    Config: ClassVar[type] = AutoLinkConfig
    config: AutoLinkConfig

    def __init__(self, config: AutoLinkConfig) -> None:
        super().__init__(config)
        self.detector = KeypointDetector(config.keypoints, config.width)
        self.graph = EdgeGraph(config.keypoints, config.thickness)
        self.decoder = InpaintingDecoder(config.width, config.learn_alpha)

    @property
    def edge_weights(self) -> Tensor:
        """(E,) positive weights over i < j, row by row."""
        return self.graph.weights

    def locate(self, images: Tensor) -> Keypoints:
        """Keypoints of images (B, 3, H, W) in [−1, 1], with gradients; the networks' own entrance."""
        size = min(self.config.image_size, MAX_DETECTOR_SIZE)
        if images.shape[-2:] != (size, size):
            images = functional.interpolate(
                images, size=(size, size), mode="bilinear", align_corners=False, antialias=True
            )
        return locate(self.detector(images.contiguous(memory_format=torch.channels_last)))

    def forward(self, images: Tensor, mask: Tensor) -> Reconstruction:
        """Reconstruct images from their keypoints and their visible patches (Eq. 5).

        Args:
            images: (B, 3, S, S) in [−1, 1].
            mask: (B, 1, S, S), 1 where visible (`patch_mask`).
        """
        keypoints = self.locate(images).xy
        edge_map = self.graph(keypoints, images.shape[-2:])
        masked = (images * mask).contiguous(memory_format=torch.channels_last)
        return Reconstruction(self.decoder(masked, edge_map), keypoints, edge_map)

    @torch.no_grad()
    def detect(self, images: Tensor | Sequence[Image.Image]) -> Keypoints:
        """Find keypoints.

        Args:
            images: (B, 3, H, W) floats in [0, 1] of any size, or PIL images of any sizes. Of an image that is not
                square the centre square is seen, as in training; keypoints refer to the whole image.

        Returns:
            Keypoints (B, K, 2) in [−1, 1] and their confidences (B, K), on the model's device.

        Raises:
            ValueError: If a tensor is not (B, 3, H, W), or not floating point.
        """
        device = self.edge_weights.device
        if isinstance(images, Tensor):
            if images.dim() != 4 or images.shape[1] != 3 or not images.is_floating_point():
                raise ValueError(
                    f"detect takes floats (B, 3, H, W) in [0, 1], not {images.dtype} {tuple(images.shape)}"
                )
            batches = [images]
        else:
            batches = [pil_to_tensor(image.convert("RGB"))[None].float() / 255 for image in images]
            if len({batch.shape for batch in batches}) == 1:
                batches = [torch.cat(batches)]
        training = self.training
        self.eval()
        found = [self._detect_in_centre(batch.to(device)) for batch in batches]
        self.train(training)
        return Keypoints(torch.cat([f.xy for f in found]), torch.cat([f.confidence for f in found]))

    def _detect_in_centre(self, images: Tensor) -> Keypoints:
        """`detect` on a batch of one size."""
        height, width = images.shape[-2:]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        square = images[..., top : top + side, left : left + side]
        found = self.locate(square * 2 - 1)
        pixels = to_pixels(found.xy, side, side) + found.xy.new_tensor([left, top])
        return Keypoints(from_pixels(pixels, height, width), found.confidence)

    def edge_map(self, keypoints: Tensor, size: int | tuple[int, int]) -> Tensor:
        """Draw the learned graph at keypoints (B, K, 2): (B, 1, H, W) in [0, max weight], differentiable."""
        return self.graph(keypoints, size)


def load(source: str | Path, device: torch.device | str = "cpu") -> AutoLink:
    """Load an AutoLink by shipped name, file, folder or hub id, in eval mode.

    Raises:
        UserError: If there is no such model, or it is damaged or made for another task.
    """
    return AutoLink.from_pretrained(source, device)
