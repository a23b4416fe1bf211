"""Tables of `autolink detect` in every format, smoothing, recordings, and memory."""

from __future__ import annotations

import csv
import json
import sys
import tracemalloc
from fractions import Fraction
from pathlib import Path

import av
import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from autolink import cli, load
from autolink.commands.detect import Options, detect
from autolink.commands.tables import Detection, Tables
from autolink.data import open_data
from autolink.errors import UserError
from autolink.model import AutoLink, AutoLinkConfig
from autolink.smoothing import OneEuroFilter
from autolink.tracking.windows import Window, cut
from autolink.video import write_video


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    """A small untrained model whose keypoints differ from image to image."""
    model = AutoLink(AutoLinkConfig(keypoints=3, image_size=32, width=0.125)).eval()
    with torch.no_grad():
        model.detector.heatmaps.weight.mul_(3000)
    return model.save_pretrained(tmp_path / "model.safetensors", {})


def clip(path: Path, seed: int, frames: int, rate: Fraction = Fraction(25)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(seed).integers(0, 255, (frames, 6, 8, 3), dtype=np.uint8)
    write_video(path, small.repeat(8, 1).repeat(8, 2), rate)
    return path


def picture(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(small.repeat(8, 0).repeat(8, 1)).save(path)
    return path


def read_deeplabcut(path: Path) -> tuple[list[str], list[str], np.ndarray]:
    """Index, body parts and (T, K, 3) of a file, as readers of DeepLabCut's csv take it apart."""
    rows = list(csv.reader(path.open()))
    assert [row[0] for row in rows[:3]] == ["scorer", "bodyparts", "coords"]
    assert rows[2][1:] == ["x", "y", "likelihood"] * (len(rows[2]) // 3)
    values = np.array([[float(v) for v in row[1:]] for row in rows[3:]])
    return [row[0] for row in rows[3:]], rows[1][1::3], values.reshape(len(values), -1, 3)


def test_every_format_says_the_same(model_file: Path, tmp_path: Path) -> None:
    first, second = clip(tmp_path / "first.mp4", 0, 7), clip(tmp_path / "file.mp4", 1, 4)
    images = [picture(tmp_path / "pictures" / f"{i}.png", i) for i in range(3)]
    out = tmp_path / "out"
    formats = ("csv", "npz", "deeplabcut", "sleap", "coco", "moseq")
    tables = detect(
        Options((first, images[0].parent, second), str(model_file), out, formats=formats, precision="float32")
    )
    assert tables.count == 14 and all(path.exists() for path in tables.written)
    arrays = np.load(out / "keypoints.npz")
    assert arrays["sources"].tolist() == [str(first), *map(str, images), str(second)]
    assert arrays["source"].tolist() == [0] * 7 + [1, 2, 3] + [4] * 4
    assert arrays["frame"].tolist() == [*range(7), 0, 0, 0, *range(4)]

    coordinates, confidences = (dict(np.load(out / f"{name}.npz")) for name in ("coordinates", "confidences"))
    rows = {"first": slice(0, 7), "pictures": slice(7, 10), "file": slice(10, 14)}
    assert list(coordinates) == list(confidences) == list(rows)
    table = list(csv.reader((out / "keypoints.csv").open()))
    assert table[0][:6] == ["source", "frame", "time", "x0", "y0", "confidence0"]
    for name, at in rows.items():
        assert np.array_equal(coordinates[name], arrays["keypoints"][at])
        assert np.array_equal(confidences[name], arrays["confidence"][at])
        index, parts, values = read_deeplabcut(out / "deeplabcut" / f"{name}.csv")
        assert index == [str(i) for i in range(len(values))] and parts == ["keypoint0", "keypoint1", "keypoint2"]
        assert np.allclose(values[..., :2], coordinates[name], atol=1e-3)
        assert np.allclose(values[..., 2], confidences[name], atol=1e-4)
        written = np.array([[float(v) for v in row[3:]] for row in table[1:][at]]).reshape(values.shape)
        assert np.array_equal(written, values)
        header, *exported = csv.reader((out / "sleap" / f"{name}.csv").open())
        assert header[:6] == ["track", "frame_idx", "instance.score", "keypoint0.x", "keypoint0.y", "keypoint0.score"]
        assert [row[1] for row in exported] == index
        assert np.array_equal(np.array([list(map(float, row[3:])) for row in exported]).reshape(values.shape), values)
    coco = json.loads((out / "coco.json").read_text())
    assert [(out / image["file_name"]).resolve() for image in coco["images"]] == [
        path.resolve() for path in [first] * 7 + images + [second] * 4
    ]
    found = np.array([one["keypoints"] for one in coco["annotations"]]).reshape(14, -1, 3)
    assert np.allclose(found[..., :2], arrays["keypoints"], atol=0.01) and (found[..., 2] == 2).all()
    names = coco["categories"][0]["keypoints"]
    assert names == ["keypoint0", "keypoint1", "keypoint2"]
    assert all(1 <= i < j <= 3 for i, j in coco["categories"][0]["skeleton"])


@pytest.fixture
def tables(model_file: Path, tmp_path: Path) -> Path:
    """Tables of two pictures."""
    picture(tmp_path / "pictures" / "0.png", 0), picture(tmp_path / "pictures" / "1.png", 1)
    out = tmp_path / "out"
    detect(Options((tmp_path / "pictures",), str(model_file), out, formats=("deeplabcut", "sleap", "coco")))
    return out


def test_sleap_io_reads_the_tables(tables: Path) -> None:
    sleap_io = pytest.importorskip("sleap_io", reason="needs sleap-io, which is no dependency")
    for file in (tables / "sleap" / "pictures.csv", tables / "coco.json"):
        labels = sleap_io.load_file(str(file))
        assert len(labels) == 2 and labels[0].numpy().shape == (1, 3, 2)


def test_movement_reads_the_tables(tables: Path) -> None:
    load_poses = pytest.importorskip("movement.io.load_poses", reason="needs movement, which is no dependency")
    sizes = load_poses.from_dlc_file(tables / "deeplabcut" / "pictures.csv", fps=25).sizes
    assert (sizes["time"], sizes["keypoints"]) == (2, 3)


def test_coco_keypoints_written_are_data_again(tables: Path) -> None:
    data = open_data(str(tables / "coco.json"), 32, "all")
    written = json.loads((tables / "coco.json").read_text())["annotations"]
    assert data.landmark_names == ("keypoint0", "keypoint1", "keypoint2") and len(data) == len(written) == 2
    expected = [np.array(one["keypoints"]).reshape(3, 3)[:, :2] for one in written]
    np.testing.assert_allclose(data.landmarks, expected, atol=1e-3)


def test_only_what_is_asked_for_is_written(model_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    detect(Options((clip(tmp_path / "a.mp4", 0, 2),), str(model_file), out, formats=("deeplabcut",), overlays=False))
    assert [p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()] == ["deeplabcut/a.csv"]


def test_recordings_of_one_name_are_kept_apart_and_whole(model_file: Path, tmp_path: Path) -> None:
    clips = [clip(tmp_path / folder / "day.mp4", i, 2 + i) for i, folder in enumerate("ab")]
    loose = [picture(tmp_path / folder / "day" / "x.png", i) for i, folder in enumerate("cdc")]
    loose[2] = picture(tmp_path / "c" / "day" / "y.png", 9)
    options = Options((clips[0], loose[0], loose[1], clips[1], loose[2]), str(model_file), tmp_path / "out")
    options.formats, options.overlays = ("moseq",), False
    detect(options)
    shapes = {name: len(values) for name, values in np.load(tmp_path / "out" / "coordinates.npz").items()}
    assert shapes == {"day": 2, "day_": 2, "day__": 1, "day___": 3}


def test_smoothing_is_the_filter_at_the_times_of_the_frames_and_leaves_pictures(
    model_file: Path, tmp_path: Path
) -> None:
    inputs = (
        clip(tmp_path / "a.mp4", 0, 6, Fraction(7)),
        clip(tmp_path / "b.mp4", 1, 5),
        picture(tmp_path / "c.png", 3),
    )
    raw, smooth = (tmp_path / name for name in ("raw", "smooth"))
    for out, wanted in ((raw, False), (smooth, True)):
        detect(Options(inputs, str(model_file), out, smooth=wanted, overlays=False, formats=("npz",)))
    before, after = np.load(raw / "keypoints.npz"), np.load(smooth / "keypoints.npz")
    expected = []
    for at in (slice(0, 6), slice(6, 11)):  # each video with a filter of its own; the square is 48 pixels high
        filtered = OneEuroFilter()
        poses, times = torch.from_numpy(before["keypoints"][at]) / 24, before["time"][at]
        expected += [filtered(pose, time) * 24 for pose, time in zip(poses, times.tolist())]
    assert np.allclose(after["keypoints"][:11], torch.stack(expected), atol=1e-3)
    assert np.array_equal(after["keypoints"][11], before["keypoints"][11])
    assert np.abs(after["keypoints"][:11] - before["keypoints"][:11]).max() > 0.5


def test_a_frame_leaves_nothing_behind_but_its_numbers(tiny: AutoLink, tmp_path: Path) -> None:
    kept = []
    with Tables(tmp_path, ("csv", "npz", "deeplabcut", "moseq"), tiny, None) as tables:
        tracemalloc.start()
        for i in range(4000):
            image = np.zeros((200, 200, 3), np.uint8)
            found = Detection(Path("a.mp4"), i, Fraction(i, 25), image, torch.rand(4, 2), torch.rand(4))
            tables.add(found, "a")
            if i % 2000 == 1999:
                kept.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
    assert kept[1] - kept[0] < 1.2 * 2000 * (12 * 4 + 24)  # three floats a point; time, frame and source
    assert np.load(tmp_path / "coordinates.npz")["a"].shape == (4000, 4, 2)


def fill(tables: Tables, rows: int) -> None:
    for i in range(rows):
        found = Detection(
            Path("a.mp4"), i, Fraction(i, 25), np.zeros((8, 8, 3), np.uint8), torch.rand(4, 2), torch.ones(4)
        )
        tables.add(found, "a")


def test_what_ends_early_leaves_the_tables_of_the_run_before(
    tiny: AutoLink, tmp_path: Path, nearly_full, caplog
) -> None:
    formats = ("csv", "npz", "deeplabcut", "moseq")
    with Tables(tmp_path, formats, tiny, None) as tables:
        fill(tables, 3)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    assert len(before) == 5

    with pytest.raises(UserError, match="unreadable"), Tables(tmp_path, formats, tiny, None):
        raise UserError("unreadable")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before

    with pytest.raises(KeyboardInterrupt), Tables(tmp_path, formats, tiny, None) as tables:
        fill(tables, 2)
        raise KeyboardInterrupt
    parts = [tmp_path / "keypoints.csv.part", tmp_path / "deeplabcut" / "a.csv.part"]
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path not in parts} == before
    assert [len(path.read_text().splitlines()) for path in parts] == [1 + 2, 3 + 2]
    assert all(f"the rows written so far are in {path}" in caplog.text for path in parts)

    with (
        nearly_full(20_000),
        pytest.raises(UserError, match=r"keypoints.csv: cannot be written .*; free some space"),
        Tables(tmp_path, formats, tiny, None) as tables,
    ):
        fill(tables, 1000)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path not in parts} == before


def test_a_second_run_into_a_folder_of_the_inputs_reads_what_the_first_read(model_file: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    originals = [picture(photos / "a.png", 0), picture(photos / "b" / "c.png", 1), clip(photos / "d.mp4", 2, 3)]
    for output in (photos / "keypoints", photos / "keypoints", photos, photos, tmp_path / "elsewhere"):
        assert detect(Options((photos,), str(model_file), output)).count == 5
        assert set(np.load(output / "keypoints.npz")["sources"]) == set(map(str, originals))
        assert sorted(file.name for file in (output / "overlays").rglob("*.*")) == ["a.png", "c.png", "d.mp4"]


def test_an_overlay_does_not_replace_its_picture(model_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    photo = picture(out / "overlays" / "a.png", 0)
    before = photo.read_bytes()
    with pytest.raises(UserError, match=r"a.png is an input and would be overwritten"):
        detect(Options((photo,), str(model_file), out))
    assert photo.read_bytes() == before


def test_a_place_that_takes_no_arrays_is_told_before_the_work(tiny: AutoLink, tmp_path: Path) -> None:
    (tmp_path / "keypoints.npz").mkdir()
    with pytest.raises(UserError, match=r"keypoints.npz: there is a folder of this name"):
        Tables(tmp_path, ("npz",), tiny, None).__enter__()


def test_a_wrong_option_gets_one_line(model_file: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    video = clip(tmp_path / "a.mp4", 0, 2)
    for wrong, message in (
        (("--batch-size", 0), "--batch-size 0"),
        (("--calibration", tmp_path / "none.safetensors"), "no such file"),
        (("--calibration", model_file), "autolink calibrate"),
    ):
        command = ["autolink", "detect", "--model", model_file, "--output", tmp_path / "out", *wrong, video]
        monkeypatch.setattr(sys, "argv", list(map(str, command)))
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        errors = capsys.readouterr().err
        assert stopped.value.code == 2 and message in errors and "Traceback" not in errors


def run_detect(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Status of `autolink detect …`."""
    monkeypatch.setattr(sys, "argv", ["autolink", "detect", *map(str, arguments)])
    try:
        cli.main()
    except SystemExit as stopped:
        return int(stopped.code or 0)
    return 0


def test_one_bad_file_of_many_is_named_and_the_rest_is_done(
    model_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    caplog: pytest.LogCaptureFixture,
) -> None:
    given = tmp_path / "given"
    for i in range(3):
        picture(given / f"{i}.png", i)
    clip(given / "whole.mp4", 0, 5)
    data = clip(given / "cut.mp4", 1, 5).read_bytes()
    (given / "cut.mp4").write_bytes(data[: len(data) // 2])
    (given / "1.png").write_bytes((given / "1.png").read_bytes()[:60])
    (given / "empty.jpg").touch()
    out = tmp_path / "out"
    assert run_detect(monkeypatch, given, "--model", model_file, "--output", out, "--device", "cpu") == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: 3 inputs could not be used, all others are done")
    for name in ("cut.mp4", "1.png", "empty.jpg"):
        assert name in said and sum(name in message for message in caplog.messages) == 1
    rows = list(csv.DictReader((out / "keypoints.csv").open()))
    assert [Path(row["source"]).name for row in rows] == ["0.png", "2.png", *["whole.mp4"] * 5]
    assert len(np.load(out / "keypoints.npz")["keypoints"]) == 7
    assert run_detect(monkeypatch, given / "0.png", "--model", model_file, "--output", out, "--device", "cpu") == 0


def test_two_transport_streams_are_two_recordings(model_file: Path, tmp_path: Path) -> None:
    """One is not run into the other because its suffix is not in a list, nor left out beside mp4."""
    clip(tmp_path / "c.mp4", 0, 4)
    for name in ("a.ts", "b.ts"):
        with av.open(str(tmp_path / "c.mp4")) as source, av.open(str(tmp_path / name), "w", format="mpegts") as output:
            track = output.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.dts is not None:
                    packet.stream = track
                    output.mux(packet)
    model_file.rename(tmp_path / "model")
    tables = detect(
        Options((tmp_path,), str(tmp_path / "model"), tmp_path / "out", ("deeplabcut", "moseq"), overlays=False)
    )
    assert tables.count == 12
    assert sorted(file.name for file in (tmp_path / "out" / "deeplabcut").iterdir()) == ["a.csv", "b.csv", "c.csv"]
    assert sorted(np.load(tmp_path / "out" / "coordinates.npz")) == ["a", "b", "c"]


@pytest.fixture
def small_face(tmp_path: Path) -> tuple[Path, Window]:
    """A wide picture with a face in a corner, and the window that holds its head."""
    photo = Image.open(Path(matplotlib.get_data_path()) / "sample_data/grace_hopper.jpg").convert("RGB")
    scene = Image.new("RGB", (640, 400), (96, 104, 96))
    scene.paste(photo.crop((120, 0, 400, 280)).resize((112, 112)), (500, 30))
    scene.save(tmp_path / "scene.png")
    return tmp_path / "scene.png", Window(556, 86, 112)


def test_crop_auto_finds_what_is_small_and_beside_the_middle(
    small_face: tuple[Path, Window], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    path, window = small_face
    model = load("faces")
    near = model.detect([cut(np.asarray(Image.open(path)), window, 128)])
    expected = torch.tensor(window[:2]) + near.xy[0] * window.side / 2
    found = {}
    for crop in ("none", "auto"):
        out = tmp_path / crop
        assert run_detect(monkeypatch, path, "--output", out, "--crop", crop, "--no-overlays") == 0
        assert ("--crop auto" in capsys.readouterr().out) == (crop == "none")
        with np.load(out / "keypoints.npz") as arrays:
            found[crop] = arrays["keypoints"][0], arrays["confidence"][0].mean()
    off = {crop: np.linalg.norm(points - expected.numpy(), axis=-1).mean() for crop, (points, _) in found.items()}
    assert off["auto"] < 16 < 100 < off["none"]  # pixels; the head is 112 high
    assert found["none"][1] < 0.3 < 0.7 < found["auto"][1]


def test_crop_auto_changes_nothing_where_the_model_is_sure(tmp_path: Path) -> None:
    photo = Image.open(Path(matplotlib.get_data_path()) / "sample_data/grace_hopper.jpg").convert("RGB")
    photo.crop((120, 0, 400, 280)).save(tmp_path / "head.png")
    found = []
    for crop in ("none", "auto"):
        detect(Options((tmp_path / "head.png",), "faces", tmp_path / crop, crop=crop, overlays=False, formats=("npz",)))
        with np.load(tmp_path / crop / "keypoints.npz") as arrays:
            found.append(arrays["keypoints"])
    # Pixels of 280; the square is shrunk by another filter, which one torn heatmap shows.
    assert np.median(np.abs(found[0] - found[1])) < 1
