"""The `autolink` command: one sub-command a module, loaded only when it is called."""

from __future__ import annotations

import importlib
import json
import sys

from autolink.errors import UserError, command

COMMANDS = {
    "train": ("autolink.train", "learn keypoints and their graph from a folder of images"),
    "detect": ("autolink.commands.detect", "find keypoints in images and videos: tables, arrays and overlays"),
    "calibrate": ("autolink.commands.calibrate", "learn named landmarks from a few labelled images, for detect"),
    "edit": ("autolink.commands.edit", "move keypoints of an image and reconstruct it"),
    "evaluate": ("autolink.commands.evaluate", "error of keypoints against human landmarks, as JSON"),
    "figures": (
        "autolink.commands.figures",
        "the paper's figures for a model: edge weights, samples, clusters, curves",
    ),
    "sweep": ("autolink.commands.sweep", "train and compare variants: the ablations of Tables 4 to 6"),
    "reproduce": ("autolink.commands.reproduce", "the tables of the paper: commands, data, hours; or run them"),
    "export": ("autolink.commands.export", "write a model as ONNX"),
    "convert": ("autolink.commands.convert", "read a checkpoint of the official AutoLink code"),
    "serve": ("autolink_apps.page.serve", "a page in the browser: drag keypoints and watch what the models paint"),
    "push": ("autolink.hub", "put a model on the Hugging Face hub, with a card"),
    "info": ("", "what a model file says of itself, as JSON: autolink info M"),
    "data": ("", "the data sets known by name, and which are on this machine; with a name, more about it"),
}


@command
def main() -> None:
    """Entry point of `autolink`."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print("usage: autolink COMMAND [--help] ...\n       autolink --version\n\ncommands:")
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
        raise UserError(f"'{name}' is not a command of autolink; it has {', '.join(COMMANDS)}")


def info(arguments: list[str]) -> None:
    """Print task, configuration and metadata of a model, and of an AutoLink how much of its graph hangs together."""
    from autolink.graph import connectedness
    from autolink.model import AutoLink, load
    from autolink.weights import read_header, resolve

    usage = "usage: autolink info M, where M is a shipped name, a file, a folder or a hub id"
    if arguments in (["-h"], ["--help"]):
        print(usage)
        return
    if len(arguments) != 1 or arguments[0].startswith("-"):
        raise UserError(usage)
    path = resolve(arguments[0])
    size = round(path.stat().st_size / 1e6, 2)
    header = read_header(path)
    if header["task"] == AutoLink.task:
        header["connected_percent"] = round(connectedness(load(path).graph.matrix()) * 100, 1)
    print(json.dumps({"file": str(path), "megabytes": size, **header}, indent=2))


def data(arguments: list[str]) -> None:
    """Print the data sets known by name, or all that is known of one."""
    from autolink.data import describe_data, list_data

    usage = "usage: autolink data [NAME] (the folder of data sets is told by the variable AUTOLINK_DATA)"
    if arguments in (["-h"], ["--help"]):
        print(usage)
        return
    if len(arguments) > 1 or (arguments and arguments[0].startswith("-")):
        raise UserError(usage)
    for line in describe_data(arguments[0]) if arguments else list_data():
        print(line)
