"""Pairs of frames of one clip, and their augmentation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from data_files import picture
from PIL import Image

from autolink import UserError
from autolink.data import open_data
from autolink.data.pairs import PARTNERS, FramePairs, StillPairs, resting_at_edge
from autolink.data.sample import Mixture
from autolink.data.synthetic import SyntheticFigures
from autolink.geometry import pixel_grid
from autolink.training import SeededBatches
from autolink.warps import Warps
from autolink_apps.pose_transfer.augment import augment


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


@pytest.mark.parametrize("alike", [True, False])
def test_folders_of_strangers_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture, alike: bool) -> None:
    """A folder of frames is a clip; of photographs, sorted by kind, it is none, and pairs would show strangers."""
    for folder in range(4):
        for frame in range(4):
            rng = np.random.default_rng(folder if alike else (folder, frame))
            image = Image.fromarray(rng.integers(0, 255, (6, 6, 3), np.uint8)).resize((48, 48))
            (tmp_path / f"{folder}").mkdir(exist_ok=True)
            image.rotate(frame).save(tmp_path / f"{folder}" / f"IMG_{frame:04d}.png")
    FramePairs(open_data(str(tmp_path), 32)).warn_of_strangers()
    assert ("different objects" in caplog.text) != alike


def test_numbered_photographs_are_no_clip(tmp_path: Path) -> None:
    """They may be of strangers; in a folder of its own a series is one clip, for it was put there."""
    for i in range(6):
        picture(tmp_path / "all" / "one" / f"IMG_{i:04d}.jpg")
        picture(tmp_path / "photographs" / f"IMG_{i:04d}.jpg")
    with pytest.raises(UserError, match="a folder of frames for each clip"):
        FramePairs(open_data(str(tmp_path / "photographs"), 16))
    assert len(FramePairs(open_data(str(tmp_path / "all"), 16)).members) == 5


def test_pairs_of_synthetic_figures_show_one_figure() -> None:
    frames = SyntheticFigures(32, "val", length=16)
    source, driving, clip = FramePairs(frames)[3]
    assert source.shape == driving.shape == (3, 32, 32) and source.dtype == torch.uint8
    assert clip == frames.clips[3] and torch.equal(driving, frames[3].image) and not torch.equal(source, driving)


def test_pairs_of_real_faces_show_one_person(real_data: Path) -> None:
    frames = open_data("faces", 32, "val", real_data)
    pairs = FramePairs(frames)
    names = [[Path(frames[i].name).stem.rsplit("_", 1)[0] for i in pairs.indices(n)] for n in range(0, 500, 25)]
    assert all(source.rstrip("0123456789") == driving.rstrip("0123456789") for source, driving in names)


def test_a_batch_shows_several_people() -> None:
    frames = Frames([f"clip {number // 20}" for number in range(200)])
    pairs = FramePairs(frames)
    for batch, _ in zip(SeededBatches(len(pairs), 8, seed=0), range(20)):
        assert len({frames.clips[pairs.indices(index)[1]] for index in batch}) > 2


def test_both_frames_of_a_pair_change_alike_and_pairs_differ() -> None:
    images = SyntheticFigures(32, length=8)[0].image.float().expand(12, 3, 32, 32) / 127.5 - 1
    source, driving = augment(images, images, torch.Generator().manual_seed(0))
    assert torch.equal(source, driving) and source.shape == images.shape
    assert source.min() >= -1 and source.max() <= 1
    assert len({one.numpy().tobytes() for one in source}) > 9  # draws of their own
    mirrored = (source - images.flip(-1)).abs().mean((1, 2, 3)) < (source - images).abs().mean((1, 2, 3))
    assert 2 <= mirrored.sum() <= 10


def test_augmented_frames_still_differ_by_the_motion() -> None:
    """A figure one pixel further: wherever it is moved, the second frame is the first one moved a little."""
    images = torch.zeros(16, 3, 32, 32)
    images[:, :, 8:24, 8:24] = 0.5
    moved = images.roll(1, -1)
    source, driving = augment(images, moved, torch.Generator().manual_seed(1))
    centres = []
    grid = torch.linspace(-1, 1, 32)
    for frames in (source, driving):
        mass = frames - frames[:, :, :1, :1]  # without the background, whose colour may have changed
        weights = mass.mean(1).clamp(min=0) + 1e-6
        centres.append((weights * grid).sum((1, 2)) / weights.sum((1, 2)))
    distance = (centres[1] - centres[0]).abs() / (grid[1] - grid[0])
    assert ((distance > 0.8) & (distance < 1.2)).all()


def test_augmentation_depends_on_its_generator_alone() -> None:
    images, others = torch.rand(2, 4, 3, 16, 16) * 2 - 1
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = augment(images, others, torch.Generator().manual_seed(3))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    again, different = (augment(images, others, torch.Generator().manual_seed(seed)) for seed in (3, 4))
    assert all(torch.equal(a, b) for a, b in zip(first, again))
    assert not torch.equal(first[0], different[0])


# Pictures of individuals that no clip shows


def test_a_still_is_paired_with_a_warped_copy_of_itself(tmp_path: Path) -> None:
    """Every place of the copy is found in the picture where the warp says, and the edge rests."""
    size = 64
    ramp = np.linspace(40, 215, size)
    pixels = np.stack([np.tile(ramp, (size, 1)), np.tile(ramp[:, None], (1, size)), np.full((size, size), 90)], -1)
    Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "one.png")
    picture(tmp_path / "two.png")
    stills = open_data(str(tmp_path), size, "all")
    pairs = StillPairs(stills, seed=1)
    index = stills.names.index("one.png")
    copy, shown, clip = pairs[index]
    assert torch.equal(shown, stills[index].image) and clip == "one.png" and len(pairs) == 2 * PARTNERS
    unit = ((copy[:2].float() - 40) / 175 * (size - 1) + 0.5) / size * 2 - 1  # x and y of what each pixel shows
    motion = (unit - pixel_grid(size, size).permute(2, 0, 1)).norm(dim=0)
    assert motion[20:44, 20:44].mean() > 0.06 > 0.04 > max(motion[0].max(), motion[:, -1].max())
    assert (copy[2].float() - 90).abs().max() <= 1  # no change of colours
    again, other, later = StillPairs(stills, seed=1)[index], StillPairs(stills, seed=2)[index], pairs[index + 2]
    assert torch.equal(again.source, copy)
    assert not torch.equal(other.source, copy) and not torch.equal(later.source, copy)


def test_warps_that_rest_at_the_edge_do_not_fold() -> None:
    places = resting_at_edge(Warps(64, torch.Generator().manual_seed(0)).places(32, 32))
    across, down = places.diff(dim=2)[:, :-1], places.diff(dim=1)[:, :, :-1]
    assert (across[..., 0] * down[..., 1] - across[..., 1] * down[..., 0]).min() > 0
    assert places.abs().max() < 1  # nothing is fetched from outside


def test_of_several_data_sets_each_counts_the_same(tmp_path: Path) -> None:
    def folder(name: str, count: int) -> FramePairs:
        for clip in range(2):
            for number in range(count):
                picture(tmp_path / name / f"{name}{clip}" / f"{number}.png")
        return FramePairs(open_data(str(tmp_path / name), 16, "all"))

    parts = [folder("a", 2), folder("b", 5), folder("c", 3)]
    mixed = Mixture(*parts)
    assert len(mixed) == 3 * len(parts[1]) and mixed.name == "a and b and c"
    clips = [mixed[index].clip[0] for index in range(60)]
    assert clips == ["a", "b", "c"] * 20
    assert {mixed[index].clip for index in range(0, 60, 3)} == {"a0", "a1"}
    with_stills = Mixture(parts[0], StillPairs(open_data(str(tmp_path / "b"), 16, "all")))
    assert [Path(with_stills[index].clip).parts[0][0] for index in range(4)] == ["a", "b", "a", "b"]
