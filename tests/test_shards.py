"""Data in tar files: every sample once an epoch, processes apart, runs that go on exactly where they stopped."""

import io
import itertools
import json
import sys
import tarfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from autolink.data import open_data, shards
from autolink.data.sample import spread
from autolink.data.shards import HeldOut, Shards
from autolink.errors import UserError
from autolink.train import Options, train
from autolink.training import endless_loader, note_of


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AUTOLINK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def encoded(number: int, kind: str = "png") -> bytes:
    """A picture whose number can be read off its colour."""
    file = io.BytesIO()
    Image.fromarray(np.full((20, 24, 3), (number % 250, number // 250, 7), np.uint8)).save(file, kind)
    return file.getvalue()


def write_shard(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path


def write_shards(folder: Path, sizes: list[int]) -> str:
    """Shards of so many pictures, numbered through; the pattern that names them."""
    number = itertools.count()
    for shard, size in enumerate(sizes):
        write_shard(folder / f"{shard:03}.tar", {f"{n:06}.png": encoded(n) for n in itertools.islice(number, size)})
    return f"{folder}/{{000..{len(sizes) - 1:03}}}.tar"


def numbers(batch: shards.Sample) -> list[int]:
    """The numbers of a batch's pictures (B, 3, S, S), or of one (3, S, S)."""
    images = batch.image if batch.image.dim() == 4 else batch.image[None]
    return [int(image[0, 8, 8]) + 250 * int(image[1, 8, 8]) for image in images]


def take(data: Shards, steps: int, share: int = 4, workers: int = 0, **options: int) -> list[list[int]]:
    """The numbers in the batches of some steps."""
    stream = data.batches(share, **{"seed": 1, **options})
    loader = DataLoader(stream, batch_size=None, num_workers=stream.workers(workers))
    return [numbers(batch) for batch in itertools.islice(loader, steps)]


def flat(batches: list[list[int]]) -> list[int]:
    return list(itertools.chain.from_iterable(batches))


def test_in_order_every_sample_once_and_the_last_shard_held_out(tmp_path):
    pattern = write_shards(tmp_path / "shards", [5, 7, 3])
    data, held_out = open_data(pattern, 16), open_data(pattern, 16, "val")
    assert isinstance(data, Shards) and isinstance(held_out, HeldOut)
    assert [numbers(sample)[0] for sample in data] == list(range(12))
    assert [numbers(sample)[0] for sample in held_out] == [12, 13, 14]
    first = next(iter(data))
    assert first.image.shape == (3, 16, 16) and first.image.dtype == torch.uint8
    assert first.name == f"{tmp_path}/shards/000.tar/000000" and first.landmarks.shape == (0, 2)
    assert [numbers(s)[0] for s in spread(data, 3)] == [0, 1, 2]
    assert [numbers(s)[0] for s in spread(held_out, 2)] == [12, 13]


def test_a_folder_and_a_name_and_a_pipe_are_the_same_shards(tmp_path):
    pattern = write_shards(tmp_path / "root" / "mine", [4, 4, 2])
    by_pipe = f"pipe:cat {pattern}"
    for opened in (
        open_data(str(tmp_path / "root" / "mine"), 16),
        open_data("mine", 16, data_root=tmp_path / "root"),
        open_data(by_pipe, 16),
    ):
        assert [numbers(sample)[0] for sample in opened] == list(range(8))


def test_folders_of_their_own_make_the_split(tmp_path):
    write_shard(tmp_path / "data/train/a.tar", {"1.png": encoded(1)})
    write_shard(tmp_path / "data/val/a.tar", {"2.png": encoded(2)})
    assert [numbers(s)[0] for s in open_data(str(tmp_path / "data"), 16)] == [1]
    assert [numbers(s)[0] for s in open_data(str(tmp_path / "data"), 16, "val")] == [2]


def test_images_of_all_kinds_under_any_key(tmp_path):
    """Of several images of a sample the plain one; samples without an image are left out."""
    files = {
        "a.jpg": encoded(3, "jpeg"),
        "a.json": b"{}",
        "b.seg.png": encoded(200),
        "b.webp": encoded(4, "webp"),
        "c.txt": b"no image",
        "d.camera.png": encoded(5),
    }
    write_shard(tmp_path / "s/0.tar", files)
    write_shard(tmp_path / "s/1.tar", {"x.png": encoded(0)})
    found = list(open_data(str(tmp_path / "s"), 16))
    assert [Path(sample.name).name for sample in found] == ["a", "b", "d"]
    assert np.abs(np.subtract([int(s.image[0, 8, 8]) for s in found], [3, 4, 5])).max() <= 2  # JPEG, WebP


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("block", [1024, 5])
def test_each_epoch_holds_every_sample_once_and_processes_share_none(tmp_path, monkeypatch, world, block):
    monkeypatch.setattr(shards, "BLOCK", block)
    data = open_data(write_shards(tmp_path / "s", [12] * 16 + [1]), 16)
    epoch = 16 * 12 // (4 * world)  # steps
    ranks = [take(data, 2 * epoch, rank=rank, world=world) for rank in range(world)]
    epochs = [[set(flat(rank[start : start + epoch])) for rank in ranks] for start in (0, epoch)]
    for parts in epochs:
        assert sum(len(part) for part in parts) == len(set.union(*parts)) == 16 * 12
    orders = [flat(ranks[0][start : start + epoch]) for start in (0, epoch)]
    assert orders[0] != orders[1]  # shuffled anew
    assert orders[0] != sorted(orders[0]) and take(data, 5, seed=2, world=world) != ranks[0][:5]


def test_uneven_shards_are_all_seen_equally_often_in_the_long_run(tmp_path):
    data = open_data(write_shards(tmp_path / "s", [3, 9, 6, 10, 2, 7, 1]), 16)
    seen = Counter(flat(take(data, 37 * 40, share=1)))
    assert set(seen) == set(range(37)) and min(seen.values()) > 25 and max(seen.values()) < 60


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
def test_batches_do_not_depend_on_the_number_of_workers(tmp_path, workers):
    data = open_data(write_shards(tmp_path / "s", [6] * 9), 16)
    assert data.batches(4, seed=0).lanes == 8
    assert take(data, 20, workers=workers) == take(data, 20)


@pytest.mark.parametrize("start", [1, 7, 30, 61])
def test_a_stream_goes_on_at_any_step(tmp_path, monkeypatch, start):
    monkeypatch.setattr(shards, "BLOCK", 4)
    pattern = write_shards(tmp_path / "s", [9, 4, 7, 12, 5, 1])
    run = take(open_data(pattern, 16), 70, share=3, rank=1, world=2)
    assert take(open_data(pattern, 16), 70 - start, share=3, rank=1, world=2, start_step=start) == run[start:]


def test_going_on_reads_only_the_shards_that_it_needs(tmp_path, monkeypatch):
    """Numbers of samples are kept by whoever reads a shard to its end."""
    data = open_data(write_shards(tmp_path / "s", [8, 8, 8]), 16)  # two to train on: one lane in each of two processes
    run = take(data, 20, share=2, rank=0, world=2)
    opened: list[str] = []
    read = shards.read_shard
    monkeypatch.setattr(shards, "read_shard", lambda url: opened.append(url) or read(url))
    assert take(data, 3, share=2, rank=0, world=2, start_step=17) == run[17:]
    assert len(opened) == 1


def test_a_shard_that_changed_is_counted_again(tmp_path):
    path = write_shard(tmp_path / "0.tar", {"1.png": encoded(1), "2.png": encoded(2)})
    assert shards.sample_count(str(path)) == 2
    write_shard(path, {f"{n}.png": encoded(n) for n in range(40)})
    assert shards.sample_count(str(path)) == 40


def test_an_image_that_cannot_be_decoded_is_replaced_from_its_batch(tmp_path, caplog):
    files = {f"{n}.png": encoded(n) if n != 5 else b"no image" for n in range(12)}
    write_shard(tmp_path / "s/0.tar", files)
    write_shard(tmp_path / "s/1.tar", {"x.png": encoded(0)})
    data = open_data(str(tmp_path / "s"), 16)
    batches = take(data, 3)
    assert [len(batch) for batch in batches] == [4, 4, 4]
    assert len(set(flat(batches))) == 11 and "0.tar/5" in caplog.text
    assert take(data, 2, start_step=1) == batches[1:]
    assert len(list(data)) == 11


def options(data: str, output: Path, **changes) -> Options:
    settings = {
        **dict(data=data, output=output, steps=6, batch_size=4, image_size=32, width=0.125, workers=2),
        **dict(keypoints=3, thickness=1e-2, perceptual="pyramid", mixed_precision="no"),
        **dict(log_every=2, sample_every=3, save_every=3),
    }
    return Options(**{**settings, **changes})


@pytest.fixture
def pictures(tmp_path: Path) -> str:
    """Shards of pictures to learn from."""
    rng = np.random.default_rng(0)
    for shard in range(5):
        files = {}
        for n in range(6):
            file = io.BytesIO()
            blobs = Image.fromarray(rng.integers(0, 255, (5, 5, 3), dtype=np.uint8))
            blobs.resize((40, 40), Image.Resampling.BICUBIC).save(file, "png")
            files[f"{n}.png"] = file.getvalue()
        write_shard(tmp_path / f"pictures/{shard}.tar", files)
    return f"{tmp_path}/pictures/{{0..4}}.tar"


def test_a_resumed_run_equals_an_unbroken_one(pictures, tmp_path):
    unbroken = train(options(pictures, tmp_path / "a"))
    train(options(pictures, tmp_path / "b", steps=3))
    resumed = train(options(pictures, tmp_path / "b", resume=True))
    first, second = load_file(unbroken), load_file(resumed)
    assert all(torch.equal(first[key], second[key]) for key in first)
    logs = [(tmp_path / run / "log.jsonl").read_text().splitlines()[-1] for run in "ab"]
    assert json.loads(logs[0]) == json.loads(logs[1])
    shard = Path(pictures.replace("{0..4}", "2"))
    again = options(pictures, tmp_path / "b", resume=True, steps=7)
    before = note_of(again)
    shard.write_bytes(shard.read_bytes())
    assert note_of(again) == before  # another time is no other shard
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match=r"--data .*\(5 files of .*, but the run began with .*\(5 files of "):
        train(again)


def test_the_gan_learns_from_shards(pictures, tmp_path, tiny_file):
    import importlib

    gan = importlib.import_module("autolink_apps.gan.train")
    settings = dict(data=pictures, output=tmp_path / "gan", autolink=str(tiny_file), workers=0, mixed_precision="no")
    settings |= dict(steps=2, batch_size=4, image_size=64, width=0.125, metric_every=0)
    path = gan.train(gan.Options(**settings))
    assert load_file(path)["poses"].shape == (24, 4, 2)  # four shards of six; the last is held out


def test_a_process_gets_its_own_part_of_the_batch(tmp_path):
    data = open_data(write_shards(tmp_path / "s", [6] * 9), 16)
    settings = options("", tmp_path, batch_size=8, seed=1, workers=0)
    for rank in range(2):
        process = SimpleNamespace(process_index=rank, num_processes=2, device=torch.device("cpu"))
        batches = [numbers(batch) for batch in itertools.islice(endless_loader(data, settings, process, 2), 3)]
        assert batches == take(data, 3, share=4, rank=rank, world=2, start_step=2)


def refused(words: str, data: str, split: str = "train") -> None:
    with pytest.raises(UserError, match=words) as caught:
        list(open_data(data, 16, split))
    assert "\n" not in str(caught.value)


def test_mistakes_are_one_line(tmp_path, monkeypatch):
    pattern = write_shards(tmp_path / "s", [2, 2])
    refused(r"no such file: .*002.tar \(2 of 4 missing\); check the pattern", pattern.replace("001", "003"))
    refused("expected a pattern such as", f"{tmp_path}/s/{{000..001.tar")
    refused("expected 2 or more, since the last is held out", str(tmp_path / "s/000.tar"))
    (tmp_path / "s/000.tar").write_bytes(b"this is no tar file" * 100)
    refused(r"000.tar: cannot be read as a tar file \(", pattern)
    missing = f"pipe:cat {tmp_path}/s/9.tar 2>/dev/null"
    refused(
        r"pipe:cat .*9.tar.*: cannot be read as a tar file \((empty file|fetching it failed)\)", f"{missing}::{missing}"
    )
    with pytest.raises(UserError, match="2 shards to train on are too few for 3 processes"):
        open_data(write_shards(tmp_path / "few", [1, 1, 1]), 16).batches(4, seed=0, world=3)
    with pytest.raises(UserError, match="shards hold single images, but clips are needed here"):
        train(options(pattern, tmp_path / "run", visible="clip"))
    with pytest.raises(UserError, match="--mix-with takes folders and names, and no shards"):
        train(options(pattern, tmp_path / "run", mix_with="synthetic"))


def test_a_shard_that_is_cut_off_says_so(tmp_path):
    write_shards(tmp_path / "s", [30, 1])
    whole = (tmp_path / "s/000.tar").read_bytes()
    (tmp_path / "s/000.tar").write_bytes(whole[: len(whole) // 2 + 100])
    refused(r"000.tar: cannot be read as a tar file \(it is cut off\)", str(tmp_path / "s"))


def test_shards_without_images_end_with_a_word(tmp_path):
    for shard in range(2):
        write_shard(tmp_path / f"s/{shard}.tar", {"a.txt": b"text"})
    data = Shards("texts", [str(tmp_path / "s/0.tar")], 16)
    with pytest.raises(UserError, match="texts: no images in"):
        take(data, 1)
    refused("no image in it can be decoded, and it is held out", str(tmp_path / "s"), "val")


def test_without_webdataset_the_extra_is_named(tmp_path, monkeypatch):
    pattern = write_shards(tmp_path / "s", [1, 1])
    monkeypatch.setitem(sys.modules, "webdataset", None)
    refused(r"pip install 'autolink-graph\[shards\]'", pattern)
