"""Parks that last until the woken thread has a CPU; times in ms for the reader's sake."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from collector.attribution import Attributor, NoContext, NoIdleRules
from collector.park import End, Findings
from collector.parks import ParkDetector
from probes.wire import Flag, Kind, RunState, WaitClass, make

MS = 1_000_000
PID, TID, LOCK = 100, 101, 0x7F11_2233_4450


@pytest.fixture
def detector() -> ParkDetector:
    return ParkDetector(long_park_ns=200 * MS, min_park_ns=MS)


def play(detector: ParkDetector, now: float, *records: npt.NDArray[Any]) -> Findings:
    if records:
        detector.feed(np.concatenate(records))
    detector.advance(int(now * MS))
    return detector.take()


def state(
    ts: float, since: float, run_state: RunState = RunState.SLEEPING, flags: int = Flag.WATCHED
) -> npt.NDArray[Any]:
    return make(
        Kind.THREAD_STATE, ts_ns=int(ts * MS), pid=PID, tid=TID, since_ns=int(since * MS),
        state=run_state, syscall=202, arg0=LOCK, cpu_ns=1_000_000, flags=flags,
    )  # fmt: skip


def wait(kind: Kind, start: float, end: float) -> npt.NDArray[Any]:
    return make(
        kind, ts_ns=int(end * MS), pid=PID, tid=TID, start_ns=int(start * MS),
        duration_ns=int((end - start) * MS), address=LOCK, wait_class=WaitClass.LOCK, slices=1,
    )  # fmt: skip


def scan(ts: float) -> npt.NDArray[Any]:
    return make(Kind.SCAN, ts_ns=int(ts * MS), pid=PID, threads=3)


def told_wake(ts: float) -> npt.NDArray[Any]:
    """A wake-up that says that the thread's coming to a CPU will be told."""
    return make(
        Kind.WAKE, ts_ns=int(ts * MS), pid=PID, tid=TID, flags=Flag.RUN_FOLLOWS, waker_pid=PID,
        waker_tid=999, waker_syscall=202, cpu=3, slept_cpu=2,
    )  # fmt: skip


def run(ts: float) -> npt.NDArray[Any]:
    return make(Kind.RUN, ts_ns=int(ts * MS), pid=PID, tid=TID, cpu=1)


def test_a_park_lasts_until_the_woken_thread_has_a_cpu(detector: ParkDetector) -> None:
    found = play(detector, 90, state(90, since=10))
    found = play(detector, 300, told_wake(295))
    (park,) = found.crossed
    assert (found.ended, detector.is_open(park)) == ([], True)
    found = play(detector, 310, run(302))
    assert found.ended == [park]
    assert (park.end, park.end_ns, park.run_delay_ns) == (End.WOKEN, 302 * MS, 7 * MS)
    assert (park.slept_cpu, park.waker_cpu, park.ran_cpu) == (2, 3, 1)
    assert found.parks()["duration_ns"].tolist() == [292 * MS]


def test_waiting_for_a_cpu_can_make_a_park_long(detector: ParkDetector) -> None:
    play(detector, 90, state(90, since=10))
    assert not play(detector, 205, told_wake(204)).crossed
    (park,) = play(detector, 211, run(211)).ended
    assert (park.park_id, park.end_ns) == (1, 211 * MS)


def test_a_thread_on_its_way_to_a_cpu_is_not_seen_to_run(detector: ParkDetector) -> None:
    play(detector, 90, state(90, since=10))
    play(detector, 300, told_wake(295))
    on_the_queue = state(320, since=5, run_state=RunState.RUNNING, flags=0)
    assert not play(detector, 321, on_the_queue).ended
    (park,) = play(detector, 340, state(340, since=330, run_state=RunState.RUNNING, flags=0)).ended
    assert (park.end_ns, park.run_delay_ns) == (330 * MS, -1), "its record was lost"


def test_a_slow_path_wait_keeps_its_own_end(detector: ParkDetector) -> None:
    play(detector, 90, state(90, since=10), wait(Kind.WAIT_OPEN, 10, 91))
    play(detector, 301, told_wake(295), run(300))
    (park,) = play(detector, 310, wait(Kind.WAIT, 10, 301)).ended
    assert (park.end_ns, park.run_delay_ns) == (301 * MS, 5 * MS)


def test_a_sleep_that_has_lost_its_watch_is_not_called_long_by_silence(
    detector: ParkDetector,
) -> None:
    play(detector, 90, state(90, since=10))
    play(detector, 100, state(99, since=10, flags=0))
    assert not play(detector, 211).crossed
    assert len(play(detector, 216, scan(215)).crossed) == 1


@pytest.mark.parametrize(
    ("nodes", "crossed"), [((0, 0, 1, 1), True), ((0, 0, 0, 0), False), ((0,), None), ((), None)]
)
def test_the_wait_for_a_cpu_and_its_node_are_said(
    detector: ParkDetector, nodes: tuple[int, ...], crossed: bool | None
) -> None:
    woken = make(
        Kind.WAKE, ts_ns=600 * MS, pid=PID, tid=TID, flags=Flag.RUN_FOLLOWS, waker_pid=99,
        waker_tid=99, waker_syscall=44, cpu=3, slept_cpu=1,
    )  # fmt: skip
    ran = make(Kind.RUN, ts_ns=607 * MS, pid=PID, tid=TID, cpu=0)
    play(detector, 90, state(90, since=10))
    (park,) = play(detector, 211).crossed
    attributor = Attributor(NoContext(), NoIdleRules(), nodes)
    attributor.long_event(attributor.look(park), 211 * MS, True, ())
    play(detector, 700, woken, ran)
    end = attributor.end_event(park, 700 * MS)
    assert (end.duration_ns, end.data["run_delay_ns"]) == (597 * MS, 7 * MS)
    assert end.data["cpu"] == {"slept": 1, "waker": 3, "ran": 0}
    assert end.data["cross_node"] is crossed


def test_a_thread_that_nobody_told_of_is_parked_until_it_runs(detector: ParkDetector) -> None:
    """Too young for a watch when it was seen, woken since then, and still without a CPU."""
    play(detector, 16, state(16, since=10, flags=0))
    assert not len(play(detector, 42, state(42, since=9, run_state=RunState.RUNNING)).parks())
    rows = play(detector, 61, state(60, since=44, run_state=RunState.RUNNING)).parks()
    assert (rows["duration_ns"].tolist(), rows["end"].tolist()) == ([34 * MS], [End.LOST])
