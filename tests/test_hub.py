"""Models of all kinds go to the hub with a card; the hub is stubbed."""

from __future__ import annotations

import sys
from pathlib import Path

import huggingface_hub
import pytest

from autolink import UserError, hub
from autolink.train import Options, train
from autolink.weights import read_header, resolve, write_safetensors

SAYS = {
    "faces": ("16 keypoints at 128×128", "autolink detect --model someone/it", "autolink.load"),
    "faces-gan": ("10 keypoints and its appearance", "autolink-sample --model someone/it", "ConditionalGAN"),
    "faces-transfer": ("128×128 pixels", "autolink-transfer --model someone/it", "PoseTransfer"),
    "features": ("perceptual features", "autolink info someone/it", "BuiltinFeatures"),
}


class Hub:
    """What takes the place of the hub's API."""

    seen: dict[str, object]

    def create_repo(self, repository: str, exist_ok: bool) -> None:
        assert exist_ok
        Hub.seen = {"created": repository}

    def upload_folder(self, repo_id: str, folder_path: str, commit_message: str) -> None:
        files = {path.name: path for path in Path(folder_path).iterdir()}
        card, task = files["README.md"].read_text(), read_header(files["model.safetensors"])["task"]
        Hub.seen |= {"pushed": repo_id, "files": set(files), "card": card, "task": task}


@pytest.fixture(autouse=True)
def stubbed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "HfApi", Hub)
    monkeypatch.setattr(hub, "get_token", lambda: "hf_token")


@pytest.mark.parametrize("name", SAYS)
def test_a_model_of_any_kind_is_pushed_with_a_card(name: str, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["push", name, "someone/it"])
    hub.main()
    seen = Hub.seen
    assert seen["created"] == seen["pushed"] == "someone/it" and seen["files"] == {"model.safetensors", "README.md"}
    assert seen["task"] == read_header(resolve(name))["task"]
    text = str(seen["card"])
    assert huggingface_hub.ModelCard(text).data.library_name == "autolink"
    assert all(part in text for part in SAYS[name]) and "images" in text and "{" not in text.split("```")[0]
    assert "pushed to someone/it" in capsys.readouterr().out


def test_a_training_pushes_what_it_has_learned_and_measured(tmp_path: Path) -> None:
    size = dict(batch_size=2, image_size=32, width=0.125, workers=0, detector="paper", perceptual="pyramid")
    run = Options(data="synthetic", output=tmp_path / "run", steps=1, keypoints=3, log_with=("none",), **size)
    train(Options(**{**vars(run), "push_to_hub": "someone/it"}))
    assert Hub.seen["task"] == "autolink" and "| held_out_loss |" in str(Hub.seen["card"])


def test_another_file_and_a_missing_token_are_named_before_the_hub_is_asked(tmp_path: Path, monkeypatch) -> None:
    other = tmp_path / "other.safetensors"
    write_safetensors(other, {}, {"task": "motion", "config": "{}", "metadata": "{}"})
    Hub.seen = {}
    with pytest.raises(UserError, match=r"other.safetensors"):
        hub.card("someone/it", other, {})
    monkeypatch.setattr(hub, "get_token", lambda: None)
    with pytest.raises(UserError, match=r"--push-to-hub someone/it: no token"):
        train(Options(data="synthetic", output=tmp_path / "run", push_to_hub="someone/it"))
    assert not Hub.seen and not (tmp_path / "run").exists()
