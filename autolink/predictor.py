"""Keypoints of images and videos as files people can work with: `autolink detect --model M --output DIR INPUT...`.

Written into the output folder: `keypoints.csv` (one row a frame), `keypoints.npz` (arrays for NumPy), and the graph
drawn over every input under `overlays/`. Videos are streamed; memory does not grow with their length.

Shapes: B frames at a time, T frames in all, K keypoints, H W pixels.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
import tyro
from torch import Tensor
from tqdm import tqdm

from autolink.data.folder import list_files
from autolink.devices import pick_device
from autolink.errors import UserError, command
from autolink.geometry import to_pixels
from autolink.images import IMAGE_SUFFIXES
from autolink.model import AutoLink, load
from autolink.video import VIDEO_SUFFIXES, FrameSource, ImageFrames, VideoWriter, open_frames
from autolink.visualize import overlay, save_png


@dataclass
class Options:
    """Find keypoints in images, folders of images and videos."""

    inputs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Images, folders of images, videos."""
    model: str = "faces"
    """A shipped name, a file, a folder or a hub id."""
    output: Path = Path("keypoints")
    """Folder for keypoints.csv, keypoints.npz and overlays/."""
    overlays: bool = True
    """Draw the graph over every input."""
    numbered: bool = False
    """Number the keypoints in the overlays."""
    batch_size: int = 32
    """Frames at a time."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1`, `mps` …"""


class Detection(NamedTuple):
    """Keypoints of one frame."""

    source: Path
    """The image or video."""
    frame: int
    """Number of the frame in its source, 0 for an image."""
    time: Fraction
    """Seconds since the start of its source."""
    image: np.ndarray
    """(H, W, 3) uint8."""
    keypoints: Tensor
    """(K, 2) in [−1, 1]."""
    confidence: Tensor
    """(K,) in [0, 1]."""

    @property
    def pixels(self) -> Tensor:
        """(K, 2) in pixels of the image, where the centre of the top left pixel is (0.5, 0.5)."""
        return to_pixels(self.keypoints, *self.image.shape[:2])


def detect_stream(model: AutoLink, frames: FrameSource, batch_size: int = 32) -> Iterator[Detection]:
    """Keypoints of every frame of a video or image, in order, holding `batch_size` frames at a time."""
    count, stream = 0, iter(frames)
    while batch := list(islice(stream, batch_size)):
        images = torch.stack([torch.from_numpy(frame.image).permute(2, 0, 1) for frame in batch])
        found = model.detect(images.float() / 255)
        for frame, xy, confidence in zip(batch, found.xy.cpu(), found.confidence.cpu()):
            yield Detection(frames.path, count, frame.time, frame.image, xy, confidence)
            count += 1


@dataclass
class _Table:
    """Collects keypoints, writing csv rows as they come."""

    path: Path
    model: AutoLink
    rows: list[tuple[str, int, float]] = field(default_factory=list)
    points: list[np.ndarray] = field(default_factory=list)
    confidences: list[np.ndarray] = field(default_factory=list)

    def __enter__(self) -> _Table:
        self.path.mkdir(parents=True, exist_ok=True)
        self.file = (self.path / "keypoints.csv").open("w", newline="")
        self.csv = csv.writer(self.file)
        columns = [f"{name}{k}" for k in range(self.model.config.keypoints) for name in ("x", "y", "confidence")]
        self.csv.writerow(["source", "frame", "time", *columns])
        return self

    def add(self, found: Detection) -> None:
        points, confidence = found.pixels.numpy(), found.confidence.numpy()
        values = np.concatenate([points, confidence[:, None]], axis=1).ravel()
        self.csv.writerow([found.source, found.frame, f"{float(found.time):.6f}", *(f"{v:.4f}" for v in values)])
        self.rows.append((str(found.source), found.frame, float(found.time)))
        self.points.append(points)
        self.confidences.append(confidence)

    def __exit__(self, *_: object) -> None:
        self.file.close()
        count = self.model.config.keypoints
        sources, frames, times = zip(*self.rows) if self.rows else ((), (), ())
        np.savez_compressed(
            self.path / "keypoints.npz",
            keypoints=np.stack(self.points) if self.points else np.zeros((0, count, 2), np.float32),
            confidence=np.stack(self.confidences) if self.points else np.zeros((0, count), np.float32),
            source=np.array(sources),
            frame=np.array(frames, np.int64),
            time=np.array(times),
            edges=torch.triu_indices(count, count, 1).T.numpy(),
            edge_weights=self.model.edge_weights.detach().cpu().numpy(),
        )


def detect(options: Options) -> int:
    """Detect keypoints in all inputs and write the files; returns the number of frames.

    The arrays of `keypoints.npz`: `keypoints` (T, K, 2) in pixels, `confidence` (T, K), `source`, `frame` and `time`
    (T,), `edges` (E, 2), `edge_weights` (E,).

    Raises:
        UserError: If an input or the model cannot be read.
    """
    sources = list(_expand(options.inputs))
    model = load(options.model, pick_device(options.device))
    with _Table(options.output, model) as table, tqdm(unit="frame", desc="detect") as progress:
        for source, name in sources:
            drawn = options.output / "overlays" / name if options.overlays else None
            _detect_source(model, source, drawn, table, progress, options)
    return len(table.rows)


def _detect_source(
    model: AutoLink, source: Path, drawn: Path | None, table: _Table, progress: tqdm, options: Options
) -> None:
    """Detect in one image or video, into the table and, if `drawn` is given, as a picture or a video."""
    with open_frames(source) as frames, ExitStack() as stack:
        writer = None
        if drawn is not None and not isinstance(frames, ImageFrames):
            drawn.parent.mkdir(parents=True, exist_ok=True)
            sound = source if frames.has_audio else None
            writer = stack.enter_context(
                VideoWriter(drawn.with_suffix(".mp4"), frames.width, frames.height, frames.frame_rate, sound)
            )
        progress.total = (progress.total or 0) + (frames.frame_count or 0) or None
        for found in detect_stream(model, frames, options.batch_size):
            table.add(found)
            progress.update()
            if drawn is None:
                continue
            picture = _draw(found, model, options.numbered)
            if writer is None:
                save_png(drawn.with_suffix(".png"), picture)
            else:
                writer.write(picture.permute(1, 2, 0).numpy(), found.time)


def _draw(found: Detection, model: AutoLink, numbered: bool) -> Tensor:
    """The graph over one frame: (3, H, W) uint8."""
    image = torch.from_numpy(found.image).permute(2, 0, 1)[None].float() / 255
    return overlay(image, found.keypoints[None], model.edge_weights, numbered=numbered)[0]


def _expand(inputs: Iterable[Path]) -> Iterator[tuple[Path, Path]]:
    """Every image and video that the inputs name, with a name for its overlay that no other has.

    Raises:
        UserError: If an input does not exist, or a folder has neither images nor videos.
    """
    taken: set[Path] = set()
    for given in inputs:
        if not given.exists():
            raise UserError(f"no such file or folder: {given}")
        sources = list_files(given, given, IMAGE_SUFFIXES | VIDEO_SUFFIXES) if given.is_dir() else [given.name]
        if not sources:
            raise UserError(f"{given} holds neither images nor videos")
        root = given if given.is_dir() else given.parent
        for source in sources:
            name = Path(source).with_suffix("")
            while name in taken:
                name = name.with_name(name.name + "_")
            taken.add(name)
            yield root / source, name


@command
def main() -> None:
    """Entry point of `autolink detect`."""
    options = tyro.cli(Options, prog="autolink detect", description=__doc__)
    count = detect(options)
    print(f"{count} frames: {options.output / 'keypoints.csv'}, {options.output / 'keypoints.npz'}", end="")
    print(f", {options.output / 'overlays'}" if options.overlays else "")


if __name__ == "__main__":
    main()
