"""What is asked of keypoints and graph beside reconstruction: alike poses of alike clips, a graph that holds together.

Shapes: B batch, K keypoints, E = K(K−1)/2 edges.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from scipy.sparse.csgraph import minimum_spanning_tree
from torch import Tensor

KNOT = 0.01
"""Squared size of a pose, half the image's side being 1, below which its shape is not compared."""
LINKED_SHARE = 0.3
"""Share of the heaviest edge's weight that links of the tree are held above: more than the fifth from which
`graph.connectedness` counts an edge as seen, so that they stay seen."""


def disagreement(keypoints: Tensor, clips: Sequence[str]) -> Tensor:
    """How differently shaped the clips' mean poses are, whatever their places and sizes: 0 (alike) to 1.

    Reconstruction alone may give a keypoint one meaning on one individual and another on the next, since visible
    patches tell the decoder who it is. Two individuals that are filmed alike take similar poses on average.

    Args:
        keypoints: (B, K, 2).
        clips: The clip of each image of the batch.
    """
    members = [torch.tensor([clip == one for clip in clips], device=keypoints.device) for one in sorted(set(clips))]
    means = torch.stack([keypoints[those].mean(0) for those in members])
    centred = (means - means.mean(1, keepdim=True)).float()
    # A knot of keypoints has no shape yet, and counts little.
    shapes = centred / (centred.square().sum((1, 2), keepdim=True) + KNOT).sqrt()
    return (shapes - shapes.mean(0)).square().sum((1, 2)).mean()


def faintness(weights: Tensor, count: int, share: float = LINKED_SHARE) -> Tensor:
    """How far the tree of the heaviest edges, which links all keypoints, is from being seen: 0 when all of it is.

    Reconstruction alone asks for pairs: an edge says where its two ends are, and faint edges cost a decoder nothing
    that amplifies them. The graph then falls into pieces.

    Args:
        weights: (E,) positive, over i < j row by row.
        count: Number of keypoints K.
        share: Of the heaviest weight, from which an edge is seen.

    Returns:
        Mean over the tree's edges of how much fainter than `share` they are, as a logarithm; differentiable in
        `weights`.
    """
    first, second = torch.triu_indices(count, count, 1)
    heavy = torch.zeros(count, count, dtype=torch.float64)
    heavy[first, second] = weights.detach().double().cpu()
    tree = torch.from_numpy(minimum_spanning_tree(-heavy.numpy()).toarray())[first, second] != 0
    relative = weights[tree.to(weights.device)] / weights.max()
    return (math.log(share) - relative.log()).clamp_min(0).mean()
