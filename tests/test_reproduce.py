"""`autolink reproduce`: commands that exist, of all lines of a table, and an estimate that adds up."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import tyro

from autolink import train
from autolink.commands import reproduce, sweep
from autolink.data.benchmarks import BENCHMARKS


@pytest.mark.parametrize("table", [*reproduce.TABLES, *reproduce.SWEEPS])
def test_commands_of_a_table_are_commands(table: str, tmp_path: Path) -> None:
    """Each is parsed by the command that it calls; no two write to one place."""
    commands = reproduce.commands_for(reproduce.Options(table, tmp_path, seeds=2))
    outputs = []
    for words, done in commands:
        kind = {"train": train.Options, "sweep": sweep.Options}.get(words[1])
        if kind is not None:
            options = tyro.cli(kind, args=words[2:])
            assert (options.steps, options.batch_size, options.image_size, options.width) == (20_000, 64, 128, 1)
            assert options.perceptual == "vgg16" and options.data in BENCHMARKS
            outputs.append(options.output)
            assert done in (Path(), options.output / "model.safetensors")
    assert len(set(outputs)) == len(outputs)
    if table in reproduce.TABLES:
        assert len(outputs) == 2 * len(reproduce.TABLES[table])


@pytest.mark.parametrize(("table", "name"), [(table, name) for table, (name, _) in reproduce.SWEEPS.items()])
def test_the_number_of_variants_is_the_sweeps(table: str, name: str) -> None:
    count = 1
    for axis in sweep.SWEEPS[name]:
        count *= len(axis.variants)
    assert reproduce.SWEEPS[table][1] == count


def test_the_estimate_adds_up(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(reproduce, "speed", lambda: 1e12)
    monkeypatch.setattr(sys, "argv", ["reproduce", "2", "--dry-run", "--seeds", "1"])
    reproduce.main()
    printed = capsys.readouterr().out
    assert "3 trainings" in printed and "this machine: 244 hours" in printed  # 3 x 1.28e6 x 229e9 / 1e12 / 3600
    assert all(row.data in printed for row in reproduce.TABLES["2"]) and BENCHMARKS["taichi"].source in printed
    assert reproduce.hours(1, 125e12 * reproduce.SHARE_OF_PEAK["cuda"]) == pytest.approx(3, abs=0.1)
