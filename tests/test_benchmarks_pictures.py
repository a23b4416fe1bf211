"""Flowers, hands, horses, zebras and talking faces promise: the right pictures in each split, cut as in the paper."""

from __future__ import annotations

import csv
import logging
from pathlib import Path

import numpy as np
import pytest
from data_files import dots, find_dot, one_line, picture, video
from scipy.io import savemat

from autolink.data import open_data
from autolink.data.benchmarks import benchmark
from autolink.errors import UserError

pytestmark = pytest.mark.usefixtures("own_data_only")


def corner(path: Path, size: tuple[int, int]) -> Path:
    """A dot in the upper left corner, at a twentieth of width and height: only a whole image shows it."""
    return dots(path, size, {0: (0.1 * size[0], 0.1 * size[1])}, 0.05 * min(size))


def shown_whole(data) -> bool:
    return all(np.abs(find_dot(sample.image, 0) + 0.8).max() < 0.03 for sample in data)


# Flowers


def mini_flower(root: Path) -> Path:
    for number in range(1, 10):
        corner(root / "jpg" / f"image_{number:05}.jpg", [(120, 80), (80, 120), (90, 90)][number % 3])
    savemat(root / "setid.mat", {"trnid": [[8, 3]], "valid": [[2]], "tstid": [[9, 1, 4, 5, 6, 7]]})
    return root


def test_flowers_are_learned_from_the_large_part(tmp_path):
    mini_flower(tmp_path / "flowers-102")
    expected = {"train": [1, 4, 5, 6, 7, 9], "fit": [1, 4, 5, 6, 7, 9], "val": [2], "test": [3, 8]}
    for split, numbers in expected.items():
        data = open_data("flower", 64, split, tmp_path)
        assert data.files == [f"image_{number:05}.jpg" for number in numbers]
        assert data.landmark_count == 0 and set(data.clips) == {""} and shown_whole(data)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda root: (root / "setid.mat").unlink(), "has no setid.mat"),
        (lambda root: (root / "setid.mat").write_text("x" * 200), "setid.mat: cannot be read"),
        (lambda root: savemat(root / "setid.mat", {"trnid": [[1]]}), "setid.mat: cannot be read"),
        (lambda root: (root / "jpg" / "image_00004.jpg").unlink(), "1 of 6 images are missing (the first: image_00004"),
    ],
)
def test_what_flowers_lack_is_one_line(tmp_path, damage, expected):
    damage(mini_flower(tmp_path / "flower"))
    with pytest.raises(UserError) as error:
        open_data("flower", 16, data_root=tmp_path)
    one_line(error, expected)


# Hands


def mini_hands(root: Path, people: int = 20) -> Path:
    columns = ("id", "age", "gender", "skinColor", "accessories", "nailPolish", "aspectOfHand", "imageName")
    rows = []
    for person in range(people):
        for i, aspect in enumerate(["dorsal right", "dorsal right", "palmar left"]):
            file = f"Hand_{person:05}{i:02}.jpg"
            corner(root / "Hands" / file, (160, 120))
            rows.append([person, 20, "female", "fair", 0, 0, aspect, file])
    with open(root / "HandInfo.csv", "w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return root


def test_hands_are_held_out_by_person(tmp_path):
    mini_hands(tmp_path / "11k_hands")
    train, test = open_data("hands", 64, "train", tmp_path), open_data("hands", 64, "test", tmp_path)
    assert len(train) == 18 * 3 and len(test) == 2 * 3
    assert not {file[:10] for file in train.files} & {file[:10] for file in test.files}
    assert shown_whole(test) and len(set(test.clips)) == 4  # a person's hand from one side is a clip


def test_hands_without_their_table_are_one_line(tmp_path):
    root = mini_hands(tmp_path / "hands")
    (root / "HandInfo.csv").write_text("id,age\n1,20\n")
    with pytest.raises(UserError) as error:
        open_data("hands", 16, data_root=tmp_path)
    one_line(error, "HandInfo.csv", "'aspectOfHand'")


# Horses and zebras


def mini_horse2zebra(root: Path) -> Path:
    for folder, count in (("trainA", 4), ("testA", 2), ("trainB", 3), ("testB", 1)):
        for i in range(count):
            dots(root / folder / f"n0238146{i}_{i}.jpg", (64, 64), {0: (16, 32)}, 5)
    return root


def test_horses_and_zebras_are_all_used_and_that_is_said(tmp_path, caplog):
    mini_horse2zebra(tmp_path / "horse2zebra")
    benchmark.warn_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        for data, train, test in (("horses", 4, 2), ("zebras", 3, 1)):
            assert len(open_data(data, 32, "train", tmp_path)) == train
            assert len(open_data(data, 32, "test", tmp_path)) == test
    assert [message.split(":")[0] for message in caplog.messages] == ["horses", "zebras"]  # once each
    assert "horses.txt" in caplog.messages[0] and "facing left" in caplog.messages[0]


def test_a_choice_of_horses_is_followed(tmp_path, caplog):
    root = mini_horse2zebra(tmp_path / "horse2zebra")
    (root / "horses.txt").write_text(
        "trainA/n02381462_2.jpg\n\ntrainA/n02381460_0.jpg  mirror\ntestA/n02381461_1.jpg\n"
    )
    with caplog.at_level(logging.WARNING):
        train, test = open_data("horses", 64, "train", tmp_path), open_data("horses", 64, "test", tmp_path)
    assert not caplog.messages
    assert train.files == ["trainA/n02381462_2.jpg", "trainA/n02381460_0.jpg"] and len(test) == 1
    np.testing.assert_allclose([find_dot(s.image, 0)[0] for s in train], [-0.5, 0.5], atol=0.03)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("trainA/n02381460_0.jpg left\n", "line 1 is 'trainA/n02381460_0.jpg left'"),
        ("trainB/n02381460_0.jpg\n", "names no image of trainA"),
        ("trainA/none.jpg\n", "1 of 1 images are missing (the first: trainA/none.jpg)"),
    ],
)
def test_wrong_choices_are_one_line(tmp_path, choice, expected):
    root = mini_horse2zebra(tmp_path / "horse2zebra")
    (root / "horses.txt").write_text(choice)
    with pytest.raises(UserError) as error:
        open_data("horses", 16, data_root=tmp_path)
    one_line(error, expected)


def test_horses_without_a_test_part_are_one_line(tmp_path):
    picture(tmp_path / "horse2zebra" / "trainA" / "a.jpg")
    with pytest.raises(UserError) as error:
        open_data("horses", 16, data_root=tmp_path)
    one_line(error, f"{tmp_path / 'horse2zebra'} has no testA", "horse2zebra.zip", "ImageNet")


# Talking faces


def mini_voxceleb2(root: Path, people: int = 3) -> Path:
    for person in range(people):
        for scene in ("abc", "def"):
            for clip in (1, 2):
                video(root / f"dev/mp4/id{person:05}/{scene}/{clip:05}.mp4", 30, (32, 32), level=10 * (clip - 1))
    return root


def test_faces_are_the_first_clip_of_each_video_twice_a_second(tmp_path):
    mini_voxceleb2(tmp_path / "voxceleb2")
    train, val = open_data("voxceleb2", 16, "train", tmp_path), open_data("voxceleb2", 16, "val", tmp_path)
    people = [{clip.split("/")[2] for clip in data.clips} for data in (train, val)]
    assert [len(set(data.clips)) for data in (train, val)] == [4, 2] and not people[0] & people[1]
    assert all(clip.endswith("/00001.mp4") for clip in train.clips) and len(train) == 4 * 3
    for sample, level in zip([train[i] for i in range(3)], (0, 12 * 8, 24 * 8), strict=True):
        assert (sample.image.float() - level).abs().max() < 6  # frames 0, 12 and 24


def test_the_test_part_of_faces_is_held_out(tmp_path):
    root = mini_voxceleb2(tmp_path / "voxceleb2")
    video(root / "test/mp4/id00017/ghi/00001.mp4", 30, (32, 32))
    assert set(open_data("voxceleb2", 16, "test", tmp_path).clips) == {"test/mp4/id00017/ghi/00001.mp4"}
    assert len(set(open_data("voxceleb2", 16, "train", tmp_path).clips)) == 6


def test_faces_of_nobody_or_one_are_one_line(tmp_path):
    (tmp_path / "voxceleb2" / "dev" / "mp4").mkdir(parents=True)
    with pytest.raises(UserError) as error:
        open_data("voxceleb2", 16, data_root=tmp_path)
    one_line(error, "holds no clips")
    mini_voxceleb2(tmp_path / "voxceleb2", people=1)
    with pytest.raises(UserError) as error:
        open_data("voxceleb2", 16, "val", data_root=tmp_path)
    one_line(error, "one person")
