"""Official checkpoints: a file in their layout, against a second computation of what their code does with it.

The second computation reads the official names and works in the official frame, (y, x) with −1 and +1 at the centres
of outer pixels; it shares no code with the package.
"""

from __future__ import annotations

import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import autolink
from autolink import cli
from autolink.commands.convert import convert
from autolink.errors import UserError
from autolink.masking import patch_mask
from autolink.model import AutoLink
from autolink.train import Options, _begin

KEYPOINTS, THICK, SKLR = 5, 2.5e-3, 512
C = [8, 16, 32, 64]  # an eighth of the official channels


def official_state() -> dict[str, Tensor]:
    """Random weights under the official names; batch statistics and biases are far from their defaults."""
    state: dict[str, Tensor] = {}

    def conv(name: str, inputs: int, outputs: int) -> None:
        state[f"{name}.weight"] = torch.randn(outputs, inputs, 3, 3) * (2 / (9 * inputs)) ** 0.5
        state[f"{name}.bias"] = torch.randn(outputs) * 0.3

    def norm(name: str, channels: int) -> None:
        state[f"{name}.weight"] = torch.rand(channels) + 0.5
        state[f"{name}.bias"] = torch.randn(channels) * 0.2
        state[f"{name}.running_mean"] = torch.randn(channels) * 0.3
        state[f"{name}.running_var"] = torch.rand(channels) + 0.5
        state[f"{name}.num_batches_tracked"] = torch.tensor(20001)

    detector = "encoder.detector.conv"
    for i, (a, b) in enumerate(zip([3, *C], C)):
        for name, inputs, at, behind in (("conv_res", a, 0, 2), ("net", a, 0, 2), ("net", b, 4, 5)):
            conv(f"{detector}.{i}.{name}.{at}", inputs, b)
            norm(f"{detector}.{i}.{name}.{behind}", b)
    for i, (a, b) in ((4, (C[3], C[2])), (5, (C[2], C[1]))):
        conv(f"{detector}.{i}.net.1", a, b)
        norm(f"{detector}.{i}.net.2", b)
    conv(f"{detector}.6", C[1], KEYPOINTS)
    state[f"{detector}.6.weight"] *= 20  # peaked heatmaps
    line = torch.linspace(-1, 1, 32)
    state["encoder.detector.coord"] = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1).view(1, 1, 1024, 2)
    state["decoder.alpha"] = torch.tensor(0.7)
    state["decoder.skeleton_scalar"] = (torch.randn(KEYPOINTS, KEYPOINTS) * 2 - 1) / SKLR
    conv("decoder.down0.0", 4, C[0])
    for i, (a, b) in enumerate([(C[0], C[1]), (C[1], C[2]), (C[2], C[3]), (C[3], C[3])], 1):
        for at, inputs in ((0, a), (3, b)):
            conv(f"decoder.down{i}.net.{at}", inputs, b)
            norm(f"decoder.down{i}.net.{at + 1}", b)
    for i, (a, b) in enumerate([(C[3], C[3]), (2 * C[3], C[2]), (2 * C[2], C[1]), (2 * C[1], C[0])], 1):
        for at, inputs in ((1, a), (4, b)):
            conv(f"decoder.up{i}.net.{at}", inputs, b)
            norm(f"decoder.up{i}.net.{at + 1}", b)
    conv("decoder.conv", 2 * C[0], 3)
    state["vgg_loss.blocks.0.0.weight"] = torch.randn(4, 3, 3, 3)
    return state


class Official:
    """What the official networks compute with a state, in eval mode."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        self.state = state

    def conv(self, x: Tensor, name: str) -> Tensor:
        return functional.conv2d(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"], padding=1)

    def norm(self, x: Tensor, name: str) -> Tensor:
        s = self.state
        scale = s[f"{name}.weight"] / (s[f"{name}.running_var"] + 1e-5).sqrt()
        return (x - s[f"{name}.running_mean"][:, None, None]) * scale[:, None, None] + s[f"{name}.bias"][:, None, None]

    @staticmethod
    def scale(x: Tensor, factor: float) -> Tensor:
        return functional.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)

    @staticmethod
    def relu(x: Tensor) -> Tensor:
        return torch.where(x > 0, x, 0.2 * x)

    def keypoints(self, x: Tensor) -> Tensor:
        """(B, K, 2), (y, x)."""
        root = "encoder.detector.conv"
        for i in range(4):
            beside = self.norm(self.scale(self.conv(x, f"{root}.{i}.conv_res.0"), 0.5), f"{root}.{i}.conv_res.2")
            x = self.relu(self.norm(self.scale(self.conv(x, f"{root}.{i}.net.0"), 0.5), f"{root}.{i}.net.2"))
            x = self.relu(self.norm(self.conv(x, f"{root}.{i}.net.4"), f"{root}.{i}.net.5") + beside)
        for i in (4, 5):
            x = self.relu(self.norm(self.conv(self.scale(x, 2), f"{root}.{i}.net.1"), f"{root}.{i}.net.2"))
        share = self.conv(x, f"{root}.6").flatten(2).softmax(2)[..., None]
        return (share * self.state["encoder.detector.coord"]).sum(2)

    def edge_map(self, keypoints: Tensor, size: int = 128) -> Tensor:
        """(B, 1, size, size): a maximum over edges, drawn one by one."""
        line = torch.linspace(-1, 1, size)
        grid = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1)
        edges = []
        for i in range(KEYPOINTS):
            for j in range(i + 1, KEYPOINTS):
                start, end = keypoints[:, i, None, None], keypoints[:, j, None, None]
                along = end - start
                t = ((grid - start) * along).sum(-1, keepdim=True) / (1e-8 + along.square().sum(-1, keepdim=True))
                distance = (grid - start - t.clamp(0, 1) * along).square().sum(-1)
                weight = torch.log1p(torch.exp(SKLR * self.state["decoder.skeleton_scalar"][i, j]))
                edges.append(weight * torch.exp(-distance / THICK))
        return torch.stack(edges).amax(0)[:, None]

    def reconstruct(self, images: Tensor, mask: Tensor) -> Tensor:
        seen = images * mask * self.state["decoder.alpha"]
        x = self.relu(self.conv(torch.cat([seen, self.edge_map(self.keypoints(images))], 1), "decoder.down0.0"))
        passed = [x]
        for i in range(1, 5):
            x = self.relu(self.norm(self.conv(x, f"decoder.down{i}.net.0"), f"decoder.down{i}.net.1"))
            x = self.norm(self.conv(x, f"decoder.down{i}.net.3"), f"decoder.down{i}.net.4")
            passed.append(x := self.relu(self.scale(x, 0.5)))
        for i in range(1, 5):
            x = self.relu(self.norm(self.conv(self.scale(x, 2), f"decoder.up{i}.net.1"), f"decoder.up{i}.net.2"))
            x = self.relu(self.norm(self.conv(x, f"decoder.up{i}.net.4"), f"decoder.up{i}.net.5"))
            x = torch.cat([x, passed[4 - i]], 1)
        return self.conv(x, "decoder.conv")


def checkpoint(state: dict[str, Tensor], **options: object) -> dict[str, object]:
    """What Lightning 1.5 writes."""
    defaults = {"n_parts": KEYPOINTS, "thick": THICK, "sklr": SKLR, "image_size": 128, "missing": 0.8, "block": 16}
    optimizer = {"state": {0: {"step": 5, "exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-4, "params": [0]}]}
    return {
        "epoch": 3,
        "global_step": 20001,
        "pytorch-lightning_version": "1.5.10",
        "state_dict": state,
        "callbacks": {"ModelCheckpoint{'monitor': 'val_loss'}": {"best_model_score": torch.tensor(-1.0)}},
        "optimizer_states": [optimizer],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": defaults | options,
    }


@pytest.fixture
def state() -> dict[str, Tensor]:
    return official_state()


@pytest.fixture
def converted(state: dict[str, Tensor], tmp_path: Path) -> AutoLink:
    torch.save(checkpoint(state), tmp_path / "model.ckpt")
    convert(tmp_path / "model.ckpt", tmp_path / "model.safetensors")
    return autolink.load(tmp_path / "model.safetensors")


@torch.no_grad()
def test_keypoints_and_edge_map_are_those_of_the_official_code(state: dict[str, Tensor], converted: AutoLink) -> None:
    images = functional.interpolate(torch.rand(2, 3, 9, 9), size=(128, 128), mode="bicubic") * 2 - 1
    theirs = Official(state).keypoints(images)
    assert theirs.std() > 0.02
    ours = converted.locate(images).xy
    # Their keypoint p is drawn at pixel 127 (p + 1) / 2, whose centre is half a pixel further on in our frame.
    torch.testing.assert_close(ours, ((theirs.flip(-1) + 1) / 2 * 127 + 0.5) / 128 * 2 - 1, atol=1e-5, rtol=0)
    torch.testing.assert_close(converted.edge_map(ours, 128), Official(state).edge_map(theirs), atol=1e-4, rtol=1e-3)
    assert converted.metadata["steps"] == 20001 and converted.metadata["options"]["missing"] == 0.8


@torch.no_grad()
def test_reconstructions_are_those_of_the_official_code(state: dict[str, Tensor], converted: AutoLink) -> None:
    images = functional.interpolate(torch.rand(2, 3, 9, 9), size=(128, 128), mode="bicubic") * 2 - 1
    mask = patch_mask(2, 128, ratio=0.5)
    expected = Official(state).reconstruct(images, mask)
    torch.testing.assert_close(converted(images, mask).images, expected, atol=1e-3 * expected.abs().max(), rtol=0)


def test_a_converted_model_can_be_trained_on(converted: AutoLink) -> None:
    known = converted.config
    same = Options("x", keypoints=5, thickness=1e-3, image_size=128, width=known.width, detector="paper", official=True)
    model = AutoLink(same.model_config)
    _begin(model, converted, "m")
    assert torch.equal(model.edge_weights, converted.edge_weights)
    with pytest.raises(UserError, match=r"m: it has 5 keypoints, .*--official; train with the same options"):
        _begin(AutoLink(replace(known, official=False)), converted, "m")


def test_only_the_strict_upper_triangle_counts(state: dict[str, Tensor], converted: AutoLink) -> None:
    scalars = state["decoder.skeleton_scalar"]
    expected = [functional.softplus(scalars[i, j] * SKLR) for i in range(KEYPOINTS) for j in range(i + 1, KEYPOINTS)]
    torch.testing.assert_close(converted.edge_weights.detach(), torch.stack(expected))


def test_the_command(
    state: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(checkpoint(state, sklr=256), tmp_path / "model.ckpt")
    output = tmp_path / "new" / "model.safetensors"
    monkeypatch.setattr(sys, "argv", ["autolink", "convert", str(tmp_path / "model.ckpt"), "--output", str(output)])
    cli.main()
    assert "5 keypoints" in capsys.readouterr().out
    weights = autolink.load(output).edge_weights
    torch.testing.assert_close(weights[0], functional.softplus(state["decoder.skeleton_scalar"][0, 1] * 256))


class Hidden:
    """Something that a checkpoint must not bring to life."""


def test_unfit_files_get_one_line(state: dict[str, Tensor], tmp_path: Path) -> None:
    def refused(content: object, output: str = "model.safetensors") -> str:
        path = tmp_path / "x.ckpt"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            torch.save(content, path)
        with pytest.raises(UserError) as error:
            convert(path, tmp_path / output)
        return str(error.value)

    whole = checkpoint(state)
    assert "not loaded for safety" in refused(whole | {"extra": Hidden()})
    assert "no checkpoint of torch" in refused(b"")
    assert "no checkpoint of torch" in refused(b"hello there, I am a text file")
    torch.save(whole, tmp_path / "good.ckpt")
    assert "cut off" in refused((tmp_path / "good.ckpt").read_bytes()[:5000])
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme.txt", "no weights here")
    assert "no checkpoint of torch" in refused((tmp_path / "other.zip").read_bytes())
    assert "has no state_dict" in refused({"weights": 1})
    assert "has no state_dict" in refused([1, 2])
    assert "has no thick" in refused(whole | {"hyper_parameters": {"sklr": 512, "image_size": 128}})
    assert "decoder.up3.net.1.weight" in refused(checkpoint({k: v for k, v in state.items() if "up3.net.1" not in k}))
    assert "decoder.extra.weight" in refused(checkpoint(state | {"decoder.extra.weight": torch.zeros(1)}))
    assert "size mismatch" in refused(checkpoint(state | {"decoder.conv.weight": torch.zeros(3, 5, 3, 3)}))
    assert "256²" in refused(checkpoint(state, image_size=256))
    assert ".safetensors" in refused(whole, output="model.pt")
    (tmp_path / "linked.safetensors").hardlink_to(tmp_path / "x.ckpt")
    assert "is an input and would be overwritten" in refused(whole, output="linked.safetensors")
    with pytest.raises(UserError, match="no such file"):
        convert(tmp_path / "nothing.ckpt", tmp_path / "m.safetensors")
