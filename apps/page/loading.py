"""Torch and what needs it: loaded while the page is already there. If it cannot be, a sentence says why."""

from __future__ import annotations

import importlib
import logging
import threading
from types import ModuleType

from autolink.errors import UserError

_turn = threading.Lock()
"""Two threads that load modules at once could get halves of them."""
logger = logging.getLogger("autolink")


def loaded(*names: str) -> tuple[ModuleType, ...]:
    """Modules of this room.

    Raises:
        UserError: If one cannot be loaded.
    """
    try:
        with _turn:
            return tuple(importlib.import_module(f"autolink_apps.page.{name}") for name in names)
    except Exception as error:  # what a broken installation raises is anyone's guess
        logger.exception("the page has no networks")
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"The networks cannot be loaded: {reason}; the terminal shows more") from error
