"""DeepLabCut's csv promises: its landmarks are read in every form it is written in, and missing ones are NaN."""

from __future__ import annotations

import csv
import logging
from pathlib import Path

import numpy as np
import pytest
from data_files import dots, find_dot, in_both, one_line

from autolink.commands.evaluate import Options, evaluate
from autolink.data import list_data, open_data
from autolink.errors import UserError

pytestmark = pytest.mark.usefixtures("own_data_only")

PARTS = ("nose", "tail base", "paw, left")
POINTS = {0: (31.25, 20.5), 1: (60.0, 12.0), 2: (45.5, 40.0)}  # in images of 90 x 50
UNLABELLED = 2  # in odd images


def project(
    root: Path, count: int = 4, table: str = "CollectedData.csv", video: str = "", style: str = "plain"
) -> Path:
    """A project of `count` images in one of the styles that DeepLabCut and Lightning Pose write."""
    folder = "/".join(["labeled-data", *([video] if video else [])])
    coords = ["x", "y", "likelihood"] if style == "likelihood" else ["x", "y"]
    lead = ["", ""] if style == "three columns" else []
    rows = [
        ["scorer", *lead, *["somebody"] * len(coords) * len(PARTS)],
        ["bodyparts", *lead, *[part for part in PARTS for _ in coords]],
        ["coords", *lead, *coords * len(PARTS)],
    ]
    for i in range(count):
        file = f"{folder}/img{i:03}.png"
        seen = {p: at for p, at in POINTS.items() if not (i % 2 and p == UNLABELLED)}
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        dots(root / file.replace(".png", ".jpg"), (90, 50), seen, 3).rename(root / file)
        fields: list[object] = []
        for p in range(len(PARTS)):
            fields += [*seen.get(p, ("", "")), *([0.9] if style == "likelihood" else [])]
        name = (
            file.split("/") if style == "three columns" else [file.replace("/", "\\") if style == "windows" else file]
        )
        rows.append([*name, *fields])
    with open(root / table, "w", newline="") as opened:
        csv.writer(opened).writerows(rows)
    return root


@pytest.mark.parametrize("style", ["plain", "likelihood", "three columns", "windows"])
def test_landmarks_are_on_their_dots(tmp_path, style):
    project(tmp_path, video="clip", style=style)
    samples = in_both(tmp_path, 96)
    assert len(samples) == 4
    for name, sample in samples.items():
        for p, landmark in enumerate(sample.landmarks.numpy()):
            if p == UNLABELLED and int(name[-7:-4]) % 2:
                assert np.isnan(landmark).all()
            else:
                # The centred square of 90 x 50 begins at x = 20.
                expected = (np.array(POINTS[p]) - (20, 0)) / 50 * 2 - 1
                np.testing.assert_allclose(landmark, expected, atol=1e-5)
                assert np.abs(find_dot(sample.image, p) - landmark).max() < 0.04


def test_tables_of_several_videos_are_one_set_held_out_by_video(tmp_path):
    for i in range(10):
        project(tmp_path, 3, f"labeled-data/video{i}/CollectedData_me.csv", f"video{i}") if i else project(
            tmp_path, 3, "first.csv", "video0"
        ).joinpath("first.csv").rename(tmp_path / "labeled-data" / "video0" / "CollectedData_me.csv")
    train, val = open_data(str(tmp_path), 16), open_data(str(tmp_path), 16, "val")
    assert (len(train), len(val)) == (27, 3)
    assert len(set(train.clips)) == 9 and not set(train.clips) & set(val.clips)
    assert train.landmark_count == 3 and open_data(str(tmp_path), 16, "fit").files == train.files


def test_unlabelled_images_do_not_belong(tmp_path, caplog):
    project(tmp_path)
    dots(tmp_path / "labeled-data" / "other.jpg", (90, 50), {}, 3)
    (tmp_path / "labeled-data" / "img001.png").unlink()
    with caplog.at_level(logging.WARNING):
        assert sorted(in_both(tmp_path)) == [f"labeled-data/img{i:03}.png" for i in (0, 2, 3)]
    assert any("1 of its labelled images are not there: labeled-data/img001.png" in m for m in caplog.messages)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda text: "", "begin with nothing"),
        (lambda text: "file,x0,y0\na.png,1,2\n", "begin with file, a.png; expected the rows 'scorer'"),
        (lambda text: text.replace("bodyparts", "individuals,a\nbodyparts"), "scorer, individuals, bodyparts, coords"),
        (lambda text: text.replace("coords,x,y", "coords,y,x"), "row 'coords' must give x and y"),
        (lambda text: text.replace("31.25", "left"), "row 4: could not convert"),
        (lambda text: text + "labeled-data/img000.png,1,2\n", "row 8 has 3 fields; expected 7"),
        (lambda text: "\n".join(text.splitlines()[:3]), "no rows"),
        (lambda text: text.replace("labeled-data/", "elsewhere/"), "none of the 4 labelled images is there"),
    ],
)
def test_wrong_tables_are_one_line(tmp_path, change, expected):
    table = project(tmp_path) / "CollectedData.csv"
    table.write_text(change(table.read_text()))
    with pytest.raises(UserError) as error:
        open_data(str(tmp_path), 16)
    one_line(error, expected)


def test_tables_that_disagree_are_one_line(tmp_path):
    project(tmp_path, table="CollectedData_a.csv")
    table = project(tmp_path, table="CollectedData_b.csv") / "CollectedData_b.csv"
    table.write_text(table.read_text().replace("nose", "snout"))
    with pytest.raises(UserError) as error:
        open_data(str(tmp_path), 16)
    one_line(error, "CollectedData_b.csv", "'snout'")


def test_a_project_is_listed_and_evaluated(tmp_path, tiny_file, monkeypatch):
    project(tmp_path / "mouse", 30)
    monkeypatch.setenv("AUTOLINK_DATA", str(tmp_path))
    assert any(line.startswith("mouse ") and "images with landmarks" in line for line in list_data())
    result = evaluate(Options(model=str(tiny_file), data="mouse", device="cpu"))
    assert (result["train_images"], result["test_images"], result["landmarks"]) == (27, 3, 3)


def test_real_mouse(real_data, tiny_file):
    train, val = open_data("mirror_mouse", 64), open_data("mirror_mouse", 64, "val")
    assert (len(train), len(val), train.landmark_count) == (81, 9, 17)
    samples = {sample.name: sample for data in (train, val) for sample in data}
    first = samples["labeled-data/img01.png"].landmarks
    # Frames are 396 x 406, so the square begins at y = 5; the tail's middle is unlabelled in the first frame.
    np.testing.assert_allclose(first[0], [77.25 / 396 * 2 - 1, (36.25 - 5) / 396 * 2 - 1], atol=1e-5)
    assert first.isnan().all(1).nonzero().flatten().tolist() == [4, 5]
    result = evaluate(Options(model=str(tiny_file), data="mirror_mouse", device="cpu"))
    assert (result["test_images"], result["landmarks"]) == (9, 17)
