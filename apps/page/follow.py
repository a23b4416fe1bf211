"""Which other points a drag carries, and what the sliders do: the covariance of a bank of poses, and what follows.

If point i of a pose is moved by d, the others are expected to move by C[j, i] C[i, i]⁻¹ d, their conditional mean under
the covariance C of the bank. A slider moves the pose along one of four movements of all points (`PATTERNS`) in the same
way, while the other three stay: so much of "turn" as the data has of it, with all that goes with it.

Shapes: P poses, K keypoints; a pose is a vector of 2K numbers, x and y of one point after the other.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import shortest_path
from torch import Tensor

from autolink.graph import maximum_spanning_tree

FEWEST = 16
"""Poses that make a bank; with fewer the graph says what moves together."""
RIDGE = 1e-3
"""Share of the mean variance that is added to each: points that hardly move are not moved by a thousand times."""
HOPS = 1.5
"""Links of the graph over which a movement falls off where there is no bank."""
HEADS = frozenset({"faces", "portraits", "celeba-wild", "celeba-aligned", "voxceleb2", "cats", "afhq", "afhq_sample"})
"""Data that show heads."""
NAMES = {True: ("turn", "nod", "tilt", "closer"), False: ("sideways", "down", "lean", "closer")}
"""What the sliders are called for heads, and for other things."""
SWING = 2.2
"""A slider's ends, in standard deviations of the bank."""
SHARE = 0.65
"""How far another shape goes to a pose of the bank: all the way, it would take over the shape as well."""


class Slider(NamedTuple):
    """A movement of all points. The pose's place on it is `read` · (pose − rest); `move` is added for one unit more."""

    name: str
    read: Tensor
    """(2K,)."""
    move: Tensor
    """(2K,)."""
    reach: float
    """The ends, −reach and +reach."""


class Following(NamedTuple):
    """How the points of a model move together."""

    covariance: Tensor
    """(2K, 2K)."""
    rest: Tensor
    """(K, 2), the mean pose."""
    sliders: list[Slider]
    poses: Tensor
    """(8, K, 2), poses that differ; fewer if the bank is small."""


def following(bank: Tensor, weights: Tensor, names: tuple[str, ...]) -> Following:
    """How points move together, from a bank of poses, or from the graph if it has too few.

    Args:
        bank: (P, K, 2).
        weights: (K, K) of the graph.
        names: Of the four sliders.
    """
    bank = bank.double()
    if len(bank) < FEWEST:
        covariance, rest = _falloff(weights), bank.mean(0) if len(bank) else torch.zeros(len(weights), 2).double()
        return Following(covariance, rest, [], bank)
    rest = bank.mean(0)
    vectors = (bank - rest).flatten(1)
    covariance = vectors.T @ vectors / len(bank)
    covariance += RIDGE * covariance.diagonal().mean() * torch.eye(len(covariance), dtype=covariance.dtype)
    return Following(covariance, rest, _sliders(covariance, rest, names), _different(bank, vectors, covariance))


def brought_to(source: Tensor, poses: Tensor, covariance: Tensor, modes: int = 6) -> Tensor:
    """Poses (P, K, 2) for the shape of a source (K, 2): it goes towards theirs along the bank's first modes alone."""
    _, vectors = torch.linalg.eigh(covariance)
    basis = vectors[:, -modes:]
    difference = (poses - source).flatten(1)
    return source + SHARE * (difference @ basis @ basis.T).view_as(poses)


def _sliders(covariance: Tensor, rest: Tensor, names: tuple[str, ...]) -> list[Slider]:
    centred = rest - rest.mean(0)
    patterns = torch.stack(
        [
            torch.tensor([1.0, 0.0]).expand_as(rest),
            torch.tensor([0.0, 1.0]).expand_as(rest),
            torch.stack([-centred[:, 1], centred[:, 0]], dim=1),
            centred,
        ]
    ).flatten(1)
    patterns = (patterns / patterns.norm(dim=1, keepdim=True)).to(covariance)  # (4, 2K)
    among = patterns @ covariance @ patterns.T
    moves = covariance @ patterns.T @ torch.linalg.inv(among)  # (2K, 4)
    reach = SWING * among.diagonal().sqrt()
    return [Slider(*parts) for parts in zip(names, patterns, moves.T, reach.tolist())]


def _different(bank: Tensor, vectors: Tensor, covariance: Tensor, count: int = 8) -> Tensor:
    """Poses far from each other, none of them an outlier, in the order of how far they are to the right."""
    values, basis = torch.linalg.eigh(covariance)
    places = vectors @ basis[:, -4:]  # by variance: what moves much tells poses apart
    usual = (places / values[-4:].sqrt()).norm(dim=1)
    allowed = usual <= usual.quantile(0.85)
    chosen = [int(usual.argmin())]
    while len(chosen) < min(count, int(allowed.sum())):
        apart = torch.cdist(places, places[chosen]).amin(1)
        chosen.append(int(apart.where(allowed, apart.new_tensor(-1.0)).argmax()))
    return bank[sorted(chosen, key=lambda index: float(bank[index, :, 0].mean()))]


def _falloff(weights: Tensor) -> Tensor:
    """A covariance (2K, 2K) that falls off with the distance along the graph's tree of heaviest edges."""
    links, count = maximum_spanning_tree(weights), len(weights)
    first, second = zip(*links) if links else ((), ())
    hops = shortest_path(coo_array(([1.0] * len(links), (first, second)), shape=(count, count)), directed=False)
    kernel = torch.exp(-torch.from_numpy(hops).double().square() / (2 * HOPS**2))
    return torch.kron(kernel, torch.eye(2, dtype=kernel.dtype))
