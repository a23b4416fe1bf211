"""Models on the Hugging Face hub: `autolink push MODEL user/name`, or `--push-to-hub user/name` of a training.

A repository holds `model.safetensors` and a card that is written from the file's own header.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tyro
from huggingface_hub import HfApi, ModelCard, ModelCardData, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from autolink.errors import UserError, command
from autolink.ranges import Checked
from autolink.runs import LOG, read_log
from autolink.weights import read_header, resolve


class Kind(NamedTuple):
    """What the card of one kind of model says."""

    pipeline: str
    """What the hub calls what it does."""
    tags: list[str]
    about: str
    use: str
    """Commands."""
    code: str


KINDS = {
    "autolink": Kind(
        "keypoint-detection",
        ["keypoints", "self-supervised"],
        "Keypoints and the graph that links them, learned without labels by "
        "[AutoLink](https://arxiv.org/abs/2205.10636): {config[keypoints]} keypoints at "
        "{config[image_size]}×{config[image_size]} pixels, width {config[width]:g}",
        "autolink detect --model {repository} --output keypoints photo.jpg clip.mp4",
        """import autolink

model = autolink.load("{repository}")
found = model.detect(images)  # (B, 3, H, W) in [0, 1] or PIL images: .xy (B, K, 2), .confidence (B, K)""",
    ),
    "gan": Kind(
        "image-to-image",
        ["keypoints", "gan"],
        "A conditional GAN of [AutoLink](https://arxiv.org/abs/2205.10636) that takes the pose of an image from a "
        "skeleton of {config[autolink][keypoints]} keypoints and its appearance from noise: "
        "{config[image_size]}×{config[image_size]} pixels, width {config[width]:g}",
        "autolink-sample --model {repository} --output samples",
        """import torch
from autolink_apps.gan import ConditionalGAN

gan = ConditionalGAN.from_pretrained("{repository}")
images = gan.sample(gan.poses, torch.randn(len(gan.poses), 256), truncation=0.7)  # (P, 3, S, S) in [0, 1]""",
    ),
    "pose-transfer": Kind(
        "image-to-image",
        ["keypoints", "pose transfer", "image animation"],
        "A network that paints the object of a source image in the pose of another, by the keypoints of "
        "[AutoLink](https://arxiv.org/abs/2205.10636): {config[autolink][keypoints]} keypoints at "
        "{config[image_size]}×{config[image_size]} pixels, width {config[width]:g}, {config[appearance]} appearance",
        "autolink-transfer --model {repository} --src source.mp4 --driver actor.mp4 --output out.mp4",
        """from autolink_apps.pose_transfer import PoseTransfer

model = PoseTransfer.from_pretrained("{repository}")""",
    ),
    "features": Kind(
        "image-feature-extraction",
        ["perceptual loss"],
        "Small perceptual features that were taught by a larger network, for the reconstruction loss of "
        "[AutoLink](https://arxiv.org/abs/2205.10636)",
        "autolink info {repository}",
        """from autolink.features import BuiltinFeatures

features = BuiltinFeatures.from_pretrained("{repository}")  # (B, 3, S, S) in [-1, 1] to a list of maps""",
    ),
}
"""By the task in a file's header."""
CARD = """
# {name}

{about}{trained}.

```
{use}
```

```python
{code}
```

{measured}"""


@dataclass
class Options(Checked):
    """Put a model on the Hugging Face hub, with a card that is written from its file."""

    model: Annotated[str, tyro.conf.Positional]
    """A file, a run folder, or a shipped name."""
    repository: Annotated[str, tyro.conf.Positional]
    """`user/name`; it is made if it is not there."""


def reserve(repository: str, asked_by: str = "--push-to-hub") -> None:
    """Make sure, before a run, that its model can be pushed at the end.

    Args:
        repository: The id, `user/name`.
        asked_by: What a message about it begins with.

    Raises:
        UserError: If there is no token, or the hub does not take it for this repository.
    """
    if get_token() is None:
        raise UserError(f"{asked_by} {repository}: no token; run `hf auth login` or set HF_TOKEN")
    try:
        HfApi().create_repo(repository, exist_ok=True)
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise UserError(f"{asked_by} {repository}: the hub cannot be used for it: {error}") from error


def push(repository: str, model: Path, measured: Mapping[str, float] | None = None) -> None:
    """Upload a model and its card.

    Args:
        repository: The id, `user/name`.
        model: The file of the trained model.
        measured: What was last measured, for the card; default: what the log beside the file says of held-out data.

    Raises:
        UserError: If the upload fails, or the file is none of a model.
    """
    measured = _held_out(model.parent / LOG) if measured is None else measured
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "model.safetensors").symlink_to(model.resolve())
        card(repository, model, measured).save(Path(folder) / "README.md")
        try:
            HfApi().upload_folder(repo_id=repository, folder_path=folder, commit_message="Trained model")
        except (HfHubHTTPError, OSError) as error:
            raise UserError(
                f"{model} could not be pushed ({error}); try `hf upload {repository} {model} model.safetensors`"
            ) from error


def card(repository: str, model: Path, measured: Mapping[str, float]) -> ModelCard:
    """The card of a model file, from its own header and what was last measured.

    Raises:
        UserError: If it is of another kind than those of `KINDS`.
    """
    header = read_header(model)
    if header["task"] not in KINDS:
        raise UserError(f"{model}: is for '{header['task']}'; expected a model for {', '.join(KINDS)}")
    kind = KINDS[header["task"]]
    known = {"repository": repository, "config": header["config"]}
    rows = "".join(f"| {name} | {value:.4g} |\n" for name, value in measured.items())
    about = ModelCardData(library_name="autolink", pipeline_tag=kind.pipeline, tags=kind.tags)
    body = CARD.format(
        name=repository.split("/")[-1],
        about=kind.about.format(**known),
        trained=_trained(header["metadata"]),
        use=kind.use.format(**known),
        code=kind.code.format(**known),
        measured=f"| measured | |\n|---|---|\n{rows}" if rows else "",
    )
    return ModelCard(f"---\n{about.to_yaml()}\n---\n{body}")


def _held_out(log: Path) -> dict[str, float]:
    """The last of each number in a run's log that tells of held-out data."""
    lines = read_log(log) if log.is_file() else []
    return {name: value for line in lines for name, value in line.items() if name.startswith("held_out")}


def _trained(metadata: Mapping[str, Any]) -> str:
    """On what a model was trained, and for how long, as far as its file says."""
    data = metadata.get("data")
    on = f", trained on `{data if isinstance(data, str) else ', '.join(map(str, data))}`" if data else ""
    batch = (metadata.get("options") or {}).get("batch_size")
    if metadata.get("steps") is None or batch is None:
        return on
    return f"{on or ', trained'} for {metadata['steps'] * batch:,} images"


@command
def main() -> None:
    """Entry point of `autolink push`."""
    options = tyro.cli(Options, description=__doc__)
    path = resolve(options.model)
    card(options.repository, path, {})  # a file of another kind is named before anything is asked of the hub
    reserve(options.repository, "autolink push")
    push(options.repository, path)
    print(f"{path}: pushed to {options.repository}")
