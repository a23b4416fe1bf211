"""The evaluation of pose transfer: each number against a case worked out by hand, and the command on made clips."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch
from data_files import landmark_csv
from PIL import Image
from transfer_files import TINY, tiny_model, write_autolink, write_model

from autolink import AutoLink
from autolink.data.synthetic import synthetic_clip
from autolink.losses import PerceptualLoss
from autolink.metrics import Labelled, interocular_error, visible_error
from autolink.visualize import to_uint8
from autolink_apps.pose_transfer import PoseTransfer
from autolink_apps.pose_transfer import evaluate as evaluating
from autolink_apps.pose_transfer.metrics import (
    LandmarkMap,
    Likeness,
    background_error,
    flicker,
    keypoint_distance,
    l1,
    looks_distance,
    motion_correlation,
    psnr,
    sharpness,
    still_pixels,
)
from autolink_apps.pose_transfer.report import Row, mean_scores, table, table_of_people


def grey(*levels: int, side: int = 8) -> torch.Tensor:
    """A video of plain frames."""
    return torch.tensor(levels, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, side, side).contiguous()


# Numbers


def test_errors_of_plain_frames_by_hand() -> None:
    made, true = grey(0, 100, 255), grey(0, 151, 0)
    torch.testing.assert_close(l1(made, true), torch.tensor([0, 0.2, 1]))
    torch.testing.assert_close(psnr(made, true), torch.tensor([math.inf, -20 * math.log10(0.2), 0]))


def test_error_of_an_edge_that_is_shifted_by_two_of_eight_pixels() -> None:
    true = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    true[..., 4:] = 255
    made = true.roll(2, dims=3)
    made[..., :2] = 0
    assert l1(made, true).tolist() == [0.25] * 4
    assert psnr(made, true).tolist() == pytest.approx([-10 * math.log10(0.25)] * 4)


def test_flicker_is_the_second_difference() -> None:
    assert flicker(grey(7, 7, 7, 7)) == 0
    assert flicker(grey(0, 51, 102, 153)) == pytest.approx(0, abs=1e-7)  # an even fade
    assert flicker(grey(0, 51, 0, 51)) == pytest.approx(0.4)
    assert flicker(grey(0, 0, 51, 51)) == pytest.approx(0.2)
    assert math.isnan(flicker(grey(1, 2)))


def test_sharpness_is_the_squared_difference_of_neighbours() -> None:
    checks = grey(0, side=4)
    checks[..., ::2, 1::2] = checks[..., 1::2, ::2] = 51
    assert sharpness(checks) == pytest.approx(2 * 0.2**2)
    assert sharpness(grey(7, 99)) == 0


def test_background_is_judged_where_the_true_clip_rests() -> None:
    clip = grey(100, 100, 100)
    clip[1, 0, :, 6:] += 14  # more than a twentieth of the range, in one channel
    clip[2, :, :2] += 12  # less than that
    still = still_pixels(clip)
    assert still[:, :6].all() and not still[:, 6:].any()
    made = clip.clone()
    made[..., 6:] = 0
    assert background_error(made, clip, still) == 0
    made[0, :, 0, :6] += 51  # 6 of 48 pixels in one frame of three
    assert background_error(made, clip, still) == pytest.approx(0.2 * 6 / 48 / 3)
    assert math.isnan(background_error(made, clip, still & False))


def test_keypoint_distance_is_a_share_of_the_side() -> None:
    poses = torch.rand(5, 3, 2)
    assert keypoint_distance(poses + torch.tensor([0.3, 0.4]), poses) == pytest.approx(0.25)


def test_correlation_is_pearsons_about_each_coordinates_mean() -> None:
    asked = torch.randn(20, 3, 2)
    assert motion_correlation(asked * 0.3 + torch.randn(3, 2), asked) == pytest.approx(1)
    assert motion_correlation(-asked, asked) == pytest.approx(-1)
    assert motion_correlation(asked[:1].expand(20, -1, -1), asked) == 0
    found = asked + torch.randn(20, 3, 2)
    by_numpy = np.corrcoef(*((x - x.mean(0)).flatten().numpy() for x in (asked, found)))[0, 1]
    assert motion_correlation(found, asked) == pytest.approx(by_numpy, abs=1e-5)


@pytest.mark.parametrize("count, protocol", [(68, interocular_error), (7, visible_error)])
def test_landmark_error_is_that_of_autolink_evaluate(count: int, protocol) -> None:
    """The other way to compute it fits and judges in one."""
    fit, test = (Labelled(torch.rand(n, 4, 2), torch.rand(n, count, 2)) for n in (30, 6))
    test.landmarks[2, 3:5] = torch.nan
    expected = protocol(fit, test, True)
    assert LandmarkMap(fit).error(*test) * 100 == pytest.approx(expected, rel=1e-5)


def test_likeness_is_that_of_each_frame() -> None:
    likeness, videos = Likeness("pyramid"), torch.randint(0, 256, (2, 3, 3, 16, 16), dtype=torch.uint8)
    assert likeness.distances(videos[0], videos[0]).tolist() == [0, 0, 0]
    expected = [PerceptualLoss("pyramid")(a[None] / 127.5 - 1, b[None] / 127.5 - 1) for a, b in zip(*videos.float())]
    torch.testing.assert_close(likeness.distances(*videos), torch.stack(expected))


def test_looks_do_not_depend_on_the_place_but_on_colours() -> None:
    likeness, image = Likeness("pyramid"), torch.full((1, 3, 32, 32), 90, dtype=torch.uint8)
    image[:, 0, 8:16, 8:16] = 250
    described = likeness.describe(torch.cat([image, image.roll(8, dims=3), image.flip(1)]))
    torch.testing.assert_close(described.norm(dim=1), torch.ones(3))
    distances = looks_distance(described, described[:1])
    assert distances[0].abs() < 1e-6 and distances[1] < 0.1 * distances[2]


def test_nearest_frame_is_far_in_time_or_the_first() -> None:
    def poses(*places: float) -> torch.Tensor:
        return torch.tensor([[[place, 0.5]] for place in places])

    # A quarter of eight frames is two: frame 1 may take 3 and later ones, or the first.
    clip = poses(0, 0.1, 0.2, 0.9, 0.8, 0.7, 0.19, 0.11)
    assert evaluating.nearest_frames(clip).tolist() == [7, 6, 5, 2, 3, 2, 1]
    assert evaluating.nearest_frames(poses(0, 0.1, 0.3)).tolist() == [0, 1]
    assert evaluating.nearest_frames(poses(0, 0.1)).tolist() == [0]


def test_means_leave_out_what_is_undefined() -> None:
    rows = [Row("a", 3, {"x": {"l1": 0.1, "flicker": math.nan}}), Row("b", 5, {"x": {"l1": 0.3, "flicker": math.nan}})]
    means = mean_scores(rows)
    assert means["x"]["l1"] == pytest.approx(0.2) and math.isnan(means["x"]["flicker"])
    drawn = table({"x": {"l1": 0.2, "psnr": math.inf, "keypoints": 0.031, "flicker": math.nan}}).splitlines()
    assert drawn[0].count("|") == drawn[1].count("|") == drawn[2].count("|") == 6
    assert drawn[2] == "| x | 0.2000 | ∞ | 3.10 | – |"


def test_people_have_the_mean_of_their_clips() -> None:
    def row(clip: str, person: str, l1: float) -> Row:
        return Row(
            clip, 3, {"true clip": {"l1": 0.0, "perceptual": 0.0}, "x": {"l1": l1, "perceptual": 2 * l1}}, person
        )

    lines = table_of_people([row("a1", "ann", 0.1), row("b1", "bob", 0.2), row("a2", "ann", 0.3)]).splitlines()
    assert lines[0] == "| person | clips | L1 ↓ x | perceptual ↓ x |"
    assert lines[2:] == ["| ann | 2 | 0.2000 | 0.4000 |", "| bob | 1 | 0.2000 | 0.4000 |"]


# The command

CLIPS, FRAMES = 3, 6


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Figures with their joints as landmarks: 3 clips of 6 frames held out, one of 20 to fit on."""
    root = tmp_path_factory.mktemp("figures")
    for split, seeds, frames in (("train", [9], 20), ("val", range(CLIPS), FRAMES)):
        rows = []
        (root / split).mkdir()
        for seed in seeds:
            video, joints = synthetic_clip(seed, frames, 32)
            for number, (image, points) in enumerate(zip(video, joints)):
                name = f"walk{'abcdefghij'[seed]}/{number:02d}.png"
                (root / split / name).parent.mkdir(exist_ok=True)
                Image.fromarray(image.permute(1, 2, 0).numpy()).save(root / split / name)
                rows.append([name, 32, 32, *((points + 1) * 16).flatten().tolist()])
        landmark_csv(root / f"{split}_landmarks.csv", rows, 14)
    return root


def frames_of(data: Path, clip: str) -> torch.Tensor:
    files = sorted((data / "val").glob(f"walk{clip}/*.png"))
    return torch.from_numpy(np.stack([np.asarray(Image.open(file)) for file in files])).permute(0, 3, 1, 2)


def run(monkeypatch: pytest.MonkeyPatch, model: object, data: object, *more: object) -> None:
    arguments = ["--model", model, "--data", data, "--device", "cpu", "--precision", "float32", *more]
    monkeypatch.setattr(sys, "argv", ["evaluate", *map(str, arguments)])
    evaluating.main()


@pytest.fixture(scope="module")
def output(model_file: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one run of the command leaves, with what it printed as `stdout` and `stderr`."""
    folder = tmp_path_factory.mktemp("output")
    said, shown = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as monkeypatch, redirect_stdout(said), redirect_stderr(shown):
        run(monkeypatch, model_file, data, "--perceptual", "pyramid", "--output", folder, "--batch-size", 4)
    (folder / "stdout").write_text(said.getvalue())
    (folder / "stderr").write_text(shown.getvalue())
    return folder


@pytest.fixture
def report(output: Path) -> dict:
    return json.loads((output / "stdout").read_text())


@torch.no_grad()
def test_reconstruction_is_what_one_computes_by_hand(report: dict, model_file: Path, data: Path, output: Path) -> None:
    assert report["reconstruction"]["clips"] == CLIPS
    assert report["reconstruction"]["frames"] == CLIPS * (FRAMES - 1)
    scores = report["reconstruction"]["scores"]
    assert list(scores) == ["true clip", "copy of the source", "nearest frame", str(model_file)]
    true = scores["true clip"]
    assert true["l1"] == true["perceptual"] == 0 and true["psnr"] is None and true["background"] == 0
    assert abs(true["keypoints"]) < 1e-5 and abs(true["looks"]) < 1e-5
    assert true["landmarks"] > 0.01  # the linear map's own error: as good as it gets

    model = PoseTransfer.from_pretrained(model_file)
    copied, made, second = [], [], []
    for clip in "abc":
        frames = frames_of(data, clip).float() / 255
        poses = model.autolink.detect(frames).xy
        images = to_uint8(model.transfer(frames[:1], poses[:1], poses[1:])).float() / 255
        copied.append((frames[1:] - frames[:1]).abs().mean().item())
        made.append((frames[1:] - images).abs().mean().item())
        second.append((frames[1:-2] - 2 * frames[2:-1] + frames[3:]).abs().mean().item())
    assert scores["copy of the source"]["l1"] == pytest.approx(np.mean(copied), rel=1e-3)
    assert scores["copy of the source"]["flicker"] == 0
    assert scores[str(model_file)]["l1"] == pytest.approx(np.mean(made), rel=1e-3)
    assert true["flicker"] == pytest.approx(np.mean(second), rel=1e-3)

    lines = list(csv.DictReader((output / "reconstruction.csv").open()))
    assert len(lines) == CLIPS * 4
    assert {(line["clip"], line["person"]) for line in lines} == {(f"val/walk{c}",) * 2 for c in "abc"}
    l1_of_copies = [float(line["l1"]) for line in lines if line["judged"] == "copy of the source"]
    assert l1_of_copies == pytest.approx(copied, rel=1e-4)


def test_animation_tells_who_moves_and_who_is_seen(report: dict, model_file: Path, output: Path) -> None:
    scores = report["animation"]["scores"]
    assert list(scores) == ["copy of the source", "nearest frame of the source", "driver", str(model_file)]
    copy, driver = scores["copy of the source"], scores["driver"]
    assert copy["correlation"] == pytest.approx(0, abs=1e-3) and copy["closer_to_source"] == 1
    assert abs(copy["looks_from_source"]) < 1e-5 < copy["looks_from_driver"]
    # Relative motion at another scale: the driver moves as asked, elsewhere, and looks like nobody but itself.
    assert driver["correlation"] == pytest.approx(1, abs=0.05) and driver["closer_to_source"] == 0
    assert driver["looks_from_source"] == pytest.approx(copy["looks_from_driver"], rel=1e-3)
    pairs = [line["clip"] for line in csv.DictReader((output / "animation.csv").open())][::4]
    assert pairs == [f"val/walk{a} as val/walk{b}" for a, b in ("ab", "bc", "ca")]


def test_output_folder_has_all_of_it(report: dict, output: Path) -> None:
    names = {"report.json", "tables.md", "reconstruction.csv", "reconstruction.png", "animation.csv", "animation.png"}
    assert {path.name for path in output.iterdir()} == names | {"stdout", "stderr"}
    shown = (output / "stderr").read_text()
    assert (output / "tables.md").read_text() in shown
    assert "| copy of the source |" in shown and "| val/walka | 1 | " in shown and "landmarks, % ↓" in shown
    assert json.loads((output / "report.json").read_text()) == report
    for protocol in ("reconstruction", "animation"):
        assert Image.open(output / f"{protocol}.png").size == (5 * 34 - 2, CLIPS * 34 - 2)


def test_models_are_compared_on_other_drivers_within_limits(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model_file: Path, data: Path, tmp_path: Path
) -> None:
    other = tiny_model("bottleneck").save_pretrained(tmp_path / "bottleneck.safetensors", {"data": "none"})
    more = ["--compare", other, "--max-frames", 4, "--max-clips", 2, "--motion", "skeleton", "--perceptual", "pyramid"]
    run(monkeypatch, model_file, data, *more, "--driver-data", data / "train", "--part", "all")
    said = json.loads(capsys.readouterr().out)
    assert said["reconstruction"]["frames"] == 2 * 3 and said["animation"]["frames"] == 2 * 4
    assert said["motion"] == "skeleton"
    for protocol, key in (("reconstruction", "l1"), ("animation", "keypoints")):
        scores = said[protocol]["scores"]
        assert scores[str(other)][key] != scores[str(model_file)][key]


def test_frames_of_a_clip_that_is_divided_are_put_in_order(model_file: Path, tmp_path: Path) -> None:
    """Of a folder with fewer than ten clips, single files are held out."""
    for number in range(20):
        (tmp_path / "walk").mkdir(exist_ok=True)
        Image.new("RGB", (32, 32), (number * 10,) * 3).save(tmp_path / "walk" / f"{number:02d}.png")
    options = evaluating.Options(str(model_file), str(tmp_path), part="all", perceptual="pyramid", device="cpu")
    clip = evaluating.Judge(options).clips(options.data)[0]
    assert clip.frames[:, 0, 0, 0].tolist() == [number * 10 for number in range(20)]


def test_pictures_are_judged_at_their_own_size_with_and_without_the_parts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model_file: Path, data: Path
) -> None:
    more = ["--size", 48, "--parts", "--every", 2, "--max-clips", 1, "--perceptual", "pyramid"]
    run(monkeypatch, model_file, data, *more)
    report = json.loads(capsys.readouterr().out)
    scores = report["reconstruction"]["scores"]
    name = str(model_file)
    assert report["image_size"] == 48 and report["reconstruction"]["frames"] == len(range(0, FRAMES, 2)) - 1
    assert list(scores)[3:] == [name, f"{name}, nothing kept", f"{name}, enlarged"]
    assert scores["true clip"]["sharpness"] == 1 and scores["copy of the source"]["sharpness"] == pytest.approx(1, 0.3)
    assert scores[f"{name}, enlarged"]["sharpness"] < scores[f"{name}, nothing kept"]["sharpness"]
    assert scores[name]["l1"] != scores[f"{name}, nothing kept"]["l1"]


WRONG = {
    "size below the network's": (["--size", "16"], "--size 16: "),
    "no data": (["--data", "nowhere"], "nowhere"),
    "pictures that lie together": (["--data", "alone"], "a folder of frames for each clip (numbered pictures"),
    "no model": (["--model", "nothing"], "nothing"),
    "model of another task": (["--model", "autolink.safetensors"], "pose-transfer"),
    "other AutoLink": (["--compare", "other.safetensors"], "other.safetensors"),
    "one frame": (["--max-frames", "1"], "--max-frames"),
    "no batch": (["--batch-size", "0"], "--batch-size"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_input_is_one_line(
    what: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model_file: Path, data: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    for number in range(11):
        (tmp_path / "alone").mkdir(exist_ok=True)
        Image.new("RGB", (32, 32)).save(tmp_path / "alone" / f"walk_{number:03d}.png")
    if what == "model of another task":
        write_autolink(tmp_path / "autolink.safetensors")
    if what == "other AutoLink":
        torch.manual_seed(1)
        around = PoseTransfer.around(AutoLink(TINY), 32, 0.1, "warped")
        around.save_pretrained(tmp_path / "other.safetensors", {"data": "none"})
    arguments, named = WRONG[what]
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, model_file, data, "--perceptual", "pyramid", *arguments)
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert stopped.value.code == 2 and len(errors) == 1 and named in errors[0]


def test_calibrated_distance_of_equal_frames_is_none(real_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    likeness, videos = Likeness("lpips"), torch.randint(0, 256, (2, 2, 3, 64, 64), dtype=torch.uint8)
    assert likeness.distances(videos[0], videos[0]).abs().max() < 1e-6
    assert (likeness.distances(*videos) > 0.05).all()
    assert likeness.describe(videos[0]).shape == (2, 2 * (64 + 128 + 256 + 512))
