"""Horses and zebras of CycleGAN's `horse2zebra`.

The paper kept images of a single animal, chosen by hand, and turned them so that all face left; the choice was never
published. Who makes one writes it beside the images, in `horses.txt` or `zebras.txt`: a line an image, its path from
the root (`trainA/n02381460_1001.jpg`), followed by `mirror` where the animal faces right. Without such a file all
images are used as they are, and the log says so.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from autolink.data.benchmarks.benchmark import Benchmark, needs, require_images, warn_once
from autolink.data.folder import ImageFiles, split_files
from autolink.data.splits import held_out_split
from autolink.errors import UserError


def _open(name: str, domain: str, root: Path, image_size: int, split: str) -> ImageFiles:
    folder = f"{'test' if held_out_split(split) else 'train'}{domain}"
    choice = root / f"{name}.txt"
    if choice.is_file():
        chosen = {file: mirror for file, mirror in _read_choice(choice).items() if file.startswith(f"{folder}/")}
        if not chosen:
            raise UserError(f"{choice}: names no image of {folder}; expected lines such as '{folder}/NAME.jpg mirror'")
        require_images(root, list(chosen))
        return ImageFiles(name, root, list(chosen), image_size, mirrored=np.array(list(chosen.values())))
    warn_once(f"{name}: no {choice}: all images are used as they are; the paper kept single animals, all facing left")
    files = [f"{folder}/{file}" for file in split_files(root / folder, split)[0]]
    return ImageFiles(name, root, files, image_size)


def _read_choice(path: Path) -> dict[str, bool]:
    """Whether each of the chosen images is to be mirrored.

    Raises:
        UserError: a line is not in the format.
    """
    chosen = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        match line.split():
            case []:
                continue
            case [file]:
                chosen[file] = False
            case [file, "mirror"]:
                chosen[file] = True
            case _:
                raise UserError(f"{path}: line {number} is {line!r}; expected a path, followed by 'mirror' or nothing")
    return chosen


HORSES, ZEBRAS = (
    Benchmark(
        name=name,
        shows=f"{name} outdoors",
        layout=f"train{domain} and test{domain}; {name}.txt may choose and mirror images",
        source="https://efrosgans.eecs.berkeley.edu/cyclegan/datasets/horse2zebra.zip",
        terms="images of ImageNet: non-commercial research and education only",
        open=partial(_open, name, domain),
        missing=needs(f"train{domain}", f"test{domain}"),
        crop=f"all of it, the images are square; mirrored where {name}.txt says so",
        keypoints=32,
        folders=("horse2zebra",),
    )
    for name, domain in (("horses", "A"), ("zebras", "B"))
)
