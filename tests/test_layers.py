"""Resampling and fused layers against the plain way to compute them."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from autolink.layers import ConvDown, down, up


@pytest.mark.parametrize("kernel_size", [1, 3])
def test_fused_conv_down_is_conv_then_down(kernel_size: int) -> None:
    layer = ConvDown(3, 5, kernel_size).double()
    x = torch.randn(2, 3, 12, 8, dtype=torch.float64)
    expected = down(functional.conv2d(x, layer.weight, layer.bias, padding=kernel_size // 2))
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)


def test_down_is_bilinear_interpolation() -> None:
    x = torch.randn(2, 3, 12, 8, dtype=torch.float64)
    expected = functional.interpolate(x, scale_factor=0.5, mode="bilinear", align_corners=False)
    torch.testing.assert_close(down(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (6, 4)])
def test_up_is_bilinear_interpolation_with_its_gradient(size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    expected = functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    assert torch.equal(up(x), expected)
    upstream = torch.randn_like(expected)
    (gradient,), (reference,) = (torch.autograd.grad(made, x, upstream) for made in (up(x), expected))
    torch.testing.assert_close(gradient, reference, rtol=1e-12, atol=1e-12)
