"""A guarded map's breaker from outside: its changes, metrics and live view, and a replay of it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from collector.sinks.trace_file import TraceFile
from tests import breaker_life, interpreters
from tests.conftest import Start
from tests.map_build import compile_map
from tests.played import run
from tests.processes import wait_until
from tracer.backends import mock

pytestmark = pytest.mark.kernel


@interpreters.matrix("system-3.11")
def test_the_whole_life_is_seen_in_metrics_and_live_view(
    interpreter: interpreters.Interpreter, start: Start, tmp_path: Path
) -> None:
    package = compile_map(tmp_path / "package", interpreter)
    if package is None:
        pytest.skip("the example's extension cannot be compiled here")
    process = start(interpreter, breaker_life.PROGRAM, [package], ready=True, stdin=subprocess.PIPE)
    trace = tmp_path / "life.park"
    with breaker_life.watched(process.pid, TraceFile(trace, {"targets": []})) as watch:
        answers = breaker_life.live(process, watch)
        wait_until(lambda: len(watch.changes()) == len(breaker_life.CHANGES), "all changes")
    assert breaker_life.wrong(watch.changes(), answers, process.pid) == []
    failing, probed_again = answers[0], answers[3]
    assert failing["failed"] == 61, "60 % of the last 100, and one more"
    assert failing["refused"] > 0
    assert (failing["served"], failing["load"]) == (200, 7)
    assert (probed_again["failed"], answers[-1]["failed"]) == (True, False)
    again = run(mock.replay(trace)).events
    assert breaker_life.changes(again) == watch.changes()
