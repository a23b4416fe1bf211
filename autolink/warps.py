"""Known warps of images: turned, scaled, shifted, bent by a thin-plate spline and recoloured, all at random.

A keypoint that marks something moves with it. So a warp whose formula is known tells without a label how steady
keypoints are (`repeatability.py`), and can teach them to be (`inconsistency`).

Shapes: B batch, K keypoints, N points, H W pixels, C control points.
"""

from __future__ import annotations

import math

import torch
from kornia.geometry.transform import get_tps_transform, warp_points_tps
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.v2 import functional as colour

from autolink.geometry import pixel_grid

TURN, SCALE, SHIFT, BEND = 15.0, 0.15, 0.1, 0.05
"""Of a warp: largest angle in degrees, relative change of size, shift as a coordinate in [−1, 1], and the standard
deviation of the control points in that frame."""
CONTROLS = 4
"""Control points of the spline along a side."""
BRIGHTNESS, CONTRAST, SATURATION = 0.2, 0.2, 0.4
"""Largest relative changes of a colour."""


class Warps:
    """Random smooth warps, one an image: each takes places of the warped image to places of the image.

    Args:
        count: Number of images B.
        generator: Where it draws from; on the CPU.
        device: Where points and images are.
    """

    def __init__(self, count: int, generator: torch.Generator, device: torch.device | str = "cpu") -> None:
        def within(most: float, *shape: int) -> Tensor:
            return (torch.rand(count, *shape, generator=generator) * 2 - 1) * most

        line = torch.linspace(-1, 1, CONTROLS)
        controls = torch.cartesian_prod(line, line).expand(count, -1, -1)  # (B, C, 2)
        angle = within(math.radians(TURN))
        turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).view(-1, 2, 2)
        moved = controls @ turn.mT * (1 + within(SCALE, 1, 1)) + within(SHIFT, 1, 2)
        moved = moved + torch.randn(moved.shape, generator=generator) * BEND
        self._centres = moved.to(device)
        self._spline = get_tps_transform(controls.to(device), self._centres)
        self._colours = [1 + within(most).to(device) for most in (BRIGHTNESS, CONTRAST, SATURATION)]

    def back(self, points: Tensor) -> Tensor:
        """Points (B, N, 2) of the warped images in [−1, 1] → (B, N, 2) of the images; differentiable."""
        return warp_points_tps(points.float(), self._centres, *self._spline)

    def places(self, height: int, width: int) -> Tensor:
        """What each pixel of the warped images shows: (B, H, W, 2)."""
        grid = pixel_grid(height, width, device=self._centres.device).reshape(1, -1, 2)
        return self.back(grid.expand(len(self._centres), -1, -1)).view(-1, height, width, 2)

    def __call__(self, images: Tensor) -> Tensor:
        """Warp and recolour images (B, 3, H, W) in [0, 1]; beyond their borders they are mirrored."""
        places = self.places(*images.shape[-2:])
        seen = functional.grid_sample(images.float(), places, padding_mode="reflection", align_corners=False)
        changes = (colour.adjust_brightness, colour.adjust_contrast, colour.adjust_saturation)
        for change, factors in zip(changes, self._colours, strict=True):
            seen = torch.stack([change(image, factor.item()) for image, factor in zip(seen, factors, strict=True)])
        return seen


def inconsistency(keypoints: Tensor, returned: Tensor) -> Tensor:
    """Mean distance, as a share of the image's side, of keypoints (B, K, 2) from those found in a warp and taken back.

    Those that the image's border cuts off, on either side, are told apart from the others by no one and count too, but
    no more than a tenth of the side.
    """
    distance = ((keypoints - returned).square().sum(-1) + 1e-8).sqrt() / 2  # a plain norm has no gradient at 0
    return distance.clamp_max(0.1).mean()
