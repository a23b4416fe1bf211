"""A trained GAN on the Hugging Face hub: `model.safetensors` and a card that is written from its run."""

from __future__ import annotations

import tempfile
from pathlib import Path

from huggingface_hub import HfApi, ModelCard, ModelCardData, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from autolink.errors import UserError
from autolink_apps.gan.generator import ConditionalGAN

CARD = """
# {name}

A conditional GAN of [AutoLink](https://arxiv.org/abs/2205.10636) that takes the pose of an image from a skeleton of
{keypoints} keypoints and its appearance from noise: {size}×{size} pixels, width {width:g}, trained on `{data}` for
{images:,} images.

```
autolink-sample --model {repository} --output samples
```

```python
import torch
from autolink_apps.gan import ConditionalGAN

gan = ConditionalGAN.from_pretrained("{repository}")
images = gan.sample(gan.poses, torch.randn(len(gan.poses), 256), truncation=0.7)  # (P, 3, {size}, {size}) in [0, 1]
```

{measured}"""


def reserve(repository: str) -> None:
    """Make sure, before a run, that its model can be pushed at the end.

    Raises:
        UserError: If there is no token, or the hub does not take it for this repository.
    """
    if get_token() is None:
        raise UserError(f"--push-to-hub {repository}: no token; run `hf auth login` or set HF_TOKEN")
    try:
        HfApi().create_repo(repository, exist_ok=True)
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise UserError(f"--push-to-hub {repository}: the hub cannot be used for it: {error}") from error


def push(repository: str, model: Path, measured: dict[str, float]) -> None:
    """Upload a model and its card.

    Args:
        repository: The id, `user/name`.
        model: The file of the trained model.
        measured: What was last measured, for the card.

    Raises:
        UserError: If the upload fails; the model is still in the run folder.
    """
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "model.safetensors").symlink_to(model.resolve())
        card(repository, model, measured).save(Path(folder) / "README.md")
        try:
            HfApi().upload_folder(repo_id=repository, folder_path=folder, commit_message="Trained model")
        except (HfHubHTTPError, OSError) as error:
            raise UserError(
                f"{model} could not be pushed ({error}); try `hf upload {repository} {model} model.safetensors`"
            ) from error


def card(repository: str, model: Path, measured: dict[str, float]) -> ModelCard:
    """The card of a model file, from its own header and what was last measured."""
    gan = ConditionalGAN.from_pretrained(model)
    about, config = gan.metadata, gan.config
    rows = "".join(f"| {name} | {value:.4g} |\n" for name, value in measured.items())
    header = ModelCardData(library_name="autolink", pipeline_tag="image-to-image", tags=["gan", "keypoints"])
    body = CARD.format(
        name=repository.split("/")[-1],
        repository=repository,
        keypoints=config.autolink.keypoints,
        size=config.image_size,
        width=config.width,
        data=about["data"],
        images=about["steps"] * about["options"]["batch_size"],
        measured=f"| measured | |\n|---|---|\n{rows}" if rows else "",
    )
    return ModelCard(f"---\n{header.to_yaml()}\n---\n{body}")
