"""Published protocols that turn unsupervised keypoints into a number.

Keypoints mean nothing by themselves, so a linear map to human landmarks is fitted on a training split and judged on a
test split. A map without bias depends on where the origin lies; here it is the top left corner and the image is one
unit wide, as in the official code.

Shapes: N images, K keypoints, L landmarks.
"""

from __future__ import annotations

import torch
from torch import Tensor

EYES = {68: (range(36, 42), range(42, 48)), 5: (range(0, 1), range(1, 2))}
"""Landmarks of the left and right eye by the number of landmarks: the 68-point scheme and CelebA's five."""


def interocular_distance(landmarks: Tensor) -> Tensor | None:
    """Distance between the centres of the eyes: (N, L, 2) → (N,); None unless L is 68 or 5."""
    eyes = EYES.get(landmarks.shape[1])
    if eyes is None:
        return None
    left, right = (landmarks[:, list(eye)].mean(1) for eye in eyes)
    return (left - right).norm(dim=-1)


def fit_linear(inputs: Tensor, targets: Tensor, bias: bool) -> Tensor:
    """Least squares, one fit for each target column over the rows where it is known.

    Args:
        inputs: (N, D).
        targets: (N, T), NaN where unknown.
        bias: Whether to add a constant input.

    Returns:
        (D + bias, T) coefficients.
    """
    inputs = _with_constant(inputs, bias)
    known = ~targets.isnan()
    if known.all():
        return torch.linalg.lstsq(inputs, targets).solution
    columns = [torch.linalg.lstsq(inputs[k], t[k, None]).solution for k, t in zip(known.T, targets.T)]
    return torch.cat(columns, dim=1)


def apply_linear(inputs: Tensor, coefficients: Tensor) -> Tensor:
    """Map inputs (N, D) by what `fit_linear` returned: (N, T)."""
    return _with_constant(inputs, len(coefficients) > inputs.shape[1]) @ coefficients


def landmark_errors(
    train_keypoints: Tensor,
    train_landmarks: Tensor,
    test_keypoints: Tensor,
    test_landmarks: Tensor,
    bias: bool,
) -> Tensor:
    """Distances between true landmarks and those predicted by a linear map of the keypoints (CelebA's protocol).

    Args:
        train_keypoints: (N, K, 2) in [−1, 1]; the map is fitted on these.
        train_landmarks: (N, L, 2) in the same frame, NaN where unknown.
        test_keypoints: (M, K, 2).
        test_landmarks: (M, L, 2).
        bias: Whether the map has a constant term; the published numbers are without.

    Returns:
        (M, L) distances as shares of the image's side, NaN where the landmark is unknown.
    """
    unit = [((x.double() + 1) / 2).flatten(1) for x in (train_keypoints, train_landmarks, test_keypoints)]
    predicted = apply_linear(unit[2], fit_linear(unit[0], unit[1], bias)).view(test_landmarks.shape)
    return (predicted - (test_landmarks.double() + 1) / 2).norm(dim=-1)


def _with_constant(inputs: Tensor, bias: bool) -> Tensor:
    return torch.cat([inputs, inputs.new_ones(len(inputs), 1)], dim=1) if bias else inputs
