"""Learn keypoints and their graph from a folder of images: `accelerate launch -m autolink.train --data DIR`.

The loss is one line (Eq. 6): reconstruct each image from its edge map and a fifth of its patches.

Shapes: B batch, K keypoints, S image side.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import default_collate

from autolink import hub
from autolink.configuration import options_of
from autolink.data import open_data, open_samples
from autolink.data.benchmarks import BENCHMARKS
from autolink.data.pairs import FramePairs, Pair
from autolink.data.registry import whole
from autolink.data.sample import Items, Mixture, Sample, SampleSet, spread
from autolink.data.shards import Shards
from autolink.detector import DetectorName, Keypoints, PretrainedDetector
from autolink.edges import Drawing, LearnedThickness
from autolink.errors import Stopped, UserError, command
from autolink.features import Features
from autolink.losses import Norm, PerceptualLoss, light_features
from autolink.masking import patch_mask
from autolink.model import AutoLink, AutoLinkConfig, at_side, load
from autolink.pixels import pictures_from_bytes, signed_from_unit, to_uint8, unit_from_signed
from autolink.priors import disagreement, faintness
from autolink.progress import as_asked
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
from autolink.runs import Stop
from autolink.training import (
    Ema,
    RunLog,
    RunOptions,
    StepBar,
    as_json,
    decided,
    due,
    endless_loader,
    load_checkpoint,
    local_main_first,
    logger,
    note_of,
    on_processor,
    require_finite,
    require_finite_weights,
    require_same,
    save_checkpoint,
    say_what_was_decided,
    seeded_generator,
    start,
    to_network,
)
from autolink.visualize import edge_map_image, image_grid, overlay
from autolink.warps import Warps, inconsistency
from autolink.weights import manifest, read_header

HELD_OUT = 64
"""Held-out images on which the loss is measured while training."""
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
TRUNK_RATE = 0.25
"""Share of the learning rate for a detector's trunk that knows ImageNet."""
SHOWN = 8
"""Held-out images in a picture."""
BANK = 256
"""Poses of training images that go into a model's file, at most."""


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


@as_asked
def train(options: Options) -> Path:
    """Train, and return the file of the trained model (`model.safetensors` in the run folder).

    Raises:
        UserError: If data, weights or options cannot be used.
    """
    if options.push_to_hub:
        hub.reserve(options.push_to_hub)
    begun = load(options.start_from) if options.start_from and not options.resume else None
    asked, options = options, with_recommendations(options, begun.config if begun else None)
    _require_fitting(options)
    accelerator = start(options)
    open_ones = {name for name, value in vars(asked).items() if value is None}
    of_paper = options.data in BENCHMARKS and open_ones & {"keypoints", "thickness", "flip"}
    because = [f"{options.data}: keypoints, σ² and mirroring of the paper"] if of_paper else []
    because += [FOR_PROCESSOR] if on_processor() and open_ones & {*ON_PROCESSOR, "thickness"} else []
    if because and not options.resume:
        say_what_was_decided(asked, options, "; ".join(because))
    device, rank = accelerator.device, accelerator.process_index
    with local_main_first():  # videos are decoded into a cache once
        data = _training_data(options)
        others = open_samples(options.data, options.image_size, "val", options.data_root)
    held_out = _held_out(FramePairs(others) if options.visible == "clip" else others, device)
    loss_size = 224 if options.loss_size is None and options.perceptual == "vgg16" else options.loss_size
    perceptual = PerceptualLoss(options.perceptual, options.loss_norm, loss_size).to(device)

    model = AutoLink(options.model_config).to(memory_format=torch.channels_last)
    if begun is not None:
        _begin(model, begun, str(options.start_from))
    elif isinstance(model.detector, PretrainedDetector):
        model.detector.trunk.load_imagenet()
    if options.edge_weight is not None:
        model.graph.start(options.edge_weight)
    if accelerator.num_processes > 1 and device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    ema = Ema(model.to(device), options.ema_decay)
    optimizer = _optimizer(options, model)
    model, optimizer = accelerator.prepare(model, optimizer)

    modules, optimizers = {"model": model, "ema": ema}, {"adam": optimizer}
    step = load_checkpoint(accelerator, options.output, modules, optimizers)[0] if options.resume else 0
    log = RunLog(accelerator, options.output, step)
    stop = Stop(accelerator)
    batches = endless_loader(data, options, accelerator, step)
    progress = StepBar(accelerator, options, step, "keypoints and graph")

    while step < options.steps and not stop.came:
        images, looks, clips = _batch(next(batches), device)
        if options.flip:
            draws = [seeded_generator(options.seed, step, rank, "flip") for _ in range(2)]
            images, looks = map(random_flip, (images, looks), draws)
        side = _side(options, step)
        mask = patch_mask(
            len(images),
            side,
            cells=options.mask_cells,
            ratio=options.mask_ratio,
            exact=options.exact_mask,
            generator=seeded_generator(options.seed, step, rank, "mask"),
            device=device,
        )
        model.train()
        with accelerator.autocast():
            made = model(images, mask, looks)
            loss = perceptual(made.images, at_side(images, side))
            if options.tree_weight:
                graph = accelerator.unwrap_model(model).graph
                loss = loss + options.tree_weight * faintness(graph.weights, graph.keypoints)
            if options.warp_weight:
                warps = Warps(len(images), seeded_generator(options.seed, step, rank, "warp"), device)
                again = accelerator.unwrap_model(model).locate(signed_from_unit(warps(unit_from_signed(images)))).xy
                loss = loss + options.warp_weight * inconsistency(made.keypoints, warps.back(again))
            if options.agreement_weight:
                loss = loss + options.agreement_weight * disagreement(made.keypoints, clips)
        optimizer.zero_grad()
        accelerator.backward(loss)
        optimizer.step()
        ema.update_parameters(accelerator.unwrap_model(model))
        step += 1
        progress.update()

        last = step == options.steps
        if due(step, options.log_every) or last:
            value = accelerator.reduce(loss.detach(), reduction="mean").item()
            require_finite(value, step)
            graph = accelerator.unwrap_model(model).graph.weights
            alpha = accelerator.unwrap_model(model).decoder.alpha.item()
            edges = {"edge_weight_max": graph.max().item(), "edge_weight_median": graph.median().item()}
            log.numbers(step, {"loss": value, "alpha": alpha, **edges})
            progress.set_postfix(loss=f"{value:.4f}")
        if due(step, options.sample_every) or last:
            side = _side(options, step - 1)
            held_out_loss, picture = _examine(accelerator, ema.module, *held_out, perceptual, options, side)
            log.numbers(step, {"held_out_loss": held_out_loss})
            log.picture(step, "reconstructions", picture)
        if stop.asked() or due(step, options.save_every) or last:
            require_finite_weights(accelerator, modules, step)
            if accelerator.is_main_process:
                about = {"data": data.name, "steps": step, "torch": torch.__version__, "options": as_json(options)}
                if last:  # of both, since a longer run averages what it finds in the checkpoint
                    ema.module.poses, confidence = bank_of(ema.module, options)
                    about["usual_confidence"] = confidence.mean().item()
                    accelerator.unwrap_model(model).poses = ema.module.poses.clone()
                ema.module.save_pretrained(options.output, about)
            save_checkpoint(accelerator, options.output, step, modules, optimizers)
    progress.close()
    log.close()
    stop.leave(options.output, step, options.steps)
    accelerator.wait_for_everyone()  # the file is there for whoever goes on with it
    file = options.output / "model.safetensors"
    if options.push_to_hub and accelerator.is_main_process:
        hub.push(options.push_to_hub, file)
    return file


def bank_of(model: AutoLink, options: RunOptions) -> Keypoints:
    """Poses (P, K, 2) of up to `BANK` training images, and their confidences, on the model's device."""
    return detect_samples(model, spread(open_data(options.data, options.image_size, "train", options.data_root), BANK))


def detect_samples(model: AutoLink, samples: list[Sample]) -> Keypoints:
    """Keypoints of N samples, on the model's device."""
    return model.detect(pictures_from_bytes(torch.stack([sample.image for sample in samples])), 32)


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


def random_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each of (B, 3, H, W) images left to right with probability one half."""
    mirror = (torch.rand(len(images), generator=generator) < 0.5).to(images.device)
    return torch.where(mirror[:, None, None, None], images.flip(-1), images)


def autolink_for(source: str | None, options: RunOptions, **learner: Any) -> Path:
    """The AutoLink that an application trains on: a file of weights.

    In this order: `source` if given; one trained before in the application's run folder; the shipped one of the
    data's name; else one is trained now, in `autolink/` of the run folder.

    Args:
        source: What the user gave as `--autolink`, or None.
        options: The application's options; data, size, width, seed, precision and workers are taken over.
        **learner: Further fields of `Options` for the case that one must be trained.
    """
    if source is not None:
        return Path(source)
    learning = Options(
        output=options.output / "autolink",
        image_size=options.image_size,
        width=options.width,
        seed=options.seed,
        mixed_precision=options.mixed_precision,
        workers=options.workers,
        log_with=options.log_with,
        data=options.data,
        data_root=options.data_root,
        **learner,
    )
    trained = learning.output / "model.safetensors"
    if trained.is_file():
        learning.resume = True  # what is left open is as it was then
        plan = with_recommendations(learning)
        require_same(plan, note_of(plan))
        if read_header(trained)["metadata"].get("steps", 0) >= plan.steps:
            return trained
    shipped = manifest().get(options.data)
    if shipped is not None and shipped["task"] == AutoLink.task and not learning.resume:
        logger.warning("no --autolink given: using the shipped '%s'", options.data)
        return Path(options.data)
    plan = with_recommendations(learning)
    logger.warning(
        "no --autolink given and none shipped for '%s': training one first, in %s (%s steps of %d images at %d², width "
        "%g, features %s); --autolink takes one that there is, fewer --autolink-steps shorten it",
        options.data,
        plan.output,
        f"{plan.steps:,}",
        plan.batch_size,
        plan.image_size,
        plan.width,
        plan.perceptual,
    )
    try:
        return train(learning)
    except Stopped as stopped:
        stopped.again = "the same command"  # the application's own run has not begun
        raise


def _require_fitting(options: Options) -> None:
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


def _training_data(options: Options) -> Items | Shards:
    """What is trained on: images or pairs of frames, of one data set or of two.

    Raises:
        UserError: If they cannot be opened, paired or mixed.
    """
    names = [options.data, *([options.mix_with] if options.mix_with else [])]
    opened = [open_data(name, options.image_size, "train", options.data_root) for name in names]
    if len(opened) == 1 and options.visible == "image":
        return opened[0]
    parts: list[Items] = []
    for part in opened:
        if len(opened) > 1 and isinstance(part, Shards):
            raise UserError(
                "--mix-with takes folders and names, and no shards; give shards of both kinds of images as --data"
            )
        if options.visible == "clip":
            parts.append(FramePairs(whole(part, "clips are needed here; give a folder of videos"), options.seed))
        else:
            parts.append(whole(part))
    return Mixture(*parts) if len(parts) > 1 else parts[0]


def _begin(model: AutoLink, begun: AutoLink, source: str) -> None:
    """Give a model the weights of another one, whatever their image sizes and thicknesses.

    Raises:
        UserError: If it has other weights.
    """
    asked, found = model.config, begun.config
    if replace(found, image_size=asked.image_size, thickness=asked.thickness) != asked:
        raise UserError(
            f"--start-from {source}: it has {found.keypoints} keypoints, width {found.width:g} and the detector "
            f"{found.detector}, drawn as {found.drawing}{', --official' if found.official else ''}; train with the "
            "same options"
        )
    model.load_state_dict(begun.state_dict())


def _optimizer(options: Options, model: AutoLink) -> torch.optim.Optimizer:
    """The optimiser of the paper or of the official code."""
    rate, graph_rate = options.learning_rate, options.graph_learning_rate
    groups: list[dict[str, Any]] = [  # in the order of the model's parameters, by which checkpoints number them
        *_detector_groups(model.detector, rate),
        {"params": model.graph.parameters(), "lr": rate if graph_rate is None else graph_rate},
        {"params": model.decoder.parameters()},
    ]
    if options.optimizer == "adamw":
        return torch.optim.AdamW(groups, rate, betas=(0.9, 0.999), weight_decay=1e-3, fused=True)
    return torch.optim.Adam(groups, rate, betas=(0.9, 0.99), fused=True)


def _detector_groups(detector: nn.Module, rate: float) -> list[dict[str, Any]]:
    """A detector's parameters; a trunk that knows ImageNet already learns slower than what is new."""
    if not isinstance(detector, PretrainedDetector):
        return [{"params": detector.parameters()}]
    new = [p for name, p in detector.named_parameters() if not name.startswith("trunk.")]
    return [{"params": detector.trunk.parameters(), "lr": rate * TRUNK_RATE}, {"params": new}]


def _side(options: Options, step: int) -> int:
    """Side at which the images of a step are reconstructed."""
    return options.image_size // 2 if step < options.coarse_share * options.steps else options.image_size


@torch.no_grad()
def _examine(
    accelerator: Accelerator,
    model: AutoLink,
    images: Tensor,
    looks: Tensor,
    perceptual: PerceptualLoss,
    options: Options,
    side: int,
) -> tuple[float, Tensor]:
    """Loss of the averaged model on held-out images under fixed masks, and a picture of some of them.

    Images are reconstructed at `side`.

    The picture's columns: image | graph over it | edge map | masked image | reconstruction.
    """
    mask = patch_mask(
        len(images),
        side,
        cells=options.mask_cells,
        ratio=options.mask_ratio,
        exact=options.exact_mask,
        generator=seeded_generator(0, 0, 0, "held-out mask"),
        device=images.device,
    )
    with accelerator.autocast():
        made = model(images, mask, looks)
        images, looks = at_side(images, side), at_side(looks, side)
        loss = perceptual(made.images, images).item()
    shown = slice(None, None, math.ceil(len(images) / SHOWN))  # spread out: neighbours are of one clip
    originals = unit_from_signed(images[shown])
    columns = [
        to_uint8(originals),
        overlay(originals, made.keypoints[shown], model.edge_weights),
        to_uint8(edge_map_image(made.edge_map[shown])),
        to_uint8(unit_from_signed(looks[shown] * mask[shown])),
        to_uint8(unit_from_signed(made.images[shown])),
    ]
    rows = torch.stack(columns, dim=1).flatten(0, 1)
    return loss, image_grid(rows, columns=len(columns))


def _batch(batch: Sample | Pair, device: torch.device) -> tuple[Tensor, Tensor, Sequence[str]]:
    """Images to reconstruct and images whose patches are visible, (B, 3, S, S) in [−1, 1]; and their clips."""
    if isinstance(batch, Pair):
        return to_network(batch.driving, device), to_network(batch.source, device), batch.clip
    images = to_network(batch.image, device)
    return images, images, batch.clip


def _held_out(data: SampleSet | FramePairs, device: torch.device) -> tuple[Tensor, Tensor]:
    """Up to `HELD_OUT` images spread evenly over a data set, and those whose patches are visible."""
    if not len(data):
        raise UserError("the held-out split of the data is empty; a data set needs at least two images")
    picked = data.spread(HELD_OUT) if isinstance(data, FramePairs) else spread(data, HELD_OUT)
    return _batch(default_collate(picked), device)[:2]


@command
def main() -> None:
    """Entry point of `python -m autolink.train`."""
    train(options_of(Options, __doc__))


if __name__ == "__main__":
    main()
