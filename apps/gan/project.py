"""A real image in the generator: `autolink-sample project --image photo.jpg --move 3:+0.1,-0.05`.

The pose is the image's own; the appearance w is found by optimisation, so that the generated image looks like the real
one. Then the pose is changed and the appearance kept. What was found is written beside the picture; `grid`,
`interpolate` and `mix` take it as `--appearance`.

Shapes: K keypoints, L modulated convolutions, S image side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import tyro
from torch import Tensor
from torch.nn import functional
from torch.optim.lr_scheduler import CosineAnnealingLR

from autolink.commands.edit import parse_moves
from autolink.errors import UserError, command
from autolink.features import Perceptual
from autolink.losses import PerceptualLoss, lpips_distance
from autolink.outputs import refuse_inputs
from autolink.pixels import signed_from_unit, to_uint8
from autolink.progress import Bar
from autolink.ranges import Count, Seed
from autolink.tracking.follow import Crop
from autolink.visualize import edge_map_image, image_grid, save_png
from autolink.weights import own_file, write_safetensors
from autolink_apps.gan.generator import NOISE_SIZE, ConditionalGAN
from autolink_apps.gan.poses import TABLE_SUFFIXES, ModelOptions, check_poses, given_poses, load_gan

CANDIDATES = 256
"""Random appearances of which the one that is closest in colours is where the optimisation starts."""
LEARNING_RATE = 0.05
"""Adam's at the start, for w whose components vary by about 0.7; it falls to 0 as a cosine."""
Distance = Callable[[Tensor, Tensor], Tensor]


@dataclass(kw_only=True)
class Options(ModelOptions):
    """Find the appearance of a real image, and give it another pose."""

    image: Path
    """The image; its centred square is taken, or what `--crop` says."""
    crop: Crop = "none"
    """auto: where the model is not sure of the square in the middle, its object is searched in the whole picture."""
    output: Path = Path("project.png")
    """The picture to write: image | projection | edges | with the new pose, if there is one. The appearance is written
    beside it as .safetensors."""
    move: tuple[str, ...] = ()
    """KEYPOINT:RIGHT,DOWN as in 3:+0.1,-0.05; the image is 2 wide and 2 high.
    `autolink detect --numbered` shows the numbers of the keypoints."""
    pose: Path | None = None
    """An image, video or table whose (first) pose is taken instead of the image's own, before it is moved."""
    per_layer: bool = False
    """Let each layer have its own w: closer to the image, further from what was learned."""
    steps: Count = 300
    """Steps of the optimisation."""
    perceptual: Perceptual = "lpips"
    """What likeness is: LPIPS on SqueezeNet, or the features of training; builtin and pyramid need no download."""
    seed: Seed = 0
    """Seed of the appearances from which the start is chosen."""


class Projection(NamedTuple):
    """An appearance that was found in an image."""

    w: Tensor
    """(1, 256), or (1, L, 256) with one for each layer."""
    start: float
    """Distance where the optimisation started."""
    end: float
    """Distance where it ended, and the smallest that it saw."""


def project(
    gan: ConditionalGAN,
    image: Tensor,
    keypoints: Tensor,
    distance: Distance,
    steps: int = 300,
    per_layer: bool = False,
    seed: int = 0,
) -> Projection:
    """Find the w with which the generator paints an image in its own pose.

    Args:
        gan: The model.
        image: (1, 3, S, S) in [−1, 1].
        keypoints: (1, K, 2), the image's pose.
        distance: Of images (1, 3, S, S) in [−1, 1], differentiable in the first; the mean squared difference of pixels
            is added.
        steps: Of Adam.
        per_layer: Whether each layer gets a w of its own.
        seed: Of the random appearances from which the start is chosen.

    Returns:
        The best w seen, and the distances.
    """
    generator = gan.generator
    with torch.no_grad():
        structure = generator.structure(gan.condition(keypoints))
        z = torch.randn(CANDIDATES, NOISE_SIZE, generator=torch.Generator().manual_seed(seed)).to(image.device)
        candidates = gan.embed(z, truncation=0.7).split(32)
        painted = [generator.paint(structure.expand(len(w), -1, -1, -1), w) for w in candidates]
        nearest = torch.cat([(made - image).square().mean((1, 2, 3)) for made in painted]).argmin()
        start = torch.cat(candidates)[nearest][None]
    w = (generator.per_layer(start) if per_layer else start).clone().requires_grad_()
    optimizer = torch.optim.Adam([w], lr=LEARNING_RATE)
    schedule = CosineAnnealingLR(optimizer, steps)
    best, best_loss, first = w.detach().clone(), float("inf"), float("nan")
    progress = Bar(range(steps + 1), desc="projecting")
    for step in progress:
        made = generator.paint(structure, w)
        loss = distance(made, image).mean() + functional.mse_loss(made, image)
        first = loss.item() if step == 0 else first
        if loss.item() < best_loss:
            best, best_loss = w.detach().clone(), loss.item()
        progress.set_postfix(distance=f"{loss.item():.3f}")
        if step < steps:
            w.grad = torch.autograd.grad(loss, w)[0]  # of w alone: the generator's weights stay as they are
            optimizer.step()
            schedule.step()
    return Projection(best, first, best_loss)


def distance_by(name: Perceptual) -> torch.nn.Module:
    """LPIPS on SqueezeNet, whose ImageNet weights are found as for training, or the loss of training.

    Raises:
        UserError: If weights are neither on this machine nor to be downloaded.
    """
    return lpips_distance() if name == "lpips" else PerceptualLoss(name)


def project_image(options: Options) -> Path:
    """Write picture and appearance as the options ask for, and return the picture's path.

    Raises:
        UserError: If model, image or options cannot be used.
    """
    if options.output.suffix.lower() != ".png":
        raise UserError(f"--output {options.output}: expected a file name ending in .png")
    if options.image.is_dir() or options.image.suffix.lower() in TABLE_SUFFIXES:
        raise UserError(f"--image {options.image}: expected one image")
    appearance = options.output.with_suffix(".safetensors")
    refuse_inputs([options.output, appearance], [options.image, options.pose, own_file(options.model)])
    check_poses([options.image], option="image")
    check_poses([] if options.pose is None else [options.pose])
    gan = load_gan(options)
    device = gan.poses.device
    movement = parse_moves(options.move, gan.config.autolink.keypoints).to(device)
    distance = distance_by(options.perceptual).to(device)
    own = next(given_poses([options.image], gan, 1, crop=options.crop))
    other = own if options.pose is None else next(given_poses([options.pose], gan, 1, crop=options.crop))
    seen = own.square(gan.config.image_size)
    assert seen is not None  # its pose was found in an image
    image, keypoints = seen[None].to(device), own.keypoints[None].to(device)
    wanted = other.keypoints[None].to(device) + movement
    found = project(gan, signed_from_unit(image), keypoints, distance, options.steps, options.per_layer, options.seed)

    panels = [image, gan.paint(keypoints, found.w), edge_map_image(gan.condition(wanted))]
    if not torch.equal(wanted, keypoints):
        panels.append(gan.paint(wanted, found.w))
    save_png(options.output, image_grid(to_uint8(torch.cat(panels)), columns=len(panels)))
    write_safetensors(appearance, {"w": found.w, "keypoints": keypoints}, {})
    print(f"{options.output}: image, projection, edges{', new pose' * (len(panels) == 4)}; appearance in {appearance}")
    print(f"distance ({options.perceptual} + squared difference): {found.start:.3f} at the start, {found.end:.3f} now")
    return options.output


@command
def main() -> None:
    """Entry point of `autolink-sample project`."""
    project_image(tyro.cli(Options, description=__doc__))
