"""Editing with the autoencoder (Figure 1b, top): `autolink edit --model M --image IMG --move 3:+0.1,-0.05`.

Keypoints are moved, the graph is drawn anew, and the decoder paints the image along it from the patches that it is
shown. While learning it saw a random fifth of them. Here it sees all but those where the graph has changed, and one
patch around: what has moved must not contradict the new graph, and what has not moved keeps its looks. On pairs of
frames of one person (`benchmarks/tools.py`) keypoints then come out 2.2 % of the image's side from where they were
asked to be; 3.4 % with a random fifth of the patches, 5.0 % with all of them, which is where they were before. With
the appearance of another image the same holds between that image's graph and the wanted one.

The decoder knows of hidden patches only what their surroundings and the graph say: they come out as those of a typical
example of what was learned, not as those of the person or animal in the image.

Shapes: K keypoints, S image side; points are (x, y) in [−1, 1] of the centred square.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import tyro
from torch import Tensor
from torch.nn import functional

from autolink.devices import pick_device
from autolink.errors import UserError, command
from autolink.images import load_square
from autolink.model import AutoLink, load
from autolink.outputs import refuse_inputs
from autolink.pixels import signed_from_bytes, to_uint8
from autolink.ranges import Checked
from autolink.visualize import image_grid, overlay, save_png
from autolink.weights import own_file

CELLS = 16
"""Patches a side, as in training."""
CHANGED = 0.05
"""The graph has changed in a patch where its map differs by this share of the largest weight."""
_PANEL = 256  # side of a panel of the picture, at least


@dataclass
class Options(Checked):
    """Move keypoints of an image and reconstruct it along the new graph."""

    image: Path
    """The image; its centred square is taken."""
    move: tuple[str, ...]
    """KEYPOINT:RIGHT,DOWN as in 3:+0.1,-0.05; the image is 2 wide and 2 high. The picture shows the numbers."""
    model: str = "faces"
    """A shipped name, a file, a folder or a hub id."""
    appearance: Path | None = None
    """Another image whose looks are taken instead of the image's own."""
    output: Path = Path("edit.png")
    """The picture to write: image with its keypoints | patches that were shown | new graph | result."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1`, `mps` …"""


class Edit(NamedTuple):
    """A reconstruction along a changed graph."""

    image: Tensor
    """(3, S, S) in [−1, 1]."""
    keypoints: Tensor
    """(K, 2) as they were found."""
    moved: Tensor
    """(K, 2) as they were wanted."""
    mask: Tensor
    """(1, S, S), 1 where the appearance was shown."""


@torch.inference_mode()
def edit(model: AutoLink, image: Tensor, movement: Tensor, appearance: Tensor | None = None) -> Edit:
    """Reconstruct an image with some of its keypoints elsewhere.

    Args:
        model: In eval mode.
        image: (3, S, S) in [−1, 1].
        movement: (K, 2), what is added to the image's keypoints.
        appearance: (3, S, S) in [−1, 1], an image whose looks are taken; the image itself if None.
    """
    shown = image if appearance is None else appearance
    keypoints, own = model.locate(torch.stack([image, shown])).xy
    moved = keypoints + movement.to(keypoints)
    size = image.shape[-1]
    mask = unchanged(model.relative_edge_map(torch.stack([own, moved]), size), CHANGED)
    result = model.decoder((shown * mask)[None], model.graph.channels(moved[None], (size, size)))
    return Edit(result[0].clamp(-1, 1), keypoints, moved, mask)


def unchanged(edge_maps: Tensor, threshold: float) -> Tensor:
    """Where two edge maps (2, 1, S, S) agree: (1, S, S), 0 in patches where they do not and in those around."""
    size = edge_maps.shape[-1]
    cells = functional.adaptive_max_pool2d((edge_maps[0] - edge_maps[1]).abs(), CELLS)
    hidden = functional.max_pool2d((cells > threshold).float(), 3, stride=1, padding=1)
    return functional.interpolate(1 - hidden[None], size=(size, size), mode="nearest")[0]


def parse_moves(moves: Iterable[str], keypoints: int) -> Tensor:
    """`KEYPOINT:RIGHT,DOWN` strings as movements (K, 2); several of one keypoint add up.

    Raises:
        UserError: If one is not in this form, or names a keypoint that the model does not have.
    """
    movement = torch.zeros(keypoints, 2)
    for move in moves:
        try:
            number, _, step = move.partition(":")
            index, (x, y) = int(number), map(float, step.split(","))
        except ValueError:
            raise UserError(f"--move {move}: expected KEYPOINT:RIGHT,DOWN as in 3:+0.1,-0.05") from None
        if not 0 <= index < keypoints or not math.isfinite(x + y):
            raise UserError(f"--move {move}: expected a keypoint from 0 to {keypoints - 1} and two finite numbers")
        movement[index] += torch.tensor([x, y])
    return movement


def _read(path: Path, model: AutoLink) -> Tensor:
    """(3, S, S) in [−1, 1], on the model's device."""
    square, _ = load_square(path, model.config.image_size)
    return signed_from_bytes(torch.from_numpy(square).permute(2, 0, 1).to(model.device))


def picture(model: AutoLink, image: Tensor, shown: Tensor, edited: Edit) -> Tensor:
    """Image with its keypoints | what was shown of the appearance | new graph | result: (3, H, W) uint8."""
    side = max(_PANEL, image.shape[-1])
    panels = torch.stack([image, shown * edited.mask, edited.image])
    panels = functional.interpolate(panels, size=(side, side), mode="bicubic", antialias=True).clamp(-1, 1) / 2 + 0.5
    before = overlay(panels[:1], edited.keypoints[None], model.edge_weights, numbered=True)
    graph = overlay(torch.zeros(1, 3, side, side), edited.moved[None], model.edge_weights, numbered=True)
    return image_grid([before[0], to_uint8(panels[1]), graph[0], to_uint8(panels[2])], columns=4)


@command
def main() -> None:
    """Entry point of `autolink edit`."""
    options = tyro.cli(Options, description=__doc__)
    if options.output.suffix.lower() != ".png":
        raise UserError(f"--output {options.output}: expected a file name ending in .png")
    refuse_inputs([options.output], [options.image, options.appearance, own_file(options.model)])
    model = load(options.model, pick_device(options.device))
    movement = parse_moves(options.move, model.config.keypoints)
    image = _read(options.image, model)
    appearance = _read(options.appearance, model) if options.appearance else None
    edited = edit(model, image, movement, appearance)
    save_png(options.output, picture(model, image, image if appearance is None else appearance, edited))
    print(f"{options.output}: image, patches shown ({edited.mask.mean():.0%}), new graph, result")
