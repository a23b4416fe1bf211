"""Pairs of frames of one clip: what the transfer network learns from (Appendix C.2).

Which pair an index stands for depends on the index and the seed alone, so a resumed run sees the same pairs.

Shapes: B batch, S image side.
"""

from __future__ import annotations

import logging
import random
from typing import NamedTuple

import kornia.augmentation as kornia
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from autolink.data import SampleSet
from autolink.data.sample import evenly
from autolink.errors import UserError
from autolink.training import global_draws

PARTNERS = 100
"""Pairs in one round of the data for each frame; a short clip has fewer partners to offer and repeats
them."""

logger = logging.getLogger("autolink")


class Pair(NamedTuple):
    """Two frames of one clip, uint8 (3, S, S)."""

    source: Tensor
    """Gives the looks."""
    driving: Tensor
    """Gives the pose, and is what the network should paint."""


class FramePairs(Dataset[Pair]):
    """Each frame as the driving one, with another frame of its clip as the source.

    Args:
        frames: A data set that knows its clips (`open_data`): video files, folders of frames, or images whose
            names group into clips.
        seed: Decides who is paired with whom.

    Raises:
        UserError: If no clip has two frames.
    """

    def __init__(self, frames: SampleSet, seed: int = 0) -> None:
        clips: dict[str, list[int]] = {}
        for index, clip in enumerate(frames.clips):
            if clip:
                clips.setdefault(clip, []).append(index)
        self.frames, self.seed = frames, seed
        self.clips = [members for members in clips.values() if len(members) > 1]
        self.members = [(c, place) for c, members in enumerate(self.clips) for place in range(len(members))]
        if not self.clips:
            raise UserError(
                f"{frames.name}: none of its {len(frames)} images shares a clip with another, but two frames "
                "of a clip are needed; expected videos, folders of frames, or names like walk_001.png"
            )
        alone = len(frames) - len(self.members)
        if alone:
            logger.warning("%s: left out %d of %d frames, alone in their clips", frames.name, alone, len(frames))

    def __len__(self) -> int:
        return len(self.members) * PARTNERS

    def indices(self, index: int) -> tuple[int, int]:
        """Indices of the source frame and the driving frame in the data set of frames."""
        clip, place = self.members[index % len(self.members)]
        members = self.clips[clip]
        step = random.Random(f"{self.seed}/{index}").randrange(1, len(members))
        return members[(place + step) % len(members)], members[place]

    def __getitem__(self, index: int) -> Pair:
        source, driving = self.indices(index)
        return Pair(self.frames[source].image, self.frames[driving].image)

    def spread(self, count: int) -> list[Pair]:
        """Up to `count` pairs with driving frames spread evenly over the data: always the same ones."""
        return [self[place] for place in evenly(len(self.members), count)]


def augment(source: Tensor, driving: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Change both frames of a pair in the same way, each pair by draws of its own.

    Half of the pairs are mirrored, half are turned, shifted and scaled a little, and of most the colours change. So
    a driving frame still shows what its source does; keypoints are to be found afterwards.

    Args:
        source: (B, 3, S, S) in [−1, 1].
        driving: (B, 3, S, S), frames of the same clips.
        generator: Where the draws come from; a generator on the CPU.

    Returns:
        Both, changed, in [−1, 1].
    """
    with global_draws(generator):  # kornia's
        moved = _PLACES(torch.cat([source, driving], dim=1))  # as channels of one image they move as one,
        coloured = _COLOURS(torch.cat(moved.chunk(2, dim=1), dim=3) / 2 + 0.5)  # side by side they get one colour
    source, driving = (frames.contiguous(memory_format=torch.channels_last) for frames in coloured.chunk(2, dim=3))
    return source * 2 - 1, driving * 2 - 1


_PLACES = nn.Sequential(
    kornia.RandomHorizontalFlip(p=0.5),
    kornia.RandomAffine(degrees=10.0, translate=(0.05, 0.05), scale=(0.9, 1.1), padding_mode="reflection", p=0.5),
)
_COLOURS = kornia.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2, p=0.8)
