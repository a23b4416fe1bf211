"""The landmark protocol against a hand-worked case and a second computation."""

import numpy as np
import pytest
import torch

from autolink.metrics import fit_linear, interocular_distance, landmark_errors


def test_landmarks_that_are_a_linear_map_have_no_error():
    keypoints = torch.rand(40, 3, 2) * 2 - 1
    landmarks = (keypoints.flatten(1) @ torch.randn(6, 10)).view(40, 5, 2) + 0.3
    errors = landmark_errors(keypoints[:30], landmarks[:30], keypoints[30:], landmarks[30:], bias=True)
    assert errors.shape == (10, 5) and errors.max() < 1e-5


def test_against_numpy_normal_equations():
    rng = np.random.default_rng(0)
    train_x, train_y, x, y = (rng.uniform(-1, 1, shape) for shape in [(50, 4, 2), (50, 7, 2), (9, 4, 2), (9, 7, 2)])
    a = (train_x.reshape(50, 8) + 1) / 2
    solution = np.linalg.inv(a.T @ a) @ a.T @ ((train_y.reshape(50, 14) + 1) / 2)
    expected = np.linalg.norm((((x.reshape(9, 8) + 1) / 2) @ solution).reshape(9, 7, 2) - (y + 1) / 2, axis=-1)
    found = landmark_errors(*map(torch.from_numpy, (train_x, train_y, x, y)), bias=False)
    assert np.allclose(found.numpy(), expected)


def test_without_keypoints_a_bias_predicts_the_mean():
    landmarks = torch.tensor([[[-1.0, 0.0]], [[1.0, 0.0]]])
    nothing = torch.zeros(2, 0, 2)
    errors = landmark_errors(nothing, landmarks, nothing, landmarks, bias=True)
    assert errors.flatten().tolist() == pytest.approx([0.5, 0.5])


def test_unknown_landmarks_are_left_out_of_fit_and_error():
    keypoints = torch.rand(30, 2, 2, dtype=torch.float64)
    landmarks = keypoints.flip(1).clone()
    landmarks[::3, 0] = torch.nan
    errors = landmark_errors(keypoints, landmarks, keypoints, landmarks, bias=True)
    assert errors[::3, 0].isnan().all() and errors[1::3].max() < 1e-8 and not errors[:, 1].isnan().any()


def test_fit_of_each_column_uses_its_own_rows():
    inputs = torch.rand(10, 2, dtype=torch.float64)
    targets = torch.rand(10, 2, dtype=torch.float64)
    holey = targets.clone()
    holey[:4, 1] = torch.nan
    full, partial = fit_linear(inputs, targets, False), fit_linear(inputs, holey, False)
    assert torch.allclose(full[:, 0], partial[:, 0])
    assert torch.allclose(fit_linear(inputs[4:], targets[4:], False)[:, 1], partial[:, 1])


def test_interocular_distance():
    landmarks = torch.zeros(1, 68, 2)
    landmarks[0, 36:42, 0], landmarks[0, 42:48, 0] = -0.3, 0.5
    assert interocular_distance(landmarks).item() == pytest.approx(0.8)
    assert interocular_distance(torch.zeros(1, 17, 2)) is None
