"""CUB promises: the owners' split, three protocols of cutting, and parts that stay where they are or are NaN."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from data_files import dots, find_dot, one_line

from autolink.data import open_data
from autolink.data.benchmarks.cub import MIRRORED_PARTS, PARTS
from autolink.errors import UserError

pytestmark = pytest.mark.usefixtures("own_data_only")

SPECIES = {
    1: "001.Black_footed_Albatross",
    2: "002.Laysan_Albatross",
    3: "003.Sooty_Albatross",
    66: "066.Western_Gull",
    103: "103.Sayornis",
    112: "112.Great_Grey_Shrike",
}
SIZES = [(250, 167), (167, 250), (240, 120), (150, 150)]
HIDDEN = {3, 7}  # the breast and a leg cannot be seen


def bird(width: int, height: int, faces_left: bool, rng: np.random.Generator) -> tuple[np.ndarray, tuple[float, ...]]:
    """(15, 2) parts in pixels and the box x, y, width, height of a bird that reaches close to the image's border."""
    box = np.array([0.02 * width, 0.3 * height, 0.9 * width, 0.6 * height])
    grid = np.array([(x, y) for y in (0.2, 0.5, 0.8) for x in (0.1, 0.3, 0.5, 0.7, 0.9)])
    # Heads are at one end of the body and everything else at the other.
    head = [PARTS.index(part) for part in ("beak", "crown", "forehead", "left eye", "right eye", "throat", "nape")]
    order = np.argsort(grid[:, 0], kind="stable")
    places = np.empty((15, 2))
    places[head], places[[i for i in range(15) if i not in head]] = grid[order[:7]], grid[order[7:]]
    places += rng.uniform(-0.02, 0.02, places.shape)
    if not faces_left:
        places[:, 0] = 1 - places[:, 0]
    return box[:2] + places * box[2:], tuple(box.round(1))


def mini_cub(root: Path, each: int = 4) -> Path:
    """Birds of six species in CUB's layout; of each species half are for training, and half face left."""
    rng = np.random.default_rng(0)
    tables: dict[str, list[str]] = {"images": [], "bounding_boxes": [], "train_test_split": [], "parts/part_locs": []}
    number = 0
    for species in SPECIES.values():
        for i in range(each):
            number += 1
            size = SIZES[number % len(SIZES)]
            parts, box = bird(*size, faces_left=i // 2 == 0, rng=rng)
            file = f"{species}/{species[4:]}_{i:04}_{number}.jpg"
            seen = {p: tuple(parts[p]) for p in range(15) if p not in HIDDEN}
            dots(root / "images" / file, size, seen, 0.04 * min(size))
            tables["images"].append(f"{number} {file}")
            tables["bounding_boxes"].append(f"{number} {' '.join(map(str, box))}")
            tables["train_test_split"].append(f"{number} {(i + 1) % 2}")
            for p in range(15):
                x, y = seen.get(p, (0.0, 0.0))
                tables["parts/part_locs"].append(f"{number} {p + 1} {x:.3f} {y:.3f} {int(p in seen)}")
    (root / "parts").mkdir()
    for table, lines in tables.items():
        (root / f"{table}.txt").write_text("\n".join(lines) + "\n")
    return root


def numbers(data) -> set[int]:
    """Species in a data set, by their number."""
    return {int(file[:3]) for file in data.files}


def test_parts_mirrored_are_left_for_right():
    for part, mirrored in zip(PARTS, MIRRORED_PARTS, strict=True):
        swapped = {"left": "right", "right": "left"}
        assert PARTS[mirrored] == " ".join(swapped.get(word, word) for word in part.split())


@pytest.mark.parametrize("data", ["cub-all", "cub-002", "cub-aligned"])
def test_parts_are_on_their_dots(tmp_path, data):
    mini_cub(tmp_path / "CUB_200_2011")
    for split in ("train", "test"):
        for sample in open_data(data, 128, split, tmp_path):
            mirrored = data == "cub-aligned" and int(sample.name.split("_")[-2]) >= 2
            for p, landmark in enumerate(sample.landmarks.numpy()):
                painted = MIRRORED_PARTS[p] if mirrored else p
                if painted in HIDDEN:
                    assert np.isnan(landmark).all()
                else:
                    assert np.abs(find_dot(sample.image, painted) - landmark).max() < 0.03, (sample.name, PARTS[p])


def test_splits_are_the_owners(tmp_path):
    mini_cub(tmp_path / "CUB_200_2011")
    everything = open_data("cub-all", 16, "train", tmp_path), open_data("cub-all", 16, "test", tmp_path)
    assert [len(part) for part in everything] == [12, 12] and not set(everything[0].files) & set(everything[1].files)
    assert all("_0000_" in file or "_0002_" in file for file in everything[0].files)
    assert open_data("cub-all", 16, "fit", tmp_path).files == everything[0].files
    for number in (1, 2, 3):
        train, test = (open_data(f"cub-{number:03}", 16, split, tmp_path) for split in ("train", "test"))
        assert numbers(train) == {1, 2, 3} and len(train) == 6  # learned from all three, judged on one
        assert numbers(test) == {number} and len(test) == 2


def test_box_reaching_beyond_the_image_is_cut(tmp_path):
    """The square around the box, as far as the image reaches: worked by hand for one bird."""
    root = mini_cub(tmp_path / "CUB_200_2011")
    file = (root / "images.txt").read_text().split("\n")[0].split()[1]
    dots(root / "images" / file, (100, 200), {0: (10, 110)}, 6)
    lines = (root / "bounding_boxes.txt").read_text().split("\n")
    (root / "bounding_boxes.txt").write_text("\n".join(["1 5.0 60.0 60.0 80.0", *lines[1:]]))
    parts = (root / "parts" / "part_locs.txt").read_text().split("\n")
    (root / "parts" / "part_locs.txt").write_text("\n".join(["1 1 10 110 1", *parts[1:]]))
    sample = next(s for s in open_data("cub-all", 96, "train", tmp_path) if s.name == file)
    # Centre (35, 100), half a side 40: x from -5 to 75, cut to 0 to 75; y from 60 to 140.
    expected = [10 / 75 * 2 - 1, (110 - 60) / 80 * 2 - 1]
    np.testing.assert_allclose(sample.landmarks[0], expected, atol=1e-5)
    np.testing.assert_allclose(find_dot(sample.image, 0), expected, atol=0.03)


def test_aligned_birds_face_left_and_live_on_land(tmp_path):
    mini_cub(tmp_path / "CUB_200_2011")
    data = open_data("cub-aligned", 16, "train", tmp_path)
    assert numbers(data) == {103, 112} and len(data) == 4
    for sample in data:
        assert sample.landmarks[PARTS.index("beak"), 0] < sample.landmarks[PARTS.index("tail"), 0]
        visible = sample.landmarks[~sample.landmarks.isnan().any(1)]
        assert visible.abs().max() < 1  # nothing that can be seen is cut away


def test_published_aligned_images_come_first(tmp_path):
    """Lorenz et al. publish images already cut and turned, a csv, and points in [0, 1] with their visibility."""
    root = tmp_path / "cub_loren19"
    points = np.random.default_rng(0).uniform(0.1, 0.9, (3, 15, 2))
    for part in ("train", "test"):
        rows = []
        for i in range(3):
            dots(root / "images" / part / f"{i}.jpg", (90, 60), {0: (points[i, 0] * (90, 60)).tolist()}, 5)
            rows.append([i, f"images/{part}/{i}.jpg", f"103.Sayornis/{i}.jpg", 103])
        with open(root / f"{part}.csv", "w", newline="") as file:
            csv.writer(file).writerows([["idx", "fname", "fname_original", "category"], *rows])
        seen = np.ones((3, 15, 1))
        seen[:, 4] = 0
        np.save(root / f"{part}_kp.npy", np.concatenate([points, seen], -1))
    mini_cub(tmp_path / "CUB_200_2011")
    data = open_data("cub-aligned", 96, "test", tmp_path)
    assert data.files == [f"images/test/{i}.jpg" for i in range(3)]
    for sample in data:
        assert sample.landmarks[4].isnan().all()
        assert np.abs(find_dot(sample.image, 0) - sample.landmarks[0].numpy()).max() < 0.03
    np.save(root / "test_kp.npy", points)
    with pytest.raises(UserError) as error:
        open_data("cub-aligned", 96, "test", tmp_path)
    one_line(error, "test_kp.npy", "(3, 15, 2)", "expected (3, 15, 3)")


def test_the_order_of_tables_does_not_matter(tmp_path):
    root = mini_cub(tmp_path / "CUB_200_2011")
    before = {s.name: s.landmarks.numpy() for s in open_data("cub-all", 16, "train", tmp_path)}
    for table in ("bounding_boxes.txt", "images.txt", "train_test_split.txt"):
        lines = (root / table).read_text().splitlines()
        np.random.default_rng(1).shuffle(lines)
        (root / table).write_text("\n".join(lines))
    after = {s.name: s.landmarks.numpy() for s in open_data("cub-all", 16, "train", tmp_path)}
    assert before.keys() == after.keys()
    for file, landmarks in before.items():
        np.testing.assert_array_equal(landmarks, after[file])


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda root: (root / "parts" / "part_locs.txt").unlink(), "has no parts/part_locs.txt"),
        (lambda root: next((root / "images").glob("001*/*_0000_*")).unlink(), "1 of 12 images are missing"),
        (
            lambda root: (root / "bounding_boxes.txt").write_text("1 2 3 4 5\n"),
            "does not list the images",
        ),
        (lambda root: (root / "parts" / "part_locs.txt").write_text("1 x 3 4 5\n"), "part_locs.txt: "),
    ],
)
def test_what_is_missing_is_one_line(tmp_path, damage, expected):
    damage(mini_cub(tmp_path / "CUB_200_2011"))
    with pytest.raises(UserError) as error:
        open_data("cub-all", 16, "train", tmp_path)
    one_line(error, expected)
