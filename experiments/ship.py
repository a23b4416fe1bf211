"""Put a trained model among the shipped ones: `python -m experiments.ship NAME FILE --metric '{"…": …}'`.

Stores the weights as float16 and records in `manifest.json` what the file says of its own making. A model that was
trained before there were banks of poses gets one from `--poses`.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from torch import Tensor

from autolink.data import open_data
from autolink.data.sample import spread
from autolink.errors import UserError, command
from autolink.learner.bank import BANK, detect_samples
from autolink.model import AutoLink, AutoLinkConfig
from autolink.outputs import replacing, write_json
from autolink.weights import manifest, pretrained_folder, read_header, read_tensors, write_model

LIMIT = 20_000_000
"""Bytes that one shipped file may have."""


@dataclass
class Options:
    """Ship a model."""

    name: Annotated[str, tyro.conf.Positional]
    """What users will call it."""
    file: Annotated[Path, tyro.conf.Positional]
    """`model.safetensors` of a run."""
    terms: str
    """Terms of the data it was trained on."""
    hardware: str
    """What it was trained on, and for how long."""
    metric: str = "{}"
    """What was measured on held-out data, as a JSON object."""
    poses: str | None = None
    """Data, as `--data` of the training, whose poses go into a file that holds none."""


def ship(options: Options) -> dict[str, Any]:
    """Copy the model into `pretrained/` and return its entry of the manifest.

    Raises:
        UserError: If the file is not a model, or is too large to ship.
    """
    header = read_header(options.file)
    made = header["metadata"]
    made["options"] = {name: _without_place(value) for name, value in made["options"].items()}
    path = pretrained_folder() / f"{options.name}.safetensors"
    tensors = read_tensors(options.file)
    if options.poses is not None:
        tensors |= bank(options.file, options.poses)
    with replacing(path) as part:
        write_model(part, tensors, **header, half=True)
        if part.stat().st_size > LIMIT:
            smaller = "train with a smaller --width"
            raise UserError(f"{options.file} takes more than {LIMIT // 10**6} MB as float16; {smaller}")
    entry = {
        "file": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "task": header["task"],
        "data": made["data"],
        "terms": options.terms,
        "steps": made["steps"],
        "options": made["options"],
        "commit": _commit(),
        "hardware": options.hardware,
        "metric": json.loads(options.metric),
    }
    entries = {**manifest(), options.name: entry}
    write_json(pretrained_folder() / "manifest.json", entries)
    return entry


def bank(file: Path, data: str) -> dict[str, Tensor]:
    """Poses (P, K, 2) of up to `BANK` training images, under the name that they have in this file.

    Raises:
        UserError: If the file is not a model with keypoints, or the data cannot be opened.
    """
    config = read_header(file)["config"]
    inside = "autolink." if "autolink" in config else ""
    config = config.get("autolink", config)
    if "keypoints" not in config:
        raise UserError(f"--poses {data}: {file} is no model with keypoints, which have poses; leave the option out")
    model = AutoLink(AutoLinkConfig(**config))
    tensors = read_tensors(file)
    model.load_state_dict({k.removeprefix(inside): v for k, v in tensors.items() if k.startswith(inside)})
    samples = spread(open_data(data, config["image_size"], "train"), BANK)
    return {f"{inside}poses": detect_samples(model.eval(), samples).xy}


def _without_place(value: Any) -> Any:
    """An option as it is told to others: of an absolute path the name, which says what it was and not where."""
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _commit() -> str:
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=pretrained_folder(), capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


@command
def main() -> None:
    """Entry point of `python -m experiments.ship`."""
    print(json.dumps(ship(tyro.cli(Options, description=__doc__)), indent=2))


if __name__ == "__main__":
    main()
