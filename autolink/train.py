"""Learn keypoints and their graph from a folder of images: `accelerate launch -m autolink.train --data DIR`.

The loss is one line (Eq. 6): reconstruct each image from its edge map and a fifth of its patches.

Shapes: B batch, K keypoints, S image side.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autolink import hub
from autolink.configuration import options_of
from autolink.data import open_samples
from autolink.data.benchmarks import BENCHMARKS
from autolink.data.pairs import FramePairs
from autolink.detector import PretrainedDetector
from autolink.errors import Stopped, UserError, command
from autolink.learner.bank import bank_of
from autolink.learner.examination import examine
from autolink.learner.images import held_out_images, images_of, masks_of, random_flip, training_data
from autolink.learner.options import (
    FOR_PROCESSOR,
    ON_PROCESSOR,
    Options,
    require_fitting,
    with_recommendations,
)
from autolink.losses import PerceptualLoss
from autolink.model import AutoLink, at_side, load
from autolink.pixels import signed_from_unit, unit_from_signed
from autolink.priors import disagreement, faintness
from autolink.progress import as_asked
from autolink.runs import Stop
from autolink.training import (
    Ema,
    RunLog,
    RunOptions,
    StepBar,
    as_json,
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
)
from autolink.warps import Warps, inconsistency
from autolink.weights import manifest, read_header

__all__ = ["Options", "autolink_for", "main", "train"]

TRUNK_RATE = 0.25
"""Share of the learning rate for a detector's trunk that knows ImageNet."""


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
    require_fitting(options)
    accelerator = start(options)
    open_ones = {name for name, value in vars(asked).items() if value is None}
    of_paper = options.data in BENCHMARKS and open_ones & {"keypoints", "thickness", "flip"}
    because = [f"{options.data}: keypoints, σ² and mirroring of the paper"] if of_paper else []
    because += [FOR_PROCESSOR] if on_processor() and open_ones & {*ON_PROCESSOR, "thickness"} else []
    if because and not options.resume:
        say_what_was_decided(asked, options, "; ".join(because))
    device, rank = accelerator.device, accelerator.process_index
    with local_main_first():  # videos are decoded into a cache once
        data = training_data(options)
        others = open_samples(options.data, options.image_size, "val", options.data_root)
    held_out = held_out_images(FramePairs(others) if options.visible == "clip" else others, device)
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
        images, looks, clips = images_of(next(batches), device)
        if options.flip:
            draws = [seeded_generator(options.seed, step, rank, "flip") for _ in range(2)]
            images, looks = map(random_flip, (images, looks), draws)
        side = _side(options, step)
        mask = masks_of(options, images, side, seeded_generator(options.seed, step, rank, "mask"))
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
            held_out_loss, picture = examine(accelerator, ema.module, *held_out, perceptual, options, side)
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


def is_shipped_for(data: str) -> bool:
    """Whether an AutoLink of the data's name is shipped; not for benchmarks: the model `hands` learned from others."""
    entry = None if data in BENCHMARKS else manifest().get(data)
    return entry is not None and entry["task"] == AutoLink.task


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
    if is_shipped_for(options.data) and not learning.resume:
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


@command
def main() -> None:
    """Entry point of `python -m autolink.train`."""
    train(options_of(Options, __doc__))


if __name__ == "__main__":
    main()
