"""What is done to images before the discriminator sees them."""

from __future__ import annotations

import math

import pytest
import torch
from accelerate import Accelerator
from kornia.color import rgb_to_yuv
from scipy.stats import kstest

from autolink_apps.gan import ada
from autolink_apps.gan.ada import AdaptiveAugmentation, change_chroma, turn_quarters
from autolink_apps.gan.augment import augment, change_colours, cut_out, translate


def test_middle_draws_change_nothing_but_saturation() -> None:
    images, half = torch.rand(2, 4, 16, 16) * 2 - 1, torch.full((2, 1, 1, 1), 0.5)
    torch.testing.assert_close(change_colours(images[:, :3], half, half, half), images[:, :3])
    assert torch.equal(translate(images, half, half), images)


def test_translation_moves_whole_pixels() -> None:
    images = torch.rand(2, 1, 16, 16)
    x, y = torch.tensor([0.999, 0.0]).view(2, 1, 1, 1), torch.tensor([0.5, 0.7]).view(2, 1, 1, 1)
    moved = translate(images, x, y)  # by (+2, 0) and (−2, +1)
    assert torch.equal(moved[0, :, :, 2:], images[0, :, :, :-2]) and moved[0, :, :, :2].abs().sum() == 0
    assert torch.equal(moved[1, :, 1:, :-2], images[1, :, :-1, 2:]) and moved[1, :, 0].abs().sum() == 0


def test_cutout_hides_half_the_side() -> None:
    centre = torch.full((1, 1, 1, 1), 0.5)
    kept = cut_out(torch.ones(1, 1, 16, 16), centre, centre)
    assert kept[..., 4:12, 4:12].sum() == 0
    assert kept.sum() == 16 * 16 - 8 * 8


def test_edge_map_moves_with_its_image_and_keeps_its_values() -> None:
    images = torch.rand(8, 3, 32, 32) + 10  # bright everywhere, so that zeros are what was shifted in or hidden
    changed = augment(torch.cat([images, torch.ones(8, 1, 32, 32)], dim=1), torch.Generator().manual_seed(0))
    assert torch.equal((changed[:, :3] == 0).all(1), changed[:, 3] == 0)
    assert set(changed[:, 3].unique().tolist()) == {0.0, 1.0}


def test_augmentation_is_differentiable() -> None:
    images = torch.randn(1, 4, 8, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: augment(x, torch.Generator().manual_seed(3)), images)


# Adaptive


def adaptive(probability: float = 0.0) -> AdaptiveAugmentation:
    made = AdaptiveAugmentation(Accelerator(cpu=True), batch_size=1000)
    made.restore({"probability": probability, "overfitting": 0.0})
    return made


def test_controller_holds_how_far_held_out_images_are_from_training_images() -> None:
    made = adaptive()
    real, fake = torch.tensor(2.0), torch.tensor(-2.0)
    for _ in range(2):
        made.observe(real, torch.tensor(-1.0), fake)
    assert made.overfitting == pytest.approx(0.75)
    assert made.probability == pytest.approx(2 * 4 * 1000 / 500_000)
    made.observe(real, torch.tensor(0.4), fake)
    assert made.overfitting == pytest.approx(0.4)
    assert made.probability == pytest.approx(4 * 1000 / 500_000)
    for _ in range(2):
        made.observe(real, real, fake)
    assert made.probability == 0


def test_a_discriminator_that_is_merely_ahead_does_not_overfit() -> None:
    made = adaptive()
    made.observe(torch.tensor(1.9), torch.tensor(1.9), torch.tensor(-1.7))  # of a run; each real logit was positive
    assert made.overfitting == 0 and made.probability == 0
    made.observe(torch.tensor(0.0), torch.tensor(-1.0), torch.tensor(0.0))  # tells nothing apart
    assert made.overfitting == 0 and made.probability == 0


def test_controller_can_go_from_never_to_always_within_its_horizon() -> None:
    made = adaptive()
    logits = torch.tensor([1.0, -1.0, -1.0])
    for _ in range(125):
        made.observe(*logits)
    assert made.probability == pytest.approx(1)
    made.observe(*logits)
    assert made.probability == 1


def test_never_changes_nothing_and_draws_come_from_the_generator() -> None:
    images = torch.rand(6, 4, 16, 16) * 2 - 1
    assert torch.equal(adaptive()(images, torch.Generator()), images)
    state = torch.random.get_rng_state()
    one, again, other = (adaptive(0.9)(images, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_places_move_an_edge_map_with_its_image_and_colours_leave_it(monkeypatch: pytest.MonkeyPatch) -> None:
    edge_maps = torch.rand(8, 1, 32, 32)
    grey = torch.cat([edge_maps.expand(-1, 3, -1, -1), edge_maps], dim=1)
    moved = ada.of_place(0.9)(grey)
    torch.testing.assert_close(moved[:, :3], moved[:, 3:].expand(-1, 3, -1, -1))
    assert (moved - grey).abs().mean() > 0.05
    monkeypatch.setattr(ada, "of_place", lambda probability: torch.nn.Identity())
    coloured = adaptive(0.9)(grey, torch.Generator().manual_seed(0))
    turned = turn_quarters(edge_maps, 0.9, torch.Generator().manual_seed(0))
    assert torch.equal(coloured[:, 3:], turned)
    assert (coloured[:, :3] - turned).abs().mean() > 0.05


@pytest.mark.parametrize("probability", [0.0, 0.4, 1.0])
def test_quarter_turns_come_equally_often(probability: float) -> None:
    corner = torch.tensor([[1.0, 0.0], [0.0, 0.0]]).expand(20_000, 1, 2, 2)  # where its one goes tells the turn
    turned = turn_quarters(corner, probability, torch.Generator().manual_seed(0)).sum((0, 1))
    none, each = 20_000 * (1 - probability * 3 / 4), 20_000 * probability / 4
    expected = torch.tensor([[none, each], [each, each]])
    assert ((turned - expected).square() / expected.clamp_min(1)).sum() < 16.3  # χ² of 3 degrees, one in a thousand


def test_a_quarter_turn_is_exact_and_moves_the_edge_map_along() -> None:
    images = torch.rand(9, 4, 5, 5)
    turned = turn_quarters(images, 1.0, torch.Generator().manual_seed(0))
    found = [[n for n in range(4) if torch.equal(one, image.rot90(n, (1, 2)))] for one, image in zip(turned, images)]
    assert {n for (n,) in found} == {0, 1, 2, 3}


def test_each_change_comes_as_often_as_asked_for() -> None:
    images = torch.rand(4000, 3, 8, 8)
    changes = [*ada.of_place(0.4), *ada.of_colour(0.4)]
    shares = [((change(images) - images).abs().amax((1, 2, 3)) > 1e-3).float().mean().item() for change in changes]
    assert shares == pytest.approx([0.2, 0.4, 0.4, 0.4, 0.4], abs=0.03)  # mirrored: half of those that may be


def test_hues_turn_anywhere_and_saturation_is_doubled_at_most() -> None:
    images = torch.rand(1, 3, 1, 1).expand(20_000, 3, 1, 1)
    (_, u, v), (_, turned_u, turned_v) = (
        rgb_to_yuv(x)[:, :, 0, 0].T for x in (images, change_chroma(images, 0.5, torch.Generator().manual_seed(0)))
    )
    change = torch.complex(turned_u, turned_v) / torch.complex(u, v)
    factor, angle = change.abs(), change.angle()
    is_turned, is_scaled = angle.abs() > 1e-3, (factor - 1).abs() > 1e-3
    for values, low, high in ((angle[is_turned], -math.pi, math.pi), (factor[is_scaled], 0.0, 2.0)):
        assert len(values) == pytest.approx(10_000, abs=300)
        assert kstest(values.numpy(), "uniform", (low, high - low)).pvalue > 1e-3
    assert (is_turned & is_scaled).sum().item() == pytest.approx(5_000, abs=300)


def test_hue_and_saturation_keep_brightness_and_undo_each_other() -> None:
    images = torch.randn(200, 3, 2, 2)  # far outside [−1, 1] too: nothing may be clamped
    changed = change_chroma(images, 1.0, torch.Generator().manual_seed(0))
    luma = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    torch.testing.assert_close((changed * luma).sum(1), (images * luma).sum(1), atol=2e-3, rtol=1e-3)
    doubled = change_chroma(2 * images, 1.0, torch.Generator().manual_seed(0))
    torch.testing.assert_close(doubled, 2 * changed, atol=1e-4, rtol=1e-4)
    assert torch.equal(torch.isclose(changed, images).all(1), torch.zeros(200, 2, 2, dtype=torch.bool))
    kept = change_chroma(images, 0.0, torch.Generator())
    torch.testing.assert_close(kept, images, atol=2e-3, rtol=1e-3)


def test_gradients_reach_images_beyond_the_range() -> None:
    images = (torch.randn(16, 4, 16, 16) * 2).requires_grad_()
    adaptive(0.5)(images, torch.Generator().manual_seed(0)).square().sum().backward()
    assert images.grad.isfinite().all()
    beyond = images.abs() > 1
    assert (images.grad[beyond] != 0).float().mean() > 0.8
