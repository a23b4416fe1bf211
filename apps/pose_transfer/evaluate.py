"""How good pose transfer is, in numbers: `autolink transfer evaluate --model M --data CLIPS`.

Two protocols, each with the same numbers for what needs no network (`metrics.py` defines them):

- *Self-reconstruction*: the first frame of a clip is the source, the keypoints of every later frame drive it
  absolutely, and that frame is the truth. Beside the model stand the true clip itself, which shows how far the
  measures go by themselves; copying the source; and the nearest frame of the clip by keypoints, of those that are a
  quarter of the clip away or further in time, and the first. Errors are also listed by person, where the data say who
  is shown.
  With `--parts` also the model without what keeps still, and as it is at the network's size, enlarged.
- *Animation*: the first frame of a clip is the source, another clip drives it, and there is no truth. Do the keypoints
  found in the result move as was asked, and whose looks has it? Beside the model stand copying the source, the nearest
  frame of the source's clip by keypoints, and the driver's own frames.

The frames of a clip are taken to follow each other. Numbers are means over frames, then over clips; one clip at a time
is in memory. The judge of keypoints is the model's own AutoLink.

Shapes: T frames, S side of the pictures, K keypoints, L landmarks.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import torch
import tyro
from torch import Tensor
from torch.nn import functional

from autolink.data import SampleSet, open_samples
from autolink.data.sample import evenly
from autolink.devices import pick_device
from autolink.errors import UserError, command
from autolink.features import Perceptual
from autolink.graph import detect_spread, maximum_spanning_tree
from autolink.inference import Precision, fold, half_precision
from autolink.metrics import Labelled
from autolink.outputs import refuse_inputs
from autolink.pixels import pictures_from_bytes, to_uint8, unit_from_bytes
from autolink.progress import Bar
from autolink.ranges import Checked, Count, Range

from .casting import kept_inside
from .metrics import (
    LandmarkMap,
    Likeness,
    background_error,
    flicker,
    keypoint_distance,
    l1,
    looks_distance,
    motion_correlation,
    psnr,
    sharpness,
    still_pixels,
)
from .model import PoseTransfer
from .motion import Kind, nearest_pair, retarget
from .options import Side
from .report import Report, Row
from .saved_motion import fingerprint

GAP = 4
"""The nearest frame is at least 1/GAP of the clip away in time: its neighbours are nearly the frame itself."""
FITTED = 1000
"""Images on which the map from keypoints to landmarks is fitted, at most."""


@dataclass
class Options(Checked):
    """Measure pose transfer on clips that it was not trained on, beside what needs no network."""

    model: str
    """A shipped name, a file, a folder or a hub id."""
    data: str
    """Clips: a folder of videos, or with a folder of frames for each clip, or a name."""
    driver_data: str | None = None
    """Clips whose motion the others take; default the same, each driven by the one half of them further on."""
    compare: tuple[str, ...] = ()
    """Further models around the same AutoLink, such as the other appearance."""
    motion: Kind = "relative"
    """How motion is retargeted from one clip to another."""
    perceptual: Perceptual = "lpips"
    """What the perceptual distance is: LPIPS on SqueezeNet, or a loss of training; pyramid needs no weights."""
    part: Literal["held-out", "all"] = "held-out"
    """Of the data: what training leaves out, or all of it, where nothing was trained on it."""
    size: Side | None = None
    """Side of the pictures that are judged, at least the network's, which is the default."""
    parts: bool = False
    """Also judge the model without `--keep-still`, and painted at the network's size and enlarged."""
    every: Count = 1
    """Take a frame of every so many."""
    max_clips: Count = 50
    """Clips, spread evenly over the data, and as many of the drivers."""
    max_frames: Annotated[int, Range(2)] = 64
    """Frames of each clip, the first of those taken."""
    output: Path | None = None
    """Folder for the numbers of each clip (csv), the tables and pictures."""
    batch_size: Count = 16
    """Frames at a time."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1`, `mps` …"""
    precision: Precision = "auto"
    """In which the pictures are painted: `auto` takes bfloat16 where the device has units for it."""
    data_root: Path | None = None
    """Where data sets are looked up by name; default $AUTOLINK_DATA."""


class Clip(NamedTuple):
    """The frames of one clip."""

    name: str
    person: str
    """Who it shows; the clip's name where that is not known."""
    frames: Tensor
    """(T, 3, S, S) uint8."""
    landmarks: Tensor
    """(T, L, 2)."""
    keypoints: Tensor
    """(T, K, 2), as the model's AutoLink found them."""


class Way(NamedTuple):
    """How pictures are made with a model."""

    model: PoseTransfer
    keep_still: bool = True
    enlarged: bool = False
    """Whether painted at the network's size, and resized."""


class Judge:
    """The models, and what is measured with.

    Args:
        options: Say which.

    Raises:
        UserError: If a model cannot be used, or is not around the same AutoLink.
    """

    def __init__(self, options: Options) -> None:
        self.options, self.device = options, pick_device(options.device)
        self.models = {name: PoseTransfer.from_pretrained(name) for name in (options.model, *options.compare)}
        self.model, *others = self.models.values()
        for name, other in list(self.models.items())[1:]:
            if fingerprint(other.autolink) != fingerprint(self.model.autolink):
                raise UserError(f"--compare {name}: expected a model around the AutoLink of {options.model}")
        if any(other.config.image_size != self.model.config.image_size for other in others):
            raise UserError(f"--compare: expected models for {self.model.config.image_size} pixels, as {options.model}")
        least = self.model.config.image_size
        self.size = options.size or least
        if self.size < least:
            raise UserError(f"--size {self.size}: {options.model} paints {least}x{least}; expected {least} or more")
        self.ways = {}
        for name, model in self.models.items():
            self.ways[name] = Way(model)
            if options.parts:
                self.ways |= {f"{name}, nothing kept": Way(model, False), f"{name}, enlarged": Way(model, False, True)}
        self.links = maximum_spanning_tree(self.model.autolink.graph.matrix())
        self.likeness = Likeness(options.perceptual).to(self.device)
        for model in self.models.values():
            fold(model.to(self.device))

    def detect(self, video: Tensor) -> Tensor:
        """Keypoints (T, K, 2) of a video (T, 3, S, S) uint8, on the CPU."""
        return self.model.autolink.detect(pictures_from_bytes(video), self.options.batch_size).xy.cpu()

    def describe(self, video: Tensor) -> Tensor:
        """Descriptors (T, D) of a video, on the CPU."""
        return self._in_batches(self.likeness.describe, video)

    def perceptual(self, made: Tensor, true: Tensor) -> Tensor:
        """Perceptual distance of each frame (T,), on the CPU."""
        return self._in_batches(self.likeness.distances, made, true)

    def paint(self, way: Way, image: Tensor, keypoints: Tensor, poses: Tensor) -> Tensor:
        """A source (3, S, S) uint8 with its keypoints (K, 2) in poses (T, K, 2): (T, 3, S, S) uint8."""
        with half_precision(self.device, self.options.precision):
            source = way.model.encode(unit_from_bytes(image[None].to(self.device)), keypoints[None].to(self.device))
            if way.enlarged:
                source = source._replace(pixels=source.images)

            def paint(part: Tensor) -> Tensor:
                made = way.model.drive(source, part, way.keep_still)
                return to_uint8(functional.interpolate(made, (self.size, self.size), mode="bicubic"))

            return self._in_batches(paint, poses)

    def _in_batches(self, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        size = self.options.batch_size
        parts = zip(*(x.split(size) for x in inputs))
        return torch.cat([function(*(x.to(self.device) for x in part)).cpu() for part in parts])

    def clips(self, data: str) -> Clips:
        """The clips of a data set that are judged on, see `Options`."""
        splits = ("test",) if self.options.part == "held-out" else ("train", "val")
        return Clips([open_samples(data, self.size, split, self.options.data_root) for split in splits], self)


class Clips:
    """Clips of two frames or more, loaded one at a time.

    Args:
        parts: Data sets that know their clips; a clip may begin in one and end in the next.
        judge: Detects, and holds the options.

    Raises:
        UserError: If there is no such clip.
    """

    def __init__(self, parts: list[SampleSet], judge: Judge) -> None:
        self.judge = judge
        members: dict[str, list[tuple[str, SampleSet, int]]] = {}
        for part in parts:
            clips = getattr(part, "clips", ())  # a stream has none
            names = getattr(part, "names", clips)  # two parts may share a clip, whose frames are then put in order
            for index, (clip, name) in enumerate(zip(clips, names)):
                if clip:
                    members.setdefault(clip, []).append((name, part, index))
        self.people = {
            clip: who for part in parts for clip, who in zip(part.clips, getattr(part, "people", part.clips))
        }
        found = [(name, sorted(frames, key=lambda frame: frame[0])) for name, frames in members.items()]
        found = [(name, frames) for name, frames in found if len(frames) > judge.options.every]
        if not found:
            raise UserError(
                f"{parts[0].name}: no clip of two frames or more in the part to judge on; expected videos, or a folder "
                "of frames for each clip (numbered pictures that lie together may show strangers); "
                "--part all takes what training would, too"
            )
        self.members = [found[place] for place in evenly(len(found), judge.options.max_clips)]
        self.landmark_count = parts[0].landmark_count

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, index: int) -> Clip:
        name, frames = self.members[index]
        options = self.judge.options
        samples = [part[place] for _, part, place in frames[:: options.every][: options.max_frames]]
        video = torch.stack([sample.image for sample in samples])
        landmarks = torch.stack([sample.landmarks for sample in samples])
        return Clip(name, self.people[name], video, landmarks, self.judge.detect(video))


def nearest_frames(keypoints: Tensor) -> Tensor:
    """For each frame but the first the nearest other one by keypoints (T, K, 2), see `GAP`: (T − 1,) indices."""
    count = len(keypoints)
    distances = _pose_distances(keypoints, keypoints)
    apart = (torch.arange(count)[:, None] - torch.arange(count)).abs()
    near = apart < max(1, -(-count // GAP))
    near[1:, 0] = False
    return distances.masked_fill(near, torch.inf)[1:].argmin(1)


def _pose_distances(first: Tensor, second: Tensor) -> Tensor:
    return torch.cdist(first.flatten(1), second.flatten(1), compute_mode="donot_use_mm_for_euclid_dist")


def reconstruct(judge: Judge, clip: Clip) -> dict[str, Tensor]:
    """What self-reconstruction judges, by name: videos (T − 1, 3, S, S) uint8 of all frames but the first."""
    first, keypoints = clip.frames[0], clip.keypoints
    videos = {
        "true clip": clip.frames[1:],
        "copy of the source": first.expand(len(keypoints) - 1, -1, -1, -1),
        "nearest frame": clip.frames[nearest_frames(keypoints)],
    }
    return videos | {n: judge.paint(way, first, keypoints[0], keypoints[1:]) for n, way in judge.ways.items()}


def score_reconstruction(judge: Judge, clip: Clip, made: Tensor, landmarks: LandmarkMap | None) -> dict[str, float]:
    """The numbers of one video (T − 1, 3, S, S) against the clip's frames from the second on."""
    true, found = clip.frames[1:], judge.detect(made)
    scores = {
        "l1": l1(made, true).mean().item(),
        "psnr": psnr(made, true).mean().item(),
        "perceptual": judge.perceptual(made, true).mean().item(),
        "keypoints": keypoint_distance(found, clip.keypoints[1:]),
        "looks": looks_distance(judge.describe(made), judge.describe(true)).mean().item(),
        "sharpness": sharpness(made) / sharpness(true),
        "flicker": flicker(made),
        "background": background_error(made, true, still_pixels(clip.frames)),
    }
    return scores if landmarks is None else scores | {"landmarks": landmarks.error(found, clip.landmarks[1:])}


def animate(judge: Judge, source: Clip, driver: Clip) -> tuple[Tensor, dict[str, Tensor]]:
    """Poses asked for (T, K, 2), and what animation judges, by name: videos (T, 3, S, S) uint8."""
    pose = source.keypoints[0]
    reference = driver.keypoints[nearest_pair(pose[None], driver.keypoints)[1]]
    asked = retarget(judge.options.motion, driver.keypoints, reference, pose, judge.links)
    if judge.options.motion != "absolute":
        asked = kept_inside(asked)  # as `autolink-transfer` does
    nearest = _pose_distances(asked, source.keypoints).argmin(1)
    videos = {
        "copy of the source": source.frames[:1].expand(len(asked), -1, -1, -1),
        "nearest frame of the source": source.frames[nearest],
        "driver": driver.frames,
    }
    return asked, videos | {n: judge.paint(way, source.frames[0], pose, asked) for n, way in judge.ways.items()}


def score_animation(judge: Judge, source: Clip, driver: Clip, asked: Tensor, made: Tensor) -> dict[str, float]:
    """The numbers of one video (T, 3, S, S) that should show the source in the poses asked for."""
    found, looks = judge.detect(made), judge.describe(made)
    from_source = looks_distance(looks, judge.describe(source.frames[:1]))
    from_driver = looks_distance(looks, judge.describe(driver.frames))
    return {
        "keypoints": keypoint_distance(found, asked),
        "correlation": motion_correlation(found, asked),
        "looks_from_source": from_source.mean().item(),
        "looks_from_driver": from_driver.mean().item(),
        "closer_to_source": (from_source < from_driver).float().mean().item(),
    }


def pairs(sources: Clips, drivers: Clips | None) -> Iterator[tuple[Clip, Clip]]:
    """Each source with a driver; of one set, with the clip half of the set further on, as long as that is another."""
    for index in range(len(sources)):
        if drivers is not None:
            yield sources[index], drivers[index % len(drivers)]
        elif len(sources) > 1:
            yield sources[index], sources[(index + len(sources) // 2) % len(sources)]


@torch.inference_mode()
def evaluate(options: Options) -> dict[str, Any]:
    """What the command prints; writes the output folder, if there is to be one.

    Raises:
        UserError: If a model, the data or an option cannot be used.
    """
    if options.output is not None:
        refuse_inputs([options.output], [options.data, options.driver_data])
    judge = Judge(options)
    clips = judge.clips(options.data)
    drivers = None if options.driver_data is None else judge.clips(options.driver_data)
    landmarks = _landmark_map(judge, clips)
    report = Report(options.output)
    for clip in Bar((clips[i] for i in range(len(clips))), "reconstruct", len(clips), unit="clip"):
        videos = reconstruct(judge, clip)
        rows = {name: score_reconstruction(judge, clip, made, landmarks) for name, made in videos.items()}
        report.add("reconstruction", Row(clip.name, len(clip.frames) - 1, rows, clip.person), clip.frames[0], videos)
    for source, driver in Bar(pairs(clips, drivers), "animate", len(clips), unit="pair"):
        asked, videos = animate(judge, source, driver)
        rows = {name: score_animation(judge, source, driver, asked, made) for name, made in videos.items()}
        row = Row(f"{source.name} as {driver.name}", len(asked), rows, source.person)
        report.add("animation", row, source.frames[0], videos)
    return report.finish(
        {
            "model": options.model,
            "data": options.data,
            "driver_data": options.driver_data or options.data,
            "part": options.part,
            "image_size": judge.size,
            "perceptual": "LPIPS 0.1 on SqueezeNet" if options.perceptual == "lpips" else options.perceptual,
            "motion": options.motion,
        }
    )


def _landmark_map(judge: Judge, clips: Clips) -> LandmarkMap | None:
    """The map to landmarks, fitted on the part of the data that is for it, if the data have landmarks."""
    if clips.landmark_count == 0:
        return None
    options = judge.options
    data = open_samples(options.data, judge.model.config.image_size, "fit", options.data_root)
    return LandmarkMap(Labelled(*detect_spread(judge.model.autolink, data, FITTED, options.batch_size)[1:]))


@command
def main() -> None:
    """Entry point: the report as JSON on stdout, the tables for a reader on stderr."""
    print(json.dumps(evaluate(tyro.cli(Options, description=__doc__)), indent=2), file=sys.stdout)


if __name__ == "__main__":
    main()
