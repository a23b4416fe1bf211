"""What a training takes where nothing was given, on a GPU and without one, and what it says of how long that takes."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from autolink import UserError, features, losses, training
from autolink.learner import options as learner
from autolink.learner.options import with_recommendations
from autolink.train import autolink_for
from autolink.training import RunOptions, StepBar, decided, duration, forecast
from autolink_apps.gan import train as gan
from autolink_apps.pose_transfer import train as transfer

COMMANDS = (learner, gan, transfer)


@pytest.fixture(params=["GPU", "processor"])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    for module in (training, *COMMANDS):
        monkeypatch.setattr(module, "on_processor", lambda: request.param == "processor")
    for recipe in (module.ON_PROCESSOR for module in COMMANDS):
        monkeypatch.setitem(recipe, "perceptual", "squeezenet")
    return request.param


def resolve(module, options):
    return with_recommendations(options) if module is learner else module.with_defaults(options)


def test_the_paper_on_a_gpu_and_smaller_without(device):
    sizes = ("steps", "batch_size", "image_size", "width", "perceptual")
    expected = {
        "GPU": [
            (20_000, 64, 128, 1.0, "vgg16", 1e-4),
            (100_000, 32, 128, 1.0, "vgg16", 3e-4),
            (20_000, 64, 128, 1.0, "vgg16", 2e-4),
        ],
        "processor": [
            (3_000, 32, 128, 0.25, "squeezenet", 4e-4),
            (13_500, 16, 64, 0.25, "squeezenet", 3e-4),
            (3_000, 16, 64, 0.25, "squeezenet", 2e-4),
        ],
    }[device]
    for module, values in zip(COMMANDS, expected):
        options = resolve(module, module.Options("photos"))
        assert tuple(getattr(options, name) for name in (*sizes, "learning_rate")) == values
    thickness = {"GPU": {64: 5e-4, 128: 5e-4, 256: 5e-4}, "processor": {64: 2.5e-3, 128: 1e-3, 256: 1e-3}}[device]
    for side, value in thickness.items():
        assert with_recommendations(learner.Options("photos", image_size=side)).thickness == value
    assert with_recommendations(learner.Options("celeba-wild")).thickness == 2.5e-3  # the paper's for 8 keypoints


def test_what_is_given_wins(device):
    given = dict(steps=7, batch_size=6, image_size=32, width=0.5, perceptual="pyramid")
    for module in COMMANDS:
        options = resolve(module, module.Options("photos", **given))
        assert {name: getattr(options, name) for name in given} == given
    more = dict(learning_rate=1e-3, keypoints=5, thickness=1e-2, flip=True)
    options = with_recommendations(learner.Options("photos", **given, **more))
    assert {name: getattr(options, name) for name in more} == more
    assert with_recommendations(options) == options


def test_nothing_that_can_be_decided_is_left_open(device):
    for module in COMMANDS:
        options = resolve(module, module.Options("photos"))
        texts = {name: str(value) for name, value in vars(options).items()}
        assert "None" not in {texts[name] for name in (*module.ON_GPU, "learning_rate", "keypoints") if name in texts}
        assert module.ON_GPU.keys() == module.ON_PROCESSOR.keys()


def test_help_names_the_values(device):
    for module in COMMANDS:
        text = Path(module.__file__).read_text()
        for recipe in (module.ON_GPU, module.ON_PROCESSOR):
            for name in ("steps", "batch_size", "width"):
                documented = text.split(f"    {name}: ")[1].split('"""')[1]
                assert f"{recipe[name]:,g}" in documented or f"{recipe[name]:,}" in documented, (module, name)


def test_a_run_goes_on_with_what_it_began_with_on_whatever_machine(device, tmp_path):
    began = {
        "steps": 9,
        "batch_size": 3,
        "width": 0.5,
        "keypoints": 4,
        "thickness": 0.03,
        "flip": True,
        "image_size": 32,
    }
    (tmp_path / "config.json").write_text(json.dumps(began))
    options = with_recommendations(learner.Options("photos", tmp_path, resume=True, steps=12))
    assert {**began, "steps": 12} == {name: getattr(options, name) for name in began}
    anew = with_recommendations(learner.Options("photos", tmp_path))
    assert anew.keypoints == 10 and anew.width in (1.0, 0.25)


def test_a_model_to_begin_with_says_its_width_and_keypoints(device, tiny):
    options = with_recommendations(learner.Options("photos"), tiny.config)
    assert (options.width, options.keypoints, options.thickness) == (0.125, 4, 5e-3)
    begun = SimpleNamespace(config=SimpleNamespace(image_size=32, width=0.5))
    options = transfer.with_defaults(transfer.Options("photos"), begun)
    assert (options.image_size, options.width) == (32, 0.5)


def test_without_weights_and_network_a_processor_takes_the_shipped_features(monkeypatch):
    assert losses.light_features() in ("squeezenet", "builtin")

    def missing(*_):
        raise UserError("not on this machine")

    monkeypatch.setattr(features, "_load_features", missing)
    assert losses.light_features() == "builtin"


def test_one_line_says_what_was_decided(device, caplog):
    with caplog.at_level(logging.WARNING):
        gan.with_defaults(gan.Options("photos", width=0.5))
    line = (
        "used where nothing was given (no GPU: sizes for a processor): --steps 13500 --batch-size 16 --image-size 64 "
    )
    line += "--autolink-steps 3000 --perceptual squeezenet"
    said = [" ".join(sorted(message.split(" --"))) for message in caplog.messages]
    assert said == ([" ".join(sorted(line.split(" --")))] if device == "processor" else [])


def test_nothing_is_decided_or_looked_for_that_a_given_autolink_makes_needless(device, monkeypatch):
    def never():
        raise AssertionError("features were looked for")

    monkeypatch.setitem(gan.ON_PROCESSOR, "perceptual", never)
    options = gan.with_defaults(gan.Options("photos", autolink="faces"))
    assert options.perceptual is None and options.autolink_steps is None and options.width is not None


def test_an_application_says_what_it_trains_first(device, monkeypatch, caplog, tmp_path):
    trained = []
    monkeypatch.setattr("autolink.train.train", lambda options: trained.append(options))
    options = gan.with_defaults(gan.Options("photos", tmp_path))
    with caplog.at_level(logging.WARNING):
        autolink_for(None, options, perceptual=options.perceptual, steps=options.autolink_steps)
    plan = {"GPU": "20,000 steps of 64 images at 128², width 1, features vgg16"}
    plan["processor"] = "3,000 steps of 32 images at 64², width 0.25, features squeezenet"
    assert any(plan[device] in line and "--autolink-steps shorten" in line for line in caplog.messages)
    assert len(trained) == 1 and trained[0].steps == options.autolink_steps


class Clock:
    """A machine on which the first step takes a minute, and every other one so many seconds."""

    def __init__(self, seconds: float) -> None:
        self.now, self.seconds = 0.0, seconds

    def steps(self, bar: StepBar, count: int, log) -> list[int]:
        """Numbers of the steps after which something was said."""
        said = []
        for number in range(count):
            self.now += self.seconds if number else 60.0
            bar.update()
            if len(log.messages) > len(said):
                said.append(number + 1)
        bar.close()
        return said


@pytest.mark.parametrize(
    ("seconds", "total", "after", "text"),
    [
        (0.5, 1_000, [5], "995 steps of about 0.5 s: 8 minutes on this processor"),
        (4.1, 20_005, [4], "20,001 steps of about 4.1 s: 23 hours on this processor; --width 0.25, --image-size 64, "),
        (40, 20_000, [2], "19,998 steps of about 40 s: 9 days on this processor; "),
        (0.01, 1_000, [], None),
    ],
)
def test_a_few_steps_tell_how_long_all_will_take(seconds, total, after, text, monkeypatch, caplog):
    clock = Clock(seconds)
    monkeypatch.setattr(training.pace.time, "perf_counter", lambda: clock.now)
    accelerator = SimpleNamespace(is_main_process=True, num_processes=1, device=torch.device("cpu"))
    options = RunOptions("x", Path("x"), steps=total)
    with caplog.at_level(logging.WARNING):
        said = clock.steps(StepBar(accelerator, options, 0, "network"), 12, caplog)
    assert said == after and [message.startswith(f"network: {text}") for message in caplog.messages] == [True] * len(
        after
    )
    caplog.clear()
    others = SimpleNamespace(is_main_process=False, num_processes=2, device=torch.device("cpu"))
    assert clock.steps(StepBar(others, options, 0, "network"), 12, caplog) == []


def test_what_shortens_a_run_is_what_would():
    gpu = SimpleNamespace(num_processes=1, device=torch.device("cuda"))
    options = learner.Options("x", width=1.0, image_size=128, perceptual="vgg16", batch_size=64)
    shorter = (
        "--width 0.25, --image-size 64, --perceptual squeezenet, fewer --steps or a smaller --batch-size shorten it"
    )
    assert forecast(1000, 36, gpu, options) == f"1,000 steps of about 36 s: 10 hours on this GPU; {shorter}"
    small = replace(options, width=0.25, image_size=64, perceptual="builtin")
    two = SimpleNamespace(num_processes=2, device=torch.device("cpu"))
    assert forecast(1000, 36, two, small).endswith(
        "on these 2 processes; fewer --steps or a smaller --batch-size shorten it"
    )
    assert forecast(10, 36, gpu, options) == "10 steps of about 36 s: 6 minutes on this GPU"
    assert [duration(s) for s in (5, 119, 150, 7200, 200_000)] == [
        "5 seconds",
        "119 seconds",
        "2 minutes",
        "2 hours",
        "2 days",
    ]


def test_a_default_may_be_found_out_when_it_is_needed(tmp_path):
    options = learner.Options("x", tmp_path)
    assert decided(options, {"perceptual": lambda: "pyramid"}).perceptual == "pyramid"
    assert decided(replace(options, perceptual="builtin"), {"perceptual": pytest.fail}).perceptual == "builtin"
