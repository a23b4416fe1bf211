"""Published protocols that turn unsupervised keypoints into a number: one function each, listed in `PROTOCOLS`.

Keypoints mean nothing by themselves, so a linear map to human landmarks is fitted on one part of a data set and judged
on another. A map without bias depends on where the origin lies; here it is the top left corner and the image is one
unit wide (the *unit frame*), as in the official code. Scores are percentages, or pixels of an image of 256 × 256.

Shapes: N images to fit on, M images to judge on, K keypoints, L landmarks, D inputs, T targets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

EYES = {68: (range(36, 42), range(42, 48)), 5: (range(0, 1), range(1, 2))}
"""Landmarks of the left and right eye by the number of landmarks: the 68-point scheme and CelebA's five."""

NOSE_TIP, MOUTH_CORNERS = 30, [48, 54]
"""Of the 68-point scheme."""

Sides = tuple[tuple[int, int], ...]

HUMAN36M_SIDES: Sides = tuple((i, i + 5) for i in range(1, 6)) + tuple((i, i + 8) for i in range(17, 24))
"""Right and left joints of Human3.6M's 32: legs, then (left first) arms."""

PIXELS = 256
"""Side of the image in whose pixels distances are published."""


class Labelled(NamedTuple):
    """Keypoints found in images, beside the landmarks that people marked there.

    Attributes:
        keypoints: (N, K, 2) in [−1, 1].
        landmarks: (N, L, 2) in the same frame, NaN where unknown or invisible.
    """

    keypoints: Tensor
    landmarks: Tensor

    def unit(self) -> Labelled:
        """The same in the unit frame, in float64."""
        return Labelled(*((x.double() + 1) / 2 for x in self))


class Protocol(NamedTuple):
    """How one data set is judged.

    Attributes:
        score: From what the map is fitted on, what it is judged on, and whether it has a bias, to a number.
        measures: What that number is, as a key in a report: `error_percent`, `correct_percent` or `error_pixels`.
        bias: Whether the published numbers are with bias.
        normalised_by: What distances are divided by, or compared to, in words.
    """

    score: Callable[[Labelled, Labelled, bool], float]
    measures: str
    bias: bool
    normalised_by: str


def fit_linear(inputs: Tensor, targets: Tensor, bias: bool) -> Tensor:
    """Least squares, one fit for each target column over the rows where it is known.

    Args:
        inputs: (N, D).
        targets: (N, T), NaN where unknown.
        bias: Whether to add a constant input.

    Returns:
        (D + bias, T) coefficients; 0 for a target that is known nowhere.
    """
    inputs = _with_constant(inputs, bias)
    known = ~targets.isnan()
    if known.all():
        return torch.linalg.lstsq(inputs, targets).solution
    coefficients = inputs.new_zeros(inputs.shape[1], targets.shape[1])
    for column in known.any(0).nonzero().flatten().tolist():
        rows = known[:, column]
        coefficients[:, column] = torch.linalg.lstsq(inputs[rows], targets[rows, column, None]).solution[:, 0]
    return coefficients


def apply_linear(inputs: Tensor, coefficients: Tensor) -> Tensor:
    """Map inputs (N, D) by what `fit_linear` returned: (N, T)."""
    return _with_constant(inputs, len(coefficients) > inputs.shape[1]) @ coefficients


def landmark_offsets(fit: Labelled, test: Labelled, bias: bool) -> Tensor:
    """Predicted minus true landmarks, by a linear map of the keypoints.

    Args:
        fit: (N, K, 2) and (N, L, 2); the map is fitted on these.
        test: (M, K, 2) and (M, L, 2).
        bias: Whether the map has a constant term.

    Returns:
        (M, L, 2) in shares of the image's side, NaN where the landmark is unknown.
    """
    fit, test = fit.unit(), test.unit()
    coefficients = fit_linear(fit.keypoints.flatten(1), fit.landmarks.flatten(1), bias)
    return apply_linear(test.keypoints.flatten(1), coefficients).view(test.landmarks.shape) - test.landmarks


def landmark_errors(fit: Labelled, test: Labelled, bias: bool) -> Tensor:
    """Distances (M, L) between true and predicted landmarks in shares of the image's side; see `landmark_offsets`."""
    return landmark_offsets(fit, test, bias).norm(dim=-1)


def interocular_distance(landmarks: Tensor) -> Tensor | None:
    """Distance between the centres of the eyes: (N, L, 2) → (N,); None unless L is 68 or 5."""
    eyes = EYES.get(landmarks.shape[1])
    if eyes is None:
        return None
    left, right = (landmarks[:, list(eye)].mean(1) for eye in eyes)
    return (left - right).norm(dim=-1)


def five_landmarks(landmarks: Tensor) -> Tensor:
    """CelebA's five of the 68-point scheme's landmarks: eye centres, tip of the nose, mouth corners.

    Args:
        landmarks: (N, 68, 2).

    Returns:
        (N, 5, 2).
    """
    eyes = [landmarks[:, list(eye)].mean(1, keepdim=True) for eye in EYES[68]]
    return torch.cat([*eyes, landmarks[:, [NOSE_TIP, *MOUTH_CORNERS]]], dim=1)


def interocular_error(fit: Labelled, test: Labelled, bias: bool = False) -> float:
    """CelebA: mean distance over the distance between the eye centres, in percent.

    Raises:
        ValueError: If the landmarks are of no scheme whose eyes are known, see `EYES`.
    """
    distance = interocular_distance(test.unit().landmarks)
    if distance is None:
        raise ValueError(f"{test.landmarks.shape[1]} landmarks; the eyes are known of {sorted(EYES)} only")
    return (landmark_errors(fit, test, bias) / distance[:, None]).nanmean().item() * 100


def visible_error(fit: Labelled, test: Labelled, bias: bool = False) -> float:
    """CUB: one regression a landmark over the images that show it, and the mean distance over all visible landmarks.

    In percent of the image's side. A landmark that no image to fit on shows is predicted at the origin.
    """
    return landmark_errors(fit, test, bias).nanmean().item() * 100


def correct_keypoints(fit: Labelled, test: Labelled, bias: bool = False) -> float:
    """DeepFashion: the percentage of known landmarks that are predicted less than 6 px off at 256 × 256 (PCK)."""
    errors = landmark_errors(fit, test, bias) * PIXELS
    return (errors[~errors.isnan()] < 6).double().mean().item() * 100


def summed_error(fit: Labelled, test: Labelled, bias: bool = True) -> float:
    """Taichi: one regression a coordinate where it is known, and the sum over coordinates of the mean absolute error.

    In pixels at 256 × 256; NaN if a coordinate is known in no image to judge on.
    """
    return (landmark_offsets(fit, test, bias).abs().nanmean(0) * PIXELS).sum().item()


def corrected_error(fit: Labelled, test: Labelled, bias: bool = False, sides: Sides = HUMAN36M_SIDES) -> float:
    """Human3.6M: mean distance in percent of the image's side, left and right being whichever fits the prediction.

    A person seen from behind looks like one seen from the front with sides exchanged. To fit, the map is found, the
    sides are exchanged in the images where that brings the landmarks closer to its predictions, and again until no
    image changes; then images more than three standard deviations worse than the mean are dropped, and the final map
    is fitted on the others. To judge, each image counts with the better of the two assignments.

    Args:
        fit: (N, K, 2) and (N, L, 2), all known; the map is fitted on these.
        test: (M, K, 2) and (M, L, 2), all known.
        bias: Whether the map has a constant term.
        sides: Pairs of landmarks that are exchanged.
    """
    fit, test = fit.unit(), test.unit()
    inputs, landmarks = fit.keypoints.flatten(1), fit.landmarks
    inverse = torch.linalg.pinv(_with_constant(inputs, bias))
    for _ in range(_MOST_ROUNDS):
        predicted = apply_linear(inputs, inverse @ landmarks.flatten(1)).view(landmarks.shape)
        errors, exchanged = _image_errors(predicted, landmarks), exchange(landmarks, sides)
        better = _image_errors(predicted, exchanged) < errors
        if not better.any():
            break
        landmarks = torch.where(better[:, None, None], exchanged, landmarks)
    kept = errors <= errors.mean() + 3 * errors.std(correction=0)
    coefficients = fit_linear(inputs[kept], landmarks[kept].flatten(1), bias)
    predicted = apply_linear(test.keypoints.flatten(1), coefficients).view(test.landmarks.shape)
    both = (_image_errors(predicted, landmarks) for landmarks in (test.landmarks, exchange(test.landmarks, sides)))
    return torch.minimum(*both).mean().item() * 100


def exchange(landmarks: Tensor, sides: Sides = HUMAN36M_SIDES) -> Tensor:
    """Landmarks (N, L, 2) with left and right exchanged; landmarks in none of the pairs stay."""
    order = list(range(landmarks.shape[1]))
    for right, left in sides:
        order[right], order[left] = left, right
    return landmarks[:, order]


PROTOCOLS = {
    "interocular": Protocol(interocular_error, "error_percent", False, "distance between eye centres"),
    "cub": Protocol(visible_error, "error_percent", False, "side of the image"),
    "pck": Protocol(correct_keypoints, "correct_percent", False, "6 pixels at 256 x 256"),
    "taichi": Protocol(summed_error, "error_pixels", True, "pixels at 256 x 256, summed over coordinates"),
    "h36m": Protocol(corrected_error, "error_percent", False, "side of the image"),
}
"""By the name that a benchmark carries (`autolink.data.benchmarks`)."""

_MOST_ROUNDS = 100  # of exchanging; the fit is by squares, the choice by distances, so that in theory it may cycle


def _image_errors(predicted: Tensor, landmarks: Tensor) -> Tensor:
    """Mean distance in each image: two (N, L, 2) → (N,)."""
    return (predicted - landmarks).norm(dim=-1).mean(1)


def _with_constant(inputs: Tensor, bias: bool) -> Tensor:
    return torch.cat([inputs, inputs.new_ones(len(inputs), 1)], dim=1) if bias else inputs
