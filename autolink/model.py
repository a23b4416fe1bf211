"""AutoLink: detector, graph and decoder as one model (Figure 2).

Shapes: B batch, K keypoints, E = K(K−1)/2 edges, H W pixels, S image side.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from autolink.data.sample import Items, Sample
from autolink.decoder import InpaintingDecoder
from autolink.detector import DETECTORS, DetectorName, Keypoints, locate
from autolink.devices import fitting_workers
from autolink.edges import Drawing, EdgeGraph, LearnedThickness
from autolink.geometry import from_pixels, to_pixels
from autolink.images import upright_rgb
from autolink.inference import Precision, half_precision
from autolink.pixels import signed_from_unit, unit_from_bytes, unit_from_pictures
from autolink.progress import Bar
from autolink.ranges import KeypointCount, Side, Thickness, Width
from autolink.threads import ahead
from autolink.weights import PretrainedModel

MAX_DETECTOR_SIZE = 128
"""The detector never sees more than 128² pixels (paper and official code); larger images are resized to it."""

OFFICIAL_SCALE = (127 / 128) / (31 / 32)
"""In the official code −1 and +1 are the centres of the outer cells of heatmaps (32²) where keypoints are found, but
the centres of the outer pixels of the image (128²) where they are drawn, which is further out by this factor."""


Picture = Image.Image | np.ndarray
"""An image of Pillow, of any size and mode, or (H, W, 3) uint8."""

Frame = TypeVar("Frame")


@dataclass(frozen=True)
class AutoLinkConfig:
    """What it takes to build an `AutoLink`."""

    keypoints: KeypointCount = 10
    """Number of keypoints K."""
    thickness: Thickness = 5e-4
    """σ² of the edges (Eq. 2)."""
    image_size: Side = 128
    """Side of the square images in pixels, a multiple of 16."""
    width: Width = 1.0
    """Channel multiplier on the sizes of Figure 8."""
    detector: DetectorName = "paper"
    """The network that finds keypoints: Figure 8a, or one that begins with features of ImageNet (`DETECTORS`)."""
    learn_alpha: bool = True
    """Whether α of Eq. 5 is learned."""
    drawing: Drawing = "edges"
    """What the decoder sees of the graph; `edges` is the method, the others are ablations (Table 4)."""
    learned_thickness: LearnedThickness = "no"
    """Whether σ² is learned, from `thickness` on (ablations of Table 4)."""
    official: bool = False
    """Whether this computes what the official code does, for its checkpoints (see `convert.py`)."""


class Reconstruction(NamedTuple):
    """What one pass through the autoencoder yields."""

    images: Tensor
    """(B, 3, s, s) reconstruction, around [−1, 1], at the mask's size."""
    keypoints: Tensor
    """(B, K, 2)."""
    edge_map: Tensor
    """(B, 1, s, s), or (B, E, s, s) with `drawing="edge-channels"`."""


class AutoLink(PretrainedModel):
    """Keypoints linked by a shared graph, learned from unlabelled images of one kind of object.

    `poses` (P, K, 2) is a bank of poses of training images, from which one knows how keypoints move together; P is 0
    until a training ends, and in files older than that.
    """

    task: ClassVar[str] = "autolink"
    Config: ClassVar[type] = AutoLinkConfig
    config: AutoLinkConfig

    def __init__(self, config: AutoLinkConfig) -> None:
        super().__init__(config)
        self.detector = DETECTORS[config.detector](config.keypoints, config.width)
        self.graph = EdgeGraph(config.keypoints, config.thickness, config.drawing, config.learned_thickness)
        self.decoder = InpaintingDecoder(config.width, config.learn_alpha, self.graph.channel_count, config.official)
        self.register_buffer("poses", torch.zeros(0, config.keypoints, 2))

    poses: Tensor

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        """Take a bank of any number of poses, or of none where a file has no bank."""
        bank = state_dict.setdefault(f"{prefix}poses", torch.zeros(0, *self.poses.shape[1:]))
        if bank.shape[1:] == self.poses.shape[1:]:
            self.poses = self.poses.new_zeros(bank.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)

    @property
    def edge_weights(self) -> Tensor:
        """(E,) positive weights over i < j, row by row."""
        return self.graph.weights

    def locate(self, images: Tensor) -> Keypoints:
        """Keypoints of images (B, 3, H, W) in [−1, 1], with gradients; the networks' own entrance."""
        images = self._at_detector_size(images).contiguous(memory_format=torch.channels_last)
        found = locate(self.detector(images))
        return found._replace(xy=found.xy * OFFICIAL_SCALE) if self.config.official else found

    def _at_detector_size(self, images: Tensor) -> Tensor:
        size = (min(self.config.image_size, MAX_DETECTOR_SIZE),) * 2
        if images.shape[-2:] == size:
            return images
        return functional.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True)

    def forward(self, images: Tensor, mask: Tensor, looks: Tensor | None = None) -> Reconstruction:
        """Reconstruct images from their keypoints and their visible patches (Eq. 5).

        Args:
            images: (B, 3, S, S) in [−1, 1].
            mask: (B, 1, s, s), 1 where visible (`patch_mask`). Images are reconstructed at its size s, which is S or a
                fraction of it; keypoints are found at S.
            looks: (B, 3, S, S), images whose patches are visible instead of their own, in the same pose or not.
        """
        keypoints = self.locate(images).xy
        edge_map = self.graph.channels(keypoints, (mask.shape[-2], mask.shape[-1]))
        visible = at_side(images if looks is None else looks, mask.shape[-1])
        masked = (visible * mask).contiguous(memory_format=torch.channels_last)
        return Reconstruction(self.decoder(masked, edge_map), keypoints, edge_map)

    @torch.no_grad()
    def detect(self, images: Tensor | np.ndarray | Sequence[Picture], batch_size: int | None = None) -> Keypoints:
        """Find keypoints.

        Args:
            images: (B, 3, H, W) floats in [0, 1] of any size; or a sequence of arrays (H, W, 3) uint8, or of PIL
                images of any modes, which are turned upright as their EXIF says (see `autolink.images`), each of any
                size. Of an image that is not square the centre square is seen, as in training; keypoints refer to the
                whole image.
            batch_size: Images that the network sees at a time, which is what memory grows with; default all of them.

        Returns:
            Keypoints (B, K, 2) in [−1, 1] and their confidences (B, K), on the model's device.

        Raises:
            ValueError: If a tensor is not (B, 3, H, W), or not floating point; if an array is not (H, W, 3) uint8; if
                a PIL image has no pixels, or pixels in no known range.
        """
        if not isinstance(images, Tensor):
            found = [points for _, points in self.detect_stream(images, batch_size or max(1, len(images)))]
            if not found:
                return self.detect(torch.zeros(0, 3, 1, 1))
            return Keypoints(*(torch.stack(parts).to(self.device) for parts in zip(*found)))
        if images.dim() != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise ValueError(f"detect takes floats (B, 3, H, W) in [0, 1], not {images.dtype} {tuple(images.shape)}")
        parts = images.split(batch_size or max(1, len(images)))
        xy, confidence = map(torch.cat, zip(*(self._find(self.centre(part.to(self.device))) for part in parts)))
        return Keypoints(centre_to_image(xy, *images.shape[-2:]), confidence)

    def detect_stream(
        self,
        frames: Iterable[Frame],
        batch_size: int = 32,
        precision: Precision | None = None,
        picture: Callable[[Any], Picture] = lambda frame: frame,
    ) -> Generator[tuple[Frame, Keypoints], None, None]:
        """Find keypoints in any number of pictures, such as the frames of a video, as they come.

        Frames are read and cut in another thread, a batch in advance; three batches are in memory at most. A stream
        that is left early wants `contextlib.closing`.

        Args:
            frames: As the sequences that `detect` takes; or anything else of which `picture` says what it shows.
            batch_size: Frames that the network sees at a time.
            precision: Of the network; default that of the autocast around, if there is one.
            picture: The picture of a frame.

        Yields:
            Each frame, with its keypoints (K, 2) in [−1, 1] of the whole picture and confidences (K,), on the CPU.

        Raises:
            ValueError: As `detect`.
        """

        def batches() -> Iterator[tuple[list[Frame], list[tuple[int, int]], Tensor]]:
            stream = iter(frames)
            while batch := list(islice(stream, batch_size)):
                images = [unit_from_pictures([pixels(picture(frame))]) for frame in batch]
                shapes = [(image.shape[-2], image.shape[-1]) for image in images]
                yield batch, shapes, torch.cat([self.centre(image) for image in images])

        with closing(ahead(batches(), depth=1)) as ready:
            for batch, shapes, squares in ready:
                found = self._find(squares.to(self.device), precision)
                for frame, shape, xy, confidence in zip(batch, shapes, found.xy.cpu(), found.confidence.cpu()):
                    yield frame, Keypoints(centre_to_image(xy, *shape), confidence)

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.edge_weights.device

    @torch.no_grad()
    def _find(self, squares: Tensor, precision: Precision | None = None) -> Keypoints:
        """Keypoints of what `centre` gave, as a model that is not being trained finds them."""
        training = self.training
        self.eval()
        with nullcontext() if precision is None else half_precision(squares.device, precision):
            found = self.locate(squares)
        self.train(training)
        return found

    def detect_all(self, data: Items | Sequence[Sample], batch_size: int, workers: int = 0) -> tuple[Tensor, Tensor]:
        """Detect on a whole data set of samples, with a progress bar.

        Args:
            data: Samples with `image` and `landmarks`.
            batch_size: Images at a time.
            workers: Processes that decode images.

        Returns:
            Keypoints (N, K, 2) and the data's landmarks (N, L, 2), on the CPU.
        """
        keypoints, landmarks = [], []
        batches = DataLoader(
            cast(Dataset[Any], data),
            batch_size,
            num_workers=fitting_workers(workers, batch_size * 3 * self.config.image_size**2),
        )
        for sample in Bar(batches, desc="detect", leave=False):
            keypoints.append(self.detect(unit_from_bytes(sample.image)).xy.cpu())
            landmarks.append(sample.landmarks)
        return torch.cat(keypoints), torch.cat(landmarks)

    def centre(self, images: Tensor) -> Tensor:
        """What the detector sees of images (B, 3, H, W) in [0, 1]: their centre square (B, 3, s, s) in [−1, 1]."""
        left, top, side = centre_square(*images.shape[-2:])
        return self._at_detector_size(signed_from_unit(images[..., top : top + side, left : left + side]))

    def edge_map(self, keypoints: Tensor, size: int | tuple[int, int]) -> Tensor:
        """Draw the learned graph at keypoints (B, K, 2): (B, 1, H, W) in [0, max weight], differentiable."""
        return self.graph(keypoints, size)

    def relative_edge_map(self, keypoints: Tensor, size: int | tuple[int, int]) -> Tensor:
        """`edge_map` over its heaviest weight: (B, 1, H, W) in [0, 1] whatever was learned, and whatever is drawn."""
        return self.graph.relative(keypoints, size)


def at_side(images: Tensor, side: int) -> Tensor:
    """Images (B, C, S, S) reduced to (B, C, side, side) by averaging; `side` divides S."""
    return images if images.shape[-1] == side else functional.avg_pool2d(images, images.shape[-1] // side)


def centre_to_image(points: Tensor, height: int, width: int) -> Tensor:
    """Points (..., 2) in the frame of an image's centre square, in the frame of the whole image of H × W pixels."""
    left, top, side = centre_square(height, width)
    return from_pixels(to_pixels(points, side, side) + points.new_tensor([left, top]), height, width)


def image_to_centre(points: Tensor, height: int, width: int) -> Tensor:
    """`centre_to_image` undone."""
    left, top, side = centre_square(height, width)
    return from_pixels(to_pixels(points, height, width) - points.new_tensor([left, top]), side, side)


def centre_square(height: int, width: int) -> tuple[int, int, int]:
    """Left, top and side of the largest centred square of an image, in whole pixels."""
    side = min(height, width)
    return (width - side) // 2, (height - side) // 2, side


def pixels(picture: Picture) -> np.ndarray:
    """A picture as bytes, (H, W, 3) uint8.

    Raises:
        ValueError: See `AutoLink.detect`.
    """
    if isinstance(picture, Image.Image):
        return np.array(upright_rgb(picture))
    if not isinstance(picture, np.ndarray) or picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
        shape = f"{picture.dtype} {picture.shape}" if isinstance(picture, np.ndarray) else type(picture).__name__
        raise ValueError(f"detect takes PIL images or arrays (H, W, 3) of uint8, not {shape}")
    return picture


def load(source: str | Path, device: torch.device | str = "cpu") -> AutoLink:
    """Load an AutoLink by shipped name, file, folder or hub id, in eval mode.

    Raises:
        UserError: If there is no such model, or it is damaged or made for another task.
    """
    return AutoLink.from_pretrained(source, device)
