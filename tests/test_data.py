"""Data sets promise: any folder works or says why not in one line, and landmarks stay on what they mark."""

from __future__ import annotations

import csv
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from autolink.data import JOINT_NAMES, SKELETON_LINKS, Sample, SampleSet, list_data, open_data, synthetic_clip
from autolink.data import clips as clips_module
from autolink.data.figures import Figure
from autolink.data.folder import clips_by_name, hold_out
from autolink.data.skeleton import POSE_SIZE
from autolink.data.synthetic import FRAMES_A_CLIP, SyntheticFigures
from autolink.errors import UserError, command
from autolink.geometry import to_pixels
from autolink.video import write_video

RED, BLUE = (220, 20, 20), (20, 20, 220)


@pytest.fixture(autouse=True)
def _no_data_of_this_machine(monkeypatch, tmp_path, request):
    """Names are looked up in what the test makes, except in the tests on real data."""
    if "real_data" not in request.fixturenames:
        monkeypatch.delenv("AUTOLINK_DATA", raising=False)
    monkeypatch.setenv("AUTOLINK_CACHE", str(tmp_path / "cache"))


def picture(path: Path, size: tuple[int, int] = (40, 30), colour: tuple[int, ...] = RED, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, **options)
    return path


def video(path: Path, frames: int = 12, size: tuple[int, int] = (64, 48), level: int = 0) -> Path:
    """Brightness tells the frame: `level` + 8 a frame."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, [np.full((size[1], size[0], 3), level + 8 * i, np.uint8) for i in range(frames)], 10)
    return path


def in_both(root: Path, size: int = 16) -> dict[str, Sample]:
    """Every sample of both splits of a folder by its name."""
    return {s.name: s for split in ("train", "val") for s in open_data(str(root), size, split)}


def one_line(error: pytest.ExceptionInfo, *contents: str) -> None:
    message = str(error.value)
    assert "\n" not in message
    for content in contents:
        assert content in message


# Folders of images


def test_folder_of_mixed_sizes_and_places(tmp_path):
    picture(tmp_path / "a.jpg", (300, 20))
    picture(tmp_path / "deep" / "er" / "b.PNG", (5, 400))
    picture(tmp_path / ".hidden" / "c.png")
    picture(tmp_path / "._d.png")
    (tmp_path / "notes.txt").write_text("not an image")
    samples = in_both(tmp_path)
    assert sorted(samples) == ["a.jpg", "deep/er/b.PNG"]
    for sample in samples.values():
        assert sample.image.dtype == torch.uint8 and sample.image.shape == (3, 16, 16)
        assert sample.landmarks.dtype == torch.float32 and sample.landmarks.shape == (0, 2)
        assert (sample.image.float().mean((1, 2)) - torch.tensor(RED)).abs().max() < 4


@pytest.mark.parametrize(
    ("image", "name", "expected"),
    [
        (Image.new("L", (20, 20), 77), "grey.png", (77, 77, 77)),
        (Image.new("1", (20, 20), 1), "bits.png", (255, 255, 255)),
        (Image.new("RGBA", (20, 20), (*RED, 255)), "opaque.png", RED),
        (Image.new("RGBA", (20, 20), (*RED, 0)), "transparent.png", (128, 128, 128)),
        (Image.new("LA", (20, 20), (200, 0)), "grey-transparent.png", (128, 128, 128)),
        (Image.new("RGB", (20, 20), BLUE).convert("P"), "palette.png", BLUE),
        (Image.new("CMYK", (20, 20), (0, 255, 255, 0)), "print.jpg", (255, 0, 0)),
        (Image.fromarray(np.full((20, 20), 77 * 257, np.uint16)), "deep.png", (77, 77, 77)),
        (Image.fromarray(np.full((20, 20), 77 * 257, np.uint16)), "deep.tiff", (77, 77, 77)),
        (Image.new("RGB", (20, 20), BLUE), "web.webp", BLUE),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_modes_become_rgb(tmp_path, image, name, expected):
    image.save(tmp_path / name)
    picture(tmp_path / "other.png")
    sample = in_both(tmp_path)[name]
    # A palette or lossy file may be off by its own rounding.
    assert (sample.image.float().mean((1, 2)) - torch.tensor(expected)).abs().max() <= 30
    if name.endswith((".png", ".tiff")) and "palette" not in name:
        assert (sample.image == torch.tensor(expected, dtype=torch.uint8)[:, None, None]).all()


def test_palette_with_transparency_shows_grey(tmp_path):
    image = Image.new("P", (20, 20), 0)
    image.putpalette([*RED, *BLUE])
    image.save(tmp_path / "p.png", transparency=0)
    picture(tmp_path / "other.png")
    assert (in_both(tmp_path)["p.png"].image == 128).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    """What a viewer shows as red above blue is loaded as red above blue."""
    upright = Image.new("RGB", (64, 64), BLUE)
    upright.paste(RED, (0, 0, 64, 32))
    upright.paste((255, 255, 255), (0, 0, 16, 16))  # and a white corner tells mirror images apart
    stored = {
        1: [],
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }[orientation]
    image = upright
    for step in stored:
        image = image.transpose(step)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "x.jpg", exif=exif, quality=95)
    picture(tmp_path / "other.png")
    loaded = in_both(tmp_path)["x.jpg"].image.float()
    assert loaded[:, 2, 2].min() > 200
    assert loaded[0, 4, 12] > 150 > loaded[2, 4, 12]
    assert loaded[2, 12, 4] > 150 > loaded[0, 12, 4]


def test_square_is_the_centre_with_antialiasing(tmp_path):
    """A wide image loses its sides, and a pattern finer than a pixel becomes its mean."""
    board = np.indices((200, 600)).sum(0) % 2 * 255
    image = np.stack([board] * 3, -1).astype(np.uint8)
    image[:, :200], image[:, 400:] = RED, BLUE
    Image.fromarray(image).save(tmp_path / "wide.png")
    picture(tmp_path / "other.png")
    loaded = in_both(tmp_path)["wide.png"].image.float()
    assert (loaded[:, 2:-2, 2:-2] - 127.5).abs().max() < 8


def test_reduced_jpeg_decoding_changes_nothing_visible(tmp_path):
    """Large JPEGs are decoded at a fraction of their size; the result is that of decoding in full."""
    y, x = np.mgrid[0:1200, 0:1601] / 1200
    image = np.stack([np.sin(9 * x) * 100 + 128, np.cos(7 * y) * 100 + 128, 255 * (x > 0.66)], -1)
    Image.fromarray(image.astype(np.uint8)).save(tmp_path / "large.jpg", quality=95)
    Image.open(tmp_path / "large.jpg").save(tmp_path / "large.png")
    both = in_both(tmp_path, 64)
    difference = (both["large.jpg"].image.float() - both["large.png"].image.float()).abs()
    assert difference.mean() < 0.5 and difference.max() < 6


def test_unreadable_files_are_named_once_and_skipped(tmp_path, caplog):
    """Text with an image's name, an empty file and broken downloads are found when the folder is opened."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 80, 3), np.uint8).astype(np.uint8))
    for kind in ("jpg", "png", "webp", "tiff", "bmp"):
        noise.save(tmp_path / f"whole.{kind}")
        data = (tmp_path / f"whole.{kind}").read_bytes()
        (tmp_path / f"cut.{kind}").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "empty.png").touch()
    with caplog.at_level(logging.WARNING):
        samples = in_both(tmp_path)
    assert sorted(samples) == sorted(f"whole.{kind}" for kind in ("jpg", "png", "webp", "tiff", "bmp"))
    broken = ["text.jpg", "empty.png", *(f"cut.{kind}" for kind in ("jpg", "png", "webp", "tiff", "bmp"))]
    assert len(caplog.messages) == len(broken)
    for name in broken:
        assert sum(name in message for message in caplog.messages) == 1


def test_a_file_that_fails_only_later_is_named(tmp_path):
    for i in range(3):
        picture(tmp_path / f"{i}.png")
    data = open_data(str(tmp_path), 16)
    (tmp_path / data.files[0]).write_text("overwritten")
    with pytest.raises(UserError) as error:
        data[0]
    one_line(error, data.files[0])


def test_splits_of_a_plain_folder_are_disjoint_stable_and_complete(tmp_path):
    for i in range(40):
        picture(tmp_path / f"{i:03d}.png", (8, 8))
    names = {split: {s.name for s in open_data(str(tmp_path), 8, split)} for split in ("train", "val")}
    assert len(names["val"]) == 4 and not names["val"] & names["train"]
    assert len(names["val"] | names["train"]) == 40
    assert open_data(str(tmp_path), 8, "val").files == open_data(str(tmp_path), 8, "test").files
    units = [str(i) for i in range(30)]
    assert hold_out(units)[::-1] == hold_out(units[::-1])  # in whatever order they are listed


@pytest.mark.parametrize("held_out", ["val", "test", "validation"])
def test_sub_folders_make_the_split(tmp_path, held_out):
    picture(tmp_path / "train" / "a.png")
    picture(tmp_path / held_out / "b.png")
    assert open_data(str(tmp_path), 8).files == ["train/a.png"]
    assert open_data(str(tmp_path), 8, "val").files == [f"{held_out}/b.png"]


def test_clips_from_names():
    assert clips_by_name(["walk_001.png", "walk_002.png", "run-1.png", "run-2.png", "portrait.png"]) == [
        *("walk", "walk", "run", "run", "")
    ]
    assert clips_by_name(["one/0001.png", "one/0002.png", "two/0001.png"]) == ["one", "one", "two"]
    assert clips_by_name(["anna/smile.png", "anna/frown.png"]) == ["anna", "anna"]
    assert clips_by_name(["one/f1.png", "two/f1.png", "one/f2.png", "two/f2.png"]) == [
        *("one/f", "two/f", "one/f", "two/f")
    ]


# Landmarks


def landmark_csv(path: Path, rows: list[list[object]], count: int) -> None:
    header = ["file", "width", "height", *(f"{axis}{i}" for i in range(count) for axis in "xy")]
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def test_landmarks_follow_the_geometry(tmp_path):
    """A red dot drawn at the landmark of images of many shapes is at the landmark once they are loaded."""
    rng = np.random.default_rng(0)
    rows = []
    for i, (width, height) in enumerate([(200, 100), (100, 200), (90, 90), (333, 250), (1300, 900)]):
        side = min(width, height)
        x, y = ((rng.uniform(0.2, 0.8, 2) - 0.5) * side + (width / 2, height / 2)).tolist()
        grid_y, grid_x = np.mgrid[0:height, 0:width] + 0.5
        image = np.full((height, width, 3), 255, np.uint8)
        image[np.hypot(grid_x - x, grid_y - y) < 0.06 * side] = RED
        Image.fromarray(image).save(tmp_path / f"{i}.jpg", quality=95)
        rows.append([f"{i}.jpg", width, height, x, y, "", ""])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(tmp_path / "0.jpg").transpose(Image.Transpose.ROTATE_90).save(
        tmp_path / "turned.jpg", exif=exif, quality=95
    )
    rows.append(["turned.jpg", *rows[0][1:]])  # landmarks are those of the upright image
    Image.open(tmp_path / "0.jpg").resize((400, 200)).save(tmp_path / "enlarged.jpg", quality=95)
    rows.append(["enlarged.jpg", *rows[0][1:]])  # measured in an image of half the size
    landmark_csv(tmp_path / "landmarks.csv", rows, 2)

    samples = in_both(tmp_path, 64)
    assert len(samples) == 7
    for sample in samples.values():
        redness = (255 - sample.image[1].double()).numpy() / 255
        grid_y, grid_x = np.mgrid[0:64, 0:64] + 0.5
        found = [(redness * grid_x).sum() / redness.sum(), (redness * grid_y).sum() / redness.sum()]
        expected = to_pixels(sample.landmarks[0], 64, 64)
        assert np.abs(np.array(found) - expected.numpy()).max() < 0.3, sample.name
        assert sample.landmarks[1].isnan().all()  # an empty field


def test_landmarks_cut_away_lie_outside(tmp_path):
    picture(tmp_path / "a.png", (200, 100))
    picture(tmp_path / "b.png", (200, 100))
    landmark_csv(tmp_path / "landmarks.csv", [["a.png", 200, 100, 0, 50]], 1)
    samples = in_both(tmp_path)
    assert torch.equal(samples["a.png"].landmarks, torch.tensor([[-2.0, 0.0]]))
    assert samples["b.png"].landmarks.isnan().all()  # an image without a row stays, unlabelled


def test_clip_and_frame_digits(tmp_path):
    files = ["Ann_Lee_01.jpg", "Ann_Lee_02.jpg", "Ann_Lee_t03.jpg", "Ann_Lee_10.jpg", "Bo_Ek_01.jpg"]
    for split in ("train", "val"):
        for file in files:
            picture(tmp_path / split / file)
        landmark_csv(tmp_path / f"{split}_landmarks.csv", [[file, 40, 30, 1, 2] for file in files], 1)
    data = open_data(str(tmp_path), 16, "val")
    assert isinstance(data, SampleSet)
    assert data.landmark_count == 1
    clip_of = dict(zip(data.files, data.clips, strict=True))
    assert clip_of == {
        "val/Ann_Lee_01.jpg": "Ann_Lee_0",
        "val/Ann_Lee_02.jpg": "Ann_Lee_0",
        "val/Ann_Lee_t03.jpg": "Ann_Lee_0",
        "val/Ann_Lee_10.jpg": "Ann_Lee_1",
        "val/Bo_Ek_01.jpg": "Bo_Ek_0",
    }
    assert [sample.clip for sample in data] == data.clips


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name;x;y\na.png;1;2\n", "expected 'file,width,height,x0,y0"),
        ("file,width,height,x0,y0\na.png,40,30,1\n", "line 2 has 4 fields; expected 5"),
        ("file,width,height,x0,y0\na.png,40,30,1,left\n", "line 2: could not convert"),
        ("file,width,height,x0,y0\n", "no rows"),
        ("file,width,height,x0,y0\nz.png,40,30,1,2\n", "none of its 1 files"),
    ],
)
def test_wrong_csv_is_one_line(tmp_path, text, expected):
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png")
    (tmp_path / "landmarks.csv").write_text(text)
    with pytest.raises(UserError) as error:
        open_data(str(tmp_path), 16)
    one_line(error, "landmarks.csv", expected)


def test_csv_rows_without_a_file_are_named(tmp_path, caplog):
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png")
    landmark_csv(tmp_path / "landmarks.csv", [["a.png", 40, 30, 1, 2], ["gone.png", 40, 30, 1, 2]], 1)
    open_data(str(tmp_path), 16)
    assert any("gone.png" in message for message in caplog.messages)


# Synthetic figures


def test_synthetic_is_a_function_of_its_index():
    data, again = SyntheticFigures(64), SyntheticFigures(64)
    assert torch.equal(data[123].image, again[123].image)
    assert torch.equal(data[123].landmarks, again[123].landmarks)
    assert not torch.equal(data[123].image, SyntheticFigures(64, seed=1)[123].image)
    assert not torch.equal(data[0].image, SyntheticFigures(64, "val")[0].image)
    assert not set(data.clips) & set(SyntheticFigures(64, "val").clips)
    with pytest.raises(IndexError):
        data[len(data)]


def test_synthetic_is_the_same_picture_at_every_size():
    small, large = SyntheticFigures(32)[5], SyntheticFigures(128)[5]
    assert torch.equal(small.landmarks, large.landmarks)
    reduced = torch.nn.functional.avg_pool2d(large.image.float(), 4)
    assert (reduced - small.image.float()).abs().mean() < 8


def test_synthetic_joints_lie_on_the_figure():
    """Every joint is in the image, and inside the drawn silhouette."""
    rng = np.random.default_rng(0)
    for seed in range(40):
        figure = Figure(np.random.default_rng(seed))
        posed, origin = figure.place(rng.random(POSE_SIZE), rng.random())
        image, mask = figure.draw(posed, origin, 128)
        empty = figure.scene.draw(128, figure.floor) * 255
        joints = figure.joints(posed, origin)
        assert joints.min() > 0 and joints.max() < 1
        x, y = np.floor(joints.T * 128).astype(int)
        assert mask[y, x].min() > 0.9
        assert 0.02 < mask.mean() < 0.5
        # and what the mask leaves out is the scene, but for soft shadows, which only darken
        outside = mask == 0
        assert (image[outside] <= empty[outside] + 1).all()


def test_synthetic_links_are_a_tree_over_the_joints():
    reached = {0}
    for a, b in SKELETON_LINKS:
        assert a < b and a in reached
        reached.add(b)
    assert reached == set(range(len(JOINT_NAMES))) and len(SKELETON_LINKS) == len(JOINT_NAMES) - 1


def test_synthetic_clips_share_a_figure():
    data = open_data("synthetic", 64)
    assert data.landmark_count == len(JOINT_NAMES) and len(data) == len(data.clips) == 20_000
    first = [data[i] for i in range(FRAMES_A_CLIP)]
    assert {sample.clip for sample in first} == {data.clips[0]} != {data[FRAMES_A_CLIP].clip}
    # The upper corners show the same scene in all poses, and the figure moves.
    corners = torch.stack([sample.image[:, :6, :4] for sample in first])
    assert (corners == corners[0]).all()
    assert torch.stack([sample.landmarks for sample in first]).std(0).mean() > 0.05


def test_synthetic_clip_moves_smoothly():
    frames, joints = synthetic_clip(seed=3, frames=30, size=48)
    assert frames.shape == (30, 3, 48, 48) and frames.dtype == torch.uint8
    assert joints.shape == (30, len(JOINT_NAMES), 2) and joints.abs().max() < 1
    steps = (joints[1:] - joints[:-1]).norm(dim=-1)
    assert 0.005 < steps.mean() < 0.06 and steps.max() < 0.25
    same, same_motion = synthetic_clip(3, 30, 48)[0], synthetic_clip(3, 30, 48, identity_seed=9)
    assert torch.equal(frames, same)
    assert not torch.equal(frames, same_motion[0])
    # another body, the same dance
    a, b = joints - joints.mean(0), same_motion[1] - same_motion[1].mean(0)
    assert (a * b).sum() / (a.norm() * b.norm()) > 0.9


# Videos


def test_folder_of_videos(tmp_path):
    root = tmp_path / "videos"
    for i in range(3):
        video(root / f"v{i}.mp4", level=30 * i)
    train, val = open_data(str(root), 32), open_data(str(root), 32, "val")
    assert len(train) == 3 * 10 and len(val) == 3 * 2  # fewer than ten videos: the last tenth of each, two at least
    assert set(train.clips) == set(val.clips) == {"v0.mp4", "v1.mp4", "v2.mp4"}
    assert {sample.name for sample in val} == {f"v{i}.mp4/{n:06}.jpg" for i in range(3) for n in (10, 11)}
    for n, sample in enumerate(val):
        assert (sample.image.float() - (30 * (n // 2) + 80 + 8 * (n % 2))).abs().max() < 6
        assert sample.image.shape == (3, 32, 32)


def test_many_videos_are_held_out_as_a_whole(tmp_path):
    root = tmp_path / "videos"
    for i in range(10):
        video(root / f"v{i}.mp4", frames=3)
    train, val = open_data(str(root), 16), open_data(str(root), 16, "val")
    assert len(set(val.clips)) == 1 and len(set(train.clips)) == 9 and not set(train.clips) & set(val.clips)


def test_videos_are_decoded_once(tmp_path, monkeypatch):
    path = video(tmp_path / "one.mp4")
    first = open_data(str(path), 32)
    assert len(first) == 10 and first.name == "one"

    def decode(*_):
        raise AssertionError("decoded again")

    with monkeypatch.context() as patched:
        patched.setattr(clips_module, "VideoReader", decode)
        assert torch.equal(open_data(str(path), 32)[3].image, first[3].image)
    video(path, frames=20)  # a change is noticed
    assert len(open_data(str(path), 32)) == 18
    assert not list((tmp_path / "cache").rglob("part-*"))


def test_truncated_video_is_named_and_skipped(tmp_path, caplog):
    root = tmp_path / "videos"
    whole = video(root / "whole.mp4")
    (root / "cut.mp4").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    (root / "text.mov").write_text("hello")
    with caplog.at_level(logging.WARNING):
        assert set(open_data(str(root), 16).clips) == {"whole.mp4"}
    assert sum("cut.mp4" in m for m in caplog.messages) == sum("text.mov" in m for m in caplog.messages) == 1
    whole.unlink()
    with pytest.raises(UserError) as error:
        open_data(str(root), 16)
    one_line(error, "none of its 2 video(s) can be read")


def test_cache_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    path = video(tmp_path / "one.mp4")
    (tmp_path / "file").touch()
    monkeypatch.setenv("AUTOLINK_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError) as error:
        open_data(str(path), 16)
    one_line(error, "AUTOLINK_CACHE")


# Names and errors


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
        (lambda path: path.write_text("x"), "is a file that is no video"),
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
    assert printed.startswith(f"error: {tmp_path / data.files[0]}: cannot be decoded")
    assert printed.count("\n") == 1


# Real data


def test_real_faces(real_data):
    train, val = open_data("faces", 64), open_data("faces", 64, "val")
    assert (len(train), len(val), train.landmark_count) == (2919, 719, 68)
    assert not set(train.clips) & set(val.clips)
    assert 0 < sum(clip.startswith("Adam_Sandler_") for clip in set(train.clips)) < 10
    landmarks = torch.stack([val[i].landmarks for i in range(0, 719, 30)])
    assert not landmarks.isnan().any() and (landmarks.abs() < 1).float().mean() > 0.95
    # Points 36 to 41 and 42 to 47 of this scheme are the eyes, 48 to 67 the mouth: an upright face.
    eyes, mouth = landmarks[:, 36:48].mean(1), landmarks[:, 48:].mean(1)
    assert (mouth[:, 1] - eyes[:, 1] > 0.1).all()
    assert ((landmarks[:, 42:48] - landmarks[:, 36:42]).mean(1)[:, 0] > 0).all()


def test_real_animals(real_data):
    data = open_data(str(real_data / "afhq_sample"), 64)
    assert len(data) == 36 and set(data.clips) == {""}
    assert all(sample.image.float().std() > 10 for sample in data)


def test_real_video(real_data):
    data = open_data(str(real_data / "clips" / "speaker_man.mp4"), 64)
    assert set(data.clips) == {"speaker_man.mp4"} and len(data) > 100
    assert data[0].image.float().std() > 20
