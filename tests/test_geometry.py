"""The coordinate frame: one meaning at every resolution."""

import pytest
import torch
from torch.nn import functional

from autolink.geometry import closest_on_segment, from_pixels, pixel_grid, soft_argmax, to_pixels


def test_grid_is_that_of_grid_sample():
    image = torch.rand(1, 3, 5, 7)
    assert torch.allclose(functional.grid_sample(image, pixel_grid(5, 7)[None], align_corners=False), image, atol=1e-6)


def test_pixels_round_trip_and_meaning():
    corners = torch.tensor([[-1.0, -1.0], [1.0, 1.0], [0.0, 0.0]])
    assert to_pixels(corners, 10, 20).tolist() == [[0, 0], [20, 10], [10, 5]]
    points = torch.rand(4, 2) * 3 - 1.5
    assert torch.allclose(from_pixels(to_pixels(points, 33, 48), 33, 48), points, atol=1e-6)


def test_soft_argmax_of_a_peak_is_its_cell_centre():
    heatmaps = torch.zeros(1, 2, 8, 16)
    heatmaps[0, 0, 3, 5] = heatmaps[0, 1, 0, 15] = 1e4
    grid = pixel_grid(8, 16)
    assert torch.allclose(soft_argmax(heatmaps)[0], torch.stack([grid[3, 5], grid[0, 15]]), atol=1e-5)


def test_soft_argmax_is_the_expectation_and_shift_invariant():
    heatmaps = torch.randn(2, 3, 6, 9, dtype=torch.float64)
    weights = (heatmaps.exp() / heatmaps.exp().sum((2, 3), keepdim=True))[..., None]
    expected = (weights * pixel_grid(6, 9, dtype=torch.float64)).sum((2, 3))
    assert torch.allclose(soft_argmax(heatmaps), expected)
    assert torch.allclose(soft_argmax(heatmaps + 1000), expected)
    assert torch.autograd.gradcheck(soft_argmax, heatmaps.requires_grad_())


@pytest.mark.parametrize("point, expected, t", [((0.0, 1.0), (0.0, 0.0), 0.5), ((5.0, 1.0), (1.0, 0.0), 1.0)])
def test_closest_point_by_hand(point, expected, t):
    closest, where = closest_on_segment(torch.tensor(point), torch.tensor([-1.0, 0.0]), torch.tensor([1.0, 0.0]))
    assert closest.tolist() == list(expected) and where.item() == t


def test_closest_point_on_a_segment_without_length():
    closest, t = closest_on_segment(torch.tensor([1.0, 2.0]), torch.ones(2), torch.ones(2))
    assert closest.tolist() == [1, 1] and t.item() == 0
