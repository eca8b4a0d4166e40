"""Each script of examples/hazards fails as documented in weak mode, and its cure cures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import concurrent_map

HAZARDS = Path(__file__).resolve().parents[2] / "hazards"
SCRIPTS = sorted(path for path in HAZARDS.glob("[!_]*.py") if path.stem != "rounds")
PACKAGE = str(Path(concurrent_map.__file__).resolve().parents[1])


def run(script: Path, *words: str) -> subprocess.CompletedProcess[str]:
    kept = os.environ | {"PYTHONPATH": PACKAGE, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, str(script), *words]
    return subprocess.run(command, env=kept, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_it_fails_in_weak_mode_and_is_cured_in_the_mode_that_it_names(script: Path) -> None:
    done = run(script, "--rounds", "10")
    assert not done.stderr
    said = json.loads(done.stdout)
    assert (said["rounds"], said["failed_in_weak"], said["failed_in_mode"]) == (10, 10, 0), said
    assert said["weak"]
    assert said["mode"] in {"strict", "snapshot", "view"}
    assert done.returncode == 0


def test_every_hazard_is_told_of_with_its_cure() -> None:
    text = (HAZARDS / "README.md").read_text()
    assert len(SCRIPTS) == 6
    for script in SCRIPTS:
        assert f"`{script.name}`" in text


def test_a_senseless_number_of_rounds_is_refused() -> None:
    done = run(SCRIPTS[0], "--rounds", "0")
    assert done.returncode == 2
    assert "--rounds must be 1 or more" in done.stderr


def test_it_waits_for_whoever_wants_to_look_on() -> None:
    kept = os.environ | {"PYTHONPATH": PACKAGE, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, str(HAZARDS / "stale_bucket.py"), "--wait"]
    done = subprocess.run(
        command, env=kept, capture_output=True, text=True, check=True, input="\n\n"
    )
    begins, ends = done.stderr.splitlines()
    assert begins.endswith("begins when you press Enter")
    assert ends.endswith("ends when you press Enter")
    assert json.loads(done.stdout)["rounds"] == 1
