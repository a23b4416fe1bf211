"""What the tests of pose transfer share: tiny models, clips of moving figures, and the command itself."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from autolink import AutoLink, AutoLinkConfig, cli
from autolink.batching import Batches
from autolink.data.synthetic import synthetic_clip
from autolink.detector import Keypoints
from autolink.video import VideoFrame, write_video
from autolink_apps.pose_transfer import PoseTransfer, PoseTransferConfig

TINY = AutoLinkConfig(keypoints=4, thickness=5e-3, image_size=32, width=0.1)
TIMES = [Fraction(k * (k + 5), 100) for k in range(20)]  # a variable frame rate


def tiny_model(appearance: str = "warped") -> PoseTransfer:
    """An untrained network of 32² around an untrained AutoLink of four keypoints."""
    torch.manual_seed(0)
    return PoseTransfer(PoseTransferConfig(32, 0.1, appearance, TINY)).eval()


def write_autolink(folder: Path) -> Path:
    """An untrained AutoLink of four keypoints, as a file."""
    torch.manual_seed(0)
    return AutoLink(TINY).save_pretrained(folder)


def write_model(folder: Path) -> Path:
    """`tiny_model` as a file."""
    return tiny_model().save_pretrained(folder, {"data": "none"})


def write_clips(folder: Path) -> Path:
    """Two videos of moving figures: `a.mp4` 48×40 with even times, `b.mp4` 40×60 with uneven times and sound."""
    one, two = (synthetic_clip(seed, 20, 60)[0].permute(0, 2, 3, 1).numpy() for seed in (0, 1))
    write_video(folder / "a.mp4", iter(one[:, 10:50, 6:54]), 25)
    write_sound(folder / "sound.wav", 6)
    frames = [VideoFrame(np.ascontiguousarray(image[:, 10:50]), time) for image, time in zip(two, TIMES)]
    write_video(folder / "b.mp4", iter(frames), 25, audio_from=folder / "sound.wav")
    (folder / "sound.wav").unlink()
    return folder


def write_sound(path: Path, seconds: float) -> None:
    """A tone as a wav file."""
    wave = (np.sin(np.arange(int(seconds * 16000)) * 0.1) * 8000).astype(np.int16)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(wave[None], format="s16", layout="mono")
        frame.rate, frame.pts = 16000, 0
        container.mux([*stream.encode(frame), *stream.encode(None)])


def run_transfer(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """`autolink-transfer` with these arguments; its status."""
    monkeypatch.setattr(sys, "argv", ["autolink-transfer", *map(str, arguments)])
    try:
        cli.transfer()
    except SystemExit as stopped:
        return stopped.code
    return 0


def arguments_for(clips: Path, model_file: Path, output: Path) -> list[object]:
    """`a.mp4` driven by `b.mp4`."""
    arguments = ["--src", clips / "a.mp4", "--driver", clips / "b.mp4", "--model", model_file]
    return [*arguments, "--output", output, "--batch-size", 4, "--device", "cpu"]


def pictures(folder: Path) -> np.ndarray:
    """The PNG files of a folder, (T, H, W, 3) uint8."""
    return np.stack([np.asarray(Image.open(file)) for file in sorted(folder.glob("*.png"))])


DOTS = torch.tensor([[-0.5, -0.5], [0.5, -0.5], [0.0, 0.6]])


class DotDetector:
    """Finds a red, a green and a blue dot; certain if they are large in the square and all there."""

    size = 64

    def __init__(self, sure: bool = True) -> None:
        self.sure = sure
        self.batches, self.looked_at, self.looks = Batches(16), 0, 0

    def __call__(self, squares: Sequence[np.ndarray]) -> Keypoints:
        self.looked_at += len(squares)
        self.looks += 1
        poses, certain = [], []
        for square in squares:
            colours = torch.from_numpy(np.asarray(square)).float()
            # Of each colour, what the others have not; grey has nothing.
            own = torch.stack([(colours[..., c] - colours.sum(-1) / 2).clamp(min=0) for c in range(3)])
            mass = own.sum((1, 2))
            middles = (torch.arange(64) + 0.5) / 32 - 1
            pose = torch.stack([(own.sum(1) * middles).sum(1), (own.sum(2) * middles).sum(1)], -1)
            pose = pose / mass.clamp(min=1e-3)[:, None]
            width = (pose[1] - pose[0]).norm().item()
            complete = mass.min() > 0.8 * mass.max() > 600  # dots that are cut off show less
            poses.append(pose)
            certain.append(0.9 if complete and 0.4 < width < 1.1 else 0.1)
        return Keypoints(torch.stack(poses), torch.tensor(certain)[:, None].expand(-1, 3))


def scene(*objects: tuple[float, float, float], width: int = 400, height: int = 240) -> np.ndarray:
    """Grey, with objects at (x, y, size) in pixels."""
    image = Image.new("RGB", (width, height), (128, 128, 128))
    draw = ImageDraw.Draw(image)
    for x, y, size in objects:
        for (dx, dy), colour in zip(DOTS.tolist(), [(255, 0, 0), (0, 255, 0), (0, 0, 255)]):
            at, r = (x + dx * size, y + dy * size), size / 4
            draw.ellipse((at[0] - r, at[1] - r, at[0] + r, at[1] + r), fill=colour)
    return np.asarray(image)
