"""Pixels of a transfer at the source's own size: known flows, what rests, and the command's sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional
from transfer_files import arguments_for, pictures, run_transfer, tiny_model, write_clips, write_model

from autolink.images import square
from autolink.video import open_frames
from autolink.visualize import to_uint8
from autolink_apps.pose_transfer import PoseTransfer
from autolink_apps.pose_transfer.composing import Sketch, compose, finished, settle
from autolink_apps.pose_transfer.export import export_onnx
from autolink_apps.pose_transfer.warp import warp

SIDES = (64, 101)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


def noise(side: int) -> torch.Tensor:
    """Pixels (1, 3, R, R) in [−1, 1] of which no two are alike, as bytes give them."""
    return torch.randint(0, 256, (1, 3, side, side)) / 127.5 - 1


def sketch(blend: float, shift: float = 0.0) -> Sketch:
    """Two frames of 32², painted at random, whose source comes from `shift` further to the right."""
    flow = torch.tensor([shift, 0.0]).view(1, 2, 1, 1).expand(2, 2, 16, 16)
    return Sketch(torch.rand(2, 3, 32, 32) * 2 - 1, torch.full((2, 1, 32, 32), blend), flow)


@pytest.mark.parametrize("side", SIDES)
def test_without_motion_the_pixels_are_the_sources_own(side: int) -> None:
    pixels = noise(side)
    made = to_uint8(finished(sketch(1.0), pixels))
    assert torch.equal(made, to_uint8(pixels / 2 + 0.5).expand(2, -1, -1, -1))


@pytest.mark.parametrize("side", SIDES)
def test_a_flow_of_the_networks_size_moves_single_pixels_of_the_source(side: int) -> None:
    pixels = noise(side)
    made = compose(sketch(1.0, 3 * 2 / side), pixels)  # three of the source's pixels; less than one of the network's
    torch.testing.assert_close(made[..., :-3], pixels[..., 3:].expand(2, -1, -1, -1), atol=1e-4, rtol=0)
    torch.testing.assert_close(made[..., -3:], pixels[..., -1:].expand(2, -1, -1, 3), atol=1e-4, rtol=0)


def test_what_is_painted_is_enlarged() -> None:
    drawn = sketch(0.0)
    enlarged = functional.interpolate(drawn.painted, (64, 64), mode="bilinear")
    torch.testing.assert_close(compose(drawn, noise(64)), enlarged)
    torch.testing.assert_close(compose(Sketch(drawn.painted), noise(64)), enlarged)  # the paper's network moves nothing


@torch.no_grad()
def test_at_the_networks_size_it_is_what_training_sees() -> None:
    model, images = tiny_model(), torch.rand(2, 3, 32, 32)
    source_pose, pose = torch.rand(2, 2, 4, 2) - 0.5
    maps = model.edge_map(source_pose), model.edge_map(pose)
    trained = model.network(images * 2 - 1, source_pose, maps[0], pose, maps[1])
    source = model.encode(images, source_pose)
    assert torch.equal(compose(model.sketch(source, pose, maps[1], keep_still=False), source.pixels), trained)
    kept = model.sketch(source, pose, maps[1])
    moved = torch.lerp(kept.painted, warp(source.images, kept.flow), kept.blend)  # the same formula, with what rests
    assert torch.equal(compose(kept, source.pixels), torch.lerp(moved, source.images, kept.still))


@torch.no_grad()
@pytest.mark.parametrize("appearance", ["warped", "bottleneck"])
def test_results_have_the_size_of_the_source(appearance: str) -> None:
    model, image, poses = tiny_model(appearance), torch.rand(1, 3, 51, 51), torch.rand(3, 4, 2) - 0.5
    made = model.transfer(image, poses[:1], poses)
    assert made.shape == (3, 3, 51, 51)
    small = functional.interpolate(image, (32, 32), mode="bilinear", antialias=True)
    likewise = functional.interpolate(model.transfer(small, poses[:1], poses), (51, 51), mode="bilinear")
    assert (made - likewise).abs().mean() < (0.2 if appearance == "warped" else 1e-5)


@pytest.mark.parametrize("shape", [(32, 40), (16, 16)])
def test_a_source_that_is_no_square_or_too_small_is_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="squares of 32x32 or more"):
        tiny_model().encode(torch.rand(1, 3, *shape), torch.zeros(1, 4, 2))


CORNERS = torch.tensor([[[-0.2, -0.2], [0.2, -0.2], [-0.2, 0.2], [0.2, 0.2]]])
"""A pose in the middle: one standard deviation is 0.2."""


def test_around_the_object_what_hardly_moves_rests_and_nothing_is_painted() -> None:
    still = settle(sketch(0.9, 0.003), CORNERS, CORNERS)
    assert (still.blend[..., :4] == 1).all() and (still.flow[..., :2] == 0).all()
    assert still.blend[..., 16, 16] == pytest.approx(0.9) and still.flow[0, 0, 8, 8] == pytest.approx(0.003)
    pixels = noise(80)
    rim = to_uint8(finished(still, pixels))[..., :8]
    assert torch.equal(rim, to_uint8(pixels / 2 + 0.5)[..., :8].expand(2, -1, -1, -1))


def test_far_from_the_object_what_is_not_believed_is_the_source_whatever_is_painted() -> None:
    pixels, drawn = (noise(80) * 0.2).round(decimals=2), sketch(0.3, 0.2)
    doubted = settle(drawn, CORNERS, CORNERS)
    assert torch.equal(doubted.flow, drawn.flow) and (doubted.still[..., :4] == 1).all()
    assert doubted.still[..., 16, 16].max() == 0 and doubted.blend[0, 0, 16, 16] == pytest.approx(0.3)
    assert torch.equal(compose(doubted, pixels)[..., :8], pixels[..., :8].expand(2, -1, -1, -1))
    there = CORNERS + torch.tensor([0.7, 0.0])  # the object comes from there, or goes there
    assert settle(drawn, there, CORNERS).still[..., 16, 27].max() == 0
    assert settle(drawn, CORNERS, there).still[..., 16, 27].max() == 0
    believed = settle(sketch(0.9, 0.2), CORNERS, CORNERS)
    assert believed.still.max() == 0 and torch.equal(believed.flow, drawn.flow)
    assert (believed.blend[..., :4] == 1).all()


def test_the_object_is_where_it_was_and_where_it_goes() -> None:
    away = CORNERS + torch.tensor([0.7, 0.0])
    both = settle(sketch(0.9, 0.003), CORNERS.expand(2, -1, -1), away.expand(2, -1, -1))
    assert both.flow[0, 0, 8, [8, 13]].tolist() == pytest.approx([0.003, 0.003])
    assert both.flow[0, 0, 8, 0] == 0


def test_what_is_far_does_not_depend_on_how_many_keypoints_are_in_the_middle() -> None:
    """Models differ in where on the object their keypoints lie; where it ends is the same."""
    crowded = torch.cat([CORNERS, CORNERS / 10, CORNERS / 20], dim=1)
    few, many = (settle(sketch(0.3, 0.2), pose, pose).still for pose in (CORNERS, crowded))
    assert few.min() == 0 and few.max() == 1 and (few - many).abs().max() < 0.08


def test_a_raised_arm_belongs_to_the_object() -> None:
    trunk = torch.stack([torch.full((23,), 1 / 32), torch.linspace(-0.6, 0.6, 23)], dim=1)
    hand = torch.tensor([[15 / 32, 1 / 32]])  # 4.2 standard deviations to the side; the middle of a pixel
    pose = torch.cat([trunk, hand])[None]
    grey = torch.zeros(1, 3, 32, 32)
    drawn = Sketch(grey, torch.full((1, 1, 32, 32), 0.3), torch.full((1, 2, 16, 16), 0.2))
    still = settle(drawn, pose, pose).still[0, 0]
    assert still[16, 23] < 0.96 and still[16, :6].min() == 1


def test_what_rests_begins_without_a_step() -> None:
    fine = Sketch(torch.rand(1, 3, 128, 128), torch.full((1, 1, 128, 128), 0.5), torch.full((1, 2, 64, 64), 0.002))
    kept = settle(fine, CORNERS * 3, CORNERS * 3)
    assert kept.blend.diff(dim=-1).abs().max() < 0.05  # of 0.5 in all
    assert kept.flow.diff(dim=-1).abs().max() < 0.0004 and kept.flow.min() == 0


def test_keypoints_in_one_place_or_on_a_line_do_no_harm() -> None:
    line = torch.stack([torch.linspace(-0.5, 0.5, 4), torch.zeros(4)], -1)[None]
    for pose in (torch.zeros(1, 4, 2), line):
        assert all(part.isfinite().all() for part in settle(sketch(0.5, 0.1), pose, pose))


def test_the_networks_size_gives_what_the_network_paints(
    monkeypatch: pytest.MonkeyPatch, clips: Path, model_file: Path, tmp_path: Path
) -> None:
    arguments = [*arguments_for(clips, model_file, tmp_path / "out"), "--motion", "absolute", "--source-frame", "first"]
    arguments += ["--crop", "none", "--preview", "off", "--precision", "float32", "--max-frames", 3, "--size", 32]
    assert run_transfer(monkeypatch, *arguments, "--no-keep-still") == 0
    model = PoseTransfer.from_pretrained(model_file)

    def squares(path: Path) -> torch.Tensor:
        with open_frames(path) as frames:
            images = np.stack([square(Image.fromarray(frame.image), 32) for frame in frames])
        return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255

    source, driver = squares(clips / "a.mp4")[:1], squares(clips / "b.mp4")[:3]
    poses = [model.autolink.detect(images).xy for images in (source, driver)]
    with torch.no_grad():
        maps = [model.edge_map(pose) for pose in poses]
        encoded = model.network.encode(source * 2 - 1, poses[0], maps[0]).expand(3)
        expected = to_uint8(compose(model.network.drive(encoded, poses[1], maps[1]), encoded.images) / 2 + 0.5)
    found = torch.from_numpy(pictures(tmp_path / "out")).permute(0, 3, 1, 2)
    assert (found.int() - expected.int()).abs().max() <= 1


@pytest.mark.parametrize("size, shape", [((37, 61), (61, 37)), ((64, 33), (33, 64)), ((20, 24), (32, 26))])
def test_a_whole_photograph_of_any_shape_keeps_its_pixels(
    size: tuple[int, int], shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch, clips: Path, model_file: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    photo = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(photo).save(tmp_path / "photo.png")
    arguments = ["--src", tmp_path / "photo.png", "--driver", clips / "b.mp4", "--model", model_file, "--fit", "pad"]
    arguments += ["--max-frames", 2, "--output", tmp_path / "out", "--preview", "off"]
    assert run_transfer(monkeypatch, *arguments) == 0
    assert pictures(tmp_path / "out").shape[1:] == (*shape, 3)


def test_size_of_the_result(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], clips: Path, model_file: Path, tmp_path: Path
) -> None:
    for options, side, why in [
        ([], 40, "as the source's square"),
        (["--size", 51], 51, "the source's square is 40x40"),
        (["--source-frame", "running"], 40, "as the source's square"),
    ]:
        output = tmp_path / str(len(list(tmp_path.iterdir())))
        arguments = [*arguments_for(clips, model_file, output), "--crop", "none", "--max-frames", 3, *options]
        assert run_transfer(monkeypatch, *arguments) == 0
        assert f"painted: {side}x{side}, {why}" in capsys.readouterr().out
        assert pictures(output).shape == (3, side, side, 3)
        with open_frames(output.with_name(f"{output.name}-preview.mp4")) as preview:
            assert (preview.width, preview.height) == (4 * 32, 32)


def test_the_exported_file_says_what_the_model_says_at_any_size(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    model = tiny_model()
    torch.nn.init.normal_(model.network.to_image.weight, std=0.3)  # an untrained one paints nothing
    torch.nn.init.normal_(model.network.motion.head.weight, std=0.1)
    session = onnxruntime.InferenceSession(export_onnx(model, tmp_path / "transfer.onnx"))
    assert [i.name for i in session.get_inputs()] == ["source", "source_keypoints", "keypoints"]
    for side, count in ((32, 1), (47, 4)):
        image, pose, poses = torch.rand(1, 3, side, side), torch.rand(1, 4, 2) - 0.5, torch.rand(count, 4, 2) - 0.5
        given = {"source": image, "source_keypoints": pose, "keypoints": poses}
        (found,) = session.run(None, {name: value.numpy() for name, value in given.items()})
        expected = model.transfer(image, pose, poses)
        assert (expected - image).abs().mean() > 0.02
        torch.testing.assert_close(torch.from_numpy(found), expected, atol=2e-3, rtol=0)


def test_export_is_a_mode_of_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model_file: Path, tmp_path: Path
) -> None:
    assert run_transfer(monkeypatch, "export", "--model", model_file, "--output", tmp_path / "transfer.bin") == 2
    assert "transfer.bin: expected a file name ending in .onnx" in capsys.readouterr().err
