"""Fast inference: folded networks against trained ones, half precision against full, streams against whole clips."""

import importlib
import threading
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from autolink import AutoLink, load
from autolink.commands.detect import detect_stream
from autolink.errors import UserError
from autolink.inference import fold, half_precision
from autolink.layers import ConvDown, conv
from autolink.video import VideoWriter, open_frames, write_video
from autolink_apps.pose_transfer.model import PoseTransfer, PoseTransferConfig

transferring = importlib.import_module("autolink_apps.pose_transfer.transfer")


def stages_running() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if "_produce" in thread.name]


def unsettle(model: nn.Module) -> None:
    """Statistics and scales as after training, where BatchNorm does much."""
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor, low, high in [
                (layer.weight.data, 0.2, 2.0),
                (layer.bias.data, -1.0, 1.0),
                (layer.running_mean, -1.0, 1.0),
                (layer.running_var, 0.1, 3.0),
            ]:
                tensor.uniform_(low, high)


def names(model: nn.Module) -> set[type]:
    return {type(layer) for layer in model.modules()}


def test_a_folded_learner_gives_the_same_keypoints_and_images(tiny):
    unsettle(tiny)
    images, mask = torch.rand(2, 3, 64, 64) * 2 - 1, torch.ones(2, 1, 64, 64)
    with torch.no_grad():
        heatmaps, found, made = tiny.detector(images), tiny.locate(images), tiny(images, mask)
    folded = fold(tiny)
    assert not names(folded) & {nn.BatchNorm2d, ConvDown}
    assert torch.allclose(folded.detector(images), heatmaps, rtol=1e-5, atol=1e-5)
    assert torch.allclose(folded.locate(images).xy, found.xy, rtol=0, atol=1e-5)
    assert torch.allclose(folded(images, mask).images, made.images, rtol=1e-5, atol=1e-5)
    assert found.xy.std() > 1e-3  # keypoints differ, so that their agreement means something


@pytest.mark.parametrize("appearance", ["warped", "bottleneck"])
def test_a_folded_transfer_network_paints_the_same(appearance):
    model = PoseTransfer(PoseTransferConfig(32, 0.125, appearance)).eval()
    unsettle(model)
    source, poses = torch.rand(1, 3, 32, 32), torch.rand(3, 10, 2) * 1.6 - 0.8
    with torch.no_grad():
        expected = model.transfer(source, poses[:1], poses)
    folded = fold(model)
    assert not names(folded) & {nn.BatchNorm2d, ConvDown}
    assert torch.allclose(folded.transfer(source, poses[:1], poses), expected, rtol=0, atol=1e-5)


def test_only_what_follows_its_convolution_is_folded():
    """A normalisation after an activation or at the front is none of a convolution's business."""
    layers = nn.Sequential(nn.BatchNorm2d(3), conv(3, 8), nn.LeakyReLU(0.2), nn.BatchNorm2d(8)).eval()
    unsettle(layers)
    images = torch.randn(2, 3, 16, 16)
    expected = layers(images)
    assert torch.allclose(fold(layers)(images), expected, rtol=1e-5, atol=1e-5)
    assert [type(layer) for layer in layers] == [nn.BatchNorm2d, nn.Conv2d, nn.LeakyReLU, nn.BatchNorm2d]


def test_half_precision_moves_shipped_keypoints_by_a_fraction_of_a_pixel(real_data):
    """`faces` on faces it never saw, in pixels of the 128² that the detector sees."""
    from autolink.data import open_data

    data = open_data(str(real_data / "faces"), 128, "val")
    images = torch.stack([data[i * len(data) // 32].image for i in range(32)]).float() / 255
    exact = load("faces").detect(images).xy
    with half_precision(torch.device("cpu"), "bfloat16"):
        rough = fold(load("faces")).detect(images).xy
    moved = ((rough - exact) * 64).norm(dim=-1)
    assert 0 < moved.mean() < 0.1 and moved.max() < 1.5
    assert rough.dtype == torch.float32


def test_a_stream_gives_what_the_whole_clip_gives(tiny: AutoLink, tmp_path: Path):
    """Frames that are not square, more than one batch, a batch that is not full."""
    clip = np.random.default_rng(0).integers(0, 255, (7, 48, 80, 3), np.uint8)
    write_video(tmp_path / "clip.mp4", clip, 25)
    with open_frames(tmp_path / "clip.mp4") as frames:
        images = np.stack([frame.image for frame in frames])
        found = list(detect_stream(tiny, frames, batch_size=3))
    expected = tiny.detect(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255)
    assert [one.frame for one in found] == list(range(7))
    assert torch.allclose(torch.stack([one.keypoints for one in found]), expected.xy, atol=1e-5)
    assert torch.allclose(torch.stack([one.confidence for one in found]), expected.confidence, atol=1e-5)
    assert all(np.array_equal(one.image, image) for one, image in zip(found, images))


def test_leaving_a_stream_early_or_by_an_exception_ends_its_threads(tiny: AutoLink, tmp_path: Path):
    write_video(tmp_path / "clip.mp4", np.zeros((200, 32, 32, 3), np.uint8), 25)
    with open_frames(tmp_path / "clip.mp4") as frames, closing(detect_stream(tiny, frames, 4)) as stream:
        next(stream)
        assert stages_running()
    assert not stages_running()
    with pytest.raises(ValueError, match="user's"), open_frames(tmp_path / "clip.mp4") as frames:
        for _ in detect_stream(tiny, frames, 4):
            raise ValueError("the user's own mistake")


def test_a_transfer_that_cannot_write_ends_with_that_error(monkeypatch, tmp_path: Path):
    """The disk is full at the third frame: one line, the old video untouched, no thread left."""
    model = PoseTransfer(PoseTransferConfig(32, 0.125)).eval().save_pretrained(tmp_path / "model.safetensors")
    write_video(tmp_path / "clip.mp4", np.random.default_rng(0).integers(0, 255, (40, 32, 32, 3), np.uint8), 25)
    (tmp_path / "out.mp4").write_bytes(b"old")
    write = VideoWriter.write

    def fail(writer: VideoWriter, image: np.ndarray, time: object = None) -> None:
        if time and time > 2 / 25:
            raise UserError("disk full")
        write(writer, image, time)

    monkeypatch.setattr(VideoWriter, "write", fail)
    options = transferring.Options(
        src=(tmp_path / "clip.mp4",), driver=(tmp_path / "clip.mp4",), model=str(model), output=tmp_path / "out.mp4"
    )
    options.batch_size, options.device, options.crop = 4, "cpu", "none"
    with pytest.raises(UserError, match="disk full"):
        transferring.transfer(options)
    assert not stages_running()
    assert (tmp_path / "out.mp4").read_bytes() == b"old"
