"""Pairs of frames of one clip: one shows how the individual looks, the other one the pose.

Of an individual that is known from a single picture, a warped copy is the first of the pair (`StillPairs`). Which pair
an index stands for depends on the index and the seed alone, so a resumed run sees the same pairs.

Shapes: S image side.
"""

from __future__ import annotations

import logging
import random
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from autolink.data.sample import SampleSet, evenly
from autolink.errors import UserError
from autolink.geometry import pixel_grid
from autolink.pixels import to_uint8, unit_from_bytes
from autolink.warps import Warps

PARTNERS = 100
"""Pairs in one round of the data for each frame; a short clip has fewer partners to offer and repeats
them."""
_LOOKED_AT = 16  # clips in which `warn_of_strangers` compares two frames

logger = logging.getLogger("autolink")


class Pair(NamedTuple):
    """Two frames of one clip, uint8 (3, S, S)."""

    source: Tensor
    """Gives the looks."""
    driving: Tensor
    """Gives the pose, and is what a network should paint."""
    clip: str
    """Their clip."""


class FramePairs(Dataset[Pair]):
    """Each frame as the driving one, with another frame of its clip as the source.

    Args:
        frames: A data set that knows its clips (`open_data`): videos, or a folder of frames for each.
        seed: Decides who is paired with whom.

    Raises:
        UserError: If no clip has two frames.
    """

    def __init__(self, frames: SampleSet, seed: int = 0) -> None:
        clips: dict[str, list[int]] = {}
        for index, clip in enumerate(frames.clips):
            if clip:
                clips.setdefault(clip, []).append(index)
        self.frames, self.seed, self.name = frames, seed, frames.name
        self.clips = [members for members in clips.values() if len(members) > 1]
        self.members = [(c, place) for c, members in enumerate(self.clips) for place in range(len(members))]
        if not self.clips:
            raise UserError(
                f"{frames.name}: none of its {len(frames)} images shares a clip with another, but two frames "
                "of a clip are needed; expected videos, or a folder of frames for each clip (numbered pictures that "
                "lie together may show strangers)"
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
        shown = self.frames[driving]
        return Pair(self.frames[source].image, shown.image, shown.clip)

    def spread(self, count: int) -> list[Pair]:
        """Up to `count` pairs with driving frames spread evenly over the data: always the same ones."""
        return [self[place] for place in evenly(len(self.members), count)]

    def warn_of_strangers(self) -> None:
        """Warn if neighbours in clips look as different as photographs of strangers: folders may be sorted by kind.

        In 16² of grey, frames of clips that are a second apart correlate with 0.72 to 1 and differ by 0.09 of the range
        at most; photographs of animals or faces correlate with 0.1 to 0.35 and differ by 0.2 and more (medians).
        """
        clips = [self.clips[place] for place in evenly(len(self.clips), _LOOKED_AT)]
        middles = [members[len(members) // 2 - 1 : len(members) // 2 + 1] for members in clips]
        likeness = torch.tensor([_likeness(*(self.frames[index].image for index in middle)) for middle in middles])
        correlation, difference = likeness.median(dim=0).values.tolist()
        if correlation < 0.5 and difference > 0.15:
            logger.warning(
                "%s: pictures beside each other in its clips look like different objects; pairs of them teach nothing. "
                "Each folder must hold frames of one object in one scene",
                self.name,
            )


class StillPairs(Dataset[Pair]):
    """Each picture with a copy of itself that is bent, turned, shifted and scaled in the middle, and rests at its edge.

    Clips show few individuals; a picture of another one says how those look, if not how they move. The copy is the
    source, so that what is to be painted is a picture as it was taken. Its colours are the picture's, since no network
    could guess a change; what changes the colours of both frames of a pair changes these.

    Args:
        images: Pictures of individuals, each in the middle of a scene that rests.
        seed: Decides how each is warped.
    """

    def __init__(self, images: SampleSet, seed: int = 0) -> None:
        self.images, self.seed, self.name = images, seed, images.name

    def __len__(self) -> int:
        return len(self.images) * PARTNERS

    def __getitem__(self, index: int) -> Pair:
        sample = self.images[index % len(self.images)]
        draws = torch.Generator().manual_seed(random.Random(f"{self.seed}/{index}").getrandbits(62))
        places = resting_at_edge(Warps(1, draws).places(*sample.image.shape[-2:]))
        image = unit_from_bytes(sample.image[None])
        warped = functional.grid_sample(image, places, padding_mode="border", align_corners=False)
        return Pair(to_uint8(warped)[0], sample.image, sample.name)


def resting_at_edge(places: Tensor) -> Tensor:
    """What each pixel shows after a warp, (B, H, W, 2), if it fades towards the image's edge, where nothing moves."""
    grid = pixel_grid(*places.shape[1:3], device=places.device)
    return grid + (places - grid) * (1 - grid.square()).prod(-1, keepdim=True)


def _likeness(first: Tensor, second: Tensor) -> tuple[float, float]:
    """Correlation and mean absolute difference of two images (3, S, S) uint8, small and grey."""
    both = functional.adaptive_avg_pool2d(unit_from_bytes(torch.stack([first, second])).mean(1), 16).flatten(1)
    return torch.corrcoef(both).nan_to_num(1)[0, 1].item(), (both[0] - both[1]).abs().mean().item()
