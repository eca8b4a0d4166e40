"""``import parkscope``, as a program would use it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

import parkscope
from tests.conftest import Start

WAITS = Path(__file__).parents[1] / "targets" / "some_waits.py"
LONG_NS = 200_000_000


def test_a_scenario_is_attached_to_like_a_process() -> None:
    events = list(parkscope.attach(backend="mock", scenario="deadlock"))
    assert events[0].event == "attached"
    assert events[-1].event == "detached"
    stuck = [event for event in events if event.event == "park_long" and not event.idle]
    assert {event.kind for event in stuck} == {"lock"}
    assert all((event.duration_ns or 0) >= LONG_NS for event in stuck)


@pytest.mark.ptrace
def test_a_process_is_recorded_analysed_and_replayed(start: Start, tmp_path: Path) -> None:
    process = start([sys.executable, WAITS], ready=True)
    trace = tmp_path / "trace.pks"
    result = parkscope.record(process.pid, trace, backend="proc", duration_ns=1_500_000_000)
    assert result.why in ("duration over", "source ended")
    assert os.stat(trace).st_mode & 0o777 == 0o600
    columns, rows = parkscope.analyze(trace, "parks")
    pids = {row[columns.index("pid")] for row in rows}
    assert pids == {process.pid}
    replayed = [event.event for event in parkscope.replay(trace)]
    assert replayed.count("park_long") == sum(result.counters.long_parks.values())
    assert "summary" in parkscope.views()


def test_closing_the_iterator_detaches() -> None:
    events = parkscope.attach(backend="mock", scenario="deadlock")
    assert next(events).event == "attached"
    events.close()
    with pytest.raises(StopIteration):
        next(events)


def test_errors_have_a_hint() -> None:
    with pytest.raises(parkscope.ParkscopeError) as caught:
        next(iter(parkscope.attach(999_999_999, backend="proc")))
    assert caught.value.hint
