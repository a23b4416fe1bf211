"""The paper's figures for a model of your own: `autolink figures --model M --data NAME_OR_DIR --output DIR`.

`edges.png`     the matrix of edge weights (Figure 2)
`samples.png`   image | points | edges, 105 times (Figures 9–23, drawn as Appendix E says)
`clusters.png`  keypoints coloured by spectral cluster (Figure 7c)
`topology.png`  true skeleton | as many of the heaviest edges, where the data know the truth (`synthetic`)
`graph.json`    the edges that count, the spanning tree and the clusters
`training.png`  loss and edge weights of runs against steps

Shapes: N images, K keypoints, E = K(K−1)/2 edges, S side in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from torch import Tensor

from autolink.data import open_samples
from autolink.devices import pick_device
from autolink.errors import UserError, command
from autolink.graph import (
    Link,
    detect_spread,
    maximum_spanning_tree,
    moving_cluster,
    skeleton,
    spectral_clusters,
    strongest_edges,
)
from autolink.model import AutoLink, load
from autolink.outputs import refuse_inputs, write_json
from autolink.pixels import to_uint8, unit_from_bytes
from autolink.plots import edge_matrix_figure, save_figure, training_figure
from autolink.ranges import Checked, Count, NotNegative, Range, Thickness
from autolink.visualize import draw_graph, draw_points, image_grid, save_png

PAPER_THICKNESS = 5e-4
"""σ² at which Appendix E draws all figures, whatever the model was trained with."""
LIFTED_FROM, LIFT = 1e-4, 0.01
"""Appendix E's addition for DeepFashion: weights above the first get the second on top."""
DIMMED = 0.6
"""Brightness of the image under drawn edges, so that they show on bright ones too."""
TRIPLES_A_ROW = 7
CLUSTERED = 24
"""Images in `clusters.png`."""
COMPARED = 12
"""Images in `topology.png`, three pairs a row."""


@dataclass
class Options(Checked):
    """Draw a model's graph on images of a data set, and the curves of training runs."""

    output: Path = Path("figures")
    """Folder in which the pictures are written."""
    model: str | None = None
    """A shipped name, a file, a run folder or a hub id."""
    data: str | None = None
    """Images to draw on: a folder or a name; their held-out split is taken."""
    data_root: Path | None = None
    """Where data sets are looked up by name; default $AUTOLINK_DATA."""
    runs: tuple[Path, ...] = ()
    """Run folders whose training curves are drawn together."""
    images: Count = 105
    """Images in `samples.png`, spread over the data."""
    size: Annotated[int, Range(8, 4096)] = 128
    """Side of each drawn image in pixels."""
    thickness: Thickness = PAPER_THICKNESS
    """σ² of the drawn edges; less shows more of what is under them."""
    power: NotNegative = 1.0
    """An edge is as bright as its share of the strongest weight to this power: 1 in the paper, 0.33 shows weak ones."""
    lift_weak_edges: bool = False
    """Brighten weak edges as the paper does for DeepFashion: 0.01 on top of every weight above 0.0001."""
    numbered: bool = False
    """Write each keypoint's number beside it."""
    clusters: Count = 2
    """Clusters into which the graph is divided."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1`, `mps` …"""


def figures(options: Options) -> list[Path]:
    """Draw what the options allow, and return the files written.

    Raises:
        UserError: If there is nothing to draw, or model, data or runs cannot be used.
    """
    if options.model is None and not options.runs:
        raise UserError("nothing to draw: give --model with --data, or --runs with folders of training runs")
    refuse_inputs([options.output], [options.data])
    written = []
    if options.runs:
        written.append(save_figure(training_figure(options.runs), options.output / "training.png"))
    if options.model is None:
        return written
    model = load(options.model, pick_device(options.device))
    if not 1 <= options.clusters <= model.config.keypoints:
        raise UserError(f"--clusters {options.clusters}: {options.model} has {model.config.keypoints} keypoints")
    written.append(save_figure(edge_matrix_figure(model.graph.matrix()), options.output / "edges.png"))
    keypoints = None
    labels = spectral_clusters(model.graph.matrix(), options.clusters)
    if options.data is not None:
        data = open_samples(options.data, options.size, "val", options.data_root)
        images, keypoints, landmarks = detect_spread(model, data, options.images)
        images = unit_from_bytes(images)
        brightness = edge_brightness(model.edge_weights, options.power, options.lift_weak_edges)
        grid = triples(images, keypoints, brightness, options.thickness, options.numbered)
        written.append(save_png(options.output / "samples.png", grid))
        few = slice(0, CLUSTERED)
        lit = draw_graph(images[few] * DIMMED, keypoints[few], brightness, options.thickness)
        coloured = draw_points(lit, keypoints[few], numbered=options.numbered, groups=labels.tolist())
        written.append(save_png(options.output / "clusters.png", image_grid(coloured, columns=8)))
        if links := getattr(data, "links", ()):
            grid = topology_pairs(images[:COMPARED], landmarks, links, keypoints, model.graph.matrix())
            written.append(save_png(options.output / "topology.png", grid))
    path = options.output / "graph.json"
    write_json(path, graph_report(model, labels, keypoints))
    return [*written, path]


def edge_brightness(edge_weights: Tensor, power: float = 1.0, lift: bool = False) -> Tensor:
    """How bright edges are drawn (Appendix E): (E,) weights to (E,) in [0, 1], the strongest 1.

    Args:
        edge_weights: (E,) ≥ 0.
        power: Exponent of the share of the strongest; below 1 it brightens weak edges.
        lift: Brighten weak edges as the paper does for DeepFashion, before the division by the strongest.
    """
    weights = edge_weights.detach().float().cpu()
    if lift:
        weights = weights + LIFT * (weights > LIFTED_FROM)
    return (weights / weights.max().clamp_min(torch.finfo(torch.float32).tiny)) ** power


def triples(
    images: Tensor, keypoints: Tensor, brightness: Tensor, thickness: float = PAPER_THICKNESS, numbered: bool = False
) -> Tensor:
    """Image | points | edges for each image, seven triples a row (Figures 9–23): (3, H', W') uint8.

    Args:
        images: (N, 3, S, S) in [0, 1].
        keypoints: (N, K, 2).
        brightness: (E,) in [0, 1].
        thickness: σ² of the drawn edges.
        numbered: Write each keypoint's number beside it.
    """
    points = draw_points(images, keypoints, numbered=numbered)
    dimmed = images * DIMMED
    edges = torch.cat([draw_graph(i[None], k[None], brightness, thickness) for i, k in zip(dimmed, keypoints)])
    parts = torch.stack([to_uint8(images), points, to_uint8(edges)], dim=1)  # (N, 3, 3, S, S)
    return image_grid(torch.cat(parts.unbind(1), dim=-1), columns=min(TRIPLES_A_ROW, len(images)), gap=4)


def topology_pairs(images: Tensor, joints: Tensor, links: Sequence[Link], keypoints: Tensor, matrix: Tensor) -> Tensor:
    """True skeleton | as many of the heaviest edges, for each image, three pairs a row: (3, H', W') uint8.

    Args:
        images: (N, 3, S, S) in [0, 1].
        joints: (≥ N, J, 2).
        links: Pairs of joints.
        keypoints: (≥ N, K, 2).
        matrix: (K, K) edge weights.
    """
    dimmed, count = images * DIMMED, len(images)
    sides = []
    for points, edges in ((joints, links), (keypoints, strongest_edges(matrix, len(links)))):
        shown = torch.zeros(points.shape[1], points.shape[1])
        shown[tuple(zip(*map(sorted, edges)))] = 1
        lit = draw_graph(dimmed, points[:count], shown[tuple(torch.triu_indices(shown.shape[0], shown.shape[1], 1))])
        sides.append(draw_points(lit, points[:count]))
    return image_grid(torch.cat(sides, dim=-1), columns=min(3, count), gap=4)


def graph_report(model: AutoLink, labels: Tensor, keypoints: Tensor | None) -> dict[str, Any]:
    """The graph as JSON: edges `[i, j, weight]` that count, the maximum spanning tree, and each keypoint's cluster.

    Args:
        model: An AutoLink.
        labels: (K,) from `spectral_clusters`.
        keypoints: (N, K, 2) on many images, from which the object's cluster is told; None leaves it out.
    """
    matrix = model.graph.matrix()

    def weighted(edges: list[tuple[int, int]]) -> list[list[float]]:
        return [[i, j, round(matrix[i, j].item(), 6)] for i, j in edges]

    report = {
        "edges": weighted(skeleton(matrix)),
        "tree": weighted(maximum_spanning_tree(matrix)),
        "clusters": labels.tolist(),
    }
    return report if keypoints is None else {**report, "moving_cluster": moving_cluster(keypoints, labels)}


@command
def main() -> None:
    """Entry point of `autolink figures`."""
    for path in figures(tyro.cli(Options)):
        print(path)
