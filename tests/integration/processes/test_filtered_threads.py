"""System calls are not borrowed from a thread whose calls are filtered."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from probes.errors import EngineUnavailable
from tests import capturing
from tests.conftest import Start
from tests.interpreters import get

pytestmark = pytest.mark.ptrace
TARGET = Path(__file__).parents[2] / "targets/filtered.py"


@pytest.mark.parametrize("engine", ["clone", "precopy"])
def test_the_injector_looks_for_filters_itself_when_the_threads_stand_still(
    start: Start, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    """The look beforehand is at a few threads of many, and one may be added after it."""
    process = start(get("system-3.11"), TARGET, stdin=subprocess.PIPE, ready=True)
    monkeypatch.setattr("tracer.heap.capture._why_no_injection", lambda _target: None)
    with pytest.raises(EngineUnavailable, match="may make a system call"):
        capturing.take(process.pid, engine)
    assert capturing.is_running(process.pid)
