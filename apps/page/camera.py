"""A picture that acts out what the camera sees: keypoints of each frame, retargeted to the picture's own pose.

The neutral pose, which stands for that of the picture, is the mean of the first frames in a row of which the model is
sure, or the present one when the person says so. The window of the camera's frames follows the head as in a transfer;
what it does within about a second is movement, and where it goes in longer times is not.

Shapes: K keypoints, H W pixels of a frame.
"""

from __future__ import annotations

import io
import math
from collections import deque
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from autolink.errors import UserError
from autolink.smoothing import OneEuroFilter
from autolink.tracking.confidence import CERTAIN, DOUBT, LOW_CONFIDENCE, WindowDetector
from autolink.tracking.follow import CAMERA_SECONDS, Follower
from autolink.tracking.windows import Window, cut, rebase, whole
from autolink.video import VideoFrame
from autolink_apps.page.performers import Scene
from autolink_apps.pose_transfer.motion import relative

IN_A_ROW = 8
"""Frames of which the model must be sure before their mean is taken as neutral."""
MOST_PIXELS = 2_000_000
"""Of a frame."""


class Acted(NamedTuple):
    """What becomes of a frame."""

    pose: Tensor
    """(K, 2), for the picture."""
    seen: Tensor
    """(K, 2), where the keypoints are in the camera's frame, from −1 to 1 over its width and its height."""
    confidence: float
    """Mean, from 0 to 1."""
    sure: bool
    """Whether it shows what the model knows; the pose is the last one if not."""
    neutral: bool
    """Whether a neutral pose is known; the pose is that of the picture if not."""


class Actor:
    """Turns frames into poses of a picture.

    Args:
        detector: Finds keypoints.
        scene: Of the picture.
    """

    def __init__(self, detector: WindowDetector, scene: Scene) -> None:
        self.detector, self.scene = detector, scene
        self.follower = Follower(detector, "the camera") if detector.sure else None
        self.calm: Tensor | None = None
        self.smooth = OneEuroFilter()
        self.certain: deque[Tensor] = deque(maxlen=IN_A_ROW)
        self.reference: Tensor | None = None
        self.pose, self.time, self.asked = scene.points, 0.0, False

    def take_as_neutral(self) -> None:
        """Take the pose of the next frame that shows something as neutral."""
        self.asked = True

    def __call__(self, image: np.ndarray, time: float) -> Acted:
        """What becomes of a frame (H, W, 3) uint8 at some seconds."""
        window, found, confidence = self._found(image, time)
        mean = confidence.mean().item()
        pose = self.smooth(rebase(found, torch.tensor(window), self._calmed(window, time)), time)
        sure = mean >= (DOUBT if self.detector.sure else LOW_CONFIDENCE)
        self._note_neutral(pose, sure, mean)
        if sure and self.reference is not None:
            self.pose = relative(pose, self.reference, self.scene.points)
        height, width = image.shape[:2]
        middle, half = torch.tensor([window.x, window.y]), torch.tensor([width / 2, height / 2])
        return Acted(
            self.pose, (middle + found * window.side / 2 - half) / half, mean, sure, self.reference is not None
        )

    def _found(self, image: np.ndarray, time: float) -> tuple[Window, Tensor, Tensor]:
        if self.follower is not None:
            (window,), found = self.follower([VideoFrame(image, Fraction(time))])
        else:
            window = whole(image.shape[1], image.shape[0], "crop")
            found = self.detector([cut(image, window, self.detector.size)])
        return window, found.xy[0], found.confidence[0]

    def _calmed(self, window: Window, time: float) -> Tensor:
        """The window (3,) as a calm hand would move it."""
        now = torch.tensor(window)
        if self.calm is None:
            self.calm = now
        self.calm = self.calm + (1 - math.exp((self.time - time) / (2 * CAMERA_SECONDS))) * (now - self.calm)
        self.time = time
        return self.calm

    def _note_neutral(self, pose: Tensor, sure: bool, confidence: float) -> None:
        if self.asked and sure:
            self.reference, self.asked = pose, False
        if self.reference is not None:
            return
        if confidence < (CERTAIN if self.detector.sure else LOW_CONFIDENCE):
            self.certain.clear()
            return
        self.certain.append(pose)
        if len(self.certain) == IN_A_ROW:
            self.reference = torch.stack(list(self.certain)).mean(0)


def read_frame(data: bytes) -> np.ndarray:
    """A JPEG of a camera as (H, W, 3) uint8.

    Raises:
        UserError: If it is none, or too large a one.
    """
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
            if image.width * image.height > MOST_PIXELS:
                raise UserError(f"a frame of {image.width} × {image.height} pixels arrived; send smaller ones")
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise UserError("a frame of the camera cannot be read") from error
