"""The `autolink` command: one sub-command a module, loaded only when it is called."""

from __future__ import annotations

import importlib
import json
import sys

from autolink.errors import UserError, command

COMMANDS = {
    "train": ("autolink.train", "learn keypoints and their graph from a folder of images"),
    "detect": ("autolink.predictor", "find keypoints in images and videos: csv, npz and overlays"),
    "evaluate": ("autolink.evaluate", "error of keypoints against human landmarks, as JSON"),
    "export": ("autolink.export", "write a model as ONNX"),
    "info": ("", "what a model file says of itself, as JSON: autolink info M"),
    "data": ("", "the data sets known by name, and which are on this machine"),
}


def main() -> None:
    """Entry point of `autolink`."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print("usage: autolink COMMAND [--help] ...\n\ncommands:")
        for known, (_, purpose) in COMMANDS.items():
            print(f"  {known:10}{purpose}")
        return
    arguments = sys.argv[2:]
    if name in ("info", "data"):
        (info if name == "info" else data)(arguments)
    elif name in COMMANDS:
        sys.argv = [f"autolink {name}", *arguments]
        importlib.import_module(COMMANDS[name][0]).main()
    else:
        unknown(name)


@command
def info(arguments: list[str]) -> None:
    """Print task, configuration and metadata of a model."""
    from autolink.weights import read_header, resolve

    if len(arguments) != 1 or arguments[0].startswith("-"):
        raise UserError("usage: autolink info M, where M is a shipped name, a file, a folder or a hub id")
    path = resolve(arguments[0])
    size = round(path.stat().st_size / 1e6, 2)
    print(json.dumps({"file": str(path), "megabytes": size, **read_header(path)}, indent=2))


@command
def data(arguments: list[str]) -> None:
    """Print the data sets known by name."""
    from autolink.data import list_data

    if arguments:
        raise UserError("usage: autolink data (it takes no arguments; set AUTOLINK_DATA to the folder of data sets)")
    for line in list_data():
        print(line)


@command
def unknown(name: str) -> None:
    """Refuse a sub-command that does not exist."""
    raise UserError(f"'{name}' is not a command of autolink; it has {', '.join(COMMANDS)}")
