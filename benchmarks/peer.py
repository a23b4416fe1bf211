"""`autolink-transfer` beside the layers of the First Order Motion Model (Siarohin et al., NeurIPS 2019), file to file.

The peer is built here from the sizes that its paper and published configuration (`vox-256`) give, with random weights:
a keypoint detector and a dense-motion network, both hourglasses at 64², and a generator at 256² with two blocks down,
six in the middle and two up. It shows what such a network costs, and nothing of what it can do. Both decode the same
clip, find keypoints in every frame, paint 256² from one portrait and encode the result; ours without a preview, since
the peer writes none. Local affine maps of its keypoints are computed and not used: they cost nothing to speak of.

Each row is a process of its own, in turn; the rate counts from the call to the finished file, model loading included.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import statistics
import tempfile
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

import numpy as np
import torch
from _measure import in_child, print_table, resident_megabytes, seconds
from inference import SIZE, make_clips
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from autolink.geometry import pixel_grid, soft_argmax
from autolink.inference import fold, half_precision
from autolink.pixels import unit_from_pictures
from autolink.threads import ahead
from autolink.video import open_frames, open_output

transferring = importlib.import_module("autolink_apps.pose_transfer.transfer")

KEYPOINTS, SIDE = 10, 64  # of the peer: keypoints, and the side at which they and the flow are found
CASES = {  # by name: batch size and precision; None for the options of ours
    "autolink-transfer": (16, "auto"),
    "autolink-transfer, frame by frame, float32": (1, "float32"),
    "peer, as published: frame by frame, float32": (1, "float32"),
    "peer, our batches and precision": (16, "auto"),
}


def block(inputs: int, outputs: int, kernel: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2), nn.BatchNorm2d(outputs), nn.ReLU())


class Hourglass(nn.Module):
    """Five blocks down and five up, with shortcuts: (B, inputs, h, w) → (B, width + inputs, h, w)."""

    def __init__(self, inputs: int, width: int, blocks: int = 5, most: int = 1024) -> None:
        super().__init__()
        channels = [inputs, *(min(most, width * 2 ** (level + 1)) for level in range(blocks))]
        self.down = nn.ModuleList(block(channels[i], channels[i + 1]) for i in range(blocks))
        self.up = nn.ModuleList(
            block(channels[i + 1] * (1 if i == blocks - 1 else 2), min(most, width * 2**i))
            for i in reversed(range(blocks))
        )
        self.outputs = width + inputs

    def forward(self, x: Tensor) -> Tensor:
        shortcuts = [x]
        for layer in self.down:
            shortcuts.append(functional.avg_pool2d(layer(shortcuts[-1]), 2))
        x = shortcuts.pop()
        for layer in self.up:
            x = torch.cat([layer(functional.interpolate(x, scale_factor=2)), shortcuts.pop()], dim=1)
        return x


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        layers = ((nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1)) for _ in range(2))
        self.layers = nn.Sequential(*chain(*layers))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class Peer(nn.Module):
    """Keypoints of a frame (`locate`), and a source moved to them (`forward`)."""

    def __init__(self) -> None:
        super().__init__()
        self.detector = Hourglass(3, 32)
        self.heatmaps = nn.Conv2d(self.detector.outputs, KEYPOINTS, 7)
        self.jacobians = nn.Conv2d(self.detector.outputs, 4 * KEYPOINTS, 7)
        self.dense = Hourglass((KEYPOINTS + 1) * 4, 64)
        self.masks = nn.Conv2d(self.dense.outputs, KEYPOINTS + 1, 7, padding=3)
        self.occlusion = nn.Conv2d(self.dense.outputs, 1, 7, padding=3)
        self.first = block(3, 64, 7)
        self.down = nn.ModuleList([block(64, 128), block(128, 256)])
        self.middle = nn.Sequential(*(Residual(256) for _ in range(6)))
        self.up = nn.ModuleList([block(256, 128), block(128, 64)])
        self.last = nn.Conv2d(64, 3, 7, padding=3)

    def locate(self, images: Tensor) -> Tensor:
        features = self.detector(functional.interpolate(images, (SIDE, SIDE), mode="area"))
        self.jacobians(features)
        return soft_argmax(self.heatmaps(features).float() / 0.1)

    def forward(self, source: Tensor, source_keypoints: Tensor, keypoints: Tensor) -> Tensor:
        count = len(keypoints)
        grid = pixel_grid(SIDE, SIDE, device=source.device)
        spots = [
            (-(grid - points[:, :, None, None]).square().sum(-1) / 0.02).exp()
            for points in (keypoints, source_keypoints)
        ]
        spots = functional.pad(spots[0] - spots[1], (0, 0, 0, 0, 1, 0))  # one for the background
        shifts = functional.pad(source_keypoints - keypoints, (0, 0, 1, 0))
        flows = grid + shifts[:, :, None, None]  # (B, K + 1, h, w, 2)
        small = functional.interpolate(source, (SIDE, SIDE), mode="area")
        small = small[:, None].expand(count, KEYPOINTS + 1, -1, -1, -1).flatten(0, 1)
        moved = functional.grid_sample(small.float(), flows.flatten(0, 1), align_corners=False).unflatten(
            0, (count, -1)
        )
        found = self.dense(torch.cat([spots[:, :, None], moved], dim=2).flatten(1, 2))
        flow = (self.masks(found).float().softmax(1)[..., None] * flows).sum(1)
        x = self.first(source)
        for layer in self.down:
            x = functional.avg_pool2d(layer(x), 2)
        x = functional.grid_sample(x.float().expand(count, -1, -1, -1), flow, align_corners=False)
        x = self.middle(x * self.occlusion(found).float().sigmoid())
        for layer in self.up:
            x = layer(functional.interpolate(x, scale_factor=2))
        return self.last(x).float().sigmoid()


def numbers(peer: Peer) -> tuple[float, float]:
    """Millions of parameters, and GMAC a frame."""
    image, points = torch.rand(1, 3, SIZE, SIZE), torch.zeros(1, KEYPOINTS, 2)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        peer(image, points, peer.locate(image))
    return sum(p.numel() for p in peer.parameters()) / 1e6, counter.get_total_flops() / 2e9


@torch.inference_mode()
def animate(portrait: Path, clip: Path, output: Path, frames: int, batch: int, precision: str) -> None:
    """The peer from file to file, with our reader, writer and threads."""
    device = torch.device("cpu")
    torch.manual_seed(0)
    peer = fold(Peer())

    def painted() -> Iterator[tuple[np.ndarray, object]]:
        source = unit_from_pictures([np.asarray(Image.open(portrait).convert("RGB"))])
        with half_precision(device, precision):
            source_keypoints = peer.locate(source)
            stream = ahead(islice(driver, frames), 2 * batch)
            while some := list(islice(stream, batch)):
                made = peer(source, source_keypoints, peer.locate(unit_from_pictures([image for image, _ in some])))
                yield from zip((made * 255).byte().permute(0, 2, 3, 1).contiguous().numpy(), (time for _, time in some))

    with open_frames(clip) as driver, open_output(output, SIZE, SIZE, driver.frame_rate) as result:
        for image, time in painted():
            result.write(image, time)


def measure(case: str, folder: Path, frames: int) -> dict[str, float]:
    batch, precision = CASES[case]
    portrait, clip, output = folder / "portrait.png", folder / "10.mp4", folder / "result.mp4"
    if case.startswith("peer"):
        action = lambda: animate(portrait, clip, output, frames, batch, precision)  # noqa: E731
    else:
        usual = {"batch_size": batch, "precision": precision, "device": "cpu", "preview": "off", "max_frames": frames}
        options = transferring.Options(src=(portrait,), driver=(clip,), output=output, **usual)
        action = lambda: transferring.transfer(options)  # noqa: E731
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        elapsed = seconds(action)
    return {"rate": frames / elapsed, "megabytes": resident_megabytes()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", nargs=3, metavar=("CASE", "FOLDER", "FRAMES"))
    parser.add_argument("--frames", type=int, default=48)
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()
    if options.measure:
        case, folder, frames = options.measure
        print(json.dumps(measure(case, Path(folder), int(frames))))
        return
    parameters, gmac = numbers(Peer().eval())
    print(f"Layers of the peer: {parameters:.1f} million parameters, {gmac:.1f} GMAC a frame of {SIZE}².\n")
    with tempfile.TemporaryDirectory() as folder:
        make_clips(Path(folder))
        runs = {case: [] for case in CASES}
        for _ in range(options.repetitions):
            for case, measured in runs.items():
                measured.append(in_child(__file__, "--measure", case, folder, options.frames))
        rates = {case: statistics.median(run["rate"] for run in measured) for case, measured in runs.items()}
        ours = next(iter(rates.values()))
        rows = (
            [case, f"{rate:.2g}", f"{rate / ours:.2f}×", f"{max(run['megabytes'] for run in runs[case]):.0f}"]
            for case, rate in rates.items()
        )
        print_table(["", "frames/s", "against ours", "peak MB"], rows)


if __name__ == "__main__":
    main()
