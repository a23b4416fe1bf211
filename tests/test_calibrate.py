"""Landmarks from keypoints: the fit against naive refits, and the command on labelled folders of two layouts."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from autolink import cli
from autolink.commands.calibrate import STRENGTHS, Calibration, Options, calibrate, fingerprint, fit
from autolink.data import open_data
from autolink.errors import UserError
from autolink.model import AutoLink, AutoLinkConfig, load
from autolink.weights import write_model


def naive_errors(keypoints: Tensor, landmarks: Tensor, units: list[str], strength: float) -> Tensor:
    """Every unit is left out in turn and the map fitted anew, a landmark at a time; no shared algebra with `fit`."""
    errors = torch.full(landmarks.shape[:2], torch.nan, dtype=torch.float64)
    for unit in set(units):
        for number in range(landmarks.shape[1]):
            target = landmarks[:, number].double()
            known = ~target.isnan().any(1)
            out = torch.tensor([u == unit for u in units]) & known
            kept = torch.tensor([u != unit for u in units]) & known
            if not out.any():
                continue
            x, y = keypoints.flatten(1).double()[kept], target[kept]
            mean_x, mean_y = x.mean(0), y.mean(0)
            rows = torch.cat([x - mean_x, strength**0.5 * torch.eye(x.shape[1], dtype=x.dtype)])
            slope = torch.linalg.lstsq(rows, torch.cat([y - mean_y, y.new_zeros(x.shape[1], 2)])).solution
            predicted = (keypoints.flatten(1).double()[out] - mean_x) @ slope + mean_y
            errors[out, number] = (predicted - target[out]).norm(dim=1) / 2
    return errors


@pytest.fixture
def some() -> tuple[Tensor, Tensor, list[str]]:
    """14 images of 9 clips, 3 keypoints; 4 landmarks, linear in them but for noise, some unlabelled."""
    keypoints = torch.randn(14, 3, 2) * 0.3
    landmarks = (keypoints.flatten(1) @ torch.randn(6, 8) + 0.1 * torch.randn(14, 8)).unflatten(1, (4, 2))
    landmarks[[0, 5], 1] = torch.nan
    landmarks[3, 2] = torch.nan
    return keypoints, landmarks, [str(i // 2) if i < 10 else f"single{i}" for i in range(14)]


def test_left_out_errors_are_those_of_refitting_without_the_unit(some: tuple[Tensor, Tensor, list[str]]) -> None:
    fitted = fit(*some)
    torch.testing.assert_close(fitted.errors, naive_errors(*some, fitted.strength), equal_nan=True, atol=1e-8, rtol=0)
    nothing = naive_errors(some[0][:, :0], some[1], some[2], 0.0)
    torch.testing.assert_close(fitted.mean_errors, nothing, equal_nan=True, atol=1e-8, rtol=0)


def test_the_strength_is_the_best_of_those_tried(some: tuple[Tensor, Tensor, list[str]]) -> None:
    errors = [naive_errors(*some, strength).nanmean() for strength in STRENGTHS.tolist()]
    assert fit(*some).strength == STRENGTHS[int(torch.stack(errors).argmin())]


def test_a_linear_relation_is_found_and_needs_few_images() -> None:
    keypoints = torch.randn(12, 4, 2) * 0.3
    truth = torch.randn(8, 4)
    fitted = fit(keypoints, (keypoints.flatten(1) @ truth + 0.2).unflatten(1, (2, 2)), [str(i) for i in range(12)])
    assert fitted.errors.mean() < 0.01 * fitted.mean_errors.mean()
    new = torch.randn(5, 4, 2) * 0.3
    calibration = Calibration(fitted.coefficients.float(), ("a", "b"))
    found = calibration(new, torch.ones(5, 4)).xy.flatten(1)
    torch.testing.assert_close(found, new.flatten(1) @ truth + 0.2, atol=0.02, rtol=0)


def test_a_landmark_is_as_certain_as_the_keypoints_that_move_it() -> None:
    coefficients = torch.zeros(2 * 3 + 1, 4)
    coefficients[2, 0] = coefficients[3, 1] = 1  # the first landmark is the second keypoint
    coefficients[0, 2], coefficients[4, 3] = 3, 1  # the other follows the first and the third, 3 to 1
    confidence = torch.tensor([[0.2, 0.5, 1.0]])
    found = Calibration(coefficients, ("a", "b"))(torch.zeros(1, 3, 2), confidence)
    assert found.confidence[0].tolist() == pytest.approx([0.5, (3 * 0.2 + 1.0) / 4])


def test_landmarks_in_an_image_that_is_not_square() -> None:
    identity = torch.cat([torch.eye(4), torch.zeros(1, 4)])
    pixels = torch.tensor([[10.0, 20.0], [130.0, 77.5]])
    found = Calibration(identity, ("a", "b")).in_image(pixels, torch.ones(2), 80, 141)
    torch.testing.assert_close(found.xy, pixels)
    right = identity.clone()
    right[4, 0] = 1  # half the side of the square
    moved = Calibration(right, ("a", "b")).in_image(pixels, torch.ones(2), 80, 141).xy
    torch.testing.assert_close(moved, pixels + torch.tensor([[40.0, 0.0], [0.0, 0.0]]))


@pytest.fixture
def peaked(tmp_path: Path) -> Path:
    """A small untrained model whose keypoints differ from image to image."""
    model = AutoLink(AutoLinkConfig(keypoints=4, image_size=64, width=0.125)).eval()
    with torch.no_grad():
        model.detector.heatmaps.weight.mul_(100)
    return model.save_pretrained(tmp_path / "model" / "model.safetensors", {})


def picture(path: Path, seed: int, width: int = 64) -> None:
    small = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(small).resize((width, 64)).save(path)


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """A folder of 9 pictures with two labels each in the csv of this package, one of them without."""
    rows = ["file,width,height,x0,y0,x1,y1"]
    for i in range(9):
        picture(tmp_path / "labelled" / f"{'abcdefghi'[i]}.png", i, 64 if i % 2 else 90)
        rows.append(f"{'abcdefghi'[i]}.png,{64 if i % 2 else 90},64,{20 + i},{30 - i},,")
    rows[3:8] = [row[:-1] + f"{40 - 2 * n},{10 + n}" for n, row in enumerate(rows[3:8])]
    (tmp_path / "labelled" / "landmarks.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "labelled"


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["autolink", *map(str, arguments)])
    cli.main()


def test_the_command_fits_to_all_labelled_images_and_detect_uses_the_file(
    peaked: Path, labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, "calibrate", "--model", peaked.parent, "--data", labelled)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[1:4]] == [["landmark0", "9"], ["landmark1", "5"], ["all,", "mean"]]
    file = peaked.parent / "calibration.safetensors"
    assert str(file) in lines[-1]

    out = tmp_path / "out"
    run(monkeypatch, "detect", "--model", peaked.parent, "--calibration", file, "--output", out, labelled)
    rows = list(csv.DictReader((out / "keypoints.csv").open()))
    arrays = np.load(out / "keypoints.npz")
    assert arrays["landmarks"].shape == (9, 2, 2) and arrays["landmark_names"].tolist() == ["landmark0", "landmark1"]
    assert float(rows[4]["landmark1_y"]) == pytest.approx(arrays["landmarks"][4, 1, 1], abs=1e-3)

    # The same by hand, from the keypoints of another path through the code: the data set's squares.
    model = load(peaked)
    data = [open_data(str(labelled), 64, split) for split in ("train", "val")]
    samples = sorted((s for part in data for s in part), key=lambda sample: sample.name)
    keypoints = model.detect(torch.stack([s.image for s in samples]).float() / 255).xy
    expected = Calibration.load(file, model)(keypoints, torch.ones(9, 4)).xy
    for i, sample in enumerate(expected):
        left = 0 if i % 2 else 13
        assert np.allclose(arrays["landmarks"][i], (sample.numpy() + 1) / 2 * 64 + [left, 0], atol=0.5)


def test_a_numbered_series_is_calibrated_with_image_by_image(peaked: Path, labelled: Path) -> None:
    """A camera's names are no reason to refuse labels, and undivided data need no division."""
    table = (labelled / "landmarks.csv").read_text()
    for i, letter in enumerate("abcdefghi"):
        (labelled / f"{letter}.png").rename(labelled / f"IMG_{i:04d}.png")
        table = table.replace(f"\n{letter}.png", f"\nIMG_{i:04d}.png")
    (labelled / "landmarks.csv").write_text(table)
    _, text = calibrate(Options(model=str(peaked), data=str(labelled)))
    assert "landmark0       9" in text and "each image judged" in text


def test_names_come_from_the_csv_of_deeplabcut(peaked: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    rows = ["scorer,me,me,me,me", "bodyparts,nose,nose,tail,tail", "coords,x,y,x,y"]
    for i in range(12):
        file = f"labeled-data/clip{i}/img.png"
        picture(project / file, i)
        rows.append(f"{file},{10 + i},{50 - i},{30},{20 + i}")
    (project / "CollectedData_me.csv").write_text("\n".join(rows) + "\n")
    path, table = calibrate(Options(str(peaked), str(project), tmp_path / "c.safetensors"))
    assert Calibration.load(path, load(peaked)).names == ("nose", "tail")
    assert [line.split()[:2] for line in table.splitlines()[1:3]] == [["nose", "12"], ["tail", "12"]]


def test_mistakes_get_one_line(peaked: Path, labelled: Path, tmp_path: Path, tiny_file: Path) -> None:
    path, _ = calibrate(Options(str(peaked), str(labelled), tmp_path / "c.safetensors"))
    for wrong, said in ((labelled / "landmarks.csv", "ending in .safetensors"), (peaked, "is an input")):
        with pytest.raises(UserError, match=said):
            calibrate(Options(str(peaked), str(labelled), wrong))
    with pytest.raises(UserError, match="another model"):
        Calibration.load(path, load(tiny_file))
    with pytest.raises(UserError, match="expected a file from autolink calibrate"):
        Calibration.load(peaked, load(peaked))
    with pytest.raises(UserError, match="'calibration'"):
        load(path)
    (labelled / "landmarks.csv").write_text("file,width,height,x0,y0\na.png,90,64,3,4\nb.png,64,64,3,4\n")
    with pytest.raises(UserError, match="on 3 images or more"):
        calibrate(Options(str(peaked), str(labelled), tmp_path / "c.safetensors"))
    (labelled / "landmarks.csv").unlink()
    with pytest.raises(UserError, match="no landmarks"):
        calibrate(Options(str(peaked), str(labelled), tmp_path / "c.safetensors"))


@pytest.mark.parametrize("config", [{}, {"names": ["a"]}, {"names": 3}, {"names": ["a", "b", "c"]}])
def test_a_calibration_whose_parts_do_not_fit_is_one_line(config: dict, peaked: Path, tmp_path: Path) -> None:
    model = load(peaked)
    config = {"detector": fingerprint(model), **config}
    write_model(tmp_path / "c.safetensors", {"coefficients": torch.zeros(9, 4)}, "calibration", config, {}, False)
    with pytest.raises(UserError, match=r"c\.safetensors: coefficients and names of landmarks do not belong together"):
        Calibration.load(tmp_path / "c.safetensors", model)
