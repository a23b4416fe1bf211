"""DeepFashion and Taichi promise: the published joints as they are distributed, on the pictures that they belong to."""

from __future__ import annotations

import base64
import csv
import json
import pickle
import sys
import zlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from data_files import dots, find_dot, one_line, picture, video

from autolink.commands import evaluate
from autolink.data import list_data, open_data
from autolink.data.benchmarks import BENCHMARKS
from autolink.data.benchmarks.pickled_table import read_pickled_points
from autolink.errors import UserError

pytestmark = pytest.mark.usefixtures("own_data_only")


def spread(count: int, seed: int) -> np.ndarray:
    """(count, 2) pixels of a 256 x 256 picture, at least 40 apart."""
    cells = np.random.default_rng(seed).permutation(25)[:count]
    return np.stack([cells % 5, cells // 5], 1) * 48.0 + 20 + np.random.default_rng(seed).uniform(0, 8, (count, 2))


# DeepFashion

WOMAN, MAN = "WOMEN/Dresses/id_0000000{}/01_4_full.jpg", "MEN/Pants/id_0000000{}/02_1_front.jpg"


def mini_deepfashion(root: Path) -> Path:
    """Five pictures to fit on and three to judge on; one is twice as large, and the records are not in order."""
    for part, files in (
        ("train", [WOMAN.format(i) for i in range(1, 4)] + [MAN.format(4), MAN.format(5)]),
        ("test", [MAN.format(6), WOMAN.format(7), WOMAN.format(8)]),
    ):
        records = []
        for file in files:
            joints = spread(17, int(file.split("id_")[1][:8]))
            scale = 2 if file == WOMAN.format(2) else 1
            shown = {number: tuple(joints[number] * scale) for number in range(15)}
            dots(root / "img" / file, (256 * scale, 256 * scale), shown, 9 * scale)
            record = {"image_path": file, "train": True, "keypoints": joints.tolist(), "bbox": [40, 0, 176, 256]}
            records.append(record | {"keypoints_confidence": [0.9] * 17, "joint_order": {"0": "nose"}})
        with open(root / f"data_{part}.csv", "w", newline="") as table:
            csv.writer(table).writerows([("id", "filename"), *((7 * i, file) for i, file in enumerate(files))])
        (root / f"data_{part}.json").write_text(json.dumps(records[::-1], indent=4))
    return root


def test_deepfashion_joints_are_on_their_pictures(tmp_path):
    root = mini_deepfashion(tmp_path / "deepfashion")
    expected = {"train": 5, "fit": 5, "val": 3, "test": 3}
    for split, count in expected.items():
        data = open_data("deepfashion", 96, split, tmp_path)
        assert len(data) == count and data.landmark_count == 17
        for sample in data:
            for number in range(15):
                assert np.abs(find_dot(sample.image, number) - sample.landmarks[number].numpy()).max() < 0.02
    assert "found" in next(line for line in list_data(tmp_path) if line.startswith("deepfashion"))
    (root / "Img").mkdir()
    for place in ("images", "Img/img"):  # where Lorenz et al. and the owners' archive have it
        next(folder for folder in root.rglob("im*g*") if (folder / "MEN").is_dir()).rename(root / place)
        assert len(open_data("deepfashion", 16, "test", tmp_path)) == 3


def test_deepfashion_mistakes_are_one_line(tmp_path):
    root = mini_deepfashion(tmp_path / "deepfashion")

    def complain(*contents: str) -> None:
        with pytest.raises(UserError) as error:
            open_data("deepfashion", 32, "test", tmp_path)
        one_line(error, *contents)

    table = root / "data_test.json"
    whole = table.read_text()
    table.write_text(whole[:-40])
    complain(str(table), "get it again")
    table.write_text(json.dumps(json.loads(whole)[:-1]))
    complain(str(table), "no joints for", MAN.format(6))
    table.write_text(json.dumps([record | {"keypoints": [[1, 2]] * 16} for record in json.loads(whole)]))
    complain(str(table), "(16, 2)", "(17, 2)")
    table.write_text(whole)
    picture(root / "img" / MAN.format(6), (750, 1101))
    complain("750 x 1101", "img_highres")
    (root / "img" / MAN.format(6)).unlink()
    complain("1 of 3 images are missing", MAN.format(6))
    (root / "data_test.csv").write_text("id,filename\n")
    complain("lists no image")
    table.unlink()
    complain("no data_test.json", BENCHMARKS["deepfashion"].source)


# Taichi

CHUNK = "{}#000{}00#000200.mp4"


def pickle_table(path: Path, points: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    """Pickles a table as pandas 1.0 did, the version of its time: blocks of values, twice by reference."""

    class DataFrame:
        pass

    class BlockManager:
        def __init__(self, state: tuple):
            self.state = state

        def __getstate__(self) -> tuple:
            return self.state

    class Index:
        def __reduce__(self) -> tuple:
            return _new_Index, (Index, {"data": np.array(["file_name", "value"], object), "name": None})

    def _new_Index(cls: type, data: dict) -> Index:
        return cls()

    homes = {DataFrame: "frame", BlockManager: "internals.managers", Index: "indexes.base", _new_Index: "indexes.base"}
    values = np.empty((2, len(points)), object)
    values[0], values[1] = list(points), list(points.values())
    axes = [Index(), np.arange(len(points))]
    blocks = [{"values": values, "mgr_locs": slice(0, 2, 1)}]
    frame = DataFrame()
    frame.__dict__ = {
        "_data": BlockManager((axes, [values], [Index()], {"0.14.1": {"axes": axes, "blocks": blocks}})),
        "_typ": "dataframe",
        "_metadata": [],
    }
    with monkeypatch.context() as patch:
        for home in ("", ".core", ".core.frame", ".core.internals", ".core.internals.managers", ".core.indexes"):
            patch.setitem(sys.modules, f"pandas{home}", ModuleType(f"pandas{home}"))
        patch.setitem(sys.modules, "pandas.core.indexes.base", ModuleType("pandas.core.indexes.base"))
        for named, home in homes.items():
            named.__module__, named.__qualname__ = f"pandas.core.{home}", named.__name__
            setattr(sys.modules[named.__module__], named.__name__, named)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pickle.dumps(frame, protocol=4))


def mini_taichi(root: Path, monkeypatch: pytest.MonkeyPatch, frames: bool = False) -> Path:
    """Two videos to learn from and one held out; six images to fit on and four to judge on."""
    for part, chunks in (("train", ["a", "b"]), ("test", ["c"])):
        for number, chunk in enumerate(chunks, 1):
            target = root / part / CHUNK.format(chunk, number)
            if frames:
                for i in range(3):
                    picture(target / f"{i:07d}.png", (80, 48))
            else:
                video(target, 3, (80, 48))
    for part, count in (("train", 6), ("test", 4)):
        points = {}
        for i in range(count):
            file = f"{part}{count - i}.png"
            points[file] = spread(18, i if part == "train" else 10 + i)
            shown = {number: tuple(points[file][number]) for number in range(15)}
            dots(root / "eval_images/taichi-256" / part / file, (256, 256), shown, 9)
            points[file][i] = -1
            points[file][17, 1] = -1  # x of it is known
        pickle_table(root / f"landmarks/taichi_{part}_gt.pkl", points, monkeypatch)
    return root


@pytest.mark.parametrize("frames", [False, True])
def test_taichi_is_learned_from_frames_of_videos(tmp_path, monkeypatch, frames):
    mini_taichi(tmp_path / "taichi", monkeypatch, frames)
    train, held_out = (open_data("taichi", 32, split, tmp_path) for split in ("train", "val"))
    assert len(train) == 6 and len(held_out) == 3 and train.landmark_count == 0
    assert sorted(set(train.clips)) == [f"train/{CHUNK.format(c, n)}" for n, c in ((1, "a"), (2, "b"))]
    assert train[0].image.shape == (3, 32, 32)


def test_taichi_joints_are_on_their_pictures_or_unknown(tmp_path, monkeypatch):
    mini_taichi(tmp_path / "taichi", monkeypatch)
    for split, count in (("fit", 6), ("test", 4)):
        data = open_data("taichi", 96, split, tmp_path)
        assert len(data) == count and data.landmark_count == 18
        for sample in data:
            number_unknown = count - int(sample.name[-5])  # see mini_taichi
            unknown = sample.landmarks.isnan()
            assert unknown[number_unknown].all() and unknown[17].tolist() == [False, True] and unknown.sum() == 3
            for number in set(range(15)) - {number_unknown}:
                assert np.abs(find_dot(sample.image, number) - sample.landmarks[number].numpy()).max() < 0.02


def test_taichi_without_its_images_can_be_learned_from_and_the_other_way_round(tmp_path, monkeypatch):
    root = mini_taichi(tmp_path / "taichi", monkeypatch)
    (root / "landmarks").rename(root / "hidden")
    assert len(open_data("taichi", 16, "train", tmp_path)) == 6
    with pytest.raises(UserError) as error:
        open_data("taichi", 16, "fit", tmp_path)
    one_line(error, "no landmarks/taichi_train_gt.pkl", "motion-cosegmentation")
    (root / "hidden").rename(root / "landmark")  # as it is called in the official code
    for chunk in (root / "train").iterdir():
        chunk.unlink()
    assert len(open_data("taichi", 16, "test", tmp_path)) == 4
    with pytest.raises(UserError) as error:
        open_data("taichi", 16, "train", tmp_path)
    one_line(error, "no train with videos", "video-preprocessing")
    for split in ("train", "test"):  # another data set is not mistaken for it
        picture(tmp_path / "others" / split / "cat" / "a.png")
    assert BENCHMARKS["taichi"].missing(tmp_path / "others") is not None


# Pickled tables

OF_PANDAS = (
    "c-nPS&ui2`6yBs8ZAGj_)IvpibG_sw(nGPO6`=-K@N5|-$?Rt6WH!tX>w*P6w6-v}KK~y7C6C_p&16?MvJPb4O!B_(z4yJB&;4)jS9)Q&jfT"
    "pS>a>_BmW~vy8Mw8V)X-Pqd<{>(z!?l&pVVUo?(w2Kmxd`xg-&ZK>6j@E?)HJ06en-mJHp+A8G;C&>%S0i>%_{27bk*|++)1+eQE1v+OpSH7*3"
    "U<Q)DHI6%(nAvW4-ENpJ*r6S;%SHDtYWIE-@m3h!W$MOmE17f`Lcq%_mUSK{KgJ8*T`eqV9XCm0TguYchRTefE)zdFWR6Ph-1j6w2Xt2@<(C$H"
    "{xsW)9b>JaY!L)i0#huf{vkM>);J+nW)&n=+a|6)A(ga5hL#qk->>b}P_eB5eoIcg?R+(Zjru%HSuMV>T^{eBL<!p&|QOZJiJG^ZMye~U<VN{;"
    "+Hgjc&RnV-WLlsFp86v4|@5N~b7v7<5!Qu2Wc%OE7z53h#y0uj{<x3w$-Y${W{z$A{OdH!r6aCNXeCiZ|Y^q?9n>%iTp*IhyJtj&e_4aXaY1S"
    "j8@H~$Mr%?u6o9%Cug7@Y4ja5u<E&~Z3Eq(V$iH7RX_a#O>IpgF_gzSK5Pe*?oFM2-"
)
"""What pandas 1.5.3 wrote (protocol 4, zlib, base 85) for the table of the next test, sorted by its file names."""


def test_a_table_that_pandas_wrote(tmp_path):
    (tmp_path / "t.pkl").write_bytes(zlib.decompress(base64.b85decode(OF_PANDAS)))
    points = read_pickled_points(tmp_path / "t.pkl")
    assert list(points) == ["a.png", "b.png"]
    assert points["a.png"].tolist() == [[7, 8], [-1, -1]] and points["b.png"].tolist() == [[1.5, -1], [200, 3]]


@pytest.mark.parametrize("protocol", [4, 5])
@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<i8"])
def test_every_way_in_which_numpy_pickles_numbers(tmp_path, protocol, dtype):
    expected = {"a.png": np.arange(6).reshape(3, 2).astype(dtype), "b.jpg": np.asfortranarray(np.ones((3, 2), dtype))}
    expected["b.jpg"][0] = 7
    (tmp_path / "t.pkl").write_bytes(pickle.dumps([np.array(list(expected)), list(expected.items())], protocol))
    points = read_pickled_points(tmp_path / "t.pkl")
    assert all(np.array_equal(points[name], expected[name]) and points[name].dtype == float for name in expected)


class _Harm:
    def __reduce__(self) -> tuple:
        return open, (_Harm.target, "w")


def test_a_table_runs_nothing(tmp_path):
    """A file that would make another one, were it opened with `pickle.load`, does not."""
    _Harm.target = str(tmp_path / "made")
    (tmp_path / "t.pkl").write_bytes(pickle.dumps(["a.png", np.ones((2, 2)), _Harm()]))
    assert list(read_pickled_points(tmp_path / "t.pkl")) == ["a.png"]
    assert not (tmp_path / "made").exists()
    pickle.loads((tmp_path / "t.pkl").read_bytes())[2].close()
    assert (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "get it again"),
        (b"no pickle", "get it again"),
        (pickle.dumps(["a.png", np.ones((2, 2))])[:-20], "get it again"),
        (pickle.dumps(["a.png", "b.png", np.ones((2, 2))]), "2 image names and 1 arrays"),
        (pickle.dumps(["a.png", np.ones((2, 2)), "b.png", np.ones((3, 2))]), "all points of one shape"),
        (pickle.dumps({}), "0 image names"),
    ],
)
def test_what_is_no_table_is_one_line(tmp_path, content, expected):
    (tmp_path / "t.pkl").write_bytes(content)
    with pytest.raises(UserError) as error:
        read_pickled_points(tmp_path / "t.pkl")
    one_line(error, "t.pkl", expected)


# Evaluation


@pytest.mark.parametrize(("name", "key"), [("deepfashion", "correct_percent"), ("taichi", "error_pixels")])
def test_evaluation_by_its_protocol(tmp_path, monkeypatch, tiny_file, name, key):
    root = tmp_path / name
    mini_deepfashion(root) if name == "deepfashion" else mini_taichi(root, monkeypatch)
    report = evaluate.evaluate(evaluate.Options(model=str(tiny_file), data=name, data_root=tmp_path))
    assert report["protocol"] == BENCHMARKS[name].protocol and report["published"].startswith(key)
    assert report["train_images"] == (5 if name == "deepfashion" else 6)
    assert all(isinstance(report[f"{key}_{ending}"], float) for ending in evaluate.VARIANTS)


def test_values_are_the_papers():
    """K of Table 2; σ² of Table 5, else the general 5e-5."""
    expected = {"human36m": (16, 5e-5), "human36m-nobg": (16, 5e-5), "deepfashion": (16, 5e-5), "taichi": (10, 5e-5)}
    for name, values in expected.items():
        assert (BENCHMARKS[name].keypoints, BENCHMARKS[name].thickness(BENCHMARKS[name].keypoints)) == values
    tuned = {("taichi", 16): 2.5e-3, ("taichi", 4): 2.5e-3, ("deepfashion", 32): 7.5e-5, ("human36m-nobg", 32): 1e-5}
    assert {key: BENCHMARKS[key[0]].thickness(key[1]) for key in tuned} == tuned
