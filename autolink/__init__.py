"""Keypoints linked by a learned graph, from unlabelled images, and generators driven by them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autolink.detector import Keypoints
    from autolink.edges import draw_edges
    from autolink.errors import UserError
    from autolink.model import AutoLink, AutoLinkConfig, load

__version__ = "0.1.0"
__all__ = ["AutoLink", "AutoLinkConfig", "Keypoints", "UserError", "__version__", "draw_edges", "load"]

_ROOMS = {
    "AutoLink": "model",
    "AutoLinkConfig": "model",
    "Keypoints": "detector",
    "UserError": "errors",
    "draw_edges": "edges",
    "load": "model",
}
_APPLICATIONS = {"widget": ("autolink_apps.page.widget", "Widget")}
"""What applications add, by module and name."""


def __getattr__(name: str) -> object:
    """Public names, on first use: a command that needs no torch does not wait for it."""
    if name in _APPLICATIONS:
        module, found = _APPLICATIONS[name]
        return getattr(importlib.import_module(module), found)
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_ROOMS[name]}"), name)
