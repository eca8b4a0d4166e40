"""Scan deadlines and the delta filter: times and states made up, results worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from probes.wire import PAYLOAD, Flag, Kind, RunState
from tracer.backends.scan import DeltaFilter, ScanScheduler

MS = 1_000_000
T0 = 1_000_000 * MS


def sample(
    tid: int,
    ts_ns: int,
    since_ns: int,
    *,
    state: RunState = RunState.SLEEPING,
    flags: int = 0,
    cpu_ns: int = 0,
    pid: int = 1,
) -> npt.NDArray[Any]:
    one = np.zeros(1, PAYLOAD[Kind.THREAD_STATE])
    one["ts_ns"], one["pid"], one["tid"], one["since_ns"] = ts_ns, pid, tid, since_ns
    one["state"], one["flags"], one["cpu_ns"] = state, flags, cpu_ns
    return one


def scan(*samples: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.concatenate(samples) if samples else np.zeros(0, PAYLOAD[Kind.THREAD_STATE])


def told(records: npt.NDArray[Any]) -> list[tuple[int, str, int]]:
    rows = records.view(PAYLOAD[Kind.THREAD_STATE])
    return [
        (
            int(r["tid"]),
            "gone" if r["kind"] == Kind.THREAD_EXIT else chr(r["state"]),
            int(r["since_ns"]) // MS if r["kind"] == Kind.THREAD_STATE else 0,
        )
        for r in rows
    ]


# -- ScanScheduler ------------------------------------------------------------------


def test_first_scan_is_due_at_once() -> None:
    assert ScanScheduler(200 * MS).next_scan_ns(T0) == T0


@pytest.mark.parametrize(("long_park_ms", "period_ms"), [(200, 90), (1000, 100), (20, 9)])
def test_base_period_lets_a_park_be_seen_twice_before_it_is_long(
    long_park_ms: int, period_ms: int
) -> None:
    scheduler = ScanScheduler(long_park_ms * MS)
    scheduler.scanned(T0, scan())
    assert scheduler.next_scan_ns(T0 + 1) == T0 + period_ms * MS


def test_scan_at_the_crossing_of_an_unwatched_sleep() -> None:
    scheduler = ScanScheduler(200 * MS)
    scheduler.scanned(T0, scan(sample(5, T0, T0 - 170 * MS)))
    assert scheduler.next_scan_ns(T0) == T0 + 30 * MS


def test_no_scan_for_a_crossing_that_has_passed() -> None:
    scheduler = ScanScheduler(200 * MS)
    scheduler.scanned(T0, scan(sample(6, T0, T0 - 900 * MS)))
    assert scheduler.next_scan_ns(T0) == T0 + 90 * MS


def test_no_scan_for_the_crossing_of_a_thread_that_was_woken() -> None:
    scheduler = ScanScheduler(200 * MS)
    two = scan(sample(5, T0, T0 - 170 * MS), sample(6, T0, T0 - 130 * MS))
    scheduler.scanned(T0, two)
    scheduler.woken(sample(5, T0 + MS, 0))
    t = T0 + 20 * MS
    scheduler.scanned(t, scan(), complete=False)
    assert scheduler.next_scan_ns(t) == T0 + 70 * MS


def test_a_wake_up_that_is_told_late_does_not_end_the_next_sleep() -> None:
    scheduler = ScanScheduler(200 * MS)
    scheduler.scanned(T0, scan(sample(5, T0, T0 - 130 * MS)))
    scheduler.woken(sample(5, T0 - 131 * MS, 0))
    assert scheduler.next_scan_ns(T0) == T0 + 70 * MS
    scheduler.woken(scan(sample(5, T0 - 131 * MS, 0), sample(5, T0 + MS, 0)))
    scheduler.scanned(T0 + 2 * MS, scan(), complete=False)
    assert scheduler.next_scan_ns(T0) == T0 + 92 * MS


def test_a_sleep_that_a_scan_leaves_out_is_still_looked_at_when_it_crosses() -> None:
    scheduler = ScanScheduler(200 * MS)
    running = sample(6, T0, T0, state=RunState.RUNNING)
    scheduler.scanned(T0, scan(sample(5, T0, T0 - 20 * MS, flags=Flag.WATCHED), running))
    assert scheduler.next_scan_ns(T0) == T0 + 90 * MS
    t = T0 + 90 * MS
    scheduler.scanned(t, scan(), complete=False)
    assert scheduler.next_scan_ns(t) == T0 + 180 * MS
    scheduler.scanned(T0 + 180 * MS, scan(), complete=False)
    assert scheduler.next_scan_ns(t) == T0 + 270 * MS


def test_scans_are_rare_while_all_threads_sleep_under_watch_until_one_is_told_of() -> None:
    watched = scan(*(sample(n, T0, T0 - 900 * MS, flags=Flag.WATCHED) for n in (5, 6)))
    scheduler = ScanScheduler(200 * MS)
    scheduler.scanned(T0, watched)
    assert scheduler.next_scan_ns(T0) == T0 + 180 * MS
    scheduler.scanned(T0 + 180 * MS, scan(), complete=False)
    assert scheduler.next_scan_ns(T0) == T0 + 360 * MS
    scheduler.stirred()
    assert scheduler.next_scan_ns(T0) == T0 + 270 * MS
    scheduler.scanned(T0 + 270 * MS, scan(), complete=False)
    assert scheduler.next_scan_ns(T0) == T0 + 360 * MS, "not quiet before it is seen to be"


@pytest.mark.parametrize("flags", [0, Flag.GIL])
def test_a_sleep_without_a_watch_keeps_scans_frequent(flags: int) -> None:
    scheduler = ScanScheduler(1000 * MS)
    one = sample(5, T0, T0 - 1900 * MS, flags=Flag.WATCHED)
    scheduler.scanned(T0, scan(one, sample(6, T0, T0 - 1900 * MS, flags=flags)))
    assert scheduler.next_scan_ns(T0) == T0 + (20 if flags else 100) * MS


def test_a_thread_that_sleeps_anew_crosses_later() -> None:
    scheduler = ScanScheduler(200 * MS)
    scheduler.scanned(T0, scan(sample(5, T0, T0 - 20 * MS)))
    t = T0 + 90 * MS
    scheduler.scanned(t, scan(sample(5, t, t - 130 * MS)), complete=False)
    assert scheduler.next_scan_ns(t) == t + 70 * MS


def test_close_crossings_share_one_scan_and_scans_keep_apart() -> None:
    scheduler = ScanScheduler(200 * MS)
    starts = [150, 148, 147, 140]  # cross in 50, 52, 53 and 60 ms
    scheduler.scanned(T0, scan(*(sample(i, T0, T0 - ms * MS) for i, ms in enumerate(starts))))
    assert scheduler.next_scan_ns(T0) == T0 + 53 * MS
    scheduler.scanned(T0, scan(sample(5, T0, T0 - 199 * MS)))
    assert scheduler.next_scan_ns(T0) == T0 + 5 * MS


def test_fast_while_somebody_waits_for_the_gil() -> None:
    scheduler = ScanScheduler(200 * MS)
    scheduler.scanned(T0, scan(sample(5, T0, T0 - 3 * MS, flags=Flag.GIL | Flag.WATCHED)))
    assert scheduler.next_scan_ns(T0) == T0 + 20 * MS
    running = scan(sample(5, T0, T0, state=RunState.RUNNING))
    for ms in (20, 40, 60):  # it may be between two slices of the same wait
        scheduler.scanned(T0 + ms * MS, running)
        assert scheduler.next_scan_ns(T0) == T0 + (ms + 20) * MS
    scheduler.scanned(T0 + 80 * MS, running)
    assert scheduler.next_scan_ns(T0) == T0 + 170 * MS


def test_fast_also_for_a_gil_waiter_that_is_awake_between_two_slices() -> None:
    scheduler = ScanScheduler(200 * MS)
    awake = sample(5, T0, T0, state=RunState.RUNNING, flags=Flag.GIL)
    scheduler.scanned(T0, scan(awake))
    assert scheduler.next_scan_ns(T0) == T0 + 20 * MS


def test_dear_scans_stretch_every_period() -> None:
    scheduler = ScanScheduler(200 * MS)
    gil = sample(5, T0, T0 - 3 * MS, flags=Flag.GIL)
    scheduler.scanned(T0, scan(gil, sample(6, T0, T0 - 190 * MS)), cost_ns=12 * MS)
    assert scheduler.next_scan_ns(T0) == T0 + 120 * MS
    assert scheduler.period_ns == 120 * MS


# -- DeltaFilter --------------------------------------------------------------------


def test_a_sleep_is_told_once_and_only_when_it_has_lasted() -> None:
    seen = DeltaFilter(news_after_ns=10 * MS)
    assert not len(seen.news(scan(sample(5, T0, T0 - 4 * MS)), T0))
    later = T0 + 90 * MS
    assert told(seen.news(scan(sample(5, later, T0 - 4 * MS)), later)) == [
        (5, "S", (T0 - 4 * MS) // MS)
    ]
    again = T0 + 180 * MS
    assert not len(seen.news(scan(sample(5, again, T0 - 4 * MS)), again))


def test_a_told_sleep_that_ended_is_news_whatever_came_after() -> None:
    seen = DeltaFilter()
    both = scan(sample(5, T0, T0 - 50 * MS), sample(6, T0, T0 - 50 * MS))
    assert len(seen.news(both, T0)) == 2
    t = T0 + 90 * MS
    now = scan(
        sample(5, t, t - MS, state=RunState.RUNNING),
        sample(6, t, t - 2 * MS),  # sleeps again, not for long
    )
    assert told(seen.news(now, t)) == [(5, "R", (t - MS) // MS), (6, "S", (t - 2 * MS) // MS)]
    t2 = t + 90 * MS
    after = scan(sample(5, t2, t2, state=RunState.RUNNING), sample(6, t2, t - 2 * MS))
    assert not len(seen.news(after, t2))


def test_running_threads_are_no_news() -> None:
    seen = DeltaFilter()
    for step in range(3):
        t = T0 + step * 90 * MS
        assert not len(seen.news(scan(sample(5, t, t, state=RunState.RUNNING)), t))


def test_a_sleep_told_too_early_to_be_watched_is_told_again() -> None:
    seen = DeltaFilter()
    seen.news(scan(sample(5, T0, T0 - 50 * MS)), T0)
    t = T0 + 90 * MS
    early = scan(sample(5, t, t - 2 * MS))
    assert len(seen.news(early, t)) == 1
    t2 = t + 90 * MS
    late = scan(sample(5, t2, t - 2 * MS, flags=Flag.WATCHED))
    assert seen.news(late, t2)["flags"].tolist() == [Flag.WATCHED]
    assert not len(seen.news(late, t2))


def test_gil_waiters_are_told_at_every_new_slice_and_until_they_surely_ran() -> None:
    seen = DeltaFilter()

    def look(t_ms: int, since_ms: int, cpu_us: int, *, gil: bool) -> int:
        t = T0 + t_ms * MS
        state = RunState.SLEEPING if gil else RunState.RUNNING
        flags = Flag.GIL if gil else 0
        row = sample(5, t, T0 + since_ms * MS, state=state, flags=flags, cpu_ns=cpu_us * 1000)
        return len(seen.news(scan(row), t))

    assert look(0, -1, 0, gil=True) == 1
    assert look(20, 18, 10, gil=True) == 1
    assert look(40, 40, 20, gil=False) == 1, "between two slices"
    assert look(60, 60, 30, gil=False) == 1, "and again: it may still be waiting"
    assert look(80, 78, 40, gil=True) == 1
    assert look(100, 90, 8_000, gil=False) == 1, "it ran: this one tells"
    assert look(120, 90, 28_000, gil=False) == 0


def test_an_open_slow_path_wait_is_told_at_once() -> None:
    seen = DeltaFilter()
    rows = scan(sample(9, T0, T0 - MS), sample(5, T0, T0 - MS))
    assert told(seen.news(rows, T0, np.array([False, True]))) == [(5, "S", (T0 - MS) // MS)]


def test_sleeps_older_than_the_arming_are_marked() -> None:
    seen = DeltaFilter(armed_ns=T0)
    t = T0 + 90 * MS
    news = seen.news(scan(sample(5, t, T0 - 1), sample(6, t, T0)), t)
    assert news["flags"].tolist() == [Flag.BEFORE_ATTACH, 0]


def test_vanished_threads_exit_by_inference() -> None:
    seen = DeltaFilter()
    seen.news(scan(sample(5, T0, T0 - MS), sample(6, T0, T0, state=RunState.RUNNING)), T0)
    t = T0 + 90 * MS
    news = seen.news(scan(sample(6, t, t, state=RunState.RUNNING)), t)
    assert told(news) == [(5, "gone", 0)]
    assert news["flags"].tolist() == [Flag.INFERRED]
    assert news["ts_ns"].tolist() == [t]
    assert not len(seen.news(scan(sample(6, t, t, state=RunState.RUNNING)), t))


def test_an_incomplete_scan_can_be_tolerated() -> None:
    seen = DeltaFilter(gone_after_scans=2)
    here = sample(5, T0, T0 - 50 * MS)
    assert len(seen.news(scan(here), T0)) == 1
    assert not len(seen.news(scan(), T0 + 1))
    assert not len(seen.news(scan(here), T0 + 2)), "it is back, and its sleep was told"
    assert not len(seen.news(scan(), T0 + 3))
    news = seen.news(scan(), T0 + 4)
    assert told(news) == [(5, "gone", 0)]
    assert news["ts_ns"].tolist() == [T0 + 3], "when it was first missed"


def test_a_scan_that_leaves_threads_out_says_nothing_of_them() -> None:
    seen = DeltaFilter()
    rows = scan(sample(5, T0, T0 - 50 * MS), sample(6, T0, T0, state=RunState.RUNNING))
    assert told(seen.news(rows, T0)) == [(5, "S", (T0 - 50 * MS) // MS)]
    t = T0 + 90 * MS
    light = scan(sample(4, t, t - 20 * MS), sample(6, t, t - 30 * MS))
    assert [tid for tid, _, _ in told(seen.news(light, t, complete=False))] == [4, 6]
    assert seen.threads == 3
    t2 = t + 90 * MS
    later = scan(sample(4, t2, t - 20 * MS), sample(5, t2, T0 - 50 * MS))
    assert told(seen.news(later, t2)) == [(6, "gone", 0)]


def test_known_exits_are_not_inferred() -> None:
    seen = DeltaFilter()
    rows = scan(sample(5, T0, T0), sample(6, T0, T0), sample(7, T0, T0, pid=2))
    seen.news(rows, T0)
    seen.forget_threads(sample(5, T0, T0))
    seen.forget(2)
    assert told(seen.news(scan(), T0 + 1)) == [(6, "gone", 0)]


def test_same_tid_in_two_processes_is_two_threads() -> None:
    seen = DeltaFilter()
    seen.news(scan(sample(5, T0, T0 - 50 * MS, pid=1)), T0)
    both = scan(sample(5, T0 + 1, T0 - 50 * MS, pid=1), sample(5, T0 + 1, T0 - 50 * MS, pid=2))
    assert seen.news(both, T0 + 1)["pid"].tolist() == [2]


def test_ten_thousand_threads_told_once_each() -> None:
    seen = DeltaFilter()
    rows = np.zeros(10_000, PAYLOAD[Kind.THREAD_STATE])
    rows["pid"], rows["tid"], rows["ts_ns"] = 1, np.arange(10_000)[::-1], T0
    rows["since_ns"], rows["state"] = T0 - 50 * MS, RunState.SLEEPING
    assert len(np.unique(seen.news(rows, T0)["tid"])) == 10_000
    assert not len(seen.news(rows, T0 + 1))


def test_a_sleep_that_loses_its_watch_is_told_again() -> None:
    seen = DeltaFilter()
    t = T0 + 50 * MS
    first = seen.news(scan(sample(5, t, T0, flags=Flag.WATCHED)), t)
    assert len(first) == 1
    assert len(seen.news(scan(sample(5, t + MS, T0, flags=Flag.WATCHED)), t + MS)) == 0
    (again,) = seen.news(scan(sample(5, t + 2 * MS, T0)), t + 2 * MS)
    assert not again["flags"] & Flag.WATCHED


def test_voluntary_switches_count_while_a_thread_is_seen_also_past_the_end_of_the_counter() -> None:
    seen = DeltaFilter()

    def look(ms: int, *counts: int) -> int:
        rows = [sample(5 + n, T0 + ms * MS, T0) for n in range(len(counts))]
        for row, count in zip(rows, counts, strict=True):
            row["aux"] = count
        seen.news(scan(*rows), T0 + ms * MS)
        return seen.switches

    assert look(1, 1000) == 0, "what was before is not known to be recent"
    assert look(2, 1010, 77) == 10
    assert look(3, 1010, 80) == 13
    assert look(4, 2**32 - 5, 80) == 13 + 2**32 - 5 - 1010
    assert look(5, 3, 80) == 13 + 2**32 - 5 - 1010 + 8


def test_scans_that_stay_dear_are_said_to_be_slowed_and_taken_back() -> None:
    scheduler = ScanScheduler(1000 * MS)
    told = []
    for n, cost_ms in enumerate([1, 15, 1, 15, 15, 15, 15, 1, 15, 1, 1, 1, 1]):
        scheduler.scanned(T0 + n * 200 * MS, scan(sample(6, T0, T0)), cost_ns=cost_ms * MS)
        told.append(scheduler.slowed)
    assert told == [False] * 5 + [True] * 6 + [False] * 2


def test_a_scan_that_is_hurried_comes_as_soon_as_the_last_ones_cost_allows() -> None:
    scheduler = ScanScheduler(200 * MS)
    scheduler.scanned(T0, scan(sample(6, T0, T0 - 900 * MS)), cost_ns=MS)
    scheduler.hurry()
    assert scheduler.next_scan_ns(T0) == T0 + 10 * MS
