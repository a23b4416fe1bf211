"""How close generated images are to real ones, and how well they keep their poses.

Distances are taken between features of a frozen classifier. Those of the Inception network of 2015, which torchmetrics
computes, give FID, KID, precision and recall; those of SqueezeNet give the same distances under names of their own, for
they cannot be compared with anybody's FID.

Shapes: N, M images, D features, K keypoints, S image side.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Literal

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import IterableDataset

from autolink.data import Sample
from autolink.data.sample import SampleSet, evenly
from autolink.errors import UserError
from autolink.features import squeezenet
from autolink.masking import patch_mask
from autolink.model import AutoLink
from autolink.pixels import signed_from_unit, unit_from_bytes
from autolink.training import logger, seeded_generator
from autolink_apps.gan.generator import NOISE_SIZE, ConditionalGAN

FeatureNetwork = Literal["auto", "inception", "squeezenet"]
INCEPTION_URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)
SQUEEZENET_SIDE = 128
"""Images are resized to this side before SqueezeNet sees them, whatever their own."""
NEIGHBOURS = 3
"""k of precision and recall."""
CHUNK = 32
"""Images that networks see at a time."""
ROWS = 1024
"""Rows of a matrix of distances that are computed at a time."""


class InceptionFeatures(nn.Module):
    """The 2,048 features that FID is defined on."""

    names = ("fid", "kid", "precision", "recall")

    def __init__(self, weights: Path) -> None:
        from torchmetrics.image.fid import NoTrainInceptionV3

        super().__init__()
        try:
            torch.load(weights, map_location="cpu", weights_only=True)  # the library itself unpickles whatever it finds
            self.network = NoTrainInceptionV3("inception-v3-compat", ["2048"], str(weights))
        except Exception as error:
            raise UserError(f"{weights} does not hold the Inception weights of {INCEPTION_URL}: {error}") from error

    def forward(self, images: Tensor) -> Tensor:
        """Features (N, 2048) of images (N, 3, S, S) in [0, 1]."""
        return self.network((images * 255).round().to(torch.uint8))


class SqueezeNetFeatures(nn.Module):
    """SqueezeNet 1.1's last 512 feature maps, each averaged over the image."""

    names = ("squeezenet_frechet", "squeezenet_kernel", "squeezenet_precision", "squeezenet_recall")

    def __init__(self) -> None:
        super().__init__()
        self.network = squeezenet(taps=(12,)).eval()

    def forward(self, images: Tensor) -> Tensor:
        """Features (N, 512) of images (N, 3, S, S) in [0, 1]."""
        side = (SQUEEZENET_SIDE, SQUEEZENET_SIDE)
        images = functional.interpolate(
            signed_from_unit(images), side, mode="bilinear", align_corners=False, antialias=True
        )
        (features,) = self.network(images)
        return features.mean((2, 3))


def open_features(which: FeatureNetwork, device: torch.device) -> InceptionFeatures | SqueezeNetFeatures:
    """The feature network asked for; `auto` takes Inception where it can be had, and says so where it cannot.

    Raises:
        UserError: If its weights are neither on this machine nor to be downloaded.
    """
    if which != "squeezenet":
        try:
            return InceptionFeatures(_inception_weights()).to(device)
        except UserError as error:
            if which == "inception":
                raise
            logger.warning("no FID: %s; distances are taken on SqueezeNet's features instead", error)
    try:
        return SqueezeNetFeatures().to(device)
    except UserError as error:
        raise UserError(f"--metric-every 0 trains without distances to real images; for them, {error}") from error


def _inception_weights() -> Path:
    """Inception's file in `$AUTOLINK_WEIGHTS`, in torch's cache, or downloaded into it."""
    try:
        import torch_fidelity  # noqa: F401
        import torchmetrics  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} is not installed; pip install 'autolink-graph[metrics]'") from error
    name = INCEPTION_URL.rsplit("/", 1)[1]
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    folders = [Path(os.environ["AUTOLINK_WEIGHTS"])] if os.environ.get("AUTOLINK_WEIGHTS") else []
    for folder in [*folders, cache]:
        if (folder / name).is_file():
            return folder / name
    try:
        cache.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(INCEPTION_URL, str(cache / name), hash_prefix="6726825d")
    except (OSError, RuntimeError) as error:  # urllib's errors are OSErrors; a wrong hash is a RuntimeError
        place = folders[0] if folders else cache
        raise UserError(
            f"the Inception weights are not here and could not be downloaded; put {INCEPTION_URL} into {place}"
        ) from error
    return cache / name


def frechet_distance(real: Tensor, fake: Tensor) -> float:
    """Fréchet distance of the Gaussians with the features' means and covariances (Heusel et al., 2017).

    |μ₁ − μ₂|² + tr(Σ₁ + Σ₂ − 2 (Σ₁Σ₂)^½). With Σ = AᵀA, the last trace is the sum of the singular values of A₁A₂ᵀ,
    which exists for singular covariances too, and is computed without a matrix square root.

    Args:
        real: (N, D), N > 1.
        fake: (M, D), M > 1.
    """
    real, fake = real.double(), fake.double()
    roots = []
    for features in (real, fake):
        centred = (features - features.mean(0)) / (len(features) - 1) ** 0.5
        roots.append(torch.linalg.qr(centred, mode="r").R)
    common = torch.linalg.svdvals(roots[0] @ roots[1].T).sum()
    spread = sum(root.square().sum() for root in roots)
    return ((real.mean(0) - fake.mean(0)).square().sum() + spread - 2 * common).item()


def kernel_distance(real: Tensor, fake: Tensor) -> float:
    """Unbiased squared maximum mean discrepancy for the kernel (x·y / D + 1)³ (Bińkowski et al., 2018).

    Taken over all pairs at once: what the usual mean over random subsets estimates, without its noise.

    Args:
        real: (N, D), N > 1.
        fake: (M, D), M > 1.
    """
    real, fake = real.double(), fake.double()

    def total(x: Tensor, y: Tensor) -> Tensor:
        return sum(((rows @ y.T / x.shape[1] + 1) ** 3).sum() for rows in x.split(ROWS))

    def within(x: Tensor) -> Tensor:
        alone = ((x.square().sum(1) / x.shape[1] + 1) ** 3).sum()
        return (total(x, x) - alone) / (len(x) * (len(x) - 1))

    return (within(real) + within(fake) - 2 * total(real, fake) / (len(real) * len(fake))).item()


def precision_recall(real: Tensor, fake: Tensor) -> tuple[float, float]:
    """Share of generated images among the real ones, and of real among the generated (Kynkäänniemi et al., 2019).

    An image is among others if it lies nearer to one of them than that one's third nearest neighbour of its own kind.

    Args:
        real: (N, D), N > 3.
        fake: (M, D), M > 3.
    """
    return _share_among(fake, real), _share_among(real, fake)


def _share_among(images: Tensor, others: Tensor) -> float:
    # The nearest neighbour of each is itself.
    radii = torch.cat([_distances(o, others).kthvalue(NEIGHBOURS + 1).values for o in others.split(ROWS)])
    inside = torch.cat([(_distances(rows, others) <= radii).any(1) for rows in images.split(ROWS)])
    return inside.double().mean().item()


def _distances(x: Tensor, y: Tensor) -> Tensor:
    return torch.cdist(x.double(), y.double(), compute_mode="donot_use_mm_for_euclid_dist")


def nearest(images: Tensor, others: Tensor, count: int = 1) -> tuple[Tensor, Tensor]:
    """The closest of features (M, D) to each of (N, D): distances (N, count), smallest first, and their indices."""
    found = [_distances(rows, others).topk(count, largest=False) for rows in images.split(ROWS)]
    return torch.cat([each.values for each in found]), torch.cat([each.indices for each in found])


class Distances:
    """Distances of generated images to training images, the work shared by all processes.

    Features and poses of the training images are computed at the first measurement and kept.

    Args:
        accelerator: The run's accelerator.
        gan: What makes the images; measured as it is at the time.
        data: Training images.
        features: From `open_features`.
        count: Images of either kind; fewer if there are fewer training images.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        gan: ConditionalGAN,
        data: SampleSet | IterableDataset[Sample],
        features: InceptionFeatures | SqueezeNetFeatures,
        count: int,
    ) -> None:
        self.accelerator, self.gan, self.data, self.features, self.count = accelerator, gan, data, features, count
        self.real: Tensor | None = None

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """Distances by name, in the main process; the others, which must call this too, get an empty dictionary.

        Raises:
            UserError: If there are not enough images.
        """
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        if self.real is None:
            self._look_at_real(rank, world)
        real = self.real
        assert real is not None
        noise = torch.randn(len(self.poses) * world, NOISE_SIZE, generator=seeded_generator(0, 0, 0, "measured"))
        noise = noise[rank::world].to(self.poses.device)
        fake = [self._features(self.gan.sample(*part)) for part in zip(self.poses.split(CHUNK), noise.split(CHUNK))]
        fake = self.accelerator.gather(torch.cat(fake))
        if not self.accelerator.is_main_process:
            return {}
        values = (
            frechet_distance(real, fake),
            kernel_distance(real, fake),
            *precision_recall(real, fake),
        )
        return dict(zip(self.features.names, values))

    def _look_at_real(self, rank: int, world: int) -> None:
        features, poses = [], []
        for images in chunks(share(self.data, self.count, rank, world)):
            images = unit_from_bytes(images.to(self.gan.poses.device))
            features.append(self._features(images))
            poses.append(self.gan.autolink.detect(images).xy)
        if sum(map(len, features)) * world <= NEIGHBOURS:
            raise UserError(
                f"distances to real images need more than {NEIGHBOURS} of them; train with --metric-every 0"
            )
        self.poses = torch.cat(poses)
        self.real = self.accelerator.gather(torch.cat(features))

    def _features(self, images: Tensor) -> Tensor:
        return self.features(images).float()


def share(data: SampleSet | IterableDataset[Sample], count: int, rank: int, world: int) -> Iterator[Tensor]:
    """This process's images (3, S, S) uint8, as many as every other's, of `count` spread evenly over a data set.

    Of a stream, the first are taken.
    """
    if isinstance(data, IterableDataset):
        for group in zip(*[iter(islice(data, count))] * world):
            yield group[rank].image
        return
    places = evenly(len(data), count)
    for place in places[rank : len(places) // world * world : world]:
        yield data[place].image


def chunks(images: Iterator[Tensor]) -> Iterator[Tensor]:
    """Images (3, S, S) in batches of at most 32."""
    while batch := list(islice(images, CHUNK)):
        yield torch.stack(batch)


def fixed_noise(count: int, device: torch.device) -> Tensor:
    """The same noise (count, 256) whenever it is asked for, so that measurements and pictures can be compared."""
    return torch.randn(count, NOISE_SIZE, generator=seeded_generator(0, 0, 0, "shown")).to(device)


def pose_consistency(gan: ConditionalGAN, poses: Tensor) -> dict[str, float]:
    """How well generated images keep the poses (P, K, 2) they were made from.

    Returns:
        `pose_error`: mean distance between the keypoints asked for and those found again in the image, in
        percent of its side; and `pose_error_chance`: the same against poses of other images, which is what a
        generator scores that ignores its edge map.
    """
    parts = zip(poses.split(CHUNK), fixed_noise(len(poses), poses.device).split(CHUNK))
    found = torch.cat([gan.autolink.detect(gan.sample(*part)).xy for part in parts])
    return {"pose_error": mean_distance(found, poses), "pose_error_chance": mean_distance(found, poses.roll(1, 0))}


@torch.no_grad()
def real_pose_error(autolink: AutoLink, images: Tensor) -> float:
    """What `pose_error` is for real images that have been through a reconstruction: a mark for generated ones.

    The AutoLink reconstructs each image from its edge map and a fifth of its patches, as it was trained to, and its
    detector looks again.

    Args:
        autolink: The frozen AutoLink.
        images: (P, 3, S, S) in [0, 1].

    Returns:
        Mean distance between the keypoints of an image and of its reconstruction, in percent of its side.
    """
    size = autolink.config.image_size
    images = signed_from_unit(images)
    small = functional.interpolate(images, (size, size), mode="bilinear", align_corners=False, antialias=True)
    draws = seeded_generator(0, 0, 0, "reconstructed")
    parts = zip(small.split(CHUNK), patch_mask(len(small), size, generator=draws, device=small.device).split(CHUNK))
    again = torch.cat([autolink(part, mask).images.clamp(-1, 1) for part, mask in parts])
    before, after = (torch.cat([autolink.locate(part).xy for part in of.split(CHUNK)]) for of in (small, again))
    return mean_distance(after, before)


def mean_distance(points: Tensor, others: Tensor) -> float:
    """Mean distance of points (..., 2) in [−1, 1], in percent of the image's side."""
    return (points - others).norm(dim=-1).mean().item() / 2 * 100
