"""What several tests share: tiny models, real data where a folder of them is at hand, runs on two processes."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny networks gain nothing from threads; processes inherit this

import resource
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
import torch
from accelerate.state import AcceleratorState

from autolink import AutoLink, AutoLinkConfig


@pytest.fixture(autouse=True)
def _deterministic():
    torch.manual_seed(0)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)  # the next test may train with another precision


@pytest.fixture
def own_data_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Names are looked up in what the test makes, except in the tests on real data; nothing is cached for good."""
    if "real_data" not in request.fixturenames:
        monkeypatch.delenv("AUTOLINK_DATA", raising=False)
    monkeypatch.setenv("AUTOLINK_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real data sets; tests that ask for it skip, by name, where there is none."""
    if not os.environ.get("AUTOLINK_DATA"):
        pytest.skip("needs real data: set AUTOLINK_DATA to the folder of data sets")
    return Path(os.environ["AUTOLINK_DATA"])


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A machine that says it has the data may not skip the tests on them."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = [report for report in reporter.stats.get("skipped", []) if "AUTOLINK_" in str(report.longrepr)]
    for report in skipped:
        reporter.write_line(f"skipped for want of data: {report.nodeid}")
    if skipped and os.environ.get("AUTOLINK_DATA"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture
def nearly_full() -> Callable[[int], AbstractContextManager[None]]:
    """A block in which no file of this process gets longer than so many bytes, as if the disk were full."""

    @contextmanager
    def limit(size: int) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limit


@pytest.fixture
def tiny() -> AutoLink:
    """An untrained AutoLink of 64² and an eighth of the paper's width, with four keypoints."""
    return AutoLink(AutoLinkConfig(keypoints=4, thickness=5e-3, image_size=64, width=0.125)).eval()


@pytest.fixture
def tiny_file(tiny: AutoLink, tmp_path: Path) -> Path:
    """`tiny` as a file."""
    return tiny.save_pretrained(tmp_path / "tiny.safetensors", {"data": "none"})
