"""How good a transferred video is: one function a number, each defined here to the last detail.

Videos are uint8, as they would be stored, and errors are shares of the range of values: 0.01 is 2.55 of 255.

Shapes: T frames, S side of the images, K keypoints, L landmarks, D length of a descriptor.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from autolink.features import Perceptual
from autolink.losses import PerceptualLoss, lpips_distance
from autolink.metrics import Labelled, apply_linear, fit_linear, interocular_distance
from autolink.pixels import signed_from_unit, unit_from_bytes

STILL = 0.05
"""A pixel that never leaves this range of values in the true clip is background that should rest. Noise of video
compression is below it, and nearly everything that moves above."""
FEWEST_STILL = 0.01
"""Share of the pixels that must be still, or there is no background to judge."""


def l1(made: Tensor, true: Tensor) -> Tensor:
    """Mean absolute error of each frame: two (T, 3, S, S) uint8 → (T,)."""
    return (unit_from_bytes(made) - unit_from_bytes(true)).abs().mean((1, 2, 3))


def psnr(made: Tensor, true: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each frame in dB: two (T, 3, S, S) uint8 → (T,), infinite where equal."""
    return -10 * (unit_from_bytes(made) - unit_from_bytes(true)).square().mean((1, 2, 3)).log10()


def sharpness(video: Tensor) -> float:
    """Mean squared difference of neighbouring pixels, down and across: of a video (T, 3, S, S) uint8.

    Noise has much of it as well, so it is to be compared with the true clip's.
    """
    values = unit_from_bytes(video)
    return sum(values.diff(dim=axis).square().mean().item() for axis in (-1, -2))


def flicker(video: Tensor) -> float:
    """Mean absolute second difference in time, |x(t−1) − 2·x(t) + x(t+1)|: of a video (T, 3, S, S) uint8.

    0 for a video that rests or fades evenly. Motion has some of it, so it is to be compared with the true clip's.

    Returns:
        A share of the range; NaN of fewer than three frames.
    """
    return unit_from_bytes(video).diff(n=2, dim=0).abs().mean().item()


def still_pixels(clip: Tensor) -> Tensor:
    """Which pixels of a true clip (T, 3, S, S) uint8 never move, see `STILL`: (S, S) bool."""
    return (unit_from_bytes(clip.amax(0)) - unit_from_bytes(clip.amin(0))).amax(0) <= STILL


def background_error(made: Tensor, true: Tensor, still: Tensor) -> float:
    """Mean absolute error in the pixels that rest: two (T, 3, S, S) uint8, and (S, S) bool.

    Returns:
        A share of the range; NaN where hardly a pixel rests.
    """
    if still.float().mean() < FEWEST_STILL:
        return math.nan
    return (unit_from_bytes(made[..., still]) - unit_from_bytes(true[..., still])).abs().mean().item()


def keypoint_distance(found: Tensor, wanted: Tensor) -> float:
    """Mean distance of keypoints: two (T, K, 2) in [−1, 1] → a share of the image's side."""
    return (found - wanted).norm(dim=-1).mean().item() / 2


def motion_correlation(found: Tensor, wanted: Tensor) -> float:
    """Whether keypoints move as was asked: the correlation of coordinates, each about its mean over time.

    Args:
        found: (T, K, 2) in the result.
        wanted: (T, K, 2) that were drawn for it.

    Returns:
        Pearson's, over frames, keypoints and axes together: 1 for the same movement at any scale and place; 0 where
        one of them rests.
    """
    moved, asked = ((poses - poses.mean(0)).double().flatten() for poses in (found, wanted))
    return functional.cosine_similarity(moved, asked, dim=0).item()


class LandmarkMap:
    """The linear map with bias from keypoints to landmarks that `autolink evaluate` fits, and its error on others.

    Args:
        fit: Keypoints and landmarks of the images to fit on.
    """

    def __init__(self, fit: Labelled) -> None:
        fit = fit.unit()
        self.coefficients = fit_linear(fit.keypoints.flatten(1), fit.landmarks.flatten(1), bias=True)

    def error(self, keypoints: Tensor, landmarks: Tensor) -> float:
        """Mean distance from the landmarks that keypoints (T, K, 2) predict to the true ones (T, L, 2).

        Returns:
            A share of the distance between the eyes where they are known, else of the image's side; NaN if no
            landmark is known.
        """
        test = Labelled(keypoints, landmarks).unit()
        predicted = apply_linear(test.keypoints.flatten(1), self.coefficients).view(landmarks.shape)
        distances, eyes = (predicted - test.landmarks).norm(dim=-1), interocular_distance(test.landmarks)
        return (distances if eyes is None else distances / eyes[:, None]).nanmean().item()


class Likeness(nn.Module):
    """What needs features: how different two images look, and whether they show the same individual.

    Args:
        name: `lpips`, or the features of a loss of training.

    Raises:
        UserError: If weights are neither on this machine nor to be downloaded.
    """

    def __init__(self, name: Perceptual) -> None:
        super().__init__()
        features = "squeezenet" if name == "lpips" else name
        loss = PerceptualLoss(features)
        self.features: Callable[[Tensor], list[Tensor]] = loss.features
        self.distance = lpips_distance() if name == "lpips" else loss
        self.calibrated = name == "lpips"

    def distances(self, made: Tensor, true: Tensor) -> Tensor:
        """Perceptual distance of each frame: two (T, 3, S, S) uint8 → (T,)."""
        made, true = signed_from_unit(unit_from_bytes(made)), signed_from_unit(unit_from_bytes(true))
        if self.calibrated:
            return self.distance(made, true).flatten()
        return torch.stack([self.distance(*pair) for pair in zip(made.split(1), true.split(1))])

    def describe(self, images: Tensor) -> Tensor:
        """What is seen, wherever in the image: (T, 3, S, S) uint8 → (T, D) of unit length.

        Mean and standard deviation over the image of every channel, of unit length in each stage of the features.
        With SqueezeNet's, on faces of people that nothing was trained on, two frames of one clip are closer than
        frames of two people in 99.8 of 100 cases, two clips of one person in 66: it tells looks, with light and
        scene, rather than persons.
        """
        stages = self.features(signed_from_unit(unit_from_bytes(images)))
        moments = (torch.cat([x.mean((2, 3)), x.std((2, 3))], dim=1) for x in stages)
        return functional.normalize(torch.cat([functional.normalize(m) for m in moments], dim=1))


def looks_distance(first: Tensor, second: Tensor) -> Tensor:
    """Cosine distance of descriptors (T, D), or (1, D) for all: (T,), 0 for the same looks."""
    return (1 - (first * second).sum(1)).clamp_min(0)
