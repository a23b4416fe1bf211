"""The figures of docs/scale.md that can be computed, and the launch files that it names."""

import re
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from torch import nn

from autolink.adversarial import Discriminator
from autolink.model import AutoLink, AutoLinkConfig
from autolink_apps.gan.generator import ConditionalGAN, ConditionalGANConfig
from autolink_apps.pose_transfer.model import TransferNet

DOCS = Path(__file__).parent.parent / "docs"
PLAN = (DOCS / "scale.md").read_text()


def learned(*modules: nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters() if p.requires_grad)


def row(start: str) -> list[str]:
    (line,) = re.findall(rf"^\| {re.escape(start)}.*$", PLAN, re.MULTILINE)
    return [cell.strip() for cell in line.strip("|").split("|")]


def megabytes(cell: str) -> float:
    return float(cell.removesuffix(" MB")) * 1e6


def test_parameters_and_bytes_are_those_of_the_networks():
    autolink = AutoLink(AutoLinkConfig(keypoints=16))
    gan = ConditionalGAN(ConditionalGANConfig(128, 1.0, 1, autolink.config)).generator
    counted = {
        "learner": (autolink.detector, autolink.decoder, autolink.graph),
        "GAN": (gan, Discriminator(128, 1.0, 4, minibatch_std=True)),
        "pose transfer: ": (TransferNet(128), Discriminator(128, 1.0)),
    }
    for name, modules in counted.items():
        what, total, gradients, *sent = row(name)
        assert [int(n.replace(",", "")) for n in re.findall(r"\d[\d,]*\d", what)] == [learned(m) for m in modules]
        assert int(total.replace(",", "")) == learned(*modules)
        assert megabytes(gradients) == pytest.approx(4 * learned(*modules), abs=0.5e6)
        for cell, n in zip(sent, (8, 64)):
            assert megabytes(cell) == pytest.approx(2 * (n - 1) / n * 4 * learned(*modules), abs=0.5e6)
    normalised = [layer.num_features for layer in autolink.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert f"its {len(normalised)} layers" in PLAN and f"{sum(normalised):,} channels" in PLAN


def test_times_are_bytes_over_bandwidth():
    sizes = [27_284_620, 16_389_188, 42_115_881]
    for line in re.findall(r"^\| (?:one host|8 hosts),.*$", PLAN, re.MULTILINE):
        link, bandwidth, *times = [cell.strip() for cell in line.strip("|").split("|")]
        n = 8 if link.startswith("one host") else 64
        for cell, parameters in zip(times, sizes, strict=True):
            exact = 2 * (n - 1) / n * 4 * parameters / float(bandwidth.removesuffix(" GB/s")) / 1e6  # ms
            shown = cell.removesuffix(" ms")
            assert float(shown) == pytest.approx(exact, rel=0, abs=0.051 if "." in shown else 0.51)


@pytest.mark.parametrize(("file", "hosts"), [("one-host.yaml", 1), ("eight-hosts.yaml", 8)])
def test_launch_files_are_understood(file, hosts):
    config = load_config_from_file(str(DOCS / "launch" / file))
    assert (config.num_machines, config.num_processes) == (hosts, 8 * hosts)
    assert config.distributed_type == "MULTI_GPU" and f"launch/{file}" in PLAN
