"""A detector's view of squares, and what its confidence means.

Shapes: B squares, K keypoints, S side of the network's images.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from autolink.batching import Batches
from autolink.detector import Keypoints
from autolink.inference import Precision, half_precision
from autolink.model import AutoLink
from autolink.pixels import unit_from_pictures

CERTAIN = 0.69
"""Mean confidence of a frame that shows what the model knows, as it knows it: 98 % of unseen faces had more."""
DOUBT = 0.5
"""Below this the window is searched, and does not follow."""
USUAL = 0.8
"""Mean confidence of `faces` around a head, for which these bounds are made."""
LOW_CONFIDENCE = 0.3
"""A frame with less than this probably does not show it: cats and dogs have 0.3, noise and distant figures 0.04."""


class WindowDetector:
    """A model's detector for squares of bytes, in batches that fit into memory.

    A model that has learned little has wide heatmaps, so low confidences wherever it looks. Training notes
    how low they usually are (`usual_confidence`), and they are scaled to those of `faces`. Such confidences do not tell
    an object from an empty corner well enough to search windows by: the detector is not `sure`.

    Args:
        autolink: Whose detector.
        size: S; default the AutoLink's own.
        usual_confidence: Mean confidence where the object is shown as in training; default what the AutoLink's file
            says, or that of `faces`.
        precision: Of the network.
        batches: How many squares it sees at a time.
    """

    def __init__(
        self,
        autolink: AutoLink,
        size: int | None = None,
        usual_confidence: float | None = None,
        precision: Precision = "auto",
        batches: Batches | None = None,
    ) -> None:
        self.autolink, self.precision, self.batches = autolink, precision, batches or Batches(32)
        self.size = size or autolink.config.image_size
        usual = usual_confidence or autolink.metadata.get("usual_confidence", USUAL)
        self.scale, self.sure = max(1.0, USUAL / usual), usual >= CERTAIN

    @torch.inference_mode()
    def __call__(self, squares: Sequence[np.ndarray]) -> Keypoints:
        """Keypoints, on the CPU, of squares (S, S, 3) uint8."""
        found = self.batches.run(lambda part: self._detect(squares[part]), len(squares))
        return Keypoints(*(torch.cat(parts) for parts in zip(*found)))

    def _detect(self, squares: Sequence[np.ndarray]) -> Keypoints:
        images = unit_from_pictures(squares, self.autolink.device)
        with half_precision(images.device, self.precision):
            xy, confidence = (part.cpu() for part in self.autolink.detect(images))
        return Keypoints(xy, (confidence * self.scale).clamp(max=1))
