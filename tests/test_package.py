"""What a user installs: a wheel that brings `autolink` and `autolink_apps`, the shipped weights, and nothing else."""

import ast
import dataclasses
import importlib
import json
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

from autolink.train import Options

ROOT = Path(__file__).parent.parent


def test_wheel_holds_two_packages_and_the_weights(tmp_path):
    source = tmp_path / "source"
    for folder in ("autolink", "apps", "pretrained"):
        shutil.copytree(ROOT / folder, source / folder)
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"autolink", "autolink_apps"}
    assert {f"autolink_apps/page/assets/{file.name}" for file in (ROOT / "apps/page/assets").iterdir()} <= set(names)
    for top, package in [("autolink", "autolink"), ("apps", "autolink_apps")]:  # every room of them, named or new
        for file in [*(ROOT / top).rglob("*.py"), ROOT / top / "py.typed"]:
            assert f"{package}/{file.relative_to(ROOT / top).as_posix()}" in names
    shipped = json.loads((ROOT / "pretrained" / "manifest.json").read_text())
    for entry in shipped.values():
        assert f"autolink/pretrained/{entry['file']}" in names


def imports(path: Path) -> set[str]:
    """Modules that a file imports, in full."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module or "")
    return found


def test_rooms_import_only_rooms_below_them():
    core = {name for path in (ROOT / "autolink").rglob("*.py") for name in imports(path)}
    assert not [name for name in core if name.startswith(("apps", "autolink_apps"))]
    for app, other in [("gan", "pose_transfer"), ("pose_transfer", "gan")]:
        used = {name for path in (ROOT / "apps" / app).rglob("*.py") for name in imports(path)}
        assert not [name for name in used if other in name]
        used |= core
        assert not [name for name in used if name.startswith("autolink_apps.page")]  # nothing imports the page
    ground = {"geometry", "masking", "layers", "errors", "outputs", "ranges"}
    for module in ground:
        own = {
            name.split(".")[1] for name in imports(ROOT / "autolink" / f"{module}.py") if name.startswith("autolink.")
        }
        assert own <= ground


def test_what_benchmarks_import_is_there():
    """They are run by hand, so a module that was renamed would be missed here for long."""
    for path in (ROOT / "benchmarks").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("autolink"):
                module = importlib.import_module(node.module)
                missing = [
                    name.name
                    for name in node.names
                    if not hasattr(module, name.name) and find_spec(f"{node.module}.{name.name}") is None
                ]
                assert not missing, f"{path.name}: {node.module} has no {', '.join(missing)}"


def test_options_of_benchmarks_are_held_to_their_ranges():
    for path in (ROOT / "benchmarks").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            assert not (isinstance(node, ast.ClassDef) and node.name == "Options") or node.bases, path.name


def test_deviations_name_options_that_there_are():
    rows = [row.split("|") for row in (ROOT / "docs" / "deviations.md").read_text().splitlines() if row[:1] == "|"][2:]
    known = {f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(Options)}
    for point, *_, other in (row[1:-1] for row in rows):
        assert other.strip(), f"{point.strip()}: nothing is said about the other reading"
        named = re.findall(r"`(--[a-z-]+)", other)
        assert {name.replace("--no-", "--") for name in named} <= known, point
    assert len(rows) > 25
