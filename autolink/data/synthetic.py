"""The data set `synthetic`: articulated figures made on the fly, with their true joints and links.

Nothing is stored: sample `index` is a pure function of the seed and the index. Eight consecutive samples show
the same figure in the same scene in eight poses, and are one clip. Splits are disjoint: none of the figures
of "val" is in "train".

J joints, S image size, T frames.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.utils.data import Dataset

from autolink.data.sample import Sample
from autolink.data.skeleton import JOINT_NAMES, POSE_SIZE, SKELETON_LINKS, Posed
from autolink.data.synthetic_figures import Figure
from autolink.errors import UserError

__all__ = ["JOINT_NAMES", "SKELETON_LINKS", "SyntheticFigures", "synthetic_clip"]

FRAMES_A_CLIP = 8
SPLIT_LENGTHS = {"train": 20_000, "val": 2_000, "test": 2_000, "fit": 2_000}
_FRAMES_A_POSE = 12  # of a moving clip: the time to get from one random pose to the next


class SyntheticFigures(Dataset[Sample]):
    """Random figures in random poses.

    Args:
        image_size: side of the square images in pixels.
        split: "train", "val" or "test"; "fit" is the first 2,000 of "train".
        seed: another seed, other figures.
        length: number of samples; if not given 20,000 for "train" and 2,000 for "val" and "test".

    Raises:
        UserError: an unknown split.
    """

    name = "synthetic"
    landmark_count = len(JOINT_NAMES)
    links = SKELETON_LINKS

    def __init__(self, image_size: int, split: str = "train", seed: int = 0, length: int | None = None):
        if split not in SPLIT_LENGTHS:
            raise UserError(f"split {split!r} is unknown; expected one of {', '.join(SPLIT_LENGTHS)}")
        self.image_size = image_size
        self.seed = seed
        self.length = SPLIT_LENGTHS[split] if length is None else length
        stream = "train" if split == "fit" else split
        self.clips = [f"{stream}/{index // FRAMES_A_CLIP:05d}" for index in range(self.length)]
        self._stream = list(SPLIT_LENGTHS).index(stream)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        figure, posed, origin = self._posed(index)
        image, _ = figure.draw(posed, origin, self.image_size)
        return Sample(
            image=torch.from_numpy(image).permute(2, 0, 1).contiguous(),
            landmarks=torch.from_numpy((figure.joints(posed, origin) * 2 - 1).astype(np.float32)),
            name=f"{self.clips[index]}/{index % FRAMES_A_CLIP}",
            clip=self.clips[index],
        )

    def coverage(self, index: int) -> torch.Tensor:
        """How much of each pixel (S, S) of a sample the figure covers, float32 in [0, 1]."""
        figure, posed, origin = self._posed(index)
        return torch.from_numpy(figure.draw(posed, origin, self.image_size)[1])

    def _posed(self, index: int) -> tuple[Figure, Posed, np.ndarray]:
        """The figure of a sample, its pose, and its place in the image."""
        if not 0 <= index < self.length:
            raise IndexError(index)
        clip, frame = divmod(index, FRAMES_A_CLIP)
        figure = Figure(np.random.default_rng([self.seed, self._stream, clip, 0]))
        rng = np.random.default_rng([self.seed, self._stream, clip, 1 + frame])
        return figure, *figure.place(rng.random(POSE_SIZE), rng.random())


def synthetic_clip(
    seed: int, frames: int, size: int, identity_seed: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """A figure that moves smoothly through random poses.

    Args:
        seed: decides the motion, and the figure too unless `identity_seed` is given.
        frames: T; at 25 frames a second the motion has a natural speed.
        size: S.
        identity_seed: decides the figure and its scene.

    Returns:
        (T, 3, S, S) uint8 frames, and (T, J, 2) float32 joints in [-1, 1], in the order of `JOINT_NAMES`.
    """
    figure = Figure(np.random.default_rng([seed if identity_seed is None else identity_seed, 1000]))
    motion = _smooth_path(np.random.default_rng([seed, 1001]), frames, POSE_SIZE + 1)
    images, joints = [], []
    for pose in motion:
        posed, origin = figure.place(pose[:-1], float(pose[-1]))
        images.append(figure.draw(posed, origin, size)[0])
        joints.append(figure.joints(posed, origin) * 2 - 1)
    return (
        torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(),
        torch.from_numpy(np.stack(joints).astype(np.float32)),
    )


def _smooth_path(rng: np.random.Generator, frames: int, dimensions: int) -> np.ndarray:
    """(T, dimensions) in [0, 1]: a Catmull-Rom spline through uniform random points."""
    keys = rng.random((frames // _FRAMES_A_POSE + 4, dimensions))
    whole, part = np.divmod(np.arange(frames) / _FRAMES_A_POSE, 1)
    i, t = whole.astype(int), part[:, None]
    before, start, end, after = (keys[i + offset] for offset in range(4))
    path = start + t / 2 * (
        (end - before) + t * (2 * before - 5 * start + 4 * end - after + t * (3 * (start - end) + after - before))
    )
    return np.clip(path, 0, 1)
