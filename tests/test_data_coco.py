"""COCO keypoints as data: objects are cut out by their boxes, and landmarks lie on what they name."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_files import dots, find_dot, one_line

from autolink.commands.calibrate import Options as CalibrateOptions
from autolink.commands.calibrate import calibrate
from autolink.commands.evaluate import Options, evaluate
from autolink.data import list_data, open_data
from autolink.errors import UserError

pytestmark = pytest.mark.usefixtures("own_data_only")

NAMES = ["nose", "left ear", "tail"]
SHAPE = np.array([(4, 4), (16, 10), (10, 20)], float)  # of an object, from the corner of its box of 20 x 24
BOX = (20, 24)
SIZE = (160, 100)


def coco(
    folder: Path, table: str = "coco.json", images: str = "", corners: tuple[Any, ...] = (((30, 30), (110, 50)),)
) -> Path:
    """A file of one image for each of `corners`, which say where its objects are; the last one's tail is unlabelled."""
    content: dict[str, list[dict[str, Any]]] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 7, "name": "mouse", "keypoints": NAMES, "skeleton": [[1, 2], [1, 3]]}],
    }
    for number, of_image in enumerate(corners):
        file = f"{chr(97 + number)}.png"
        seen: dict[int, tuple[float, float]] = {}
        for which, corner in enumerate(of_image):
            points = SHAPE + corner
            last = which == len(of_image) - 1
            flags = (2, 1, 0 if last else 2)
            seen |= {which * 3 + p: tuple(xy) for p, xy in enumerate(points) if flags[p]}
            flat = [value for (x, y), v in zip(points, flags) for value in ((x, y, v) if v else (0, 0, 0))]
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": f"image {number}",
                    "category_id": 7,
                    "bbox": [*corner, *BOX],
                    "keypoints": flat,
                    "iscrowd": 0,
                }
            )
        place = folder / images
        dots(place / file.replace(".png", ".jpg"), SIZE, seen, 2).rename(place / file)
        about = {"id": f"image {number}", "file_name": file, "width": SIZE[0], "height": SIZE[1]}
        content["images"].append(about)
    path = folder / table
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def samples(path: Path, size: int = 96, split: str = "all") -> list[Any]:
    data = open_data(str(path), size, split)
    return [data[i] for i in range(len(data))]


@pytest.mark.parametrize("place", ["coco.json", "annotations/mice.json"])
@pytest.mark.parametrize("images", ["", "images"])
def test_every_object_is_cut_out_with_its_landmarks(tmp_path, place, images):
    table = coco(tmp_path, place, images, (((30, 30), (110, 50)), ((0, 70),)))
    for given in (table, tmp_path):
        found = samples(given)
        assert [sample.name for sample in found] == ["a.png", "a.png", "b.png"]
        for sample, (first, labelled) in zip(found, [(0, 3), (3, 2), (0, 2)]):
            landmarks = sample.landmarks.numpy()
            assert np.isnan(landmarks[labelled:]).all() and not np.isnan(landmarks[:labelled]).any()
            for p in range(labelled):
                assert np.abs(find_dot(sample.image, first + p) - landmarks[p]).max() < 0.05
    # The square of the first has 24 x 1.2 pixels around the middle of its box; that of the last is moved inside.
    expected = (SHAPE - (np.array(BOX) / 2)) / (24 * 1.2 / 2)
    np.testing.assert_allclose(found[0].landmarks, expected, atol=1e-5)
    moved = (SHAPE[:2] + np.array([0, 14.4 - 12])) / 14.4 - 1
    np.testing.assert_allclose(found[2].landmarks[:2], moved, atol=1e-5)


def test_an_object_longer_than_the_image_is_high_is_cut_where_the_image_ends(tmp_path):
    table = coco(tmp_path)
    content = json.loads(table.read_text())
    content["annotations"] = content["annotations"][:1]
    content["annotations"][0]["bbox"] = [0, 0, 120, 100]
    table.write_text(json.dumps(content))
    (sample,) = samples(table)
    np.testing.assert_allclose(sample.landmarks, (SHAPE + 30) / (120, 100) * 2 - 1, atol=1e-5)
    assert np.abs(find_dot(sample.image, 0) - sample.landmarks[0].numpy()).max() < 0.05


def test_parts_are_files_named_for_them_and_one_file_alone_is_divided_by_image(tmp_path):
    many = tuple(((30, 30), (110, 50)) for _ in range(10))
    train = coco(tmp_path, "annotations/mouse_keypoints_train2017.json", "train2017", many[:4])
    coco(tmp_path, "annotations/mouse_keypoints_val2017.json", "val2017", many[:2])
    (tmp_path / "annotations" / "captions_train2017.json").write_text('{"info": {}, "annotations": []}')
    for given in (tmp_path, train):
        parts = {split: open_data(str(given), 16, split) for split in ("train", "fit", "val", "test", "all")}
        assert {split: len(part) for split, part in parts.items()} == {
            "train": 8,
            "fit": 8,
            "val": 4,
            "test": 4,
            "all": 8,
        }
        assert parts["val"].root.name == "val2017"
    alone = coco(tmp_path / "alone", corners=many)
    parts = [{sample.name for sample in samples(alone, 16, split)} for split in ("train", "val")]
    assert len(parts[0]) == 9 and len(parts[1]) == 1 and not parts[0] & parts[1]
    roboflow = tmp_path / "roboflow"
    coco(roboflow, "train/_annotations.coco.json", "train", many[:3])
    coco(roboflow, "valid/_annotations.coco.json", "valid", many[:1])
    assert [len(open_data(str(roboflow), 16, split)) for split in ("train", "val")] == [6, 2]


def test_what_is_left_out_is_said(tmp_path, caplog):
    table = coco(tmp_path, corners=(((30, 30), (110, 50), (70, 10)), ((30, 30),)))
    content = json.loads(table.read_text())
    content["annotations"][0]["iscrowd"] = 1
    content["annotations"][1]["keypoints"] = [0] * 9
    del content["annotations"][2]["bbox"]
    table.write_text(json.dumps(content))
    (tmp_path / "b.png").unlink()
    with caplog.at_level(logging.WARNING):
        (sample,) = samples(table)
    assert "2 of its 4 objects are left out: crowds, or without a labelled keypoint" in caplog.text
    assert "1 of its images are not in" in caplog.text and "b.png" in caplog.text
    np.testing.assert_allclose(sample.landmarks[:2], [(-1 / 1.2, -0.5 / 1.2), (1 / 1.2, 0.5 / 1.2)], atol=1e-5)


def test_boxes_without_keypoints_are_images(tmp_path):
    table = coco(tmp_path, "instances.json")
    content = json.loads(table.read_text())
    del content["categories"][0]["keypoints"]
    table.write_text(json.dumps(content))
    found = samples(tmp_path)
    assert len(found) == 2 and found[0].landmarks.shape == (0, 2)


def change(**parts: Any) -> Any:
    return lambda content: {**content, **parts}


def in_first(part: str, **values: Any) -> Any:
    return lambda content: {**content, part: [{**content[part][0], **values}, *content[part][1:]]}


OTHER = {"id": 8, "name": "fly", "keypoints": ["head"]}


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (lambda content: {"images": []}, "no 'annotations'"),
        (change(annotations=3), "is not in COCO's format"),
        (change(annotations=[]), "none of its 0 annotations has a box"),
        (change(images=[]), "no 'image 0'"),
        (in_first("annotations", keypoints=[1, 2, 2]), "annotation 1: 1 keypoints, where its category has 3"),
        (
            in_first("annotations", keypoints=[1, 2, 2] * 2 + [1, None, 2]),
            "annotation 1: a keypoint that is not a number",
        ),
        (in_first("annotations", keypoints=["left"] * 9), "could not convert"),
        (in_first("annotations", bbox=[1, 2, float("nan"), 3]), "boxes or sizes of images that are no numbers"),
        (in_first("annotations", bbox=[1, 2]), "annotation 1: a box of 2 numbers"),
        (in_first("images", width=0), "boxes or sizes of images that are no numbers above 0"),
        (in_first("images", width=320), "is 160 x 100, but 320 x 100 in coco.json"),
        (in_first("images", file_name="elsewhere.png"), "its images are not there (the first: elsewhere.png)"),
        (
            lambda c: {
                **in_first("annotations", category_id=8, keypoints=[1, 2, 2])(c),
                "categories": [*c["categories"], OTHER],
            },
            "its categories have different keypoints (mouse has 3, fly has 1)",
        ),
    ],
)
def test_wrong_files_are_one_line(tmp_path, changed, expected):
    table = coco(tmp_path)
    table.write_text(json.dumps(changed(json.loads(table.read_text()))))
    with pytest.raises(UserError) as error:
        open_data(str(table), 16, "all")
    one_line(error, expected)


def test_several_files_that_are_no_parts_are_one_line(tmp_path):
    coco(tmp_path, "coco_a.json"), coco(tmp_path, "coco_b.json")
    with pytest.raises(UserError) as error:
        open_data(str(tmp_path), 16)
    one_line(error, "coco_a.json, coco_b.json; name one of them")


def test_other_json_does_not_make_a_folder_coco(tmp_path):
    dots(tmp_path / "a.png", (40, 40), {}, 1), dots(tmp_path / "b.png", (40, 40), {}, 1)
    (tmp_path / "annotations.json").write_text('{"a.png": {"regions": []}}')
    (tmp_path / "camera.json").write_text('{"images": 3}')
    assert len(samples(tmp_path, 16)) == 2
    with pytest.raises(UserError, match="expected a video, COCO json"):
        open_data(str(tmp_path / "annotations.json"), 16)


def test_it_is_listed_evaluated_and_gives_its_names(tmp_path, tiny_file, monkeypatch):
    coco(tmp_path / "mice", corners=tuple(((30, 30), (110, 50)) for _ in range(10)))
    monkeypatch.setenv("AUTOLINK_DATA", str(tmp_path))
    assert any(line.startswith("mice ") and "images with landmarks" in line for line in list_data())
    result = evaluate(Options(model=str(tiny_file), data="mice", device="cpu"))
    assert (result["train_images"], result["test_images"], result["landmarks"]) == (18, 2, 3)
    _, table = calibrate(CalibrateOptions(str(tiny_file), "mice", tmp_path / "c.safetensors", device="cpu"))
    assert all(name in table for name in NAMES)
