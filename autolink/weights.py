"""Files that describe themselves: every model is one `.safetensors` with its configuration in the header.

A model's *source* is, in this order, a file, a folder with one `.safetensors`, a name in `pretrained/`, or the id of
a repository on the Hugging Face hub.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from autolink.errors import UserError
from autolink.outputs import replacing, unwritten
from autolink.ranges import check_fields

FORMAT = "autolink/1"
HUB_TIMEOUT = 5
"""Seconds in which the hub must answer, else only models that were fetched before are looked for."""
Model = TypeVar("Model", bound="PretrainedModel")


class PretrainedModel(nn.Module):
    """A module that is rebuilt from a dataclass: subclasses set `task` and `Config`, and build from `config` alone."""

    task: ClassVar[str]
    Config: ClassVar[type]

    def __init__(self, config: Any) -> None:
        super().__init__()
        check_fields(config)
        self.config = config
        self.metadata: dict[str, Any] = {}

    def save_pretrained(self, path: str | Path, metadata: Mapping[str, Any] | None = None, half: bool = False) -> Path:
        """Write the weights with configuration, task and metadata into one file, atomically.

        Args:
            path: A file name ending in `.safetensors`, or a folder, in which `model.safetensors` is written.
            metadata: Anything JSON can hold about how the weights came to be; the model's own metadata if None.
            half: Store floating-point weights as float16, half the size.

        Returns:
            The file written.
        """
        path = Path(path)
        if path.suffix != ".safetensors":
            path = path / "model.safetensors"
        metadata = self.metadata if metadata is None else dict(metadata)
        write_model(path, self.state_dict(), self.task, asdict(self.config), metadata, half)
        return path

    @classmethod
    def from_pretrained(cls: type[Model], source: str | Path, device: torch.device | str = "cpu") -> Model:
        """Build the model a file describes and load its weights, as float32 and in eval mode.

        Args:
            source: A shipped name, a file, a folder, or a hub id.
            device: Where the model goes.

        Raises:
            UserError: If there is no such model, the file is damaged, or holds a model for another task.
        """
        path = resolve(source)
        header = read_header(path)
        if header["task"] != cls.task:
            raise UserError(f"{path} holds a model for '{header['task']}', but one for '{cls.task}' is needed here")
        tensors = read_tensors(path)
        try:
            with without_memory():  # a size that the weights do not have asks for none
                model = cls(cls.Config(**header["config"]))
            kinds = {name: value.dtype for name, value in model.state_dict().items()}
            tensors = {name: value.to(kinds.get(name, value.dtype)) for name, value in tensors.items()}
            model.load_state_dict(tensors, strict=True, assign=True)
        except (UserError, TypeError, RuntimeError) as error:
            first = "; ".join(line.strip() for line in str(error).splitlines()[:2])
            raise UserError(f"{path} does not fit this version of autolink: {first}") from error
        model.metadata = header["metadata"]
        return model.to(device).eval()


@contextmanager
def without_memory() -> Iterator[None]:
    """Networks that are made in this block have shapes and no values: they cost neither memory nor time."""
    with torch.device("meta"), _Undrawn():
        yield


class _Undrawn(TorchFunctionMode):
    """Leave out what draws normal numbers: where there is no memory for them, torch first loads its compiler for it."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the function, unless it draws."""
        return args[0] if function is Tensor.normal_ else function(*args, **(kwargs or {}))


def write_model(
    path: Path, state: Mapping[str, Tensor], task: str, config: dict[str, Any], metadata: dict[str, Any], half: bool
) -> None:
    """Write a model file: weights, and a header that says how to build the model and how it came to be."""
    tensors = {
        name: (value.half() if half and value.is_floating_point() else value).contiguous()
        for name, value in state.items()
    }
    header = {"format": FORMAT, "task": task, "config": json.dumps(config), "metadata": json.dumps(metadata)}
    write_safetensors(path, tensors, header)


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    """Write tensors and a header of texts, see `replacing`."""
    with replacing(path) as part:
        try:
            save_file({name: value.detach().cpu() for name, value in tensors.items()}, part, metadata=dict(header))
        except SafetensorError as error:  # of a full disk, too
            raise unwritten(path, _system_error(error)) from error


def _system_error(error: SafetensorError) -> OSError | str:
    """What the system said when safetensors could not write; it passes on the words and the number alone."""
    number = re.search(r"os error (\d+)", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else str(error)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a `.safetensors` file, on the CPU; float16 comes back as float32.

    Raises:
        UserError: If the file is not a whole one, or holds what is not a finite number.
    """
    with _open(path) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    tensors = {name: t.float() if t.dtype == torch.float16 else t for name, t in tensors.items()}
    for name, tensor in tensors.items():
        if not is_finite(tensor):
            raise UserError(
                f"{path}: {name} is not a finite number everywhere, as if a run diverged that wrote it; make the file "
                "anew, or get another copy"
            )
    return tensors


def is_finite(tensor: Tensor) -> bool:
    """Whether all values are finite numbers, told from the extremes: twenty times as fast as looking at each."""
    return not tensor.is_floating_point() or not tensor.numel() or all(x.isfinite() for x in tensor.aminmax())


def read_metadata(path: Path) -> dict[str, str]:
    """The header of a `.safetensors` file.

    Raises:
        UserError: If there is no such file, or it is not whole.
    """
    with _open(path) as file:
        return file.metadata() or {}


def read_header(path: str | Path) -> dict[str, Any]:
    """What a model file says of itself: `task`, `config` and `metadata`.

    Raises:
        UserError: If the file is not a whole `.safetensors` file, or not one written by this project.
    """
    header = read_metadata(Path(path))
    if header.get("format") != FORMAT:
        raise UserError(
            f"{path} was not written by autolink (no '{FORMAT}' in its header), so what it holds is unknown"
        )
    if "task" not in header:
        raise UserError(f"{path} does not say in its header which task it is for; download or copy it again")
    return {"task": header["task"], **{part: header_part(path, header, part) for part in ("config", "metadata")}}


def header_part(path: str | Path, header: Mapping[str, str], part: str) -> dict[str, Any]:
    """The dictionary that a part of a file's header holds as JSON.

    Raises:
        UserError: If it holds none.
    """
    try:
        value = json.loads(header[part])
    except (KeyError, ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise UserError(f"{path} has no {part} in its header that can be read; download or copy it again")
    return value


def _open(path: Path) -> Any:
    if not path.is_file():
        raise UserError(f"no such file: {path}")
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a readable .safetensors file ({error}); download or copy it again") from error


def pretrained_folder() -> Path:
    """The folder of shipped weights, in the installed package or in the checkout."""
    return Path(str(resources.files("autolink.pretrained")))


def manifest() -> dict[str, dict[str, Any]]:
    """What is shipped: name → file, sha256, task and how it was made."""
    return json.loads((pretrained_folder() / "manifest.json").read_text())


def shipped_file(name: str) -> Path:
    """The file of a shipped model, whatever lies under that name in the working directory.

    Raises:
        UserError: If it is missing, or its checksum is wrong.
    """
    shipped = manifest()[name]
    path = pretrained_folder() / shipped["file"]
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != shipped["sha256"]:
        raise UserError(f"{path} is missing or not the file that was shipped (sha256 differs); install autolink again")
    return path


def resolve(source: str | Path) -> Path:
    """The file that a model's source names.

    Raises:
        UserError: If nothing is found, or a shipped file's checksum is wrong.
    """
    path = Path(source)
    if path.is_file():
        return path
    if path.is_dir():
        return _only_model(path)
    if str(source) in manifest():
        return shipped_file(str(source))
    if _looks_like_hub_id(str(source)):
        return _from_hub(str(source))
    beside = path.parent.iterdir() if path.parent.is_dir() else ()
    models = [str(file) for file in beside if file.is_dir() or file.suffix == ".safetensors"]
    similar = get_close_matches(str(source), [*manifest(), *models], 1)
    raise UserError(
        f"no model '{source}': it is neither a file, nor a folder, nor a shipped name ({', '.join(manifest())})"
        + (f"; did you mean '{similar[0]}'?" if similar else "")
    )


def own_file(source: str | Path | None) -> Path | None:
    """The file of a model that is the user's own, which no output may replace; of a shipped one, none that exists."""
    if source is None:
        return None
    return _only_model(Path(source)) if Path(source).is_dir() else Path(source)


def _only_model(folder: Path) -> Path:
    files = sorted(folder.glob("*.safetensors"))
    preferred = folder / "model.safetensors"
    if preferred in files or len(files) == 1:
        return preferred if preferred in files else files[0]
    raise UserError(f"{folder} holds {len(files)} .safetensors files; name the file, or call it model.safetensors")


def _looks_like_hub_id(source: str) -> bool:
    if source.count("/") != 1 or source.startswith((".", "/", "~")) or source.endswith(".safetensors"):
        return False
    return not Path(source).parent.exists()  # else it is a mistyped path


def _from_hub(repository: str) -> Path:
    from huggingface_hub import constants, hf_hub_download, utils

    before, reason = constants.HF_HUB_OFFLINE, ""
    try:
        utils.get_session().head(constants.ENDPOINT, timeout=HUB_TIMEOUT)  # type: ignore[attr-defined]
    except Exception as error:  # of another library in each version of huggingface_hub
        constants.HF_HUB_OFFLINE, reason = True, _first_line(error)  # else the download would ask for half a minute
    try:
        return Path(hf_hub_download(repository, "model.safetensors"))
    except Exception as error:
        raise UserError(
            f"no model '{repository}': not on this machine, and the hub has no model.safetensors for it or "
            f"cannot be reached ({reason or _first_line(error)}); shipped names are {', '.join(manifest())}"
        ) from error
    finally:
        constants.HF_HUB_OFFLINE = before


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
