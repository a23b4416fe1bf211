"""What was found in frames, and the files that it is written to.

- `csv`: `keypoints.csv`, one row a frame of any input.
- `npz`: `keypoints.npz`, the same as arrays.
- `deeplabcut`: `deeplabcut/RECORDING.csv`, as DeepLabCut writes it (three rows of header; `x`, `y`, `likelihood`). Read
  it by `pandas.read_csv(path, header=[0, 1, 2], index_col=0)` or `keypoint_moseq.load_keypoints(folder, "deeplabcut")`.
- `sleap`: `sleap/RECORDING.csv`, as SLEAP exports an analysis (a row a frame; `NAME.x`, `NAME.y`, `NAME.score`). Read
  it by `sleap_io.load_file(path)`.
- `coco`: `coco.json`, COCO keypoints: an image and an annotation a frame, and the graph as the skeleton. Names of files
  are relative to its folder.
- `moseq`: `coordinates.npz` and `confidences.npz`, of each recording (T, K, 2) and (T, K) under its name:
  `keypoint_moseq.format_data(dict(np.load(coordinates)), dict(np.load(confidences)), ...)`.

A recording is a video, or the pictures of one folder. With a calibration, the points of all but `csv` and `npz`, which
have both, are its landmarks; else they are the keypoints.

Shapes: T frames in all, K keypoints, L landmarks, E edges.
"""

from __future__ import annotations

import csv
import logging
import os
from array import array
from collections.abc import Mapping, Sequence
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, NamedTuple
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import torch
from torch import Tensor

from autolink.commands.calibrate import Calibration
from autolink.detector import Keypoints
from autolink.errors import UserError
from autolink.geometry import to_pixels
from autolink.graph import skeleton
from autolink.model import AutoLink
from autolink.outputs import Replacement, replacing, reported, write_json
from autolink.tracking.confidence import LOW_CONFIDENCE
from autolink.tracking.windows import Window

logger = logging.getLogger(__name__)

Format = Literal["csv", "npz", "deeplabcut", "sleap", "coco", "moseq"]


class Detection(NamedTuple):
    """Keypoints of one frame."""

    source: Path
    """The image or video."""
    frame: int
    """Number of the frame in its source, 0 for an image."""
    time: Fraction
    """Seconds since the start of its source."""
    image: np.ndarray
    """(H, W, 3) uint8."""
    keypoints: Tensor
    """(K, 2) in [−1, 1]."""
    confidence: Tensor
    """(K,) in [0, 1]."""
    landmarks: Keypoints | None = None
    """(L, 2) in pixels, and (L,), if there is a calibration."""
    window: Window | None = None
    """The square in which the keypoints were found; None: that in the middle."""

    @property
    def pixels(self) -> Tensor:
        """(K, 2) in pixels of the image, where the centre of the top left pixel is (0.5, 0.5)."""
        return to_pixels(self.keypoints, *self.image.shape[:2])


class Tables:
    """The files of one run of `autolink detect`, as a context manager; rows of csv are written as they come.

    Files appear under their names when the block ends. If it ends by an exception, those of an earlier run are still
    there, and the rows written so far are in `NAME.csv.part`.

    What a frame leaves in memory is its numbers, 12 bytes a point, and only if the arrays of `npz` or `moseq` are
    wanted.
    """

    def __init__(
        self, folder: Path, formats: Sequence[Format], model: AutoLink, calibration: Calibration | None
    ) -> None:
        self.folder, self.formats = folder, frozenset(formats)
        self.edge_weights = model.edge_weights.detach().cpu().numpy()
        self.keypoint_count = model.config.keypoints
        self.links = [] if calibration else skeleton(model.graph.matrix().detach())
        self.landmark_names = calibration.names if calibration else ()
        self.keypoints, self.landmarks = _Points(self.keypoint_count), _Points(len(self.landmark_names))
        self.sources: dict[str, int] = {}  # the number of each
        self.source, self.frame, self.time = array("q"), array("q"), array("d")
        self.sizes = array("q")  # height and width of each frame, for coco
        self.starts: dict[str, int] = {}  # the first row of each recording; its last is before the next one's first
        self.count = self.uncertain = 0

    def __enter__(self) -> Tables:
        self.table: _Csv | None = None
        self.recording_tables: dict[str, _Csv] = {}
        if "csv" in self.formats:
            axes = ("x", "y", "confidence")
            columns = [f"{axis}{k}" for k in range(self.keypoint_count) for axis in axes]
            columns += [f"{name}_{axis}" for name in self.landmark_names for axis in axes]
            self.table = _Csv(self.folder / "keypoints.csv", [["source", "frame", "time", *columns]])
        for path in self.written:
            if path.suffix in (".npz", ".json"):  # written at the end, and better refused now
                Replacement(path).discard()
        return self

    def add(self, found: Detection, recording: str) -> None:
        """Append a frame; frames of one recording follow each other."""
        if recording not in self.starts:
            self._begin(recording)
        points = Keypoints(found.pixels, found.confidence)
        if self.table is not None:
            numbers = _row(points) + (_row(found.landmarks) if found.landmarks else [])
            self.table.write([found.source, found.frame, f"{float(found.time):.6f}", *numbers])
        number, named = self.count - self.starts[recording], found.landmarks or points
        for kind, table in self.recording_tables.items():
            first = [number] if kind == "deeplabcut" else ["", number, f"{named.confidence.mean().item():.4f}"]
            table.write([*first, *_row(named)])
        if {"npz", "moseq", "coco"} & self.formats:
            if "coco" in self.formats:
                self.sizes.extend(found.image.shape[:2])
            self.source.append(self.sources.setdefault(str(found.source), len(self.sources)))
            self.frame.append(found.frame)
            self.time.append(float(found.time))
            self.keypoints.add(points)
            if found.landmarks:
                self.landmarks.add(found.landmarks)
        self.count += 1
        self.uncertain += found.confidence.mean().item() < LOW_CONFIDENCE

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        tables = [*([self.table] if self.table is not None else []), *self.recording_tables.values()]
        if kind is not None:
            for table in tables:
                table.leave()
            return
        for table in tables:
            table.complete()
        if "npz" in self.formats:
            _write_npz(self.folder / "keypoints.npz", self._arrays())
        if "coco" in self.formats:
            write_json(self.folder / "coco.json", self._coco())
        if "moseq" in self.formats:
            named = self.landmarks if self.landmark_names else self.keypoints
            for file, values in zip(("coordinates.npz", "confidences.npz"), named.arrays()):
                parts = np.split(values, list(self.starts.values())[1:])
                _write_npz(self.folder / file, dict(zip(self.starts, parts)))

    @property
    def written(self) -> list[Path]:
        """The files and folders that the formats make."""
        made = {
            "csv": ["keypoints.csv"],
            "npz": ["keypoints.npz"],
            "deeplabcut": ["deeplabcut"],
            "sleap": ["sleap"],
            "coco": ["coco.json"],
            "moseq": ["coordinates.npz", "confidences.npz"],
        }
        return [self.folder / file for kind, files in made.items() if kind in self.formats for file in files]

    def _begin(self, recording: str) -> None:
        self.starts[recording] = self.count
        for table in self.recording_tables.values():
            table.complete()
        names, axes = self.names, ("x", "y", "likelihood")
        headers = {
            "deeplabcut": [
                ["scorer", *["autolink"] * (3 * len(names))],
                ["bodyparts", *(name for name in names for _ in axes)],
                ["coords", *axes * len(names)],
            ],
            "sleap": [
                ["track", "frame_idx", "instance.score", *(f"{n}.{a}" for n in names for a in ("x", "y", "score"))]
            ],
        }
        self.recording_tables = {
            kind: _Csv(self.folder / kind / f"{recording}.csv", header)
            for kind, header in headers.items()
            if kind in self.formats
        }

    @property
    def names(self) -> Sequence[str]:
        """Of the points of all formats but `csv` and `npz`."""
        return self.landmark_names or [f"keypoint{k}" for k in range(self.keypoint_count)]

    def _coco(self) -> dict[str, Any]:
        """What `coco.json` holds."""
        points, confidence = (self.landmarks if self.landmark_names else self.keypoints).arrays()
        sources = [os.path.relpath(source, self.folder) for source in self.sources]
        sizes = np.array(self.sizes).reshape(-1, 2).tolist()
        images, annotations = [], []
        for number, (xy, sure) in enumerate(zip(points.astype(float).round(2), confidence.astype(float).round(4))):
            (height, width), (left, top), (right, bottom) = sizes[number], xy.min(0).tolist(), xy.max(0).tolist()
            file, frame, time = sources[self.source[number]], self.frame[number], self.time[number]
            about = {"file_name": file, "height": height, "width": width, "frame": frame, "time": round(time, 6)}
            images.append({"id": number + 1, **about})
            annotations.append(
                {
                    "id": number + 1,
                    "image_id": number + 1,
                    "category_id": 1,
                    "iscrowd": 0,
                    "keypoints": [value for x, y in xy.tolist() for value in (x, y, 2)],
                    "num_keypoints": len(xy),
                    "bbox": [round(value, 2) for value in (left, top, right - left, bottom - top)],
                    "area": round((right - left) * (bottom - top), 2),
                    "score": round(float(sure.mean()), 4),
                    "keypoint_scores": sure.tolist(),
                }
            )
        links = [[i + 1, j + 1] for i, j in self.links]
        category = {"id": 1, "name": "object", "keypoints": list(self.names), "skeleton": links}
        return {"images": images, "annotations": annotations, "categories": [category]}

    def _arrays(self) -> dict[str, np.ndarray]:
        """What `keypoints.npz` holds."""
        keypoints, confidence = self.keypoints.arrays()
        arrays = {
            "keypoints": keypoints,
            "confidence": confidence,
            "sources": np.array(list(self.sources), str),
            "source": np.array(self.source),
            "frame": np.array(self.frame),
            "time": np.array(self.time),
            "edges": torch.triu_indices(self.keypoint_count, self.keypoint_count, 1).T.numpy(),
            "edge_weights": self.edge_weights,
        }
        if self.landmark_names:
            landmarks, landmark_confidence = self.landmarks.arrays()
            names = np.array(self.landmark_names, str)
            arrays |= {"landmarks": landmarks, "landmark_confidence": landmark_confidence, "landmark_names": names}
        return arrays


class _Points:
    """Points of one frame after the other, without the overhead of an object a frame."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.xy, self.confidence = array("f"), array("f")

    def add(self, points: Keypoints) -> None:
        self.xy.frombytes(points.xy.numpy().tobytes())
        self.confidence.frombytes(points.confidence.numpy().tobytes())

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """(T, count, 2) and (T, count) float32."""
        return np.array(self.xy).reshape(-1, self.count, 2), np.array(self.confidence).reshape(-1, self.count)


def _row(points: Keypoints) -> list[str]:
    """x, y and confidence of one point after the other."""
    return [f"{value:.4f}" for value in torch.cat([points.xy, points.confidence[:, None]], dim=1).flatten().tolist()]


class _Csv:
    """A table that is written row by row."""

    def __init__(self, path: Path, header: Sequence[Sequence[str]]) -> None:
        self.file, self.rows = Replacement(path), 0
        with reported(path):
            self.text = open(self.file.part, "w", newline="", encoding="utf-8", errors="surrogateescape")  # noqa: SIM115
            self.writer = csv.writer(self.text)
            self.writer.writerows(header)

    def write(self, row: Sequence[Any]) -> None:
        with reported(self.file.path):
            self.writer.writerow(row)
        self.rows += 1

    def complete(self) -> None:
        try:
            with reported(self.file.path):
                self.text.close()
            self.file.commit()
        except UserError:
            self.leave()
            raise

    def leave(self) -> None:
        """Keeps the rows of an unfinished table, if there are any."""
        with suppress(OSError):  # the exception that brought us here is the one to tell
            self.text.close()
        if self.rows:
            logger.warning("%s: not finished; the rows written so far are in %s", self.file.path, self.file.part)
        else:
            self.file.discard()


def _write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    r"""`numpy.savez_compressed`, for arrays of any name: there, one called `file` is an error.

    Bytes of a name that are not UTF-8, which an archive cannot hold, are written as `\xe9`.
    """
    with replacing(path) as part, ZipFile(part, "w", ZIP_DEFLATED) as archive:
        for name, values in arrays.items():
            name = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.ascontiguousarray(values))
