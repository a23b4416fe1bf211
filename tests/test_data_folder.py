"""Folders promise: any folder of images works or says why not in one line."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from data_files import BLUE, RED, as_stored, dots, find_dot, in_both, one_line, picture
from PIL import Image

from autolink.data import open_data
from autolink.data.folder import ImageFiles
from autolink.data.splits import clips_of, hold_out, series_of
from autolink.errors import UserError

pytestmark = pytest.mark.usefixtures("own_data_only")


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
    image = as_stored(upright, orientation)
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


@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_box_is_stretched_to_the_square(tmp_path, orientation, mirrored):
    """Boxes are of the upright image, cut at its border; large JPEGs are decoded at a fraction of their size."""
    dots(tmp_path / "a.jpg", (1200, 900), {0: (700, 800)}, 40)
    image = as_stored(Image.open(tmp_path / "a.jpg"), orientation)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "a.jpg", exif=exif, quality=95, subsampling=0)
    boxes, landmarks = np.array([[500.0, -np.inf, 1000, 1000]]), np.array([[[700.0, 800]]])
    data = ImageFiles("a", tmp_path, ["a.jpg"], 96, landmarks=landmarks, boxes=boxes, mirrored=np.array([mirrored]))
    expected = np.array([(700 - 500) / 500 * 2 - 1, 800 / 900 * 2 - 1]) * ((-1, 1) if mirrored else (1, 1))
    np.testing.assert_allclose(data[0].landmarks[0], expected, atol=1e-6)
    np.testing.assert_allclose(find_dot(data[0].image, 0), expected, atol=0.02)


def test_a_box_outside_its_image_is_one_line(tmp_path):
    picture(tmp_path / "a.png", (40, 30))
    data = ImageFiles("a", tmp_path, ["a.png"], 16, boxes=np.array([[50.0, 0, 60, 10]]))
    with pytest.raises(UserError) as error:
        data[0]
    one_line(error, "a.png", "40 x 30", "(50.0, 0.0, 60.0, 10.0)")


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
    assert open_data(str(tmp_path), 8, "train").files == open_data(str(tmp_path), 8, "fit").files
    units = [str(i) for i in range(30)]
    assert hold_out(units)[::-1] == hold_out(units[::-1])  # in whatever order they are listed


@pytest.mark.parametrize("held_out", ["val", "test", "validation"])
def test_sub_folders_make_the_split(tmp_path, held_out):
    picture(tmp_path / "train" / "a.png")
    picture(tmp_path / held_out / "b.png")
    assert open_data(str(tmp_path), 8).files == ["train/a.png"]
    assert open_data(str(tmp_path), 8, "val").files == [f"{held_out}/b.png"]


def test_series_from_names():
    assert series_of(["walk_001.png", "walk_002.png", "run-1.png", "run-2.png", "portrait.png"]) == [
        *("walk", "walk", "run", "run", "")
    ]
    assert series_of(["one/0001.png", "one/0002.png", "two/0001.png"]) == ["one", "one", "two"]
    assert series_of(["anna/smile.png", "anna/frown.png"]) == ["anna", "anna"]
    assert series_of(["one/f1.png", "two/f1.png", "one/f2.png", "two/f2.png"]) == [
        *("one/f", "two/f", "one/f", "two/f")
    ]


def test_clips_are_told_by_folders_and_people():
    """A numbered series may be of strangers: in the folder itself it is no clip, in one of its own it was put so."""
    assert clips_of(["IMG_0001.jpg", "IMG_0002.jpg", "a/1.jpg", "a/2.jpg"]) == ["", "", "a", "a"]
    assert clips_of(["b/walk_1.png", "b/walk_2.png", "b/run_1.png", "b/run_2.png"]) == [
        *("b/walk", "b/walk", "b/run", "b/run")
    ]
    assert clips_of(["Train/IMG_1.jpg", "Train/IMG_2.jpg", "Train/a/x.jpg"], "Train") == ["", "", "Train/a"]
    people = ["Ann_Lee_01.jpg", "Ann_Lee_t02.jpg", "Jo_van_Berg_10.jpg"]
    assert clips_of(people, people=True) == ["Ann_Lee_0", "Ann_Lee_0", "Jo_van_Berg_1"]
    assert clips_of(people) == ["", "", ""]
    assert clips_of(["IMG_01.jpg", "IMG_02.jpg", "IMG_11.jpg"], people=True) == ["", "", ""]


def test_ten_series_or_more_are_held_out_as_wholes(tmp_path):
    for i in range(10):
        for k in range(3):
            picture(tmp_path / f"walk{'abcdefghij'[i]}_{k}.png", (8, 8))
    train, val = ({file[:5] for file in open_data(str(tmp_path), 8, split).files} for split in ("train", "val"))
    assert len(train) == 9 and len(val) == 1 and not train & val


@pytest.mark.parametrize("names", [("Train", "Test"), ("TRAIN", "VAL"), ("Training", "Testing"), ("train", "Valid")])
def test_parts_are_found_in_any_capitalisation(tmp_path, names):
    for name in names:
        for i in range(2):
            picture(tmp_path / name / f"{name}{i}.png")
    train, val = (open_data(str(tmp_path), 8, split) for split in ("train", "val"))
    assert train.files == [f"{names[0]}/{names[0]}{i}.png" for i in range(2)] and set(train.clips) == {""}
    assert val.files == [f"{names[1]}/{names[1]}{i}.png" for i in range(2)]


def test_two_capitalisations_of_a_part_are_one_line(tmp_path):
    for name in ("Train", "train", "val"):
        picture(tmp_path / name / "a.png")
    with pytest.raises(UserError) as error:
        open_data(str(tmp_path), 8)
    one_line(error, "Train and train")


def test_real_animals(real_data):
    data = open_data(str(real_data / "afhq_sample"), 64)
    assert len(data) == 36 and set(data.clips) == {""}
    assert all(sample.image.float().std() > 10 for sample in data)
