"""conftest.py itself: what is skipped, what fails, and that no process outlives a test."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _pytest(directory: Path, source: str, **environment: str) -> str:
    """What a run of its own prints for one test file, under the project's conftest and options."""
    (directory / "test_inner.py").write_text(source)
    (directory / "conftest.py").write_text("from tests.conftest import *\n")
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PARKSCOPE_")}
    options = ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(directory), "test_inner.py"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "-p", "no:cacheprovider", "--no-fold-skipped"],
        env=kept | {"PYTHONPATH": str(ROOT)} | environment,
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout


def test_a_child_that_outlives_its_test_fails_it_and_is_ended(tmp_path: Path) -> None:
    source = """
import subprocess, sys
keep = []
def test_leaks():
    keep.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]))
def test_is_clean():
    keep[0].wait(timeout=10)
"""
    said = _pytest(tmp_path, source)
    assert "left behind: " in said
    assert "import time; time.sleep(60)" in said
    assert "2 passed, 1 error" in said


def test_an_orphan_fails_the_run(tmp_path: Path) -> None:
    source = """
import subprocess, sys
def test_orphans():
    program = "import subprocess as s, sys; s.Popen(sys.argv[1:], stdout=s.DEVNULL)"
    grandchild = [sys.executable, "-c", "import time; time.sleep(60)"]
    subprocess.run([sys.executable, "-W", "ignore", "-c", program, *grandchild], check=True)
"""
    said = _pytest(tmp_path, source)
    assert "left behind: " in said
    assert "1 passed, 1 error" in said


@pytest.mark.parametrize(
    ("environment", "outcome"),
    [
        ({"PARKSCOPE_NO_BCC": "1"}, "1 skipped"),
        ({"PARKSCOPE_NO_BCC": "1", "PARKSCOPE_REQUIRE_EBPF": "1"}, "1 error"),
    ],
)
def test_a_kernel_test_without_bcc_is_skipped_or_fails(
    tmp_path: Path, environment: dict[str, str], outcome: str
) -> None:
    source = "import pytest\n@pytest.mark.kernel\ndef test_needs_it():\n    pass\n"
    said = _pytest(tmp_path, source, **environment)
    assert outcome in said.splitlines()[-1]
    assert "PARKSCOPE_NO_BCC is set" in said
    assert "test_needs_it" in said
