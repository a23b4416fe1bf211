"""Batches that shrink when memory runs out, instead of ending a long run."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

from autolink.errors import UserError

T = TypeVar("T")

_SIGNS = ("not enough memory", "can't allocate memory", "out of memory")

logger = logging.getLogger("autolink")


class Batches:
    """Cuts work into batches, and keeps to smaller ones from the first that did not fit into memory.

    Args:
        size: Frames at a time, at most.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def run(self, work: Callable[[slice], T], count: int) -> list[T]:
        """The results of `work` on consecutive slices of `count` frames.

        Raises:
            UserError: If not even one frame fits.
        """
        results, start = [], 0
        while start < count:
            part = slice(start, min(start + self.size, count))
            try:
                results.append(work(part))
                start = part.stop
            except RuntimeError as error:
                if not _out_of_memory(error):
                    raise
                self._shrink(part.stop - part.start)
        return results

    def _shrink(self, tried: int) -> None:
        if tried == 1:
            raise UserError(
                "not enough memory for one frame; free some, or take another --device, a smaller --size or model"
            )
        self.size = tried // 2
        logger.warning("out of memory with %d frames at a time; going on with %d", tried, self.size)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or any(sign in str(error) for sign in _SIGNS)
