"""Are pose and appearance apart? What changes in a generated image when only one of the two does.

Two held-out images A and B show one individual in two poses, where the data know clips (`synthetic` and `faces` do).
With appearances z and z', three images are made: of pose A with z, of pose B with z, and of pose A with z'. From the
first to the second the keypoints should move as they do from A to B while colours stay as they do from A to B; from
the first to the third keypoints should stay and colours change.

Colours are read around points of the object: the true landmarks where the data have them, as `synthetic` has the joints
of its figures, so that the place on the body is the same in every pose; else the keypoints that were asked for. Where
there are landmarks, a linear map from keypoints to landmarks also says how far those of a generated image lie from the
true ones of the image whose pose it was given.

Shapes: P pairs of images, B images, K keypoints, L landmarks or other points, S image side.
"""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

import torch
from torch import Tensor

from autolink.data.sample import Sample, SampleSet, evenly, spread
from autolink.geometry import pixel_grid
from autolink.graph import detect_spread
from autolink.metrics import Labelled, visible_error
from autolink.pixels import unit_from_bytes
from autolink.training import seeded_generator
from autolink_apps.gan.generator import NOISE_SIZE, ConditionalGAN
from autolink_apps.gan.metrics import CHUNK, mean_distance

REACH = 0.05
"""Radius in which a colour is read around a point, in half sides of the image: about half a limb of `synthetic`."""
FITTED = 1024
"""Training images to which the linear map from keypoints to landmarks is fitted."""


class Views(NamedTuple):
    """Images, where their keypoints are, and the colours at their points."""

    keypoints: Tensor
    """(P, K, 2)."""
    colours: Tensor
    """(P, L, 3) in [0, 1], NaN where a point is unknown."""


def two_poses(data: SampleSet, count: int) -> tuple[list[Sample], list[Sample], bool]:
    """Up to `count` pairs of images of one individual: first and last image of clips spread over a data set.

    Returns:
        The first of each pair, the second, and whether they show one individual; where the data know no clips, other
        images stand in.
    """
    clips = defaultdict(list)
    for index, clip in enumerate(data.clips):
        clips[clip].append(index)
    known = [indices for clip, indices in clips.items() if clip and len(indices) > 1]
    if not known:
        samples = spread(data, count)
        return samples, samples[1:] + samples[:1], False
    picked = [known[place] for place in evenly(len(known), count)]
    return [data[indices[0]] for indices in picked], [data[indices[-1]] for indices in picked], True


def colours_at(images: Tensor, points: Tensor) -> Tensor:
    """Mean colours (B, L, 3) of images (B, 3, S, S) around points (B, L, 2), under a Gaussian of radius `REACH`."""
    grid = pixel_grid(*images.shape[-2:], device=images.device, dtype=images.dtype)
    weights = torch.stack([-(grid - at[:, None, None]).square().sum(-1) / REACH**2 for at in points])  # (B, L, S, S)
    return torch.einsum("blp,bcp->blc", weights.flatten(2).softmax(-1), images.flatten(2))


@torch.no_grad()
def disentanglement(gan: ConditionalGAN, held_out: SampleSet, training: SampleSet, count: int) -> dict[str, object]:
    """What moves and what changes colour when only pose or only appearance does (see the module's text).

    Args:
        gan: The model.
        held_out: Images whose poses are taken.
        training: Images to which the map from keypoints to landmarks is fitted.
        count: P, at most; fewer where there are fewer clips.

    Returns:
        Percentages, of the image's side where keypoints move and of the range where colours change.
    """
    first, second, one_individual = two_poses(held_out, count)
    device, labelled = gan.poses.device, held_out.landmark_count > 0
    a, b = (unit_from_bytes(torch.stack([s.image for s in part]).to(device)) for part in (first, second))
    pose_a, pose_b = (gan.autolink.detect(images, CHUNK).xy for images in (a, b))
    points_a, points_b = pose_a, pose_b
    if labelled:
        points_a, points_b = (torch.stack([s.landmarks for s in part]).to(device) for part in (first, second))
    noise = torch.randn(2, len(a), NOISE_SIZE, generator=seeded_generator(0, 0, 0, "disentangled")).to(device)

    made = {"start": (pose_a, noise[0]), "pose": (pose_b, noise[0]), "appearance": (pose_a, noise[1])}
    images = {name: _sample(gan, *given) for name, given in made.items()}
    start, other_pose, other_appearance = (
        Views(gan.autolink.detect(images[name], CHUNK).xy, colours_at(images[name], points))
        for name, points in (("start", points_a), ("pose", points_b), ("appearance", points_a))
    )
    real_a, real_b = Views(pose_a, colours_at(a, points_a)), Views(pose_b, colours_at(b, points_b))
    others = Views(*(x.roll(1, 0) for x in real_b))
    report: dict[str, object] = {
        "pairs": len(a),
        "colours_at": "landmarks" if labelled else "keypoints",
        "pose_changed": {
            **_change(start, other_pose),
            "movement_followed": _followed(start, other_pose, real_a, real_b),
        },
        "appearance_changed": _change(start, other_appearance),
        "real_other_individual": _change(real_a, others),
    }
    if one_individual:
        report["real_same_individual"] = _change(real_a, real_b)
    if labelled:
        _, *fitted = detect_spread(gan.autolink, training, FITTED)
        fit, truth = Labelled(*fitted), points_a.cpu()
        found = {"generated": start.keypoints, "real": pose_a, "chance": start.keypoints.roll(1, 0)}
        errors = {name: visible_error(fit, Labelled(points.cpu(), truth), bias=True) for name, points in found.items()}
        report["landmark_error"] = errors
    return report


def _sample(gan: ConditionalGAN, poses: Tensor, noise: Tensor) -> Tensor:
    return torch.cat([gan.sample(*part) for part in zip(poses.split(CHUNK), noise.split(CHUNK))])


def _change(before: Views, after: Views) -> dict[str, float]:
    return {
        "keypoints_moved": mean_distance(before.keypoints, after.keypoints),
        "colours_changed": (before.colours - after.colours).abs().nanmean().item() * 100,
    }


def _followed(before: Views, after: Views, asked_before: Views, asked_after: Views) -> float:
    """Share of the movement asked for that was made, in percent: 100 − the squared error over the squared movement."""
    asked = asked_after.keypoints - asked_before.keypoints
    error = after.keypoints - before.keypoints - asked
    return (1 - error.square().sum() / asked.square().sum()).item() * 100
