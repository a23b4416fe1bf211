"""How well `autolink-transfer --crop auto` finds a body in tall videos, on synthetic figures whose place is known.

    python benchmarks/windows.py --model people-transfer --clips 24

A clip is a figure in four poses before a wall of its own, half to all of the frame's width large, anywhere in a frame
of 288 × 512 pixels. A window is good if its middle is off by less than a fifth of the true square's side, and its side
by less than a factor of 1.35; the true square is the one in which the figure is drawn, four fifths of it high.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import NamedTuple

import numpy as np
import torch
import tyro
from _measure import print_table, seconds

from autolink.batching import Batches
from autolink.data.skeleton import POSE_SIZE
from autolink.data.synthetic_figures import Figure, Scene
from autolink.errors import command
from autolink.ranges import Checked, Count
from autolink.tracking.search import search_by_confidence, search_by_steadiness
from autolink.tracking.windows import Window, absolute_window, whole
from autolink_apps.pose_transfer import PoseTransfer

WIDTH, HEIGHT, POSES = 288, 512, 4


@dataclass
class Options(Checked):
    model: str = "people-transfer"
    clips: Count = 24


class Clip(NamedTuple):
    frames: list[np.ndarray]  # (H, W, 3) uint8
    square: Window  # in which the figure is drawn


def clip(seed: int) -> Clip:
    """A figure pasted into a tall scene."""
    rng = np.random.default_rng([seed, 77])
    figure = Figure(rng)
    side = int(rng.uniform(0.5, 1.0) * WIDTH)
    left, top = int(rng.uniform(0, WIDTH - side)), int(rng.uniform(0.3, 1) * (HEIGHT - side))
    behind = np.clip(Scene(rng).draw(HEIGHT, rng.uniform(0.75, 0.95)), 0, 1)[:, :WIDTH] * 255
    frames = []
    for _ in range(POSES):
        image, coverage = figure.draw(*figure.place(rng.random(POSE_SIZE), rng.random()), side)
        frame = behind.copy()
        part = frame[top : top + side, left : left + side]
        part += coverage[..., None] * (image - part)
        frames.append(np.rint(frame).astype(np.uint8))
    return Clip(frames, Window(left + side / 2, top + side / 2, side))


def compare(options: Options) -> None:
    """Print a line for the middle, and for either criterion."""
    model = PoseTransfer.from_pretrained(options.model)
    detector = model.window_detector("float32", Batches(32))
    clips = [clip(seed) for seed in range(options.clips)]
    criteria: dict[str, Callable[[Clip], Window]] = {
        "middle": lambda clip: whole(WIDTH, HEIGHT, "crop"),
        "confidence": lambda clip: search_by_confidence(detector, clip.frames[0], "clip"),
        "steadiness": lambda clip: absolute_window(search_by_steadiness(detector, clip.frames, "clip"), WIDTH, HEIGHT),
    }
    rows = []
    for name, find in criteria.items():
        windows: list[Window] = []
        spent = seconds(partial(windows.extend, map(find, clips)))
        off = [math.dist(w[:2], c.square[:2]) / c.square.side for w, c in zip(windows, clips)]
        factor = [math.exp(abs(math.log(w.side / c.square.side))) for w, c in zip(windows, clips)]
        good = sum(o < 0.2 and f < 1.35 for o, f in zip(off, factor)) / len(clips)
        rows.append((name, f"{median(off):.2f}", f"{median(factor):.2f}", f"{good:.0%}", f"{spent / len(clips):.1f} s"))
    print_table(("criterion", "middle off, in sides", "side wrong by a factor of", "good", "a clip"), rows)


@command
def main() -> None:
    torch.set_grad_enabled(False)
    compare(tyro.cli(Options, description=__doc__))


if __name__ == "__main__":
    main()
