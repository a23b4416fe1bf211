"""Keypoint detector: a residual network with upsampling that ends in one heatmap a keypoint (Figure 8a).

Shapes: B batch, K keypoints, S side of the input, h = S/4 side of the heatmaps.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from autolink.geometry import expected_position, heatmap_probabilities, pixel_grid
from autolink.layers import LEAKY_SLOPE, ConvDown, Up, conv, conv_bn_relu, scaled

CONFIDENCE_RADIUS = 0.2
"""Heatmap mass within this distance of a keypoint (a tenth of the image's side) counts towards its confidence."""


class Keypoints(NamedTuple):
    """Keypoints of a batch of images."""

    xy: Tensor
    """(B, K, 2) float32, `(x, y)` in [−1, 1]."""
    confidence: Tensor
    """(B, K) float32 in [0, 1]: the share of the heatmap's probability within a tenth of the image's side of the
    keypoint. Low when the detector hesitates between places, because the keypoint then lies between them."""


class ResidualDown(nn.Module):
    """Conv-Down-BN-LReLU-Conv-BN with a Conv-Down-BN shortcut added; halves the resolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            ConvDown(inputs, outputs, bias=False),
            nn.BatchNorm2d(outputs),
            nn.LeakyReLU(LEAKY_SLOPE, inplace=True),
            conv(outputs, outputs, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut = nn.Sequential(ConvDown(inputs, outputs, bias=False), nn.BatchNorm2d(outputs))
        self.activation = nn.LeakyReLU(LEAKY_SLOPE, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) → (B, outputs, H/2, W/2)."""
        return self.activation(self.body(x) + self.shortcut(x))


class KeypointDetector(nn.Module):
    """Images to heatmaps, and heatmaps to keypoints."""

    def __init__(self, keypoints: int, width: float = 1.0) -> None:
        super().__init__()
        c64, c128, c256, c512 = (scaled(c, width) for c in (64, 128, 256, 512))
        self.encoder = nn.Sequential(
            ResidualDown(3, c64), ResidualDown(c64, c128), ResidualDown(c128, c256), ResidualDown(c256, c512)
        )
        self.decoder = nn.Sequential(Up(), *conv_bn_relu(c512, c256), Up(), *conv_bn_relu(c256, c128))
        self.heatmaps = conv(c128, keypoints)

    def forward(self, images: Tensor) -> Tensor:
        """Heatmap logits (B, K, S/4, S/4) of images (B, 3, S, S) in [−1, 1]; S a multiple of 16."""
        return self.heatmaps(self.decoder(self.encoder(images)))


def locate(heatmaps: Tensor) -> Keypoints:
    """Keypoints (Eq. 1) and confidences of heatmap logits (B, K, h, w)."""
    probabilities = heatmap_probabilities(heatmaps)
    xy = expected_position(probabilities)
    grid = pixel_grid(*heatmaps.shape[-2:], device=xy.device, dtype=xy.dtype)
    near = (grid - xy[:, :, None, None]).square().sum(-1) <= CONFIDENCE_RADIUS**2  # (B, K, h, w)
    return Keypoints(xy, (probabilities * near).sum((2, 3)))
