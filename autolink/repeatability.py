"""How steadily keypoints sit on what they mark, measured without a label: on an image and on its known warp.

A keypoint found in the warped image, taken back through the warp, should land where it was found in the image itself.

Shapes: B images of a batch, K keypoints, H W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from autolink.data.sample import SampleSet, evenly
from autolink.errors import UserError
from autolink.model import AutoLink
from autolink.pixels import unit_from_bytes
from autolink.warps import Warps

SEEN = 2.0
"""A place of the image is seen in its warp if a pixel of that shows it to within so many pixels."""


def repeatability(
    model: AutoLink, data: SampleSet, images: int = 256, batch_size: int = 64, seed: int = 0
) -> dict[str, float]:
    """Measure on images spread evenly over a data set, each warped once.

    Args:
        model: An AutoLink.
        data: Any data set; its held-out part. One that knows the object's `coverage`, as `synthetic` does, is also
            told how many keypoints lie on it.
        images: Images at most.
        batch_size: Images at a time.
        seed: Of the warps.

    Returns:
        In percent: `repeatability_percent`, the mean distance over the image's side, of keypoints that the warp leaves
        in the image; `keypoints_seen_percent`, the share of those; `spread_percent`, how far on average an image's
        keypoints lie from their middle, over its side, since a bunch in one place repeats well and says little;
        `on_object_percent`, the share of keypoints, on the images as they are, that lie on the object.

    Raises:
        UserError: If there is no image at all.
    """
    picked = evenly(len(data), images)
    if not picked:
        raise UserError("the held-out part of the data is empty; a data set needs at least two images")
    draws = torch.Generator().manual_seed(seed)
    distances, spreads, on_object = [], [], []
    for first in range(0, len(picked), batch_size):
        indices = picked[first : first + batch_size]
        originals = unit_from_bytes(torch.stack([data[index].image for index in indices]))
        warps = Warps(len(indices), draws)
        keypoints = model.detect(originals).xy.cpu()
        returned = warps.back(model.detect(warps(originals)).xy.cpu())
        seen = _are_seen(keypoints, warps.places(*originals.shape[-2:]))
        distances.append(((returned - keypoints).norm(dim=-1) / 2).masked_fill(~seen, torch.nan))
        spreads.append((keypoints - keypoints.mean(1, keepdim=True)).norm(dim=-1) / 2)
        if coverage := getattr(data, "coverage", None):
            masks = torch.stack([coverage(index) for index in indices])
            at = functional.grid_sample(masks[:, None], keypoints[:, None], align_corners=False)
            on_object.append((at > 0.5).float().flatten())
    distance = torch.cat(distances)
    report = {
        "warped_images": len(picked),
        "repeatability_percent": distance.nanmean().item() * 100,
        "keypoints_seen_percent": (~distance.isnan()).float().mean().item() * 100,
        "spread_percent": torch.cat(spreads).mean().item() * 100,
    }
    return report | ({"on_object_percent": torch.cat(on_object).mean().item() * 100} if on_object else {})


def _are_seen(points: Tensor, places: Tensor) -> Tensor:
    """Which of points (B, K, 2) of images are shown by one of the pixels, at `places` (B, H, W, 2), of their warps."""
    return torch.cdist(points, places.flatten(1, 2)).amin(2) < SEEN * 2 / places.shape[1]
