"""``./run`` and what it stands on, as far as that needs no download."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _setup(script: str, tree: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs ``script`` after ``.ci/setup.sh`` was sourced, with ``tree`` for the clone."""
    words = ["-", str(ROOT / ".ci/setup.sh"), str(tree)]
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f'source "$1"; root=$2; {script}', *words],
        env={"PATH": os.environ["PATH"], "HOME": str(tree), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.skipif(
    Path(sys.prefix) != ROOT / ".venv", reason="not run from the environment that ./check makes"
)
def test_run_is_silent_once_set_up_from_anywhere_and_through_a_link(tmp_path: Path) -> None:
    link = tmp_path / "a path with spaces" / "run"
    link.parent.mkdir()
    link.symlink_to(ROOT / "run")
    environment = {**os.environ, "PARKSCOPE_NO_BCC": "1"}

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [link, "--version"],
            cwd="/",
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )

    run()  # may still have had something to do
    done = run()
    assert done.stdout.startswith("parkscope")
    assert done.stderr == ""


def test_without_python_and_without_root_it_says_what_to_install(tmp_path: Path) -> None:
    done = _setup("find_python() { false; }; may_install() { false; }; setup base", tmp_path)
    assert done.returncode == 1
    assert "needs root" in done.stderr
    assert "apt-get install python3 python3-venv" in done.stderr


def test_without_bcc_and_without_root_it_goes_on_and_says_so(tmp_path: Path) -> None:
    script = "bcc_package=$root/absent; may_install() { false; }; need_bcc; echo on"
    done = _setup(script, tmp_path)
    assert done.stdout == "on\n"
    assert "going on without eBPF" in done.stderr
    assert _setup(script, tmp_path, PARKSCOPE_NO_BCC="1").stderr == ""


def test_a_failed_command_shows_what_it_said_and_a_successful_one_nothing(tmp_path: Path) -> None:
    assert _setup("quietly echo fine", tmp_path).stderr == ""
    failed = _setup("quietly bash -c 'echo reason; exit 3' || echo status $?", tmp_path)
    assert (failed.stdout, failed.stderr) == ("status 3\n", "reason\n")


def test_a_change_of_versions_makes_an_environment_stale(tmp_path: Path) -> None:
    for file in ("pyproject.toml", "constraints.txt"):
        (tmp_path / file).write_text("first")
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/python").symlink_to(sys.executable)
    begin = 'python="$root/.venv/bin/python"; place_environment base;'
    state = "if up_to_date base; then echo fresh; else echo stale; fi"
    assert _setup(f"{begin} {state}", tmp_path).stdout == "stale\n"
    _setup(f'{begin} requirements_key >"$venv/.made-base"', tmp_path)
    assert _setup(f"{begin} {state}", tmp_path).stdout == "fresh\n"
    (tmp_path / "constraints.txt").write_text("second")
    assert _setup(f"{begin} {state}", tmp_path).stdout == "stale\n"
