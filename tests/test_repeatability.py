"""Steadiness under known warps: detectors whose error is known by construction."""

import pytest
import torch
from torch.nn import functional
from torch.utils.data import TensorDataset

from autolink.data.sample import Sample
from autolink.data.synthetic import SyntheticFigures
from autolink.detector import Keypoints
from autolink.errors import UserError
from autolink.geometry import pixel_grid
from autolink.repeatability import repeatability
from autolink.warps import Warps, inconsistency

SIDE = 96


class Blobs(TensorDataset):
    """A red, a green and a blue blob on black; a keypoint each."""

    def __init__(self, count: int, reach: float = 0.5) -> None:
        self.centres = torch.rand(count, 3, 1, 1, 2, generator=torch.Generator().manual_seed(0)) * 2 * reach - reach
        distance = (pixel_grid(SIDE, SIDE) - self.centres).square().sum(-1)
        images = (torch.exp(-distance / 0.02) * 255).to(torch.uint8)
        super().__init__(images)

    def __getitem__(self, index: int) -> Sample:
        return Sample(super().__getitem__(index)[0], torch.zeros(0, 2), str(index), "")


class Finder:
    """Finds the centre of mass of each colour, and errs by `offset` on every second call: on warped images."""

    def __init__(self, offset: float = 0.0) -> None:
        self.offset, self.calls = offset, 0

    def detect(self, images: torch.Tensor) -> Keypoints:
        self.calls += 1
        mass = (images - images.amax((2, 3), keepdim=True) * 0.5).clamp_min(0)  # the blob without its surroundings
        share = mass / mass.sum((2, 3), keepdim=True)
        xy = (share[..., None] * pixel_grid(SIDE, SIDE)).sum((2, 3))
        return Keypoints(xy + (self.offset if self.calls % 2 == 0 else 0.0), xy[..., 0])


def test_keypoints_that_follow_the_image_repeat():
    report = repeatability(Finder(), Blobs(24))
    assert report["repeatability_percent"] < 0.5 and report["keypoints_seen_percent"] > 95


def test_an_error_is_reported_at_its_size():
    """Offsets of 0.06 in both directions are 4.2 % of the side, times the warp's local scale of about one."""
    report = repeatability(Finder(0.06), Blobs(24))
    assert report["repeatability_percent"] == pytest.approx(0.06 * 2**0.5 / 2 * 100, rel=0.15)


def test_keypoints_that_stay_where_they_are_do_not():
    class Fixed(Finder):
        def detect(self, images):
            xy = torch.tensor([[0.4, 0.4], [-0.4, 0.4], [0.0, -0.5]]).expand(len(images), -1, -1)
            return Keypoints(xy, xy[..., 0])

    assert repeatability(Fixed(), Blobs(24))["repeatability_percent"] > 3


def test_a_bunch_is_told_by_its_spread():
    """Three keypoints at one blob repeat well, and their middle is where they are."""

    class Bunch(Finder):
        def detect(self, images):
            found = super().detect(images)
            return Keypoints(found.xy[:, :1].expand(-1, 3, -1), found.confidence)

    bunch, apart = (repeatability(finder, data) for finder, data in ((Bunch(), Blobs(24)), (Finder(), Blobs(24))))
    assert bunch["repeatability_percent"] < 0.5 and bunch["spread_percent"] == pytest.approx(0, abs=1e-4)
    centres = Blobs(24).centres.flatten(1, 3)  # (24, 3, 2)
    expected = (centres - centres.mean(1, keepdim=True)).square().sum(-1).sqrt().mean().item() / 2 * 100
    assert apart["spread_percent"] == pytest.approx(expected, rel=0.02)


def test_a_warp_shows_each_place_where_it_says():
    """The values of a smooth image are its coordinates, so that a warped one tells what it shows."""
    warps = Warps(2, torch.Generator().manual_seed(3))
    places = warps.places(SIDE, SIDE)
    smooth = (pixel_grid(SIDE, SIDE).permute(2, 0, 1) + 2) / 8
    seen = functional.grid_sample(smooth.expand(2, -1, -1, -1), places, align_corners=False) * 8 - 2
    inside = (places.abs() < 0.95).all(-1)
    assert torch.allclose(seen.permute(0, 2, 3, 1)[inside], places[inside], atol=1e-3)
    assert inside.float().mean() > 0.5 and not torch.allclose(places[0], places[1], atol=0.05)
    image = torch.cat([smooth, smooth[:1]]).expand(2, -1, -1, -1)
    assert not torch.allclose(warps(image)[:, :2] * 8 - 2, seen, atol=1e-2)  # recoloured


def test_a_warp_is_as_strong_as_it_says():
    """The best affine map of many warps: angle, size and shift within their bounds, and all of them are used."""
    grid = pixel_grid(8, 8).reshape(1, -1, 2)
    places = Warps(400, torch.Generator().manual_seed(0)).back(grid.expand(400, -1, -1))
    terms = torch.cat([grid[0], torch.ones(64, 1)], 1)
    affine = torch.linalg.lstsq(terms.expand(400, -1, -1), places).solution  # (B, 3, 2)
    angle = torch.atan2(affine[:, 0, 1], affine[:, 0, 0]).rad2deg()
    size = torch.linalg.det(affine[:, :2]).sqrt()
    assert 12 < angle.abs().max() < 20 and 0.1 < (size - 1).abs().max() < 0.25
    assert 0.08 < affine[:, 2].abs().max() < 0.2 and angle.mean().abs() < 1.5


def test_points_are_taken_back_with_a_gradient():
    warps = Warps(2, torch.Generator().manual_seed(0))
    points = torch.rand(2, 3, 2).mul(2).sub(1).requires_grad_()
    warps.back(points).sum().backward()
    assert points.grad.isfinite().all() and points.grad.abs().min() > 0
    shift = torch.zeros(2, 3, 2)
    shift[0, 0, 0], shift[1, 2, 1] = 0.1, 5.0  # of the second no more than a tenth counts
    assert inconsistency(points, points + shift).item() == pytest.approx((0.05 + 0.1) / 6, abs=1e-4)


def test_keypoints_that_the_warp_moves_out_do_not_count():
    assert repeatability(Finder(), Blobs(24, reach=0.98))["keypoints_seen_percent"] < 95


def test_it_is_the_same_every_time_and_other_warps_differ():
    first, again = (repeatability(Finder(), Blobs(4)) for _ in range(2))
    assert first == again != repeatability(Finder(), Blobs(4), seed=1)


def test_figures_know_where_they_are():
    data = SyntheticFigures(SIDE, "val", length=6)

    class Joints:
        def detect(self, images):
            xy = torch.stack([data[i].landmarks for i in range(6)])
            return Keypoints(xy, xy[..., 0])

    class Corners:
        def detect(self, images):
            xy = torch.full((len(images), 2, 2), -0.98)
            return Keypoints(xy, xy[..., 0])

    assert repeatability(Joints(), data)["on_object_percent"] > 95
    assert repeatability(Corners(), data)["on_object_percent"] == 0
    assert "on_object_percent" not in repeatability(Finder(), Blobs(2))


def test_nothing_to_look_at_is_said():
    with pytest.raises(UserError, match="empty"):
        repeatability(Finder(), Blobs(0))
