"""The options of `autolink train`; what is left open is as the paper has it, or as a processor can do it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from autolink.data.benchmarks import BENCHMARKS
from autolink.detector import DetectorName
from autolink.edges import Drawing, LearnedThickness
from autolink.errors import UserError
from autolink.features import Features
from autolink.losses import Norm, light_features
from autolink.model import AutoLinkConfig
from autolink.ranges import (
    OPEN,
    Count,
    EdgeWeight,
    KeypointCount,
    NotNegative,
    Open,
    Range,
    Share,
    Side,
    Thickness,
    Width,
)
from autolink.training import (
    RunOptions,
    decided,
    on_processor,
)

ON_GPU = {
    "steps": 20_000,
    "batch_size": 64,
    "image_size": 128,
    "width": 1.0,
    "learning_rate": 1e-4,
    "perceptual": "vgg16",
    "detector": "paper",
}
"""What options are that were left open, on a GPU: the paper's recipe (Section 3.3)."""
ON_PROCESSOR = {
    "steps": 3_000,
    "batch_size": 32,
    "image_size": 128,
    "width": 0.25,
    "learning_rate": 4e-4,
    "perceptual": light_features,
    "detector": "efficientnet-lite0",
}
"""The same where there is no GPU: a graph in hours instead of days."""
FOR_PROCESSOR = "no GPU: sizes for a processor"
GENERAL_KEYPOINTS, GENERAL_THICKNESS = 10, 5e-4
"""K and σ² for data that no benchmark's values are known for."""
THICKNESS_ON_PROCESSOR = {64: 2.5e-3, 128: 1e-3}
"""σ² by the side of the images at which small networks learn soon; that of larger images is the last."""


@dataclass
class Options(RunOptions):
    """Train AutoLink. Defaults are the paper's recipe (Section 3.3), or where there is no GPU one for a processor."""

    output: Path = Path("runs/autolink")
    """Run folder: checkpoint, model, logs and pictures are written here."""
    steps: Open[Count] = OPEN
    """Training steps in all; default 20,000, on a processor 3,000."""
    batch_size: Open[Count] = OPEN
    """Images a step, over all devices together; default 64, on a processor 32."""
    image_size: Open[Side] = OPEN
    """Side of the square training images: 64, 128 or 256; default 128."""
    width: Open[Width] = OPEN
    """Channel multiplier on the paper's networks; default that of --start-from, else 1, on a processor 0.25."""
    start_from: str | None = None
    """Begin with this AutoLink, of the same width: file, folder, shipped name or hub id. Its keypoints keep their
    meaning, so that little data of a like kind are enough."""
    keypoints: Open[KeypointCount] = OPEN
    """Number of keypoints K; default: that of --start-from, the paper's for a benchmark, else 10."""
    thickness: Open[Thickness] = OPEN
    """σ² of the edges; default: that of --start-from, the paper's for a benchmark and K (tuned, else 5e-5), else 5e-4,
    which learns more reliably with few keypoints; on a processor 1e-3, or 2.5e-3 up to 64²."""
    flip: Open[bool] = OPEN
    """Mirror half of the training images; default: as the official code does for a benchmark, else not."""
    mix_with: str | None = None
    """Data for a second half of the training images, named as --data is: with few individuals, many that are like them
    keep the meaning of the keypoints, as `synthetic` does for bodies."""
    perceptual: Open[Features] = OPEN
    """Features of the loss: vgg16 (the paper's; default), squeezenet (ten times lighter; default on a processor),
    builtin (shipped; default there if SqueezeNet's weights cannot be had), pyramid (weaker)."""
    loss_norm: Norm = "l1"
    """Distance between features: l1 (official code) or l2 (Eq. 6 as printed)."""
    loss_size: Annotated[int, Range(32, 4096)] | None = None
    """Side to which images are resized for the loss; default 224 with vgg16 (official code), else unchanged."""
    mask_ratio: Share = 0.8
    """Share of the patches that is hidden."""
    mask_cells: Count = 16
    """Patches per side."""
    exact_mask: bool = False
    """Hide that share of each image's patches, instead of each patch with that probability (official code)."""
    visible: Literal["image", "clip"] = "image"
    """What the visible patches show. image: the image itself (Eq. 5). clip: another frame of its clip, which says all
    about the looks and nothing about the pose, so that the graph need not tell individuals apart; for few videos."""
    agreement_weight: NotNegative = 0.0
    """Weight of the difference between the shapes of the clips' mean poses, for a few individuals filmed alike: a
    keypoint then means the same on each."""
    learning_rate: Open[NotNegative] = OPEN
    """The optimiser's; default 1e-4, on a processor 4e-4. The edge weights' is 512 times as much."""
    graph_learning_rate: NotNegative | None = None
    """In its place for the edge weights, 512 times as much again; default the same. A lower one keeps weak edges alive
    while the keypoints still look for their places."""
    edge_weight: EdgeWeight | None = None
    """Weight of all edges at the start; default 0.018, or as in --start-from. Heavier ones are seen and moved from
    the first step on."""
    warp_weight: NotNegative = 0.0
    """Weight of how far keypoints of a randomly warped and recoloured copy are from where the warp takes them; steadier
    keypoints for a second look at each image by the detector. 0, as in the paper, leaves it out."""
    tree_weight: NotNegative = 0.0
    """Weight of how faint the tree is that links all keypoints by the heaviest edges (`faintness`), so that the graph
    does not fall into pieces; 0, as in the paper, leaves it to the reconstruction."""
    detector: Open[DetectorName] = OPEN
    """The network that finds keypoints: paper (Figure 8a), or efficientnet-lite0, which begins with features of
    ImageNet and learns about ten times as fast; default: that of --start-from, else paper, or on a processor the
    other."""
    coarse_share: Share = 0.0
    """Share of the steps, from the first on, in which images are reconstructed at half their side, for 0.4 of the
    time; keypoints are found at the whole side throughout."""
    optimizer: Literal["adam", "adamw"] = "adam"
    """adam with β = (0.9, 0.99) (paper), or adamw with β = (0.9, 0.999) and weight decay 1e-3 (official code)."""
    ema_decay: Share = 0.999
    """Decay a step of the average of the weights, which is what is kept; 0 keeps the last ones (official code)."""
    official: bool = False
    """Networks that compute what the official code's do: shortcuts of the decoder behind its convolutions, keypoints
    in the frame of its checkpoints; with --start-from for those that `autolink convert` wrote."""
    fixed_alpha: bool = False
    """Keep α of Eq. 5 at 1 (an ablation)."""
    drawing: Drawing = "edges"
    """What the decoder sees of the graph: edges (the method), edge-channels or keypoints (ablations)."""
    learned_thickness: LearnedThickness = "no"
    """Learn σ², from --thickness on: one for all edges (shared) or one an edge (independent); ablations."""

    @property
    def model_config(self) -> AutoLinkConfig:
        """The model these options ask for."""
        return AutoLinkConfig(
            keypoints=self.keypoints,
            thickness=self.thickness,
            image_size=self.image_size,
            width=self.width,
            detector=self.detector,
            learn_alpha=not self.fixed_alpha,
            drawing=self.drawing,
            learned_thickness=self.learned_thickness,
            official=self.official,
        )


Chosen = TypeVar("Chosen", bound=Options)


def with_recommendations(options: Options, begun: AutoLinkConfig | None = None) -> Options:
    """The options with all that was left open decided.

    By what the run began with if it goes on, the model to start from, the benchmark, the device, or in general.
    """
    shared = ("keypoints", "thickness", "width", "detector")
    known = {} if begun is None else {name: getattr(begun, name) for name in shared}
    options = with_sizes(options, known)
    benchmark = BENCHMARKS.get(options.data)
    if benchmark is None:
        options = decided(options, {"keypoints": GENERAL_KEYPOINTS, "flip": False}, known)
        sides = [side for side in THICKNESS_ON_PROCESSOR if side >= options.image_size] or [max(THICKNESS_ON_PROCESSOR)]
        thickness = THICKNESS_ON_PROCESSOR[sides[0]] if on_processor() else GENERAL_THICKNESS
    else:
        options = decided(options, {"keypoints": benchmark.keypoints, "flip": benchmark.flip}, known)
        thickness = benchmark.thickness(options.keypoints)
    return decided(options, {"thickness": thickness}, known)


def with_sizes(options: Chosen, *known: Mapping[str, Any]) -> Chosen:
    """The options with all decided that the device decides on, unless the run that goes on or `known` does."""
    return decided(options, ON_PROCESSOR if on_processor() else ON_GPU, *known)


def require_fitting(options: Options) -> None:
    """Raise a `UserError` if the side of the images, or half of it where that is used, is none for the networks."""
    halved = options.coarse_share > 0
    side = options.image_size // 2 if halved else options.image_size
    given = f"--coarse-share {options.coarse_share:g}" if halved else ""
    if halved and side % 16:
        raise UserError(
            f"--image-size {options.image_size} {given}: half of the side must be a multiple of 16, too; give a "
            "multiple of 32, or leave --coarse-share out"
        )
    if options.mask_cells > side:
        where = f"{side} pixels, half of the side with {given}" if halved else f"a side of {side} pixels"
        raise UserError(f"--mask-cells {options.mask_cells}: do not fit on {where}; give 1 to {side}")
