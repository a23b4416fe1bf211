"""Landmark tables promise: landmarks stay on what they mark."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from data_files import RED, in_both, landmark_csv, one_line, picture
from PIL import Image

from autolink.data import SampleSet, open_data
from autolink.errors import UserError
from autolink.geometry import to_pixels

pytestmark = pytest.mark.usefixtures("own_data_only")


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
        ("file,width,height,x0,y0\na.png,0,30,1,2\n", "line 2: width 0, height 30; expected both above 0"),
        ("file,width,height,x0,y0\na.png,40,-3,1,2\n", "line 2: width 40, height -3"),
        ("file,width,height,x0,y0\na.png,40,,1,2\n", "line 2: width 40, height nothing"),
        ("file,width,height,x0,y0\na.png,40,nan,1,2\n", "line 2: width 40, height nan"),
        ("file,width,height,x0,y0\na.png,40,30,inf,2\n", "finite landmarks"),
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


@pytest.mark.parametrize("name", ["IMG_{:04d}.jpg", "{:d}.jpg", "img_{:02d}.jpg", "walk/{:03d}.jpg"])
def test_a_numbered_series_can_be_trained_with_and_evaluated_on(tmp_path, name):
    """Labelled photographs are called what a camera calls them, and one series is no reason to refuse them."""
    files = [name.format(i) for i in range(24)]
    for file in files:
        picture(tmp_path / file)
    landmark_csv(tmp_path / "landmarks.csv", [[file, 40, 30, 1, 2] for file in files], 1)
    train, val = (open_data(str(tmp_path), 16, split) for split in ("train", "val"))
    assert (len(train), len(val)) == (22, 2) and not set(train.files) & set(val.files)
    assert sorted(open_data(str(tmp_path), 16, "all").files) == sorted(files)


def test_no_person_is_in_both_parts(tmp_path):
    files = [
        f"{person}_{clip}{frame}.jpg" for person in ("Ann_Lee", "Bo_Ek", "Cy_Ng") for clip in "01" for frame in "12"
    ]
    for file in files:
        picture(tmp_path / file)
    landmark_csv(tmp_path / "landmarks.csv", [[file, 40, 30, 1, 2] for file in files], 1)
    train, val = ({file[:2] for file in open_data(str(tmp_path), 16, split).files} for split in ("train", "val"))
    assert len(train) == 2 and len(val) == 1 and not train & val


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
