"""A finished GAN in numbers: what is measured of it, and what changes when only pose or only appearance does."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import pytest
import torch
from gan_runs import Colours, options_for, tiny_gan, write_autolink, write_images

from autolink.data import open_data
from autolink.data.synthetic import SyntheticFigures
from autolink.errors import UserError
from autolink.plots import measurements_figure
from autolink_apps.gan import ConditionalGAN, curve
from autolink_apps.gan import evaluate as evaluation
from autolink_apps.gan import train as training
from autolink_apps.gan.disentangle import Views, _followed, colours_at, disentanglement, two_poses
from autolink_apps.gan.evaluate import Options, evaluate


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of four steps, with two measurements."""
    folder = tmp_path_factory.mktemp("gan")
    options = options_for(write_images(folder / "images"), write_autolink(folder / "autolink"), folder / "run", steps=4)
    options = dataclasses.replace(options, metric_every=2, sample_every=2, metric_images=12)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "open_features", lambda *_: Colours())
        training.train(options)
    return options.output


def log_of(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


# The command


def test_a_finished_model_gives_the_numbers_that_training_logged(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(evaluation, "open_features", lambda *_: Colours())
    monkeypatch.setattr(sys, "argv", ["evaluate", "--model", str(run), "--images", "12"])
    evaluation.main()
    report = json.loads(capsys.readouterr().out)
    logged = {key: value for line in log_of(run) for key, value in line.items()}
    for name in (*Colours.names, "pose_error", "pose_error_chance", "pose_error_real"):
        assert report[name] == pytest.approx(logged[name], abs=1e-3), name
    assert report["weights"] == "average" and report["disentanglement"]["colours_at"] == "keypoints"
    json.dumps(report, allow_nan=False)


def test_last_weights_are_those_of_the_checkpoint(run: Path, tmp_path: Path) -> None:
    options = Options(model=str(run), images=0)
    average, last = evaluate(options), evaluate(dataclasses.replace(options, last_weights=True))
    assert average["pose_error"] != last["pose_error"] and average["pose_error_real"] == last["pose_error_real"]
    gan = ConditionalGAN.from_pretrained(run)
    averaged = [parameter.clone() for parameter in gan.generator.parameters()]
    evaluation.take_last_weights(gan, run)
    assert not any(torch.equal(a, b) for a, b in zip(averaged, gan.generator.parameters()))
    gan.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="no such file"):
        evaluation.take_last_weights(gan, tmp_path)


# Disentanglement


def test_colours_are_read_where_the_points_are() -> None:
    images = torch.zeros(1, 3, 64, 64)
    images[0, 0, :32, :32], images[0, 1, :32, 32:], images[0, 2, 32:] = 1, 0.5, 0.25
    points = torch.tensor([[[-0.5, -0.5], [0.5, -0.5], [0.0, 0.5], [0.0, -0.5], [float("nan"), 0]]])
    found = colours_at(images, points)[0]
    expected = torch.tensor([[1, 0, 0], [0, 0.5, 0], [0, 0, 0.25], [0.5, 0.25, 0]])
    torch.testing.assert_close(found[:4], expected, atol=1e-4, rtol=0)
    assert found[4].isnan().all()


def test_pairs_show_one_individual_where_clips_are_known(tmp_path: Path) -> None:
    first, second, one = two_poses(SyntheticFigures(16, "val", length=40), 3)
    assert one and [s.clip for s in first] == [s.clip for s in second] == ["val/00000", "val/00001", "val/00003"]
    assert all(a.name.endswith("/0") and b.name.endswith("/7") for a, b in zip(first, second))
    data = open_data(str(write_images(tmp_path / "images", 6)), 16, "train")
    data.clips = [""] * len(data)
    first, second, one = two_poses(data, 3)
    assert not one and [s.name for s in second] == [s.name for s in (*first[1:], first[0])]


class Puppet(torch.nn.Module):
    """In place of a GAN: images of one colour, as the noise says, in which the AutoLink finds what was asked for."""

    def __init__(self, follows_pose: bool, colour_from_pose: bool = False) -> None:
        super().__init__()
        self.follows_pose, self.colour_from_pose = follows_pose, colour_from_pose
        self.gan = tiny_gan()
        self.autolink, self.poses = self, self.gan.poses
        self.edge_weights = self.gan.autolink.edge_weights
        self.asked: list[torch.Tensor] = []

    def detect(self, images: torch.Tensor, batch_size: int | None = None) -> object:
        if self.asked:
            found = self.asked.pop(0)
            return self.gan.autolink.detect(images)._replace(xy=found if self.follows_pose else torch.zeros_like(found))
        return self.gan.autolink.detect(images)

    def sample(self, poses: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        self.asked.append(poses)
        source = poses[:, 0].repeat(1, 2)[:, :3] if self.colour_from_pose else noise[:, :3]
        return source.sigmoid()[..., None, None].expand(-1, -1, 32, 32)


def measure(puppet: Puppet) -> dict:
    data = [SyntheticFigures(32, part, length=64) for part in ("val", "train")]
    return disentanglement(puppet, *data, 6)


def test_a_perfect_generator_and_two_that_fail() -> None:
    perfect = measure(Puppet(follows_pose=True))
    pose, appearance = perfect["pose_changed"], perfect["appearance_changed"]
    assert pose["movement_followed"] == pytest.approx(100) and pose["colours_changed"] == pytest.approx(0, abs=1e-3)
    assert pose["keypoints_moved"] == pytest.approx(perfect["real_same_individual"]["keypoints_moved"])
    assert appearance["keypoints_moved"] == 0 and appearance["colours_changed"] > 5
    errors = perfect["landmark_error"]
    assert errors["generated"] == pytest.approx(errors["real"])

    still = measure(Puppet(follows_pose=False))
    assert still["pose_changed"]["movement_followed"] == pytest.approx(0, abs=1e-3)
    entangled = measure(Puppet(follows_pose=True, colour_from_pose=True))
    assert entangled["appearance_changed"]["colours_changed"] == pytest.approx(0, abs=1e-3)


def test_half_of_a_movement_is_three_quarters_of_its_square() -> None:
    asked, made = (Views(torch.tensor([[[x, 0.0], [0.0, -x]]]), torch.zeros(1, 2, 3)) for x in (0.4, 0.2))
    rest = Views(torch.zeros(1, 2, 2), torch.zeros(1, 2, 3))
    assert _followed(rest, made, rest, asked) == pytest.approx(75)


def test_colours_at_the_joints_tell_individuals_apart() -> None:
    """On true figures: the same one in another pose changes much less there than another one does."""
    data = SyntheticFigures(64, "val", length=160)
    report = disentanglement(tiny_gan(), data, data, 20)
    same, other = (report[f"real_{who}_individual"]["colours_changed"] for who in ("same", "other"))
    assert report["colours_at"] == "landmarks" and same < 0.6 * other


# The curve


def test_training_draws_what_it_measured_over_images(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (run / "curve.png").stat().st_size > 1000
    lines = [line for line in log_of(run) if "recall" in line]
    share, poses = measurements_figure([run], curve.PANELS).axes
    assert [axes.get_xlabel() for axes in (share, poses)] == ["images seen"] * 2
    assert share.lines[1].get_xydata().tolist() == [[4 * line["step"], line["recall"]] for line in lines]
    assert [line["step"] for line in lines] == [2, 4]
    names = [text.get_text() for text in poses.get_legend().get_texts()]
    assert names == list(curve.PANELS["keypoints off, % of the image's side"].values()) and len(poses.lines) == 3

    figure = measurements_figure([run, run], curve.PANELS)
    assert len({line.get_color() for line in figure.axes[0].lines}) == 2 and len(figure.legends) == 1
    monkeypatch.setattr(sys, "argv", ["curve", str(run), "--output", str(tmp_path / "two.png")])
    curve.main()
    assert (tmp_path / "two.png").is_file()


def test_what_cannot_be_drawn_is_named(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text(json.dumps({"step": 1, "loss_generator": 1.0}) + "\n")
    for runs, said in (([], "no run given"), ([tmp_path], "nothing has been measured"), ([tmp_path / "x"], "no log")):
        with pytest.raises(UserError, match=said):
            curve.draw_curve(runs, tmp_path / "curve.png")
