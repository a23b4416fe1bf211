"""Names for keypoints: a linear map to a user's few labelled landmarks, `autolink calibrate --model M --data FOLDER`.

Keypoints mean the same on every image, but nobody said what. A linear map from them to landmarks that were labelled on
a few images says it. It is a ridge regression, since 10 keypoints are 20 inputs and 10 images are not enough to fit
those freely. Its strength is the one with the smallest error on data that were left out, and that error is printed.

Shapes: N images, K keypoints, L landmarks. Points are in the frame of the centred square, −1 and +1 at its edges.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import tyro
from torch import Tensor

from autolink.data import JOINT_NAMES, SampleSet, open_samples
from autolink.data.benchmarks import BENCHMARKS
from autolink.data.folder import ImageFiles
from autolink.data.registry import find_data
from autolink.data.splits import series_of, split_folder
from autolink.detector import Keypoints
from autolink.devices import pick_device
from autolink.errors import UserError, command
from autolink.geometry import from_pixels, to_pixels
from autolink.metrics import apply_linear
from autolink.model import AutoLink, centre_square, load
from autolink.outputs import refuse_inputs
from autolink.ranges import Checked, Count
from autolink.weights import own_file, read_header, read_tensors, write_model

logger = logging.getLogger(__name__)

TASK = "calibration"
MIN_LABELS = 3
"""A landmark needs this many images (or clips) with it: one to leave out and two to fit on."""
STRENGTHS = torch.logspace(-4, 2, 19, dtype=torch.float64)
"""Ridge strengths that are tried, in squared units of the coordinate frame summed over images."""


@dataclass
class Options(Checked):
    """Fit a linear map from keypoints to landmarks on labelled images, and say how good it is."""

    model: str
    """A shipped name, a file, a folder or a hub id."""
    data: str
    """Labelled images: a folder or a name. All of a folder is used, or its part for training if it is divided."""
    output: Path | None = None
    """File to write; default calibration.safetensors beside the model, or here if that is shipped or on the hub."""
    data_root: Path | None = None
    """Where data sets are looked up by name; default $AUTOLINK_DATA."""
    batch_size: Count = 64
    """Images at a time."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1`, `mps` …"""


class Calibration(NamedTuple):
    """A map from the keypoints of one model to named landmarks."""

    coefficients: Tensor
    """(2K + 1, 2L) float32; the last row is the bias."""
    names: tuple[str, ...]
    """Of the L landmarks."""

    @classmethod
    def load(cls, path: Path, model: AutoLink) -> Calibration:
        """Read a file that `autolink calibrate` wrote for this model.

        Raises:
            UserError: If it is no such file, or was fitted to another model.
        """
        header = read_header(path)
        if header["task"] != TASK:
            raise UserError(f"{path} holds a model for '{header['task']}'; expected a file from autolink calibrate")
        if header["config"].get("detector") != fingerprint(model):
            raise UserError(f"{path} was fitted to the keypoints of another model; run autolink calibrate for this one")
        coefficients, names = read_tensors(path).get("coefficients"), header["config"].get("names")
        if (
            coefficients is None
            or not isinstance(names, list)
            or coefficients.shape
            != (
                2 * model.config.keypoints + 1,
                2 * len(names),
            )
        ):
            raise UserError(f"{path}: coefficients and names of landmarks do not belong together; calibrate again")
        return cls(coefficients, tuple(names))

    def __call__(self, keypoints: Tensor, confidence: Tensor) -> Keypoints:
        """Landmarks of keypoints (B, K, 2) in the frame of the square, with confidences (B, K).

        Returns:
            (B, L, 2), and (B, L): the mean of the keypoints' confidences, weighted by how far each moves the landmark.
        """
        landmarks = apply_linear(keypoints.flatten(1), self.coefficients).unflatten(1, (-1, 2))
        influence = self.coefficients[:-1].unflatten(0, (-1, 2)).unflatten(2, (-1, 2)).square().sum((1, 3)).sqrt()
        influence = influence + 1e-8  # (K, L); a landmark that nothing moves is as certain as all keypoints together
        return Keypoints(landmarks, confidence @ (influence / influence.sum(0)))

    def in_image(self, pixels: Tensor, confidence: Tensor, height: int, width: int) -> Keypoints:
        """`__call__` for keypoints (K, 2) in pixels of an image (H, W); landmarks (L, 2) in its pixels, too."""
        return self.in_square(pixels, confidence, *centre_square(height, width))

    def in_square(self, pixels: Tensor, confidence: Tensor, left: float, top: float, side: float) -> Keypoints:
        """As `in_image` where the detector saw another square of the image than that in its middle."""
        corner = pixels.new_tensor([left, top])
        found = self(from_pixels(pixels - corner, side, side)[None], confidence[None])
        return Keypoints(to_pixels(found.xy[0], side, side) + corner, found.confidence[0])


class Fit(NamedTuple):
    """A calibration and what is known of its quality."""

    coefficients: Tensor
    """(2K + 1, 2L) float64."""
    strength: float
    """The ridge strength."""
    errors: Tensor
    """(N, L) distances to the landmark when its unit was left out, in shares of the image's side; NaN if unlabelled."""
    mean_errors: Tensor
    """(N, L) the same for predicting the landmark's mean position."""


def fingerprint(model: AutoLink) -> str:
    """What identifies the detector of a model, however its file is called: a checksum of its weights."""
    digest = hashlib.sha256()
    for value in model.detector.state_dict().values():
        digest.update(value.cpu().numpy().tobytes())
    return digest.hexdigest()


def fit(keypoints: Tensor, landmarks: Tensor, units: Sequence[str]) -> Fit:
    """Ridge regression of landmarks on keypoints, of the strength with the smallest error on units left out.

    Args:
        keypoints: (N, K, 2).
        landmarks: (N, L, 2), NaN where unlabelled.
        units: What each image belongs to; images of one unit are left out together.
    """
    inputs = torch.cat([keypoints.flatten(1), keypoints.new_ones(len(keypoints), 1)], dim=1).double()
    landmarks = landmarks.double()
    tried = [_ridge(inputs, landmarks, units, strength) for strength in STRENGTHS.tolist()]
    best = min(range(len(tried)), key=lambda i: tried[i][1].nanmean().item())
    _, mean_errors = _ridge(inputs[:, -1:], landmarks, units, 0.0)
    return Fit(tried[best][0], STRENGTHS[best].item(), tried[best][1], mean_errors)


def _ridge(inputs: Tensor, landmarks: Tensor, units: Sequence[str], strength: float) -> tuple[Tensor, Tensor]:
    """Coefficients (D, 2L) at one strength, and left-out errors (N, L); the last input is constant and not shrunk.

    A ridge fit is linear in its targets, so the residuals r of a unit that the fit has not seen follow from those of
    the fit to everything: (1 − H)⁻¹ r, where H is the unit's block of the matrix that maps targets to predictions.
    """
    penalty = torch.full((inputs.shape[1],), strength, dtype=inputs.dtype)
    penalty[-1] = 0
    errors = torch.full(landmarks.shape[:2], torch.nan, dtype=inputs.dtype)
    coefficients = inputs.new_empty(inputs.shape[1], *landmarks.shape[1:])
    patterns, pattern_of = (~landmarks.isnan().any(2)).unique(dim=1, return_inverse=True)
    for number, known in enumerate(patterns.T):  # landmarks labelled on the same images are fitted together
        which = (pattern_of == number).nonzero()[:, 0]
        rows = known.nonzero()[:, 0]
        x, y = inputs[rows], landmarks[rows][:, which].flatten(1)
        inverse = torch.linalg.inv(x.T @ x + penalty.diag())
        fitted = inverse @ (x.T @ y)
        coefficients[:, which] = fitted.unflatten(1, (-1, 2))
        residuals = y - x @ fitted
        for group in _groups([units[i] for i in rows.tolist()]):
            hat = x[group] @ inverse @ x[group].T
            unseen = torch.linalg.solve(torch.eye(len(group), dtype=hat.dtype) - hat, residuals[group])
            errors[rows[group][:, None], which] = unseen.unflatten(1, (-1, 2)).norm(dim=2) / 2
    return coefficients.flatten(1), errors


def _groups(units: Sequence[str]) -> list[list[int]]:
    """Indices of each distinct unit."""
    groups: dict[str, list[int]] = {}
    for index, unit in enumerate(units):
        groups.setdefault(unit, []).append(index)
    return list(groups.values())


def calibrate(options: Options) -> tuple[Path, str]:
    """Fit and write a calibration.

    Returns:
        The file, and a report of its errors as text.

    Raises:
        UserError: If model or data cannot be used, or too few images are labelled.
    """
    path = options.output or _beside(options.model)
    if path.suffix != ".safetensors":  # else a mistyped name could be one of the images or tables
        raise UserError(f"--output {path}: expected a file name ending in .safetensors")
    refuse_inputs([path], [own_file(options.model)])
    model = load(options.model, pick_device(options.device))
    data, names = _open_labelled(options, model.config.image_size)
    units = _units(data)
    keypoints, landmarks = model.detect_all(data, options.batch_size)
    labelled = (~landmarks.isnan().any(2)).any(1)
    keypoints, landmarks = keypoints[labelled], landmarks[labelled]
    units = [unit for unit, kept in zip(units, labelled.tolist()) if kept]
    known = (~landmarks.isnan().any(2)).T  # (L, N)
    enough = [len({u for u, k in zip(units, row.tolist()) if k}) >= MIN_LABELS for row in known]
    if not any(enough):
        raise UserError(f"{options.data}: no landmark is labelled on {MIN_LABELS} images or more; label some more")
    if not all(enough):
        left_out = ", ".join(name for name, kept in zip(names, enough) if not kept)
        logger.warning("left out, labelled on fewer than %d images: %s", MIN_LABELS, left_out)
    names = [name for name, kept in zip(names, enough) if kept]
    fitted = fit(keypoints, landmarks[:, torch.tensor(enough)], units)
    config = {"names": names, "detector": fingerprint(model)}
    metadata = {
        "model": options.model,
        "data": options.data,
        "images": len(keypoints),
        "ridge": fitted.strength,
        "left_out_error_percent": {n: round(e, 2) for n, e in zip(names, _percent(fitted.errors).tolist())},
    }
    write_model(path, {"coefficients": fitted.coefficients.float()}, TASK, config, metadata, half=False)
    return path, report(fitted, names, clips=len(set(units)) < len(units))


def report(fitted: Fit, names: Sequence[str], clips: bool) -> str:
    """A table of the left-out errors, a landmark a line."""
    width = max(len(name) for name in [*names, "all, mean"])
    rows = [f"{'landmark':{width}}  images   error  mean position"]
    columns = (~fitted.errors.isnan()).sum(0), _percent(fitted.errors), _percent(fitted.mean_errors)
    for name, count, error, mean in zip(names, *(column.tolist() for column in columns)):
        rows.append(f"{name:{width}}  {count:6d}  {error:6.2f}  {mean:13.2f}")
    overall = [errors.nanmean().item() * 100 for errors in (fitted.errors, fitted.mean_errors)]
    rows.append(f"{'all, mean':{width}}  {len(fitted.errors):6d}  {overall[0]:6.2f}  {overall[1]:13.2f}")
    unit = "clip" if clips else "image"
    rows.append(
        f"Errors in percent of the image's side, each {unit} judged by a map that was fitted without it; "
        "`mean position`: always predicting the landmark's mean."
    )
    return "\n".join(rows)


def _percent(errors: Tensor) -> Tensor:
    return errors.nanmean(0) * 100


def _beside(model: str) -> Path:
    """The default file for a calibration: with the model if it is the user's own."""
    path = Path(model)
    folder = path if path.is_dir() else path.parent if path.is_file() else Path()
    return folder / "calibration.safetensors"


def _open_labelled(options: Options, image_size: int) -> tuple[SampleSet, list[str]]:
    """The part of the data that calibration may use, and the names of their landmarks."""
    if options.data == "synthetic":
        return open_samples("synthetic", image_size, "fit"), list(JOINT_NAMES)
    root = find_data(options.data, options.data_root)
    divided = options.data in BENCHMARKS or split_folder(root, "train") is not None
    data = open_samples(options.data, image_size, "fit" if divided else "all", options.data_root)
    if data.landmark_count == 0:
        raise UserError(
            f"{options.data} has no landmarks to calibrate to; put a landmark csv or COCO keypoints beside the images"
        )
    known = data.landmark_names if isinstance(data, ImageFiles) else ()
    return data, list(known) or [f"landmark{i}" for i in range(data.landmark_count)]


def _units(data: SampleSet) -> list[str]:
    """What is left out together: clips or series, whose frames resemble each other, if enough; else single images."""
    series = series_of(data.names) if isinstance(data, ImageFiles) else data.clips
    units = [clip or one or str(index) for index, (clip, one) in enumerate(zip(data.clips, series, strict=True))]
    return units if len(set(units)) >= MIN_LABELS else [str(index) for index in range(len(units))]


@command
def main() -> None:
    """Entry point of `autolink calibrate`."""
    options = tyro.cli(Options, description=__doc__)
    path, table = calibrate(options)
    print(table)
    print(f"{path}: use it as in  autolink detect --model {options.model} --calibration {path} INPUT...")
