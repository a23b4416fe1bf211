"""What the detector reaches when it is taught the labels: a bound for keypoints that were learned without them.

    python benchmarks/taught_labels.py --data mirror_mouse --steps 1000

The network of `autolink train` with a heatmap a landmark, taught on four fifths of the labelled images and judged on
the fifth, five times; mean error in percent of the image's side. Images are shifted, scaled, brightened and faded at
random.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
import tyro
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from autolink.data import open_data
from autolink.detector import KeypointDetector, locate
from autolink.errors import command
from autolink.ranges import Checked, Count, NotNegative, Range, Side, Width


@dataclass
class Options(Checked):
    data: str = "mirror_mouse"
    steps: Count = 1000
    image_size: Side = 64
    batch_size: Count = 16
    width: Width = 0.25
    learning_rate: NotNegative = 1e-3
    folds: Annotated[int, Range(2)] = 5


def vary(images: Tensor, landmarks: Tensor) -> tuple[Tensor, Tensor]:
    """Images (B, 3, S, S) and landmarks (B, L, 2) shifted, scaled, brightened and faded."""

    def about(*shape: int, by: float) -> Tensor:
        return (torch.rand(len(images), *shape) - 0.5) * 2 * by

    scale, shift = 1 + about(1, by=0.1), about(2, by=0.08)
    grid = functional.affine_grid(
        torch.cat([torch.diag_embed(scale.expand(-1, 2)), shift[..., None]], -1), list(images.shape), False
    )
    moved = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    moved = moved * (1 + about(1, 1, 1, by=0.2)) + about(1, 1, 1, by=0.2)
    return moved, (landmarks - shift[:, None]) / scale[:, None]


def teach(images: Tensor, landmarks: Tensor, options: Options) -> KeypointDetector:
    """A detector of the landmarks (N, L, 2), NaN where unknown, of images (N, 3, S, S) in [−1, 1]."""
    detector = KeypointDetector(landmarks.shape[1], options.width).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(detector.parameters(), options.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.steps)
    for _ in tqdm(range(options.steps), unit="step", leave=False, disable=None):
        picked = torch.randint(len(images), (options.batch_size,))
        shown, wanted = vary(images[picked], landmarks[picked])
        found = locate(detector(shown.contiguous(memory_format=torch.channels_last))).xy
        known = ~wanted.isnan().any(-1)
        loss = (found - wanted)[known].abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return detector.eval()


def judge(options: Options) -> None:
    """Print the error of each fold and of all."""
    samples = [s for split in ("train", "val") for s in open_data(options.data, options.image_size, split)]
    images = torch.stack([s.image for s in samples]).float() / 127.5 - 1
    landmarks = torch.stack([s.landmarks for s in samples]).float()
    fold = torch.randperm(len(images), generator=torch.Generator().manual_seed(0)) % options.folds
    errors = torch.full(landmarks.shape[:2], float("nan"))
    for number in range(options.folds):
        torch.manual_seed(number)
        detector = teach(images[fold != number], landmarks[fold != number], options)
        with torch.no_grad():
            found = locate(detector(images[fold == number])).xy
        errors[fold == number] = (found - landmarks[fold == number]).norm(dim=-1) / 2
        print(f"fold {number}: {errors[fold == number].nanmean():.2%}", flush=True)
    print(f"all: {errors.nanmean():.2%}")


@command
def main() -> None:
    judge(tyro.cli(Options, description=__doc__))


if __name__ == "__main__":
    main()
