"""Motion templates: what is saved comes back exactly, and nothing else is taken for one."""

from __future__ import annotations

import json
import sys
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from data_files import one_line

from autolink import AutoLink, UserError
from autolink.cli import main
from autolink.weights import read_tensors, write_model
from autolink_apps.pose_transfer.saved_motion import Motion, fingerprint, load_motion, save_motion

TIMES = [Fraction(k * 1001, 30000) for k in range(6)] + [Fraction(1), Fraction(10**15 + 1, 90000)]


@pytest.fixture
def motion() -> Motion:
    return Motion(
        torch.rand(8, 5, 2) * 2 - 1, torch.rand(8, 5), TIMES, Fraction(30000, 1001), (640, 360), "0123456789abcdef"
    )


def test_motion_comes_back_to_the_last_bit(motion: Motion, tmp_path: Path) -> None:
    loaded = load_motion(save_motion(tmp_path / "new" / "walk.safetensors", motion))
    assert torch.equal(loaded.xy, motion.xy) and torch.equal(loaded.confidence, motion.confidence)
    assert loaded[2:] == motion[2:]  # fractions, which floats would have rounded
    assert float(TIMES[-1]) != TIMES[-1] and isinstance(loaded.size, tuple)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["walk.safetensors"]


def test_motion_says_what_it_is(
    motion: Motion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save_motion(tmp_path / "walk.safetensors", motion._replace(xy=motion.xy.half()))
    monkeypatch.setattr(sys, "argv", ["autolink", "info", str(path)])
    main()
    said = json.loads(capsys.readouterr().out)
    assert said["task"] == "motion" and said["config"]["frame_rate"] == [30000, 1001]
    assert said["metadata"]["frames"] == 8 and said["metadata"]["keypoints"] == 5
    assert load_motion(path).xy.dtype == torch.float32


def test_fingerprint_tells_models_apart(tiny: AutoLink, tiny_file: Path) -> None:
    assert fingerprint(AutoLink.from_pretrained(tiny_file)) == fingerprint(tiny)
    other = AutoLink.from_pretrained(tiny_file)
    next(other.detector.parameters()).data[0] += 1e-3
    assert fingerprint(other) != fingerprint(tiny)


def test_other_names_are_refused(motion: Motion, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        save_motion(tmp_path / "walk.npz", motion)
    one_line(caught, "walk.npz", ".safetensors")
    assert not list(tmp_path.iterdir())


def test_truncated_missing_and_foreign_files_are_refused(motion: Motion, tiny_file: Path, tmp_path: Path) -> None:
    whole = save_motion(tmp_path / "walk.safetensors", motion).read_bytes()
    files = {
        "short.safetensors": whole[:-20],
        "shorter.safetensors": whole[:100],
        "empty.safetensors": b"",
        "text.safetensors": b"not a motion at all",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    for path in [*(tmp_path / name for name in files), tmp_path / "nowhere.safetensors", tmp_path]:
        with pytest.raises(UserError) as caught:
            load_motion(path)
        one_line(caught, str(path))
    with pytest.raises(UserError) as caught:
        load_motion(tiny_file)
    one_line(caught, str(tiny_file), "autolink", "motion")


WRONG = {
    "no times": lambda tensors: tensors.pop("times"),
    "times of other frames": lambda tensors: tensors.update(times=tensors["times"][1:]),
    "times that do not rise": lambda tensors: tensors.update(times=tensors["times"].flip(0)),
    "a division by zero": lambda tensors: tensors["times"].zero_(),
    "times that are no fractions": lambda tensors: tensors.update(times=torch.arange(8)[:, None]),
    "floats as times": lambda tensors: tensors.update(times=tensors["times"].double()),
    "keypoints of other frames": lambda tensors: tensors.update(xy=tensors["xy"][1:]),
    "other keypoints": lambda tensors: tensors.update(confidence=tensors["confidence"][:, 1:]),
    "something infinite": lambda tensors: tensors["xy"].fill_(torch.inf),
    "nothing": lambda tensors: tensors.update({name: tensor[:0] for name, tensor in tensors.items()}),
}


@pytest.mark.parametrize("what", WRONG)
def test_parts_that_do_not_belong_together_are_refused(what: str, motion: Motion, tmp_path: Path) -> None:
    path = save_motion(tmp_path / "walk.safetensors", motion)
    tensors = read_tensors(path)
    WRONG[what](tensors)
    config = {"frame_rate": [25, 1], "size": [640, 360], "detector": "0123"}
    write_model(path, tensors, "motion", config, {}, half=False)
    with pytest.raises(UserError) as caught:
        load_motion(path)
    one_line(caught, str(path), "make the file anew" if "infinite" in what else "save it again")


@pytest.mark.parametrize("config", [{}, {"frame_rate": [25, 0], "size": [1, 1], "detector": ""}])
def test_headers_without_the_facts_are_refused(config: dict, motion: Motion, tmp_path: Path) -> None:
    path = save_motion(tmp_path / "walk.safetensors", motion)
    write_model(path, read_tensors(path), "motion", config, {}, half=False)
    with pytest.raises(UserError) as caught:
        load_motion(path)
    one_line(caught, str(path), "save it again")
