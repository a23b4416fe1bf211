"""VoxCeleb2: talking faces, for pose transfer.

Of its million clips of some seconds as much is decoded as learning poses needs: two frames a second of the first clip
of each video. The frames are kept, see `clips.py`. Videos of the test part are held out where it is on disk, else those
of a tenth of the people.
"""

from __future__ import annotations

from pathlib import Path

from autolink.data.benchmarks.benchmark import Benchmark, needs, place
from autolink.data.clips import frames_of
from autolink.data.folder import ImageFiles
from autolink.data.splits import held_out_split, hold_out
from autolink.errors import UserError
from autolink.files import list_named

STEP = 12
"""Every how many frames one is taken; the clips have 25 a second."""

_TEST = ("test/mp4", "mp4")


def _open(root: Path, image_size: int, split: str) -> ImageFiles:
    test = place(root, *_TEST)
    folder = test if test is not None and held_out_split(split) else root / "dev" / "mp4"
    firsts: dict[str, str] = {}
    for clip in list_named(root, folder, ".mp4"):
        firsts.setdefault(clip.rsplit("/", 1)[0], clip)
    videos = list(firsts.values())
    if not videos:
        raise UserError(f"{folder}: holds no clips; expected id00012/VIDEO/00001.mp4 and so on")
    if test is None:
        people = [video.split("/")[-3] for video in videos]
        videos = [v for v, held in zip(videos, hold_out(people), strict=True) if held == held_out_split(split)]
        if not videos:
            raise UserError(f"{folder}: holds clips of one person, too few to hold any out for {split!r}")
    return frames_of("voxceleb2", root, videos, image_size, step=STEP)


VOXCELEB2 = Benchmark(
    name="voxceleb2",
    shows="talking faces, as clips",
    layout="dev/mp4/id00012/VIDEO/00001.mp4, … and, if there, the same under test/mp4",
    source="https://www.robots.ox.ac.uk/~vgg/data/voxceleb/vox2.html",
    terms="metadata CC BY 4.0; the videos belong to their owners on YouTube",
    open=_open,
    missing=needs("dev/mp4"),
    crop="all of it, the clips are square",
    keypoints=32,
    folders=("VoxCeleb2", "vox2"),
)
