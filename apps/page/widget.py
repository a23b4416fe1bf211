"""The page's stage in a notebook: `autolink.widget("faces-transfer")`, around the same `stage.js`.

Drag a point, and the others follow; what the model paints appears beside it. The pose is `widget.points`.
"""

from __future__ import annotations

from importlib import resources
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from autolink.errors import UserError
from autolink_apps.page import answers, performers
from autolink_apps.page.messages import Open, Pose, parse, unframe

try:
    import anywidget
    import traitlets
except ModuleNotFoundError as error:
    raise UserError(f"the widget needs {error.name}: pip install 'autolink-graph[notebook]'") from error

ASSETS = resources.files("autolink_apps.page") / "assets"


class Widget(anywidget.AnyWidget):
    """A picture with its points, and what a model paints when they are moved.

    Args:
        model: A shipped name, a file, a folder or a hub id, of any kind of model that paints.
        picture: (H, W, 3) uint8 or a PIL image; default: what the model is shown on the page.
        size: Side of what is painted: 128, 256 or 512.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps` …

    Raises:
        UserError: If there is no such model, or it paints nothing.
    """

    _esm = "\n".join((ASSETS / name).read_text("utf-8") for name in ("stage.js", "widget.js"))
    _css = "\n".join((ASSETS / name).read_text("utf-8") for name in ("stage.css", "widget.css"))
    pose = traitlets.List(trait=traitlets.Float()).tag(sync=True)
    """x and y of one point after the other."""
    size = traitlets.Enum((128, 256, 512), 256).tag(sync=True)

    def __init__(
        self, model: str, picture: Image.Image | np.ndarray | None = None, *, size: int = 256, device: str = "auto"
    ) -> None:
        if isinstance(picture, np.ndarray):
            picture = Image.fromarray(picture)
        self.performer = performers.load(model, model, device)
        self.scene = self.performer.open(None if picture is None else picture.convert("RGB"))
        super().__init__(pose=self.scene.points.flatten().tolist(), size=size)
        self.on_msg(self._hear)

    @property
    def points(self) -> Tensor:
        """The pose, (K, 2) in −1 … 1; may be set."""
        return torch.tensor(self.pose).view(-1, 2)

    @points.setter
    def points(self, points: Tensor) -> None:
        self.pose = torch.as_tensor(points).float().flatten().tolist()

    def _hear(self, _: Any, said: str, buffers: Any) -> None:
        """Answer what the notebook's page asks, as the server does."""
        try:
            message = parse(said)
            if isinstance(message, Open):
                answer = answers.opened(self.performer, self.scene, message)
            elif isinstance(message, Pose):
                if len(message.xy) != len(self.scene.points):
                    raise UserError(f"expected {len(self.scene.points)} points, not {len(message.xy)}")
                answer = answers.painted(self.performer, self.scene, message)
            else:
                raise UserError("this is asked of the page alone")
        except UserError as error:
            self.send({"type": "error", "message": str(error)})
            return
        header, parts = unframe(answer)
        self.send(header, list(parts.values()))
