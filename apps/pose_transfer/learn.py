"""Learn a kind of object that no shipped model knows, from two clips of it: `autolink-transfer … --learn MINUTES`.

The frames of both clips together teach keypoints and graph (`autolink.train`). What the decoder sees of a frame's
looks is another frame of the same clip, and the mean poses of both clips are drawn towards one shape: so the graph
carries motion rather than who it is, and a keypoint means the same on both (a warning says if it evidently does not).
Then comes the transfer network (`train.py`). How many steps each stage takes is decided right before it begins, from
the time that a few of its steps take on this machine, and written into the plan; with `resume`, stages that are done
are skipped and the one that was interrupted goes on exactly where its last checkpoint was.

The run folder: `plan.json`; `frames/`, the square frames, the last tenth of each clip held out; `graph/` and
`network/`, the run folders of the two stages; `preview.png`, their latest picture; `held_out.json`; and
`model.safetensors`, for `autolink-transfer --model`.
"""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from threading import Event, Thread
from typing import Any, NamedTuple

from accelerate.utils import patch_environment

from autolink import train as graph_training
from autolink.configuration import options_of
from autolink.detector import DetectorName
from autolink.devices import computes_bfloat16, pick_device
from autolink.errors import UserError, command
from autolink.features import Features
from autolink.outputs import read_json, replacing, write_json
from autolink.progress import Bar, Progress, is_read_by_a_program, showing
from autolink.ranges import Checked, Positive
from autolink.runs import claim, claimed, difference, identity
from autolink.tracking.windows import Fit
from autolink.training import CHECKPOINT, RunOptions, logger, step_times, watching
from autolink.weights import read_header, resolve
from autolink_apps.pose_transfer import train as network_training
from autolink_apps.pose_transfer.frames import held_out, keep_frames
from autolink_apps.pose_transfer.model import PoseTransfer

IMAGE_SIZE = 128
"""Side of the result in pixels."""
KEYPOINTS = 16
DETECTOR: DetectorName = "efficientnet-lite0"
"""On any device: it begins with features of ImageNet, and so little time is no time to find them anew."""
GRAPH_SIZES = {128: 1e-3, 64: 2.5e-3}
"""Image side at which the graph is learned → σ² there; the first for which there is time is taken."""
ENOUGH_STEPS = 2500
"""With fewer steps than this in the time there is, a smaller image teaches the graph more."""
WIDTH = 0.25
GRAPH_BATCH, NETWORK_BATCH = 16, 8
LEARNING_RATE = 4e-4
BEGINNING = "faces-transfer"
"""The shipped network that the new one begins as: moving and blending pixels is the same for any kind of object."""
VISIBLE_SHARE, CELLS = 0.4, 8
"""How much of another frame of the clip the decoder sees, in large patches: it should know the looks, and not the
pose."""
AGREEMENT_WEIGHT = 0.03
"""Three times as much, and one rigid pose fits both clips; without, the graph tells them apart."""
SHARES = {"graph": 0.35, "network": 0.55}
"""Of the minutes; what is left over goes into reading the clips, measuring speed, pictures and checkpoints."""
SPREAD_RATIO = 2.0
"""Poses that differ in size by more than this hardly do so for the way in which the clips are framed."""
PROBE_STEPS = 9
"""Steps by which the speed of a stage is measured."""

Train = Callable[[Any], Path]


@dataclass
class Options(Checked):
    """Learn keypoints, graph and transfer network from two clips of one kind of object."""

    src: Path
    """Video, or folder of frames, of who should move."""
    driver: Path
    """Video, or folder of frames, of whose motion it should be."""
    output: Path
    """Run folder; the model in it is what `autolink-transfer --model` takes."""
    minutes: Positive = 20.0
    """How long to learn."""
    perceptual: Features = "builtin"
    """Features of both losses: squeezenet, vgg16 (ten times the work), builtin (shipped) or pyramid (weaker)."""
    fit: Fit = "crop"
    """How frames become square. crop: their middle. pad: all of them, for tall or wide clips; to be repeated when the
    model is used."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1` …"""
    resume: bool = False
    """Go on with the plan in the run folder."""
    progress: Progress = "auto"
    """auto: a bar where somebody sees it, on a terminal. json: an object a line on stderr, for a program. off: none."""


class Stage(NamedTuple):
    """What is decided about a stage before it begins."""

    image_size: int
    width: float
    batch_size: int
    steps: int
    every: int
    """Steps between pictures, and between checkpoints: about a minute."""


@dataclass
class Plan(Checked):
    """What a run folder is about; a stage is None until its turn comes."""

    src: str
    driver: str
    minutes: Positive
    perceptual: Features
    fit: Fit
    graph: Stage | None = None
    network: Stage | None = None
    identity: dict[str, str] = field(default_factory=dict)
    """Of both clips, in words that change when they do."""

    def save(self, output: Path) -> None:
        """Write `plan.json`."""
        stages = {name: stage and stage._asdict() for name, stage in (("graph", self.graph), ("network", self.network))}
        write_json(output / "plan.json", {**asdict(self), **stages})


def learn(
    src: Path,
    driver: Path,
    minutes: float,
    output: Path,
    *,
    device: str = "auto",
    resume: bool = False,
    perceptual: Features = "builtin",
    fit: Fit = "crop",
) -> Path:
    """Learn from two clips, and return the file of the model (`model.safetensors` in the run folder).

    Args:
        src: Video, or folder of frames, of who should move.
        driver: The same of whose motion it should be; another individual of the same kind, framed alike.
        minutes: How long to learn.
        output: Run folder.
        device: `auto`, `cpu`, `cuda`, `cuda:1` …
        resume: Go on with the plan in the run folder.
        perceptual: Features of both losses.
        fit: How frames become square.

    Raises:
        UserError: If a clip cannot be used, the run folder holds something else, or features have no weights here.
    """
    precision = "bf16" if computes_bfloat16(pick_device(device)) else "no"
    clips = {"src": src.resolve(), "driver": driver.resolve()}
    about = {name: identity(clip) for name, clip in clips.items()}
    asked = Plan(str(clips["src"]), str(clips["driver"]), minutes, perceptual, fit, identity=about)
    plan = _take_up(asked, output) if resume else None
    result, frames = output / "model.safetensors", output / "frames"
    if plan is not None and result.is_file():
        _say_how_good(read_header(result)["metadata"]["held_out"])
        return result
    shared: dict[str, Any] = dict(
        data=str(frames.resolve()), perceptual=perceptual, mixed_precision=precision, learning_rate=LEARNING_RATE
    )
    with _one_bar() as bar:
        plan = plan or _begin(asked, output)
        with claimed(output), _computing_on(device), _preview(output):
            if plan.graph is None:
                plan.graph = _plan_graph(shared, 60 * minutes * SHARES["graph"], output)
                plan.save(output)
            graph = _run("graph", graph_training.train, _graph_options(shared, plan.graph, output), output, bar)
            if plan.network is None:
                stage = Stage(IMAGE_SIZE, WIDTH, NETWORK_BATCH, PROBE_STEPS, PROBE_STEPS)
                options = _network_options(shared, stage, graph, output)
                plan.network = _timed(stage, network_training.train, options, 60 * minutes * SHARES["network"])
                plan.save(output)
            options = _network_options(shared, plan.network, graph, output)
            network = _run("network", network_training.train, options, output, bar)
    model = PoseTransfer.from_pretrained(network, pick_device(device))
    numbers = held_out(model, frames)
    write_json(output / "held_out.json", numbers)
    _say_how_good(numbers)
    _compare_spreads(*(numbers[clip]["keypoint_spread"] for clip in ("src", "driver")))
    learned: dict[str, Any] = {
        "learned_from": {"src": src.name, "driver": driver.name, "minutes": minutes},
        "held_out": numbers,
        "usual_confidence": min(numbers[clip]["confidence"] for clip in ("src", "driver")),
    }
    return model.save_pretrained(result, {**model.metadata, **learned})


def _begin(plan: Plan, output: Path) -> Plan:
    """Keep the clips' frames in the run folder, and then the plan."""
    if plan.src == plan.driver:
        raise UserError(f"{plan.src} is source and driver; learning takes two clips of one kind of object")
    if (output / "plan.json").is_file():
        raise UserError(f"{output} already holds something learned; add --resume to go on, or name another folder")
    claim(output)
    keep_frames(Path(plan.src), Path(plan.driver), output / "frames", IMAGE_SIZE, plan.fit)
    plan.save(output)
    return plan


def _take_up(asked: Plan, output: Path) -> Plan:
    """The plan in the run folder, which must be what is asked for."""
    path = output / "plan.json"
    if not path.is_file():
        raise UserError(f"--resume: there is no plan.json in {output}; leave --resume out to begin")
    kept = read_json(path)
    try:
        plan = Plan(**kept | {name: kept[name] and Stage(**kept[name]) for name in ("graph", "network")})
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: damaged ({error}); name another --output to begin anew") from error
    settings = [
        {name: getattr(x, name) for name in ("src", "driver", "minutes", "perceptual", "fit")} for x in (plan, asked)
    ]
    other = difference(*settings) or (plan.identity and difference(plan.identity, asked.identity))
    if other:
        option, was, wanted = other
        raise UserError(f"{output} was begun with {option} {was}, not {wanted}; name another folder for that")
    return plan


def _graph_options(shared: dict[str, Any], stage: Stage, output: Path) -> graph_training.Options:
    return graph_training.Options(
        **shared,
        **_stage_options(stage),
        output=output / "graph",
        keypoints=KEYPOINTS,
        detector=DETECTOR,
        visible="clip",
        mask_ratio=1 - VISIBLE_SHARE,
        mask_cells=CELLS,
        agreement_weight=AGREEMENT_WEIGHT,
        thickness=GRAPH_SIZES.get(stage.image_size, max(GRAPH_SIZES.values())),
    )


def _network_options(shared: dict[str, Any], stage: Stage, graph: Path, output: Path) -> network_training.Options:
    options = network_training.Options(
        **shared,
        **_stage_options(stage),
        output=output / "network",
        autolink=str(graph),
        augment=False,
        gan_weight=0.0,  # with this little time, more steps are worth more than a discriminator
    )
    shipped = read_header(resolve(BEGINNING))["config"]
    fits = all(shipped[name] == getattr(options, name) for name in ("image_size", "width", "appearance"))
    return replace(options, start_from=BEGINNING) if fits else options


def _stage_options(stage: Stage) -> dict[str, Any]:
    size = dict(image_size=stage.image_size, width=stage.width, batch_size=stage.batch_size)
    return dict(**size, steps=stage.steps, sample_every=stage.every, save_every=stage.every)


def _plan_graph(shared: dict[str, Any], seconds: float, output: Path) -> Stage:
    """The graph's stage at the largest image for which there is time, or else at the smallest."""
    for size in GRAPH_SIZES:
        stage = Stage(size, WIDTH, GRAPH_BATCH, PROBE_STEPS, PROBE_STEPS)
        stage = _timed(stage, graph_training.train, _graph_options(shared, stage, output), seconds)
        if stage.steps >= ENOUGH_STEPS:
            break
    return stage


def _timed(stage: Stage, train: Train, options: RunOptions, seconds: float) -> Stage:
    """The stage with as many steps as fit into some seconds here, by the clock in a short run.

    Args:
        stage: One of `PROBE_STEPS`.
        train: The training command.
        options: The stage's.
        seconds: How long it may take.
    """
    Bar.write(f"measuring how long a step takes at {stage.image_size}x{stage.image_size}")
    scratch = options.output.with_name("speed")
    shutil.rmtree(scratch, ignore_errors=True)  # of a trial that was interrupted
    with step_times() as times:
        train(replace(options, output=scratch))
    shutil.rmtree(scratch)
    step = statistics.median(after - before for before, after in pairwise(times))
    return stage._replace(steps=max(1, round(seconds / step)), every=max(1, round(60 / step)))


def _run(name: str, train: Train, options: RunOptions, output: Path, bar: Bar) -> Path:
    """A stage, or what is left of it, which fills its share of the bar; the file of its model."""
    model, end = options.output / "model.safetensors", bar.n + SHARES[name]
    if not model.is_file() or read_header(model)["metadata"].get("steps") != options.steps:
        size = options.image_size
        Bar.write(f"{name}: {options.steps} steps at {size}x{size}; see {output / 'preview.png'}")
        bar.set_description(f"learning, {name}")
        with watching(lambda _: bar.update(SHARES[name] / options.steps)):
            train(replace(options, resume=(options.output / CHECKPOINT).is_file()))
    bar.update(end - bar.n)  # also for steps that were done before
    return model


@contextmanager
def _one_bar() -> Iterator[Bar]:
    """A bar over all that is done, in place of those of the stages; a program reads the stages' own."""
    program = is_read_by_a_program()
    layout = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
    bar = Bar(desc="learning", total=1.0, bar_format=layout, hidden=program)
    with bar, showing("auto" if program else "off"):
        yield bar
        bar.update(1 - bar.n)


def _say_how_good(numbers: dict[str, dict[str, float]]) -> None:
    """What the held-out frames of both clips say of the model, beside what needs none; a warning where it is worse."""
    for clip, found in numbers.items():
        made, copied, nearest = (found[name] for name in ("l1", "l1_of_copying", "l1_of_nearest"))
        print(
            f"{clip}: on frames it has not seen the model is off by {made:.2%} of the range; "
            f"its first frame left as it is by {copied:.2%}, the nearest frame of the clip by {nearest:.2%}"
        )
        if made >= copied:
            logger.warning(
                "on the %s the model is no better than the first frame left as it is (%.4f against %.4f), so expect "
                "little of it; take more minutes, or clips that show more of the movement",
                *(clip, made, copied),
            )


def _compare_spreads(src: float, driver: float) -> None:
    """Warn if keypoints lie in a knot on one clip and all over the object on the other."""
    if max(src, driver) > SPREAD_RATIO * min(src, driver):
        logger.warning(
            "the source's keypoints are spread by %.2f and the driver's by %.2f (half the image's side is 1), so they "
            "hardly mean the same on both; take more minutes, or clips that show the object alike",
            src,
            driver,
        )


def _computing_on(device: str) -> AbstractContextManager[None]:
    """Training runs in this block compute on the device; Accelerate reads which one from the environment."""
    if device == "auto":
        return nullcontext()
    name, value = ("ACCELERATE_USE_CPU", "true") if device == "cpu" else ("ACCELERATE_TORCH_DEVICE", device)
    return patch_environment(**{name: value})


@contextmanager
def _preview(output: Path) -> Iterator[None]:
    """While the block runs, `preview.png` is the latest picture of the two stages."""
    ended = Event()

    def follow() -> None:
        shown = 0.0
        while True:
            last_look = ended.wait(1)
            pictures = [*output.glob("graph/samples/*.png"), *output.glob("network/samples/*.png")]
            newest = max(pictures, key=lambda path: path.stat().st_mtime, default=None)
            if newest is not None and newest.stat().st_mtime > shown:
                shown = newest.stat().st_mtime
                with suppress(UserError), replacing(output / "preview.png") as part:  # the stage itself will tell
                    shutil.copyfile(newest, part)
            if last_look:
                return

    follower = Thread(target=follow, daemon=True)
    follower.start()
    try:
        yield
    finally:
        ended.set()
        follower.join()


@command
def main() -> None:
    """Entry point of `autolink transfer learn`."""
    options = options_of(Options, __doc__)
    with showing(options.progress):
        print(learn(**{name: value for name, value in vars(options).items() if name != "progress"}))


if __name__ == "__main__":
    main()
