"""The model of a transfer: a given one, or one that is adapted to the source or learned from both clips before."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from autolink.devices import pick_device
from autolink.errors import UserError
from autolink.inference import fold
from autolink.video import FrameSource
from autolink.weights import resolve

from .eye import Eye
from .following import Track
from .framing import cut
from .model import PoseTransfer
from .options import Options, Pair
from .sparing import Batches
from .template import fingerprint

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
        if options.learn is None:
            self.load(self.base)

    def load(self, name: str) -> None:
        """Take a model by name, file, folder or hub id, unless it is the present one."""
        if name == self.name:
            return
        file = resolve(name)
        model = PoseTransfer.from_pretrained(file, self.device)
        self.identity = fingerprint(model.autolink)
        self.weights = hashlib.sha256(file.read_bytes()).hexdigest()[:12]
        self.model, self.name = fold(model), name
        self.eye = Eye(self.model, self.options.precision, self.batches)
        config = model.config
        self._check_size(config.image_size)
        print(f"model: {name} ({config.image_size}x{config.image_size}, {config.appearance} appearance)")

    def _check_size(self, least: int) -> None:
        if self.options.size is not None and self.options.size < least:
            raise UserError(f"--size {self.options.size}: the model paints {least}x{least}; expected {least} or more")

    def learn(self, pair: Pair) -> None:
        """Take the model that is learned from this pair."""
        from .learn import IMAGE_SIZE, learn

        self._check_size(IMAGE_SIZE)
        output = Path("runs") / f"learn-{pair.source.stem}-{pair.driver.stem}"
        print(f"learning: {output}")
        how = {"fit": self.options.fit, **self._how(output)}
        self.load(str(learn(pair.source, pair.driver, self.options.learn, output, **how)))

    def adapt(self, source: FrameSource, track: Track) -> None:
        """Take the model as it is adapted to this source, whose frames are seen through the windows of `track`."""
        from .adapt import adapt

        output, size = Path("runs") / f"adapt-{source.path.stem}", self.eye.size
        print(f"adapting: {output}")

        def see(index: int, image: np.ndarray) -> np.ndarray:
            return cut(image, track.window(index, image), size)

        self.load(str(adapt(self.base, source.path, self.options.adapt, output, cut=see, **self._how(output))))

    def _how(self, output: Path) -> dict[str, object]:
        begun = (output / "plan.json").is_file() or (output / "checkpoint.safetensors").is_file()
        how = {"device": self.options.device, "resume": self.options.resume and begun}
        return how if self.options.perceptual is None else {**how, "perceptual": self.options.perceptual}
