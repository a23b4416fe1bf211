"""Stages in threads: same items, bounded, and they end as they should, however the consumer ends."""

import threading
import time
from contextlib import closing

import pytest

from autolink.threads import ahead


class Stage:
    """A generator that tells how far it was run, in which thread, and whether it was closed."""

    def __init__(self, length: int = 1_000_000, fails_at: int | None = None):
        self.length, self.fails_at = length, fails_at
        self.made, self.closed_in, self.ran_in = 0, None, None

    def __iter__(self):
        self.ran_in = threading.current_thread()
        try:
            for number in range(self.length):
                if number == self.fails_at:
                    raise OSError("disk on fire")
                self.made += 1
                yield number
        finally:
            self.closed_in = threading.current_thread()


def threads() -> int:
    return threading.active_count()


def settled(stage: Stage) -> int:
    """Items made once no more are being made."""
    made = -1
    while made != stage.made:
        made = stage.made
        time.sleep(0.05)
    return made


def test_items_come_in_order_from_another_thread():
    before, stage = threads(), Stage(100)
    assert list(ahead(stage)) == list(range(100))
    assert stage.ran_in is stage.closed_in is not threading.current_thread()
    assert threads() == before


@pytest.mark.parametrize("depth", [1, 3])
def test_it_runs_no_further_ahead_than_it_may(depth):
    stage = Stage()
    with closing(ahead(stage, depth)) as items:
        assert stage.made == 0  # nothing before the first item is asked for
        for taken in range(1, 5):
            next(items)
            assert settled(stage) == taken + depth


def test_stages_run_at_the_same_time():
    """The source waits for whoever holds the item before, which in a single thread would be for ever."""
    together = threading.Barrier(2, timeout=5)

    def source():
        yield 0
        for number in (1, 2):
            together.wait()
            yield number

    with closing(ahead(source())) as items:
        assert next(items) == 0
        for number in (1, 2):
            together.wait()
            assert next(items) == number


def test_an_exception_arrives_after_the_items_before_it():
    before, stage, seen = threads(), Stage(fails_at=5), []
    with pytest.raises(OSError, match="disk on fire"):
        for item in ahead(stage):
            seen.append(item)
    assert seen == [0, 1, 2, 3, 4] and stage.closed_in is not None
    assert threads() == before


def test_a_source_that_cannot_be_iterated_raises_here():
    with pytest.raises(TypeError, match="not iterable"):
        next(ahead(5))


def test_a_consumer_that_stops_early_ends_the_source():
    before, stage = threads(), Stage()
    items = ahead(stage)
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    items.close()
    assert stage.closed_in is stage.ran_in and threads() == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_consumer_that_fails_ends_every_stage(error):
    before, stage = threads(), Stage()

    def doubled():
        with closing(ahead(stage)) as items:
            for item in items:
                yield 2 * item

    with pytest.raises(error), closing(ahead(doubled())) as items:
        for item in items:
            if item == 20:
                raise error
    assert stage.closed_in is stage.ran_in and threads() == before


def test_an_exception_while_the_source_closes_is_not_lost():
    def source():
        yield 1
        try:
            yield 2
        finally:
            raise OSError("cannot close")

    items = ahead(source())
    with pytest.raises(OSError, match="cannot close"):
        list(items)
