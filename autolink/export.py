"""A model as ONNX, with resizing, normalisation and soft-argmax inside: `autolink export --model M --output FILE.onnx`.

Shapes: B batch, K keypoints, H W pixels.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from torch import Tensor, nn

from autolink.errors import UserError, command
from autolink.model import AutoLink, load


@dataclass
class Options:
    """Write keypoint detection as an ONNX model.

    Its input `images` is (B, 3, S, S) float32 in [0, 1], S the model's image size and B free; its outputs are
    `keypoints` (B, K, 2) in [-1, 1] and `confidence` (B, K).
    """

    model: str
    """A shipped name, a file, a folder or a hub id."""
    output: Path
    """File to write, ending in .onnx."""


class _Detection(nn.Module):
    """`AutoLink.detect` as a plain function of a tensor."""

    def __init__(self, model: AutoLink) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        found = self.model.locate(images * 2 - 1)
        return found.xy, found.confidence


def export_onnx(model: AutoLink, path: Path) -> Path:
    """Write keypoint detection as ONNX (see `Options`), and check it against the model where onnxruntime is installed.

    Raises:
        UserError: If the `export` extra is not installed or the path does not end in .onnx.
    """
    if path.suffix != ".onnx":
        raise UserError(f"--output {path}: expected a file name ending in .onnx")
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 - torch.onnx needs it
    except ImportError as error:
        raise UserError(f"export needs {error.name}; run: pip install 'autolink[export]'") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    size = model.config.image_size
    example = torch.rand(2, 3, size, size)
    wrapped = _Detection(model.cpu().eval())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns of its own internals
        torch.onnx.export(
            wrapped,
            (example,),
            path,
            input_names=["images"],
            output_names=["keypoints", "confidence"],
            dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1, max=4096)}},
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    images = torch.rand(3, 3, size, size)
    with torch.no_grad():
        expected = wrapped(images)
    for name, wanted, found in zip(
        ("keypoints", "confidence"), expected, session.run(None, {"images": images.numpy()})
    ):
        error = (wanted - torch.from_numpy(found)).abs().max().item()
        if error > 1e-3:
            raise RuntimeError(f"{path}: {name} from onnxruntime differ from torch by {error}")
    return path


@command
def main() -> None:
    """Entry point of `autolink export`."""
    options = tyro.cli(Options, prog="autolink export")
    path = export_onnx(load(options.model), options.output)
    print(f"{path} ({path.stat().st_size / 1e6:.1f} MB), equal to the model in onnxruntime")


if __name__ == "__main__":
    main()
