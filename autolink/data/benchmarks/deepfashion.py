"""DeepFashion: whole people in clothes, from the In-shop Clothes Retrieval benchmark, with 17 joints.

The images are In-shop's `img.zip`. Which of them show a whole person, the split and the joints are those of Lorenz et
al. (CVPR 2019), as the reproduction of their code publishes them: joints are not marked by people, but found by
AlphaPose, in COCO's order, in pixels of the 256 × 256 images from their top left corner; images in which a joint was
found with little confidence are not in the lists, so none is unknown. N images, L = 17 joints.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np

from autolink.data.benchmarks.benchmark import Benchmark, needs, require_images, required
from autolink.data.folder import ImageFiles
from autolink.data.splits import held_out_split
from autolink.errors import UserError
from autolink.images import shown_size

JOINTS = (
    "nose", "left eye", "right eye", "left ear", "right ear", "left shoulder", "right shoulder", "left elbow",
    "right elbow", "left wrist", "right wrist", "left hip", "right hip", "left knee", "right knee", "left ankle",
    "right ankle",
)  # fmt: skip

_IMAGES = ("img", "images", "Img/img")
_TABLES = ("data_train.csv", "data_train.json", "data_test.csv", "data_test.json")


def _open(root: Path, image_size: int, split: str) -> ImageFiles:
    part = "test" if held_out_split(split) else "train"
    folder = required(root, *_IMAGES)
    with open(root / f"data_{part}.csv", encoding="utf-8", newline="") as table:
        files = [row.get("filename", "") for row in csv.DictReader(table)]
    joints = _read_joints(root / f"data_{part}.json")
    without = next((file for file in files if file not in joints), None)
    if without is not None:
        raise UserError(f"{root / f'data_{part}.json'}: has no joints for {without!r} of data_{part}.csv")
    if not files:
        raise UserError(f"{root / f'data_{part}.csv'}: lists no image; expected the columns id,filename")
    require_images(folder, files)
    width, height = shown_size(folder / files[0])
    if width != height:
        raise UserError(
            f"{folder / files[0]}: is {width} x {height}; expected the 256 x 256 images of In-shop's img.zip, in which "
            "the joints were found, and not those of img_highres.zip"
        )
    landmarks = np.stack([joints[file] for file in files])
    sizes = np.full((len(files), 2), 256.0)
    return ImageFiles("deepfashion", folder, files, image_size, landmarks=landmarks, sizes=sizes)


def _read_joints(path: Path) -> dict[str, np.ndarray]:
    """The (L, 2) joints of each image, in pixels.

    Raises:
        UserError: the file is damaged.
    """
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
        joints = {record["image_path"]: np.array(record["keypoints"], np.float32) for record in records}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: is damaged ({type(error).__name__}: {error}); get it again") from error
    odd = next((image for image, points in joints.items() if points.shape != (len(JOINTS), 2)), None)
    if odd is not None:
        raise UserError(f"{path}: has joints of shape {joints[odd].shape} for {odd}; expected {(len(JOINTS), 2)}")
    return joints


DEEPFASHION = Benchmark(
    name="deepfashion",
    shows="whole people in clothes, with 17 joints found by AlphaPose",
    layout="img/MEN/…, img/WOMEN/…, data_train.csv, data_train.json, data_test.csv and data_test.json",
    source="https://mmlab.ie.cuhk.edu.hk/projects/DeepFashion/InShopRetrieval.html (img.zip), and split and joints at "
    "https://github.com/theRealSuperMario/unsupervised-disentangling, branch reproducing_baselines, "
    "original_code/custom_datasets/deepfashion",
    terms="non-commercial research only, no redistribution",
    open=_open,
    missing=needs(_IMAGES, *_TABLES),
    crop="all of it, the images are square",
    keypoints=16,
    tuned={2: 5e-3, 4: 2.5e-3, 8: 7.5e-5, 16: 5e-5, 32: 7.5e-5},
    protocol="pck",
    folders=("DeepFashion", "deepfashion_inshop"),
)
