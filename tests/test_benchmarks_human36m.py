"""Human3.6M promises: the owners' files as they are, six activities, and joints that stay on what they mark."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from cdflib.cdfwrite import CDF
from data_files import find_dot, hue, one_line, video

from autolink.commands import evaluate
from autolink.data import clips, open_data
from autolink.data.benchmarks.human36m import person_boxes
from autolink.errors import UserError
from autolink.video import write_video

pytestmark = pytest.mark.usefixtures("own_data_only")

FIRST = "Directions.54138969"
SUBJECTS = (1, 5, 6, 7, 8, 9, 11)
DOTS = (1, 6, 10)
WALL = (70, 70, 70)
FRAMES = 3


def joints(seed: int, centre: tuple[float, float]) -> np.ndarray:
    """(frames, 32, 2) pixels of a person about 400 x 600 pixels large, who moves a lot from frame to frame."""
    rng = np.random.default_rng(seed)
    return np.array(centre) + rng.uniform(-0.5, 0.5, (FRAMES, 32, 2)) * [400, 600]


def write_sequence(root: Path, name: str, poses: np.ndarray, height: int, masks: int = FRAMES, frames: int = FRAMES):
    """A video with a dot at three joints, the joints, and masks that show the left half of what is around them."""
    for folder in ("Videos", "MyPoseFeatures/D2_Positions", "MySegmentsMat/ground_truth_bs"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[0:height, 0:1000] + 0.5
    images = []
    for pose in [*poses, *poses][:frames]:
        image = np.full((height, 1000, 3), WALL, np.uint8)
        for dot in DOTS:
            image[np.hypot(x - pose[dot, 0], y - pose[dot, 1]) < 30] = hue(dot)
        images.append(image)
    write_video(root / "Videos" / f"{name}.mp4", images, 50)

    table = CDF(root / "MyPoseFeatures/D2_Positions" / f"{name}.cdf", delete=True)
    shape = [len(poses), 64]
    spec = {"Variable": "Pose", "Data_Type": 45, "Num_Elements": 1, "Rec_Vary": True, "Dim_Sizes": shape}
    table.write_var(spec, var_data=poses.reshape(1, *shape))
    table.close()

    with h5py.File(root / "MySegmentsMat/ground_truth_bs" / f"{name}.mat", "w") as file:
        references = file.create_dataset("Masks", (masks, 1), h5py.ref_dtype)
        for number, pose in enumerate(poses[:masks]):
            shown = (x < middle(pose)).astype(np.uint8)
            references[number, 0] = file.create_dataset(f"#refs#/{number}", data=shown.T).ref


def middle(pose: np.ndarray) -> float:
    return (pose[:, 0].min() + pose[:, 0].max()) / 2


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory) -> Path:
    """One sequence a subject, one more for the first, and others that are not of the six activities."""
    root = tmp_path_factory.mktemp("data") / "human36m"
    for subject in (1, 11):
        write_sequence(root / f"S{subject}", FIRST, joints(subject, (500, 500)), 1002)
    for subject in SUBJECTS[1:-1]:
        shutil.copytree(root / "S1", root / f"S{subject}")
    # At the edge of the room; its video has a frame more than its poses.
    write_sequence(root / "S1", "Walking 1.55011271", joints(2, (230, 620)), 1000, frames=4)
    for name in ("WalkingDog.54138969", "Eating 2.54138969", "_ALL.54138969", "Walking together.1"):
        (root / "S1/Videos" / f"{name}.mp4").touch()
    return root


@pytest.mark.parametrize("name", ["human36m", "human36m-nobg"])
def test_joints_stay_on_the_person(laboratory, name):
    train, test = (open_data(name, 96, split, laboratory.parent) for split in ("train", "test"))
    assert set(train.clips) == {f"S{s}/Videos/{FIRST}.mp4" for s in SUBJECTS[:-1]} | {
        "S1/Videos/Walking 1.55011271.mp4"
    }
    assert set(test.clips) == {f"S11/Videos/{FIRST}.mp4"}
    assert len(train) == 7 * FRAMES and len(test) == FRAMES
    seen = 0
    for sample in [*train, *test]:
        extent = sample.landmarks.max(0).values - sample.landmarks.min(0).values
        assert extent.max().item() == pytest.approx(2 / 1.2, abs=1e-4)
        for dot in DOTS:
            where = sample.landmarks[dot].numpy()
            # Outside the mask a dot is hidden, and at its edge it is cut.
            if name == "human36m" or where[0] < sample.landmarks[:, 0].mean() - 0.4:
                assert np.abs(find_dot(sample.image, dot) - where).max() < 0.035, (sample.name, dot)
                seen += 1
    assert seen == 72 if name == "human36m" else seen >= 10
    assert len(open_data(name, 96, "fit", laboratory.parent)) == len(train)


def test_the_square_is_moved_into_the_frame():
    pose = np.array([[[20.0, 300.0], [220.0, 980.0]]])  # 680 high, so 816, and at the lower left corner
    left, top, right, bottom = person_boxes(pose)[0]
    assert (left, bottom) == (0, 1000) and right - left == pytest.approx(816) and bottom - top == pytest.approx(816)
    assert person_boxes(np.array([[[0.0, 0.0], [100.0, 990.0]]]))[0].tolist() == [0, 0, 1000, 1000]
    inside = person_boxes(np.array([[[400.0, 400.0], [500.0, 600.0]]]))[0]
    assert inside.tolist() == pytest.approx([330, 380, 570, 620])


def test_grey_shows_where_the_mask_is_not(laboratory):
    with_wall, alone = (open_data(name, 96, "test", laboratory.parent) for name in ("human36m", "human36m-nobg"))
    poses = joints(11, (500, 500))
    for number, (full, cut) in enumerate(zip(with_wall, alone, strict=True)):
        left, _, right, _ = person_boxes(poses)[number]
        border = round((middle(poses[number]) - left) / (right - left) * 96)
        difference = (full.image.int() - cut.image.int()).abs()
        assert difference[:, :, : border - 3].max() < 25  # JPEG's
        assert (cut.image[:, :, border + 3 :].int() - 128).abs().max() < 12
        assert torch.equal(full.landmarks, cut.landmarks)


def test_frames_without_a_mask_are_left_out(laboratory):
    write_sequence(laboratory / "S11", "Posing.60457274", joints(3, (500, 500)), 1002, masks=2)
    try:
        names = [name for name in open_data("human36m-nobg", 32, "test", laboratory.parent).names if "Posing" in name]
        assert names == [f"S11/Videos/Posing.60457274.mp4/{number:06d}.jpg" for number in range(2)]
        assert len(open_data("human36m", 32, "test", laboratory.parent)) == 2 * FRAMES
    finally:
        for file in laboratory.rglob("Posing.60457274.*"):
            file.unlink()


def test_frames_are_cut_once_and_again_when_a_mask_changes(laboratory, monkeypatch):
    first = open_data("human36m-nobg", 32, "test", laboratory.parent)[0].image

    def fail(*_):
        raise AssertionError("decoded again")

    with monkeypatch.context() as patch:
        patch.setattr(clips, "open_frames", fail)
        assert torch.equal(open_data("human36m-nobg", 32, "test", laboratory.parent)[0].image, first)
        os.utime(laboratory / f"S11/MySegmentsMat/ground_truth_bs/{FIRST}.mat", (1, 1))
        with pytest.raises(AssertionError, match="decoded again"):
            open_data("human36m-nobg", 32, "test", laboratory.parent)


@pytest.mark.parametrize("library", ["cdflib", "h5py"])
def test_a_missing_library_is_one_line(laboratory, monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UserError) as error:
        open_data("human36m-nobg", 24, "test", laboratory.parent)
    one_line(error, library, "pip install autolink-graph[human36m]")


def test_damaged_and_missing_files_are_named(laboratory, tmp_path, caplog):
    def copy(subject: int) -> Path:
        for file in (laboratory / f"S{subject}").rglob(f"{FIRST}.*"):
            (root / file.relative_to(laboratory)).parent.mkdir(parents=True, exist_ok=True)
            (root / file.relative_to(laboratory)).write_bytes(file.read_bytes())
        return root / f"S{subject}"

    root = tmp_path / "human36m"
    subjects = {subject: copy(subject) for subject in SUBJECTS}
    poses = subjects[11] / f"MyPoseFeatures/D2_Positions/{FIRST}.cdf"
    masks = subjects[11] / f"MySegmentsMat/ground_truth_bs/{FIRST}.mat"

    def complain(name: str = "human36m-nobg") -> pytest.ExceptionInfo:
        with pytest.raises(UserError) as error:
            open_data(name, 24, "test", tmp_path)
        return error

    whole = masks.read_bytes()
    masks.write_bytes(whole[:100])
    one_line(complain(), str(masks), "get it again")
    masks.unlink()
    one_line(complain(), str(masks), "is missing")
    assert len(open_data("human36m", 24, "test", tmp_path)) == FRAMES  # which needs no masks
    masks.write_bytes(whole)

    whole = poses.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"no CDF file at all" * 20):
        poses.write_bytes(damaged)
        one_line(complain(), str(poses), "get it again")
    poses.unlink()
    one_line(complain("human36m"), str(poses), "is missing")
    poses.write_bytes(whole)

    video(subjects[11] / f"Videos/{FIRST}.mp4", 3, (64, 64))
    one_line(complain("human36m"), f"S11/Videos/{FIRST}.mp4: is 64 x 64", "1000 x 1002")
    one_line(complain(), "masks are (1002, 1000), frames (64, 64)")
    video(subjects[5] / f"Videos/{FIRST}.mp4", 3, (64, 64))
    with caplog.at_level(logging.WARNING):
        assert len(open_data("human36m-nobg", 24, "train", tmp_path)) == 5 * FRAMES
    assert any("skipped" in message and "S5" in message and "64" in message for message in caplog.messages)
    (subjects[11] / f"Videos/{FIRST}.mp4").unlink()
    one_line(complain(), "S11/Videos", "has no video like")


def test_evaluation_by_its_protocol(laboratory, tiny_file):
    options = evaluate.Options(model=str(tiny_file), data="human36m-nobg", data_root=laboratory.parent)
    report = evaluate.evaluate(options)
    assert report["protocol"] == "h36m" and report["landmarks"] == 32
    assert report["train_images"] == 7 * FRAMES and report["test_images"] == FRAMES
    assert 0 < report["error_percent_without_bias"] < 100
