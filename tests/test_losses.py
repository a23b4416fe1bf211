"""Perceptual losses: what they measure, where their weights come from, what is said when they cannot be had."""

import functools
import math
import os
from typing import get_args

import pytest
import torch
from safetensors.torch import save_file
from scipy.stats import spearmanr
from torch import nn
from torch.nn import functional
from torchvision import models

from autolink import UserError
from autolink.data import open_data
from autolink.features import FEATURES, Extractor, Features, Perceptual
from autolink.losses import PerceptualLoss, mean_difference
from autolink.priors import disagreement, faintness
from experiments.distil_images import damaged


@pytest.fixture
def no_weights(monkeypatch, tmp_path):
    """A machine without weights and without a network."""
    monkeypatch.setenv("AUTOLINK_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", _refuse)
    (tmp_path / "weights").mkdir()
    return tmp_path


def _refuse(*args, **kwargs):
    raise OSError("no network")


@functools.cache
def random_state(name):
    """Weights in torchvision's names; of VGG16 without the 500 MB of its classifier."""
    features = models.vgg16().features if name == "vgg16" else models.squeezenet1_1().features
    return {f"features.{key}": value for key, value in features.state_dict().items()}


@pytest.mark.parametrize("name, stages", [("vgg16", 4), ("squeezenet", 4)])
def test_weights_come_from_a_folder_in_either_form(name, stages, no_weights):
    folder = no_weights / "weights"
    state = random_state(name)
    original = {"vgg16": "vgg16-397923af.pth", "squeezenet": "squeezenet1_1-b8a52dc0.pth"}[name]
    torch.save(state, folder / original)
    images = torch.rand(1, 3, 64, 64) * 2 - 1
    from_pth = PerceptualLoss(name)
    (folder / original).unlink()
    tensors = {key.removeprefix("features."): value for key, value in state.items() if key.startswith("features.")}
    save_file(
        tensors,
        folder / {"vgg16": "vgg16_features.safetensors", "squeezenet": "squeezenet1_1_features.safetensors"}[name],
    )
    from_safetensors = PerceptualLoss(name)
    assert len(from_pth.features(images)) == stages
    assert torch.equal(from_pth(images, -images), from_safetensors(images, -images))


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "of the time before"])
@pytest.mark.parametrize("share", [0, 0.001, 0.3, 0.9, 0.999])
def test_weights_that_are_cut_off_are_one_line_that_names_the_file(zipped, share, no_weights):
    path = no_weights / "weights" / "squeezenet1_1-b8a52dc0.pth"
    torch.save(random_state("squeezenet"), path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(UserError, match=r"b8a52dc0\.pth is cut off or damaged .*; delete it, and") as caught:
        PerceptualLoss("squeezenet")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("what", ["a list", "another shape", "not a number"])
def test_weights_of_something_else_are_one_line(what, no_weights):
    state = dict(random_state("squeezenet"))
    if what == "another shape":
        state["features.0.weight"] = torch.zeros(1)
    if what == "not a number":
        state["features.0.weight"] = torch.full((64, 3, 3, 3), torch.nan)
    torch.save([1] if what == "a list" else state, no_weights / "weights" / "squeezenet1_1-b8a52dc0.pth")
    with pytest.raises(UserError, match=r"squeezenet1_1-b8a52dc0\.pth"):
        PerceptualLoss("squeezenet")


@pytest.mark.parametrize("name", ["builtin", "pyramid", "squeezenet"])
def test_the_smallest_images_have_features_too(name, no_weights):
    torch.save(random_state("squeezenet"), no_weights / "weights" / "squeezenet1_1-b8a52dc0.pth")
    images = torch.rand(2, 3, 16, 16).requires_grad_()
    loss = PerceptualLoss(name)(images, -images.detach())
    (gradient,) = torch.autograd.grad(loss, images)
    assert loss.isfinite() and gradient.isfinite().all() and gradient.abs().sum() > 0


@pytest.mark.parametrize("name", ["vgg16", "squeezenet"])
def test_missing_weights_are_one_line_that_says_what_to_do(name, no_weights):
    with pytest.raises(UserError) as caught:
        PerceptualLoss(name)
    message = str(caught.value)
    assert "\n" not in message and name in message and ".pth" in message
    assert str(no_weights / "weights") in message and "--perceptual builtin" in message


@pytest.mark.parametrize(("name", "norm"), [("vgg16", "l1"), ("squeezenet", "l1"), ("squeezenet", "l2")])
def test_the_distance_by_hand(name, norm, no_weights):
    """Features are taken before each halving of the resolution and at the end; only SqueezeNet's are standardised."""
    file = {"vgg16": "vgg16-397923af.pth", "squeezenet": "squeezenet1_1-b8a52dc0.pth"}[name]
    torch.save(random_state(name), no_weights / "weights" / file)
    loss = PerceptualLoss(name, norm, input_size=48)
    images = torch.rand(2, 2, 3, 40, 40) * 2 - 1
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[:, :, None, None]
    seen = []
    for pictures in images:
        x = functional.interpolate(pictures, (48, 48), mode="bilinear", align_corners=False)
        x, stages = ((x + 1) / 2 - mean) / std, []
        for layer in loss.features.layers:
            if isinstance(layer, nn.MaxPool2d):
                stages.append(x.clone())
            x = layer(x)
        seen.append([*stages, x])
    assert [stage.shape[1] for stage in seen[0]] == [64, 128, 256, 512]
    assert len(loss.features.layers) == {"vgg16": 23, "squeezenet": 13}[name]  # ends after an activation
    power = {"l1": 1, "l2": 2}[norm]
    expected = [(a - b).abs().pow(power).mean() for a, b in zip(*seen)]
    if name == "squeezenet":
        expected = [value / wanted.std(correction=0) ** power for value, wanted in zip(expected, seen[1])]
    assert loss(*images).item() == pytest.approx(torch.stack(expected).mean().item(), rel=1e-4)


def test_opening_features_fills_no_network_at_random(no_weights):
    """Of VGG16 that takes seconds, and most of 553 MB for layers that are not used."""
    torch.save(random_state("squeezenet"), no_weights / "weights" / "squeezenet1_1-b8a52dc0.pth")
    before = torch.get_rng_state()
    PerceptualLoss("squeezenet")
    assert torch.equal(torch.get_rng_state(), before)


def test_squeezenet_against_torchvision_itself(no_weights):
    state = random_state("squeezenet")
    torch.save(state, no_weights / "weights" / "squeezenet1_1-b8a52dc0.pth")
    network = models.squeezenet1_1()
    network.load_state_dict(state, strict=False)
    images = torch.rand(2, 3, 64, 64)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = network.features.eval()((images - mean.view(3, 1, 1)) / std.view(3, 1, 1))
    assert torch.allclose(PerceptualLoss("squeezenet").features(images * 2 - 1)[-1], expected, atol=1e-5)


@pytest.mark.parametrize(("norm", "power"), [("l1", 1), ("l2", 2)])
def test_the_distance_of_pyramids_by_hand(norm, power):
    predicted, target = torch.rand(2, 2, 3, 16, 16) * 2 - 1
    expected = []
    for scale in range(4):
        a, b = (functional.avg_pool2d(images, 2**scale) for images in (predicted, target))
        for x, y in ((a, b), (a.diff(dim=3), b.diff(dim=3)), (a.diff(dim=2), b.diff(dim=2))):
            expected.append((x - y).abs().pow(power).mean() / y.std(correction=0) ** power)
    found = PerceptualLoss("pyramid", norm)(predicted, target).item()
    assert found == pytest.approx(torch.stack(expected).mean().item(), rel=1e-4)


def test_builtin_needs_nothing_but_the_package_and_no_folder_of_its_name_misleads_it(no_weights, monkeypatch):
    (no_weights / "features").mkdir()
    monkeypatch.chdir(no_weights)
    loss = PerceptualLoss("builtin")
    target = figures(2)
    predicted = torch.zeros_like(target, requires_grad=True)
    loss(predicted, target).backward()
    exact = loss(predicted, target).item()
    assert exact > 0 and loss(target, target) == 0 and not any(p.requires_grad for p in loss.parameters())
    assert predicted.grad.isfinite().all() and (predicted.grad.abs().sum((1, 2, 3)) > 0).all()
    with torch.autocast("cpu", torch.bfloat16):
        assert loss(predicted, target).item() == pytest.approx(exact, rel=0.05)


def test_builtin_orders_distances_as_squeezenet_does():
    """Better than pixels and gradients do, on figures that the teacher's pupil never saw."""
    if not os.environ.get("AUTOLINK_WEIGHTS"):
        pytest.skip("needs SqueezeNet's weights: set AUTOLINK_WEIGHTS to their folder")
    images = figures(24)
    copies = damaged(images, torch.Generator().manual_seed(1))
    distances = {}
    for name in ("squeezenet", "builtin", "pyramid"):
        loss = PerceptualLoss(name)
        distances[name] = [loss(a, b).item() for a, b in zip(copies.split(1), images.split(1))]
    agreement = {name: spearmanr(values, distances["squeezenet"]).statistic for name, values in distances.items()}
    assert agreement["builtin"] > 0.9 and agreement["builtin"] > agreement["pyramid"]


def figures(count):
    """Held-out synthetic figures (count, 3, 64, 64) in [−1, 1]."""
    data = open_data("synthetic", 64, "test")
    return torch.stack([data[9 * index].image for index in range(count)]) / 127.5 - 1


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_zero_on_equal_images_and_growing_with_distance(norm):
    loss = PerceptualLoss("pyramid", norm)
    target = torch.rand(2, 3, 32, 32) * 2 - 1
    noise = torch.randn_like(target)
    values = [loss(target + amount * noise, target).item() for amount in (0, 0.1, 0.3)]
    assert values[0] == 0 and values[0] < values[1] < values[2]


def test_gradient_reaches_the_prediction_only():
    loss = PerceptualLoss("pyramid")
    predicted, target = (torch.rand(1, 3, 32, 32, requires_grad=True) for _ in range(2))
    loss(predicted, target).backward()
    assert predicted.grad.abs().sum() > 0 and target.grad is None
    assert not any(p.requires_grad for p in loss.parameters())


def test_distance_is_float32_under_autocast():
    loss = PerceptualLoss("pyramid")
    with torch.autocast("cpu", torch.bfloat16):
        assert loss(torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32)).dtype == torch.float32


@pytest.mark.parametrize("power, expected", [(1, functional.l1_loss), (2, functional.mse_loss)])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 2e-3)])
def test_mean_difference_is_the_usual_one(power, expected, dtype, tolerance):
    predicted, target = (torch.randn(2, 3, 32, 32).to(dtype) for _ in range(2))
    predicted.requires_grad_()
    exact = predicted.detach().double().requires_grad_()
    reference, value = expected(exact, target.double()), mean_difference(predicted, target, power)
    (wanted,), (gradient,) = torch.autograd.grad(reference, exact), torch.autograd.grad(value, predicted)
    assert value.dtype == torch.float32 and value.item() == pytest.approx(reference.item(), rel=tolerance)
    assert torch.allclose(gradient.double(), wanted, rtol=2**-7 if dtype == torch.bfloat16 else tolerance)


def test_features_under_autocast_are_those_of_weights_rounded_each_time(no_weights):
    torch.save(random_state("squeezenet"), no_weights / "weights" / "squeezenet1_1-b8a52dc0.pth")
    features = PerceptualLoss("squeezenet").features
    images = torch.rand(1, 3, 64, 64) * 2 - 1
    exact = features(images)
    with torch.autocast("cpu", torch.bfloat16):
        rounded, kept = features(images), features._layers_for
        features._layers_for = lambda x: features.layers  # as autocast does it
        expected = features(images)
        features._layers_for = kept
        assert all(torch.equal(a, b) for a, b in zip(rounded, expected))
    assert rounded[0].dtype == torch.bfloat16 and not torch.equal(rounded[-1].float(), exact[-1])
    assert all(torch.equal(a, b) for a, b in zip(features(images), exact))


def test_disagreement_is_about_shape_alone():
    shape = torch.tensor([[0.0, 0.4], [0.3, -0.2], [-0.3, -0.2]])
    elsewhere = 1.5 * shape + torch.tensor([0.2, -0.1])
    assert disagreement(torch.stack([shape, elsewhere]), ["a", "b"]).item() < 1e-3
    # Opposite shapes lie at distance 1 from their mean, which is 0.
    assert disagreement(torch.stack([shape, -shape]), ["a", "b"]).item() == pytest.approx(1, abs=0.03)
    assert disagreement(torch.stack([shape, -shape]), ["a", "a"]).item() == 0


def test_disagreement_compares_means_of_clips():
    """Two clips whose poses differ from image to image, and not on average."""
    shape, move = torch.randn(2, 4, 2, generator=torch.Generator().manual_seed(0))
    poses = torch.stack([shape + move, shape - move, shape, shape])
    assert disagreement(poses, ["a", "a", "b", "b"]).item() == pytest.approx(0, abs=1e-6)
    assert disagreement(poses, ["a", "b", "a", "b"]).item() > 0.01


def test_knots_of_keypoints_have_gradients_that_are_finite_and_small():
    knots = (1e-4 * torch.randn(4, 5, 2, generator=torch.Generator().manual_seed(0))).requires_grad_()
    disagreement(knots, ["a", "b", "a", "b"]).backward()
    assert 0 < knots.grad.abs().max() < 0.05


def test_faintness_is_of_the_tree_of_the_heaviest_edges():
    """Four keypoints: 01 and 23 strong, 12 the heaviest between the pairs; edges in the order 01 02 03 12 13 23."""
    weights = torch.tensor([1.0, 0.02, 0.01, 0.03, 0.02, 0.5], requires_grad=True)
    value = faintness(weights, 4, share=0.3)
    assert value.item() == pytest.approx(math.log(0.3 / 0.03) / 3)
    value.backward()
    assert weights.grad[3] < 0 < weights.grad[0]  # the faint link is raised, and the strongest edge lowered
    assert (weights.grad[[1, 2, 4, 5]] == 0).all()
    assert faintness(torch.tensor([1.0, 0.0, 0.0, 0.4, 0.0, 0.5]), 4).item() == 0


def test_faintness_has_the_gradient_of_its_value():
    weights = torch.rand(10, dtype=torch.float64).mul(0.2).add(0.01).requires_grad_()
    assert torch.autograd.gradcheck(lambda w: faintness(w, 5), weights)


def test_another_extractor_is_one_entry(monkeypatch):
    """A name in the table is an option's value, and what `PerceptualLoss` looks through."""
    monkeypatch.setitem(FEATURES, "pixels", Extractor(lambda: nn.Module(), alike=True, smallest=16))
    loss = PerceptualLoss("pixels")
    assert not loss.standardise and loss.smallest == 16
    assert set(get_args(Features)) == set(FEATURES) - {"pixels"}
    assert set(get_args(Perceptual)) == set(get_args(Features)) | {"lpips"}
