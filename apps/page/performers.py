"""What a model makes of a pose: one performer for each kind of model.

A performer opens a picture, which gives a scene: what is shown under the points, and the points that were found. It
then paints poses of the scene.

Shapes: B poses, K keypoints, S side of the network's images, R side of what is returned.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import matplotlib
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from autolink.batching import Batches
from autolink.commands.edit import CHANGED, unchanged
from autolink.data import open_data
from autolink.detector import Keypoints
from autolink.devices import pick_device
from autolink.errors import UserError
from autolink.geometry import MIN_SPREAD, spread
from autolink.graph import skeleton
from autolink.images import square
from autolink.inference import fold, half_precision
from autolink.model import AutoLink
from autolink.pixels import signed_from_bytes, to_uint8, unit_from_pictures, unit_from_signed
from autolink.tracking.confidence import CERTAIN, LOW_CONFIDENCE, WindowDetector
from autolink.tracking.search import SLACK, search_by_confidence
from autolink.tracking.windows import Window, cut, inside, whole
from autolink.weights import PretrainedModel, read_header, resolve
from autolink_apps.gan.generator import NOISE_SIZE, ConditionalGAN
from autolink_apps.page.follow import HEADS, NAMES, Following, brought_to, following
from autolink_apps.page.messages import SIZES, Look
from autolink_apps.pose_transfer.model import PoseTransfer

SHOWN = 512
"""Side of what is shown of a picture, at most."""
SEARCHED = 1024
"""Longest side of a picture in which the object is looked for."""
SMALL = 0.8
"""An object of less than this share of the size that it had in training is looked at again, from nearer."""
MIN_WINDOW = 32
"""Pixels of a picture that are worth looking at."""
PORTRAIT = (64, 40, 448, 424)
"""The head on Matplotlib's photograph: left, top, right and bottom in pixels."""


@dataclass
class Scene:
    """A picture as a performer sees it, ready to be painted in any pose."""

    points: Tensor
    """(K, 2)."""
    confidence: float
    """Mean, from 0 to 1; NaN where nothing was looked at."""
    shown: np.ndarray | None = None
    """(R, R, 3) uint8, what lies under the points; None where there is no picture."""
    kept: Any = None
    """What the performer needs to paint it again."""
    window: Window | None = None
    """Of the picture that is shown, in its pixels."""
    poses: Tensor = field(default_factory=lambda: torch.zeros(0, 2, 2))
    """(N, K, 2), different poses for what is shown."""


class Performer(Protocol):
    """A model that paints poses."""

    name: str
    kind: str
    """`portrait`, `generator` or `reconstruction`."""
    autolink: AutoLink
    detector: WindowDetector
    following: Following
    links: list[tuple[int, int, float]]
    """Edges that are seen: i, j and how much, in [0, 1]."""

    def knows(self, scene: Scene) -> bool:
        """Whether the picture shows what the model knows."""

    def edge_map(self, points: Tensor) -> Tensor:
        """What the network sees of a pose (K, 2): (3, S, S) uint8."""

    def open(self, picture: Image.Image | None) -> Scene:
        """A scene from an RGB picture, or from none, if `needs_picture` is false."""

    def paint(self, scene: Scene, poses: Tensor, look: Look, size: int) -> Tensor:
        """Poses (B, K, 2) as pictures (B, 3, R, R), or of a generator (B·n, 3, R, R), uint8."""


class _Performer:
    """What performers share: how a picture is looked at."""

    kind: str

    def __init__(self, name: str, model: Any, autolink: AutoLink, bank: Tensor) -> None:
        self.name, self.model, self.autolink = name, model, autolink
        self.device = autolink.device
        self.size: int = model.config.image_size
        self.detector = WindowDetector(autolink, self.size, model.metadata.get("usual_confidence"), batches=Batches(8))
        self.heads = str(model.metadata.get("data", "")) in HEADS
        self.following = following(bank.cpu(), autolink.graph.matrix().detach().cpu(), NAMES[self.heads])
        self.links = [
            (i, j, round(float((weight / autolink.edge_weights.max()) ** (1 / 3)), 3))
            for (i, j) in skeleton(autolink.graph.matrix())
            for weight in [autolink.graph.matrix()[i, j].detach()]
        ]

    def look(self, picture: Image.Image) -> tuple[Scene, np.ndarray]:
        """Find the object: a scene without `kept`, and what the network sees of it, (S, S, 3) uint8."""
        image = np.asarray(picture)
        window, seen, found = self._framed(image, self._window(picture))
        side = max(self.size, min(SHOWN, round(window.side)))
        scene = Scene(found.xy[0], found.confidence.mean().item(), cut(image, window, side), window=window)
        scene.poses = brought_to(scene.points, self.following.poses.float(), self.following.covariance.float())
        return scene, seen

    def edge_map(self, points: Tensor) -> Tensor:
        """What the network sees of a pose (K, 2), square-rooted so that faint edges show: (3, S, S) uint8."""
        drawn = self.autolink.relative_edge_map(points[None].to(self.device), max(self.size, 128))[0]
        return to_uint8(drawn.amax(0, keepdim=True).clamp(0, 1).sqrt().expand(3, -1, -1))

    def knows(self, scene: Scene) -> bool:
        """Whether the picture shows what the model knows, as far as its confidence tells."""
        return not scene.confidence < (CERTAIN if self.detector.sure else LOW_CONFIDENCE)

    def _framed(self, image: np.ndarray, window: Window) -> tuple[Window, np.ndarray, Keypoints]:
        """A window, or a smaller one around an object that is small in it, what the network sees there, and finds."""
        seen = cut(image, window, self.size)
        found = self.detector([seen])
        size = spread(self.following.rest).item()
        for _ in range(2):
            if not self.detector.sure or size < MIN_SPREAD:  # without a bank nobody knows how large it was
                break
            share = max(spread(found.xy[0]).item() / size, 1 / 4)
            if share > SMALL or window.side * share < MIN_WINDOW:
                break
            middle = (found.xy[0] - self.following.rest.float() * share).mean(0) * window.side / 2
            near = Window(window.x + middle[0].item(), window.y + middle[1].item(), window.side * share)
            near = inside(near, image.shape[1], image.shape[0])
            closer = cut(image, near, self.size)
            there = self.detector([closer])
            if there.confidence.mean() < found.confidence.mean() - SLACK:
                break
            window, seen, found = near, closer, there
        return window, seen, found

    def _window(self, picture: Image.Image) -> Window:
        if not self.detector.sure:
            return whole(*picture.size, "crop")
        shrink = max(1.0, max(picture.size) / SEARCHED)
        small = picture.resize((round(picture.width / shrink), round(picture.height / shrink)), reducing_gap=2.0)
        window = search_by_confidence(self.detector, np.asarray(small), self.name)
        return Window(*(value * shrink for value in window))


class Portrait(_Performer):
    """A picture that moves: pose transfer."""

    kind = "portrait"

    def __init__(self, name: str, model: PoseTransfer) -> None:
        super().__init__(name, model, model.autolink, model.autolink.poses)

    @torch.inference_mode()
    def open(self, picture: Image.Image | None) -> Scene:
        """See `Performer`."""
        scene, _ = self.look(picture or first_picture(self))
        assert scene.shown is not None
        image = unit_from_pictures([scene.shown], self.device)
        with half_precision(self.device):
            source = self.model.encode(image, scene.points[None].to(self.device))
        scene.kept = {size: source._replace(pixels=_shrunk(source.pixels, size)) for size in SIZES}
        return scene

    @torch.inference_mode()
    def paint(self, scene: Scene, poses: Tensor, look: Look, size: int) -> Tensor:
        """See `Performer`."""
        with half_precision(self.device):
            return to_uint8(self.model.drive(scene.kept[size], poses.to(self.device)))


class Generator(_Performer):
    """Faces, or what it was, that do not exist, all in one pose."""

    kind = "generator"

    def __init__(self, name: str, model: ConditionalGAN) -> None:
        super().__init__(name, model, model.autolink, model.poses)

    @torch.inference_mode()
    def open(self, picture: Image.Image | None) -> Scene:
        """See `Performer`."""
        if picture is not None:
            return self.look(picture)[0]
        bank = self.model.poses.cpu()
        usual = (bank - bank.mean(0)).flatten(1).norm(dim=1).argmin()
        return Scene(bank[usual], float("nan"), poses=self.following.poses.float())

    @torch.inference_mode()
    def paint(self, scene: Scene, poses: Tensor, look: Look, size: int) -> Tensor:
        """See `Performer`."""
        draws = [torch.randn(NOISE_SIZE, generator=torch.Generator().manual_seed(seed)) for seed in look.seeds]
        with half_precision(self.device):
            w = self.model.embed(torch.stack(draws).to(self.device), look.truncation)
            painted = self.model.paint_grid(poses.to(self.device), w)
        return to_uint8(painted.flatten(0, 1))


class Reconstruction(_Performer):
    """A picture that is painted anew along a changed graph by the decoder that taught the keypoints."""

    kind = "reconstruction"

    def __init__(self, name: str, model: AutoLink) -> None:
        super().__init__(name, model, model, model.poses)

    @torch.inference_mode()
    def open(self, picture: Image.Image | None) -> Scene:
        """See `Performer`."""
        scene, seen = self.look(picture or first_picture(self))
        scene.kept = signed_from_bytes(torch.from_numpy(seen).to(self.device).permute(2, 0, 1))
        return scene

    @torch.inference_mode()
    def paint(self, scene: Scene, poses: Tensor, look: Look, size: int) -> Tensor:
        """See `Performer`."""
        own, made = scene.points.to(self.device), []
        for pose in poses.to(self.device):
            maps = self.model.relative_edge_map(torch.stack([own, pose]), self.size)
            mask = unchanged(maps, CHANGED)
            with half_precision(self.device):
                graph = self.model.graph.channels(pose[None], (self.size, self.size))
                made.append(self.model.decoder((scene.kept * mask)[None], graph).float())
        return to_uint8(unit_from_signed(torch.cat(made)))


KINDS: dict[str, tuple[type[PretrainedModel], Any]] = {
    PoseTransfer.task: (PoseTransfer, Portrait),
    ConditionalGAN.task: (ConditionalGAN, Generator),
}
KINDS |= {AutoLink.task: (AutoLink, Reconstruction)}


def load(name: str, source: str, device: str = "auto") -> Performer:
    """The performer of a model, under the name that the page has for it.

    Args:
        name: What it is called.
        source: A shipped name, a file, a folder or a hub id.
        device: Where it computes.

    Raises:
        UserError: If there is no such model, or it paints nothing.
    """
    path = resolve(source)
    task = read_header(path)["task"]
    if task not in KINDS:
        raise UserError(f"{name} is a model for '{task}', which paints nothing; take one of {', '.join(KINDS)}")
    model_class, performer = KINDS[task]
    model = model_class.from_pretrained(path, pick_device(device))
    return performer(name, fold(model))


def first_picture(performer: _Performer) -> Image.Image:
    """What a model is shown at first: the portrait that Matplotlib ships, or a figure that the package makes."""
    photo = Image.open(Path(matplotlib.get_data_path()) / "sample_data/grace_hopper.jpg").convert("RGB")
    portrait = square(photo, SHOWN, PORTRAIT)
    if performer.heads:
        return portrait
    figure = Image.fromarray(open_data("synthetic", 256, "val")[0].image.permute(1, 2, 0).numpy())
    found = performer.detector([np.asarray(square(picture, performer.size)) for picture in (portrait, figure)])
    return (portrait, figure)[int(found.confidence.mean(1).argmax())]


def _shrunk(images: Tensor, size: int) -> Tensor:
    """Images (B, 3, R, R) at another side, if that is smaller."""
    if images.shape[-1] <= size:
        return images
    return functional.interpolate(images, size=(size, size), mode="bilinear", align_corners=False, antialias=True)
