"""The model of a transfer: a given one, or one that is adapted to the source or learned from both clips before."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from autolink.batching import Batches
from autolink.devices import pick_device
from autolink.errors import UserError
from autolink.inference import fold
from autolink.runs import difference, identity, weights, weights_identity
from autolink.tracking.follow import Track
from autolink.tracking.windows import cut
from autolink.training import CHECKPOINT, CONFIG, begun
from autolink.video import FrameSource
from autolink.weights import resolve

from .model import PoseTransfer
from .options import Options, Pair
from .saved_motion import fingerprint

DEFAULT_MODEL = "faces-transfer"


class Models:
    """The model of each pair, loaded once; adapted or learned before, if that is wanted.

    Args:
        options: Say which.
    """

    def __init__(self, options: Options) -> None:
        self.options, self.device = options, pick_device(options.device)
        self.batches = Batches(options.batch_size)
        self.base = options.model or DEFAULT_MODEL
        self.name: str | None = None
        self.given: dict[str, str] = {}
        """What a result depends on that is made with the model as it was given, adapted or not; none is if it is
        learned."""
        if options.learn is None:
            self.load(self.base)
            self.given = {"weights of the model given": self.weights}

    def load(self, name: str) -> None:
        """Take a model by name, file, folder or hub id, unless it is the present one."""
        if name == self.name:
            return
        file = resolve(name)
        model = PoseTransfer.from_pretrained(file, self.device)
        self.identity = fingerprint(model.autolink)
        self.weights = weights(file)
        self.model, self.name = fold(model), name
        self.detector = self.model.window_detector(self.options.precision, self.batches)
        config = model.config
        self._check_size(config.image_size)
        print(f"model: {name} ({config.image_size}x{config.image_size}, {config.appearance} appearance)")

    def _check_size(self, least: int) -> None:
        if self.options.size is not None and self.options.size < least:
            raise UserError(f"--size {self.options.size}: the model paints {least}x{least}; expected {least} or more")

    def learn(self, pair: Pair, minutes: float) -> None:
        """Take the model that is learned from this pair."""
        from .learn import IMAGE_SIZE, learn

        self._check_size(IMAGE_SIZE)
        options = self.options
        about: dict[str, Any] = {"src": identity(pair.source), "driver": identity(pair.driver)}
        about |= {"minutes": minutes, "fit": options.fit}
        about |= {} if options.perceptual is None else {"perceptual": options.perceptual}
        output = _folder(f"learn-{pair.source.stem}-{pair.driver.stem}", "plan.json", about)
        print(f"learning: {output}")
        how: dict[str, Any] = {"fit": options.fit, **self._how((output / "plan.json").is_file())}
        self.load(str(learn(pair.source, pair.driver, minutes, output, **how)))

    def adapt(self, source: FrameSource, track: Track, steps: int) -> None:
        """Take the model as it is adapted to this source, whose frames are seen through the windows of `track`."""
        from .adapt import adapt

        options, size = self.options, self.detector.size
        framing = f"--crop {options.crop} --fit {options.fit}"
        data = identity(source.path, Path(os.path.abspath(source.path)).name)
        about: dict[str, Any] = {"data": data, "model": weights_identity(self.base), "framing": framing}
        about |= {"steps": steps}
        about |= {} if options.perceptual is None else {"perceptual": options.perceptual}
        output = _folder(f"adapt-{source.path.stem}", CONFIG, about)
        print(f"adapting: {output}")

        def see(index: int, image: np.ndarray) -> np.ndarray:
            return cut(image, track.window(index, image), size)

        how: dict[str, Any] = {"cut": see, "framing": framing, **self._how((output / CHECKPOINT).is_file())}
        self.load(str(adapt(self.base, source.path, steps, output, **how)))

    def _how(self, resume: bool) -> dict[str, Any]:
        how: dict[str, Any] = {"device": self.options.device, "resume": resume}
        return how if self.options.perceptual is None else {**how, "perceptual": self.options.perceptual}


def _folder(name: str, note: str, about: Mapping[str, Any]) -> Path:
    """The run folder for a model that is made on the way: one that was begun with the same, or else a new one.

    Args:
        name: What to call it; a number is added if others are called so.
        note: The file in a run folder that says what it was begun with.
        about: What this one is begun with.
    """
    for number in itertools.count(1):
        folder = Path("runs") / (name if number == 1 else f"{name}-{number}")
        if not (folder / note).is_file() or difference(begun(folder / note), about) is None:
            return folder
    raise AssertionError  # numbers do not end
