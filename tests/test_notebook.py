"""In a notebook: the widget around the page's stage, in a real browser, and the tour, executed."""

from __future__ import annotations

import base64
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import autolink
from autolink import UserError

pytest.importorskip("anywidget", reason="needs autolink-graph[notebook]")
from page_server import portrait

ROOT = Path(__file__).parent.parent
PAGE = """
<body></body>
<script type="module">
  %s
  const heard = { "msg:custom": [], "change:pose": [] };
  const values = { pose: POSE, size: 256 };
  window.model = {
    get: (name) => values[name],
    set: (name, value) => (values[name] = value),
    save_changes: () => save(values.pose),
    on: (name, call) => heard[name].push(call),
    off: () => {},
    send: async (text) => {
      for (const [said, ...parts] of await kernel(text)) {
        const buffers = parts.map((part) => Uint8Array.from(atob(part), (letter) => letter.charCodeAt(0)));
        for (const call of heard["msg:custom"]) call(said, buffers);
      }
    },
  };
  window.place = (pose) => { values.pose = pose; for (const call of heard["change:pose"]) call(); };
  render({ model: window.model, el: document.body });
</script>
"""


def test_the_widget_paints_what_is_dragged():
    library = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("needs a browser: install chromium")
    widget = autolink.widget("faces-transfer", np.asarray(portrait()), device="cpu")
    before = widget.points.clone()
    sent: list[list] = []
    widget.send = lambda said, buffers=(): sent.append([said, *(base64.b64encode(part).decode() for part in buffers)])

    def kernel(text: str) -> list[list]:
        sent.clear()
        widget._hear(widget, text, [])
        return list(sent)

    module = re.sub(r"export (default \{ render \};)?", "", widget._esm).replace("</", "<\\/")
    html = (PAGE % module).replace("POSE", json.dumps(widget.pose))
    with library.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-dev-shm-usage"])
        page = browser.new_page(viewport={"width": 800, "height": 500})
        wrong: list[str] = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.expose_function("kernel", kernel)
        page.expose_function("save", lambda pose: setattr(widget, "pose", pose))
        page.set_content(html)
        page.add_style_tag(content=widget._css)
        page.locator(".result[data-n='1']").wait_for()
        look = "(canvas) => canvas.toDataURL()"
        first = page.locator(".result canvas").evaluate(look)
        box = page.locator(".point").nth(6).bounding_box()
        x, y = box["x"] + 22, box["y"] + 22
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + 40, y, steps=4)
        page.mouse.up()
        page.wait_for_timeout(300)
        assert page.locator(".result canvas").evaluate(look) != first
        moved = widget.points - before
        assert moved[6, 0] > 0.1 and (moved[:, 0] > 0.02).sum() >= 6  # the others follow, and Python knows
        page.evaluate("(pose) => place(pose)", before.flatten().tolist())  # set in a cell
        page.wait_for_timeout(300)
        points = page.locator(".point").evaluate_all("(all) => all.map((point) => parseFloat(point.style.left))")
        assert torch.tensor(points) / 50 - 1 == pytest.approx(before[:, 0], abs=1e-2)
        assert wrong == []
        browser.close()


def test_the_widget_says_what_is_wrong(tiny_file):
    widget = autolink.widget(str(tiny_file), device="cpu")
    said: list[dict] = []
    widget.send = lambda told, buffers=(): said.append(told)
    for text in ("nonsense", '{"type": "watch"}', '{"type": "pose", "n": 1, "xy": [[0, 0], [0, 0]], "size": 256}'):
        widget._hear(widget, text, [])
    assert [told["type"] for told in said] == ["error"] * 3
    widget.points = torch.zeros(4, 2)
    assert widget.pose == [0.0] * 8
    with pytest.raises(UserError):
        autolink.widget("features")


def test_the_tour_runs_from_its_first_cell_to_its_last(tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="needs nbclient")
    nbformat = pytest.importorskip("nbformat", reason="needs nbformat")
    pytest.importorskip("ipykernel", reason="needs ipykernel")
    tour = nbformat.read(ROOT / "docs/tour.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in tour.cells)  # what is committed is small
    monkeypatch.setenv("AUTOLINK_TOUR_FRAMES", "6")
    nbclient.NotebookClient(tour, timeout=300, kernel_name="python3").execute(cwd=str(tmp_path))
    shown = [output for cell in tour.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in shown) >= 4
    assert any("application/vnd.jupyter.widget-view+json" in output.get("data", {}) for output in shown)
