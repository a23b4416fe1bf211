"""Overlap of stages: decode, compute and encode at the same time, each in a thread of its own.

A stage is a generator over the items of the stage before; `ahead` lets it run a little in advance of whoever
consumes it. Decoding, resizing, encoding and tensor operations release the interpreter's lock, so threads are enough.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


def ahead(items: Iterable[T], depth: int = 2) -> Generator[T, None, None]:
    """Iterate in another thread, at most `depth` items in advance of the consumer.

    Nothing runs before the first item is asked for. An exception raised by `items` is raised here, after the items
    before it. When this generator is closed, exhausted or interrupted, `items` is closed too, in its own thread,
    before `close` returns; at most the item in the making is waited for. Wrap it in `contextlib.closing`, since a
    `for` loop that is left by an exception leaves its generator open.

    Args:
        items: Whose items to yield, in order.
        depth: Items that may wait, at least 1.
    """
    made: SimpleQueue[tuple[bool, Any]] = SimpleQueue()
    room = threading.Semaphore(depth)
    stopped = threading.Event()
    thread = threading.Thread(target=_produce, args=(items, made, room, stopped), daemon=True)
    thread.start()
    try:
        while True:
            more, item = made.get()
            if not more:
                break
            room.release()
            yield item
        if item is not None:
            raise item
    finally:
        stopped.set()
        room.release()
        thread.join()


def _produce(
    items: Iterable[T],
    made: SimpleQueue[tuple[bool, Any]],
    room: threading.Semaphore,
    stopped: threading.Event,
) -> None:
    """Put (True, item) for every item, and at the end (False, None) or (False, exception)."""
    error = None
    try:
        iterator = iter(items)
        try:
            while room.acquire() and not stopped.is_set():
                made.put((True, next(iterator)))
        except StopIteration:
            pass
        finally:
            if isinstance(iterator, Generator):
                iterator.close()
    except BaseException as raised:
        error = raised
    made.put((False, error))
