"""Options of a training from a file: `--config FILE` beside whatever else is given, which comes first.

The file is YAML, TOML or JSON of options by name; a run's own `config.json` is one, too.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import types
import typing
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro

from autolink.errors import UserError
from autolink.ranges import Checked, check

Options = TypeVar("Options", bound=Checked)

OF_A_NOTE = "identity"
"""What only the note of a run has, beside its options."""
BESIDE = ("resume", "dry_run", "push_to_hub")
"""Options of a run that another one with the same options is not asked for."""
ABOUT = """

--config FILE takes options from a file: YAML, TOML or JSON, or a run's own config.json. What is given beside it comes
first; paths in it are as if they were typed."""


def options_of(kind: type[Options], description: str | None = None) -> Options:
    """The options of a command, from its arguments and, if they name one, a file.

    Args:
        kind: A dataclass of options.
        description: For `--help`.

    Raises:
        UserError: If the file cannot be used.
    """
    file, arguments = _split(sys.argv[1:])
    about = (description or kind.__doc__ or "").strip() + ABOUT
    if file is None:
        return tyro.cli(kind, description=about, args=arguments)
    default = _with_defaults(kind, read_options(kind, file))
    return tyro.cli(kind, description=about, args=arguments, default=default)


def read_options(kind: type[Checked], file: Path) -> dict[str, Any]:
    """Options by name, as their types want them, from a file.

    Raises:
        UserError: If it cannot be read, or holds what is no option or no value of one.
    """
    given = _parsed(file)
    if not isinstance(given, dict):
        raise UserError(f"--config {file}: holds no options by name; expected lines such as `steps: 1000`")
    if isinstance(given.get(OF_A_NOTE), dict):
        given = {name: value for name, value in given.items() if name not in (OF_A_NOTE, *BESIDE)}
    hints = typing.get_type_hints(kind, include_extras=True)
    known = {field.name: hints[field.name] for field in dataclasses.fields(typing.cast(Any, kind))}
    options: dict[str, Any] = {}
    for name, value in given.items():
        name = str(name).replace("-", "_")
        if name not in known:
            near = get_close_matches(name, known, 1)
            meant = f"; did you mean {near[0]}" if near else f"; it has {', '.join(known)}"
            raise UserError(f"--config {file}: '{name}' is no option of this command{meant}")
        options[name] = _typed(known[name], value)
        check(f"--config {file}: {name}", known[name], options[name])
    return options


def _split(arguments: list[str]) -> tuple[Path | None, list[str]]:
    """The file that arguments name, and the others."""
    file, others, rest = None, [], iter(arguments)
    for argument in rest:
        if argument == "--config" or argument.startswith("--config="):
            name = argument.partition("=")[2] or next(rest, "")
            if file is not None or not name:
                raise UserError("--config: expected one file")
            file = Path(name)
        else:
            others.append(argument)
    return file, others


def _parsed(file: Path) -> Any:
    """What a file holds.

    Raises:
        UserError: If it cannot be read.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
        if file.suffix == ".json":
            return json.loads(text)
        if file.suffix == ".toml":
            if sys.version_info >= (3, 11):
                import tomllib
            else:
                import tomli as tomllib
            return tomllib.loads(text)
        if file.suffix in (".yaml", ".yml"):
            import yaml

            return yaml.load(text, yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader)
    except OSError as error:
        raise UserError(f"--config {file}: {error.strerror}") from error
    except Exception as error:  # of three parsers
        raise UserError(f"--config {file}: cannot be read as {file.suffix[1:]}: {error}") from error
    raise UserError(f"--config {file}: expected a file name ending in .yaml, .yml, .toml or .json")


def _typed(kind: Any, value: Any) -> Any:
    """A value of a file as the type of an option wants it; whether it is in its range is asked elsewhere."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        return _typed(parts[0], value)
    if origin in (typing.Union, types.UnionType):
        wanted = [part for part in parts if part is not types.NoneType]
        return value if value is None or len(wanted) != 1 else _typed(wanted[0], value)
    if origin is tuple and isinstance(value, list):
        return tuple(_typed(parts[0], one) for one in value)
    if kind is Path and isinstance(value, str):
        return Path(value)
    if kind is float and isinstance(value, str):  # YAML reads 1e-4 as text
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _with_defaults(kind: type[Options], given: dict[str, Any]) -> Options:
    """Options with those that are given, the others by default, and what has none to be given as an argument."""
    options = object.__new__(kind)
    for field in dataclasses.fields(typing.cast(Any, kind)):
        value = given.get(field.name, field.default)
        if value is dataclasses.MISSING:
            made: Any = field.default_factory
            value = tyro.MISSING if made is dataclasses.MISSING else made()
        object.__setattr__(options, field.name, value)
    return options
