"""Where poses and appearances come from: what the modes of `autolink-sample` share.

A pose is taken from an image, a folder of images, a video, a table that `autolink detect` wrote, or the bank in the
model's file; an appearance is noise, or what `autolink-sample project` found in an image.

Shapes: P poses, N appearances, K keypoints, L modulated convolutions, S image side.
"""

from __future__ import annotations

import csv
import itertools
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from autolink.batching import Batches
from autolink.commands.edit import parse_moves
from autolink.devices import pick_device
from autolink.errors import UserError, leave_out
from autolink.files import STILLS, list_files, no_media, what_is
from autolink.geometry import from_pixels
from autolink.images import square, why_unreadable
from autolink.model import image_to_centre
from autolink.outputs import refuse_inputs
from autolink.pixels import to_uint8, unit_from_pictures
from autolink.ranges import Checked, Count, Number, Seed
from autolink.tracking.confidence import WindowDetector
from autolink.tracking.follow import Crop, Part, look
from autolink.tracking.windows import cut
from autolink.video import open_frames
from autolink.visualize import edge_map_image, overlay
from autolink.weights import own_file, read_tensors
from autolink_apps.gan.generator import NOISE_SIZE, STYLE_SIZE, ConditionalGAN

DEFAULT_MODEL = "portraits-gan"
T = TypeVar("T")
TABLE_SUFFIXES = frozenset({".csv", ".npz"})
BATCH = 16
"""Frames in which poses are looked for at a time."""


@dataclass(kw_only=True)
class ModelOptions(Checked):
    """Which GAN, and where it computes."""

    model: str | None = None
    """A GAN: a shipped name, file, folder or hub id. Default: the shipped `portraits-gan`."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1`, `mps` …"""


@dataclass(kw_only=True)
class SampleOptions(ModelOptions):
    """Which poses and which appearances."""

    output: Path
    """Where the result is written."""
    pose: tuple[Path, ...] = ()
    """Images, folders of images, videos, or tables of `autolink detect` (csv, npz) whose poses to take. Default: poses
    of training images, which the model's file holds."""
    crop: Crop = "none"
    """Where poses of images and videos are found. none: in the square in the middle. auto: where the model is not sure
    of that, its object is searched in the whole picture, and followed through a video."""
    count: Count = 6
    """Poses to take of the model's own, and of each video or table, evenly spread."""
    move: tuple[str, ...] = ()
    """KEYPOINT:RIGHT,DOWN as in 3:+0.1,-0.05; the image is 2 wide and 2 high.
    `autolink detect --numbered` shows the numbers of the keypoints."""
    appearance: tuple[Path, ...] = ()
    """Files that `autolink-sample project` wrote, whose appearances to take instead of random ones."""
    columns: Count = 6
    """Random appearances."""
    seed: Seed = 0
    """Seed of the appearances, and of the model's own poses."""
    truncation: Number = 0.7
    """1 for all the variety of random appearances that was learned; towards 0 they get more typical."""


class Pose(NamedTuple):
    """A pose and where it was found."""

    name: str
    """Good for a file name; not necessarily unique."""
    keypoints: Tensor
    """(K, 2) in [−1, 1] of the centred square, on the CPU."""
    frame: np.ndarray | None = None
    """(H, W, 3) uint8, the image in which it was found."""

    def square(self, size: int) -> Tensor | None:
        """The centred square of the image: (3, size, size) in [0, 1]; None if there is none."""
        if self.frame is None:
            return None
        return unit_from_pictures([np.array(square(Image.fromarray(self.frame), size))])[0]


def load_gan(options: ModelOptions) -> ConditionalGAN:
    """The model that the options name; says so when it is the default."""
    device = pick_device(options.device)
    if options.model is None:
        print(f"no --model given: using the shipped '{DEFAULT_MODEL}'")
    return ConditionalGAN.from_pretrained(options.model or DEFAULT_MODEL, device)


def trained_on(gan: ConditionalGAN, data: str | None) -> str:
    """The data that were given, or those on which the model was trained; says so when it is these.

    Raises:
        UserError: If none were given, and the model's file does not say.
    """
    if data is not None:
        return data
    options = gan.metadata.get("options", {})
    if "data" not in options:
        raise UserError("no --data given, and the model does not say on which images it was trained")
    print(f"no --data given: using '{options['data']}', on which the model was trained", file=sys.stderr)
    return options["data"]


def draw(options: SampleOptions, gan: ConditionalGAN) -> tuple[Tensor, list[int]]:
    """Appearances w, (N, 256) or (N, L, 256), and numbers of poses in the model's bank, as the options say."""
    draws = torch.Generator().manual_seed(options.seed)
    z = torch.randn(options.columns, NOISE_SIZE, generator=draws).to(gan.poses.device)
    order = torch.randperm(len(gan.poses), generator=draws)[: options.count].tolist()
    if not options.appearance:
        return gan.embed(z, options.truncation), order
    return torch.cat([read_appearance(path, gan) for path in options.appearance]), order


def read_appearance(path: Path, gan: ConditionalGAN) -> Tensor:
    """The appearance (1, L, 256) that `autolink-sample project` wrote.

    Raises:
        UserError: If the file holds none, or one of another model.
    """
    w = read_tensors(path).get("w")
    layers = gan.generator.layers
    if w is None or w.shape[1:] not in ((STYLE_SIZE,), (layers, STYLE_SIZE)):
        raise UserError(f"--appearance {path}: expected what `autolink-sample project` wrote with this model")
    return gan.generator.per_layer(w.to(gan.poses.device))


def find_poses(options: SampleOptions, gan: ConditionalGAN, order: list[int], every: bool = False) -> Iterator[Pose]:
    """The poses that the options ask for, moved as they say.

    Args:
        options: What poses.
        gan: Whose AutoLink finds them.
        order: Numbers in the model's bank, taken if no pose is given.
        every: Take every frame of videos and every row of tables instead of `count` of them.
    """
    movement = parse_moves(options.move, gan.config.autolink.keypoints)
    count = None if every else options.count
    found = given_poses(options.pose, gan, count, options.output, options.crop) if options.pose else bank(gan, order)
    for pose in found:
        yield pose._replace(keypoints=pose.keypoints + movement)


def bank(gan: ConditionalGAN, order: list[int]) -> Iterator[Pose]:
    """Poses by their number in the model's bank."""
    return (Pose(f"pose-{number:03d}", gan.poses[number].cpu()) for number in order)


def given_poses(
    paths: Iterable[Path], gan: ConditionalGAN, count: int | None, output: Path | None = None, crop: Crop = "none"
) -> Iterator[Pose]:
    """Poses of images, folders of images but for what is in `output`, videos and tables; `count` of those, or all.

    Of several, those that cannot be used are named and left out.

    Raises:
        UserError: If none can be used.
    """
    paths, found = list(paths), False
    for path in paths:
        if path.suffix.lower() in TABLE_SUFFIXES:
            poses = table_poses(path, gan.config.autolink.keypoints, count)
        else:
            poses = detected_poses(path, gan, count, output, crop)
        try:
            for pose in poses:
                found = True
                yield pose
        except UserError as error:
            if len(paths) == 1:
                raise
            leave_out(error)
    if not found:
        raise UserError(f"--pose {' '.join(map(str, paths))}: none can be read")


def inputs_of(options: SampleOptions) -> list[Path | None]:
    """Files that are read as the options say, and folders of such."""
    folders = [path for path in options.pose if path.is_dir()]
    within = [path / file for path in folders for file in list_files(path, path, STILLS, output=options.output)]
    return [*options.pose, *within, *options.appearance, own_file(options.model)]


def check_options(options: SampleOptions) -> None:
    """Look at what was given before a model is loaded or a folder is made.

    Raises:
        UserError: If there is nothing to take poses from, or what is written would replace what is read.
    """
    check_poses(options.pose, output=options.output)
    refuse_inputs([options.output], inputs_of(options))


def check_poses(paths: Iterable[Path], option: str = "pose", output: Path | None = None) -> None:
    """Look at what was given for poses before a model is loaded or a folder is made.

    Raises:
        UserError: If something is not there, or nothing can hold a pose but in the folder `output`.
    """
    reasons = []
    for path in paths:
        if not path.exists():
            raise UserError(f"--{option} {path}: no such file or folder")
        reasons.append(_why_no_pose(path, output))
    if reasons and all(reasons):
        raise UserError(f"--{option} {reasons[0]}")


def _why_no_pose(path: Path, output: Path | None) -> str | None:
    """A cheap check, None if something may hold a pose."""
    if path.is_dir():
        return None if list_files(path, path, STILLS, output=output) else str(no_media(path, STILLS))
    if path.suffix.lower() in TABLE_SUFFIXES or what_is(path).moves:
        return None
    reason, expected = why_unreadable(path), "an image, a folder of images, a video, or a csv or npz of autolink detect"
    return None if reason is None else f"{path}: {reason}; expected {expected}"


def is_clip(path: Path) -> bool:
    """Whether a file is a video or a table: poses one after the other in time."""
    return path.is_file() and (path.suffix.lower() in TABLE_SUFFIXES or what_is(path).moves)


def spread(total: int, count: int | None) -> list[int]:
    """`count` numbers evenly spread over 0 to total − 1, or all of them."""
    if count is None or count >= total:
        return list(range(total))
    return [round(number * (total - 1) / max(count - 1, 1)) for number in range(count)]


# Images and videos


def detected_poses(
    path: Path, gan: ConditionalGAN, count: int | None, output: Path | None = None, crop: Crop = "none"
) -> Iterator[Pose]:
    """Poses found in an image, a folder of images or a video, a batch at a time."""
    if crop == "auto":
        detector = WindowDetector(gan.autolink, batches=Batches(BATCH))
        yield from _each(path, output, lambda file: _followed_poses(file, detector, gan.config.image_size, count))
        return
    stream = gan.autolink.detect_stream(_frames(path, count, output), BATCH, picture=lambda named: named[1])
    with closing(stream):
        for (name, frame), found in stream:
            yield Pose(name, image_to_centre(found.xy, *frame.shape[:2]), frame)


def _frames(path: Path, count: int | None, output: Path | None = None) -> Iterator[tuple[str, np.ndarray]]:
    """Names and images (H, W, 3) uint8; of a video `count`, or all."""
    yield from _each(path, output, lambda file: _file_frames(file, count))


def _each(path: Path, output: Path | None, read: Callable[[Path], Iterator[T]]) -> Iterator[T]:
    """What is read of a file, or of all images of a folder that can be read, but those in `output`."""
    if not path.is_dir():
        yield from read(path)
        return
    for file in list_files(path, path, STILLS, output=output):
        try:
            yield from read(path / file)
        except UserError as error:
            leave_out(error)


def _file_frames(path: Path, count: int | None) -> Iterator[tuple[str, np.ndarray]]:
    """As `_frames`."""
    with open_frames(path) as frames:
        if not what_is(path).moves:
            yield from ((path.stem, frame.image) for frame in frames)
            return
        wanted = None if count is None else set(spread(sum(1 for _ in frames), count))
        for number, frame in enumerate(frames):
            if wanted is None or number in wanted:
                yield f"{path.stem}-{number:06d}", frame.image


def _followed_poses(path: Path, detector: WindowDetector, size: int, count: int | None) -> Iterator[Pose]:
    """Poses in windows on the subject, which are what a pose shows of its frame; of a video `count`, or all."""
    with open_frames(path) as frames:
        track = look(Part(frames), detector, "auto", "crop")
        wanted = set(spread(len(track.times), count))
        for number, (image, _) in enumerate(frames):
            if number in wanted:
                name = f"{path.stem}-{number:06d}" if what_is(path).moves else path.stem
                window = track.window(number, image)
                yield Pose(name, track.poses[number], cut(image, window, max(size, round(window.side))))


# Tables

_DAMAGED: tuple[type[Exception], ...] = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    RuntimeError,
    SyntaxError,
)
_DAMAGED += (MemoryError, csv.Error, zipfile.BadZipFile, zlib.error, struct.error)
"""What the readers of a csv and of the archive that an npz is raise when bytes of it are missing or others."""


def table_poses(path: Path, keypoints: int, count: int | None) -> Iterator[Pose]:
    """Poses that a table of `autolink detect` holds in pixels of its images, which must still be there.

    Raises:
        UserError: If it is no such table, has another number of keypoints, or its images are gone.
    """
    try:
        rows = _read_csv(path) if path.suffix.lower() == ".csv" else _read_npz(path)
    except _DAMAGED as error:
        raise UserError(f"--pose {path}: expected keypoints.csv or keypoints.npz of autolink detect") from error
    if not rows:
        raise UserError(f"--pose {path}: there is no pose in it")
    seen: dict[str, tuple[int, int, bool]] = {}
    for index in spread(len(rows), count):
        source, number, pixels = rows[index]
        if len(pixels) != keypoints:
            raise UserError(f"--pose {path}: row {index} has {len(pixels)} keypoints, the model {keypoints}")
        if not np.isfinite(pixels).all():
            raise UserError(f"--pose {path}: row {index} has keypoints that are no numbers; repeat autolink detect")
        if source not in seen:
            seen[source] = _look_at(path, source)
        width, height, moves = seen[source]
        stem = Path(source).stem
        name = f"{stem}-{number:06d}" if moves else stem
        yield Pose(name, image_to_centre(from_pixels(torch.from_numpy(pixels), height, width), height, width).float())


def _read_csv(path: Path) -> list[tuple[str, int, np.ndarray]]:
    """Source, number of the frame, and keypoints (K, 2) in pixels, of each row."""
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        table = csv.DictReader(file, restval="")  # a row that ends early has no numbers
        columns = set(table.fieldnames or ())
        count = next(k for k in range(len(columns) + 1) if f"x{k}" not in columns)
        if not {"source", "frame", "x0"} <= columns:
            raise ValueError("no table of autolink detect")
        return [
            (row["source"], int(row["frame"]), np.array([[float(row[f"{a}{k}"]) for a in "xy"] for k in range(count)]))
            for row in table
        ]


def _read_npz(path: Path) -> list[tuple[str, int, np.ndarray]]:
    """As `_read_csv`."""
    with np.load(path, allow_pickle=False) as arrays:
        frames, keypoints = arrays["frame"], arrays["keypoints"].astype(np.float64)
        sources = arrays["sources"].astype(str)[arrays["source"]]
        if frames.dtype.kind not in "iu" or keypoints.ndim != 3 or keypoints.shape[2] != 2:
            raise ValueError("no arrays of autolink detect")
        if not len(sources) == len(frames) == len(keypoints) or (arrays["source"] < 0).any():
            raise ValueError("its arrays do not belong together")
        return list(zip(sources.tolist(), frames.tolist(), keypoints))


def _look_at(table: Path, source: str) -> tuple[int, int, bool]:
    """Width and height of an image or video that a table names, as it is shown, and whether it moves."""
    for path in (Path(source), table.parent / source):
        if path.is_file():
            with open_frames(path) as frames:
                return frames.width, frames.height, what_is(path).moves
    raise UserError(f"--pose {table}: its keypoints are in pixels of {source}, which is not there; run where it is")


# Pictures


def picture(gan: ConditionalGAN, pose: Pose) -> Tensor:
    """The image with its pose drawn over it, or of a pose without an image the edge map: (3, S, S) uint8."""
    image = pose.square(gan.config.image_size)
    if image is None:
        return pose_labels(gan, pose.keypoints[None].to(gan.poses.device))[0]
    return overlay(image[None], pose.keypoints[None], gan.autolink.edge_weights)[0]


def pose_labels(gan: ConditionalGAN, poses: Tensor) -> Tensor:
    """Edge maps of poses (P, K, 2) as pictures (P, 3, S, S) uint8."""
    return to_uint8(edge_map_image(gan.condition(poses)))


class UniqueNames:
    """Hands out names no two of which are equal: `x`, `x-2`, `x-3`."""

    def __init__(self) -> None:
        self.taken: set[str] = set()

    def __call__(self, name: str) -> str:
        """The name, numbered if it was handed out before."""
        numbered = (f"{name}-{number}" for number in itertools.count(2))
        free = next(n for n in itertools.chain([name], numbered) if n not in self.taken)
        self.taken.add(free)
        return free
