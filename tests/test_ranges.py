"""Every number that a command takes has a range, and what is outside it is refused in one line, by all entrances."""

import ast
import dataclasses
import importlib
import inspect
import math
import pkgutil
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pytest
import tyro

import autolink
import autolink_apps
from autolink import AutoLinkConfig
from autolink.errors import UserError
from autolink.ranges import Checked, Count, DoubledSide, Number, Positive, Range, Share, Side, check_fields
from autolink.train import Options as TrainOptions
from autolink.train import train
from autolink.training import RunOptions, due
from autolink.weights import PretrainedModel


def modules():
    for package in (autolink, autolink_apps):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if "pretrained" not in found.name:
                yield importlib.import_module(found.name)


def what_commands_take() -> list[type]:
    """What is handed to `tyro.cli` or `options_of`, in all modules: dataclasses and functions."""
    taken = []
    for module in modules():
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("tyro.cli", "options_of"):
                name = ast.unparse(node.args[0])
                taken += [getattr(module, name)] if name != "kind" else []  # `options_of` itself hands it on
    return taken


def ranges_of(kind) -> tuple[list[tuple[type, Range]], list[type]]:
    """The ranges in an annotation, and the numbers in it that have none."""
    if kind in (int, float):
        return [], [kind]
    parts = typing.get_args(kind)
    known = [part for part in parts if isinstance(part, Range)]
    if known:
        return [(parts[0], known[0])], []
    if typing.get_origin(kind) is Literal:
        return [], []
    inner = [ranges_of(part) for part in parts]
    return [one for found, _ in inner for one in found], [one for _, bare in inner for one in bare]


def all_options() -> list[type]:
    list(modules())
    classes, seen = [Checked], []
    while classes:
        known = [c for c in classes.pop().__subclasses__() if c.__module__.startswith("autolink")]
        classes, seen = classes + known, seen + known
    return [c for c in seen if dataclasses.is_dataclass(c)]


def test_every_number_that_a_command_takes_says_its_range():
    taken = what_commands_take()
    assert len(taken) >= 24
    without, numbers = [], 0
    for what in [*taken, *all_options()]:
        hints = typing.get_type_hints(what, include_extras=True)
        hints.pop("return", None)
        for name, kind in hints.items():
            found, bare = ranges_of(kind)
            numbers += len(found)
            if bare:
                without.append(f"{what.__module__}.{what.__name__}.{name}")
    assert not without and numbers > 100
    functions = {what.__name__ for what in taken if not (isinstance(what, type) and issubclass(what, Checked))}
    assert functions == {"adapt"}  # whose numbers go into a `Run`, which is checked


def beyond(kind: type, known: Range) -> list:
    """Values that a range leaves out: below, above, between, of another kind, and no numbers at all."""
    values = [math.nan, math.inf, -math.inf, "3", None, True]
    values += [known.least - 1] if known.least > -math.inf else []
    values += [known.most + 1] if known.most < math.inf else []
    values += [known.least] if known.above else []
    values += [17] if known.of else []
    return values + ([known.least + 0.5] if kind is int else [])


def may_be_left_open(kind) -> bool:
    return kind is type(None) or any(may_be_left_open(part) for part in typing.get_args(kind))


def needed(options: type) -> dict:
    """Something for each field that has no default."""
    hints = typing.get_type_hints(options, include_extras=True)
    given = {}
    for field in dataclasses.fields(options):
        if field.default is field.default_factory is dataclasses.MISSING:
            kind = hints[field.name]
            words = [part for part in (kind, *typing.get_args(kind)) if typing.get_origin(part) is Literal]
            given[field.name] = (
                typing.get_args(words[0])[0] if words else 1 if ranges_of(kind)[0] else "x" if kind is str else ("x",)
            )
    return given


@pytest.mark.parametrize("options", all_options(), ids=lambda c: f"{c.__module__}.{c.__name__}")
def test_what_is_out_of_range_is_refused_in_one_line_from_python_too(options):
    for name, kind in typing.get_type_hints(options, include_extras=True).items():
        for number, known in ranges_of(kind)[0]:
            for value in beyond(number, known):
                if value is None and may_be_left_open(kind):
                    continue
                with pytest.raises(UserError, match=f"^--{name.replace('_', '-')} .*: give ") as refused:
                    options(**needed(options) | {name: value})
                assert "\n" not in str(refused.value) and known.describe(number) in str(refused.value)


@pytest.mark.parametrize(
    ("kind", "fits", "message"),
    [
        (Count, [1, 10**9], "a whole number from 1 on"),
        (Side, [16, 128, 4096], "a multiple of 16 from 16 to 4,096"),
        (DoubledSide, [16, 256], "a power of two from 16 to 4,096"),
        (Share, [0, 0.5, 1], "a number from 0 to 1"),
        (Positive, [1e-300, 3], "a number above 0"),
        (Number, [-2, 0.7], "a finite number"),
        (Annotated[float, Range(0, 100, above=True)], [100], "a number above 0, 100 at most"),
    ],
)
def test_a_range_says_what_to_give(kind, fits, message):
    number, known = typing.get_args(kind)
    assert known.describe(number) == message
    assert all(value in known for value in fits)


def test_an_option_cannot_be_changed_to_nonsense_either():
    options = RunOptions("synthetic", Path("x"), batch_size=64)
    with pytest.raises(UserError, match=r"^--batch-size 0: give a whole number from 1 on$"):
        options.batch_size = 0
    assert options.batch_size == 64
    with pytest.raises(UserError, match="--mixed-precision 'fp8': give one of auto, no, bf16, fp16"):
        options.mixed_precision = "fp8"
    with pytest.raises(UserError, match="--resume 'no': give true or false"):
        train(TrainOptions("synthetic", resume="no"))


def test_a_command_that_parses_what_is_out_of_range_fails_with_one_line(monkeypatch, capsys):
    from autolink.train import main

    for option, value in (("--learning-rate", "nan"), ("--image-size", "-64"), ("--seed", "-1"), ("--thickness", "0")):
        monkeypatch.setattr("sys.argv", ["autolink train", "--data", "synthetic", option, value])
        with pytest.raises(SystemExit) as stopped:
            main()
        error = capsys.readouterr().err
        assert (
            stopped.value.code == 2 and error.startswith(f"error: {option} {value}: give a ") and error.count("\n") == 1
        )


def test_nested_optional_and_listed_fields_are_looked_into():
    @dataclass
    class Inner:
        size: Count = 1

    @dataclass
    class Outer:
        inner: Inner
        sizes: tuple[Count, ...] = ()
        share: Share | None = None

    globals().update(Inner=Inner)  # where the names of annotations are looked up
    check_fields(Outer(Inner()))
    for wrong, message in (
        (Outer("no"), "inner 'no': give a Inner"),
        (Outer(Inner(), (1, 0)), "sizes \\(1, 0\\): give a whole number from 1 on"),
        (Outer(Inner(), 3), "sizes 3: give a list"),
        (Outer(Inner(), share=2), "share 2: give a number from 0 to 1$"),
    ):
        with pytest.raises(UserError, match=message):
            check_fields(wrong)


def test_the_configuration_of_every_model_is_held_to_its_ranges():
    list(modules())
    for model in PretrainedModel.__subclasses__():
        if model.__module__.startswith("autolink"):
            assert not [
                name
                for name, kind in typing.get_type_hints(model.Config, include_extras=True).items()
                if ranges_of(kind)[1]
            ]
    with pytest.raises(UserError, match="keypoints -3: give a whole number from 2 to 1,024"):
        autolink.AutoLink(AutoLinkConfig(keypoints=-3))


def test_zero_steps_between_is_never():
    assert [step for step in range(1, 7) if due(step, 2)] == [2, 4, 6]
    assert not any(due(step, 0) for step in range(7))


def test_commands_still_parse_and_show_their_numbers(capsys):
    parsed = tyro.cli(TrainOptions, args=["--data", "x", "--keypoints", "5", "--thickness", "0.001", "--steps", "3"])
    assert (parsed.keypoints, parsed.thickness, parsed.steps, parsed.loss_size) == (5, 0.001, 3, None)
    with pytest.raises(SystemExit):
        tyro.cli(TrainOptions, args=["--help"])
    shown = capsys.readouterr().out
    assert "--seed INT" in shown and "--keypoints {None}|INT" in shown
