"""`autolink-sample`: where poses and appearances come from, and every mode on a tiny model through the real command."""

from __future__ import annotations

import csv
import json
import re
import sys
from contextlib import suppress
from fractions import Fraction
from importlib import resources
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import models

from autolink import cli
from autolink import features as extractors
from autolink.commands.detect import Options as DetectOptions
from autolink.commands.detect import detect
from autolink.errors import UserError
from autolink.model import AutoLinkConfig
from autolink.tracking.windows import Window, cut
from autolink.video import VideoReader, write_video
from autolink.weights import read_tensors
from autolink_apps.gan import ConditionalGAN, ConditionalGANConfig, animate, sample
from autolink_apps.gan.poses import Pose, UniqueNames, find_poses, spread
from autolink_apps.gan.project import distance_by, project

LAYERS = 4


@pytest.fixture
def gan() -> ConditionalGAN:
    """A GAN of 32², so with four modulated convolutions, that no one trained."""
    autolink = AutoLinkConfig(keypoints=4, image_size=32, width=0.1)
    gan = ConditionalGAN(ConditionalGANConfig(image_size=32, width=0.1, poses=5, autolink=autolink))
    gan.poses.uniform_(-0.8, 0.8)
    gan.update_w_average()
    return gan.eval()


@pytest.fixture
def gan_file(gan: ConditionalGAN, tmp_path: Path) -> Path:
    return gan.save_pretrained(tmp_path / "model")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((64, 48), Image.Resampling.BICUBIC).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    frames = np.random.default_rng(1).integers(0, 255, (7, 4, 5, 3), dtype=np.uint8)
    large = [np.asarray(Image.fromarray(frame).resize((80, 48), Image.Resampling.BICUBIC)) for frame in frames]
    write_video(tmp_path / "clip.mp4", large, Fraction(10))
    return tmp_path / "clip.mp4"


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    """`autolink-sample …` in this process."""
    monkeypatch.setattr(sys, "argv", ["autolink-sample", *map(str, arguments)])
    cli.sample()


def poses_of(gan: ConditionalGAN, *paths: Path, **options: object) -> list[Pose]:
    return list(find_poses(sample.Options(output=Path("none"), pose=paths, **options), gan, [0, 1]))


# Embeddings


def test_one_embedding_a_layer_that_are_all_equal_is_one_embedding(gan: ConditionalGAN) -> None:
    assert gan.generator.layers == LAYERS
    w = gan.embed(torch.randn(2, 256))
    expected = gan.paint(gan.poses[:2], w)
    torch.testing.assert_close(gan.paint(gan.poses[:2], torch.stack([w] * LAYERS, dim=1)), expected)


def test_each_layer_follows_its_own_embedding(gan: ConditionalGAN) -> None:
    w = gan.embed(torch.randn(1, 256)).expand(LAYERS, 256).repeat(LAYERS, 1, 1).view(LAYERS, LAYERS, 256)
    seen = [[] for _ in range(LAYERS)]
    for block in range(LAYERS // 2):
        for part, name in enumerate(("first", "second")):
            layer = getattr(gan.generator.blocks[block], name)
            layer.style.register_forward_pre_hook(lambda _, given, i=2 * block + part: seen[i].append(given[0]))
    w = w + torch.arange(LAYERS)[:, None]
    gan.paint(gan.poses[:1].expand(LAYERS, -1, -1), w)
    for layer in range(LAYERS):
        assert torch.equal(seen[layer][0], w[:, layer])


def test_mixing_takes_the_coarse_layers_of_one_and_the_fine_ones_of_the_other(gan: ConditionalGAN) -> None:
    coarse, fine = gan.embed(torch.randn(1, 256)), gan.embed(torch.randn(1, 256))
    pose = gan.poses[:1]
    for crossover, expected in ((0, fine), (LAYERS, coarse)):
        torch.testing.assert_close(gan.paint(pose, gan.mix(coarse, fine, crossover)), gan.paint(pose, expected))
    mixed = gan.mix(coarse, fine, 1)
    assert torch.equal(mixed[0, 0], coarse[0]) and torch.equal(mixed[0, 1:], fine.expand(LAYERS - 1, -1))


# Poses


def test_image_and_tables_of_detect_give_the_same_pose(gan: ConditionalGAN, photo: Path, tmp_path: Path) -> None:
    autolink = gan.autolink.save_pretrained(tmp_path / "autolink.safetensors")
    detect(DetectOptions((photo,), str(autolink), tmp_path / "found", overlays=False, device="cpu"))
    (direct,) = poses_of(gan, photo)
    assert direct.name == "photo" and direct.frame.shape == (48, 64, 3)
    for table in ("keypoints.csv", "keypoints.npz"):
        (read,) = poses_of(gan, tmp_path / "found" / table)
        torch.testing.assert_close(read.keypoints, direct.keypoints, atol=1e-3, rtol=0)


def test_table_of_a_wide_image_is_read_in_the_frame_of_its_square(gan: ConditionalGAN, photo: Path) -> None:
    points = [(8, 0), (56, 48), (32, 24), (8, 48)]  # of 64 × 48 pixels the square is from x = 8 to 56
    with (photo.parent / "table.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["source", "frame", "time", *(f"{a}{k}" for k in range(4) for a in ("x", "y", "confidence"))])
        writer.writerow(["photo.png", 0, 0.0, *(value for x, y in points for value in (x, y, 1))])
    (found,) = poses_of(gan, photo.parent / "table.csv")  # the image is found beside the table
    assert torch.equal(found.keypoints, torch.tensor([[-1.0, -1], [1, 1], [0, 0], [-1, 1]]))


def test_a_pose_beside_the_middle_is_found_in_a_window_of_its_own(
    gan: ConditionalGAN, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    window = Window(40, 20, 24)
    monkeypatch.setattr("autolink.tracking.follow.search_by_confidence", lambda *_: window)
    (found,) = poses_of(gan, photo, crop="auto")
    seen = cut(np.asarray(Image.open(photo)), window, 32)
    assert found.frame.shape == (32, 32, 3) and np.abs(found.frame.astype(int) - seen).max() <= 1
    torch.testing.assert_close(found.keypoints, gan.autolink.detect([seen]).xy[0], atol=0.02, rtol=0)


def test_damaged_tables_are_refused_in_one_line(gan: ConditionalGAN, photo: Path, tmp_path: Path) -> None:
    autolink = gan.autolink.save_pretrained(tmp_path / "autolink.safetensors")
    detect(DetectOptions((photo,), str(autolink), tmp_path, overlays=False, device="cpu"))
    table, arrays = (tmp_path / "keypoints.csv").read_text(), dict(np.load(tmp_path / "keypoints.npz"))
    whole = (tmp_path / "keypoints.npz").read_bytes()
    damaged = [("cut.csv", table[: -len(table.splitlines()[-1]) // 2].encode())]
    damaged += [
        (f"byte{k}.npz", whole[:k] + bytes([whole[k] ^ 0x55]) + whole[k + 1 :]) for k in range(0, len(whole), 97)
    ]
    for name, content in damaged:
        (tmp_path / name).write_bytes(content)
    changed = {"source": arrays["source"] + 7, "keypoints": arrays["keypoints"][..., 0], "frame": arrays["frame"][:0]}
    for name, value in changed.items():
        np.savez(tmp_path / f"{name}.npz", **{**arrays, name: value})
    for name in ("cut.csv", *(f"{name}.npz" for name in changed)):
        with pytest.raises(UserError, match=f"--pose .*{name}: expected keypoints"):
            poses_of(gan, tmp_path / name)
    for name, _ in damaged:
        with suppress(UserError):  # a byte that nothing depends on may be another
            poses_of(gan, tmp_path / name)


def test_video_gives_frames_spread_over_it_or_all(gan: ConditionalGAN, clip: Path) -> None:
    names = [pose.name for pose in poses_of(gan, clip, count=3)]
    assert names == ["clip-000000", "clip-000003", "clip-000006"]
    every = list(find_poses(sample.Options(output=Path("none"), pose=(clip,), count=3), gan, [], every=True))
    with VideoReader(clip) as frames:
        images = [torch.from_numpy(frame.image).permute(2, 0, 1)[None].float() / 255 for frame in frames]
    expected = torch.cat([gan.autolink.locate(gan.autolink.centre(image)).xy for image in images])
    torch.testing.assert_close(torch.stack([pose.keypoints for pose in every]), expected, atol=1e-4, rtol=1e-4)


def test_spread_covers_both_ends() -> None:
    assert spread(10, 4) == [0, 3, 6, 9] and spread(3, 5) == spread(3, None) == [0, 1, 2] and spread(9, 1) == [0]


def test_one_bad_file_of_many_is_named_and_the_rest_is_sampled(
    gan_file: Path, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    folder = tmp_path / "poses"
    folder.mkdir()
    for name in ("a.png", "b.png", "c.png"):
        (folder / name).write_bytes(photo.read_bytes()[: 99 if name == "b.png" else None])
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    (tmp_path / "other.csv").write_text("no table\n")
    given = (folder, tmp_path / "broken.jpg", tmp_path / "other.csv", photo)
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, "--model", gan_file, "--pose", *given, "--columns", 1, "--output", tmp_path / "out")
    assert stopped.value.code == 2
    said = capsys.readouterr()
    assert "3 poses × 1 appearances" in said.out
    last = said.err.splitlines()[-1]
    assert "3 inputs could not be used" in last and all(name in last for name in ("b.png", "broken.jpg", "other.csv"))
    written = sorted(file.name for file in (tmp_path / "out").iterdir())
    assert written == ["a_00.png", "c_00.png", "grid.png", "photo_00.png"]


def test_movements_are_added_to_every_pose(gan: ConditionalGAN) -> None:
    still, moved = poses_of(gan), poses_of(gan, move=("3:+0.1,-0.05", "0:0.2,0"))
    for before, after in zip(still, moved):
        expected = torch.tensor([[0.2, 0], [0, 0], [0, 0], [0.1, -0.05]])
        torch.testing.assert_close(after.keypoints - before.keypoints, expected)


def test_names_are_unique() -> None:
    unique = UniqueNames()
    assert [unique(name) for name in ("x", "x", "x-2", "y", "x")] == ["x", "x-2", "x-2-2", "y", "x-3"]


# Modes


def test_grid_is_the_mode_without_one(
    gan: ConditionalGAN, gan_file: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ("--model", gan_file, "--pose", clip, "--count", 2, "--columns", 3, "--device", "cpu")
    run(monkeypatch, "grid", *given, "--output", tmp_path / "named")
    run(monkeypatch, *given, "--output", tmp_path / "plain", "--move", "0:0,0")
    names = {f"clip-{frame:06d}_{column:02d}.png" for frame in (0, 6) for column in range(3)}
    assert {path.name for path in (tmp_path / "plain").iterdir()} == {"grid.png", *names}
    for name in names | {"grid.png"}:
        assert (tmp_path / "named" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()


def test_a_second_grid_in_a_folder_of_the_poses_is_the_first(
    gan_file: Path, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "poses").mkdir()
    photo.rename(tmp_path / "poses" / "photo.png")
    output = tmp_path / "poses" / "out"
    written = []
    for _ in range(2):
        run(monkeypatch, "--model", gan_file, "--pose", output.parent, "--columns", 2, "--output", output)
        written.append({file.name: file.read_bytes() for file in output.iterdir()})
    assert written[0] == written[1] and set(written[0]) == {"grid.png", "photo_00.png", "photo_01.png"}


def test_interpolation_loops_through_what_is_given() -> None:
    points = torch.randn(3, 4, 2)
    found = torch.stack(list(animate.loop(points, 5, "points")))
    assert len(found) == 15
    torch.testing.assert_close(found[::5], points)
    steps = (found.roll(-1, 0) - found).flatten(1).norm(dim=1)  # closed: from the last to the first as well
    assert steps.max() < 0.6 * (points.roll(-1, 0) - points).flatten(1).norm(dim=1).max()
    with pytest.raises(UserError, match="between 1 poses"):
        list(animate.loop(points[:1], 5, "poses"))


def cells(frame: np.ndarray) -> list[np.ndarray]:
    """The images of a frame of an interpolation, which are 128 pixels wide and 2 apart."""
    return [frame[:, left : left + 128].astype(int) for left in range(0, frame.shape[1], 130)]


def test_appearance_changes_and_poses_stay(gan_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out.mp4"
    given = ("--model", gan_file, "--count", 2, "--columns", 3, "--truncation", 1)
    run(monkeypatch, "interpolate", *given, "--steps", 2, "--output", out)
    with VideoReader(out) as video:
        frames = [frame.image for frame in video]
    assert len(frames) == 3 * 2 and frames[0].shape == (128, 2 * 128 + 2, 3)
    assert all(np.abs(a.astype(int) - b).mean() > 0.5 for a, b in pairwise(frames))

    run(monkeypatch, *given, "--output", tmp_path / "grid")
    names = sorted({path.name[:8] for path in (tmp_path / "grid").glob("pose-*_00.png")})
    for frame, column in ((0, 0), (2, 1), (4, 2)):  # every other frame is one of the grid's columns
        shown = sorted(cells(frames[frame]), key=lambda cell: cell.mean())
        images = [Image.open(tmp_path / "grid" / f"{name}_{column:02d}.png").resize((128, 128)) for name in names]
        wanted = sorted(map(np.asarray, images), key=lambda image: image.mean())
        assert all(np.abs(a - b).mean() < 6 for a, b in zip(shown, wanted))


def test_pose_changes_and_appearances_stay_in_a_gif(
    gan_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "new" / "out.gif"
    given = ("--model", gan_file, "--count", 2, "--columns", 2, "--steps", 3, "--frame-rate", 10)
    run(monkeypatch, "interpolate", "--vary", "pose", *given, "--output", out)
    with Image.open(out) as gif:
        assert (gif.n_frames, gif.size, gif.info["duration"], gif.info["loop"]) == (6, (3 * 130 - 2, 128), 100, 0)
        frames = []
        for number in range(6):
            gif.seek(number)
            frames.append(np.asarray(gif.convert("RGB")))
    edges = [cells(frame)[0] for frame in frames]
    assert all(np.abs(a - b).mean() > 0.5 for a, b in pairwise(edges))


def test_a_video_is_followed_frame_by_frame_at_its_rate(
    gan_file: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ("--model", gan_file, "--columns", 1, "--count", 2, "--pose", clip)
    run(monkeypatch, "interpolate", "--vary", "pose", *given, "--output", tmp_path / "out.mp4")
    with VideoReader(tmp_path / "out.mp4") as video:
        assert (video.frame_rate, len(list(video))) == (10, 7)


def test_mix_shows_the_unmixed_at_its_edges(
    gan: ConditionalGAN, gan_file: Path, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mixed(crossover: int) -> np.ndarray:
        """The picture's cells (rows, columns, 32, 32, 3)."""
        out = tmp_path / f"mix{crossover}.png"
        given = ("--model", gan_file, "--pose", photo, "--rows", 2, "--columns", 3, "--truncation", 1)
        run(monkeypatch, "mix", *given, "--crossover", crossover, "--output", out)
        drawn = np.asarray(Image.open(out)).astype(int)
        assert drawn.shape == (3 * 34 - 2, 4 * 34 - 2, 3)
        return np.stack([[drawn[y : y + 32, x : x + 32] for x in range(0, 136, 34)] for y in range(0, 102, 34)])

    of_columns, between, of_rows = mixed(0), mixed(2), mixed(LAYERS)
    assert np.array_equal(of_columns[0], of_rows[0]) and np.array_equal(of_columns[:, 0], of_rows[:, 0])
    assert np.abs(of_columns[1:, 1:] - of_columns[:1, 1:]).max() <= 1
    assert np.abs(of_rows[1:, 1:] - of_rows[1:, :1]).max() <= 1
    assert np.abs(between[1:, 1:] - of_columns[1:, 1:]).max() > 1 < np.abs(between[1:, 1:] - of_rows[1:, 1:]).max()


# Projection


@pytest.mark.parametrize("per_layer", [False, True])
def test_projection_finds_an_image_that_the_generator_made(gan: ConditionalGAN, per_layer: bool) -> None:
    pose, z = gan.poses[:1], torch.randn(1, 256)
    image = gan.sample(pose, z) * 2 - 1
    found = project(gan, image, pose, distance_by("pyramid"), steps=60, per_layer=per_layer)
    assert found.w.shape == ((1, LAYERS, 256) if per_layer else (1, 256))
    assert found.end < 0.3 * found.start
    error = (gan.paint(pose, found.w) * 2 - 1 - image).abs().mean()
    assert error < 0.3 * (gan.paint(pose, gan.w_average[None]) * 2 - 1 - image).abs().mean()
    assert all(parameter.grad is None for parameter in gan.generator.parameters())


def test_projection_keeps_the_best_it_saw_and_counts_pixels_too(
    gan: ConditionalGAN, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autolink_apps.gan.project.LEARNING_RATE", 5.0)  # it oversteps
    pose, z = gan.poses[:1], torch.randn(1, 256)
    image = gan.sample(pose, z) * 2 - 1
    found = project(gan, image, pose, lambda made, _: made.new_full((1,), 0.5), steps=4)
    with torch.no_grad():
        made = gan.generator.synthesise(gan.condition(pose), found.w)
    assert 0.5 < found.end == pytest.approx(0.5 + (made - image).square().mean().item()) and found.end <= found.start


def test_projected_appearance_serves_the_other_modes(
    gan: ConditionalGAN, gan_file: Path, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ("project", "--model", gan_file, "--image", photo, "--steps", 3, "--perceptual", "pyramid")
    run(monkeypatch, *given, "--output", tmp_path / "same.png")
    run(monkeypatch, *given, "--per-layer", "--move", "1:0.3,0.2", "--output", tmp_path / "moved.png")
    assert Image.open(tmp_path / "same.png").size == (3 * 34 - 2, 32)
    panels = np.asarray(Image.open(tmp_path / "moved.png"))
    assert panels.shape == (32, 4 * 34 - 2, 3)

    found = read_tensors(tmp_path / "moved.safetensors")
    moved = found["keypoints"] + torch.tensor([[0, 0], [0.3, 0.2], [0, 0], [0, 0]])
    expected = (gan.paint(moved, found["w"])[0].permute(1, 2, 0) * 255).round().numpy()
    assert np.abs(panels[:, 3 * 34 :] - expected).max() <= 1

    appearance = ("--appearance", tmp_path / "moved.safetensors")
    run(monkeypatch, "--model", gan_file, "--pose", photo, *appearance, "--output", tmp_path / "grid")
    assert {path.name for path in (tmp_path / "grid").iterdir()} == {"grid.png", "photo_00.png"}
    projected = panels[:, 34:66].astype(int)
    assert np.abs(np.asarray(Image.open(tmp_path / "grid/photo_00.png")) - projected).max() <= 1


def test_lpips_is_the_sum_of_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the formula: features of unit length, squared differences, the package's weights, mean over pixels."""
    features = models.squeezenet1_1().features
    monkeypatch.setattr(extractors, "_load_features", lambda *_: features.state_dict())
    distance = distance_by("lpips")
    linear = torch.load(str(resources.files("lpips") / "weights/v0.1/squeeze.pth"), "cpu", weights_only=True)
    mean, std = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    x = (images - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    expected = torch.zeros(())
    with torch.no_grad():
        for index, layer in enumerate(features[:13]):
            x = layer(x)
            if index in (1, 4, 7, 9, 10, 11, 12):
                unit = x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)
                weights = linear[f"lin{(1, 4, 7, 9, 10, 11, 12).index(index)}.model.1.weight"][0]
                expected = expected + (weights * (unit[0] - unit[1]).square()).sum(0).mean()
        found = distance(images[:1], images[1:])
    torch.testing.assert_close(found.squeeze(), expected, rtol=1e-3, atol=1e-6)


# ONNX


def test_onnx_paints_what_the_model_paints(gan_file: Path, gan: ConditionalGAN, tmp_path: Path, monkeypatch) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    run(monkeypatch, "export", "--model", gan_file, "--output", tmp_path / "gan.onnx", "--truncation", 0.9)
    session = onnxruntime.InferenceSession(tmp_path / "gan.onnx", providers=["CPUExecutionProvider"])
    keypoints, z = torch.rand(5, 4, 2) * 2 - 1, torch.randn(5, 256)
    (images,) = session.run(None, {"keypoints": keypoints.numpy(), "z": z.numpy()})
    torch.testing.assert_close(torch.from_numpy(images), gan.sample(keypoints, z, 0.9), atol=1e-3, rtol=0)


# Mistakes


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("frobnicate",), "'frobnicate' is not a command of autolink-sample; it has sample, interpolate, mix"),
        (("--move", "4:0,0", "--output", "out"), "--move 4:0,0: expected a keypoint from 0 to 3"),
        (("--columns", "0", "--output", "out"), "--columns 0"),
        (("--truncation", "nan", "--output", "out"), "--truncation nan"),
        (("--appearance", "model/model.safetensors", "--output", "out"), "--appearance model/model.safetensors"),
        (("--pose", "bad.csv", "--output", "out"), "--pose bad.csv: expected keypoints.csv"),
        (("--pose", "bad.npz", "--output", "out"), "--pose bad.npz: expected"),
        (("--pose", "gone.csv", "--output", "out"), "--pose gone.csv: .*gone.png"),
        (("--pose", "many.csv", "--output", "out"), "--pose many.csv: row 0 has 2 keypoints, the model 4"),
        (
            ("interpolate", "--output", "out.avi"),
            "out.avi: expected a file name ending in .mp4, .webm, .gif, .webp or",
        ),
        (("interpolate", "--output", "out.mp4", "--columns", "1"), "between 1 appearances"),
        (("interpolate", "--output", "out.mp4", "--steps", "0"), "--steps 0"),
        (("mix", "--crossover", "5"), "--crossover 5: the model has 4 layers"),
        (("mix", "--output", "mix.jpg"), "--output mix.jpg"),
        (("project", "--image", "gone.png"), "--image gone.png: no such file"),
        (("project", "--image", "photo.png", "--steps", "0"), "--steps 0"),
        (("project", "--image", "photo.png", "--move", "1"), "--move 1: expected"),
        (("mix", "--pose", "photo.png", "--output", "photo.png"), "photo.png is an input and would be overwritten"),
        (("mix", "--pose", ".", "--output", "photo.png"), "photo.png is an input and would be overwritten"),
        (
            ("project", "--image", "photo.png", "--output", "photo.png"),
            "photo.png is an input and would be overwritten",
        ),
        (("project", "--image", "photo.png", "--output", "model/model.png"), "model.safetensors is an input"),
        (("--pose", "photo.png", ".", "--output", "."), r"\. is an input"),
        (("--pose", "shots/grid.png", "--output", "shots"), "shots/grid.png is an input and would be overwritten"),
        (("export", "--output", "gan.bin"), "--output gan.bin: expected a file name ending in .onnx"),
    ],
)
def test_mistakes_get_one_line_and_write_nothing(
    arguments: tuple[str, ...],
    said: str,
    gan_file: Path,
    photo: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    four, two = ((",".join(f"x{k},y{k},confidence{k}" for k in range(n)), ",1" * 3 * n) for n in (4, 2))
    Path("bad.csv").write_text("a,b\n1,2\n")
    Path("bad.npz").write_text(json.dumps("no archive"))
    Path("gone.csv").write_text(f"source,frame,time,{four[0]}\ngone.png,0,0{four[1]}\n")
    Path("many.csv").write_text(f"source,frame,time,{two[0]}\nphoto.png,0,0{two[1]}\n")
    Path("shots").mkdir()
    Path("shots/grid.png").write_bytes(photo.read_bytes())
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
    model = () if arguments == ("frobnicate",) else ("--model", str(gan_file))
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, *arguments, *model)
    printed = [line for line in capsys.readouterr().err.splitlines() if not line.startswith(("projecting", "\r"))]
    assert stopped.value.code == 2 and len(printed) == 1 and printed[0].startswith("error: ")
    assert re.search(said, printed[0])
    assert {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")} == before
