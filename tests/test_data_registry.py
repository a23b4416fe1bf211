"""Names promise: data is found where it may be, and what is missing is said in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from data_files import one_line, picture
from torch.utils.data import DataLoader

from autolink.data import Sample, list_data, open_data
from autolink.data.synthetic import SyntheticFigures
from autolink.errors import UserError, command

pytestmark = pytest.mark.usefixtures("own_data_only")


def afhq(root: Path) -> Path:
    for split in ("train", "val"):
        for kind in ("cat", "dog", "wild"):
            picture(root / split / kind / f"flickr_{kind}_000001.jpg")
            picture(root / split / kind / f"flickr_{kind}_000002.jpg")
    return root


def test_afhq_is_found_where_it_may_be(tmp_path, monkeypatch):
    afhq(tmp_path / "sets" / "afhq")
    by_root = open_data("afhq", 16, data_root=tmp_path / "sets")
    itself = open_data("afhq", 16, data_root=tmp_path / "sets" / "afhq")
    as_path = open_data(str(tmp_path / "sets" / "afhq"), 16)
    monkeypatch.setenv("AUTOLINK_DATA", str(tmp_path / "sets"))
    by_variable = open_data("afhq", 16)
    for data in (by_root, itself, as_path, by_variable):
        assert data.name == "afhq" and len(data) == 6 and set(data.clips) == {""}
    assert len(open_data("afhq", 16, "val")) == 6
    assert any("afhq" in line and "found" in line for line in list_data())


def test_missing_afhq_says_where_to_get_it(tmp_path):
    (tmp_path / "afhq").mkdir()  # a folder of that name without the layout
    with pytest.raises(UserError) as error:
        open_data("afhq", 16, data_root=tmp_path)
    one_line(error, "clovaai/stargan-v2", "download.sh afhq-dataset", "train/cat", str(tmp_path / "afhq"))
    assert any("afhq" in line and "missing" in line for line in list_data())


def test_names_are_folders_of_the_data_root(tmp_path, monkeypatch):
    picture(tmp_path / "sets" / "mine" / "a.png")
    picture(tmp_path / "sets" / "mine" / "b.png")
    monkeypatch.setenv("AUTOLINK_DATA", str(tmp_path / "sets"))
    (tmp_path / "here" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    assert len(open_data("mine", 16)) == 1
    with pytest.raises(UserError, match="is empty"):
        open_data("./mine", 16)  # a path is a path
    with pytest.raises(UserError) as error:
        open_data("yours", 16)
    one_line(error, "'yours'", "synthetic", "afhq", "mine")
    assert any(line.startswith("mine ") and str(tmp_path / "sets" / "mine") in line for line in list_data())


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda path: None, "no such file or folder"),
        (lambda path: path.mkdir(), "is empty"),
        (lambda path: (path.mkdir(), (path / "a.txt").write_text("x")), "a.txt"),
        (lambda path: path.write_text("x"), "is text; expected a video"),
        (lambda path: (path.mkdir(), (path / "a.png").write_text("x"), picture(path / "b/b.png")), None),
        (lambda path: (path.mkdir(), [(path / f"{i}.png").write_text("x") for i in "ab"]), "can be read"),
        (lambda path: (path.mkdir(), np.save(path / "a.npy", np.zeros(3))), "a.npy"),
    ],
    ids=["missing", "empty", "text files", "file", "one of two", "only broken images", "arrays"],
)
def test_errors_are_one_line(tmp_path, make, expected):
    path = tmp_path / "data"
    make(path)
    if expected is None:
        assert open_data(str(path), 16).files == ["b/b.png"]
        return
    with pytest.raises(UserError) as error:
        open_data(str(path), 16)
    one_line(error, str(path), expected)


def test_unknown_split_and_root_are_one_line(tmp_path):
    picture(tmp_path / "a.png")
    for call, expected in [
        (lambda: open_data(str(tmp_path), 16, "valid"), "split 'valid' is unknown"),
        (lambda: open_data("synthetic", 16, "valid"), "split 'valid' is unknown"),
        (lambda: open_data("x", 16, data_root=tmp_path / "no"), "--data-root"),
        (lambda: open_data("", 16), "known names"),
        (lambda: open_data(str(tmp_path), 16, "val"), "too few to hold any out"),
    ]:
        with pytest.raises(UserError) as error:
            call()
        one_line(error, expected)


def test_default_collate_and_workers(tmp_path):
    for i in range(5):
        picture(tmp_path / f"f{i}.png", (10 + i, 12))
    for data in (open_data(str(tmp_path), 16), SyntheticFigures(16, length=4)):
        batch = next(iter(DataLoader(data, batch_size=3, num_workers=2)))
        assert isinstance(batch, Sample)
        assert batch.image.shape == (3, 3, 16, 16) and batch.landmarks.shape == (3, data.landmark_count, 2)
        assert list(batch.name) == [data[i].name for i in range(3)] and list(batch.clip) == data.clips[:3]


def test_an_error_in_a_worker_stays_one_line(tmp_path, capsys):
    for i in range(3):
        picture(tmp_path / f"{i}.png")
    data = open_data(str(tmp_path), 16)
    for file in data.files:
        (tmp_path / file).write_text("overwritten")
    with pytest.raises(SystemExit):
        command(lambda: next(iter(DataLoader(data, num_workers=1))))()
    printed = capsys.readouterr().err
    assert printed.startswith(f"error: {tmp_path / data.files[0]}: cannot be read as a picture")
    assert printed.count("\n") == 1
