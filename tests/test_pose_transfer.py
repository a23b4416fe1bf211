"""Pose transfer: the networks, pairs of frames, a training run, and `autolink-transfer` on clips made here."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image

from autolink import AutoLink, AutoLinkConfig, UserError
from autolink.data.synthetic import SyntheticFigures, synthetic_clip
from autolink.geometry import pixel_grid
from autolink.video import VideoFrame, open_frames, write_video
from autolink.weights import read_tensors
from autolink_apps.pose_transfer import PoseTransfer, PoseTransferConfig, TransferNet
from autolink_apps.pose_transfer import train as training
from autolink_apps.pose_transfer import transfer as transferring
from autolink_apps.pose_transfer.pairs import FramePairs
from autolink_apps.pose_transfer.warp import keypoint_flow, warp

TINY = AutoLinkConfig(keypoints=4, thickness=5e-3, image_size=32, width=0.1)
TIMES = [Fraction(k * (k + 5), 100) for k in range(20)]  # a variable frame rate


@pytest.fixture(autouse=True)
def _fresh_accelerator_state():
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def autolink_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return AutoLink(TINY).save_pretrained(tmp_path_factory.mktemp("autolink"))


def tiny_model(appearance: str = "warped") -> PoseTransfer:
    torch.manual_seed(0)
    return PoseTransfer(PoseTransferConfig(32, 0.1, appearance, TINY)).eval()


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model().save_pretrained(tmp_path_factory.mktemp("model"), {"data": "none"})


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos of moving figures: `a.mp4` 48×40 with even times, `b.mp4` 40×60 with uneven times and sound."""
    folder = tmp_path_factory.mktemp("clips")
    one, two = (synthetic_clip(seed, 20, 60)[0].permute(0, 2, 3, 1).numpy() for seed in (0, 1))
    write_video(folder / "a.mp4", iter(one[:, 10:50, 6:54]), 25)
    write_sound(folder / "sound.wav", 6)
    frames = [VideoFrame(np.ascontiguousarray(image[:, 10:50]), time) for image, time in zip(two, TIMES)]
    write_video(folder / "b.mp4", iter(frames), 25, audio_from=folder / "sound.wav")
    (folder / "sound.wav").unlink()
    return folder


@pytest.fixture(scope="module")
def frame_folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty folders, each with one figure in four poses."""
    root = tmp_path_factory.mktemp("frames")
    figures = SyntheticFigures(32, length=20 * 8)
    for number in range(20 * 4):
        image, _, _, clip = figures[number // 4 * 8 + number % 4]
        (root / Path(clip).name).mkdir(exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(root / Path(clip).name / f"{number % 4}.png")
    return root


def write_sound(path: Path, seconds: float) -> None:
    wave = (np.sin(np.arange(int(seconds * 16000)) * 0.1) * 8000).astype(np.int16)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(wave[None], format="s16", layout="mono")
        frame.rate, frame.pts = 16000, 0
        container.mux([*stream.encode(frame), *stream.encode(None)])


# The networks


@pytest.mark.parametrize("appearance", ["bottleneck", "warped"])
@pytest.mark.parametrize("image_size", [64, 128, 256])
def test_network_trains_every_parameter(image_size: int, appearance: str) -> None:
    network = TransferNet(image_size, 0.05, appearance)
    images, edge_maps = torch.rand(2, 3, image_size, image_size) * 2 - 1, torch.rand(2, 1, image_size, image_size)
    source, driving = torch.rand(2, 2, 5, 2) * 2 - 1
    made = network(images, source, edge_maps, driving, edge_maps.flip(-1))
    assert made.shape == images.shape
    (made - 1).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("appearance", ["bottleneck", "warped"])
def test_network_can_learn_pairs_by_heart(appearance: str) -> None:
    figures = SyntheticFigures(32, length=16)
    samples = [figures[index] for index in (0, 8, 1, 9)]  # two figures in two poses
    images = torch.stack([sample.image for sample in samples]).float() / 127.5 - 1
    poses = torch.stack([sample.landmarks for sample in samples])
    edge_maps = AutoLink(AutoLinkConfig(poses.shape[1], 5e-3, 32, 0.1)).edge_map(poses, 32).detach() * 50
    inputs = [part for x in (images, poses, edge_maps) for part in x.chunk(2)]
    source, driving, source_pose, driving_pose, source_edges, driving_edges = inputs
    network = TransferNet(32, 0.1, appearance)
    adam = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(100):
        error = (network(source, source_pose, source_edges, driving_pose, driving_edges) - driving).square().mean()
        adam.zero_grad()
        error.backward()
        adam.step()
    assert error.item() < 0.5 * (source - driving).square().mean().item()


def test_network_has_the_sizes_of_figure_8() -> None:
    network = TransferNet(128, appearance="bottleneck")
    features = network.edge_encoder(torch.zeros(1, 1, 128, 128))
    expected = [(64, 128), (128, 64), (256, 32), (512, 16), (512, 8)]
    assert [(f.shape[1], f.shape[2]) for f in features] == expected
    assert network.decoder[0][0].in_channels == 512 + 512 + 512  # smallest feature, appearance, shortcut
    assert [block[0].out_channels for block in network.decoder] == [512, 256, 128, 64]
    assert not any("batchnorm" in type(module).__name__.lower() for module in network.modules())


def test_an_odd_size_is_refused_in_one_line() -> None:
    with pytest.raises(UserError, match="power of two"):
        TransferNet(96)


def test_equal_poses_do_not_warp() -> None:
    pose, images = torch.rand(2, 6, 2) * 2 - 1, torch.rand(2, 3, 64, 64)
    flow = keypoint_flow(pose, pose, 32)
    assert flow.abs().max() == 0
    torch.testing.assert_close(warp(images, flow), images, atol=1e-5, rtol=0)


def test_flow_carries_keypoints_to_where_they_go() -> None:
    source, driving = torch.rand(2, 3, 5, 2) * 1.6 - 0.8
    flow = keypoint_flow(source, driving, 128)
    at_keypoints = torch.nn.functional.grid_sample(flow, driving[:, None], align_corners=False)[:, :, 0]
    assert (driving + at_keypoints.transpose(1, 2) - source).abs().max() < 0.15
    assert (driving - source).abs().max() > 0.5


def test_flow_of_an_affine_motion_is_that_motion() -> None:
    driving = torch.tensor([[-0.7, -0.7], [0.7, -0.6], [0.6, 0.7], [-0.7, 0.6], [0.1, 0.0]])[None]
    matrix, shift = torch.tensor([[0.9, -0.3], [0.2, 1.1]]), torch.tensor([0.1, -0.05])
    flow = keypoint_flow(driving @ matrix + shift, driving, 16)
    grid = pixel_grid(16, 16)
    expected = grid @ matrix + shift - grid
    assert (flow[0].permute(1, 2, 0) - expected).abs().max() < 0.1 * expected.abs().max()  # but for the rigidity


@pytest.mark.parametrize("driving", [torch.zeros(1, 5, 2), torch.linspace(-0.5, 0.5, 5)[None, :, None].expand(1, 5, 2)])
def test_flow_of_degenerate_poses_is_finite_and_translates(driving: torch.Tensor) -> None:
    flow = keypoint_flow(driving + torch.tensor([0.2, -0.1]), driving, 16)
    torch.testing.assert_close(flow, torch.tensor([0.2, -0.1])[None, :, None, None].expand_as(flow), atol=1e-4, rtol=0)


def test_warp_moves_whole_pixels_and_repeats_the_border() -> None:
    images = torch.rand(1, 3, 8, 8)
    flow = torch.zeros(1, 2, 4, 4)
    flow[:, 0] = 2 / 8  # fetch from one pixel to the right
    moved = warp(images, flow)
    torch.testing.assert_close(moved[..., :-1], images[..., 1:])
    torch.testing.assert_close(moved[..., -1], images[..., -1])


def test_half_precision_does_not_round_positions() -> None:
    source, driving = torch.rand(2, 1, 4, 2) * 2 - 1
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(keypoint_flow(source, driving, 16), keypoint_flow(source.double(), driving.double(), 16))
    images = torch.rand(1, 3, 32, 32)
    model = tiny_model()
    exact = model.transfer(images, source, driving)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(model.transfer(images, source, driving), exact, atol=0.03, rtol=0)


@pytest.mark.parametrize("appearance", ["bottleneck", "warped"])
@torch.no_grad()
def test_one_source_serves_many_poses(appearance: str) -> None:
    model, images, poses = tiny_model(appearance), torch.rand(3, 3, 32, 32), torch.rand(3, 4, 2) * 2 - 1
    source = model.encode(images[:1], poses[:1])
    made = model.drive(source, poses)
    assert made.shape == (3, 3, 32, 32) and made.min() >= 0 and made.max() <= 1
    for one, pose in zip(made, poses):
        torch.testing.assert_close(model.transfer(images[:1], poses[:1], pose[None])[0], one, atol=1e-5, rtol=0)
    other = model.drive(model.encode(images[1:2], poses[:1]), poses)
    assert (other - made).abs().mean() > 1e-5  # the source's looks matter
    assert (made[1] - made[2]).abs().mean() > 1e-6  # and so does the pose


def test_network_sees_an_edge_map_that_reaches_one() -> None:
    model = tiny_model()
    drawn = model.edge_map(torch.rand(2, 4, 2) - 0.5)
    assert 0.5 < drawn.max() <= 1
    assert model.autolink.edge_weights.max() < 0.1


def test_file_restores_the_model_and_its_frozen_autolink(model_file: Path) -> None:
    model, restored = tiny_model(), PoseTransfer.from_pretrained(model_file)
    assert restored.config == model.config
    pose, images = torch.rand(1, 4, 2), torch.rand(1, 3, 32, 32)
    assert torch.equal(restored.transfer(images, pose, -pose), model.transfer(images, pose, -pose))
    restored.train()
    assert restored.network.training and not restored.autolink.training
    assert not any(parameter.requires_grad for parameter in restored.autolink.parameters())


# Pairs


class Frames:
    """A data set of `Sample`-like frames that knows its clips."""

    name = "frames"

    def __init__(self, clips: list[str]) -> None:
        self.clips = clips

    def __len__(self) -> int:
        return len(self.clips)


def test_pairs_are_two_frames_of_one_clip(caplog: pytest.LogCaptureFixture) -> None:
    frames = Frames(["a", "b", "a", "lonely", "a", "b", "", ""])
    pairs = FramePairs(frames)
    assert "left out 3 of 8 frames" in caplog.text
    drawn = [pairs.indices(index) for index in range(len(pairs))]
    assert all(frames.clips[source] == frames.clips[driving] and source != driving for source, driving in drawn)
    assert {driving for _, driving in drawn[:5]} == {0, 1, 2, 4, 5}  # each frame once before any comes again
    assert set(drawn) == {(1, 5), (5, 1)} | {(s, d) for s in (0, 2, 4) for d in (0, 2, 4) if s != d}


def test_pairs_depend_on_index_and_seed_alone() -> None:
    def drawn(seed: int) -> list[tuple[int, int]]:
        pairs = FramePairs(Frames(["a"] * 30), seed)
        return [pairs.indices(index) for index in reversed(range(100))]

    assert drawn(1) == drawn(1) != drawn(2)


def test_clips_of_one_frame_are_an_error() -> None:
    with pytest.raises(UserError, match="two frames"):
        FramePairs(Frames(["a", "b", ""]))


def test_pairs_of_synthetic_figures_show_one_figure() -> None:
    frames = SyntheticFigures(32, "val", length=16)
    source, driving = FramePairs(frames)[3]
    assert source.shape == driving.shape == (3, 32, 32) and source.dtype == torch.uint8
    assert torch.equal(driving, frames[3].image) and not torch.equal(source, driving)


def test_pairs_of_real_faces_show_one_person(real_data: Path) -> None:
    from autolink.data import open_data

    frames = open_data("faces", 32, "val", real_data)
    pairs = FramePairs(frames)
    names = [[Path(frames[i].name).stem.rsplit("_", 1)[0] for i in pairs.indices(n)] for n in range(0, 500, 25)]
    assert all(source.rstrip("0123456789") == driving.rstrip("0123456789") for source, driving in names)


# Training


def options_for(data: Path, autolink_file: Path | None, output: Path, **changes: object) -> training.Options:
    values = {
        "data": str(data),
        "autolink": str(autolink_file) if autolink_file else None,
        "output": output,
        "image_size": 32,
        "width": 0.1,
        "batch_size": 4,
        "steps": 6,
        "r1_every": 2,
        "perceptual": "pyramid",
        "mixed_precision": "no",
        "workers": 0,
        "log_every": 1,
        "sample_every": 3,
        "save_every": 3,
    }
    return training.Options(**{**values, **changes})


def test_resumed_run_equals_an_unbroken_one(frame_folders: Path, autolink_file: Path, tmp_path: Path) -> None:
    whole = options_for(frame_folders, autolink_file, tmp_path / "whole")
    training.train(whole)
    broken = options_for(frame_folders, autolink_file, tmp_path / "broken", steps=3)
    training.train(broken)
    training.train(dataclasses.replace(broken, steps=6, resume=True))
    for file in ("checkpoint.safetensors", "model.safetensors"):
        expected, found = (read_tensors(run.output / file) for run in (whole, broken))
        assert expected.keys() == found.keys()
        for name, tensor in expected.items():
            assert torch.equal(tensor, found[name]), name
    assert len(list((broken.output / "samples").glob("transfers-*.png"))) == 2
    logs = [(run.output / "log.jsonl").read_text().splitlines() for run in (whole, broken)]
    assert logs[0][-2:] == logs[1][-2:]
    assert json.loads(logs[0][-2]).keys() == {"step", "mse", "perceptual", "gan", "discriminator"}
    assert json.loads(logs[0][-1]).keys() == {"step", "held_out_l1", "held_out_l1_of_copying"}


def test_model_file_holds_the_average_and_the_autolink_as_it_was(
    frame_folders: Path, autolink_file: Path, tmp_path: Path
) -> None:
    model = PoseTransfer.from_pretrained(training.train(options_for(frame_folders, autolink_file, tmp_path, steps=2)))
    checkpoint = read_tensors(tmp_path / "checkpoint.safetensors")
    state = model.network.state_dict()
    assert all(torch.equal(tensor, checkpoint[f"module/ema/module.{name}"]) for name, tensor in state.items())
    assert any(not torch.equal(tensor, checkpoint[f"module/network/{name}"]) for name, tensor in state.items())
    original = AutoLink.from_pretrained(autolink_file).state_dict()
    assert all(torch.equal(tensor, original[name]) for name, tensor in model.autolink.state_dict().items())
    assert model.metadata["steps"] == 2 and model.metadata["options"]["gan_weight"] == 0.1


@pytest.mark.parametrize("appearance", ["bottleneck", "warped"])
def test_run_in_half_precision_without_discriminator(
    appearance: str, frame_folders: Path, autolink_file: Path, tmp_path: Path
) -> None:
    changes = {"gan_weight": 0, "steps": 3, "appearance": appearance, "mixed_precision": "bf16"}
    training.train(options_for(frame_folders, autolink_file, tmp_path, **changes))
    tensors = read_tensors(tmp_path / "checkpoint.safetensors")
    assert not any("discriminator" in name for name in tensors)
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    assert tensors["module/network/to_image.weight"].dtype == torch.float32
    first = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[0])
    assert first.keys() == {"step", "mse", "perceptual"}


def test_videos_are_learned_from_after_their_keypoints(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, clips: Path, tmp_path: Path
) -> None:
    """Without an AutoLink, one is trained first, and said to be."""
    monkeypatch.setenv("AUTOLINK_CACHE", str(tmp_path / "cache"))
    options = options_for(clips, None, tmp_path / "run", steps=2, batch_size=2, autolink_steps=2, keypoints=3)
    model = PoseTransfer.from_pretrained(training.train(options))
    assert "training one first" in caplog.text
    assert model.metadata["data"] == clips.name and model.config.autolink.keypoints == 3


TWO_PROCESSES = """
import sys
from pathlib import Path
import torch
from autolink_apps.pose_transfer import train as training

save = training.save_checkpoint
def save_if_equal(accelerator, output, step, modules, optimizers):
    assert accelerator.num_processes == 2
    for name, module in modules.items():
        weights = torch.cat([p.detach().flatten() for p in module.parameters()])
        first, second = accelerator.gather(weights[None])
        assert torch.equal(first, second), name
    (Path(output) / f"equal-{accelerator.process_index}").touch()
    save(accelerator, output, step, modules, optimizers)
training.save_checkpoint = save_if_equal
training.main()
"""


def test_two_processes_learn_as_one(frame_folders: Path, autolink_file: Path, tmp_path: Path) -> None:
    """Weights are equal in both, and close to those of one process that sees the same batches."""
    alone = options_for(frame_folders, autolink_file, tmp_path / "alone", steps=4, save_every=4, perceptual_weight=0)
    command_line = []
    for field in dataclasses.fields(alone):
        value = getattr(alone, field.name)
        if value is not None and not isinstance(value, bool):
            value = tmp_path / "run" if field.name == "output" else value
            command_line += [f"--{field.name.replace('_', '-')}", str(value)]
    script = tmp_path / "two_processes.py"
    script.write_text(TWO_PROCESSES)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    run = [*launch, str(script), *command_line]
    done = subprocess.run(run, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    assert {path.name for path in (tmp_path / "run").glob("equal-*")} == {"equal-0", "equal-1"}
    training.train(alone)
    expected, found = (read_tensors(tmp_path / run / "checkpoint.safetensors") for run in ("alone", "run"))
    for name, tensor in expected.items():
        if name.startswith("module/"):
            torch.testing.assert_close(found[name], tensor, atol=2e-4, rtol=1e-2, msg=name)


def test_mistakes_are_found_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        training.train(options_for(tmp_path / "nowhere", None, tmp_path / "run"))
    for name in "abcdefghij":
        Image.new("RGB", (32, 32)).save(tmp_path / f"{name}.png")
    with pytest.raises(UserError, match="two frames"):
        training.train(options_for(tmp_path, None, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


# autolink-transfer


def run_transfer(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["autolink-transfer", *map(str, arguments)])
    try:
        transferring.main()
    except SystemExit as stopped:
        return stopped.code
    return 0


def arguments_for(clips: Path, model_file: Path, output: Path) -> list[object]:
    arguments = ["--src", clips / "a.mp4", "--driver", clips / "b.mp4", "--model", model_file]
    return [*arguments, "--output", output, "--batch-size", 4, "--device", "cpu"]


def test_result_keeps_the_drivers_times_and_sound(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], clips: Path, model_file: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.mp4"
    assert run_transfer(monkeypatch, *arguments_for(clips, model_file, output)) == 0
    said = capsys.readouterr().out
    assert "reference: frame" in said and "source: frame" in said and str(model_file) in said
    assert said.splitlines()[-2:] == [str(output), str(tmp_path / "out-preview.mp4")]
    with open_frames(clips / "b.mp4") as driver, open_frames(output) as result:
        assert [frame.time for frame in result] == [frame.time for frame in driver] == TIMES
        assert (result.width, result.height) == (32, 32) and result.has_audio
    with open_frames(tmp_path / "out-preview.mp4") as preview:
        frames = list(preview)
        assert (preview.width, preview.height) == (4 * 32, 32) and preview.has_audio
        assert len(frames) == len(TIMES)
        sources = np.stack([frame.image[:, :32] for frame in frames]).astype(float)
        drivers = np.stack([frame.image[:, 32:64] for frame in frames]).astype(float)
        assert sources.std(0).mean() < 3 < drivers.std(0).max()  # the source rests, the driver moves
    assert {path.name for path in tmp_path.iterdir()} == {"out.mp4", "out-preview.mp4"}  # no leftovers


def test_result_is_what_the_parts_make(
    monkeypatch: pytest.MonkeyPatch, clips: Path, model_file: Path, tmp_path: Path
) -> None:
    """One batch by hand: absolute motion, first frames, no streaming."""
    arguments = arguments_for(clips, model_file, tmp_path / "out.mp4")
    arguments += ["--motion", "absolute", "--source-frame", "first", "--preview", "off", "--no-sound"]
    assert run_transfer(monkeypatch, *arguments) == 0

    def squares(path: Path) -> torch.Tensor:
        with open_frames(path) as frames:
            images = np.stack([transferring.square(Image.fromarray(frame.image), 32) for frame in frames])
        return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255

    model = PoseTransfer.from_pretrained(model_file)
    source, driver = squares(clips / "a.mp4")[:1], squares(clips / "b.mp4")
    with torch.no_grad():
        expected = model.transfer(source, model.autolink.detect(source).xy, model.autolink.detect(driver).xy)
    with open_frames(tmp_path / "out.mp4") as result:
        assert not result.has_audio
        found = np.stack([frame.image for frame in result]) / 255
    assert np.abs(found - expected.permute(0, 2, 3, 1).numpy()).mean() < 0.02  # H.264 and bf16
    assert not (tmp_path / "out-preview.mp4").exists()


def test_a_clip_drives_itself_by_relative_as_by_absolute_motion(
    monkeypatch: pytest.MonkeyPatch, clips: Path, model_file: Path, tmp_path: Path
) -> None:
    made = []
    for motion in ("relative", "absolute"):
        arguments = ["--src", clips / "b.mp4", "--driver", clips / "b.mp4", "--model", model_file, "--motion", motion]
        arguments += ["--source-frame", 3, "--reference", 3, "--preview", "off", "--output", tmp_path / f"{motion}.mp4"]
        assert run_transfer(monkeypatch, *arguments) == 0
        with open_frames(tmp_path / f"{motion}.mp4") as result:
            made.append(np.stack([frame.image for frame in result]).astype(float))
    assert np.abs(made[0] - made[1]).max() <= 2


def test_image_source_padding_and_limits(
    monkeypatch: pytest.MonkeyPatch, clips: Path, model_file: Path, tmp_path: Path
) -> None:
    with open_frames(clips / "b.mp4") as frames:
        Image.fromarray(next(iter(frames)).image).save(tmp_path / "portrait.png")  # 40×60
    monkeypatch.chdir(tmp_path)
    arguments = ["--src", "portrait.png", "--driver", clips / "b.mp4", "--model", model_file, "--fit", "pad"]
    assert run_transfer(monkeypatch, *arguments, "--max-frames", 5, "--reference", "first", "--smooth") == 0
    with open_frames(tmp_path / "portrait-as-b.mp4") as result:
        assert [frame.time for frame in result] == TIMES[:5]
        assert (result.width, result.height) == (22, 32)  # the source's aspect, to even numbers
    with open_frames(tmp_path / "portrait-as-b-preview.mp4") as preview:
        assert (preview.width, preview.height) == (128, 32)


def test_uncertain_keypoints_are_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, clips: Path, model_file: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(transferring, "LOW_CONFIDENCE", 1.1)
    assert run_transfer(monkeypatch, *arguments_for(clips, model_file, tmp_path / "out.mp4")) == 0
    assert "uncertain keypoints in 20 of 20 frames" in caplog.text


WRONG = {
    "missing source": ("--src", "nowhere.mp4", "nowhere.mp4"),
    "missing driver": ("--driver", "nowhere.mp4", "nowhere.mp4"),
    "text as source": ("--src", "text.txt", "text.txt"),
    "text as driver": ("--driver", "text.mp4", "text.mp4"),
    "empty folder": ("--driver", "empty", "empty"),
    "truncated video": ("--driver", "truncated.mp4", "truncated.mp4"),
    "no model": ("--model", "nothing", "nothing"),
    "damaged model": ("--model", "damaged.safetensors", "damaged.safetensors"),
    "model of another task": ("--model", "autolink.safetensors", "pose-transfer"),
    "no such frame": ("--reference", "99", "20 frames"),
    "no frame at all": ("--source-frame", "best", "best"),
    "input as output": ("--output", "b.mp4", "is an input"),
    "not an mp4": ("--output", "out.avi", "mp4"),
    "no batch": ("--batch-size", "0", "--batch-size"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_input_is_one_line(
    what: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], clips: Path, model_file: Path,
    autolink_file: Path, tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    video = (clips / "b.mp4").read_bytes()
    Path("b.mp4").write_bytes(video)
    Path("truncated.mp4").write_bytes(video[: len(video) // 2])
    Path("text.txt").write_text("not a video")
    Path("text.mp4").write_text("not a video")
    Path("empty").mkdir()
    Path("damaged.safetensors").write_bytes(model_file.read_bytes()[:-100])
    Path("autolink.safetensors").write_bytes(autolink_file.read_bytes())
    option, value, named = WRONG[what]
    arguments = {"--src": clips / "a.mp4", "--driver": "b.mp4", "--model": model_file, "--output": "out.mp4"}
    arguments[option] = value
    assert run_transfer(monkeypatch, *(part for pair in arguments.items() for part in pair)) == 2
    lines = capfd.readouterr().err.replace("\r", "\n").splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1 and named in errors[0]
    assert not any("Traceback" in line for line in lines)
    assert Path("b.mp4").read_bytes() == video and not Path("out.mp4").exists()
