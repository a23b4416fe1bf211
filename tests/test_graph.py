"""Reading the learned graph: edges that count, trees, clusters, and the topology against a known one."""

import itertools
from typing import NamedTuple

import pytest
import torch

from autolink.graph import (
    between_joints,
    connectedness,
    match_joints,
    maximum_spanning_tree,
    moving_cluster,
    precision_and_recall,
    skeleton,
    spectral_clusters,
    strongest_edges,
    topology,
)


def symmetric(size, edges):
    matrix = torch.zeros(size, size)
    for (i, j), weight in edges.items():
        matrix[i, j] = matrix[j, i] = weight
    return matrix


def test_strongest_and_counting_edges_by_hand():
    matrix = symmetric(4, {(0, 1): 0.2, (2, 3): 1.0, (1, 3): 0.04, (0, 2): 0.06})
    assert strongest_edges(matrix, 3) == [(2, 3), (0, 1), (0, 2)]
    assert strongest_edges(matrix, 6) == [(2, 3), (0, 1), (0, 2), (1, 3)]  # what has no weight is no edge
    assert skeleton(matrix) == [(2, 3), (0, 1), (0, 2)]
    assert skeleton(matrix, share=0.5) == [(2, 3)]
    assert skeleton(torch.zeros(3, 3)) == []


def test_tree_is_the_heaviest_of_all_trees():
    matrix = torch.rand(5, 5, generator=torch.Generator().manual_seed(2))
    matrix = (matrix + matrix.T).fill_diagonal_(0)
    edges = list(itertools.combinations(range(5), 2))

    def is_tree(links):
        parts = [{i} for i in range(5)]
        for a, b in links:
            one, other = (next(p for p in parts if x in p) for x in (a, b))
            if one is other:
                return False
            parts.remove(other)
            one |= other
        return True

    weight = {tree: sum(matrix[a, b] for a, b in tree) for tree in itertools.combinations(edges, 4) if is_tree(tree)}
    assert len(weight) == 125  # Cayley: 5³ trees on five nodes
    tree = maximum_spanning_tree(matrix)
    assert set(tree) == set(max(weight, key=weight.get))
    assert [matrix[a, b] for a, b in tree] == sorted((matrix[a, b] for a, b in tree), reverse=True)


def test_a_tree_over_separate_parts_links_each_part():
    assert maximum_spanning_tree(symmetric(4, {(0, 3): 1.0, (1, 2): 0.5})) == [(0, 3), (1, 2)]


@pytest.mark.parametrize("count", [2, 3, 4])
def test_clusters_are_found_through_weak_links(count):
    true = torch.arange(16) % count
    same = true[:, None] == true
    for seed in range(20):
        matrix = torch.rand(16, 16, generator=torch.Generator().manual_seed(seed)) * torch.where(same, 1.0, 0.02)
        matrix = (matrix + matrix.T).fill_diagonal_(0)
        assert torch.equal(spectral_clusters(matrix, count), true)


def test_a_faint_cluster_is_found_beside_a_heavy_one():
    # Edges of a trained graph differ by orders of magnitude; the heavy chain could be cut in two.
    chains = {(i, i + 1): 1.0 if i < 5 else 1e-6 for i in range(9)} | {(5, 6): 1e-12}
    assert spectral_clusters(symmetric(10, chains)).tolist() == [0] * 6 + [1] * 4


def test_two_clusters_cut_a_chain_at_its_weak_link():
    chain = {(i, i + 1): 1.0 for i in range(7)} | {(2, 3): 1e-3}
    assert spectral_clusters(symmetric(8, chain)).tolist() == [0, 0, 0, 1, 1, 1, 1, 1]


def test_clusters_cannot_outnumber_keypoints():
    assert spectral_clusters(torch.rand(3, 3), 1).tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="3 keypoints cannot make 4 clusters"):
        spectral_clusters(torch.rand(3, 3), 4)


def test_the_object_is_what_moves():
    keypoints = torch.zeros(50, 4, 2)
    keypoints[:, [1, 3]] = torch.rand(50, 2, 2)
    assert moving_cluster(keypoints, torch.tensor([0, 1, 0, 1])) == 1
    assert moving_cluster(keypoints, torch.tensor([1, 0, 1, 0])) == 0


def test_matching_is_one_to_one_where_the_nearest_would_not_be():
    joints = torch.tensor([[[0.0, 0.0], [1.0, 0.0]]])
    keypoints = torch.tensor([[[0.1, 0.0], [0.4, 0.0]]])  # both are nearest to the first joint
    joint, distance = match_joints(keypoints, joints)
    assert joint.tolist() == [0, 1] and distance == pytest.approx((0.1 + 0.6) / 2 / 2)


def test_keypoints_left_over_join_the_nearest_joint():
    joints = torch.tensor([[[-0.5, 0.0], [0.5, 0.0]], [[-0.5, 0.5], [0.5, torch.nan]]])
    keypoints = torch.tensor([[0.4, 0.0], [0.5, 0.0], [-0.5, 0.1]]).expand(2, 3, 2)
    joint, _ = match_joints(keypoints, joints)
    assert joint.tolist() == [1, 1, 0]
    merged = between_joints(symmetric(3, {(0, 1): 9.0, (0, 2): 0.3, (1, 2): 0.2}), joint, 2)
    assert merged.tolist() == torch.tensor([[0.0, 0.3], [0.3, 0.0]]).tolist()


def test_precision_and_recall_by_hand():
    assert precision_and_recall([(0, 1), (1, 2), (0, 3)], [(1, 0), (2, 3)]) == (1 / 3, 1 / 2)
    assert precision_and_recall([], [(0, 1)]) == (0, 0)


class Posed(NamedTuple):
    image: torch.Tensor
    landmarks: torch.Tensor


class Dots:
    """Joints at random places of images whose first row of pixels writes the joints down."""

    links = ((0, 1), (1, 2), (1, 3))

    def __len__(self):
        return 40

    def __getitem__(self, index):
        joints = torch.rand(4, 2, generator=torch.Generator().manual_seed(index)) * 1.8 - 0.9
        image = torch.zeros(3, 16, 16, dtype=torch.uint8)
        image[0, 0, :8] = ((joints.flatten() + 1) * 127.5).round().to(torch.uint8)
        return Posed(image, joints)


class Reader(torch.nn.Module):
    """Stands for a trained model: its keypoints are the joints, in another order."""

    order = (2, 0, 3, 1)  # keypoint → joint

    def __init__(self, edges):
        super().__init__()
        self.graph = self
        self.edges = symmetric(4, edges)
        self.edge_weights = torch.ones(6)

    def matrix(self):
        return self.edges

    def detect(self, images):
        self.xy = (images[:, 0, 0, :8] * 2 - 1).view(-1, 4, 2)[:, self.order]
        return self


def test_topology_counts_true_links_after_matching():
    # Keypoints 0 1 2 3 are joints 2 0 3 1: the links (0,1) (1,2) (1,3) are the edges (1,3) (0,3) (2,3).
    perfect = topology(Reader({(1, 3): 0.5, (0, 3): 0.4, (2, 3): 0.3, (0, 1): 0.01}), Dots(), images=16, batch_size=5)
    assert perfect["links_found_percent"] == perfect["tree_recall_percent"] == 100
    assert perfect["skeleton_edges"] == 3 and perfect["skeleton_precision_percent"] == 100
    assert perfect["matched_distance_percent"] < 0.5 and perfect["chance_percent"] == 50
    partly = topology(Reader({(1, 3): 0.5, (0, 1): 0.4, (0, 3): 0.3, (2, 3): 0.1}), Dots())
    assert partly["links_found_percent"] == pytest.approx(66.67) and partly["skeleton_edges"] == 4
    without = topology(Reader({(0, 3): 0.3}), Dots())  # one edge, and it is right: one of three links
    assert without["links_found_percent"] == pytest.approx(33.33) and without["tree_precision_percent"] == 100
    assert (partly["skeleton_precision_percent"], partly["skeleton_recall_percent"]) == (75, 100)


def test_connectedness_is_the_largest_part_of_what_is_seen():
    matrix = torch.zeros(5, 5)
    for (i, j), weight in {(0, 1): 1.0, (1, 2): 0.2, (3, 4): 0.6, (2, 3): 0.19}.items():
        matrix[i, j] = matrix[j, i] = weight
    assert connectedness(matrix) == 0.6
    assert connectedness(matrix, share=0.1) == 1.0 and connectedness(torch.zeros(5, 5)) == 0.2
