"""Batches that shrink when memory runs out."""

from __future__ import annotations

import pytest
import torch

from autolink import UserError
from autolink.batching import Batches


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA"), RuntimeError("DefaultCPUAllocator: not enough memory")]
)
def test_a_batch_that_does_not_fit_is_halved_for_good(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    tried = []

    def work(part: slice) -> list[int]:
        tried.append(part.stop - part.start)
        if tried[-1] > 3:
            raise error
        return list(range(part.start, part.stop))

    batches = Batches(16)
    assert [frame for part in batches.run(work, 20) for frame in part] == list(range(20))
    assert tried[:3] == [16, 8, 4] and set(tried[3:]) == {2} and batches.size == 2
    assert caplog.text.count("out of memory") == 3


def test_one_frame_that_does_not_fit_is_one_line() -> None:
    def work(part: slice) -> None:
        raise RuntimeError("MPS backend out of memory")

    with pytest.raises(UserError, match="one frame"):
        Batches(4).run(work, 4)


def test_other_errors_are_not_hidden() -> None:
    def work(part: slice) -> None:
        raise RuntimeError("a defect")

    with pytest.raises(RuntimeError, match="a defect"):
        Batches(4).run(work, 4)
