"""Pose transfer as ONNX, from a source and poses to pictures: `autolink-transfer export --output transfer.onnx`.

Edges are drawn inside, so that whatever runs the file needs none of this package. The keypoints of the source, and of
drivers, are found by the file that `autolink export` makes of the model's AutoLink; how a driver's are retargeted is
`motion.py`. The file is run in onnxruntime and compared with `PoseTransfer.transfer` before the command says that it
is done.

Shapes: B poses, K keypoints, S side of the network's images, R side of the source and of the result.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from torch import Tensor, nn

from autolink.commands.export import resizing, write_onnx
from autolink.errors import command
from autolink.outputs import refuse_inputs
from autolink.pixels import signed_from_unit
from autolink.ranges import Checked
from autolink.weights import own_file

from .composing import finished, settle
from .model import PoseTransfer
from .models import DEFAULT_MODEL

TOLERANCE = 2e-3
"""Largest difference between onnxruntime and torch, for images in [0, 1], that is rounding."""
LARGEST = 1 << 13
"""Side of a source, at most."""


@dataclass
class Options(Checked):
    """Write pose transfer as an ONNX model.

    Its inputs are `source` (1, 3, R, R), a square of the network's size or larger in [0, 1]; `source_keypoints`
    (1, K, 2), x and y in [-1, 1] of the square; and `keypoints` (B, K, 2), poses for the source. Its output `images` is
    (B, 3, R, R) in [0, 1]. All are float32.
    """

    output: Path
    """File to write, ending in .onnx."""
    model: str = DEFAULT_MODEL
    """A shipped name, a file, a folder or a hub id."""
    keep_still: bool = True
    """What the poses do not move stays the source's own pixels."""


class _Transfer(nn.Module):
    """`PoseTransfer.transfer` without decisions that depend on sizes, which a graph cannot make."""

    def __init__(self, model: PoseTransfer, keep_still: bool) -> None:
        super().__init__()
        self.network, self.edges = model.network, model.autolink.graph
        self.size, self.keep_still = model.config.image_size, keep_still

    def forward(self, source: Tensor, source_keypoints: Tensor, keypoints: Tensor) -> Tensor:
        side = source.shape[-1]
        shrinking, pixels = resizing(side, side, self.size), signed_from_unit(source)
        seen = shrinking @ pixels @ shrinking.T
        source_map, driving_map = (
            self.edges.relative(pose, self.size, engine="reference") for pose in (source_keypoints, keypoints)
        )
        encoded = self.network.encode(seen, source_keypoints, source_map).expand(keypoints.shape[0])
        sketch = self.network.drive(encoded, keypoints, driving_map)
        settled = sketch
        if self.keep_still:
            settled = settle(sketch, source_keypoints, keypoints)
        return finished(settled, pixels)


def export_onnx(model: PoseTransfer, path: Path, keep_still: bool = True) -> Path:
    """Write pose transfer as ONNX (see `Options`), and check it against the model in onnxruntime.

    Raises:
        UserError: If the `export` extra is not installed or the path does not end in .onnx.
        RuntimeError: If onnxruntime's images differ from torch's.
    """
    model = model.cpu().eval().requires_grad_(False)
    size, count = model.config.image_size, model.config.autolink.keypoints
    side = torch.export.Dim("side", min=size, max=LARGEST)
    axes = {"source": {2: side, 3: side}, "source_keypoints": {}}
    axes["keypoints"] = {0: torch.export.Dim("batch", min=1, max=4096)}
    cases = [
        {
            "source": torch.rand(1, 3, pixels, pixels),
            "source_keypoints": torch.rand(1, count, 2) * 1.6 - 0.8,
            "keypoints": torch.rand(poses, count, 2) * 1.6 - 0.8,
        }
        for pixels, poses in ((size + 37, 2), (size, 1), (2 * size, 3))
    ]

    def wanted(source: Tensor, source_keypoints: Tensor, keypoints: Tensor) -> tuple[Tensor]:
        return (model.transfer(source, source_keypoints, keypoints, keep_still),)

    return write_onnx(_Transfer(model, keep_still), path, cases, axes, ["images"], wanted, TOLERANCE)


@command
def main() -> None:
    """Entry point of `autolink-transfer export`."""
    options = tyro.cli(Options, description=__doc__)
    refuse_inputs([options.output], [own_file(options.model)])
    path = export_onnx(PoseTransfer.from_pretrained(options.model), options.output, options.keep_still)
    print(f"{path} ({path.stat().st_size / 1e6:.1f} MB), within {TOLERANCE:g} of the model in onnxruntime")
