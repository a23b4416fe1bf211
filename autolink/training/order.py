"""Randomness, and the order of the data: functions of (seed, step, rank, stream), whatever happened before."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from autolink.data.sample import Items
from autolink.data.shards import Shards
from autolink.devices import fitting_workers
from autolink.pixels import signed_from_bytes
from autolink.runs import SIGNALS
from autolink.training.options import RunOptions

PREFETCHED = 4
"""Batches that each process that decodes images makes in advance."""
HELD_ORDER = 2**20
"""Samples up to which the order of an epoch is held in memory."""
FEISTEL_ROUNDS = 6


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
