"""The park detector on hand-written records; times in ms for the reader's sake."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from collector.park import PARK, End, Findings, Park, Seen
from collector.parks import ParkDetector
from probes.kinds import KIND_INDEX, KINDS
from probes.wire import Flag, Kind, RunState, WaitClass, make

MS = 1_000_000
PID, TID = 100, 101
GIL = 0x7F00_0000_0188
LOCK = 0x7F11_2233_4450


@pytest.fixture
def detector() -> ParkDetector:
    return ParkDetector(long_park_ns=200 * MS, min_park_ns=MS)


def blocked(
    ts: float,
    since: float,
    *,
    tid: int = TID,
    syscall: int = 202,
    arg0: int = LOCK,
    arg1: int = 0x189,
    flags: int = Flag.WATCHED,
    cpu_us: int = 1000,
) -> npt.NDArray[Any]:
    return make(
        Kind.THREAD_STATE,
        ts_ns=int(ts * MS),
        pid=PID,
        tid=tid,
        since_ns=int(since * MS),
        state=RunState.SLEEPING,
        syscall=syscall,
        arg0=arg0,
        arg1=arg1,
        flags=flags,
        cpu_ns=cpu_us * 1000,
    )


def running(ts: float, *, cpu_us: int, tid: int = TID) -> npt.NDArray[Any]:
    return make(
        Kind.THREAD_STATE,
        ts_ns=int(ts * MS),
        pid=PID,
        tid=tid,
        since_ns=int(ts * MS),
        state=RunState.RUNNING,
        syscall=-1,
        cpu_ns=cpu_us * 1000,
    )


def gil_blocked(ts: float, since: float, cpu_us: int) -> npt.NDArray[Any]:
    return blocked(ts, since, arg0=GIL, flags=Flag.GIL, cpu_us=cpu_us)


def wake(ts: float, tid: int = TID, waker: int = 999, since: float = 0) -> npt.NDArray[Any]:
    return make(
        Kind.WAKE, ts_ns=int(ts * MS), pid=PID, tid=tid, waker_pid=PID, waker_tid=waker,
        waker_syscall=202, since_ns=int(since * MS),
    )  # fmt: skip


def wait(
    start: float,
    end: float,
    *,
    ts: float | None = None,
    kind: Kind = Kind.WAIT,
    wait_class: WaitClass = WaitClass.LOCK,
    address: int = LOCK,
    tid: int = TID,
    flags: int = 0,
) -> npt.NDArray[Any]:
    return make(
        kind,
        ts_ns=int((end if ts is None else ts) * MS),
        pid=PID,
        tid=tid,
        start_ns=int(start * MS),
        duration_ns=int((end - start) * MS),
        address=address,
        wait_class=wait_class,
        slices=1,
        flags=flags,
    )


def scan(ts: float) -> npt.NDArray[Any]:
    return make(Kind.SCAN, ts_ns=int(ts * MS), pid=PID, threads=3)


def lifecycle(kind: Kind, ts: float, tid: int = TID) -> npt.NDArray[Any]:
    return make(kind, ts_ns=int(ts * MS), pid=PID, tid=tid)


def play(detector: ParkDetector, now: float, *records: npt.NDArray[Any]) -> Findings:
    if records:
        detector.feed(np.concatenate(records))
    detector.advance(int(now * MS))
    return detector.take()


def one_row(found: Findings) -> Any:
    rows = found.parks()
    assert rows.dtype == PARK
    assert len(rows) == 1
    return rows[0]


def test_a_watched_sleep_is_flagged_at_the_crossing_while_it_lasts(
    detector: ParkDetector,
) -> None:
    assert not play(detector, 90, blocked(90, since=10)).crossed
    assert detector.next_deadline_ns == 210 * MS
    assert not play(detector, 209.9).crossed
    (park,) = play(detector, 210).crossed
    assert (park.pid, park.tid, park.kind, park.start_ns) == (PID, TID, "lock", 10 * MS)
    assert detector.is_open(park)
    assert not play(detector, 10_000).crossed, "a park is flagged once"

    found = play(detector, 10_000, wake(9_999))
    assert found.ended == [park]
    row = one_row(found)
    assert row["duration_ns"] == 9_989 * MS
    assert row["park_id"] == park.park_id
    assert (row["end"], row["waker_tid"]) == (End.WOKEN, 999)


def test_a_short_sleep_is_recorded_but_not_flagged(detector: ParkDetector) -> None:
    found = play(detector, 160, blocked(90, since=10), wake(160))
    assert not found.crossed
    assert not found.ended
    assert one_row(found)["duration_ns"] == 150 * MS
    assert not play(detector, 1000).crossed
    assert detector.next_deadline_ns is None


def test_a_wake_up_that_ends_a_later_sleep_is_not_the_end_of_this_one(
    detector: ParkDetector,
) -> None:
    found = play(detector, 320, blocked(90, since=10), wake(315, since=165))
    assert not found.crossed, "155 ms, then 150 ms: neither is long"
    row = one_row(found)
    assert row["duration_ns"] == 155 * MS
    assert row["end"] == End.LOST


def test_where_its_run_was_not_told_a_sleep_ends_with_its_wake_up(detector: ParkDetector) -> None:
    woken = make(
        Kind.WAKE, ts_ns=260 * MS, pid=PID, tid=TID, flags=Flag.RUN_FOLLOWS, since_ns=10 * MS
    )
    assert play(detector, 262, blocked(90, since=10), woken).crossed
    found = play(detector, 266, wait(260.25, 265.5, wait_class=WaitClass.GIL, address=GIL))
    assert [(p.end, p.end_ns, p.run_delay_ns) for p in found.ended] == [(End.WOKEN, 260 * MS, -1)]


def test_the_slow_path_makes_a_scanned_park_exact(detector: ParkDetector) -> None:
    opened = wait(9.5, 90, ts=90, kind=Kind.WAIT_OPEN, address=LOCK + 16)
    assert not play(detector, 90, blocked(90, since=9.6, arg0=LOCK), opened).parks().size
    (park,) = play(detector, 209.5).crossed
    assert (park.start_ns, park.address, park.source) == (9_500_000, LOCK + 16, Seen.SLOW_PATH)
    # The wake-up is not the end of a semaphore wait: another thread may take it first.
    assert not play(detector, 300, wake(299), blocked(300, since=299.5)).ended
    found = play(detector, 401, wait(9.5, 400.25, address=LOCK + 16))
    assert found.ended == [park]
    assert one_row(found)["duration_ns"] == int(390.75 * MS)


def test_the_order_of_scan_and_slow_path_in_a_batch_does_not_matter(
    detector: ParkDetector,
) -> None:
    opened = wait(9.5, 90, ts=90, kind=Kind.WAIT_OPEN)
    play(detector, 90, opened, blocked(90, since=9.6))
    assert len(play(detector, 210).crossed) == 1
    assert len(detector.open_parks) == 1


def test_a_complete_long_wait_that_was_never_seen_open_is_flagged_and_ended(
    detector: ParkDetector,
) -> None:
    found = play(detector, 300, wait(10, 290, flags=Flag.TIMED_OUT))
    assert len(found.crossed) == 1
    assert found.ended == found.crossed
    row = one_row(found)
    assert (row["end"], row["duration_ns"]) == (End.TIMED_OUT, 280 * MS)


def test_many_short_waits_become_rows_in_bulk(detector: ParkDetector) -> None:
    records = [wait(i, i + 5, tid=200 + i % 7) for i in range(100)]
    found = play(detector, 200, *records)
    rows = found.parks()
    assert not found.crossed
    assert len(rows) == 100
    assert set(rows["duration_ns"].tolist()) == {5 * MS}
    assert set(rows["kind"].tolist()) == {KIND_INDEX["lock"]}
    assert set(rows["source"].tolist()) == {Seen.SLOW_PATH}


def test_gil_slices_are_one_park(detector: ParkDetector) -> None:
    flagged: list[Park] = []
    for step in range(26):  # re-waits every 5 ms, 60 us of CPU between two scans
        ts = 100 + 20 * step
        found = play(detector, ts, gil_blocked(ts, since=ts - 3, cpu_us=1000 + 60 * step), scan(ts))
        flagged += found.crossed
    assert [(p.kind, p.start_ns) for p in flagged] == [("gil", 97 * MS)]
    assert flagged[0].slices == 26
    found = play(detector, 620, running(620, cpu_us=2500 + 18_000))
    assert found.ended == flagged
    assert 600 * MS <= flagged[0].end_ns <= 620 * MS, "the end within one scan"


def test_a_gil_waiter_seen_between_two_slices_goes_on_waiting(detector: ParkDetector) -> None:
    play(detector, 100, gil_blocked(100, 98, 1000))
    found = play(detector, 120, running(120, cpu_us=1050))
    for ts in range(140, 320, 20):
        found = play(detector, ts, gil_blocked(ts, ts - 2, 1000 + ts // 2))
    assert [p.start_ns for p in found.crossed] == [98 * MS]


def test_a_gil_waiter_that_only_ever_looks_running_is_flagged_in_time(
    detector: ParkDetector,
) -> None:
    """On busy CPUs every scan may find it between two slices; it has not run."""
    play(detector, 100, gil_blocked(100, 98, 1000))
    for ts in range(120, 300, 20):
        assert not play(detector, ts, running(ts, cpu_us=1000 + ts)).crossed
    assert len(play(detector, 300, running(300, cpu_us=1300)).crossed) == 1


def test_threads_that_take_turns_on_the_gil_are_not_starved(detector: ParkDetector) -> None:
    for step in range(100):  # runs 5 ms of every 20: it got the GIL in between
        ts = 100 + 20 * step
        found = play(detector, ts, gil_blocked(ts, ts - 3, cpu_us=1000 + 5000 * step), scan(ts))
        assert not found.crossed


def test_a_gil_wait_is_not_flagged_on_silence(detector: ParkDetector) -> None:
    """Its last slice may have returned just now; only a sight of it counts."""
    play(detector, 100, gil_blocked(100, 98, 1000), scan(100))
    assert not play(detector, 320, scan(320)).crossed
    assert len(play(detector, 340, gil_blocked(340, 338, 1200)).crossed) == 1


def test_an_exact_gil_wait_ends_with_its_own_record(detector: ParkDetector) -> None:
    first = wait(95, 100, ts=100, kind=Kind.WAIT_OPEN, wait_class=WaitClass.GIL, address=GIL)
    found = play(detector, 100, first, gil_blocked(100, 98, 1000), scan(100))
    for ts in range(120, 320, 20):
        found = play(detector, ts, gil_blocked(ts, ts - 2, 1000 + ts // 2), scan(ts))
    (park,) = found.crossed
    assert park.start_ns == 95 * MS
    done = wait(95, 311, ts=330, wait_class=WaitClass.GIL, address=GIL)
    found = play(detector, 340, running(340, cpu_us=30_000), done, scan(340))
    assert found.ended == [park]
    assert one_row(found)["duration_ns"] == 216 * MS


def test_without_its_record_an_exact_gil_wait_ends_one_scan_later(
    detector: ParkDetector,
) -> None:
    first = wait(95, 100, ts=100, kind=Kind.WAIT_OPEN, wait_class=WaitClass.GIL, address=GIL)
    play(detector, 100, first, gil_blocked(100, 98, 1000), scan(100))
    for ts in range(120, 320, 20):
        play(detector, ts, gil_blocked(ts, ts - 2, 1000 + ts // 2), scan(ts))
    play(detector, 340, running(340, cpu_us=21_000), scan(340))
    found = play(detector, 360, scan(360))
    assert len(found.ended) == 1
    assert 300 * MS <= found.ended[0].end_ns <= 340 * MS


def test_an_unwatched_sleep_needs_a_scan_after_the_crossing(detector: ParkDetector) -> None:
    play(detector, 90, blocked(90, since=10, flags=Flag.COARSE))
    assert not play(detector, 250, scan(205)).crossed, "last looked at before the crossing"
    assert len(play(detector, 260, scan(255)).crossed) == 1


def test_another_sleep_of_the_same_thread_is_another_park(detector: ParkDetector) -> None:
    play(detector, 90, blocked(90, since=10))
    found = play(detector, 260, blocked(260, since=150, syscall=45, arg0=7))
    assert not found.crossed, "150 ms in the lock at most, 110 ms in recv so far"
    assert one_row(found)["end"] == End.LOST
    (park,) = play(detector, 351).crossed
    assert (park.kind, park.start_ns) == ("io", 150 * MS)


@pytest.mark.parametrize(
    ("kind", "syscall", "arg0", "arg1"),
    [
        ("io", 45, 7, 0),
        ("io", 23, 5, 0),
        ("sleep", 23, 0, 0),
        ("sleep", 7, 0, 0),
        ("io", 7, 0x1000, 1),
        ("sleep", 230, 1, 0),
        ("child", 61, 5, 0),
        ("other", 34, 0, 0),
        ("other", -1, 0, 0),
        ("lock", 202, LOCK, 0x80),
    ],
)
def test_kinds_follow_the_system_call(
    detector: ParkDetector, kind: str, syscall: int, arg0: int, arg1: int
) -> None:
    play(detector, 90, blocked(90, 10, syscall=syscall, arg0=arg0, arg1=arg1))
    (park,) = play(detector, 210).crossed
    assert park.kind == kind
    assert kind in KINDS


def test_exit_ends_a_park(detector: ParkDetector) -> None:
    play(detector, 90, blocked(90, 10), blocked(90, 20, tid=TID + 1))
    assert len(play(detector, 250).crossed) == 2
    found = play(detector, 300, lifecycle(Kind.THREAD_EXIT, 280))
    assert [(p.end, p.end_ns) for p in found.ended] == [(End.EXITED, 280 * MS)]
    found = play(detector, 400, lifecycle(Kind.PROC_EXIT, 390))
    assert [(p.tid, p.end) for p in found.ended] == [(TID + 1, End.EXITED)]
    assert not detector.open_parks


def test_a_thread_that_its_process_takes_along_was_not_woken(detector: ParkDetector) -> None:
    play(detector, 90, blocked(90, 10))
    ending = make(
        Kind.WAKE, ts_ns=300 * MS, pid=PID, tid=TID, waker_pid=PID, waker_tid=PID,
        waker_syscall=231,
    )  # fmt: skip
    assert [p.end for p in play(detector, 300, ending).ended] == [End.EXITED]


def test_a_reused_tid_does_not_inherit_a_park(detector: ParkDetector) -> None:
    play(detector, 90, blocked(90, 10))
    play(detector, 150, lifecycle(Kind.THREAD_START, 150))
    assert not play(detector, 5000, scan(5000)).crossed


def test_before_attach_is_kept(detector: ParkDetector) -> None:
    play(detector, 5000, blocked(5000, 10, flags=Flag.WATCHED | Flag.BEFORE_ATTACH))
    (park,) = play(detector, 5000).crossed or [*detector.open_parks]
    assert park.flags & Flag.BEFORE_ATTACH
    assert park.park_id


def test_a_deadlock_is_an_open_row_at_the_end(detector: ParkDetector) -> None:
    play(detector, 90, blocked(90, 10))
    assert len(play(detector, 250).crossed) == 1
    detector.finish(3000 * MS)
    row = one_row(detector.take())
    assert (row["end"], row["duration_ns"]) == (End.OPEN, 2990 * MS)


def test_a_stopped_thread_keeps_its_park(detector: ParkDetector) -> None:
    play(detector, 90, blocked(90, 10))
    stopped = running(150, cpu_us=1000)
    stopped = stopped.copy()
    stopped.view(np.uint8)[58] = ord("T")
    play(detector, 150, stopped)
    assert len(play(detector, 210).crossed) == 1


def test_a_waiter_woken_too_early_goes_on_waiting(detector: ParkDetector) -> None:
    """Another thread took the semaphore first: the same logical wait sleeps again."""
    play(detector, 90, blocked(90, 10.1), wait(10, 90, ts=90, kind=Kind.WAIT_OPEN), scan(90))
    play(detector, 120, wake(119.9), running(120, cpu_us=1010), scan(120))
    for ts in (130, 150, 170):
        assert not len(play(detector, ts, blocked(ts, 121), scan(ts)).parks())
    (park,) = play(detector, 210).crossed
    assert park.start_ns == 10 * MS
    assert play(detector, 300, wait(10, 299)).ended == [park]
