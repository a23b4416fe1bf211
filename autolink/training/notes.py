"""What a run began with: written into its folder, and compared when it goes on."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from autolink.data.registry import find_data
from autolink.data.shards import is_pattern, shard_files
from autolink.data.splits import split_folder
from autolink.errors import UserError
from autolink.outputs import read_json
from autolink.runs import difference, identity, identity_of_files, is_of_times, weights_identity
from autolink.training.options import CONFIG, DATA_OPTIONS, MAY_CHANGE, MODEL_OPTIONS, RunOptions, as_json


def note_of(options: RunOptions) -> dict[str, Any]:
    """What a run begins with: its options, and in `identity` what those that name data or models lead to.

    What `--start-from` led to at the beginning is all in the checkpoint of a run that goes on: it may have changed
    since, or be gone.

    Raises:
        UserError: If one leads to nothing.
    """
    note, file = as_json(options), options.output / CONFIG
    before = _read_note(file) if options.resume and file.is_file() else {"identity": {}}
    found: dict[str, Any] = {}
    for name in DATA_OPTIONS:
        if note.get(name) is not None:
            found[name] = ", ".join(_data_identity(data, options) for data in data_names(note[name]))
    for name in MODEL_OPTIONS:
        if name == "start_from" and note.get(name) == before.get(name):
            found |= {key: word for key, word in before["identity"].items() if key == name}
        elif note.get(name) is not None:
            found[name] = weights_identity(options.model_source(name))
    return {**note, "identity": found}


def data_names(data: str | Sequence[str]) -> Sequence[str]:
    """The data sets of an option that names one or several."""
    return [data] if isinstance(data, str) else data


def _data_identity(data: str, options: RunOptions) -> str:
    if data == "synthetic":
        return data
    if is_pattern(data):
        shards = shard_files(data)
        folder = shards[0].parent if shards else Path()
        return identity_of_files(shards, folder, Path(data).name if shards else data)
    path = find_data(data, options.data_root)
    return identity(path if path.is_file() else split_folder(path, "train") or path, Path(os.path.abspath(path)).name)


def begun(file: Path) -> dict[str, Any]:
    """What a run, or several, began with, as `note_of` was written into a file: options, or what they lead to.

    Raises:
        UserError: If it is missing or damaged.
    """
    if not file.is_file():
        raise UserError(f"{file} is missing, so what was begun there is unknown; put it back, or begin anew elsewhere")
    note = _read_note(file)
    return {**note, **note["identity"]}


def _read_note(file: Path) -> dict[str, Any]:
    """A note as it was written; of data without the folders that they were in, nor the times of their files."""
    note = read_json(file)
    known = note.get("identity")
    known = {name: str(word) for name, word in known.items()} if isinstance(known, dict) else {}
    for name in DATA_OPTIONS:
        word = known.pop(name, None)
        if word is not None and not is_of_times(word):
            known[name] = word if "://" in word else re.sub(r"(^|, )[^,]*/", r"\1", word)
    return {**note, "identity": known}


def require_same(options: RunOptions, note: Mapping[str, Any], may_change: Collection[str] = MAY_CHANGE.keys()) -> None:
    """Find that the run in a run folder was begun with the same options.

    Args:
        options: The run's options.
        note: `note_of` them.
        may_change: Options that need not be the same.

    Raises:
        UserError: If one differs, with its name.
    """
    other = changed(begun(options.output / CONFIG), options, note, may_change)
    if other is not None:
        option, was, now = other
        raise UserError(
            f"{options.output} was begun with other options: {option} {now}, but the run began with {was}; repeat its "
            "command with --resume, or start a new run with another --output"
        )


def changed(
    before: Mapping[str, Any],
    options: RunOptions,
    note: Mapping[str, Any],
    may_change: Collection[str] = MAY_CHANGE.keys(),
) -> tuple[str, Any, Any] | None:
    """The first option in which a run differs from one begun before, with what it was and what it is.

    Args:
        before: `begun` of the other.
        options: The run's options.
        note: `note_of` them.
        may_change: Options that need not be the same.
    """
    known = [field for field in dataclasses.fields(options) if field.default is not dataclasses.MISSING]
    defaults = json.loads(json.dumps({field.name: field.default for field in known}, default=str))  # of newer options
    was = {**defaults, **before}
    known = before.get("identity", {})  # what older runs did not note of data and models is compared as it was typed
    led = {name: word for name, word in note["identity"].items() if name in known or before.get(name) is None}
    now = {**note, **led}
    return difference(was, {name: value for name, value in now.items() if name not in {"identity", *may_change}})
