"""A GAN that begins with what another run has reached: the same networks, or grown by a block."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from gan_runs import options_for, write_autolink, write_images

from autolink.errors import UserError
from autolink.weights import read_tensors
from autolink_apps.gan import beginning
from autolink_apps.gan.train import train
from experiments.gan_start import write_start


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Images, an AutoLink, and a run of two steps."""
    root = tmp_path_factory.mktemp("begun")
    images, autolink = write_images(root / "images", 8), write_autolink(root / "autolink")
    train(options_for(images, autolink, root / "run", steps=2, log_every=2, sample_every=2, save_every=2))
    return images, autolink, root / "run"


def reached(run: Path) -> dict[str, torch.Tensor]:
    tensors = read_tensors(run / "checkpoint.safetensors")
    return {name: value for name, value in tensors.items() if name.startswith("module/")}


def go_on(begun: tuple[Path, Path, Path], source: Path | str, output: Path, **changes) -> dict[str, torch.Tensor]:
    """The networks after one step that changes nothing, begun with a source."""
    images, autolink, _ = begun
    settings = dict(steps=1, learning_rate=0.0, log_every=1, sample_every=1, save_every=1, **changes)
    train(options_for(images, autolink, output, start_from=str(source), **settings))
    return reached(output)


def test_a_run_folder_and_a_start_begin_with_the_same_networks(begun, tmp_path, monkeypatch):
    was, file = reached(begun[2]), tmp_path / "starts" / "mine.safetensors"
    file.parent.mkdir()
    write_start(begun[2], file)
    assert file.stat().st_size < (begun[2] / "checkpoint.safetensors").stat().st_size / 4  # half, and no moments
    exact, halved = go_on(begun, begun[2], tmp_path / "exact"), go_on(begun, file, tmp_path / "halved")
    for name, value in was.items():
        if "/ema/" not in name:
            assert torch.equal(exact[name], value)
            torch.testing.assert_close(halved[name], value, rtol=1e-3, atol=1e-4)
    mean = "module/ema/module.structure.first.weight"
    now, step = exact[mean] - was[mean], was["module/generator/structure.first.weight"] - was[mean]
    torch.testing.assert_close(now, step * (now / step).median(), rtol=1e-3, atol=1e-7)  # one step of averaging on
    assert (
        0 < (now / step).median() < 1 and exact["module/ema/n_averaged"] == was["module/ema/n_averaged"] + 1
    )  # the average goes on
    monkeypatch.setattr(beginning, "pretrained_folder", lambda: tmp_path)
    assert beginning.find_start("mine") == file


def test_a_run_goes_on_without_its_start_and_whatever_would_train_an_autolink_that_there_is(begun, tmp_path):
    images, autolink, run = begun
    start = tmp_path / "start"
    shutil.copytree(run, start)
    options = options_for(images, autolink, tmp_path / "run", steps=1, log_every=0, sample_every=0)
    train(replace(options, start_from=str(start)))
    shutil.rmtree(start)
    config = tmp_path / "run" / "config.json"
    config.write_text(config.read_text().replace('"perceptual": null', '"perceptual": "squeezenet"'))
    with pytest.raises(UserError, match=r"--start-from None, but the run began with checkpoint\.safetensors"):
        train(replace(options, resume=True, steps=2))
    train(replace(options, start_from=str(start), resume=True, steps=2))
    assert json.loads(config.read_text())["perceptual"] is None


def test_networks_for_twice_the_side_keep_every_block_that_they_share(begun, tmp_path):
    was, grown = reached(begun[2]), go_on(begun, begun[2], tmp_path / "grown", image_size=64)
    same = [name for name in was if name.startswith("module/generator/") and "to_image" not in name]
    assert (
        all(torch.equal(grown[name], was[name]) for name in same) and "module/generator/blocks.2.first.weight" in grown
    )
    # The discriminator counts its blocks from the finest on: what was block 0 is block 1.
    for part in ("conv.weight", "conv_down.weight", "shortcut.weight"):
        assert torch.equal(grown[f"module/discriminator/blocks.1.{part}"], was[f"module/discriminator/blocks.0.{part}"])
    assert torch.equal(grown["module/discriminator/head.weight"], was["module/discriminator/head.weight"])
    assert grown["module/ema/n_averaged"] == 1  # an average of new networks begins anew


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"width": 0.2}, "another --width"),
        ({"width": 0.2, "image_size": 64}, "another --width"),
        ({"image_size": 16}, "larger than --image-size"),
    ],
)
def test_networks_that_do_not_fit_are_named_before_an_autolink_is_trained(begun, tmp_path, monkeypatch, changes, said):
    monkeypatch.setattr("autolink_apps.gan.train.autolink_for", lambda *_, **__: pytest.fail("one is trained"))
    with pytest.raises(UserError, match=said):
        go_on(begun, begun[2], tmp_path / "other", **changes)


def test_a_start_that_is_not_there_or_holds_something_else_is_named(begun, tmp_path):
    with pytest.raises(UserError, match="neither a run folder"):
        go_on(begun, "nowhere", tmp_path / "other")
    with pytest.raises(UserError, match="holds no generator"):
        go_on(begun, begun[2] / "model.safetensors", tmp_path / "another")
