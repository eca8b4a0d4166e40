"""A tracer that stops threads (a heap dump's, a debugger) ends no park; times in ms."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from collector.park import End, Findings
from collector.parks import ParkDetector
from probes.kinds import PTRACE, RESTART
from probes.wire import Flag, Kind, RunState, make

MS = 1_000_000
PID, TID, LOCK = 100, 101, 0x7F11_2233_4450


@pytest.fixture
def detector() -> ParkDetector:
    return ParkDetector(long_park_ns=200 * MS, min_park_ns=MS)


def blocked(
    ts: float, since: float, *, syscall: int = 202, arg0: int = LOCK, cpu_us: int = 1000
) -> npt.NDArray[Any]:
    return make(
        Kind.THREAD_STATE, ts_ns=int(ts * MS), pid=PID, tid=TID, since_ns=int(since * MS),
        state=RunState.SLEEPING, syscall=syscall, arg0=arg0, flags=Flag.WATCHED,
        cpu_ns=cpu_us * 1000,
    )  # fmt: skip


def wake(ts: float, since: float, waker_syscall: int = 202) -> npt.NDArray[Any]:
    return make(
        Kind.WAKE, ts_ns=int(ts * MS), pid=PID, tid=TID, waker_pid=PID, waker_tid=999,
        waker_syscall=waker_syscall, since_ns=int(since * MS),
    )  # fmt: skip


def stop(ts: float, since: float) -> npt.NDArray[Any]:
    """The tracer stops the thread, or lets it go."""
    return wake(ts, since, PTRACE)


def play(detector: ParkDetector, now: float, *records: npt.NDArray[Any]) -> Findings:
    if records:
        detector.feed(np.concatenate(records))
    detector.advance(int(now * MS))
    return detector.take()


@pytest.mark.parametrize("restarted_as", [202, RESTART])
def test_a_wait_goes_on_that_a_tracer_has_stopped(
    detector: ParkDetector, restarted_as: int
) -> None:
    play(detector, 20, blocked(20, 10))
    play(detector, 104, stop(100, 10), stop(103, 100))
    crossed = play(detector, 211, blocked(120, 103, syscall=restarted_as, cpu_us=1040)).crossed
    assert [park.start_ns for park in crossed] == [10 * MS]
    ended = play(detector, 401, wake(400, 103)).ended
    assert [(park.end, park.end_ns, park.slices, park.syscall) for park in ended] == [
        (End.WOKEN, 400 * MS, 2, 202)
    ]


def test_a_stop_is_no_excuse_for_another_wait() -> None:
    """Another lock, or the same after work in between: the end was not told."""
    for since, change in ((110, {"arg0": LOCK + 64}), (150, {"cpu_us": 50_000})):
        one = ParkDetector(long_park_ns=50 * MS, min_park_ns=MS)
        play(one, 70, blocked(20, 10))
        play(one, 104, stop(100, 10))
        ended = play(one, since + 10, blocked(since + 10, since, **change)).ended
        assert [park.end for park in ended] == [End.LOST]


def test_a_stopped_wait_is_under_no_watch_until_it_is_seen(detector: ParkDetector) -> None:
    play(detector, 20, blocked(20, 10))
    play(detector, 210, stop(209, 10))
    assert play(detector, 212).crossed == []
    assert len(play(detector, 216, blocked(215, 209, cpu_us=1010)).crossed) == 1
