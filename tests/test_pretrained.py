"""Every shipped model: its checksum, its size, its record, and what it answers to a fixed input.

`python tests/test_pretrained.py` stores the answers anew; do that when a model is added or replaced.
"""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from autolink import AutoLink, UserError, weights
from autolink.data import open_data
from autolink.features import BuiltinFeatures
from autolink.weights import manifest, pretrained_folder, read_tensors, resolve
from autolink_apps.gan.generator import NOISE_SIZE, ConditionalGAN
from autolink_apps.pose_transfer.model import PoseTransfer
from experiments import ship

ANSWERS = Path(__file__).with_name("pretrained_answers.json")


def pictures(size: int) -> torch.Tensor:
    """Two synthetic figures (2, 3, size, size) in [0, 1]: the same on every machine."""
    data = open_data("synthetic", size, "val")
    return torch.stack([data[index].image for index in (0, 9)]) / 255


def answer(name: str) -> list[float]:
    """A few numbers that depend on every weight of a shipped model."""
    task = manifest()[name]["task"]
    if task == "autolink":
        model = AutoLink.from_pretrained(name)
        found = model.detect(pictures(model.config.image_size))
        made = torch.cat([found.xy.flatten()[:8], model.edge_weights.topk(3).values])
    elif task == "gan":
        gan = ConditionalGAN.from_pretrained(name)
        z = torch.linspace(-2, 2, 2 * NOISE_SIZE).sin().view(2, NOISE_SIZE)
        made = gan.sample(gan.poses[:2], z).mean((2, 3)).flatten()
    elif task == "features":
        features = BuiltinFeatures.from_pretrained(name)
        with torch.no_grad():
            made = torch.cat([stage.mean((1, 2, 3)) for stage in features(pictures(64) * 2 - 1)])
    else:
        transfer = PoseTransfer.from_pretrained(name)
        images = pictures(transfer.config.image_size)
        poses = transfer.autolink.detect(images).xy
        with torch.no_grad():
            made = transfer.transfer(images, poses, poses.flip(0), keep_still=False).mean((2, 3)).flatten()
    return [round(value, 4) for value in made.tolist()]


@pytest.mark.parametrize("name", manifest())
def test_shipped_model_is_the_recorded_one_and_answers_as_it_did(name):
    assert resolve(name).is_file()  # checks the sha256
    assert answer(name) == pytest.approx(json.loads(ANSWERS.read_text())[name], abs=0.02)


def test_everything_shipped_is_recorded_and_small():
    files = {path.name: path.stat().st_size for path in pretrained_folder().glob("*.safetensors")}
    assert set(files) == {entry["file"] for entry in manifest().values()}
    assert all(size <= 20e6 for size in files.values()) and sum(files.values()) <= 80e6
    cards = (pretrained_folder() / "README.md").read_text()
    for name, entry in manifest().items():
        assert {"sha256", "task", "data", "terms", "steps", "options", "commit", "hardware", "metric"} <= set(entry)
        assert f"`{name}`" in cards


@pytest.mark.parametrize("name", [name for name, entry in manifest().items() if entry["task"] != "features"])
def test_shipped_model_knows_poses_of_its_training(name):
    tensors = read_tensors(resolve(name))
    bank = next((values for key, values in tensors.items() if key.removeprefix("autolink.") == "poses"), None)
    assert bank is not None, f"{name} has no bank of poses; ship it with --poses DATA"
    assert bank.shape[0] >= 64 and bank.std(0).mean() > 0.01


def test_adding_a_model_records_it_and_refuses_a_large_one(tiny, tmp_path, monkeypatch):
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    (shelf / "manifest.json").write_text("{}")
    monkeypatch.setattr(weights, "pretrained_folder", lambda: shelf)
    monkeypatch.setattr(ship, "pretrained_folder", lambda: shelf)
    file = tiny.save_pretrained(tmp_path / "run", {"data": "mine", "steps": 7, "options": {"seed": 1}})
    options = ship.Options("mine", file, terms="free", hardware="CPU", metric='{"error": 1.5}')
    entry = ship.ship(options)
    assert entry["steps"] == 7 and entry["metric"] == {"error": 1.5} and weights.manifest() == {"mine": entry}
    images = pictures(64)
    assert torch.allclose(AutoLink.from_pretrained("mine").detect(images).xy, tiny.detect(images).xy, atol=1e-2)
    assert len(AutoLink.from_pretrained("mine").poses) == 0
    ship.ship(replace(options, poses="synthetic"))
    assert AutoLink.from_pretrained("mine").poses.shape == (256, 4, 2)
    monkeypatch.setattr(ship, "LIMIT", 1000)
    with pytest.raises(UserError, match="smaller --width"):
        ship.ship(options)
    assert (shelf / "mine.safetensors").is_file() and len(list(shelf.iterdir())) == 2  # the one of before


if __name__ == "__main__":
    ANSWERS.write_text(json.dumps({name: answer(name) for name in manifest()}, indent=2) + "\n")


@pytest.mark.parametrize("name", manifest())
def test_no_record_names_a_place_on_the_machine_that_trained(name):
    told = json.dumps([manifest()[name], weights.read_header(resolve(name))["metadata"]])
    assert not re.search(r'"(/|[A-Z]:)', told)
