"""The page as a person uses it: the command, in a real browser."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
pytest.importorskip("starlette", reason="needs autolink-graph[serve]")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if CHROMIUM is None:
    pytest.skip("needs a browser: install chromium", allow_module_level=True)

from page_server import Served, make_runs, portrait, small_clip  # noqa: E402
from playwright.sync_api import Browser, BrowserContext, Page, expect  # noqa: E402

from autolink_apps.page import performers  # noqa: E402


def busy() -> float:
    """How many times more is wanted of this machine than it can do: others may be at work on it."""
    return max(1.0, os.getloadavg()[0] / os.cpu_count())


PATIENCE = round(60_000 * min(busy(), 5))
"""Milliseconds."""


class Command:
    """`autolink serve`."""

    def __init__(self) -> None:
        command = [Path(sys.executable).with_name("autolink"), "serve", "--no-open", "--port", "0"]
        own = {**os.environ, "OMP_NUM_THREADS": "2"}  # one would be too slow for the rates that are asked for
        self.begun = time.monotonic()
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=own)
        self.address = re.search(r"http\S+", self.process.stdout.readline())[0]

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(20) in (0, 130)  # uvicorn may end before it hands the signal on


@pytest.fixture(scope="module")
def served() -> Iterator[Command]:
    running = Command()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    camera = tmp_path_factory.mktemp("camera") / "camera.mjpeg"
    camera.write_bytes(b"".join(map(filmed, range(60))))
    with playwright.sync_playwright() as library:
        flags = ["--no-sandbox", "--disable-dev-shm-usage"]  # containers run as root, with little shared memory
        flags += ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
        flags += [f"--use-file-for-fake-video-capture={camera}"]
        launched = library.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield launched
        launched.close()


def filmed(index: int) -> bytes:
    """A frame of a camera, as JPEG: a head that goes to and fro."""
    frame = Image.new("RGB", (320, 240), (120, 120, 120))
    frame.paste(portrait(200), (60 + round(30 * np.sin(index * 2 * np.pi / 60)), 20))
    frame.save(buffer := io.BytesIO(), "JPEG", quality=90)
    return buffer.getvalue()


class Seen:
    """A page that was opened, and what went wrong on it."""

    def __init__(self, context: BrowserContext, address: str) -> None:
        context.set_default_timeout(PATIENCE)
        self.page: Page = context.new_page()
        self.wrong: list[str] = []
        self.requests: list[str] = []
        self.bytes = 0
        self.page.on("console", lambda message: self.wrong.append(message.text) if message.type == "error" else None)
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(address)
        self.settle()

    def settle(self) -> None:
        """Wait until the picture is painted finely, after which nothing is on its way."""
        self.page.locator("#pose:not(.loading) #result[data-size='512']").wait_for()

    def picture(self, canvas: str = "#result canvas") -> np.ndarray:
        url = self.page.locator(canvas).first.evaluate("(canvas) => canvas.toDataURL()")
        data = base64.b64decode(url.split(",")[1])
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB").resize((128, 128))).astype(float)

    def painted(self) -> int:
        return int(self.page.locator("#result").get_attribute("data-n"))

    def points(self) -> np.ndarray:
        """(K, 2), −1 to 1, as they are shown."""
        read = "(all) => all.map((point) => [point.style.left, point.style.top].map(parseFloat))"
        return np.array(self.page.locator(".point").evaluate_all(read)) / 50 - 1

    def middle(self, k: int) -> tuple[float, float]:
        box = self.page.locator(".point").nth(k).bounding_box()
        return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    def drag(self, k: int, by: tuple[int, int], steps: int = 8) -> None:
        x, y = self.middle(k)
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        self.page.mouse.move(x + by[0], y + by[1], steps=steps)
        self.page.mouse.up()

    def rate(self, wanted: float) -> float:
        """Pictures a second while a point is dragged, of the first of three drags that reaches what is wanted."""
        for by in (60, -60, 70):
            first, begun = self.painted(), time.monotonic()
            self.drag(2, (by, 10), steps=60)
            rate = (self.painted() - first) / (time.monotonic() - begun)
            if rate >= wanted:
                break
        return rate

    def after(self, act: Callable[[], object]) -> None:
        """Do something that ends in a fine picture, and wait for that."""
        before = self.painted()
        act()
        deadline = time.monotonic() + PATIENCE / 1000
        while self.painted() == before and time.monotonic() < deadline:
            self.page.wait_for_timeout(10)
        self.settle()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    made = browser.new_context(reduced_motion="reduce", viewport={"width": 1280, "height": 800})
    yield made
    made.close()


@pytest.fixture
def seen(context: BrowserContext, served: Command) -> Iterator[Seen]:
    page = Seen(context, served.address)
    yield page
    assert page.wrong == []
    assert {urlsplit(url).hostname for url in page.requests if not url.startswith("blob:")} == {"127.0.0.1"}


def test_it_opens_with_a_picture_and_its_pose(seen, served):
    assert time.monotonic() - served.begun <= 12 * busy()
    status = Path(f"/proc/{served.process.pid}/status")
    if status.is_file():
        assert int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1]) <= 2.2e6
    assert len(seen.requests) <= 12
    assert "token" not in seen.page.url
    assert seen.picture().std() > 20 and seen.picture(".stage canvas").std() > 20
    assert np.abs(seen.picture() - seen.picture(".stage canvas")).mean() < 25  # the same person in the same pose
    expect(seen.page.locator(".point")).to_have_count(10)
    expect(seen.page.locator("#thumbnails button")).to_have_count(8)
    expect(seen.page.locator("#sliders input")).to_have_count(4)
    expect(seen.page.locator(".message")).to_have_count(0)


def test_a_drag_is_followed_quickly_and_ends_on_the_last_pose(seen):
    before = seen.picture()
    assert seen.rate(10) >= 10 / busy()
    seen.page.wait_for_timeout(400)
    seen.settle()
    shown, at_rest = seen.picture(), seen.points()
    assert np.abs(shown - before).mean() > 3
    seen.after(lambda: seen.page.locator(".point").nth(0).press("ArrowRight"))
    seen.after(lambda: seen.page.locator("#undo").click())
    assert np.allclose(seen.points(), at_rest, atol=1e-3)
    assert np.abs(seen.picture() - shown).mean() < 2  # painted anew, it is the picture that the drag ended on


def test_the_whole_pose_follows_or_one_point_alone(seen):
    before = seen.points()
    seen.after(lambda: seen.drag(6, (40, 0)))
    together = seen.points() - before
    assert together[6, 0] > 0.1 and (np.abs(together[:, 0]) > 0.02).sum() >= 6
    carried = np.abs(seen.picture() - seen.picture(".stage canvas")).mean()
    seen.after(lambda: seen.page.locator("#undo").click())
    assert np.allclose(seen.points(), before, atol=1e-3)
    seen.page.get_by_text("One point").click()
    seen.after(lambda: seen.drag(6, (40, 0)))
    alone = seen.points() - before
    assert alone[6, 0] > 0.1 and np.abs(np.delete(alone, 6, 0)).max() < 1e-3
    assert carried > np.abs(seen.picture() - seen.picture(".stage canvas")).mean()
    seen.after(lambda: seen.page.locator("#reset").click())
    assert np.allclose(seen.points(), before, atol=1e-3)


def test_keys_move_points_and_undo_them(seen):
    before = seen.points()
    point = seen.page.locator(".point").nth(3)
    seen.page.get_by_text("One point").click()
    point.focus()
    point.press("ArrowRight")
    seen.after(lambda: point.press("Shift+ArrowUp"))
    assert seen.points()[3] - before[3] == pytest.approx([0.02, -0.1], abs=2e-3)
    assert point.get_attribute("role") == "slider" and "right" in point.get_attribute("aria-valuetext")
    seen.after(lambda: seen.page.keyboard.press("Control+z"))  # both were one burst
    assert np.allclose(seen.points(), before, atol=1e-3)
    seen.after(lambda: seen.page.keyboard.press("Control+Shift+Z"))
    assert seen.points()[3] - before[3] == pytest.approx([0.02, -0.1], abs=2e-3)
    point.focus()
    seen.after(lambda: point.press("Home"))
    assert np.allclose(seen.points(), before, atol=2e-3)


def test_sliders_and_thumbnails_change_the_pose(seen):
    before, picture = seen.points(), seen.picture()
    slider = seen.page.get_by_role("slider", name="Turn")
    value = float(slider.input_value())
    seen.after(lambda: slider.fill(str(round(value + 0.4, 2))))
    assert (seen.points() - before)[:, 0].mean() > 0.05 and np.abs(seen.picture() - picture).mean() > 3
    seen.after(lambda: seen.page.locator("#thumbnails button").nth(0).click())
    assert float(slider.input_value()) < value + 0.3  # sliders show where the pose is
    seen.after(lambda: seen.page.keyboard.press("Control+z"))
    seen.after(lambda: seen.page.keyboard.press("Control+z"))
    assert np.allclose(seen.points(), before, atol=2e-3)


def test_other_models_and_other_faces(seen):
    seen.after(lambda: seen.page.locator("#model").select_option("faces-gan"))
    expect(seen.page.locator("#result canvas")).to_have_count(6)
    box = seen.page.locator("#result canvas").first.bounding_box()
    assert box["width"] <= 192 and box["width"] == pytest.approx(box["height"], abs=1)
    assert seen.rate(7.5) >= 7.5 / busy()
    seen.page.wait_for_timeout(400)
    seen.settle()
    faces = seen.picture()
    seen.after(lambda: seen.page.get_by_role("button", name="Other faces").click())
    assert np.abs(seen.picture() - faces).mean() > 3
    seen.after(lambda: seen.page.locator("#model").select_option("synthetic"))
    expect(seen.page.locator("#result canvas")).to_have_count(1)
    expect(seen.page.locator(".point")).to_have_count(24)
    assert seen.page.get_by_role("slider", name="Lean").is_visible()


def test_pictures_and_clips_are_opened_and_others_explained(seen, tmp_path):
    photo = Image.effect_noise((4000, 3000), 60).convert("RGB")
    photo.save(tmp_path / "holiday.jpg", quality=60)
    seen.after(lambda: seen.page.locator("#open").set_input_files(tmp_path / "holiday.jpg"))
    expect(seen.page.locator(".message")).to_contain_text("not sure")
    frames = [Image.new("RGB", (64, 64), (shade, 60, 90)) for shade in (0, 120, 240)]
    frames[0].save(tmp_path / "clip.gif", save_all=True, append_images=frames[1:], duration=400)
    seen.after(lambda: seen.page.locator("#open").set_input_files(tmp_path / "clip.gif"))
    red = seen.picture(".stage canvas")[..., 0].mean()
    seen.after(lambda: seen.page.get_by_label("Moment").fill("1"))
    assert seen.picture(".stage canvas")[..., 0].mean() > red + 100
    (tmp_path / "text.png").write_text("this is a text")
    shown = seen.painted()
    seen.page.locator("#open").set_input_files(tmp_path / "text.png")
    expect(seen.page.locator(".message.wrong")).to_contain_text("text.png is neither a picture nor a video")
    assert seen.painted() == shown  # what was open stays
    seen.wrong[:] = [text for text in seen.wrong if "415" not in text]  # the browser notes the refusal


def test_a_picture_is_dropped_or_pasted(seen):
    hand_over = """(kind) => {
      const canvas = Object.assign(document.createElement("canvas"), { width: 200, height: 200 });
      canvas.getContext("2d").fillStyle = kind === "drop" ? "#ff0000" : "#00ff00";
      canvas.getContext("2d").fillRect(0, 0, 200, 200);
      canvas.toBlob((blob) => {
        const data = new DataTransfer();
        data.items.add(new File([blob], "plain.png", { type: "image/png" }));
        const about = kind === "drop" ? { dataTransfer: data } : { clipboardData: data };
        const event = kind === "drop" ? new DragEvent(kind, about) : new ClipboardEvent(kind, about);
        window.dispatchEvent(event);
      });
    }"""
    for kind, channel in (("drop", 0), ("paste", 1)):
        seen.after(lambda kind=kind: seen.page.evaluate(hand_over, kind))
        assert seen.picture(".stage canvas").mean((0, 1)).argmax() == channel


def test_files_are_exported(seen):
    for kind, name in (("png", "faces-transfer-result.png"), ("json", "faces-transfer-keypoints.json")):
        seen.page.locator("#export summary").click()
        with seen.page.expect_download() as download:
            seen.page.locator(f"#export [data-kind={kind}]").click()
        assert download.value.suggested_filename == name
        data = Path(download.value.path()).read_bytes()
        if kind == "png":
            assert Image.open(io.BytesIO(data)).text["Software"] == "autolink"
        else:
            assert np.allclose(json.loads(data)["points"], seen.points(), atol=1e-3)


def test_two_tabs_do_not_disturb_each_other(seen, context, served):
    other = Seen(context, served.address)
    before = other.points()
    seen.after(lambda: seen.drag(2, (50, 0)))
    assert np.allclose(other.points(), before)
    other.after(lambda: other.drag(2, (-50, 0)))
    assert not np.allclose(other.points(), seen.points(), atol=0.05)
    assert np.abs(other.picture() - seen.picture()).mean() > 3


def test_a_reload_needs_no_secret(seen):
    seen.page.reload()
    seen.settle()
    assert seen.picture().std() > 20


def test_what_is_injected_does_not_run(seen):
    seen.page.evaluate(
        """() => {
          const script = document.createElement("script");
          script.textContent = "document.body.dataset.injected = 1";
          document.body.append(script);
          document.body.insertAdjacentHTML("beforeend", "<img src=x onerror='document.body.dataset.injected = 2'>");
        }"""
    )
    seen.page.wait_for_timeout(200)
    assert seen.page.locator("body").get_attribute("data-injected") is None
    assert any("Content Security Policy" in text for text in seen.wrong)
    seen.wrong.clear()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_anyone_can_use_it(browser, served, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")
    made = browser.new_context(reduced_motion="reduce", color_scheme=scheme, viewport={"width": 1280, "height": 800})
    page = Seen(made, served.address)
    found = axe.Axe().run(page.page)
    assert not found.response["violations"], found.generate_report()
    made.close()


def test_on_a_telephone_it_is_one_column_and_fingers_drag(browser, served):
    made = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = Seen(made, served.address)
    assert page.page.evaluate("document.documentElement.scrollWidth") <= 390
    page.page.wait_for_timeout(1700)  # it nods once
    page.settle()
    before = page.points()
    point = page.page.locator(".point").nth(2)
    assert point.bounding_box()["width"] >= 44
    x, y = page.middle(2)
    touch = page.page.context.new_cdp_session(page.page)
    for kind, dx in (("touchStart", 0), ("touchMove", 15), ("touchMove", 30), ("touchEnd", None)):
        at = [] if dx is None else [{"x": x + dx, "y": y}]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": at})
    page.page.wait_for_timeout(300)
    page.settle()
    assert (page.points() - before)[:, 0].mean() > 0.05
    assert page.page.evaluate("scrollY") == 0
    made.close()


def test_it_nods_once_when_it_is_opened(browser, served):
    made = browser.new_context(viewport={"width": 1280, "height": 800})
    page = Seen(made, served.address)
    page.page.wait_for_timeout(1800)
    page.settle()
    assert page.painted() > 2  # while it moved
    rest = page.points()
    page.page.locator("#reset").click()
    page.page.wait_for_timeout(300)
    page.settle()
    assert np.allclose(page.points(), rest, atol=0.05)  # where it was found
    made.close()


def test_a_lost_server_is_told_and_the_page_goes_on_when_it_is_back(context):
    first = Served()
    page = Seen(context, first.address)
    page.after(lambda: page.drag(2, (50, 0)))
    pose = page.points()
    first.stop()
    expect(page.page.locator(".message.wrong")).to_contain_text("server is not there")
    second = Served(first.port)
    expect(page.page.locator(".message")).to_have_count(0, timeout=PATIENCE)
    page.page.wait_for_timeout(500)
    page.settle()
    assert np.allclose(page.points(), pose, atol=1e-3)
    second.stop()


def path_of(page: Page, name: str) -> np.ndarray:
    """The points of a curve as they are drawn."""
    drawn = page.locator(f".curve[data-name={name}] path").get_attribute("d")
    return np.array([piece.split() for piece in re.split("[ML]", drawn)[1:]], float)


def test_runs_are_watched_and_their_model_is_used(context, tmp_path, tiny):
    folder = make_runs(tmp_path / "runs", tiny)
    running = Served(runs=folder)
    seen = Seen(context, running.address)
    page = seen.page
    page.get_by_role("link", name="Runs").click()
    page.get_by_role("button", name="group/mine").click()
    expect(page.locator("#run-state")).to_contain_text("finished, step 300 of 300")
    rows = [json.loads(line) for line in (folder / "group/mine/log.jsonl").read_text().splitlines()]
    for name in ("loss", "held_out_loss", "alpha"):
        logged = np.array([(row["step"], row[name]) for row in rows if name in row])
        curve = path_of(page, name)
        assert len(curve) == len(logged)
        for axis, sign in ((0, 1), (1, -1)):  # larger values are drawn higher
            values = sign * logged[:, axis]
            expected = (values - values[0]) / (values[-1] - values[0])
            found = (curve[:, axis] - curve[0, axis]) / (curve[-1, axis] - curve[0, axis])
            assert np.allclose(found, expected, atol=0.01)
    expect(page.locator("#sample-label")).to_have_text("step 300")
    page.locator("#sample-step").fill("0")
    expect(page.locator("#sample-label")).to_have_text("step 100")
    page.locator("#sample[src*='step=100']").wait_for()
    assert page.locator("#sample").evaluate("(image) => image.decode().then(() => image.naturalWidth)") > 100
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python").Axe()
    assert not (found := axe.run(page)).response["violations"], found.generate_report()
    page.get_by_role("button", name="other").click()
    expect(page.locator("#run-state")).to_contain_text("step 40 of 900")
    with (folder / "other/log.jsonl").open("a") as file:
        file.write('{"step": 90, "loss": 0.25}\n')
    expect(page.locator("#run-state")).to_contain_text("step 90 of 900")  # by itself
    assert len(path_of(page, "loss")) == 5
    page.get_by_role("button", name="group/mine").click()
    seen.after(lambda: page.get_by_role("button", name="Use this model").click())
    expect(page.locator(".point")).to_have_count(4)
    expect(page.locator("#model")).to_have_value("run group/mine")
    page.set_viewport_size({"width": 390, "height": 844})
    page.get_by_role("link", name="Runs").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert seen.wrong == []
    running.stop()


@pytest.fixture
def video(seen: Seen) -> Page:
    seen.page.get_by_role("link", name="Video").click()
    return seen.page


def playing(page: Page, role: str) -> float:
    """The time in seconds at which a clip is."""
    return page.locator(f"[data-role={role}] video").evaluate("(video) => video.currentTime")


def test_a_video_is_made_of_a_source_and_a_driver_and_plays_beside_them(seen, video, tmp_path):
    portrait().save(tmp_path / "person.png")
    video.locator("[data-role=source] input").set_input_files(tmp_path / "person.png")
    video.locator("[data-role=driver] input").set_input_files(small_clip(tmp_path, 12))
    expect(video.locator("#first output").first).to_contain_text("about")
    expect(video.locator("#first input").nth(1)).to_be_disabled()  # a picture is too little to learn from
    video.get_by_role("button", name="Make the video").click()
    expect(video.locator("#made progress")).to_be_visible()
    expect(video.locator("#made [role=status]")).to_contain_text("left")
    video.reload()  # the job is the server's
    expect(video.locator("#jobs li")).to_contain_text("person.png as clip.mp4")
    expect(video.locator("[data-role=driver] figcaption")).to_contain_text("clip.mp4, 1.2 s")
    result = video.locator("#made video")
    expect(result).to_be_visible(timeout=5 * PATIENCE)
    expect(video.locator("#jobs li")).to_contain_text("Done")
    assert result.evaluate("(video) => video.play().then(() => [video.duration, video.videoWidth])") == [1.2, 256]
    video.wait_for_timeout(400)
    result.evaluate("(video) => { video.pause(); video.currentTime = 0.7; }")
    video.wait_for_timeout(500)
    assert playing(video, "driver") == pytest.approx(playing(video, "result"), abs=0.15)
    with video.expect_download() as download:
        video.locator("#files").get_by_text("Save").click()
    assert download.value.suggested_filename == "person-as-clip.mp4"
    video.get_by_role("button", name="Remove", exact=True).click()
    expect(video.locator("#jobs li")).to_have_count(0)
    video.set_viewport_size({"width": 390, "height": 844})
    assert video.evaluate("document.documentElement.scrollWidth") <= 390


def test_keypoints_of_a_clip_are_found_shown_and_saved(seen, video, tmp_path):
    video.locator("[data-role=source] input").set_input_files(small_clip(tmp_path, 12))
    video.get_by_text("Find keypoints").click()
    expect(video.locator("[data-role=driver]")).to_be_hidden()
    expect(video.locator("#takes")).to_contain_text("about")
    video.get_by_role("button", name="Find the keypoints").click()
    result = video.locator("#made video")
    expect(result).to_be_visible(timeout=5 * PATIENCE)
    assert result.evaluate("(video) => video.play().then(() => [video.duration, video.videoWidth])") == [1.2, 128]
    expect(video.locator("#jobs li")).to_contain_text("Keypoints of clip.mp4")
    for label, name in (("csv", "clip-keypoints.csv"), ("npz", "clip-keypoints.npz"), ("Save", "clip.mp4")):
        with video.expect_download() as download:
            video.locator("#files").get_by_text(label).click()
        assert download.value.suggested_filename == name
        data = Path(download.value.path()).read_bytes()
        if label == "csv":
            rows = data.decode().splitlines()
            assert len(rows) == 13 and rows[1].startswith("clip.mp4,0,")
    video.get_by_text("Make it move").click()
    expect(video.locator("#made [role=status]")).to_have_text("Choose a source and a driver.")


def test_a_video_is_stopped_and_goes_on_and_what_cannot_be_made_is_explained(context, tmp_path):
    running = Served(transfer=(sys.executable, "-c", STOPPABLE))
    seen = Seen(context, running.address)
    page = seen.page
    page.get_by_role("link", name="Video").click()
    clip = small_clip(tmp_path, 24)
    for role in ("source", "driver"):
        page.locator(f"[data-role={role}] input").set_input_files(clip)
        expect(page.locator(f"[data-role={role}] video")).to_be_visible()
    expect(page.locator("#first input").nth(3)).to_be_disabled()  # one clip twice
    page.get_by_text("Adapt the model to the source").click()
    page.get_by_role("button", name="Make the video").click()
    expect(page.locator("#made small")).to_contain_text("Adapting to clip.mp4, 40 of 150 steps")
    page.get_by_role("button", name="Make the video").click()
    expect(page.locator("#jobs li").first).to_contain_text("Waiting, 1 before it")
    page.locator("#jobs li").nth(1).get_by_role("button", name="Stop", exact=True).click()
    expect(page.locator("#jobs li").nth(1)).to_contain_text("Stopped")
    page.locator("#jobs li").nth(0).get_by_role("button", name="Stop", exact=True).click()
    page.locator("#jobs li").nth(1).get_by_role("button", name="Go on", exact=True).click()
    expect(page.locator("#jobs li").first).to_contain_text("This did not work")
    page.locator("#jobs li").first.get_by_role("button", name="clip.mp4 as clip.mp4").click()
    expect(page.locator("#made .wrong")).to_have_text("clip.mp4: no head in it; give another video.")
    (tmp_path / "text.png").write_text("this is a text")
    page.locator("[data-role=driver] input").set_input_files(tmp_path / "text.png")
    expect(page.locator(".message.wrong")).to_contain_text("text.png is neither a picture nor a video")
    portrait().save(tmp_path / "person.png")
    page.locator("[data-role=driver] input").set_input_files(tmp_path / "person.png")
    page.get_by_text("Nothing").click()
    page.get_by_role("button", name="Make the video").click()
    expect(page.locator(".message.wrong")).to_contain_text("nothing moves in it")
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python").Axe()
    assert not (found := axe.run(page)).response["violations"], found.generate_report()
    assert [text for text in seen.wrong if "415" not in text and "400" not in text] == []
    running.stop()


STOPPABLE = """
import json, sys, time
for stage, of in (("looking at uploaded-driver", 24), ("adapting to uploaded-source", 150)):
    for done in (0, 40):
        said = dict(event="progress", stage=stage, done=done, of=of, unit="step", seconds=done / 10, left=of - done)
        print(json.dumps(said), file=sys.stderr, flush=True)
if "--resume" in sys.argv:
    print("error: uploaded-source: no head in it; give another video", file=sys.stderr)
    sys.exit(2)
time.sleep(600)
"""


def acted(page: Page, canvas: str = "#acted") -> int:
    return int(page.locator(canvas).get_attribute("data-n") or 0)


def test_the_camera_moves_a_picture_and_a_clean_page_shows_it(seen, context, served):
    page = seen.page
    page.get_by_role("link", name="Camera").click()
    clean = context.new_page()
    clean.goto(served.address.replace("/?", "/out?"))
    page.get_by_role("button", name="Start the camera").click()
    page.locator("#acted[data-neutral=true]").wait_for()
    expect(page.locator("#camera-state")).to_contain_text("Acting")
    first, begun = acted(page), time.monotonic()
    pictures = []
    for _ in range(4):
        page.wait_for_timeout(500)
        pictures.append(seen.picture("#acted"))
    rate = (acted(page) - first) / (time.monotonic() - begun)
    assert rate >= 7.5 / busy()
    assert max(np.abs(picture - pictures[0]).mean() for picture in pictures) > 2
    assert seen.picture("#seen").std() > 20
    clean.locator("#out[data-n]").wait_for()
    assert acted(clean, "#out") > 0 and clean.evaluate("document.body.innerText.trim()") == ""
    assert "token" not in clean.url
    page.get_by_role("button", name="Take this as neutral").click()
    portrait().transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(buffer := io.BytesIO(), "PNG")
    other = {"name": "other.png", "mimeType": "image/png", "buffer": buffer.getvalue()}
    page.locator("#camera-open").set_input_files(other)
    page.locator("#acted[data-opened='2'][data-neutral=true]").wait_for()  # another picture, another neutral pose
    page.get_by_role("button", name="Stop the camera").click()
    expect(page.locator("#camera-state")).to_have_text("The camera is off.")
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python").Axe()
    assert not (found := axe.run(page)).response["violations"], found.generate_report()
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_what_is_done_while_a_picture_is_opened_stops_nothing(context, monkeypatch):
    opening = performers.Portrait.open

    def slowly(self: performers.Portrait, picture: Image.Image | None) -> performers.Scene:
        time.sleep(0.4)
        return opening(self, picture)

    monkeypatch.setattr(performers.Portrait, "open", slowly)
    running = Served()
    seen = Seen(context, running.address)
    page = seen.page
    buffer = io.BytesIO()
    portrait(2160).resize((3840, 2160)).save(buffer, "JPEG")
    photo = {"name": "photo.jpg", "mimeType": "image/jpeg", "buffer": buffer.getvalue()}
    page.locator("#open").set_input_files(photo)
    page.locator("#pose.loading").wait_for()
    page.locator(".point").nth(0).press("ArrowRight")
    seen.settle()
    seen.after(lambda: page.locator(".point").nth(0).press("ArrowRight"))
    page.locator("#open").set_input_files(photo)
    page.locator("#pose.loading").wait_for()
    page.get_by_role("link", name="Camera").click()
    page.get_by_role("button", name="Start the camera").click()
    page.locator("#acted[data-neutral=true]").wait_for()
    for number, what in enumerate(("mirror", "mirror", "people-transfer", "faces-transfer"), start=2):
        count = acted(page)
        if what == "mirror":
            page.locator("#mirror").click()
        else:
            page.locator("#camera-model").select_option(what)
        page.locator(f"#acted[data-opened='{number}']").wait_for()
        deadline = time.monotonic() + PATIENCE / 1000
        while acted(page) < count + 3 and time.monotonic() < deadline:
            page.wait_for_timeout(50)
        assert acted(page) >= count + 3, what
    page.reload()  # on this view, which is there before the models are known
    page.locator("#acted[data-opened='1']").wait_for()
    assert seen.wrong == []
    running.stop()


def test_without_networks_the_page_says_so(context, monkeypatch):
    monkeypatch.setitem(sys.modules, "autolink_apps.page.performers", None)
    running = Served()
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.goto(running.address)
    expect(page.locator(".invite")).to_contain_text("The networks cannot be loaded: import of")
    expect(page.locator("#status")).to_have_text("")
    page.get_by_role("link", name="Camera").click()
    expect(page.locator(".message.wrong")).to_contain_text("the terminal shows more")
    running.stop()


def test_a_camera_that_is_refused_is_explained(context, served):
    context.add_init_script(
        "navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('', 'NotAllowedError'))"
    )
    seen = Seen(context, served.address)
    seen.page.get_by_role("link", name="Camera").click()
    seen.page.get_by_role("button", name="Start the camera").click()
    expect(seen.page.locator(".message.wrong")).to_contain_text("Allow it beside the address")
    assert seen.wrong == []
