"""What is installed is what stands in the tree: programs, headers, views, scenarios."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = ("probes", "collector", "tracer", "examples")
NOT_PACKED = (Path("examples/concurrent_map"), Path("examples/hazards"))
"""A package of its own, and programs that need it."""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is packed, so that building leaves nothing in the tree itself."""
    copy = tmp_path_factory.mktemp("tree")
    for name in PRODUCT:
        shutil.copytree(
            ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", ".*")
        )
    for file in ("pyproject.toml", "README.md", "LICENSE", "parkscope.py"):
        if (ROOT / file).exists():
            shutil.copy(ROOT / file, copy)
    return copy


@pytest.fixture(scope="module")
def wheel(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    out = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "-q"]
    command = [*pip, "--no-deps", "--no-build-isolation", "-w", str(out), str(tree)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=out)
    assert done.returncode == 0, done.stderr
    return zipfile.ZipFile(next(out.glob("parkscope-*.whl")))


@pytest.mark.slow
def test_the_wheel_has_every_file_of_the_product_and_nothing_else(
    tree: Path, wheel: zipfile.ZipFile
) -> None:
    files = {
        path.relative_to(tree)
        for name in PRODUCT
        for path in (tree / name).rglob("*")
        if path.is_file()
    }
    others = {file for file in files if any(map(file.is_relative_to, NOT_PACKED))}
    assert others, "what is left out is there"
    in_tree = {str(file) for file in files - others} | {"parkscope.py"}
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert packed == in_tree


@pytest.mark.slow
def test_the_wheel_says_what_it_is(wheel: zipfile.ZipFile) -> None:
    names = {Path(name).name: name for name in wheel.namelist() if ".dist-info/" in name}
    assert "parkscope = tracer.cli:main" in wheel.read(names["entry_points.txt"]).decode()
    metadata = wheel.read(names["METADATA"]).decode()
    assert "License-Expression: Apache-2.0" in metadata
    # PyPI's bcc is another program; numpy and the rest are real requirements.
    required = [line for line in metadata.splitlines() if line.startswith("Requires-Dist")]
    assert not [line for line in required if "bcc" in line]
    assert any(line.startswith("Requires-Dist: numpy") for line in required)
