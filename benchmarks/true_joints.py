"""How much of the true skeleton the loss asks for: keypoints are `synthetic`'s true joints, and the graph is learned.

    python benchmarks/true_joints.py --steps 1000

A detector can hardly do better than the truth, so the links found here bound what `autolink evaluate` can report for a
model. Patches of another frame of the clip are visible, as with `autolink train --visible clip`. One line of a table
for every 100 steps: the mean loss, the share of the true links among as many of the heaviest edges, those of the
heaviest edges that are none, and the links that are not among them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import tyro
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from autolink.data import JOINT_NAMES, SKELETON_LINKS, open_data
from autolink.data.pairs import FramePairs
from autolink.decoder import InpaintingDecoder
from autolink.edges import EdgeGraph
from autolink.errors import command
from autolink.features import Features
from autolink.graph import Link, precision_and_recall, strongest_edges
from autolink.losses import PerceptualLoss
from autolink.masking import patch_mask
from autolink.ranges import Checked, Count, EdgeWeight, NotNegative, Seed, Share, Side, Thickness, Width
from autolink.training import SeededBatches, seeded_generator, to_network


@dataclass
class Options(Checked):
    steps: Count = 1000
    image_size: Side = 64
    batch_size: Count = 32
    width: Width = 0.25
    thickness: Thickness = 2.5e-3  # σ²
    mask_ratio: Share = 0.9
    mask_cells: Count = 8
    learning_rate: NotNegative = 4e-4
    graph_learning_rate: NotNegative = 5e-5
    edge_weight: EdgeWeight = 0.13  # of every edge at the start
    perceptual: Features = "builtin"
    seed: Seed = 0


class Posed(NamedTuple):
    """A frame to reconstruct, another frame of its clip, and the first one's true joints (J, 2)."""

    image: Tensor
    looks: Tensor
    joints: Tensor


class PosedPairs(Dataset[Posed]):
    """`FramePairs` of `synthetic` with the joints of the driving frame."""

    def __init__(self, options: Options) -> None:
        self.frames = open_data("synthetic", options.image_size, "train")
        self.pairs = FramePairs(self.frames, options.seed)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Posed:
        source, driving = self.pairs.indices(index)
        shown = self.frames[driving]
        return Posed(shown.image, self.frames[source].image, shown.landmarks)


def learn_links(options: Options) -> None:
    """Train graph and decoder, and print what the graph has become."""
    torch.manual_seed(options.seed)
    graph = EdgeGraph(len(JOINT_NAMES), options.thickness)
    graph.start(options.edge_weight)
    decoder = InpaintingDecoder(options.width).to(memory_format=torch.channels_last)
    perceptual = PerceptualLoss(options.perceptual)
    groups = [
        {"params": graph.parameters(), "lr": options.graph_learning_rate},
        {"params": decoder.parameters()},
    ]
    optimizer = torch.optim.Adam(groups, options.learning_rate, betas=(0.9, 0.99), fused=True)
    pairs = PosedPairs(options)
    batches = iter(DataLoader(pairs, batch_sampler=SeededBatches(len(pairs), options.batch_size, options.seed)))
    print("| steps | loss | links found | heaviest edges that are none | missing links |\n|---|---|---|---|---|")
    total = 0.0
    for step in tqdm(range(1, options.steps + 1), unit="step", disable=None):
        batch = next(batches)
        images, looks = (to_network(part, torch.device("cpu")) for part in (batch.image, batch.looks))
        mask = patch_mask(
            len(images),
            options.image_size,
            cells=options.mask_cells,
            ratio=options.mask_ratio,
            generator=seeded_generator(options.seed, step, 0, "mask"),
        )
        made = decoder(looks * mask, graph(batch.joints, options.image_size))
        loss = perceptual(made, images)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
        if step % 100 == 0:
            edges = strongest_edges(graph.matrix(), len(SKELETON_LINKS))
            _, found = precision_and_recall(edges, SKELETON_LINKS)
            wrong, missing = _named(set(edges) - set(SKELETON_LINKS)), _named(set(SKELETON_LINKS) - set(edges))
            print(f"| {step} | {total / 100:.4f} | {found:.0%} | {wrong} | {missing} |", flush=True)
            total = 0.0


def _named(links: set[Link]) -> str:
    return ", ".join(f"{JOINT_NAMES[i]}–{JOINT_NAMES[j]}" for i, j in sorted(links))


@command
def main() -> None:
    learn_links(tyro.cli(Options, description=__doc__))


if __name__ == "__main__":
    main()
