"""Checkpoints of the official AutoLink code as models of this package: `autolink convert FILE.ckpt --output M`.

The result computes what the official networks compute, up to rounding:

- Convolutions there have a bias in front of BatchNorm; here it is part of BatchNorm's running mean.
- Edge weights are a K×K matrix p of which the strict upper triangle counts, with weight SoftPlus(512·p).
- Keypoints are (y, x) there, and −1 and +1 are *centres* of outer pixels, of 32² heatmaps where keypoints are found and
  of 128² images where edges are drawn. Here they are (x, y) and −1 and +1 are the image's edges, so keypoints are
  127/128 and σ² is (127/128)² of theirs (`AutoLinkConfig.official` does the first).
- Shortcuts of the decoder join after its blocks (`AutoLinkConfig.official`, too).

Files are read by `torch.load(weights_only=True)`, so that nothing in them is executed.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from torch import Tensor

from autolink.edges import LEARNING_RATE_FACTOR
from autolink.errors import UserError, command
from autolink.model import AutoLink, AutoLinkConfig
from autolink.outputs import refuse_inputs
from autolink.ranges import Checked

IMAGE_SIZE = 128
"""Side of the images of all official models; their decoder has no other."""
_IGNORED = ("vgg_loss.", "encoder.detector.coord")  # the loss's network, and the grid that soft-argmax uses


@dataclass
class Options(Checked):
    """Read a checkpoint of the official AutoLink code."""

    checkpoint: Annotated[Path, tyro.conf.Positional]
    """A Lightning checkpoint, such as celeba_wild_k8_m0.8_b16_t0.0025_sklr512/model.ckpt."""
    output: Path
    """File to write, ending in .safetensors."""


def convert(checkpoint: Path, output: Path) -> AutoLink:
    """Write an official checkpoint as a model file.

    Raises:
        UserError: If the checkpoint cannot be read safely or is not one of the official AutoLink.
    """
    if output.suffix != ".safetensors":
        raise UserError(f"--output {output}: expected a file name ending in .safetensors")
    refuse_inputs([output], [checkpoint])
    content = _read(checkpoint)
    options, state = content["hyper_parameters"], content["state_dict"]
    if options["image_size"] != IMAGE_SIZE:
        raise UserError(f"{checkpoint} is for images of {options['image_size']}²; the official decoder works at 128²")
    try:
        keypoints, width = len(state["decoder.skeleton_scalar"]), len(state["decoder.down0.0.weight"]) / 64
        thickness = options["thick"] * ((IMAGE_SIZE - 1) / IMAGE_SIZE) ** 2
        model = AutoLink(AutoLinkConfig(keypoints, thickness, IMAGE_SIZE, width, official=True)).eval()
        model.load_state_dict(_translate(state, options["sklr"]), strict=True)
    except (KeyError, RuntimeError, TypeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{checkpoint} is not an AutoLink of the official code: {reason[:300]}") from error
    recorded = ("dataset", "missing", "block", "thick", "sklr", "lr", "batch_size")
    metadata = {
        "origin": f"official code, {checkpoint.name}",
        "options": {name: options[name] for name in recorded if name in options},
        "steps": content.get("global_step"),
    }
    model.save_pretrained(output, metadata)
    return model


def _read(path: Path) -> Mapping[str, Any]:
    """The content of a Lightning checkpoint, without running anything that is in it."""
    if not path.is_file():
        raise UserError(f"no such file: {path}")
    if not zipfile.is_zipfile(path):
        raise UserError(f"{path} is cut off or no checkpoint of torch; download it again")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} holds objects that are not loaded for safety; where it comes from, save "
            "{'state_dict': c['state_dict'], 'hyper_parameters': dict(c['hyper_parameters'])} of it alone"
        ) from error
    except RuntimeError as error:
        raise UserError(f"{path} is an archive, but no checkpoint of torch ({str(error)[:200]})") from error
    for part, needed in (("state_dict", ()), ("hyper_parameters", ("thick", "sklr", "image_size"))):
        found = content.get(part) if isinstance(content, dict) else None
        missing = [name for name in needed if name not in found] if isinstance(found, dict) else [part]
        if missing:
            raise UserError(f"{path} has no {missing[0]}; expected a Lightning checkpoint of the official AutoLink")
    return content


def _translate(state: Mapping[str, Tensor], sklr: float) -> dict[str, Tensor]:
    """Official tensors under this package's names.

    Raises:
        KeyError: If one is missing, or one is there that has no counterpart.
    """
    left = {name: value for name, value in state.items() if not name.startswith(_IGNORED)}
    scalars = left.pop("decoder.skeleton_scalar")
    first, second = torch.triu_indices(scalars.shape[0], scalars.shape[1], offset=1)
    translated = {
        "graph.scaled_logits": scalars[first, second] * (sklr / LEARNING_RATE_FACTOR),
        "decoder.alpha": left.pop("decoder.alpha"),
    }
    for theirs, ours, their_norm, our_norm in _layers():
        translated[f"{ours}.weight"], bias = left.pop(f"{theirs}.weight"), left.pop(f"{theirs}.bias")
        if their_norm is None:
            translated[f"{ours}.bias"] = bias
            continue
        for part in ("weight", "bias", "running_var", "num_batches_tracked"):
            translated[f"{our_norm}.{part}"] = left.pop(f"{their_norm}.{part}")
        translated[f"{our_norm}.running_mean"] = left.pop(f"{their_norm}.running_mean") - bias
    if left:
        raise KeyError(f"counterpart of {next(iter(left))}")
    return translated


def _layers() -> Iterator[tuple[str, str, str | None, str | None]]:
    """Every convolution: its official name, its name here, and those of the BatchNorm behind it if there is one."""
    detector, encoder = "encoder.detector.conv", "detector.encoder"
    for i in range(4):
        yield f"{detector}.{i}.net.0", f"{encoder}.{i}.body.0", f"{detector}.{i}.net.2", f"{encoder}.{i}.body.1"
        yield f"{detector}.{i}.net.4", f"{encoder}.{i}.body.3", f"{detector}.{i}.net.5", f"{encoder}.{i}.body.4"
        theirs, ours = f"{detector}.{i}.conv_res", f"{encoder}.{i}.shortcut"
        yield f"{theirs}.0", f"{ours}.0", f"{theirs}.2", f"{ours}.1"
    for i, at in ((4, 1), (5, 5)):
        yield f"{detector}.{i}.net.1", f"detector.decoder.{at}", f"{detector}.{i}.net.2", f"detector.decoder.{at + 1}"
    yield f"{detector}.6", "detector.heatmaps", None, None
    yield "decoder.down0.0", "decoder.stem.0", None, None
    for i in range(4):
        for at in (0, 3):
            down, up = f"decoder.down{i + 1}.net", f"decoder.up{i + 1}.net"
            yield f"{down}.{at}", f"decoder.encoder.{i}.{at}", f"{down}.{at + 1}", f"decoder.encoder.{i}.{at + 1}"
            yield f"{up}.{at + 1}", f"decoder.decoder.{i}.{at}", f"{up}.{at + 2}", f"decoder.decoder.{i}.{at + 1}"
    yield "decoder.conv", "decoder.to_image", None, None


@command
def main() -> None:
    """Entry point of `autolink convert`."""
    options = tyro.cli(Options, description=__doc__)
    model = convert(options.checkpoint, options.output)
    print(f"{options.output}: {model.config.keypoints} keypoints, {model.config.image_size}²")
