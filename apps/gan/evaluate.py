"""A finished GAN in numbers: `autolink gan evaluate --model M --data NAME_OR_DIR` prints JSON.

Distances to the training images and pose errors are those that training logs, computed in the same way and from the
same noise; `disentanglement` says what changes when only the pose or only the appearance does. `accelerate launch
apps/gan/evaluate.py …` shares the distances among several devices.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from accelerate import Accelerator

from autolink.data import open_data, open_samples
from autolink.data.registry import whole
from autolink.data.sample import spread
from autolink.errors import UserError, command
from autolink.pixels import unit_from_bytes
from autolink.ranges import Checked, Range, Whole
from autolink.training import CHECKPOINT
from autolink.weights import read_tensors
from autolink_apps.gan.disentangle import disentanglement
from autolink_apps.gan.generator import ConditionalGAN
from autolink_apps.gan.metrics import CHUNK, Distances, FeatureNetwork, open_features, pose_consistency, real_pose_error
from autolink_apps.gan.poses import trained_on


@dataclass(kw_only=True)
class Options(Checked):
    """Measure a trained GAN."""

    model: str
    """A GAN: a shipped name, file, run folder or hub id."""
    data: str | None = None
    """The images it was trained on: a folder or a name. Default: those that the model names."""
    data_root: Path | None = None
    """Where data sets are looked up by name; default $AUTOLINK_DATA."""
    images: Whole = 5_000
    """Generated, and training images, whose distance is taken (training's --metric-images); 0 takes none."""
    held_out: Annotated[int, Range(2)] = 64
    """Held-out images whose poses are asked for; 64 in training."""
    features: FeatureNetwork = "auto"
    """Features of the distances, as training's --metric-features."""
    last_weights: bool = False
    """Measure the weights of the last step instead of their average, from the checkpoint in the run folder."""


def evaluate(options: Options) -> dict[str, Any]:
    """Measure a model as the options ask for.

    Returns:
        What is measured by name, in the main process; an empty dictionary in the others.

    Raises:
        UserError: If model, data or options cannot be used.
    """
    accelerator = Accelerator()
    gan = ConditionalGAN.from_pretrained(options.model, accelerator.device)
    if options.last_weights:
        take_last_weights(gan, Path(options.model))
    data = trained_on(gan, options.data)
    training = open_data(data, gan.config.image_size, "train", options.data_root)
    held_out = open_samples(data, gan.config.image_size, "val", options.data_root)
    report: dict[str, Any] = {
        "model": options.model,
        "weights": "last" if options.last_weights else "average",
        "data": data,
    }
    if options.images:
        features = open_features(options.features, accelerator.device)
        report |= {
            "images": options.images,
            **Distances(accelerator, gan, training, features, options.images).measure(),
        }
    if not accelerator.is_main_process:
        return {}
    samples = torch.stack([sample.image for sample in spread(held_out, options.held_out)])
    samples = unit_from_bytes(samples.to(accelerator.device))
    report |= {"held_out": len(samples), **pose_consistency(gan, gan.autolink.detect(samples, CHUNK).xy)}
    report["pose_error_real"] = real_pose_error(gan.autolink, samples)
    report["disentanglement"] = disentanglement(gan, held_out, whole(training), options.held_out)
    return report


def take_last_weights(gan: ConditionalGAN, run: Path) -> None:
    """Give a model the weights that training had last, before averaging.

    Raises:
        UserError: If the run folder has no checkpoint, or one of another model.
    """
    prefix = "module/generator/"
    tensors = read_tensors(run / CHECKPOINT)
    try:
        gan.generator.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
    except RuntimeError as error:
        raise UserError(f"{run / CHECKPOINT} is not of the model beside it") from error
    gan.update_w_average()


@command
def main() -> None:
    """Entry point of `autolink gan evaluate`."""
    report = evaluate(tyro.cli(Options, description=__doc__))
    if report:
        print(json.dumps(rounded(report), indent=2))


def rounded(value: Any) -> Any:
    """A report with four decimals."""
    if isinstance(value, dict):
        return {key: rounded(entry) for key, entry in value.items()}
    return round(value, 4) if isinstance(value, float) else value


if __name__ == "__main__":
    main()
