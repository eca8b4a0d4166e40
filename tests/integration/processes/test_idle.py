"""Idle is not stuck: programs that wait by design raise no alarm, a real wait does."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.idle_programs import PROGRAMS, watch

MS = 1_000_000


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize(
    "backend",
    [
        pytest.param("proc", marks=pytest.mark.ptrace),
        pytest.param("bcc", marks=pytest.mark.kernel),
    ],
)
def test_idle_programs_raise_no_alarm_and_a_real_wait_does(
    name: str, backend: str, tmp_path: Path
) -> None:
    seen = watch(name, tmp_path, backend, seconds=3)
    assert [event.to_dict() for event in seen.false_alarms] == []
    assert seen.idle_parks >= seen.expected_idle_parks
    assert sorted(str(event.kind) for event in seen.alarms) == ["lock", "sleep"]
    (lock,) = (event for event in seen.alarms if event.kind == "lock")
    assert lock.start_ns is not None
    assert seen.start_ns - 50 * MS < lock.start_ns < seen.end_ns - 200 * MS
    assert "stall" in {frame["function"] for frame in lock.data["stack"]}
