"""Dense motion from the source to the driving pose: what `appearance="warped"` adds to the paper's UNet.

The keypoints of the two poses give a smooth flow in closed form (`keypoint_flow`). A small network then says,
from both edge maps and the source warped by that flow, which pixels follow it (the background usually does
not), what to add to it, and how far the warped source is to be believed (occlusion). Everything here is
geometry and runs in float32.

Shapes: B batch, K keypoints, H W pixels, F side of the flow. A flow points from each pixel of the driving
frame to the place in the source frame that moves there, `(x, y)` in normalised units; 0 is no motion.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from autolink.geometry import pixel_grid
from autolink.layers import LEAKY_SLOPE, conv, down, scaled, up

SOFTNESS = 0.1
"""Keypoints closer to a pixel than this (5 % of the image's side) share it; beyond, the nearest rules."""
RIGIDITY = 3e-2
"""Pull of each local affine map towards a translation, against the mean squared distance of the keypoints it
is fitted to. Decides where keypoints lie on a line, and keeps far pixels from flying off."""
RESIDUAL = 0.1
"""Displacement for one unit of the network's output."""


def keypoint_flow(source: Tensor, driving: Tensor, size: int) -> Tensor:
    """Flow that carries the source keypoints to the driving ones, by moving least squares.

    At every pixel, the affine map that takes driving to source keypoints with the least squared error,
    weighted by inverse squared distance to the pixel (Schaefer et al., SIGGRAPH 2006), with a ridge towards
    translation.

    Args:
        source: (B, K, 2) keypoints of the source.
        driving: (B, K, 2) keypoints of the driving pose.
        size: Side F of the flow.

    Returns:
        (B, 2, F, F) float32; 0 where the poses are equal.
    """
    with torch.autocast(driving.device.type, enabled=False):  # half precision is too coarse for positions
        source, driving = source.float(), driving.float()
        grid = pixel_grid(size, size, device=driving.device).flatten(0, 1)  # (F², 2)
        weights = 1 / (torch.cdist(grid.expand(driving.shape[0], -1, -1), driving).square() + SOFTNESS**2)
        weights = weights / weights.sum(-1, keepdim=True)  # (B, F², K)

        # Flow = mean displacement + linear map of the pixel's offset from the mean of the driving keypoints.
        displacement = source - driving
        mean, mean_displacement = weights @ driving, weights @ displacement  # (B, F², 2)
        covariance = weights @ _outer(driving, driving) - _outer(mean, mean)  # (B, F², 4)
        coupling = weights @ _outer(driving, displacement) - _outer(mean, mean_displacement)
        a, b, _, d = covariance.unbind(-1)
        a, d = a + RIGIDITY, d + RIGIDITY
        x, y = (grid - mean).unbind(-1)
        solved = torch.stack([d * x - b * y, a * y - b * x], dim=-1) / (a * d - b * b).unsqueeze(-1)
        flow = mean_displacement + (solved.unsqueeze(-2) @ coupling.unflatten(-1, (2, 2))).squeeze(-2)
        return flow.transpose(1, 2).unflatten(-1, (size, size))


def _outer(a: Tensor, b: Tensor) -> Tensor:
    """(..., 2), (..., 2) → (..., 4): all products."""
    return (a[..., :, None] * b[..., None, :]).flatten(-2)


def resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (B, C, h, w) at another size (H, W), bilinearly."""
    if maps.shape[-2:] == size:
        return maps
    return functional.interpolate(maps, size, mode="bilinear", align_corners=False)


def warp(features: Tensor, flow: Tensor) -> Tensor:
    """Fetch (B, C, H, W) features along a flow (B, 2, F, F) resized to H × W; outside, the border repeats."""
    height, width = features.shape[-2:]
    flow = resized(flow.float(), (height, width))
    positions = pixel_grid(height, width, device=flow.device) + flow.permute(0, 2, 3, 1)
    # Sampled in float32: half precision would round positions to whole pixels.
    sampled = functional.grid_sample(features.float(), positions, padding_mode="border", align_corners=False)
    return sampled.to(features.dtype)


class Motion(NamedTuple):
    """How the source moves to the driving pose."""

    flow: Tensor
    """(B, 2, F, F) float32."""
    visibility: Tensor
    """(B, 1, F, F) float32 in [0, 1]: how far the warped source is to be believed."""


class MotionNet(nn.Module):
    """Refines the keypoint flow: two scales down, two up, shortcuts added.

    Args:
        image_size: Side of the images; the flow has half of it, at most 64.
        width: Channel multiplier.
    """

    def __init__(self, image_size: int, width: float = 1.0) -> None:
        super().__init__()
        self.size = min(image_size // 2, 64)
        c32, c64, c128 = (scaled(c, width) for c in (32, 64, 128))
        self.stem, self.down1, self.down2 = conv(8, c32), conv(c32, c64), conv(c64, c128)
        self.middle, self.up1, self.up2 = conv(c128, c64), conv(c64, c32), conv(c32, c32)
        self.head = conv(c32, 4)
        self.activation = nn.LeakyReLU(LEAKY_SLOPE)

    def forward(
        self,
        source_images: Tensor,
        source_keypoints: Tensor,
        source_edges: Tensor,
        driving_keypoints: Tensor,
        driving_edges: Tensor,
    ) -> Motion:
        """From source to driving pose: images (B, 3, S, S), keypoints (B, K, 2), edge maps (B, 1, S, S)."""
        flow = keypoint_flow(source_keypoints, driving_keypoints, self.size)
        images, source_edges, driving_edges = (
            functional.interpolate(x, (self.size, self.size), mode="area")
            for x in (source_images, source_edges, driving_edges)
        )
        x = torch.cat([source_edges, driving_edges, images, warp(images, flow)], dim=1)
        full = self.activation(self.stem(x))
        half = self.activation(self.down1(down(full)))
        x = self.activation(self.middle(self.activation(self.down2(down(half)))))
        x = self.activation(self.up1(up(x) + half))
        x = self.activation(self.up2(up(x) + full))
        residual, follow, visible = self.head(x).float().split([2, 1, 1], dim=1)
        # The offsets of 1 let it begin by following the keypoints and believing what arrives.
        return Motion(torch.sigmoid(follow + 1) * flow + RESIDUAL * residual, torch.sigmoid(visible + 1))
