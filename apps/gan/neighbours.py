"""Samples beside the training images that are closest to them: `autolink-sample neighbours --output DIR`.

Closest by the features in which distances to real images are measured. Each sample takes the pose of a held-out image,
which stands beside it with its own closest training images. A generator that copies training images is closer to them
than held-out images are; one whose appearances have collapsed has few different closest images.

In the output folder: `neighbours.png`, a row of sample | its closest training images | held-out image | its closest
training images, on the left as they come, on the right those samples that are closest to a training image of all; and
`neighbours.json` with all distances.

Shapes: N samples, M training images, D features, S image side.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import tyro
from torch import Tensor
from torch.utils.data import IterableDataset

from autolink.data import open_data
from autolink.data.sample import SampleSet, spread
from autolink.errors import UserError, command
from autolink.outputs import refuse_inputs, write_json
from autolink.pixels import to_uint8, unit_from_bytes
from autolink.progress import Bar
from autolink.ranges import Count, Number, Seed
from autolink.training import seeded_generator
from autolink.visualize import image_grid, save_png
from autolink_apps.gan.generator import NOISE_SIZE, ConditionalGAN
from autolink_apps.gan.metrics import CHUNK, FeatureNetwork, chunks, nearest, open_features, share
from autolink_apps.gan.poses import DEFAULT_MODEL, ModelOptions, load_gan, trained_on

SHOWN = 12
"""Rows of each half of the picture."""
CLOSEST = 2
"""Training images that are shown beside each sample."""


@dataclass(kw_only=True)
class Options(ModelOptions):
    """Look for samples that copy training images, or resemble each other."""

    output: Path
    """Folder for `neighbours.png` and `neighbours.json`."""
    data: str | None = None
    """The training images: a folder or a name. Default: those that the model names."""
    data_root: Path | None = None
    """Where data sets are looked up by name; default $AUTOLINK_DATA."""
    samples: Count = 256
    """Samples, and held-out images whose poses they take."""
    seed: Seed = 0
    """Seed of the appearances."""
    truncation: Number = 1.0
    """1 for all the variety of random appearances that was learned; towards 0 they get more typical."""
    features: FeatureNetwork = "auto"
    """Features by which images are compared; `auto` takes Inception's where its weights can be had, else
    SqueezeNet's."""


class Neighbours(NamedTuple):
    """Images and the training images closest to them."""

    images: Tensor
    """(N, 3, S, S) in [0, 1]."""
    distances: Tensor
    """(N, 2) of features, closest first."""
    indices: Tensor
    """(N, 2) numbers of training images."""


def neighbours(options: Options) -> Path:
    """Write picture and distances as the options ask for, and return the picture's path.

    Raises:
        UserError: If model, data or options cannot be used.
    """
    gan = load_gan(options)
    data = trained_on(gan, options.data)
    refuse_inputs([options.output], [data])
    training, held_out = (open_data(data, gan.config.image_size, part, options.data_root) for part in ("train", "val"))
    if isinstance(training, IterableDataset) or len(training) < CLOSEST:
        raise UserError(f"--data {data}: expected a folder with {CLOSEST} training images or more, and no stream")
    features = open_features(options.features, gan.poses.device)
    real = unit_from_bytes(torch.stack([sample.image for sample in spread(held_out, options.samples)]))
    made = sample_at_poses_of(gan, real, options.seed, options.truncation)
    near_made, near_real = closest(training, features, made, real)
    summaries = {"samples": summary(near_made, training), "held_out": summary(near_real, training)}
    report = {
        "model": options.model or DEFAULT_MODEL,
        "data": data,
        "features": features.names[0].removesuffix("_frechet"),
        "training_images": len(training),
        "truncation": options.truncation,
        "seed": options.seed,
        "closer_than_held_out": closer(near_made.distances[:, 0], near_real.distances[:, 0]),
        **summaries,
    }
    path = save_png(options.output / "neighbours.png", picture(near_made, near_real, training))
    write_json(options.output / "neighbours.json", report, indent=1)
    for name, about in summaries.items():
        print(
            f"{name}: {about['count']} images, median distance {about['median_distance']:.3g} to the closest training "
            f"image; {about['different_closest']} different images are closest to one"
        )
    print(f"a sample is closer than a held-out image in {report['closer_than_held_out']:.0%} of all pairs; see {path}")
    return path


@torch.no_grad()
def sample_at_poses_of(gan: ConditionalGAN, images: Tensor, seed: int, truncation: float) -> Tensor:
    """A sample (N, 3, S, S) in [0, 1], on the CPU, in the pose of each image (N, 3, S, S) in [0, 1]."""
    z = torch.randn(len(images), NOISE_SIZE, generator=seeded_generator(seed, 0, 0, "neighbours"))
    poses = gan.autolink.detect(images, CHUNK).xy
    parts = zip(poses.split(CHUNK), z.to(poses.device).split(CHUNK))
    return torch.cat([gan.sample(*part, truncation).cpu() for part in parts])


@torch.no_grad()
def closest(training: SampleSet, features: torch.nn.Module, *groups: Tensor) -> list[Neighbours]:
    """Find the training images that are closest to each of several groups of images.

    Args:
        training: M training images.
        features: From `open_features`; its device is where it computes.
        *groups: (N, 3, S, S) in [0, 1].
    """
    device = next(iter(features.parameters()), torch.empty(0)).device

    def look(images: Tensor) -> Tensor:
        return torch.cat([features(part.to(device)).float().cpu() for part in images.split(CHUNK)])

    seen = chunks(share(training, len(training), 0, 1))
    bar = Bar(seen, "training images", -(-len(training) // CHUNK), unit="batch")
    trained = torch.cat([look(unit_from_bytes(part)) for part in bar])
    return [Neighbours(images, *nearest(look(images), trained, CLOSEST)) for images in groups]


def closer(made: Tensor, real: Tensor) -> float:
    """The share of pairs in which a distance of the first (N,) is smaller than one of the second (M,); ties count half.

    The statistic of the data-copying test of Meehan, Chaudhuri and Dasgupta (2020): 0.5 if samples are as far from
    training images as held-out images are, above if the generator copies, below if its images are unlike all real ones.
    """
    return ((made[:, None] < real).double() + (made[:, None] == real).double() / 2).mean().item()


def summary(found: Neighbours, training: SampleSet) -> dict[str, Any]:
    """Distances, and the names of the closest training images, as JSON."""
    distances, indices = found.distances[:, 0], found.indices[:, 0].tolist()
    names = {index: training[index].name for index in set(indices)}
    return {
        "count": len(indices),
        "median_distance": distances.median().item(),
        "smallest_distance": distances.min().item(),
        "different_closest": len(names),
        "distances": [round(distance, 4) for distance in distances.tolist()],
        "closest": [names[index] for index in indices],
    }


def picture(made: Neighbours, real: Neighbours, training: SampleSet) -> Tensor:
    """Rows as they come at the left, those of the samples closest to a training image at the right: (3, H, W) uint8."""
    order = list(range(min(SHOWN, len(made.images))))
    suspects = made.distances[:, 0].argsort()[: len(order)].tolist()
    rows = [number for pair in zip(order, suspects) for number in pair]
    return image_grid([torch.cat([_strip(part, row, training) for part in (made, real)], -1) for row in rows], 2, gap=8)


def _strip(found: Neighbours, row: int, training: SampleSet) -> Tensor:
    """An image and its closest training images, and white space: (3, S, W) uint8."""
    others = [training[index].image for index in found.indices[row].tolist()]
    strip = image_grid(torch.stack([to_uint8(found.images[row]), *others]), columns=1 + CLOSEST)
    return torch.nn.functional.pad(strip, (0, 4), value=255)


@command
def main() -> None:
    """Entry point of `autolink-sample neighbours`."""
    neighbours(tyro.cli(Options, description=__doc__))
