"""How quick the page is, in a real browser: `python benchmarks/page.py`, with Chromium installed; about two minutes.

A point is dragged to and fro for some seconds. An update is a picture of a new pose that has arrived and is drawn; its
delay is from asking to hearing. The camera is a film of the first portrait, which goes to and fro. Memory is that of
the server after all of it. A second table says where the time of a camera's picture goes, without a browser. What does
not come within `--patience` seconds is a dash in the table, and the others are measured all the same.

With `--pictures DIR` it makes pictures of every view instead, wide and narrow, light and dark.
"""

from __future__ import annotations

import io
import math
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import matplotlib
import numpy as np
import tyro
from _measure import print_table
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright
from playwright.sync_api import TimeoutError as Late

from autolink.errors import command
from autolink.ranges import Checked, Positive

WATCH = """(id) => {
  window.seen = [];
  const result = document.getElementById(id);
  new MutationObserver(() => window.seen.push([performance.now(), Number(result.dataset.milliseconds)]))
    .observe(result, { attributeFilter: ["data-n"] });
}"""
FILMED = 60
"""Frames of the film, at 30 a second."""
SETTLED = "#pose:not(.loading) #result[data-size='512']"


@dataclass
class Options(Checked):
    models: tuple[str, ...] = ("faces-transfer", "faces-gan", "faces")
    seconds: Positive = 6.0
    """Of each drag, and of the camera."""
    patience: Positive = 40.0
    """Seconds in which a picture has to be opened, or a neutral pose found."""
    pictures: Path | None = None
    """Folder for pictures of the views, instead of measuring."""
    shown: str = "portraits-gan"
    """The model on the pictures of the first view."""
    runs: Path | None = None
    """Folder of runs for the pictures."""


def filmed() -> Iterator[bytes]:
    """Two seconds of a head that goes to and fro, as JPEGs."""
    photo = Image.open(Path(matplotlib.get_data_path()) / "sample_data/grace_hopper.jpg").convert("RGB")
    head = photo.crop((64, 40, 448, 424)).resize((400, 400))
    for index in range(FILMED):
        frame = Image.new("RGB", (640, 480), (120, 120, 120))
        frame.paste(head, (120 + round(60 * math.sin(index * 2 * math.pi / FILMED)), 40))
        frame.save(buffer := io.BytesIO(), "JPEG", quality=90)
        yield buffer.getvalue()


def drag(page: Page, duration: float) -> list[list[float]]:
    """Times and delays in milliseconds of the updates while a point goes round."""
    box = page.locator(".point").nth(2).bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.evaluate("() => { window.seen = []; }")
    begun = time.monotonic()
    while (now := time.monotonic() - begun) < duration:
        page.mouse.move(x + 40 * math.sin(4 * now), y + 20 * math.sin(7 * now))
        time.sleep(0.008)
    seen = page.evaluate("window.seen")
    page.mouse.up()
    page.wait_for_timeout(500)
    return seen


def open_model(page: Page, model: str) -> None:
    """Choose a model, and wait until it is painted finely."""
    if page.locator("#model").input_value() != model:
        n = page.locator("#result").get_attribute("data-n")
        page.locator("#model").select_option(model)
        page.locator(f"{SETTLED}:not([data-n='{n}'])").wait_for()
    page.wait_for_timeout(500)


def act(page: Page, duration: float) -> list[list[float]]:
    """The same of a picture that the camera moves."""
    page.locator("nav [href='#camera']").click()
    page.locator("#camera-start").click()
    page.locator("#acted[data-neutral='true']").wait_for()
    page.evaluate(WATCH, "acted")
    page.wait_for_timeout(1000 * duration)
    return page.evaluate("window.seen")


def row(name: str, measure: Callable[[], list[list[float]]]) -> tuple[str, ...]:
    """Updates a second and delays of a measurement, or dashes if it is too late."""
    try:
        seen = measure()
    except Late:
        seen = []
    if len(seen) < 2:
        return name, "–", "–", "–"
    p50, p95 = np.percentile([delay for _, delay in seen], [50, 95])
    rate = (len(seen) - 1) / (seen[-1][0] - seen[0][0]) * 1000
    return name, f"{rate:.1f}", f"{p50:.0f}", f"{p95:.0f}"


def rows(page: Page, options: Options) -> Iterator[tuple[str, ...]]:
    """Of every model, and of the camera."""

    def dragged(model: str) -> list[list[float]]:
        open_model(page, model)
        return drag(page, options.seconds)

    for model in options.models:
        yield row(model, lambda: dragged(model))  # noqa: B023 - is called at once
    yield row(f"{options.models[0]}, camera", lambda: act(page, options.seconds))


def stages(count: int = 20) -> Iterator[tuple[str, ...]]:
    """Milliseconds of the parts of a camera's picture in the server: the median by the clock, and of the processor."""
    from autolink_apps.page import answers, camera, performers
    from autolink_apps.page.messages import Look

    performer = performers.load("faces-transfer", "faces-transfer", "cpu")
    scene = performer.open(None)
    actor, passed = camera.Actor(performer.detector, scene), 100.0
    taken: dict[str, list[tuple[float, float]]] = {}

    def timed(name: str, work: Callable[[], object]) -> object:
        clock, processor = time.perf_counter(), time.process_time()
        result = work()
        taken.setdefault(name, []).append((time.perf_counter() - clock, time.process_time() - processor))
        return result

    for data in islice(filmed(), count):
        passed += 1 / 15
        image = timed("decode", lambda: camera.read_frame(data))  # noqa: B023
        acted = timed("find keypoints, retarget", lambda: actor(image, passed))  # noqa: B023
        painted = timed("paint at 256²", lambda: performer.paint(scene, acted.pose[None], Look(), 256))  # noqa: B023
        pixels = painted[0].permute(1, 2, 0).contiguous().numpy()
        timed("encode", lambda: answers.jpeg(pixels, answers.QUALITY[256]))  # noqa: B023
    for name, times in taken.items():
        clock, processor = (statistics.median(values) * 1000 for values in zip(*times[2:]))
        yield name, f"{clock:.1f}", f"{processor:.1f}"


def measure(browser: Browser, address: str, server: int, options: Options, passed: Callable[[], float]) -> None:
    """Print both tables; `passed` says how many seconds ago the command was given."""
    page = browser.new_page(viewport={"width": 1280, "height": 800}, reduced_motion="reduce")
    page.set_default_timeout(1000 * options.patience)
    loads: list[int] = []
    page.on("requestfinished", lambda request: loads.append(request.sizes()["responseBodySize"]))
    page.goto(address)
    page.locator(SETTLED).wait_for()
    print(f"first picture {passed():.1f} s after the command, but for the browser's own start")
    print(f"page: {sum(loads) / 1000:.0f} kB in {len(loads)} requests\n")
    page.evaluate(WATCH, "result")
    print_table(["model", "updates/s", "delay p50, ms", "p95"], rows(page, options))
    peak = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{server}/status").read_text())
    if peak:
        print(f"server: {int(peak[1]) * 1024 / 1e9:.2f} GB at most\n")
    page.close()


def picture(browser: Browser, address: str, options: Options) -> None:
    """Pictures of every view."""
    options.pictures.mkdir(parents=True, exist_ok=True)
    for scheme in ("light", "dark"):
        for width, height in ((1280, 800), (390, 844)):
            how = {"viewport": {"width": width, "height": height}, "color_scheme": scheme, "reduced_motion": "reduce"}
            page = browser.new_page(**how, is_mobile=width < 700)
            page.set_default_timeout(5000 * options.patience)

            def shoot(page: Page, name: str, told: str = f"{width}-{scheme}") -> None:
                page.screenshot(path=options.pictures / f"{name}-{told}.png")

            page.goto(address)
            page.locator(SETTLED).wait_for()
            shoot(page, "portrait")
            open_model(page, options.shown)
            if width >= 700:
                drag(page, 0.4)
                page.locator(SETTLED).wait_for()
            shoot(page, "pose")
            page.locator("nav [href='#video']").click()
            shoot(page, "video")
            page.locator("nav [href='#camera']").click()
            page.locator("#camera-start").click()
            page.locator("#acted[data-neutral='true']").wait_for()
            shoot(page, "camera")
            if options.runs:
                page.locator("nav [href='#runs']").click()
                page.locator("#run:not([hidden])").wait_for()
                page.wait_for_timeout(1000)
                shoot(page, "runs")
            page.close()


@command
def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    begun = time.monotonic()
    command = [Path(sys.executable).with_name("autolink"), "serve", "--no-open", "--port", "0"]
    command += ["--runs", options.runs] if options.runs else []
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        address = re.search(r"http\S+", server.stdout.readline())[0]
        up = time.monotonic()
        print(f"listening {up - begun:.1f} s after the command")
        with sync_playwright() as library, tempfile.TemporaryDirectory() as folder:
            camera = Path(folder) / "camera.mjpeg"
            camera.write_bytes(b"".join(filmed()))
            flags = ["--no-sandbox", "--disable-dev-shm-usage"]
            flags += ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
            flags += [f"--use-file-for-fake-video-capture={camera}"]
            browser = library.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
            launching = time.monotonic() - up
            if options.pictures:
                picture(browser, address, options)
            else:
                measure(browser, address, server.pid, options, lambda: time.monotonic() - begun - launching)
            browser.close()
    finally:
        server.terminate()
        server.wait()
    if not options.pictures:
        print_table(["part of a camera's picture", "ms", "ms of processors"], stages())


if __name__ == "__main__":
    main()
