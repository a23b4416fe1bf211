"""How a run begins: options that were left open are decided, processes set up, the run folder taken."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list, parse_flag_from_env, set_seed

from autolink.devices import computes_bfloat16, pick_device
from autolink.errors import UserError
from autolink.outputs import refuse_inputs, write_json
from autolink.runs import LOG, claim, release
from autolink.trackers import begin_tracking, chosen_trackers
from autolink.training.checkpoints import progress_of
from autolink.training.notes import begun, data_names, note_of, require_same
from autolink.training.options import CHECKPOINT, CONFIG, MAY_CHANGE, MODEL_OPTIONS, RunOptions, as_json, logger
from autolink.weights import own_file

Run = TypeVar("Run", bound=RunOptions)


def decided(options: Run, defaults: Mapping[str, Any], *known: Mapping[str, Any]) -> Run:
    """The options; those that were left open are as in the run that goes on, else as known, else by default.

    Args:
        options: The run's options; None is left open.
        defaults: Values of the options to decide on; of a function, what it returns.
        known: Values that come before the defaults, if they have any.
    """
    file = options.output / CONFIG
    sources = (begun(file) if options.resume and file.is_file() else {}, *known, defaults)
    chosen = {}
    for name in defaults:
        if getattr(options, name) is None:
            value = next(source[name] for source in sources if source.get(name) is not None)
            chosen[name] = value() if callable(value) else value
    return dataclasses.replace(options, **chosen)


def say_what_was_decided(asked: Run, options: Run, because: str) -> None:
    """One line with the options that were left open and now are not."""
    flags = []
    for field in dataclasses.fields(options):
        before, now = getattr(asked, field.name), getattr(options, field.name)
        if before is None and now:
            name = f"--{field.name.replace('_', '-')}"
            flags.append(name if now is True else f"{name} {now:g}" if isinstance(now, float) else f"{name} {now}")
    if flags and PartialState().is_main_process:
        logger.warning("used where nothing was given (%s): %s", because, " ".join(flags))


def on_processor() -> bool:
    """Whether training computes on a CPU, as Accelerate is configured."""
    return processes().device.type == "cpu"


def processes() -> PartialState:
    """The processes that train together, as Accelerate is configured; for use before `start`."""
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))


def local_main_first() -> AbstractContextManager[None]:
    """A block that one process of each machine runs before the others, such as one that fills a cache.

    For use before `start`: the state that Accelerate keeps of the processes is set up as `Accelerator` would.
    """
    return processes().local_main_process_first()


def start(options: RunOptions, device: str = "auto", may_change: Collection[str] = MAY_CHANGE.keys()) -> Accelerator:
    """Set up processes, precision, seeds and the run folder, which is this run's until `RunLog.close`.

    Args:
        options: The run's options, with all that was left open decided.
        device: Where to compute: `auto` (what Accelerate is configured for), `cpu`, `cuda`, `cuda:1`, `mps` …
        may_change: Options that need not be those of the run that goes on.

    Raises:
        UserError: If the options cannot work, there is no such device, the run folder is in use, or it holds another
            run. Nothing in it has changed then.
    """
    chosen = pick_device(device)
    if chosen.index is not None:
        torch.cuda.set_device(chosen)
    trackers = chosen_trackers(options.log_with)
    accelerator = Accelerator(
        cpu=device == "cpu",
        mixed_precision=_precision(options.mixed_precision, chosen),
        project_dir=options.output,
    )
    if options.batch_size % accelerator.num_processes:
        raise UserError(
            f"--batch-size {options.batch_size} cannot be shared evenly by {accelerator.num_processes} processes; "
            f"take a multiple of {accelerator.num_processes}"
        )
    refusal: list[str | None] = [None]
    if accelerator.is_main_process:
        try:
            _enter(options, may_change)
        except UserError as error:
            refusal = [str(error)]
    broadcast_object_list(refusal)
    if refusal[0] is not None:
        raise UserError(refusal[0])
    set_seed(options.seed)
    begin_tracking(accelerator, trackers, options.output, as_json(options))
    if not trackers and "auto" in options.log_with and accelerator.is_main_process:
        logger.warning(
            "numbers are in %s and pictures in samples/ alone: TensorBoard, which would show them, is not installed "
            "(pip install 'autolink-graph[tensorboard]')",
            options.output / LOG,
        )
    return accelerator


def _enter(options: RunOptions, may_change: Collection[str]) -> None:
    """Take the run folder, if the run may begin or go on there, and note in it what the run is."""
    has_checkpoint = (options.output / CHECKPOINT).is_file()
    if options.resume and not has_checkpoint:
        raise UserError(f"--resume: there is no {CHECKPOINT} in {options.output}; leave --resume out to start a run")
    begun_with = [own_file(getattr(options, name, None)) for name in MODEL_OPTIONS]
    refuse_inputs([options.output, options.output / "model.safetensors"], [*data_names(options.data), *begun_with])
    note = note_of(options)
    claim(options.output)
    try:
        if has_checkpoint and not options.resume:
            raise UserError(f"{options.output} already holds a run; add --resume to go on, or name another --output")
        if has_checkpoint:
            require_same(options, note, may_change)
            done = progress_of(options.output / CHECKPOINT)["step"]
            if options.steps < done:
                raise UserError(
                    f"--steps {options.steps}: {options.output} has done {done} already; give at least as many, or "
                    "start a new run with another --output"
                )
        write_json(options.output / CONFIG, note)
    except BaseException:
        release(options.output)
        raise


def _precision(wanted: str, device: torch.device) -> str:
    if wanted != "auto":
        return wanted
    if computes_bfloat16(device):
        return "bf16"
    return "fp16" if device.type == "cuda" else "no"
