"""Each protocol against a hand-worked case and against a second computation in plain loops."""

import numpy as np
import pytest
import torch

from autolink.commands.evaluate import _of_five_landmarks
from autolink.metrics import (
    HUMAN36M_SIDES,
    PROTOCOLS,
    Labelled,
    correct_keypoints,
    corrected_error,
    exchange,
    fit_linear,
    five_landmarks,
    interocular_distance,
    interocular_error,
    landmark_errors,
    summed_error,
    visible_error,
)

NAN = torch.nan


def points(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1


def drawn(keypoints: int, landmarks: int, count: int, seed: int, missing: float = 0.0) -> Labelled:
    """Landmarks that follow the keypoints loosely; a share of their coordinates is unknown."""
    found = points(count, keypoints, seed=seed)
    weights = points(2 * keypoints, landmarks, seed=9).flatten(1)
    marked = (found.flatten(1) @ weights).view(count, landmarks, 2) / 4 + points(count, landmarks, seed=seed + 1) / 5
    marked[torch.rand(marked.shape, generator=torch.Generator().manual_seed(seed)) < missing] = NAN
    return Labelled(found, marked)


def naive_predictions(fit: Labelled, test: Labelled, bias: bool) -> np.ndarray:
    """(M, L, 2) in the unit frame: normal equations, one coordinate at a time, over the images that know it."""

    def rows(found: torch.Tensor) -> np.ndarray:
        return np.array([[(v + 1) / 2 for v in image.flatten().tolist()] + [1.0] * bias for image in found])

    targets = ((fit.landmarks + 1) / 2).numpy()
    predicted = np.empty(test.landmarks.shape)
    for i in range(targets.shape[1]):
        for j in range(2):
            known = [n for n in range(len(targets)) if targets[n, i, j] == targets[n, i, j]]
            a, b = rows(fit.keypoints)[known], targets[known, i, j]
            predicted[:, i, j] = rows(test.keypoints) @ np.linalg.solve(a.T @ a, a.T @ b)
    return predicted


# The linear map


def test_landmarks_that_are_a_linear_map_have_no_error():
    keypoints = torch.rand(40, 3, 2) * 2 - 1
    landmarks = (keypoints.flatten(1) @ torch.randn(6, 10)).view(40, 5, 2) + 0.3
    data = Labelled(keypoints, landmarks)
    errors = landmark_errors(Labelled(*(x[:30] for x in data)), Labelled(*(x[30:] for x in data)), bias=True)
    assert errors.shape == (10, 5) and errors.max() < 1e-5


@pytest.mark.parametrize("bias", [False, True])
def test_errors_against_normal_equations(bias):
    fit, test = drawn(4, 7, 50, seed=0), drawn(4, 7, 9, seed=2)
    truth = ((test.landmarks + 1) / 2).numpy()
    expected = np.linalg.norm(naive_predictions(fit, test, bias) - truth, axis=-1)
    assert np.allclose(landmark_errors(fit, test, bias).numpy(), expected)


def test_without_keypoints_a_bias_predicts_the_mean():
    data = Labelled(torch.zeros(2, 0, 2), torch.tensor([[[-1.0, 0.0]], [[1.0, 0.0]]]))
    assert landmark_errors(data, data, bias=True).flatten().tolist() == pytest.approx([0.5, 0.5])


def test_unknown_landmarks_are_left_out_of_fit_and_error():
    keypoints = points(30, 2)
    landmarks = keypoints.flip(1).clone()
    landmarks[::3, 0] = NAN
    data = Labelled(keypoints, landmarks)
    errors = landmark_errors(data, data, bias=True)
    assert errors[::3, 0].isnan().all() and errors[1::3].max() < 1e-8 and not errors[:, 1].isnan().any()


def test_fit_of_each_column_uses_its_own_rows():
    inputs = torch.rand(10, 2, dtype=torch.float64)
    targets = torch.rand(10, 3, dtype=torch.float64)
    holey = targets.clone()
    holey[:4, 1], holey[:, 2] = NAN, NAN
    full, partial = fit_linear(inputs, targets, False), fit_linear(inputs, holey, False)
    assert torch.allclose(full[:, 0], partial[:, 0])
    assert torch.allclose(fit_linear(inputs[4:], targets[4:], False)[:, 1], partial[:, 1])
    assert partial[:, 2].tolist() == [0, 0]  # known nowhere


# CelebA


def test_interocular_distance():
    landmarks = torch.zeros(1, 68, 2)
    landmarks[0, 36:42, 0], landmarks[0, 42:48, 0] = -0.3, 0.5
    assert interocular_distance(landmarks).item() == pytest.approx(0.8)
    assert interocular_distance(torch.zeros(1, 17, 2)) is None


def test_interocular_error_worked_by_hand():
    """The map is the identity, the nose is 0.1 of the side off, and the eyes are 0.4 or 0.2 of it apart."""
    fit = points(30, 5)
    keypoints = torch.zeros(2, 5, 2, dtype=torch.float64)
    keypoints[0, 1, 0], keypoints[1, 1, 0] = 0.8, 0.4
    landmarks = keypoints.clone()
    landmarks[:, 2, 1] += 0.2
    error = interocular_error(Labelled(fit, fit), Labelled(keypoints, landmarks))
    assert error == pytest.approx(100 * (0.1 / 0.4 + 0.1 / 0.2) / 10)
    with pytest.raises(ValueError, match="17 landmarks"):
        interocular_error(Labelled(fit, points(30, 17)), Labelled(fit, points(30, 17)))


def test_five_of_sixty_eight_landmarks():
    """Each landmark lies at its number, so the five are the means of the numbers of the eyes, and 30, 48, 54."""
    numbers = torch.arange(68.0)
    found = five_landmarks(torch.stack([numbers, -numbers], dim=-1)[None])
    assert found[0, :, 0].tolist() == [38.5, 44.5, 30, 48, 54]
    assert torch.equal(found[..., 1], -found[..., 0])


def test_faces_with_68_landmarks_are_also_judged_by_five():
    """Keypoints that are the five themselves predict those exactly, and not all of the others."""
    landmarks = points(200, 68)
    same = Labelled(five_landmarks(landmarks), landmarks)
    assert _of_five_landmarks(same, same)["five_landmarks_error_percent"] == pytest.approx(0, abs=1e-6)
    assert interocular_error(same, same) > 1
    few = same._replace(landmarks=landmarks[:, :5])
    assert _of_five_landmarks(few, few) == {}


@pytest.mark.parametrize("bias", [False, True])
def test_interocular_error_against_loops(bias):
    fit, test = drawn(3, 5, 40, seed=0), drawn(3, 5, 12, seed=2)
    predicted, truth = naive_predictions(fit, test, bias), ((test.landmarks + 1) / 2).numpy()
    shares = []
    for image, marks in zip(predicted, truth):
        apart = np.hypot(*(marks[0] - marks[1]))
        shares += [np.hypot(*(p - t)) / apart for p, t in zip(image, marks)]
    assert interocular_error(fit, test, bias) == pytest.approx(100 * sum(shares) / len(shares))


# CUB


def test_visible_error_worked_by_hand():
    """Three visible landmarks, 10, 20 and 30 % of the side off, and one that is hidden."""
    fit = points(20, 2)
    keypoints = torch.zeros(2, 2, 2, dtype=torch.float64)
    landmarks = torch.tensor([[[0.2, 0.0], [0.0, 0.4]], [[NAN, NAN], [0.0, -0.6]]], dtype=torch.float64)
    assert visible_error(Labelled(fit, fit), Labelled(keypoints, landmarks)) == pytest.approx(20)


@pytest.mark.parametrize("bias", [False, True])
def test_visible_error_against_loops(bias):
    fit, test = drawn(4, 6, 60, seed=0), drawn(4, 6, 15, seed=2)
    for data, seed in ((fit, 4), (test, 5)):
        data.landmarks[torch.rand(data.landmarks.shape[:2], generator=torch.Generator().manual_seed(seed)) < 0.4] = NAN
    predicted, truth = naive_predictions(fit, test, bias), ((test.landmarks + 1) / 2).numpy()
    total, visible = 0.0, 0
    for landmark in range(6):
        for image in range(15):
            if not np.isnan(truth[image, landmark, 0]):
                total += np.hypot(*(predicted[image, landmark] - truth[image, landmark]))
                visible += 1
    assert 40 < visible < 70
    assert visible_error(fit, test, bias) == pytest.approx(100 * total / visible)


# DeepFashion


def test_correct_keypoints_worked_by_hand():
    """5.9 px off is correct, 6.1 px is not, also when it is neither in x nor in y; unknown landmarks do not count."""
    fit = points(20, 4)
    keypoints = torch.zeros(1, 4, 2, dtype=torch.float64)
    landmarks = torch.tensor([[[5.9, 0.0], [0.0, -6.1], [5.0, 5.0], [NAN, NAN]]], dtype=torch.float64) / 128
    assert correct_keypoints(Labelled(fit, fit), Labelled(keypoints, landmarks)) == pytest.approx(100 / 3)


@pytest.mark.parametrize("bias", [False, True])
def test_correct_keypoints_against_loops(bias):
    fit, test = drawn(4, 6, 60, seed=0), drawn(4, 6, 40, seed=2)
    fit, test = (Labelled(x.keypoints, x.landmarks / 4) for x in (fit, test))
    predicted, truth = (x * 256 for x in (naive_predictions(fit, test, bias), ((test.landmarks + 1) / 2).numpy()))
    correct = 0
    for p, t in zip(predicted.reshape(-1, 2), truth.reshape(-1, 2)):
        correct += (p[0] - t[0]) ** 2 + (p[1] - t[1]) ** 2 < 36
    assert 20 < correct < 220
    assert correct_keypoints(fit, test, bias) == pytest.approx(100 * correct / 240)


# Taichi


def test_summed_error_worked_by_hand():
    """x is 3 px off where it is known, y 5 px and 1 px: 3 + (5 + 1) / 2. Both maps have a bias to find."""
    fit = points(20, 1)
    keypoints = torch.zeros(2, 1, 2, dtype=torch.float64)
    landmarks = torch.tensor([[[3.0, -5.0]], [[NAN, 1.0]]], dtype=torch.float64) / 128
    shift = torch.tensor([0.25, -0.5])
    error = summed_error(Labelled(fit, fit + shift), Labelled(keypoints, landmarks + shift))
    assert error == pytest.approx(6)


@pytest.mark.parametrize("bias", [False, True])
def test_summed_error_against_loops(bias):
    fit, test = drawn(3, 18, 80, seed=0, missing=0.2), drawn(3, 18, 20, seed=2, missing=0.2)
    predicted, truth = (x * 256 for x in (naive_predictions(fit, test, bias), ((test.landmarks + 1) / 2).numpy()))
    total = 0.0
    for landmark in range(18):
        for axis in range(2):
            off = [abs(p - t) for p, t in zip(predicted[:, landmark, axis], truth[:, landmark, axis]) if t == t]
            total += sum(off) / len(off)
    assert summed_error(fit, test, bias) == pytest.approx(total)


# Human3.6M


def test_exchange_of_sides_is_a_permutation_that_undoes_itself():
    joints = torch.arange(32.0)[None, :, None].expand(1, 32, 2)
    exchanged = exchange(joints)[0, :, 0].int().tolist()
    assert sorted(exchanged) == list(range(32)) and torch.equal(exchange(exchange(joints)), joints)
    assert len(HUMAN36M_SIDES) == 12 and exchanged[21] == 29 and exchanged[22] == 30 and exchanged[3] == 8
    assert [i for i in range(32) if exchanged[i] == i] == [0, *range(11, 17), 24]


def test_corrected_error_worked_by_hand():
    """Exchanged labels and a gross error in the data to fit on leave the map the identity; judged is the better way."""
    found = points(60, 2)
    marked = found.clone()
    marked[:5] = marked[:5].flip(1)
    marked[5] = 8.0
    keypoints = torch.tensor([[[-0.5, 0.0], [0.5, 0.0]]] * 2, dtype=torch.float64)
    landmarks = torch.stack([keypoints[0].flip(0), keypoints[1]])  # exchanged in the first image
    landmarks[0, 0, 1] += 0.2  # 10 % of the side, of one of two joints
    fit, test = Labelled(found, marked), Labelled(keypoints, landmarks)
    assert corrected_error(fit, test, sides=((0, 1),)) == pytest.approx(100 * (0.1 + 0) / 2 / 2)


@pytest.mark.parametrize("bias", [False, True])
def test_corrected_error_against_loops(bias):
    sides = ((0, 3), (1, 4))
    fit, test = drawn(3, 6, 80, seed=0), drawn(3, 6, 15, seed=2)
    for data in (fit, test):
        data.landmarks[::4] = data.landmarks[::4][:, [3, 4, 2, 0, 1, 5]]
    fit.landmarks[7] += 3.0

    def distance(predicted: np.ndarray, truth: np.ndarray) -> float:
        return sum(np.hypot(*(p - t)) for p, t in zip(predicted, truth)) / len(truth)

    def other(truth: np.ndarray) -> np.ndarray:
        truth = truth.copy()
        for a, b in sides:
            truth[[a, b]] = truth[[b, a]]
        return truth

    current, exchanges = fit.landmarks.numpy().copy(), 0
    while True:
        guess = naive_predictions(Labelled(fit.keypoints, torch.from_numpy(current)), fit, bias) * 2 - 1
        errors = [distance(p, t) for p, t in zip(guess, current)]
        wrong = [n for n, (p, t) in enumerate(zip(guess, current)) if distance(p, other(t)) < errors[n]]
        if not wrong:
            break
        exchanges += len(wrong)
        for n in wrong:
            current[n] = other(current[n])
    limit = np.mean(errors) + 3 * np.std(errors)
    kept = [n for n, error in enumerate(errors) if error <= limit]
    assert exchanges > 10 and len(kept) == 79
    final = Labelled(fit.keypoints[kept], torch.from_numpy(current[kept]))
    predicted = naive_predictions(final, test, bias) * 2 - 1
    best = [min(distance(p, t), distance(p, other(t))) for p, t in zip(predicted, test.landmarks.numpy())]
    expected = 100 * sum(best) / len(best) / 2  # the frame is two units wide
    assert corrected_error(fit, test, bias, sides) == pytest.approx(expected)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_protocol_finds_what_is_linear_and_punishes_what_is_not(name):
    landmarks = {"interocular": 5, "h36m": 32}.get(name, 18)
    found = points(120, 9)
    weights = points(18, landmarks, seed=1).flatten(1)
    linear = ((found.flatten(1) + 1) @ weights).view(120, landmarks, 2) / 9 - 1  # without bias in the unit frame
    train, test = Labelled(found[:100], linear[:100]), Labelled(found[100:], linear[100:])
    random = Labelled(found[100:], points(20, landmarks, seed=3))
    perfect = 100 if name == "pck" else 0
    for bias in (False, True):
        score = PROTOCOLS[name].score
        assert score(train, test, bias) == pytest.approx(perfect, abs=1e-6)
        assert abs(score(train, random, bias) - perfect) > 10
