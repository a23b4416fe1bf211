"""Images in tar files ("shards", as of `webdataset`), read as a stream: for data that no disk holds.

A shard is named by a path, a URL or `pipe:COMMAND`; a pattern with braces, `shards/{000..099}.tar`, names many. A
sample is the files of one shard that share their name up to the first dot, and one of them is an image; samples without
an image are left out. The last shard is held out, unless a folder has `train/` and `val/`.

The order is a pure function of the seed and of how many processes there are. A process reads several *lanes*, and step
n takes its whole share of the batch from lane n mod (number of lanes). In each epoch all shards are shuffled and dealt
out to all lanes of all processes, so no two read the same; within a lane, samples are shuffled in blocks of `BLOCK`. A
lane that is through its shards goes on with its share of the next epoch: each epoch holds every sample once, and lanes
with fewer samples are ahead by as much. To go on at a step, a lane skips whole shards by their numbers of samples,
which are counted when a shard is read for the first time and kept in `$AUTOLINK_CACHE/shards`. So a shard must not
change under its name. Of the shard in which it goes on, it reads what comes before, without decoding it.

Shapes: B images of a batch in this process, S image size.
"""

from __future__ import annotations

import io
import logging
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, default_collate, get_worker_info

from autolink.data.cache import cached_array
from autolink.data.sample import Sample
from autolink.data.splits import split_folder
from autolink.errors import UserError
from autolink.files import list_named, what_of
from autolink.images import load_square

BLOCK = 1024
"""Samples of a shard that are shuffled together; a lane holds them encoded."""
MOST_LANES = 8
"""Of one process, and so its most worker processes that read different shards."""
HELD_OUT = 256
"""Images of the held-out shards that are used."""

logger = logging.getLogger(__name__)


class Encoded(NamedTuple):
    """One sample as it stands in its shard."""

    name: str
    """Shard and key."""
    image: bytes
    """An image file."""


def is_pattern(data: str) -> bool:
    """Whether this names shards by a pattern, rather than a folder that may hold some."""
    return data.startswith("pipe:") or "://" in data or data.endswith((".tar", ".tar.gz", ".tgz"))


def shard_files(pattern: str) -> list[Path]:
    """Those of the shards that a pattern names that are files of this machine."""
    return [Path(url) for url in _expand(pattern) if _is_file(url)]


def has_shards(folder: Path) -> bool:
    """Whether a folder holds tar files."""
    return bool(list_named(folder, folder, ".tar"))


def open_shards(data: str | Path, image_size: int, split: str = "train", name: str | None = None) -> Shards | HeldOut:
    """Open shards: a stream to train on, or a few held-out images.

    Args:
        data: A pattern or a folder, see the module's text.
        image_size: Side of the square images in pixels.
        split: "train" or "fit" gives the stream; "val" and "test" the first `HELD_OUT` images of what is held out.
        name: What to call the data set; the pattern or the folder's name if not given.

    Raises:
        UserError: No such shards, too few to hold one out, one that cannot be read, or `webdataset` is not installed.
    """
    folder = Path(data).expanduser()
    if folder.is_dir():
        part = split_folder(folder, split)
        urls = [str(folder / file) for file in list_named(folder, part or folder, ".tar")]
    else:
        part, urls = None, _expand(str(data))
    if part is None:
        if len(urls) < 2:
            raise UserError(f"{data}: {len(urls)} shard(s); expected 2 or more, since the last is held out")
        urls = urls[:-1] if split in ("train", "fit") else urls[-1:]
    shards = Shards(name or (folder.name if folder.is_dir() else str(data)), urls, image_size)
    return shards if split in ("train", "fit") else HeldOut(shards)


class Shards(IterableDataset[Sample]):
    """Every sample of some shards, in their order. To train, take `batches`.

    Args:
        name: What to call the data set.
        urls: The shards.
        image_size: Side of the square images in pixels.
    """

    landmark_count = 0

    def __init__(self, name: str, urls: list[str], image_size: int) -> None:
        self.name, self.urls, self.image_size = name, urls, image_size

    def __iter__(self) -> Iterator[Sample]:
        for url in self.urls:
            decoded = (decode(encoded, self.image_size) for encoded in read_shard(url))
            yield from (sample for sample in decoded if sample is not None)

    def batches(self, share: int, seed: int, rank: int = 0, world: int = 1, start_step: int = 0) -> ShardBatches:
        """One process's part of endless shuffled batches, from a step on.

        Args:
            share: Samples of a batch for this process.
            seed: Seed of the shuffling.
            rank: This process.
            world: Number of processes.
            start_step: Step whose batch comes first.

        Raises:
            UserError: Fewer shards than processes.
        """
        if len(self.urls) < world:
            raise UserError(
                f"{self.name}: {len(self.urls)} shards to train on are too few for {world} processes; "
                f"{MOST_LANES * world} and more keep all of them busy"
            )
        lanes = 1 << (min(MOST_LANES, len(self.urls) // world).bit_length() - 1)
        return ShardBatches(self, share, seed, rank, world, start_step, lanes)


@dataclass
class ShardBatches(IterableDataset[Sample]):
    """What `Shards.batches` returns: `Sample`s of stacked images (B, 3, S, S), ready for a loader with workers."""

    shards: Shards
    share: int
    seed: int
    rank: int
    world: int
    start_step: int
    lanes: int
    """Of this process: a power of two."""

    def workers(self, wanted: int) -> int:
        """At most `wanted` worker processes such that no two read the same lane."""
        return 1 << (min(wanted, self.lanes).bit_length() - 1) if wanted else 0

    def __iter__(self) -> Iterator[Sample]:
        """A worker's batches: a loader takes them from its workers in turn."""
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        streams: dict[int, Iterator[Encoded]] = {}
        for step in count(self.start_step + worker, workers):
            lane = step % self.lanes
            if lane not in streams:
                streams[lane] = self._lane(lane, step // self.lanes * self.share)
            yield self._batch(list(islice(streams[lane], self.share)))

    def _lane(self, lane: int, skip: int) -> Iterator[Encoded]:
        """The samples of one lane without the first `skip`, for ever."""
        for epoch in count():
            order = np.random.default_rng([self.seed, epoch]).permutation(len(self.shards.urls))
            empty = True
            for shard in order[self.rank * self.lanes + lane :: self.world * self.lanes].tolist():
                url = self.shards.urls[shard]
                if skip and skip >= (samples := sample_count(url)):
                    skip, empty = skip - samples, empty and not samples
                    continue
                samples = 0
                for number, block in enumerate(_blocks(read_shard(url))):
                    mixed = np.random.default_rng([self.seed, epoch, shard, number]).permutation(len(block))
                    yield from (block[index] for index in mixed[skip:])
                    skip, empty, samples = max(0, skip - len(block)), False, samples + len(block)
                sample_count(url, known=samples)
            if empty:
                raise UserError(f"{self.shards.name}: no images in {url}; expected files such as 000.jpg")

    def _batch(self, encoded: list[Encoded]) -> Any:
        """Decoded and stacked; the place of an image that cannot be decoded is taken by another of the batch."""
        samples = [decode(one, self.shards.image_size) for one in encoded]
        good = [sample for sample in samples if sample is not None]
        if not good:
            raise UserError(f"{encoded[0].name} and all others of a batch cannot be decoded; make these shards again")
        whole = [good[i % len(good)] if sample is None else sample for i, sample in enumerate(samples)]
        return default_collate(whole)


class HeldOut(Dataset[Sample]):
    """The first images of held-out shards, kept encoded in memory; a `SampleSet`."""

    landmark_count = 0

    def __init__(self, shards: Shards) -> None:
        self.name, self.image_size = shards.name, shards.image_size
        encoded = islice((one for url in shards.urls for one in read_shard(url)), HELD_OUT)
        self.encoded = [one for one in encoded if decode(one, self.image_size) is not None]
        if not self.encoded:
            raise UserError(f"{shards.urls[0]}: no image in it can be decoded, and it is held out; make it again")
        self.clips = [""] * len(self.encoded)

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, index: int) -> Sample:
        sample = decode(self.encoded[index], self.image_size)
        assert sample is not None  # others were left out at the start
        return sample


def read_shard(url: str) -> Iterator[Encoded]:
    """The samples of a shard that have an image, in their order.

    Raises:
        UserError: It cannot be read.
    """
    try:
        if _is_file(url) and _cut_off(Path(url)):
            raise tarfile.ReadError("it is cut off")
        for sample in _webdataset().tariterators.tarfile_samples([{"url": url}]):
            images = [key for key, value in sample.items() if isinstance(value, bytes) and _is_image(key, value)]
            if images:  # of several, such as jpg and mask.png, the one of the shortest name
                yield Encoded(f"{url}/{sample['__key__']}", sample[min(images, key=len)])
    except (OSError, EOFError, ValueError, tarfile.TarError, zlib.error) as error:
        # webdataset adds arguments to errors, and puts those of a command that failed into a message of its own.
        failed = isinstance(error, OSError) and not _is_file(url)
        reason = getattr(error, "strerror", None) or " ".join(str(error.args[0] if error.args else error).split())
        reason = "fetching it failed" if failed else reason
        raise UserError(f"{url}: cannot be read as a tar file ({reason}); check the name, or get it again") from error


def _is_image(key: str, value: bytes) -> bool:
    return what_of(io.BytesIO(value), f"x.{key}").kind == "still"


def sample_count(url: str, known: int | None = None) -> int:
    """How many samples `read_shard` gives: kept, or `known` to who has just read the shard, or counted now.

    Raises:
        UserError: It cannot be read, or the number cannot be kept.
    """

    def counted() -> np.ndarray:
        return np.array(sum(1 for _ in read_shard(url)) if known is None else known)

    identity: tuple[object, ...] = (url,)
    if _is_file(url):
        stat = Path(url).stat()
        identity = Path(url).resolve(), stat.st_size, stat.st_mtime_ns
    return int(cached_array("shards", identity, counted))


def decode(encoded: Encoded, image_size: int) -> Sample | None:
    """The centred square of an image; None, with a warning, if it cannot be decoded."""
    file = io.BytesIO(encoded.image)
    file.name = encoded.name
    try:
        image, _ = load_square(file, image_size)
    except UserError as error:
        logger.warning("left out %s", error)
        return None
    return Sample(torch.from_numpy(image).permute(2, 0, 1).contiguous(), torch.zeros(0, 2), encoded.name, "")


def _blocks(samples: Iterator[Encoded]) -> Iterator[list[Encoded]]:
    while block := list(islice(samples, BLOCK)):
        yield block


def _expand(pattern: str) -> list[str]:
    """The shards that a pattern names."""
    try:
        urls = _webdataset().shardlists.expand_urls(pattern)
    except ValueError as error:
        raise UserError(f"{pattern}: {error}; expected a pattern such as shards/{{000..099}}.tar") from error
    missing = [url for url in urls if _is_file(url) and not Path(url).is_file()]
    if missing:
        raise UserError(
            f"{pattern}: no such file: {missing[0]} ({len(missing)} of {len(urls)} missing); check the pattern"
        )
    return urls


def _cut_off(path: Path) -> bool:
    """Whether a plain tar file lacks the zeros at its end; reading such a one, Python may just stop there."""
    with path.open("rb") as file:
        is_plain = file.read(262)[257:] == b"ustar"
        file.seek(max(0, path.stat().st_size - 1024))
        return is_plain and any(file.read())


def _is_file(url: str) -> bool:
    """Whether a shard is a file of this machine."""
    return not url.startswith("pipe:") and "://" not in url


def _webdataset() -> ModuleType:
    try:
        import webdataset
    except ImportError as error:
        raise UserError(
            "shards are read by webdataset, which is missing here: pip install 'autolink-graph[shards]'"
        ) from error
    return webdataset
