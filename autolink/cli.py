"""One tree of commands, `autolink WORD...`: each a module with a `main`, loaded only when it is called.

`autolink-sample` is `autolink gan`, whose `sample` need not be said, and `autolink-transfer` is `autolink transfer`.
"""

from __future__ import annotations

import importlib
import sys

from autolink.errors import UserError, command

COMMANDS = {
    "train": ("autolink.train", "learn keypoints and their graph from a folder of images"),
    "detect": ("autolink.commands.detect", "find keypoints in images and videos: tables, arrays and overlays"),
    "evaluate": ("autolink.commands.evaluate", "error of keypoints against human landmarks, as JSON"),
    "calibrate": ("autolink.commands.calibrate", "learn named landmarks from a few labelled images, for detect"),
    "edit": ("autolink.commands.edit", "move keypoints of an image and reconstruct it"),
    "figures": ("autolink.commands.figures", "the paper's figures for a model: edges, samples, clusters, curves"),
    "sweep": ("autolink.commands.sweep", "train and compare variants: the ablations of Tables 4 to 6"),
    "reproduce": ("autolink.commands.reproduce", "the tables of the paper: commands, data, hours; or run them"),
    "export": ("autolink.commands.export", "write a model as ONNX"),
    "convert": ("autolink.commands.convert", "read a checkpoint of the official AutoLink code"),
    "push": ("autolink.hub", "put a model on the Hugging Face hub, with a card"),
    "info": ("autolink.commands.info", "what a model file says of itself, as JSON"),
    "data": ("autolink.commands.data", "the data sets known by name, and which are on this machine"),
    "serve": ("autolink_apps.page.serve", "a page in the browser: drag keypoints and watch what the models paint"),
    "gan sample": ("autolink_apps.gan.sample", "images from a GAN: every pose with every appearance"),
    "gan interpolate": ("autolink_apps.gan.animate", "a video in which pose or appearance changes"),
    "gan mix": ("autolink_apps.gan.mix", "coarse layers from one appearance, fine ones from another"),
    "gan project": ("autolink_apps.gan.project", "find the appearance of a real image and give it another pose"),
    "gan neighbours": ("autolink_apps.gan.neighbours", "samples beside the closest training images"),
    "gan export": ("autolink_apps.gan.export", "write a generator as ONNX"),
    "gan train": ("autolink_apps.gan.train", "train a GAN whose images take the pose that is asked for"),
    "gan evaluate": ("autolink_apps.gan.evaluate", "how far a GAN's images are from real ones and from their poses"),
    "gan curve": ("autolink_apps.gan.curve", "what was measured while GANs trained, as a figure"),
    "transfer": ("autolink_apps.pose_transfer.transfer", "make a source image or video move as a driver video does"),
    "transfer train": ("autolink_apps.pose_transfer.train", "train pose transfer on clips"),
    "transfer adapt": ("autolink_apps.pose_transfer.adapt", "fine-tune a transfer model on one source video"),
    "transfer learn": ("autolink_apps.pose_transfer.learn", "learn keypoints and transfer from two clips alone"),
    "transfer evaluate": ("autolink_apps.pose_transfer.evaluate", "a transfer model's errors beside simple baselines"),
    "transfer export": ("autolink_apps.pose_transfer.export", "write a transfer model as ONNX"),
}
"""Words of each command: its module, and what it is for."""


@command
def main() -> None:
    """Entry point of `autolink`."""
    _run("autolink", sys.argv[1:])


@command
def sample() -> None:
    """Entry point of `autolink-sample`."""
    words = sys.argv[1:]
    if words[:1] == ["grid"]:  # what it was called once
        words = words[1:]
    _run("autolink-sample", words, "gan", usual="sample")


@command
def transfer() -> None:
    """Entry point of `autolink-transfer`."""
    _run("autolink-transfer", sys.argv[1:], "transfer")


def _run(called: str, words: list[str], name: str = "", usual: str | None = None) -> None:
    """Call a command with the words that are not of its name, or say which there are.

    Args:
        called: What the user has called so far, for messages.
        words: Given after that.
        name: What that is in the tree.
        usual: The command of the branch `name` that is called where no word names one.
    """
    branch = f"{name} " if name else ""
    below = dict.fromkeys(known.removeprefix(branch).split()[0] for known in COMMANDS if known.startswith(branch))
    if words and words[0] in below:
        _run(f"{called} {words[0]}", words[1:], f"{branch}{words[0]}")
    elif name in COMMANDS or (usual and (not words or words[0].startswith("-"))):
        sys.argv = [called, *words]
        importlib.import_module(COMMANDS[name if name in COMMANDS else f"{branch}{usual}"][0]).main()
    elif words and words[0] not in ("-h", "--help"):
        raise UserError(f"'{words[0]}' is not a command of {called}; it has {', '.join(below)}")
    else:
        print(f"usage: {called} COMMAND [--help] ...\n       autolink --version\n\ncommands:")
        for known, (_, purpose) in COMMANDS.items():
            if known.startswith(branch):
                print(f"  {known.removeprefix(branch):19}{purpose}")
