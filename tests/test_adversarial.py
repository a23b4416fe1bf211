"""Losses, R1 and the discriminator against second ways to compute them."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from autolink.adversarial import (
    Discriminator,
    DownBlock,
    channels_at,
    discriminator_loss,
    generator_loss,
    pair_variation,
    r1_penalty,
)
from autolink.errors import UserError


def test_losses_are_the_equations() -> None:
    real, fake = torch.randn(64, dtype=torch.float64), torch.randn(64, dtype=torch.float64)
    seventh = (torch.exp(-fake) + 1).log().mean()
    eighth = (torch.exp(fake) + 1).log().mean() + (torch.exp(-real) + 1).log().mean()
    torch.testing.assert_close(generator_loss(fake).double(), seventh, atol=1e-6, rtol=0)
    torch.testing.assert_close(discriminator_loss(real, fake).double(), eighth, atol=1e-6, rtol=0)


def test_losses_stay_finite_where_the_equations_overflow() -> None:
    extreme = torch.tensor([-1e4, 1e4], dtype=torch.float16)
    assert generator_loss(extreme).isfinite()
    assert discriminator_loss(extreme, extreme).isfinite()


def test_r1_against_finite_differences() -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(16, width=0.05).double()
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64, requires_grad=True)
    penalty = r1_penalty(discriminator(images), images)
    step = 1e-6
    with torch.no_grad():
        moves = torch.eye(3 * 16 * 16, dtype=torch.float64).view(-1, 3, 16, 16) * step
        norms = [
            ((discriminator(image + moves) - discriminator(image - moves)) / (2 * step)).square().sum()
            for image in images
        ]
    torch.testing.assert_close(penalty, torch.stack(norms).mean(), rtol=1e-5, atol=0)


def test_r1_gradient_against_finite_differences() -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(16, width=0.05).double()
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64, requires_grad=True)
    r1_penalty(discriminator(images), images).backward()
    for name, parameter in discriminator.named_parameters():
        if parameter.grad is None:  # the biases after which nothing bends: the head's
            assert name == "head.bias"
            continue
        direction = torch.randn_like(parameter) * 1e-6
        values = []
        for sign in (1, -1):
            parameter.data += sign * direction
            values.append(r1_penalty(discriminator(images), images).item())
            parameter.data -= sign * direction
        expected = (parameter.grad * direction).sum().item()
        assert (values[0] - values[1]) / 2 == pytest.approx(expected, rel=1e-3, abs=1e-12), name


@pytest.mark.parametrize("image_size, minibatch_std", [(64, False), (64, True), (128, False), (256, False)])
def test_discriminator_trains_every_parameter(image_size: int, minibatch_std: bool) -> None:
    discriminator = Discriminator(image_size, width=0.05, in_channels=4, minibatch_std=minibatch_std)
    images = torch.randn(2, 4, image_size, image_size, requires_grad=True)
    logits = discriminator(images)
    assert logits.shape == (2,)
    (discriminator_loss(logits[:1], logits[1:]) + r1_penalty(logits, images)).backward()
    for name, parameter in discriminator.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_channels_follow_figure_8() -> None:
    assert [channels_at(side, 1) for side in (8, 16, 32, 64, 128, 256)] == [512, 512, 256, 128, 64, 32]
    assert [block.conv.in_channels for block in Discriminator(128).blocks] == [64, 128, 256, 512]
    assert Discriminator(128).head.in_features == 512 * 8 * 8


def test_logits_do_not_depend_on_the_rest_of_the_batch() -> None:
    discriminator = Discriminator(32, width=0.1).double()
    images = torch.randn(5, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(discriminator(images)[2:3], discriminator(images[2:3]), rtol=1e-9, atol=1e-9)


def test_variation_of_pairs_against_torch() -> None:
    features = torch.randn(6, 3, 4, 4, dtype=torch.float64)
    found = pair_variation(features)
    for pair in range(3):
        expected = features[2 * pair : 2 * pair + 2].std(0, correction=0).mean()
        torch.testing.assert_close(found[2 * pair : 2 * pair + 2], expected.expand(2, 1, 4, 4), rtol=1e-6, atol=1e-6)


def test_equal_images_are_told_from_different_ones() -> None:
    discriminator = Discriminator(16, width=0.05, minibatch_std=True)
    image = torch.randn(1, 3, 16, 16)
    alone = discriminator(image.repeat(2, 1, 1, 1))[0]
    beside_another = discriminator(torch.cat([image, torch.randn(1, 3, 16, 16)]))[0]
    assert (alone - beside_another).abs() > 1e-4


def test_full_precision_escapes_autocast() -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(32, width=0.1)
    images = torch.randn(2, 3, 32, 32)
    exact = discriminator(images)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(discriminator(images, full_precision=True), exact)
        rounded = discriminator(images)
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, exact)
    torch.testing.assert_close(rounded, exact, atol=0.1, rtol=0.1)


@pytest.mark.parametrize("image_size", [0, 8, 96, 100])
def test_impossible_sizes_are_named(image_size: int) -> None:
    with pytest.raises(UserError, match=str(image_size)):
        Discriminator(image_size)


def test_a_block_halves_and_keeps_variance() -> None:
    block, x = DownBlock(8, 16), torch.randn(2, 8, 12, 12)
    body = functional.leaky_relu(functional.conv2d(x, block.conv.weight, block.conv.bias, padding=1), 0.2)
    body = functional.conv2d(body, block.conv_down.weight, block.conv_down.bias, padding=1)
    body = functional.leaky_relu(functional.avg_pool2d(body, 2), 0.2)
    shortcut = functional.avg_pool2d(functional.conv2d(x, block.shortcut.weight), 2)
    torch.testing.assert_close(block(x), (body + shortcut) / 2**0.5, rtol=1e-4, atol=1e-5)
