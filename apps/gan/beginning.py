"""Going on from what another run has reached, without its optimisers: `--start-from`, and the files for it.

A *start* holds generator, discriminator and averaged generator of a run, in half precision. Unlike a checkpoint it is
small enough to keep beside the models, and it need not fit exactly: networks for images of twice the side have one
block more, and all others are alike, so that a GAN for 128² can begin with one for 64².
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from autolink.errors import UserError
from autolink.training import CHECKPOINT
from autolink.weights import pretrained_folder, read_tensors

NETWORKS = "module/"
"""What the names of the networks' tensors begin with in a checkpoint, and in a start."""
AT_THE_IMAGE = ("to_image", "stem")
"""Layers that have other channels where images are larger."""
STARTS = "starts"
"""Folder of the starts that come with a checkout, below `pretrained/`."""


def find_start(source: str) -> Path:
    """The file of a start: a run folder's checkpoint, a file, or a name in `pretrained/starts/`.

    Raises:
        UserError: If there is none.
    """
    path, shipped = Path(source), pretrained_folder() / STARTS / f"{source}.safetensors"
    for candidate in (path, path / CHECKPOINT, shipped):
        if candidate.is_file():
            return candidate
    names = sorted(file.stem for file in shipped.parent.glob("*.safetensors"))
    raise UserError(
        f"--start-from {source}: neither a run folder with a {CHECKPOINT}, nor a file, nor a start that came with this "
        f"checkout ({', '.join(names) or 'none did'})"
    )


def begin_with(source: str, modules: Mapping[str, nn.Module]) -> int:
    """Give networks the weights of a start; what only they have stays as it is.

    Args:
        source: See `find_start`.
        modules: `generator`, `discriminator` and `ema`, not wrapped yet. On the device `meta` it is only found out
            whether the start fits them.

    Returns:
        How many of their tensors are new.

    Raises:
        UserError: If there is no such start, or its networks have another width or larger images.
    """
    path = find_start(source)
    tensors = read_tensors(path)
    new = 0
    for name, module in modules.items():
        prefix = f"{NETWORKS}{name}/"
        theirs = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        if not theirs:
            raise UserError(f"--start-from {source}: {path} holds no {name}; give a run of this command")
        new += _take(module, theirs, name == "discriminator", source)
    return new


@torch.no_grad()
def _take(module: nn.Module, theirs: Mapping[str, Tensor], finest_first: bool, source: str) -> int:
    """Copy what fits; how many tensors were left."""
    ours = module.state_dict()
    added = _blocks(ours) - _blocks(theirs)
    if added < 0:
        raise UserError(f"--start-from {source}: its images are larger than --image-size; give theirs or more")
    left = 0
    for name, value in ours.items():
        found = theirs.get(_renumbered(name, -added) if finest_first else name)
        if added and name == "n_averaged":
            continue  # an average of networks that grew begins anew
        if found is not None and found.shape == value.shape:
            value.copy_(found)
        elif added and (found is None or name.split(".")[-2] in AT_THE_IMAGE):
            left += 1  # the block for the larger images is new, too
        else:
            raise UserError(f"--start-from {source}: its networks have another --width or --discriminator")
    return left


def _blocks(state: Mapping[str, Tensor]) -> int:
    return len({name.split("blocks.")[1].split(".")[0] for name in state if "blocks." in name})


def _renumbered(name: str, by: int) -> str:
    """The name of a tensor whose block has another number; a negative number is no block's."""
    if "blocks." not in name:
        return name
    before, after = name.split("blocks.")
    number, rest = after.split(".", 1)
    return f"{before}blocks.{int(number) + by}.{rest}"
