"""Keypoint detectors: networks from an image to one heatmap a keypoint, and from heatmaps to keypoints.

`DETECTORS` lists them by the name that a configuration carries. `paper` is Figure 8a, which begins at random;
`efficientnet-lite0` begins with features of ImageNet and learns about ten times as fast.

Shapes: B batch, K keypoints, S side of the input, h = S/4 side of the heatmaps.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from torch import Tensor, nn

from autolink.backbone import EfficientNetLite0
from autolink.geometry import expected_position, heatmap_probabilities, pixel_grid
from autolink.layers import LEAKY_SLOPE, ConvDown, Up, conv, conv_bn_relu, scaled, up

CONFIDENCE_RADIUS = 0.2
"""Heatmap mass within this distance of a keypoint (a tenth of the image's side) counts towards its confidence."""


DetectorName = Literal["paper", "efficientnet-lite0"]
"""Names of `DETECTORS`."""
PYRAMID, FINEST = 96, 64
"""Channels where the trunk's three feature maps are added up, and in front of the heatmaps."""


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
    """Figure 8a: a residual network with upsampling, from images to heatmaps."""

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


class PretrainedDetector(nn.Module):
    """A trunk that knows ImageNet, whose feature maps at strides 16, 8 and 4 are added up on the way to heatmaps.

    Args:
        keypoints: Number of keypoints K.
        width: Not used: the trunk has the size it was trained at.
    """

    def __init__(self, keypoints: int, width: float = 1.0) -> None:
        super().__init__()
        self.trunk = EfficientNetLite0()
        self.lateral = nn.ModuleList(nn.Conv2d(channels, PYRAMID, 1) for channels in self.trunk.channels)
        self.decoder = nn.Sequential(*conv_bn_relu(PYRAMID, PYRAMID), *conv_bn_relu(PYRAMID, FINEST))
        self.heatmaps = conv(FINEST, keypoints)

    def forward(self, images: Tensor) -> Tensor:
        """Heatmap logits (B, K, S/4, S/4) of images (B, 3, S, S) in [−1, 1]; S a multiple of 16."""
        fine, middle, coarse = (lateral(x) for lateral, x in zip(self.lateral, self.trunk(images)))
        return self.heatmaps(self.decoder(fine + up(middle + up(coarse))))


DETECTORS: dict[DetectorName, type[KeypointDetector] | type[PretrainedDetector]] = {
    "paper": KeypointDetector,
    "efficientnet-lite0": PretrainedDetector,
}
"""Every detector, made from the number of keypoints and the width of the networks."""


def locate(heatmaps: Tensor) -> Keypoints:
    """Keypoints (Eq. 1) and confidences of heatmap logits (B, K, h, w)."""
    probabilities = heatmap_probabilities(heatmaps)
    xy = expected_position(probabilities)
    grid = pixel_grid(*heatmaps.shape[-2:], device=xy.device, dtype=xy.dtype)
    near = (grid - xy[:, :, None, None]).square().sum(-1) <= CONFIDENCE_RADIUS**2  # (B, K, h, w)
    return Keypoints(xy, (probabilities * near).sum((2, 3)))
