"""How good smoothing, calibration and editing are: three tables, from `synthetic` and from a set of faces in clips.

    python benchmarks/tools.py --data faces --model faces

The data need landmarks and clips of several frames, as `faces` has; the model must know what they show.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import torch
import tyro
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from autolink.commands.calibrate import fit
from autolink.commands.edit import edit
from autolink.data import open_data, synthetic_clip
from autolink.errors import command
from autolink.losses import PerceptualLoss
from autolink.masking import patch_mask
from autolink.metrics import apply_linear, fit_linear
from autolink.model import AutoLink, load
from autolink.ranges import Checked, Count
from autolink.smoothing import OneEuroFilter


@dataclass
class Options(Checked):
    model: str = "faces"
    data: str = "faces"
    fit_images: Count = 600  # of which calibrations are fitted to samples
    pairs: Count = 48  # of frames, for editing


def smoothing_table(noise: float = 0.006) -> None:
    """Errors of noisy trajectories before and after smoothing with the defaults."""
    line = torch.arange(150) / 25
    sweep = torch.stack([((line - 2) * 1.2).clamp(0, 0.6), torch.zeros(150)], -1)[:, None].expand(-1, 10, -1)
    truths = {"point that rests": torch.zeros(150, 10, 2), "point that rests, crosses the image, rests": sweep}
    truths["joints of a synthetic figure"] = synthetic_clip(3, 150, 32)[1]
    print(
        f"\nsmoothing, noise {noise} (half the image's side is 1)\n\n| | error | frame-to-frame jitter |\n|---|---|---|"
    )
    for name, truth in truths.items():
        noisy, smooth = truth + noise * torch.randn_like(truth), OneEuroFilter()
        smoothed = torch.stack([smooth(pose, i / 25) for i, pose in enumerate(noisy)])
        before, after = (noisy - truth)[10:], (smoothed - truth)[10:]
        ratio = after.square().mean().sqrt() / before.square().mean().sqrt()
        jitter = after.diff(dim=0).square().mean().sqrt() / before.diff(dim=0).square().mean().sqrt()
        print(f"| {name} | {ratio:.2f} × | {jitter:.2f} × |")


def calibration_table(model: AutoLink, options: Options) -> None:
    """Left-out errors of calibrations on few images, and their errors on people held out."""
    train, test = (
        open_data(options.data, model.config.image_size),
        open_data(options.data, model.config.image_size, "val"),
    )
    chosen = torch.randperm(len(train))[: options.fit_images].tolist()
    keypoints, landmarks = detect_all(model, Subset(train, chosen))
    test_keypoints, test_landmarks = detect_all(model, test)
    print("\ncalibration: mean error in percent of the image's side\n")
    print("| labelled images | left out, as printed | held out | held out, least squares | held out, mean position |")
    print("|---|---|---|---|---|")
    for count in (10, 20, 50, 100):
        rows = []
        for _ in range(6):
            some = torch.randperm(len(chosen))[:count]
            fitted = fit(keypoints[some], landmarks[some], [train.clips[chosen[i]] for i in some.tolist()])
            plain = fit_linear(keypoints[some].flatten(1).double(), landmarks[some].flatten(1).double(), bias=True)
            maps = [apply_linear(test_keypoints.flatten(1).double(), c) for c in (fitted.coefficients, plain)]
            maps.append(landmarks[some].mean(0).flatten().expand_as(test_landmarks.flatten(1)))
            held_out = [(m.view(test_landmarks.shape) - test_landmarks).norm(dim=-1).mean() / 2 for m in maps]
            rows.append(torch.stack([fitted.errors.mean(), *held_out]))
        print(f"| {count} | " + " | ".join(f"{value * 100:.2f}" for value in torch.stack(rows).mean(0)) + " |")


def editing_table(model: AutoLink, options: Options) -> None:
    """The first frame of a clip with the keypoints of its last: how far from where they were asked, from the truth."""
    data = open_data(options.data, model.config.image_size, "val")
    clips = defaultdict(list)
    for index, clip in enumerate(data.clips):
        clips[clip].append(index)
    pairs = [(frames[0], frames[-1]) for clip, frames in clips.items() if clip and len(frames) > 1]
    pairs = [pairs[i] for i in torch.randperm(len(pairs))[: options.pairs].tolist()]
    first, last = (torch.stack([data[pair[i]].image for pair in pairs]).float() / 127.5 - 1 for i in (0, 1))
    start, wanted = model.locate(first).xy, model.locate(last).xy
    size = (model.config.image_size,) * 2
    shown = {"a random fifth of the patches": patch_mask(len(first), size[0]), "all patches": torch.ones(1)}
    results = {
        name: model.decoder(first * mask, model.graph.channels(wanted, size)).clamp(-1, 1)
        for name, mask in shown.items()
    }
    edits = [edit(model, image, movement).image for image, movement in zip(first, wanted - start)]
    results["patches away from where the graph changes (`autolink edit`)"] = torch.stack(edits)
    results["(the first frame itself)"] = first
    loss = PerceptualLoss("squeezenet")
    print("\nediting: first frame of a clip, keypoints of its last\n")
    print("| shown of the first frame | keypoints off, % of the side | feature distance to the last frame | L1 |")
    print("|---|---|---|---|")
    for name, images in results.items():
        off = (model.locate(images).xy - wanted).norm(dim=-1).mean() / 2 * 100
        print(f"| {name} | {off:.2f} | {loss(images, last):.3f} | {(images - last).abs().mean() / 2:.3f} |")


def detect_all(model: AutoLink, data: Subset) -> tuple[Tensor, Tensor]:
    """Keypoints (N, K, 2) and landmarks (N, L, 2)."""
    found = [(model.locate(b.image.float() / 127.5 - 1).xy, b.landmarks) for b in DataLoader(data, 64)]
    keypoints, landmarks = (torch.cat(part) for part in zip(*found))
    return keypoints, landmarks


@torch.no_grad()
@command
def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    torch.manual_seed(0)
    smoothing_table()
    model = load(options.model)
    calibration_table(model, options)
    editing_table(model, options)


if __name__ == "__main__":
    main()
