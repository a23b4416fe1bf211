"""The generator as ONNX, from keypoints and noise to images: `autolink-sample export --output gan.onnx`.

The edges are drawn inside, so that whatever runs the file needs none of this package. The file is run in onnxruntime
and compared with `ConditionalGAN.sample` before the command says that it is done.

Shapes: B batch, K keypoints, S image side.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from torch import Tensor, nn
from torch.nn import functional

from autolink.commands.export import write_onnx
from autolink.errors import command
from autolink.outputs import refuse_inputs
from autolink.pixels import unit_from_signed
from autolink.ranges import Number, check
from autolink.weights import own_file
from autolink_apps.gan.generator import NOISE_SIZE, STRUCTURE_SIDE, ConditionalGAN
from autolink_apps.gan.poses import ModelOptions, load_gan

TOLERANCE = 1e-3
"""Largest difference between onnxruntime and torch, for images in [0, 1], that is rounding."""


@dataclass(kw_only=True)
class Options(ModelOptions):
    """Write the generator as an ONNX model.

    Its inputs are `keypoints` (B, K, 2), x and y in [-1, 1] of the image, and `z` (B, 256), standard normal noise; its
    output `images` is (B, 3, S, S) in [0, 1]. All are float32.
    """

    output: Path
    """File to write, ending in .onnx."""
    truncation: Number = 0.7
    """What the file does with noise, as in the other modes: 1 for all the variety that was learned."""


class _Sampling(nn.Module):
    """`ConditionalGAN.sample` in operators that ONNX has."""

    w_average: Tensor
    shrink: Tensor

    def __init__(self, gan: ConditionalGAN, truncation: float) -> None:
        super().__init__()
        self.generator, self.edges = gan.generator, gan.autolink.graph
        self.size, self.truncation = gan.config.image_size, truncation
        self.register_buffer("w_average", gan.w_average.clone())
        # Bicubic resizing is linear and separable. ONNX has its own, antialiased one, but with other rounding.
        identity = torch.eye(self.size)[None, None]
        shape = (STRUCTURE_SIDE, self.size)
        self.register_buffer("shrink", functional.interpolate(identity, shape, mode="bicubic", antialias=True)[0, 0])

    def forward(self, keypoints: Tensor, z: Tensor) -> Tensor:
        edge_map = self.edges.relative(keypoints, self.size, engine="reference")
        structure = self.generator.structure.encode(self.shrink @ edge_map @ self.shrink.T)
        w = self.w_average + self.truncation * (self.generator.mapping(z) - self.w_average)
        return unit_from_signed(self.generator.paint(structure, w).clamp(-1, 1))


def export_onnx(gan: ConditionalGAN, path: Path, truncation: float = 0.7) -> Path:
    """Write the generator as ONNX (see `Options`), and check it against the model in onnxruntime.

    Raises:
        UserError: If the `export` extra is not installed or the path does not end in .onnx.
        RuntimeError: If onnxruntime's images differ from torch's.
    """
    check("--truncation", Number, truncation)
    gan = gan.cpu().eval().requires_grad_(False)
    batch = {0: torch.export.Dim("batch", min=1, max=4096)}

    def wanted(keypoints: Tensor, z: Tensor) -> tuple[Tensor]:
        return (gan.sample(keypoints, z, truncation=truncation),)

    cases = [_inputs(gan, count) for count in (2, 1, 3)]
    axes = {"keypoints": batch, "z": batch}
    return write_onnx(_Sampling(gan, truncation), path, cases, axes, ["images"], wanted, TOLERANCE)


def _inputs(gan: ConditionalGAN, count: int) -> dict[str, Tensor]:
    """Random poses, some keypoints outside the image, and noise."""
    keypoints = torch.rand(count, gan.config.autolink.keypoints, 2) * 2.2 - 1.1
    return {"keypoints": keypoints, "z": torch.randn(count, NOISE_SIZE)}


@command
def main() -> None:
    """Entry point of `autolink-sample export`."""
    options = tyro.cli(Options, description=__doc__)
    refuse_inputs([options.output], [own_file(options.model)])
    path = export_onnx(load_gan(options), options.output, options.truncation)
    print(f"{path} ({path.stat().st_size / 1e6:.1f} MB), within {TOLERANCE:g} of the model in onnxruntime")
