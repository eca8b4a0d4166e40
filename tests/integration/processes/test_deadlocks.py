"""Deadlocks of live programs: found, in time, with the right threads; and none invented."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from collector.events import Event
from tests.interpreters import Interpreter, get, matrix
from tests.observe import Attached, attached
from tests.processes import read_line, wait_until
from tracer.session import SessionOptions

Start = Callable[..., subprocess.Popen[bytes]]
TARGETS = Path(__file__).parents[2] / "targets"
SORTS = ("locks 2", "mixed 3", "locks 10", "joins", "itself", "feed", "pool", "gil")
MS = 1_000_000
BACKENDS = pytest.mark.parametrize(
    "backend",
    [
        pytest.param("proc", marks=pytest.mark.ptrace),
        pytest.param("bcc", marks=pytest.mark.kernel),
    ],
)


def deadlocks(session: Attached) -> list[Event]:
    return [event for event in list(session.sink.events) if event.event == "deadlock"]


def named(session: Attached) -> set[str | None]:
    """The names of all that was said to be waited for."""
    events = [e for e in list(session.sink.events) if e.data.get("resource")]
    return {event.data["resource"]["name"] for event in events}


def check(event: Event, tids: list[int], sort: str) -> None:
    """The right threads, each with its stack, each held by the next."""
    cycle = {one["tid"]: one for one in event.data["cycle"]}
    assert sorted(cycle) == sorted(tids)
    assert event.data["knot"] is (sort in {"feed", "pool"})
    for one in cycle.values():
        assert one["stack"], "the waiter's stack"
        assert one["waits_on"]["type"]
    if not event.data["knot"]:
        assert {tid: one["held_by"] for tid, one in cycle.items()} == {
            tid: tids[(n + 1) % len(tids)] for n, tid in enumerate(tids)
        }


@BACKENDS
@pytest.mark.parametrize("sort", SORTS)
def test_one_that_is_as_old_as_the_hills(backend: str, sort: str, start: Start) -> None:
    process = start([sys.executable, str(TARGETS / "deadlocks.py"), *sort.split()], ready=True)
    tids = json.loads(read_line(process))["tids"]
    with attached(SessionOptions(pids=(process.pid,), backend=backend)) as session:
        wait_until(lambda: deadlocks(session), "the deadlock")
    (event,) = deadlocks(session)
    check(event, tids, sort)


@BACKENDS
@pytest.mark.parametrize("sort", ["locks 3", "feed"])
def test_one_that_begins_while_one_watches(backend: str, sort: str, start: Start) -> None:
    argv = [sys.executable, str(TARGETS / "deadlocks.py"), *sort.split(), "--hold-off"]
    process = start(argv, stdin=subprocess.PIPE, ready=True)
    tids = json.loads(read_line(process))["tids"]
    with attached(SessionOptions(pids=(process.pid,), backend=backend)) as session:
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
        wait_until(lambda: deadlocks(session), "the deadlock")
    (event,) = deadlocks(session)
    check(event, tids, sort)
    longs = [e for e in session.sink.events if e.event == "park_long" and e.tid in tids]
    assert longs, "the parks are said, too"


@pytest.mark.ptrace
@matrix()
def test_one_of_three_in_every_python(interpreter: Interpreter, start: Start) -> None:
    process = start(interpreter, TARGETS / "deadlocks.py", ["mixed", "3"], ready=True)
    tids = json.loads(read_line(process))["tids"]
    names = {f"__main__.HELD[{n}]" for n in range(3)}
    with attached(SessionOptions(pids=(process.pid,), backend="proc")) as session:
        wait_until(lambda: deadlocks(session), "the deadlock")
        wait_until(lambda: names <= named(session), "the names, at once or later")
    (event,) = deadlocks(session)
    check(event, tids, "mixed 3")
    assert {one["waits_on"]["type"] for one in event.data["cycle"]} == {"Lock", "RLock"}
    assert {one["waits_on"]["name"] for one in event.data["cycle"]} <= {*names, None}


@BACKENDS
def test_what_only_looks_like_one_is_not_said(backend: str, start: Start) -> None:
    targets = {
        start(get("system-3.11"), TARGETS / "no_deadlock.py", [name], ready=True).pid: name
        for name in ("ordered", "timed", "quiet", "joined", "fed", "released_by_others")
    }
    options = SessionOptions(pids=tuple(targets), backend=backend, duration_ns=3_000 * MS)
    with attached(options) as session:
        session.finish(10)
    waited = {targets[e.pid] for e in session.sink.events if e.event == "park_long" and e.pid}
    assert waited == set(targets.values()), "all wait for long all the time"
    assert not deadlocks(session)
