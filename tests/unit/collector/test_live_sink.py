"""The live picture follows records and events; a picture once taken never changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from collector.counters import Counters
from collector.events import Event
from collector.sinks.live import PUBLISH_NS, RECENT_EVENTS, LiveSink, LiveThread
from probes.wire import Flag, Kind, RunState, WaitClass, empty, make

MS = 1_000_000
PID, TID = 7, 8


def state(ts_ns: int, since_ns: int, syscall: int = 202, tid: int = TID, **more: Any) -> Any:
    fields: dict[str, Any] = {"state": RunState.SLEEPING, "arg0": 0x1000, **more}
    return make(
        Kind.THREAD_STATE,
        ts_ns=ts_ns,
        pid=PID,
        tid=tid,
        since_ns=since_ns,
        syscall=syscall,
        **fields,
    )


def long_park(name: str = "park_long", park_id: int = 1, **more: Any) -> Event:
    common: dict[str, Any] = {
        "ts_ns": 300 * MS, "thread_name": "worker", "kind": "lock", "idle": False,
        "start_ns": 50 * MS, "duration_ns": 250 * MS,
    }  # fmt: skip
    data = {"park_id": park_id, "stack": None, "idle_reason": None}
    for key, value in more.items():
        (common if key in common else data)[key] = value
    return Event(name, pid=PID, tid=TID, data=data, **common)


class Feed:
    """A sink, and the thread that a test is about as the latest picture has it."""

    def __init__(self) -> None:
        self.names: dict[int, str] = {}
        self.sink = LiveSink(lambda _pid, tid: self.names.get(tid))
        self.now_ns = 1000 * MS

    def records(self, *records: Any) -> LiveThread | None:
        self.now_ns += PUBLISH_NS
        self.sink.on_records(np.concatenate([empty(), *records]), {}, self.now_ns)
        return self.thread()

    def events(self, *events: Event) -> LiveThread | None:
        self.sink.on_events(events)
        return self.thread()

    def thread(self) -> LiveThread | None:
        found = [thread for thread in self.sink.snapshot.threads if thread.tid == TID]
        assert len(found) <= 1
        return found[0] if found else None


@pytest.fixture
def feed() -> Feed:
    return Feed()


@pytest.mark.parametrize(
    ("syscall", "arg0", "flags", "kind", "data"),
    [
        (202, 0x1000, 0, "lock", {"syscall": "futex", "address": "0x1000"}),
        (202, 0x1000, Flag.GIL, "gil", {"address": "0x1000"}),
        (45, 5, 0, "io", {"syscall": "recvfrom", "fd": 5}),
        (230, 0, 0, "sleep", {"syscall": "clock_nanosleep", "fd": None}),
        (-1, 0, 0, "other", {"syscall": None}),
    ],
)
def test_a_blocked_thread_shows_what_it_waits_on(
    feed: Feed, syscall: int, arg0: int, flags: int, kind: str, data: dict[str, Any]
) -> None:
    shown = feed.records(state(9 * MS, 4 * MS, syscall, arg0=arg0, flags=flags))
    assert shown is not None
    assert (shown.kind, shown.since_ns, shown.long) == (kind, 4 * MS, False)
    flat = {**shown.data, **(shown.data.get("resource") or {})}
    assert data.items() <= flat.items()


def test_a_wake_a_run_and_a_new_sleep(feed: Feed) -> None:
    feed.records(state(9 * MS, 4 * MS))
    woken = feed.records(make(Kind.WAKE, ts_ns=20 * MS, pid=PID, tid=TID))
    assert woken is not None
    assert (woken.kind, woken.since_ns) == (None, 20 * MS)
    running = feed.records(state(30 * MS, 25 * MS, state=RunState.RUNNING))
    assert running is not None
    assert (running.kind, running.since_ns) == (None, 20 * MS)
    again = feed.records(state(50 * MS, 40 * MS, 45, arg0=3))
    assert again is not None
    assert (again.kind, again.since_ns) == ("io", 40 * MS)


def test_records_of_one_batch_are_told_in_the_order_of_time(feed: Feed) -> None:
    wake = make(Kind.WAKE, ts_ns=20 * MS, pid=PID, tid=TID)
    shown = feed.records(wake, state(50 * MS, 40 * MS), state(9 * MS, 4 * MS))
    assert shown is not None
    assert (shown.kind, shown.since_ns) == ("lock", 40 * MS)


def test_slices_of_one_gil_wait_keep_its_begin(feed: Feed) -> None:
    feed.records(state(9 * MS, 4 * MS, flags=Flag.GIL))
    shown = feed.records(state(15 * MS, 14 * MS, flags=Flag.GIL))
    assert shown is not None
    assert (shown.kind, shown.since_ns) == ("gil", 4 * MS)


def test_an_open_slow_path_wait_names_the_lock(feed: Feed) -> None:
    shown = feed.records(
        make(
            Kind.WAIT_OPEN, ts_ns=9 * MS, pid=PID, tid=TID, start_ns=3 * MS, address=0xABC,
            wait_class=WaitClass.LOCK,
        )
    )  # fmt: skip
    assert shown is not None
    assert (shown.kind, shown.since_ns) == ("lock", 3 * MS)
    assert shown.data["resource"]["address"] == "0xabc"


def test_a_long_park_is_what_the_detector_says_until_it_says_that_it_is_over(feed: Feed) -> None:
    feed.records(state(60 * MS, 50 * MS))
    shown = feed.events(long_park(idle=True))
    assert shown is not None
    assert (shown.long, shown.idle, shown.thread_name) == (True, True, "worker")
    shown = feed.records(make(Kind.WAKE, ts_ns=310 * MS, pid=PID, tid=TID))
    assert shown is not None
    assert shown.long
    shown = feed.events(long_park("park_end", ts_ns=320 * MS, duration_ns=260 * MS))
    assert shown is not None
    assert (shown.long, shown.kind, shown.since_ns) == (False, None, 310 * MS)


def test_a_new_wait_of_the_same_batch_survives_the_end_of_the_old_one(feed: Feed) -> None:
    feed.records(state(60 * MS, 50 * MS))
    feed.events(long_park())
    feed.records(make(Kind.WAKE, ts_ns=310 * MS, pid=PID, tid=TID), state(340 * MS, 330 * MS, 45))
    shown = feed.events(long_park("park_end", duration_ns=260 * MS))
    assert shown is not None
    assert (shown.kind, shown.since_ns, shown.long) == ("io", 330 * MS, False)


def test_the_end_of_another_park_changes_nothing(feed: Feed) -> None:
    feed.events(long_park(park_id=2))
    shown = feed.events(long_park("park_end", park_id=1))
    assert shown is not None
    assert shown.long


def test_threads_and_processes_go(feed: Feed) -> None:
    feed.records(state(9 * MS, 4 * MS), state(9 * MS, 4 * MS, tid=9))
    assert feed.records(make(Kind.THREAD_EXIT, ts_ns=20 * MS, pid=PID, tid=TID)) is None
    assert len(feed.sink.snapshot.threads) == 1
    feed.records(make(Kind.PROC_EXIT, ts_ns=30 * MS, pid=PID, tid=PID))
    assert not feed.sink.snapshot.threads


def test_a_reused_tid_is_another_thread(feed: Feed) -> None:
    feed.names[TID] = "old"
    feed.records(state(9 * MS, 4 * MS))
    feed.events(long_park(thread_name="old"))
    feed.names[TID] = "new"
    shown = feed.records(make(Kind.THREAD_START, ts_ns=20 * MS, pid=PID, tid=TID))
    assert shown is not None
    assert (shown.thread_name, shown.long, shown.kind) == ("new", False, None)


def test_a_name_is_asked_for_again_while_there_is_none(feed: Feed) -> None:
    shown = feed.records(state(9 * MS, 4 * MS))
    assert shown is not None
    assert shown.thread_name is None
    feed.names[TID] = "late"
    feed.sink.on_health(Counters(), feed.now_ns)
    shown = feed.thread()
    assert shown is not None
    assert shown.thread_name == "late"


def test_what_a_person_should_see_is_kept_and_bounded(feed: Feed) -> None:
    feed.events(Event("attached", 1, pid=PID, data={"backend": "mock"}))
    for count in range(RECENT_EVENTS + 5):
        feed.events(Event("data_loss", 2, data={"count": count}))
    feed.events(Event("detached", 3, data={"why": "stopped"}))
    snapshot = feed.sink.snapshot
    assert [event.event for event in snapshot.attached] == ["attached"]
    assert [event.data["count"] for event in snapshot.news][-1] == RECENT_EVENTS + 4
    assert len(snapshot.news) == RECENT_EVENTS
    assert snapshot.ended is not None


def test_a_picture_is_made_ten_times_a_second_and_does_not_change(feed: Feed) -> None:
    feed.records(state(9 * MS, 4 * MS))
    before = feed.sink.snapshot
    feed.sink.on_records(state(10 * MS, 4 * MS, tid=99), {}, feed.now_ns + 1)
    assert feed.sink.snapshot is before
    feed.sink.on_health(Counters(scans=3), feed.now_ns + 2)
    assert feed.sink.snapshot.totals["scans"] == 3
    assert len(feed.sink.snapshot.threads) == 2
    assert len(before.threads) == 1


def test_of_many_records_of_a_thread_the_last_one_counts(feed: Feed) -> None:
    waits = [
        make(Kind.WAIT, ts_ns=n, pid=PID, tid=TID, start_ns=n - 1, wait_class=WaitClass.LOCK)
        for n in range(1, 2001)
    ]
    shown = feed.records(*waits, state(3000, 2500))
    assert shown is not None
    assert (shown.kind, shown.since_ns) == ("lock", 2500)
    shown = feed.records(state(4000, 3500), make(Kind.WAIT, ts_ns=5000, pid=PID, tid=TID))
    assert shown is not None
    assert (shown.kind, shown.since_ns) == (None, 5000)


def test_breakers_that_keep_something_back_are_shown(feed: Feed) -> None:
    def breaker(name: str, state: str) -> Event:
        return Event("breaker", 0, data={"name": name, "from": "", "to": state, "why": ""})

    feed.events(breaker("action:a/exec", "open"), breaker("probe:wakes", "closed"))
    shown = [feed.sink.snapshot.breakers]
    for state_ in ("half-open", "closed"):
        feed.events(breaker("action:a/exec", state_))
        shown.append(feed.sink.snapshot.breakers)
    assert shown == [(("action:a/exec", "open"),), (("action:a/exec", "half-open"),), ()]
    assert [event.data["to"] for event in feed.sink.snapshot.news][-1] == "closed"
