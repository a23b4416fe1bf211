"""What every training script shares: options, process set-up, exact data order, randomness, checkpoints, logs.

A run is a pure function of its options: the batch of a step, its noise and its masks are computed from
(seed, step, rank, stream), never from the state of a global generator. So a run that was interrupted and resumed
equals one that was not, bit for bit on the CPU.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list, parse_flag_from_env, set_seed
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, Sampler

from autolink.data.registry import find_data
from autolink.data.sample import Items
from autolink.data.shards import Shards, is_pattern, shard_files
from autolink.data.splits import split_folder
from autolink.devices import computes_bfloat16, fitting_workers, pick_device
from autolink.errors import UserError
from autolink.outputs import read_json, refuse_inputs, reported, write_json, write_text
from autolink.pixels import signed_from_bytes
from autolink.progress import Bar, Progress, is_read_by_a_program, tell
from autolink.ranges import Checked, Count, Seed, Side, Whole, Width, Workers
from autolink.runs import (
    LOG,
    SIGNALS,
    claim,
    difference,
    identity,
    identity_of_files,
    is_of_times,
    read_log,
    release,
    weights_identity,
)
from autolink.trackers import begin_tracking, chosen_trackers, track_picture
from autolink.visualize import save_png
from autolink.weights import header_part, own_file, read_metadata, read_tensors, write_safetensors

CHECKPOINT, CONFIG = "checkpoint.safetensors", "config.json"
MAY_CHANGE = {
    "output": "a run may be moved",
    "data_root": "so may data that are known by name",
    "steps": "more of them",
    "mixed_precision": "other machines have other units, and a run that diverged may go on without",
    "workers": "the data are the same",
    "accumulate": "the gradients are the same",
    **dict.fromkeys(
        ("log_every", "sample_every", "save_every", "progress", "log_with"), "what is seen and saved on the way"
    ),
    **dict.fromkeys(("metric_every", "metric_images", "metric_features"), "what is measured on the way"),
    **dict.fromkeys(("resume", "dry_run", "push_to_hub"), "what is done beside training"),
}
"""Options that need not be those that a run began with when it goes on, and why; all others must be. A kind of run
may have fewer or more (`may_change`)."""
DATA_OPTIONS, MODEL_OPTIONS = ("data", "mix_with"), ("start_from", "autolink", "model")
"""Options that name data sets, and models: what they lead to is compared too."""
SMALL_WIDTH, SMALL_SIDE = 0.25, 64
"""Width and side of an image with which a processor learns in hours."""
PREFETCHED = 4
"""Batches that each process that decodes images makes in advance."""
HELD_ORDER = 2**20
"""Samples up to which the order of an epoch is held in memory."""
FEISTEL_ROUNDS = 6
logger = logging.getLogger("autolink")


@dataclass
class RunOptions(Checked):
    """Options that every training command has."""

    data: str
    """A folder of images or clips, a landmark set, a video, a benchmark's name, tar shards (`s/{000..099}.tar`), or
    `synthetic`."""
    output: Path
    """Run folder: checkpoint, model, logs and pictures are written here."""
    data_root: Path | None = None
    """Where benchmarks are looked up by name; default $AUTOLINK_DATA."""
    steps: Count = 20_000
    """Training steps in all."""
    batch_size: Count = 64
    """Images a step, over all devices together."""
    image_size: Side = 128
    """Side of the square training images: 64, 128 or 256."""
    width: Width = 1.0
    """Channel multiplier on the paper's networks; 0.25 is a good size for a CPU."""
    seed: Seed = 0
    """Seed of weights, data order, masks and noise."""
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    """`auto` takes bf16 where the processor has units for it, else float32."""
    resume: bool = False
    """Go on from the checkpoint in the run folder."""
    workers: Workers | None = None
    """Processes that decode images; default: half of the cores, at most 8."""
    log_every: Whole = 50
    """Steps between lines in the logs; 0: one at the end alone."""
    sample_every: Whole = 500
    """Steps between pictures and held-out measurements; 0: at the end alone."""
    save_every: Whole = 500
    """Steps between checkpoints; 0: one at the end alone."""
    log_with: tuple[str, ...] = ("auto",)
    """Where numbers and pictures go besides the run folder: any of tensorboard, wandb, trackio, mlflow, comet_ml, aim,
    clearml, dvclive and swanlab that is installed; auto: tensorboard if it is; none: nowhere."""
    progress: Progress = "auto"
    """auto: a bar where somebody sees it, on a terminal. json: an object a line on stderr, for a program. off: none."""

    def model_source(self, option: str) -> str:
        """Where `autolink.weights.resolve` finds the model that one of `MODEL_OPTIONS` names."""
        return getattr(self, option)


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
    refuse_inputs([options.output, options.output / "model.safetensors"], [*_names(options.data), *begun_with])
    note = note_of(options)
    claim(options.output)
    try:
        if has_checkpoint and not options.resume:
            raise UserError(f"{options.output} already holds a run; add --resume to go on, or name another --output")
        if has_checkpoint:
            require_same(options, note, may_change)
            done = _progress(options.output / CHECKPOINT)["step"]
            if options.steps < done:
                raise UserError(
                    f"--steps {options.steps}: {options.output} has done {done} already; give at least as many, or "
                    "start a new run with another --output"
                )
        write_json(options.output / CONFIG, note)
    except BaseException:
        release(options.output)
        raise


def note_of(options: RunOptions) -> dict[str, Any]:
    """What a run begins with: its options, and in `identity` what those that name data or models lead to.

    What `--start-from` led to at the beginning is all in the checkpoint of a run that goes on: it may have changed
    since, or be gone.

    Raises:
        UserError: If one leads to nothing.
    """
    note, file = as_json(options), options.output / CONFIG
    before = _read_note(file) if options.resume and file.is_file() else {"identity": {}}
    found: dict[str, Any] = {}
    for name in DATA_OPTIONS:
        if note.get(name) is not None:
            found[name] = ", ".join(_data_identity(data, options) for data in _names(note[name]))
    for name in MODEL_OPTIONS:
        if name == "start_from" and note.get(name) == before.get(name):
            found |= {key: word for key, word in before["identity"].items() if key == name}
        elif note.get(name) is not None:
            found[name] = weights_identity(options.model_source(name))
    return {**note, "identity": found}


def _names(data: str | Sequence[str]) -> Sequence[str]:
    return [data] if isinstance(data, str) else data


def _data_identity(data: str, options: RunOptions) -> str:
    if data == "synthetic":
        return data
    if is_pattern(data):
        return identity_of_files(shard_files(data), Path(), data)
    path = find_data(data, options.data_root)
    place, beside = path.resolve(), options.output.resolve().parent
    name = None
    if Path(data).name == data and path != Path(data):
        name = data  # wherever it is found
    elif place.is_relative_to(beside):
        name = str(place.relative_to(beside))  # which may move with the run
    return identity(path if path.is_file() else split_folder(path, "train") or path, name)


def begun(file: Path) -> dict[str, Any]:
    """What a run, or several, began with, as `note_of` was written into a file: options, or what they lead to.

    Raises:
        UserError: If it is missing or damaged.
    """
    if not file.is_file():
        raise UserError(f"{file} is missing, so what was begun there is unknown; put it back, or begin anew elsewhere")
    note = _read_note(file)
    return {**note, **note["identity"]}


def _read_note(file: Path) -> dict[str, Any]:
    """A note as it was written, without identities that say nothing."""
    note = read_json(file)
    known = note.get("identity")
    known = known.items() if isinstance(known, dict) else ()
    return {**note, "identity": {name: word for name, word in known if not is_of_times(str(word))}}


def require_same(options: RunOptions, note: Mapping[str, Any], may_change: Collection[str] = MAY_CHANGE.keys()) -> None:
    """Find that the run in a run folder was begun with the same options.

    Args:
        options: The run's options.
        note: `note_of` them.
        may_change: Options that need not be the same.

    Raises:
        UserError: If one differs, with its name.
    """
    other = changed(begun(options.output / CONFIG), options, note, may_change)
    if other is not None:
        option, was, now = other
        raise UserError(
            f"{options.output} was begun with other options: {option} {now}, but the run began with {was}; repeat its "
            "command with --resume, or start a new run with another --output"
        )


def changed(
    before: Mapping[str, Any],
    options: RunOptions,
    note: Mapping[str, Any],
    may_change: Collection[str] = MAY_CHANGE.keys(),
) -> tuple[str, Any, Any] | None:
    """The first option in which a run differs from one begun before, with what it was and what it is.

    Args:
        before: `begun` of the other.
        options: The run's options.
        note: `note_of` them.
        may_change: Options that need not be the same.
    """
    known = [field for field in dataclasses.fields(options) if field.default is not dataclasses.MISSING]
    defaults = json.loads(json.dumps({field.name: field.default for field in known}, default=str))  # of newer options
    was = {**defaults, **before}
    known = before.get("identity", {})  # what older runs did not note of data and models is compared as it was typed
    led = {name: word for name, word in note["identity"].items() if name in known or before.get(name) is None}
    now = {**note, **led}
    return difference(was, {name: value for name, value in now.items() if name not in {"identity", *may_change}})


Run = TypeVar("Run", bound=RunOptions)
Averaged = TypeVar("Averaged", bound=nn.Module)


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


def _precision(wanted: str, device: torch.device) -> str:
    if wanted != "auto":
        return wanted
    if computes_bfloat16(device):
        return "bf16"
    return "fp16" if device.type == "cuda" else "no"


def as_json(options: Any) -> dict[str, Any]:
    """A dataclass of options as what JSON can hold."""
    return json.loads(json.dumps(dataclasses.asdict(options), default=str))


def due(step: int, every: int) -> bool:
    """Whether something that is done every so many steps, or with 0 never, is to be done at this one."""
    return every > 0 and step % every == 0


def seeded_generator(seed: int, step: int, rank: int, stream: str) -> torch.Generator:
    """A CPU generator for one use (`stream`) in one step of one process, independent of all others."""
    digest = hashlib.blake2b(f"{seed}/{step}/{rank}/{stream}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


@contextmanager
def global_draws(generator: torch.Generator) -> Iterator[None]:
    """Seed the global CPU generator, from which some libraries draw, for this block; after it, it is as before."""
    seed = int(torch.randint(2**62, (), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


class SeededBatches(Sampler[list[int]]):
    """Endless batches of indices, shuffled anew each epoch; step n's batch depends on seed and n alone.

    The global batch is the same however many processes share it; process `rank` gets its slice.

    Args:
        length: Number of samples.
        batch_size: Global batch size, a multiple of `world`.
        seed: Seed of the shuffling.
        rank: This process.
        world: Number of processes.
        start_step: Step whose batch comes first.
    """

    def __init__(
        self, length: int, batch_size: int, seed: int, rank: int = 0, world: int = 1, start_step: int = 0
    ) -> None:
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.rank, self.world, self.start_step = rank, world, start_step

    def __iter__(self) -> Iterator[list[int]]:
        share = self.batch_size // self.world
        first = self.start_step * self.batch_size + self.rank * share
        shuffled_epoch = -1
        while True:
            batch: list[int] = []
            epochs, places = np.divmod(np.arange(first, first + share), self.length)
            for epoch in range(epochs[0], epochs[-1] + 1):
                if epoch != shuffled_epoch:
                    order = shuffled(self.length, seeded_generator(self.seed, epoch, 0, "order"))
                    shuffled_epoch = epoch
                batch += order(places[epochs == epoch]).tolist()
            yield batch
            first += self.batch_size


def shuffled(length: int, generator: torch.Generator) -> Callable[[np.ndarray], np.ndarray]:
    """A random order of the numbers below `length`: which of them stand at given places, both (N,) int64.

    Of more than `HELD_ORDER` numbers, no list is held, which would take gigabytes in every process for the pairs of a
    large collection of clips: what stands at a place is computed. A Feistel network permutes the numbers of twice as
    many bits as it takes; where it leads beyond `length` it is asked again, until it leads back (Black and Rogaway,
    "Ciphers with Arbitrary Finite Domains", 2002).
    """
    if length <= HELD_ORDER:
        return torch.randperm(length, generator=generator).numpy().__getitem__
    half = np.uint64((length - 1).bit_length() + 1) // np.uint64(2)
    low = (np.uint64(1) << half) - np.uint64(1)
    keys = torch.randint(2**63 - 1, (FEISTEL_ROUNDS,), generator=generator).numpy().astype(np.uint64)

    def at(places: np.ndarray) -> np.ndarray:
        numbers = places.astype(np.uint64)
        beyond = np.ones(len(numbers), bool)
        while beyond.any():
            left, right = numbers[beyond] >> half, numbers[beyond] & low
            for key in keys:
                left, right = right, left ^ (_scrambled(right + key) & low)
            numbers[beyond] = left << half | right
            beyond = numbers >= length
        return numbers.astype(np.int64)

    return at


def _scrambled(numbers: np.ndarray) -> np.ndarray:
    """A hash of each of (N,) uint64: the output function of SplitMix64 (Steele et al., 2014)."""
    numbers = (numbers ^ numbers >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ numbers >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return numbers ^ numbers >> np.uint64(31)


def endless_loader(
    data: Items | Shards, options: RunOptions, accelerator: Accelerator, step: int, batches: SeededBatches | None = None
) -> Iterator[Any]:
    """Batches of `data` from step `step` on; this process's share of each. `batches` replaces the usual sampler."""
    rank, world = accelerator.process_index, accelerator.num_processes
    workers = options.workers if options.workers is not None else min(8, (os.cpu_count() or 2) // 2)
    pairs = 2 * 3 * options.image_size**2 * options.batch_size  # of all processes together
    workers = fitting_workers(workers, pairs, PREFETCHED)
    source: Any = data
    order: dict[str, Any]
    if isinstance(data, Shards):
        source = data.batches(options.batch_size // world, options.seed, rank, world, step)
        workers, order = source.workers(workers), {"batch_size": None}  # the stream makes its own batches
    else:
        batches = batches or SeededBatches(len(data), options.batch_size, options.seed, rank, world, step)
        order = {"batch_sampler": batches}
    return iter(
        DataLoader(
            source,
            **order,
            num_workers=workers,
            pin_memory=accelerator.device.type == "cuda",
            prefetch_factor=PREFETCHED if workers else None,
            worker_init_fn=_ignore_signals,
        )
    )


def _ignore_signals(_: int) -> None:
    """Launchers and terminals send signals to these processes too; the training decides when they end (see `Stop`)."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def to_network(images: Tensor, device: torch.device) -> Tensor:
    """uint8 images (B, 3, H, W) to floats in [−1, 1] on the device, channels last."""
    images = images.to(device, non_blocking=True)
    return signed_from_bytes(images).contiguous(memory_format=torch.channels_last)


class StepBar(Bar):
    """A progress bar of training steps that, after the first of them, says how long all of them will take here.

    The first step sets things up and is not counted.

    Args:
        accelerator: The run's accelerator.
        options: The run's options.
        step: Steps done before.
        name: What learns.
    """

    MEASURED, ENOUGH, WORTH_TELLING, LONG = 4, 10.0, 60.0, 3600.0
    """Steps that are timed, or as many as take so many seconds; of what takes less is nothing said; what takes more is
    said with how to shorten it."""

    def __init__(self, accelerator: Accelerator, options: RunOptions, step: int, name: str) -> None:
        shown = accelerator.is_main_process
        super().__init__(desc=name, total=options.steps, initial=step, unit="step", hidden=not shown)
        self._name = name  # a bar that is not shown, as in a log file, has no `desc`
        self._accelerator, self._options, self._left = accelerator, options, options.steps - step
        self._since = 0.0
        self._timed: int | None = -1 if shown else None

    def update(self, n: float | None = 1) -> bool | None:
        """Count steps that were done."""
        self._left -= round(n or 0)
        if self._timed is not None:
            self._timed = self._measured(self._timed)
        return super().update(n)

    def _measured(self, timed: int) -> int | None:
        """How many steps are timed after this one; None when all that are have been, which is when it is said."""
        if timed < 0:
            self._since = self._now()
        timed += 1
        if not timed:
            return timed
        seconds = self._now() - self._since if timed == self.MEASURED else time.perf_counter() - self._since
        if timed == self.MEASURED or seconds > self.ENOUGH:
            pace = seconds / timed
            if pace * self._left > self.WORTH_TELLING:
                with self.external_write_mode(file=sys.stderr):
                    logger.warning("%s: %s", self._name, forecast(self._left, pace, self._accelerator, self._options))
            return None
        return timed

    def _now(self) -> float:
        """The clock when the device has done what it was given."""
        if self._accelerator.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def forecast(steps: int, pace: float, accelerator: Accelerator, options: RunOptions) -> str:
    """How long some steps of `pace` seconds take, where, and, if that is long, which options shorten it."""
    count, device = accelerator.num_processes, "processor" if accelerator.device.type == "cpu" else "GPU"
    where = f"this {device}" if count == 1 else f"these {count} processes"
    text = f"{steps:,} steps of about {pace:.2g} s: {duration(steps * pace)} on {where}"
    if steps * pace < StepBar.LONG:
        return text
    shorter = [f"--width {SMALL_WIDTH}"] if options.width > SMALL_WIDTH else []
    shorter += [f"--image-size {SMALL_SIDE}"] if options.image_size > SMALL_SIDE else []
    shorter += ["--perceptual squeezenet"] if getattr(options, "perceptual", None) == "vgg16" else []
    return f"{text}; {', '.join([*shorter, 'fewer --steps'])} or a smaller --batch-size shorten it"


def duration(seconds: float) -> str:
    """Some time in words, in the largest unit of which there are two."""
    for name, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {name}"
    return f"{seconds:.0f} seconds"


class Ema(AveragedModel, Generic[Averaged]):
    """Exponential moving average of a model's parameters and buffers; what is saved, sampled and measured.

    Args:
        model: The model to follow, before it is wrapped for several devices.
        decay: Share kept at each step, reached after a ramp (1 + n)/(10 + n) so that early steps are forgotten.
    """

    module: Averaged

    def __init__(self, model: Averaged, decay: float = 0.999) -> None:
        def average(averages: Sequence[Tensor], current: Sequence[Tensor], updates: Tensor | int) -> None:
            count = int(updates)
            keep = min(decay, (1 + count) / (10 + count))
            for mean, value in zip(averages, current):
                if mean.is_floating_point():
                    mean.lerp_(value.to(mean), 1 - keep)
                else:
                    mean.copy_(value)

        super().__init__(model, multi_avg_fn=average, use_buffers=True)
        self.requires_grad_(False)
        self.eval()


def save_checkpoint(
    accelerator: Accelerator,
    output: Path,
    step: int,
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, Optimizer],
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write all it takes to go on into one file, atomically; the main process writes, all wait.

    Args:
        accelerator: The run's accelerator.
        output: Run folder.
        step: Steps done.
        modules: Name → module, wrapped or not.
        optimizers: Name → optimiser.
        extra: Anything else that JSON can hold.
    """
    if accelerator.is_main_process:
        tensors: dict[str, Tensor] = {}
        for name, module in modules.items():
            for key, value in accelerator.unwrap_model(module).state_dict().items():
                tensors[f"module/{name}/{key}"] = value.contiguous()
        for name, optimizer in optimizers.items():
            for parameter, state in optimizer.state_dict()["state"].items():
                for key, value in state.items():
                    tensors[f"optimizer/{name}/{parameter}/{key}"] = value.contiguous()
        scaler = accelerator.scaler.state_dict() if accelerator.scaler is not None else None
        header = {"step": step, "scaler": scaler, "extra": dict(extra or {})}
        write_safetensors(output / CHECKPOINT, tensors, {"run": json.dumps(header)})
    accelerator.wait_for_everyone()


def load_checkpoint(
    accelerator: Accelerator,
    output: Path,
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, Optimizer],
) -> tuple[int, dict[str, Any]]:
    """Restore what `save_checkpoint` wrote into the same modules and optimisers.

    Returns:
        Steps done, and `extra`.

    Raises:
        UserError: If the file is damaged or belongs to a run with other options.
    """
    path = output / CHECKPOINT
    tensors = read_tensors(path)
    header = _progress(path)

    def under(prefix: str) -> dict[str, Tensor]:
        return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}

    try:
        for name, module in modules.items():
            accelerator.unwrap_model(module).load_state_dict(under(f"module/{name}/"))
        for name, optimizer in optimizers.items():
            state: dict[int, dict[str, Tensor]] = {}
            for key, value in under(f"optimizer/{name}/").items():
                parameter, entry = key.split("/")
                state.setdefault(int(parameter), {})[entry] = value
            optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
            _restore_layout(optimizer)
    except (RuntimeError, ValueError, KeyError) as error:
        raise UserError(
            f"{path} belongs to a run with other options than these; repeat the command that started it with --resume "
            f"({str(error).splitlines()[-1].strip()})"
        ) from error
    if accelerator.scaler is not None and header["scaler"] is not None:
        accelerator.scaler.load_state_dict(header["scaler"])
    return header["step"], header["extra"]


def _progress(path: Path) -> dict[str, Any]:
    """What the header of a checkpoint holds: `step`, `scaler` and `extra`."""
    header = header_part(path, read_metadata(path), "run")
    if not isinstance(header.get("step"), int) or not {"scaler", "extra"} <= header.keys():
        raise UserError(f"{path}: its header does not say how far the run was; start a new run with another --output")
    return header


def _restore_layout(optimizer: Optimizer) -> None:
    """Give moments their parameter's strides again: fused optimisers walk through memory, not through indices."""
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if value.shape == parameter.shape and value.stride() != parameter.stride():
                state[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


class RunLog:
    """Numbers to `log.jsonl`, pictures to `samples/`, and both to the run's trackers; main process only.

    Args:
        accelerator: The run's accelerator.
        output: Run folder.
        step: Steps done before; what an interrupted run logged beyond them is dropped.
    """

    def __init__(self, accelerator: Accelerator, output: Path, step: int) -> None:
        self.accelerator, self.output = accelerator, output
        self.path = output / LOG
        if accelerator.is_main_process:
            lines = read_log(self.path) if step and self.path.is_file() else []
            kept = [line for line in lines if line["step"] <= step]
            write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """Record scalars of one step; where nobody sees the progress bar, as in a log file, they are printed."""
        if self.accelerator.is_main_process:
            if is_read_by_a_program():
                tell("numbers", step=step, **values)
            elif not sys.stderr.isatty():
                print(
                    f"step {step}:", ", ".join(f"{k} {v:.4g}" for k, v in values.items()), file=sys.stderr, flush=True
                )
            with reported(self.path), self.path.open("a") as file:
                file.write(json.dumps({"step": step, **{k: round(v, 6) for k, v in values.items()}}) + "\n")
        self.accelerator.log(dict(values), step=step)

    def close(self) -> None:
        """Finish the logs and leave the run folder; another run may follow in this process."""
        for tracker in self.accelerator.trackers:
            tracker.finish()
        release(self.output)

    def picture(self, step: int, name: str, image: Tensor) -> None:
        """Record a picture (3, H, W), uint8 or in [0, 1], as `samples/NAME-STEP.png`."""
        if self.accelerator.is_main_process:
            save_png(self.output / "samples" / f"{name}-{step:07d}.png", image)
            track_picture(self.accelerator, step, name, image)


class Diverged(UserError):
    """The loss or the weights of a run are no longer numbers."""


WHEN_DIVERGED = (
    "--resume goes on from the last checkpoint, with --mixed-precision no if it happens again; if that does not help, "
    "start a new run with a lower --learning-rate or a larger --thickness"
)


def require_finite(value: float, step: int) -> None:
    """Stop a run whose loss is no longer a number.

    Raises:
        Diverged: Always when `value` is not finite.
    """
    if not math.isfinite(value):
        raise Diverged(f"the loss became {value} at step {step}; {WHEN_DIVERGED}")


def require_finite_weights(accelerator: Accelerator, modules: Mapping[str, nn.Module], step: int) -> None:
    """Stop a run before weights that are no longer numbers take the place of good ones in its files.

    Raises:
        Diverged: In all processes, if any weight, average or statistic is not finite in one.
    """
    tensors = [tensor for module in modules.values() for tensor in module.state_dict().values()]
    finite = torch.stack([tensor.isfinite().all() for tensor in tensors])
    if accelerator.reduce((~finite).sum(), "sum").item():
        raise Diverged(f"the weights are no longer numbers at step {step}; {WHEN_DIVERGED}")
