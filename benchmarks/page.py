"""How quick the page is, in a real browser: `python benchmarks/page.py`, with Chromium installed.

A point is dragged to and fro for some seconds. An update is a picture of a new pose that has arrived and is drawn; its
delay is from asking to hearing. The camera is a film of the first portrait, which goes to and fro. Memory is that of
the server after all of it.
"""

from __future__ import annotations

import math
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import tyro
from _measure import print_table
from PIL import Image
from playwright.sync_api import Page, sync_playwright

WATCH = """() => {
  window.seen = [];
  const result = document.getElementById("result");
  new MutationObserver(() => window.seen.push([performance.now(), Number(result.dataset.milliseconds)]))
    .observe(result, { attributeFilter: ["data-n"] });
}"""


@dataclass
class Options:
    models: tuple[str, ...] = ("faces-transfer", "faces-gan", "faces")
    seconds: float = 6.0


def drag(page: Page, duration: float) -> tuple[float, list[float]]:
    """Updates a second, and delays in milliseconds, while a point goes round."""
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
    return (len(seen) - 1) / (seen[-1][0] - seen[0][0]) * 1000, [delay for _, delay in seen]


def film(path: Path) -> Path:
    """A camera for Chromium: two seconds of a head that goes to and fro."""
    photo = Image.open(Path(matplotlib.get_data_path()) / "sample_data/grace_hopper.jpg").convert("RGB")
    head = photo.crop((64, 40, 448, 424)).resize((400, 400))
    with path.open("wb") as file:
        for index in range(60):
            frame = Image.new("RGB", (640, 480), (120, 120, 120))
            frame.paste(head, (120 + round(60 * math.sin(index * 2 * math.pi / 60)), 40))
            frame.save(file, "JPEG", quality=90)
    return path


def act(page: Page, duration: float) -> tuple[float, list[float]]:
    """Updates a second, and delays in milliseconds, of a picture that the camera moves."""
    page.locator("nav [href='#camera']").click()
    page.locator("#camera-start").click()
    page.locator("#acted[data-neutral='true']").wait_for()
    page.evaluate(WATCH.replace('"result"', '"acted"'))
    page.wait_for_timeout(1000 * duration)
    seen = page.evaluate("window.seen")
    return (len(seen) - 1) / (seen[-1][0] - seen[0][0]) * 1000, [delay for _, delay in seen]


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    begun = time.monotonic()
    command = [Path(sys.executable).with_name("autolink"), "serve", "--no-open", "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    address = re.search(r"http\S+", server.stdout.readline())[0]
    up = time.monotonic() - begun
    with sync_playwright() as library:
        flags = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
        flags.append(f"--use-file-for-fake-video-capture={film(Path(tempfile.mkdtemp()) / 'camera.mjpeg')}")
        browser = library.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
        launched = time.monotonic() - begun - up
        page = browser.new_page(viewport={"width": 1280, "height": 800}, reduced_motion="reduce")
        loads: list[int] = []
        page.on("requestfinished", lambda request: loads.append(request.sizes()["responseBodySize"]))
        page.goto(address)
        page.locator("#result[data-size='512']").wait_for()
        page.evaluate(WATCH)
        first = time.monotonic() - begun - launched
        print(f"listening {up:.1f} s, first picture {first:.1f} s after the command, but for the browser's own start")
        print(f"page: {sum(loads) / 1000:.0f} kB in {len(loads)} requests\n")
        rows = []
        for model in options.models:
            if model != options.models[0]:
                n = page.locator("#result").get_attribute("data-n")
                page.locator("#model").select_option(model)
                page.locator(f"#pose:not(.loading) #result[data-size='512']:not([data-n='{n}'])").wait_for()
            page.wait_for_timeout(500)
            rate, delays = drag(page, options.seconds)
            p50, p95 = np.percentile(delays, [50, 95])
            rows.append((model, f"{rate:.1f}", f"{p50:.0f}", f"{p95:.0f}"))
            page.wait_for_timeout(500)
        rate, delays = act(page, options.seconds)
        p50, p95 = np.percentile(delays, [50, 95])
        rows.append((f"{options.models[0]}, camera", f"{rate:.1f}", f"{p50:.0f}", f"{p95:.0f}"))
        print_table(["model", "updates/s", "delay p50, ms", "p95"], rows)
        status = Path(f"/proc/{server.pid}/status").read_text()
        peak = int(re.search(r"VmHWM:\s+(\d+)", status)[1]) * 1024 / 1e9
        print(f"server: {peak:.2f} GB at most")
        browser.close()
    server.terminate()
    server.wait()


if __name__ == "__main__":
    main()
