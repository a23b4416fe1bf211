"""What the learned graph says: which edges count, a tree, which keypoints belong together, which links it found.

The weights of a trained graph fall over many orders of magnitude, and only the heavy ones are visible in an edge map.
Everything here reads weights; nothing is trained.

Shapes: K keypoints, E = K(K−1)/2 edges over i < j row by row, N images, J joints, L links.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from scipy.linalg import qr
from scipy.optimize import linear_sum_assignment
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree
from torch import Tensor

from autolink.data.sample import LinkedSamples, SampleSet, spread
from autolink.errors import UserError
from autolink.model import AutoLink
from autolink.pixels import unit_from_bytes

SHARE_OF_STRONGEST = 0.05
"""An edge counts from this share of the strongest edge's weight; in a picture scaled to the strongest, fainter ones
cannot be seen."""

VISIBLE_SHARE = 0.2
"""An edge is well seen from this share of the strongest edge's weight."""

Link = tuple[int, int]


def strongest_edges(matrix: Tensor, count: int) -> list[Link]:
    """The `count` heaviest edges (i < j) of a symmetric matrix (K, K), heaviest first, without those of weight 0."""
    first, second = torch.triu_indices(len(matrix), len(matrix), 1)
    weights = matrix.detach().cpu()[first, second]
    order = weights.argsort(descending=True, stable=True)[:count]
    return [(int(first[e]), int(second[e])) for e in order if weights[e] > 0]


def skeleton(matrix: Tensor, share: float = SHARE_OF_STRONGEST) -> list[Link]:
    """The edges (i < j) that count: at least `share` of the strongest weight in (K, K), heaviest first."""
    matrix = matrix.detach().cpu()
    return strongest_edges(matrix * (matrix >= share * matrix.max()), len(matrix) ** 2)


def maximum_spanning_tree(matrix: Tensor) -> list[Link]:
    """The tree of the heaviest edges that links all keypoints of a matrix (K, K) without a cycle.

    Returns:
        K − 1 edges (i < j), heaviest first; fewer if edges of weight 0 leave keypoints apart.
    """
    matrix = matrix.detach().cpu().double()
    tree = torch.from_numpy(-minimum_spanning_tree(-matrix.numpy()).toarray())
    return strongest_edges(torch.maximum(tree, tree.T), len(matrix) - 1)


def connectedness(matrix: Tensor, share: float = VISIBLE_SHARE) -> float:
    """Share of the keypoints of (K, K) in the largest part that edges from `share` of the strongest hold together."""
    matrix = matrix.detach().cpu()
    seen = (matrix >= share * matrix.max()) & (matrix > 0)
    _, part = connected_components(seen.numpy(), directed=False)
    return np.bincount(part).max() / len(matrix)


def spectral_clusters(matrix: Tensor, count: int = 2) -> Tensor:
    """Separate the keypoints into clusters that heavy edges hold together (Section 4.4, Figure 7c).

    The eigenvectors of the normalised Laplacian with the smallest eigenvalues give each keypoint a direction; `count`
    of them, far apart, are picked by a pivoted QR decomposition and turned onto the axes, and each keypoint goes to
    its nearest axis (Damle, Minden and Ying 2019). Unlike k-means this depends on no random start.

    Args:
        matrix: (K, K) symmetric, ≥ 0.
        count: Number of clusters, 1 to K.

    Returns:
        (K,) int64 labels; 0 is the cluster of keypoint 0, and new numbers appear in the order of the keypoints.

    Raises:
        ValueError: If there cannot be so many clusters.
    """
    size = len(matrix)
    if not 1 <= count <= size:
        raise ValueError(f"{size} keypoints cannot make {count} clusters")
    weights = matrix.detach().cpu().double()
    scale = weights.sum(0).clamp_min(torch.finfo(torch.float64).tiny).rsqrt()
    laplacian = torch.eye(size, dtype=torch.float64) - scale[:, None] * weights * scale
    vectors = torch.linalg.eigh(laplacian).eigenvectors[:, :count]
    _, _, pivots = qr(vectors.T.numpy(), pivoting=True)
    left, _, right = torch.linalg.svd(vectors[pivots[:count].tolist()].T)
    nearest = (vectors @ left @ right).abs().argmax(1)
    order = list(dict.fromkeys(nearest.tolist()))
    return torch.tensor([order.index(label) for label in nearest.tolist()])


def moving_cluster(keypoints: Tensor, labels: Tensor) -> int:
    """The cluster that moves most between images: the object, where the background stands still.

    Args:
        keypoints: (N, K, 2) on many images.
        labels: (K,) from `spectral_clusters`.
    """
    spread = keypoints.detach().cpu().var(0).sum(-1)
    return max(range(int(labels.max()) + 1), key=lambda label: spread[labels == label].mean().item())


def match_joints(keypoints: Tensor, joints: Tensor) -> tuple[Tensor, float]:
    """Which joint each keypoint stands for, decided once for a whole data set.

    Joints and keypoints are paired so that the sum of their mean distances over the images is least (Hungarian
    method). Keypoints that are left over, when K > J, stand for the joint that is nearest on average.

    Args:
        keypoints: (N, K, 2) in [−1, 1].
        joints: (N, J, 2) in the same frame, NaN where unknown.

    Returns:
        (K,) joint of each keypoint, and the mean distance of the pairs as a share of the image's side.
    """
    distance = (keypoints[:, :, None] - joints[:, None]).norm(dim=-1).nanmean(0) / 2  # (K, J)
    rows, columns = linear_sum_assignment(distance.numpy())
    joint = distance.argmin(1)
    joint[torch.from_numpy(rows)] = torch.from_numpy(columns)
    return joint, distance[rows, columns].mean().item()


def between_joints(matrix: Tensor, joint: Tensor, count: int) -> Tensor:
    """The graph on joints: (J, J), between two joints the heaviest edge of their keypoints.

    Args:
        matrix: (K, K) weights between keypoints.
        joint: (K,) joint of each keypoint.
        count: Number of joints J.
    """
    merged = np.zeros((count, count), np.float32)
    np.maximum.at(merged, (joint[:, None].numpy(), joint[None, :].numpy()), matrix.detach().cpu().numpy())
    np.fill_diagonal(merged, 0)
    return torch.from_numpy(merged)


def precision_and_recall(found: Iterable[Link], true: Iterable[Link]) -> tuple[float, float]:
    """Shares in [0, 1]: of the edges found that are true links, and of the true links that were found."""
    ours, theirs = set(found), {(min(link), max(link)) for link in true}
    right = len(ours & theirs)
    return right / max(len(ours), 1), right / len(theirs)


def topology(model: AutoLink, data: LinkedSamples, images: int = 512, batch_size: int = 64) -> dict[str, Any]:
    """How much of the true skeleton a model found on data whose joints and links are known.

    Keypoints are matched to joints by their places on `images` images; then three readings of the graph on the joints
    are compared with the true links: as many of the heaviest edges as there are links, those that count, and the tree.

    Args:
        model: An AutoLink.
        data: A data set with joints as landmarks and `links`, such as `synthetic`; its held-out part.
        images: Images on which keypoints and joints are matched, spread evenly over the data.
        batch_size: Images at a time.

    Returns:
        Numbers in percent: `matched_distance` is the mean distance between a joint and its keypoint over the image's
        side; `links_found` is the share of the true links among as many of the heaviest edges, and `chance` is what
        random edges between all joints would reach; then precision and recall of the skeleton and of the tree, and
        their sizes.
    """
    _, keypoints, joints = detect_spread(model, data, images, batch_size)
    joint, distance = match_joints(keypoints, joints)
    count = joints.shape[1]
    matrix = between_joints(model.graph.matrix(), joint, count)
    links = len(data.links)
    kept, tree = skeleton(matrix), maximum_spanning_tree(matrix)
    _, found = precision_and_recall(strongest_edges(matrix, links), data.links)
    kept_precision, kept_recall = precision_and_recall(kept, data.links)
    tree_precision, tree_recall = precision_and_recall(tree, data.links)
    shares = {
        "matched_distance": distance,
        "links_found": found,
        "chance": 2 * links / (count * (count - 1)),
        "skeleton_precision": kept_precision,
        "skeleton_recall": kept_recall,
        "tree_precision": tree_precision,
        "tree_recall": tree_recall,
    }
    percent = {f"{name}_percent": round(value * 100, 2) for name, value in shares.items()}
    return {"links": links, "skeleton_edges": len(kept), "tree_edges": len(tree), **percent}


def detect_spread(model: AutoLink, data: SampleSet, count: int, batch_size: int = 64) -> tuple[Tensor, Tensor, Tensor]:
    """Detect on images spread evenly over a data set.

    Args:
        model: An AutoLink.
        data: A data set of samples with `image` and `landmarks`.
        count: N, at most.
        batch_size: Images at a time.

    Returns:
        Images (N, 3, S, S) uint8, keypoints (N, K, 2) and landmarks (N, L, 2), on the CPU.

    Raises:
        UserError: If that is no image at all.
    """
    count = min(count, len(data))
    if count < 1:
        raise UserError(f"no image to look at: {count} wanted of the {len(data)} in the held-out part of the data")
    samples = spread(data, count)
    images, landmarks = (torch.stack([getattr(sample, of) for sample in samples]) for of in ("image", "landmarks"))
    keypoints = [model.detect(unit_from_bytes(part)).xy.cpu() for part in images.split(batch_size)]
    return images, torch.cat(keypoints), landmarks
