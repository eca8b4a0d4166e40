"""Each event reads as an engineer would say it; nothing from the target gets through raw."""

from __future__ import annotations

import io
from datetime import UTC, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.counters import Counters
from collector.events import EVENTS, Event
from tracer.human import HumanLines, Style, line, stamp, where

S = 1_000_000_000
WHO = "worker-3 (4711/4718)"
LIB = "/usr/lib/python3.11"
STACK = [
    {"function": function, "file": file, "line": number, "module": None}
    for function, file, number in (
        ("Queue.get", f"{LIB}/queue.py", 171),
        ("Condition.wait", f"{LIB}/threading.py", 320),
        ("next_job", "/srv/app/jobs.py", 41),
        ("handler", "/srv/app/app.py", 88),
        ("main", "/srv/app/app.py", 9),
    )
]


def park(event: str = "park_long", **more: Any) -> Event:
    common: dict[str, Any] = {
        "ts_ns": 10 * S, "pid": 4711, "tid": 4718, "thread_name": "worker-3", "kind": "lock",
        "idle": False, "start_ns": 9 * S, "duration_ns": 203_000_000, "before_attach": False,
    }  # fmt: skip
    data: dict[str, Any] = {
        "park_id": 1, "source": "slow_path", "syscall": "futex", "fd": None,
        "resource": {"type": "lock", "name": None, "address": "0x7f00"}, "python": True,
        "stack": STACK, "stack_torn": False, "idle_reason": None,
    }  # fmt: skip
    for key, value in more.items():
        (common if key in common else data)[key] = value
    return Event(event, data=data, **common)


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (
            park(),
            (WHO + " parked 203 ms and counting in lock 0x7f00  "
            "queue.py:171 Queue.get ← … jobs.py:41 next_job ← app.py:88 handler"),
        ),
        (
            park("park_end", kind="io", syscall="recvfrom", fd=7, resource=None, stack=None,
                 duration_ns=1_520_000_000, end="woken",
                 waker={"pid": 4711, "tid": 4720, "same_process": True}),
            WHO + " was parked 1.52 s in io recvfrom fd 7, woken by 4720",
        ),
        (
            park("park_end", end="woken", stack=[],
                 waker={"pid": 9, "tid": 10, "same_process": False}),
            WHO + " was parked 203 ms in lock 0x7f00, woken by process 9",
        ),
        (
            park("park_end", end="lost", stack=None, waker=None),
            WHO + " was parked at least 203 ms in lock 0x7f00",
        ),
        (
            park("park_end", end="timed_out", stack=None, waker=None, before_attach=True),
            WHO + " was parked 203 ms in lock 0x7f00, timed out, since before the attach",
        ),
        (
            park(kind="gil", stack=[{"function": "f", "file": "a.py", "line": None}]),
            WHO + " parked 203 ms and counting, waiting for the GIL  a.py f",
        ),
        (
            park(kind="sleep", syscall="clock_nanosleep", resource=None, stack=None,
                 thread_name=None, python=False),
            "thread 4711/4718 parked 203 ms and counting in sleep clock_nanosleep  [native thread]",
        ),
        (
            Event("data_loss", 0, data={"where": "kernel", "record_kind": "wake", "count": 12}),
            "lost 12 wake records (kernel): parks may be missing",
        ),
        (Event("process_exit", 0, pid=7, data={"exit_code": 3 << 8}), "7 exited with 3"),
        (Event("process_exit", 0, pid=7, data={"exit_code": 9}), "7 was killed by signal 9"),
        (Event("process_exit", 0, pid=7), "7 ended"),
        (Event("process_exec", 0, pid=7), "7 replaced its program"),
        (Event("process_fork", 0, pid=7, data={"child_pid": 8}), None),
        (
            Event("process_fork", 0, pid=7, data={"child_pid": 8, "followed": True}),
            "7 forked 8, which is followed",
        ),
        (
            Event("probe_failed", 0, data={"probe": "alloc", "why": "no site"}),
            "probe alloc could not be attached: no site",
        ),
        (
            Event("governor", 0, data={"probe": "slow_path", "action": "shed", "why": "costs 2 %"}),
            "governor: slow_path shed: costs 2 %",
        ),
        (
            Event("large_alloc", 0, pid=1, tid=2, data={"size_bytes": 1 << 20, "api": "malloc"}),
            "thread 1/2 allocated 1.0 MiB (malloc)",
        ),
        (
            Event("attached", 0, pid=7,
                  data={"backend": "bcc", "why": "the best", "python": "3.11.7"}),
            "attached to 7 by bcc, CPython 3.11.7 (the best)",
        ),
    ],
)  # fmt: skip
def test_what_is_said(event: Event, said: str | None) -> None:
    assert line(event, Style()) == said


def test_totals_at_the_end() -> None:
    counters = Counters(
        idle_parks=5, large_allocs=2, large_alloc_bytes=3 << 20, scans=10, scan_cost_ns=260_000,
        own_cpu_ns=42_000_000, elapsed_ns=10 * S,
    )  # fmt: skip
    counters.parks.update(lock=10, io=2)
    counters.long_parks.update(lock=2, io=1)
    counters.received.update({1: 1000})
    counters.dropped.update({3: 7})
    event = Event("detached", 0, data={"why": "duration over", "totals": counters.to_dict()})
    assert line(event, Style()) == (
        "detached after 10.0 s (duration over): 12 parks, 3 long (2 lock, 1 io), 5 of them idle; "
        "2 large allocations, 3.0 MiB; 7 records LOST of 1,007; "
        "own cost 0.42 % of a core, 10 scans of 26 µs"
    )


def test_idle_parks_are_hidden_unless_asked_for() -> None:
    event = park(idle=True, idle_reason="ThreadPoolExecutor worker", stack=None)
    assert line(event, Style()) is None
    assert line(event, Style(idle=True)) == (
        WHO + " parked 203 ms and counting in lock 0x7f00  [idle: ThreadPoolExecutor worker]"
    )


def test_colour_only_when_asked_for() -> None:
    assert "\x1b" not in (line(park(), Style()) or "")
    coloured = line(park(), Style(colour=True)) or ""
    assert coloured.startswith("\x1b[1m\x1b[31m")
    assert coloured.endswith("\x1b[0m")


def test_the_time_of_day_and_the_time_since() -> None:
    noon = 12 * 3600 * S
    assert stamp(5_412_999_999, Style(noon, UTC), 0) == "12:00:05.412"
    assert stamp(5 * S, Style(noon, timezone(timedelta(hours=2))), 0) == "14:00:05.000"
    assert stamp(5_412_000_000, Style(), 5 * S) == "   +0.412 s"


def test_a_stack_may_be_anything() -> None:
    assert where(None) == where("x") == where([]) == where([1, None]) == ""
    assert where([{"file": None, "function": None}]) == "None None"


def test_the_sink_writes_lines_per_batch_and_nothing_for_numbers() -> None:
    stream = io.StringIO()
    sink = HumanLines(stream, Style())
    sink.on_events(
        [park(stack=None), Event("totals", 11 * S), park("park_end", stack=None, end="woken")]
    )
    sink.on_health(Counters(), 12 * S)
    sink.close()
    assert [text[:31] for text in stream.getvalue().splitlines()] == [
        "   +0.000 s  worker-3 (4711/471",
        "   +0.000 s  worker-3 (4711/471",
    ]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
KEYS = ("stack", "resource", "waker", "syscall", "fd", "end", "totals", "why", "backend", "python",
        "size_bytes", "exit_code", "child_pid", "idle_reason", "count", "record_kind")  # fmt: skip


@given(
    st.sampled_from(sorted(EVENTS)),
    st.none() | st.text(max_size=50),
    st.none() | st.text(max_size=8),
    st.none() | st.booleans(),
    st.dictionaries(st.sampled_from(KEYS), JSON),
)
def test_any_event_of_a_trace_makes_at_most_one_printable_line(
    name: str, thread_name: str | None, kind: str | None, idle: bool | None, data: dict[str, Any]
) -> None:
    event = Event(name, 5, 1, 2, thread_name, kind, idle, 3, 4, True, data)
    said = line(event, Style(idle=True))
    assert said is None or said.replace("\u2190", "").isprintable()
