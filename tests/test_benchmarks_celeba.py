"""CelebA promises: MAFL's split, large faces only, and landmarks that stay on what they mark in images of any shape."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from data_files import dots, find_dot, one_line, picture
from PIL import Image

from autolink.data import open_data
from autolink.data.benchmarks import celeba
from autolink.errors import UserError

pytestmark = pytest.mark.usefixtures("own_data_only")

TRAINING, VALIDATION, TESTING = range(1, 9), range(9, 11), range(11, 15)
MAFL_TRAINING, MAFL_TESTING = (2, 9, 11), (3, 14, 12)
SIZES = [(409, 687), (300, 200), (200, 300), (178, 218), (640, 480), (100, 333), (250, 250)]
SMALL = (5, 9, 12)  # faces that cover 29 % of their image in the wild
HEADER = "lefteye_x lefteye_y righteye_x righteye_y nose_x nose_y leftmouth_x leftmouth_y rightmouth_x rightmouth_y"


def name(number: int) -> str:
    return f"{number:06}.jpg"


def write_list(path: Path, header: str, rows: dict[int, list[int]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{name(number)}  {'  '.join(map(str, row))}" for number, row in rows.items()]
    path.write_text("\n".join([str(len(rows)), header, *lines]) + "\n")


def mini_celeba(root: Path) -> Path:
    """Fourteen pictures in CelebA's layout, each with a dot at each landmark."""
    rng = np.random.default_rng(0)
    numbers = [*TRAINING, *VALIDATION, *TESTING]
    for folder, landmarks in (("img_align_celeba", "align_celeba"), ("img_celeba", "celeba")):
        rows, boxes = {}, {}
        for number in numbers:
            width, height = (178, 218) if "align" in folder else SIZES[number % len(SIZES)]
            side = min(width, height)
            # In the centred square, as in the true data; apart from each other, so that no dot covers another.
            cells = rng.permutation([(0.2, 0.2), (0.8, 0.2), (0.5, 0.5), (0.2, 0.8), (0.8, 0.8)])
            points = np.rint((cells + rng.uniform(-0.1, 0.1, (5, 2)) - 0.5) * side + (width / 2, height / 2)).astype(
                int
            )
            dots(root / "Img" / folder / name(number), (width, height), dict(enumerate(points.tolist())), 0.06 * side)
            rows[number] = points.ravel().tolist()
            share = 0.29 if number in SMALL else 0.31
            boxes[number] = [3, 4, round(width * share), height]
        write_list(root / "Anno" / f"list_landmarks_{landmarks}.txt", HEADER, rows)
    write_list(root / "Anno" / "list_bbox_celeba.txt", "image_id x_1 y_1 width height", boxes)
    parts = {**dict.fromkeys(TRAINING, 0), **dict.fromkeys(VALIDATION, 1), **dict.fromkeys(TESTING, 2)}
    (root / "Eval").mkdir()
    (root / "Eval" / "list_eval_partition.txt").write_text("".join(f"{name(n)} {p}\n" for n, p in parts.items()))
    (root / "MAFL").mkdir()
    for file, chosen in (("training", MAFL_TRAINING), ("testing", MAFL_TESTING)):
        (root / "MAFL" / f"{file}.txt").write_text("".join(f"{name(n)}\n" for n in chosen))
    return root


@pytest.mark.parametrize(
    ("data", "train", "fit", "test"),
    [
        ("celeba-aligned", [1, 2, 4, 5, 6, 7, 8], [2, 9, 11], [3, 12, 14]),
        ("celeba-wild", [1, 2, 4, 6, 7, 8], [2, 11], [3, 14]),
    ],
)
def test_splits_are_mafls(tmp_path, data, train, fit, test):
    """Trained on: the training part without MAFL's test images. Fitted and judged on: MAFL."""
    mini_celeba(tmp_path / "celeba")
    for split, expected in (("train", train), ("fit", fit), ("val", test), ("test", test)):
        opened = open_data(data, 16, split, tmp_path)
        assert opened.name == data and opened.landmark_count == 5
        assert [sample.name for sample in opened] == [name(number) for number in expected]


@pytest.mark.parametrize("data", ["celeba-aligned", "celeba-wild"])
def test_landmarks_are_on_their_dots(tmp_path, data):
    mini_celeba(tmp_path / "celeba")
    for sample in open_data(data, 96, "train", tmp_path):
        for number, landmark in enumerate(sample.landmarks.numpy()):
            assert np.abs(find_dot(sample.image, number) - landmark).max() < 0.02, (sample.name, number)


def test_wild_images_are_shown_whole(tmp_path):
    """What lies in a corner, outside of the centred square, is still seen: images are stretched, as in the paper."""
    root = mini_celeba(tmp_path / "celeba")
    picture(root / "Img" / "img_celeba" / name(1), (300, 200), (0, 0, 0))
    dots(root / "Img" / "img_celeba" / name(1), (300, 200), {0: (15, 10)}, 8)
    write_list(root / "Anno" / "list_landmarks_celeba.txt", HEADER, {n: [15, 10] * 5 for n in range(1, 15)})
    sample = open_data("celeba-wild", 96, "train", tmp_path)[0]
    np.testing.assert_allclose(find_dot(sample.image, 0), [-0.9, -0.9], atol=0.02)
    np.testing.assert_allclose(sample.landmarks[0], [-0.9, -0.9], atol=1e-6)


def test_the_layout_of_torchvision_opens_too(tmp_path):
    root = mini_celeba(tmp_path / "celeba")
    expected = [sample.landmarks for sample in open_data("celeba-aligned", 16, "fit", tmp_path)]
    for folder in ("Img", "Anno", "Eval"):
        for path in (root / folder).iterdir():
            path.rename(root / path.name)
        (root / folder).rmdir()
    found = [sample.landmarks for sample in open_data("celeba-aligned", 16, "fit", root)]
    assert len(found) == 3 and all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_sizes_of_images_are_read_once(tmp_path, monkeypatch):
    mini_celeba(tmp_path / "celeba")
    first = open_data("celeba-wild", 16, "train", tmp_path).files

    def read(*_):
        raise AssertionError("read again")

    with monkeypatch.context() as patch:
        patch.setattr("autolink.data.cache.shown_size", read)
        assert open_data("celeba-wild", 16, "train", tmp_path).files == first
    image = tmp_path / "celeba" / "Img" / "img_celeba" / first[0]
    with Image.open(image) as small:
        small.resize((small.width * 4, small.height * 4)).save(image)  # in its place: the folder stays as it is
    assert open_data("celeba-wild", 16, "train", tmp_path).files == first[1:]  # its face covers too little now


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda root: (root / "Img" / "img_celeba").rename(root / "gone"), "has no Img/img_celeba;"),
        (lambda root: (root / "Anno" / "list_bbox_celeba.txt").unlink(), "has no Anno/list_bbox_celeba.txt"),
        (lambda root: (root / "MAFL" / "testing.txt").unlink(), "has no MAFL/testing.txt"),
        (lambda root: (root / "Img" / "img_celeba" / name(4)).unlink(), "1 of 7 images are missing (the first: 000004"),
        (lambda root: (root / "Img" / "img_celeba" / name(4)).write_text("x"), "000004.jpg: cannot be read"),
        (lambda root: write_list(root / "Anno" / "list_landmarks_celeba.txt", HEADER, {1: [1] * 10}), "for 000002.jpg"),
    ],
)
def test_what_is_missing_is_one_line(tmp_path, damage, expected):
    damage(mini_celeba(tmp_path / "celeba"))
    with pytest.raises(UserError) as error:
        open_data("celeba-wild", 16, "train", tmp_path)
    one_line(error, expected)
    if expected.startswith("has no"):
        one_line(error, str(tmp_path / "celeba"), "mmlab.ie.cuhk.edu.hk", "non-commercial", "--data-root")


def test_a_split_without_large_faces_is_one_line(tmp_path, monkeypatch):
    mini_celeba(tmp_path / "celeba")
    monkeypatch.setattr(celeba, "SMALLEST_FACE", 0.9)
    with pytest.raises(UserError) as error:
        open_data("celeba-wild", 16, "train", tmp_path)
    one_line(error, "no face of the 'train' split covers 90%")
