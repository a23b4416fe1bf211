"""Keypoint detection as ONNX, from pixels to keypoints: `autolink export --model M --output FILE.onnx`.

Its input `images` is (B, 3, H, W) float32 in [0, 1] of any size; its outputs are `keypoints` (B, K, 2), x and y in
[-1, 1] of the image, and `confidence` (B, K). Cropping to the centre square, resizing, normalisation and soft-argmax
are inside. The file is run in onnxruntime and compared with `AutoLink.detect` before the command says that it is done.

Shapes: B batch, K keypoints, H W pixels, S side of what the detector sees.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor, nn

from autolink.errors import UserError, command
from autolink.model import MAX_DETECTOR_SIZE, AutoLink, load
from autolink.outputs import refuse_inputs, replacing
from autolink.pixels import signed_from_unit
from autolink.ranges import Checked
from autolink.weights import own_file

TOLERANCE = 1e-4
"""Largest difference between onnxruntime and torch that is rounding."""


@dataclass
class Options(Checked):
    """Write keypoint detection as an ONNX model."""

    model: str
    """A shipped name, a file, a folder or a hub id."""
    output: Path
    """File to write, ending in .onnx."""


class _Detection(nn.Module):
    """`AutoLink.detect` without decisions that depend on the size of the images, which a graph cannot make."""

    def __init__(self, model: AutoLink) -> None:
        super().__init__()
        self.model = model
        self.size = min(model.config.image_size, MAX_DETECTOR_SIZE)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        height, width = images.shape[-2:]
        side: Any = torch.sym_min(height, width)  # or what stands for a length that is not known yet
        square = resizing(height, side, self.size) @ images @ resizing(width, side, self.size).T
        found = self.model.locate(signed_from_unit(square))
        lengths = ((0, width), (1, height))
        in_image: list[Tensor] = [((found.xy[..., i] + 1) * side + (n - side) // 2 * 2) / n - 1 for i, n in lengths]
        return torch.stack(in_image, dim=-1), found.confidence


def resizing(length: int, side: int, size: int) -> Tensor:
    """The matrix (size, length) that cuts the middle `side` of a line of pixels and resizes it to `size`.

    It is bilinear and antialiased: the weights are a triangle around each new pixel's centre, as wide as that pixel or,
    when enlarging, as an old one. A product with it works on any image size in any runtime; ONNX's own antialiased
    Resize would need a crop of a size unknown until the model runs.
    """
    offset, scale = (length - side) // 2, side / size
    place = torch.arange(length)
    centres = (torch.arange(size) + 0.5) * scale + offset
    reach: Any = torch.sym_max(scale, 1.0)
    weights = (1 - (place + 0.5 - centres[:, None]).abs() / reach).clamp_min(0)
    weights = weights * ((place >= offset) & (place < offset + side))
    return weights / weights.sum(1, keepdim=True)


def export_onnx(model: AutoLink, path: Path) -> Path:
    """Write keypoint detection as ONNX (see the top of the file), and check it against the model in onnxruntime.

    Raises:
        UserError: If the `export` extra is not installed or the path does not end in .onnx.
        RuntimeError: If onnxruntime's answers differ from torch's.
    """
    model = model.cpu().eval()
    axes = {0: torch.export.Dim("batch", min=1, max=4096)}
    axes |= {axis: torch.export.Dim(name, min=2, max=1 << 16) for axis, name in ((2, "height"), (3, "width"))}
    size = model.config.image_size
    shapes = (2, 3, 150, 203), (3, 3, size, size), (1, 3, 2 * size + 1, size), (2, 3, size // 2, size)
    cases = [{"images": torch.rand(shape)} for shape in shapes]
    return write_onnx(
        _Detection(model), path, cases, {"images": axes}, ["keypoints", "confidence"], model.detect, TOLERANCE
    )


def write_onnx(
    graph: nn.Module,
    path: Path,
    cases: Sequence[Mapping[str, Tensor]],
    axes: Mapping[str, Mapping[int, Any]],
    outputs: Sequence[str],
    wanted: Callable[..., Sequence[Tensor]],
    tolerance: float,
) -> Path:
    """Write a graph as ONNX, and check it in onnxruntime before the file has its name.

    Args:
        graph: On the CPU; takes its inputs in the order of the cases.
        path: Ends in .onnx.
        cases: Inputs by name. The first are what is traced; onnxruntime has to be right on all.
        axes: Of each input, the axes whose length may be another, as `torch.export` names them.
        outputs: What they are called.
        wanted: The outputs for inputs given by name, as the model itself computes them.
        tolerance: Largest difference that is rounding.

    Raises:
        UserError: If the `export` extra is not installed or the path does not end in .onnx.
        RuntimeError: If onnxruntime's answers differ from the model's.
    """
    if path.suffix != ".onnx":
        raise UserError(f"--output {path}: expected a file name ending in .onnx")
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 - torch.onnx needs it
    except ImportError as error:
        raise UserError(f"export needs {error.name}; run: pip install 'autolink-graph[export]'") from error
    with replacing(path) as part:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter warns of its own internals
            torch.onnx.export(
                graph.eval(),
                tuple(cases[0].values()),
                part,
                input_names=list(cases[0]),
                output_names=list(outputs),
                dynamic_shapes=dict(axes),
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        session = onnxruntime.InferenceSession(part, providers=["CPUExecutionProvider"])
        for case in cases:
            given = session.run(None, {name: value.numpy() for name, value in case.items()})
            for name, expected, found in zip(outputs, wanted(**case), given):
                off = (expected - torch.from_numpy(found)).abs().max().item()
                if not off <= tolerance:
                    shapes = {of: tuple(value.shape) for of, value in case.items()}
                    raise RuntimeError(f"{path}: {name} from onnxruntime differ from torch by {off} on {shapes}")
    return path


@command
def main() -> None:
    """Entry point of `autolink export`."""
    options = tyro.cli(Options, description=__doc__)
    refuse_inputs([options.output], [own_file(options.model)])
    path = export_onnx(load(options.model), options.output)
    print(f"{path} ({path.stat().st_size / 1e6:.1f} MB), within {TOLERANCE:g} of the model in onnxruntime")
