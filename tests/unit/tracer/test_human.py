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
from tracer.diagnosis import where
from tracer.human import HumanLines, Style, line, stamp

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
LOCK = {"type": "Lock", "name": "app.cache._lock", "address": "0x7f00"}
REFRESHER: dict[str, Any] = {
    "tid": 4720, "thread_name": "refresher", "how": "inside `with`", "does": "sleep",
    "stack": [
        {"function": "refresh", "file": "/srv/app/cache.py", "line": 41, "module": None},
        {"function": "run", "file": "/srv/app/main.py", "line": 9, "module": None},
    ],
}  # fmt: skip


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
            park(resource=LOCK, holder=REFRESHER, stack=STACK[2:]),
            WHO + " waits 203 ms for Lock app.cache._lock, held by refresher, which sleeps at"
            " cache.py:41 refresh ← main.py:9 run  jobs.py:41 next_job ← app.py:88 handler ←"
            " app.py:9 main",
        ),
        (
            park(resource=LOCK, holder={**REFRESHER, "does": "runs"}, stack=None),
            WHO + " waits 203 ms for Lock app.cache._lock, held by refresher, which runs"
            " cache.py:41 refresh ← main.py:9 run",
        ),
        (
            park(resource=LOCK, stack=None, before_attach=True),
            WHO + " waits 203 ms (since before the attach) for Lock app.cache._lock",
        ),
        (
            park(resource=LOCK, holder={**REFRESHER, "does": None}, stack=None),
            WHO + " waits 203 ms for Lock app.cache._lock, held by refresher",
        ),
        (
            park(resource=LOCK, holder=REFRESHER, stack=None, chain=[
                {**REFRESHER, "does": "waits",
                 "waits_on": {"type": "Thread", "name": "loader", "address": "0x1"}},
                {"tid": 9, "thread_name": "loader", "how": "runs until it ends", "stack": None,
                 "does": "recvfrom on fd 5", "waits_on": None},
            ]),
            WHO + " waits 203 ms for Lock app.cache._lock, held by refresher, which waits at"
            " cache.py:41 refresh ← main.py:9 run for Thread loader, thread 9, which is in"
            " recvfrom on fd 5",
        ),
        (
            park(resource=LOCK, holder=None, stack=None,
                 candidates=[{**REFRESHER, "how": "last seen to take it"}]),
            WHO + " waits 203 ms for Lock app.cache._lock, maybe held by refresher"
            " (last seen to take it)",
        ),
        (
            park(resource={"type": "Queue", "name": None, "address": "0x7f"}, stack=None),
            WHO + " waits 203 ms for Queue 0x7f",
        ),
        (
            park(kind="gil", resource={"type": "GIL", "name": None, "address": "0x1"},
                 holder={**REFRESHER, "does": "runs"}, stack=None),
            WHO + " waits 203 ms for the GIL, held by refresher, which runs cache.py:41 refresh"
            " ← main.py:9 run",
        ),
        (
            park("park_end", resource=LOCK, end="woken", stack=None,
                 waker={"pid": 4711, "tid": 9, "same_process": True, "why": "thread",
                        "thread_name": "refresher", "stack": REFRESHER["stack"][:1]}),
            WHO + " waited 203 ms for Lock app.cache._lock, woken by refresher at"
            " cache.py:41 refresh",
        ),
        (
            park("park_end", end="woken", stack=None,
                 waker={"pid": 9, "tid": 9, "same_process": False, "why": "signal",
                        "thread_name": None, "stack": None}),
            WHO + " was parked 203 ms in lock 0x7f00, woken by a signal of process 9",
        ),
        (
            park("resource_named", resource=LOCK),
            WHO + " still waits, for Lock app.cache._lock",
        ),
        (
            Event("deadlock", 0, pid=7, duration_ns=212_000_000, data={"knot": False, "cycle": [
                {"tid": 1, "thread_name": "left", "stack": STACK[2:3], "waits_on": LOCK,
                 "held_by": 2},
                {"tid": 2, "thread_name": None, "stack": None,
                 "waits_on": {"type": "RLock", "name": None, "address": "0x9"}, "held_by": 1},
            ]}),
            ("DEADLOCK of 2 threads in 7 for 212 ms: left waits at jobs.py:41 next_job for Lock"
             " app.cache._lock, held by thread 2; thread 2 waits for RLock 0x9, held by left"),
        ),
        (
            Event("deadlock", 0, pid=7, data={"knot": True, "cycle": [
                {"tid": 1, "thread_name": "main", "stack": None, "held_by": None,
                 "waits_on": {"type": "Queue", "name": "app.q", "address": "0x9"}}] * 12}),
            "DEADLOCK of 12 threads in 7, no thread is left that could end it: "
            + "main waits for Queue app.q; " * 10 + "and 2 more",
        ),
        (
            park(kind="gil", stack=[{"function": "f", "file": "a.py", "line": None}]),
            WHO + " waits 203 ms for the GIL  a.py f",
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
            Event("trigger", 0, data={"trigger": "stuck", "park_id": 3,
                                      "actions": ["keep", "exec"]}),
            "trigger stuck fires by park 3: keep, exec",
        ),
        (
            Event("action", 0, data={"trigger": "t", "action": "exec", "status": "skipped",
                                     "why": "the breaker is open", "count": 1200}),
            "exec of t skipped 1,200 times: the breaker is open",
        ),
        (
            Event("action", 0, data={"trigger": "t", "action": "exec", "status": "failed",
                                     "why": "no \x1b[1m"}),
            "exec of t failed: no \\x1b[1m",
        ),
        (
            Event("action", 0, data={
                "trigger": "t", "action": "heap-dump", "status": "done", "why": None,
                "result": {"path": "a-1.heap", "freeze_after_crossing_ns": 21_000_000,
                           "park_still_on": True, "engine": "clone", "pause_ns": 640_000}}),
            "heap-dump of t done: a-1.heap, frozen 21 ms after the crossing, paused 640 µs",
        ),
        (
            Event("action", 0, data={
                "trigger": "t", "action": "heap-dump", "status": "done", "why": None,
                "result": {"path": "a", "freeze_after_crossing_ns": 2_000_000_000,
                           "park_still_on": None, "engine": "precopy"}}),
            ("heap-dump of t done: a, frozen 2.00 s after the crossing, perhaps after the park "
            "(precopy copies first)"),
        ),
        (
            Event("breaker", 0, data={"name": "action:t/exec", "from": "closed", "to": "open",
                                      "why": "it failed"}),
            "breaker action:t/exec open: it failed",
        ),
        (Event("breaker", 0, data={"name": "probe:wakes", "to": "open", "why": ""}), None),
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


def test_the_line_of_the_programs_own_code_is_shown_where_it_may_be() -> None:
    asked = []

    def source(pid: int, file: str, number: int) -> str | None:
        asked.append((pid, file, number))
        return "with self.\x1b[31mlock:"

    said = line(park(), Style(source=source)) or ""
    assert said.endswith("app.py:88 handler  | with self.\\x1b[31mlock:")
    assert asked == [(4711, "/srv/app/jobs.py", 41)]
    assert line(park(), Style(source=lambda *_: None)) == line(park(), Style())
    assert line(park("park_end"), Style(source=source)) == line(park("park_end"), Style())
    assert line(park(stack=STACK[:2]), Style(source=source)) == line(park(stack=STACK[:2]), Style())


def test_a_place_leads_from_the_wait_through_packages_to_the_program() -> None:
    site = "/venv/lib/python3.11/site-packages"
    stack = [
        {"function": function, "file": file, "line": 1}
        for function, file in (
            ("wait", f"{LIB}/threading.py"), ("get", f"{site}/sqlalchemy/util/queue.py"),
            ("_do_get", f"{site}/sqlalchemy/pool/impl.py"), ("connect", f"{site}/x/base.py"),
            ("users", "/srv/app/__init__.py"), ("main", "/srv/app/run.py"),
        )
    ]  # fmt: skip
    assert where(stack) == (
        "threading.py:1 wait ← queue.py:1 get ← impl.py:1 _do_get ← … app/__init__.py:1 users"
    )
    assert where(stack[1:3]) == "queue.py:1 get ← impl.py:1 _do_get"
    assert where(stack[4:]) == "app/__init__.py:1 users ← run.py:1 main"


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


def test_a_name_is_said_once_for_all_who_wait_for_the_thing() -> None:
    stream = io.StringIO()
    sink = HumanLines(stream, Style())
    other = {**LOCK, "name": "app.other"}
    sink.on_events([park("resource_named", resource=LOCK, tid=n) for n in (1, 2)])
    sink.on_events([park("resource_named", resource=one, tid=3) for one in (LOCK, other)])
    said = stream.getvalue().splitlines()
    assert [text.rpartition(" ")[2] for text in said] == ["app.cache._lock", "app.other"]


def test_why_nothing_is_done_is_said_once() -> None:
    stream = io.StringIO()
    skipped = {"trigger": "t", "action": "exec", "status": "skipped", "count": 3}
    whys = ("cooldown of 5 min", "cooldown of 5 min", "the breaker is open")
    sink = HumanLines(stream, Style())
    sink.on_events([Event("action", 0, data={**skipped, "why": why}) for why in whys])
    assert [text.rpartition(": ")[2] for text in stream.getvalue().splitlines()] == [*whys[1:]]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
KEYS = ("stack", "resource", "waker", "syscall", "fd", "end", "totals", "why", "backend", "python",
        "size_bytes", "exit_code",
        "holder", "candidates", "chain", "cycle", "knot", "child_pid",
        "idle_reason", "count", "record_kind",
        "trigger", "action", "actions", "status", "on", "park_id", "name", "to",
        "result")  # fmt: skip


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
