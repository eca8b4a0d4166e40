"""Issue 5, line 1: the heap of the moment, a burst of parks, what is given up and taken back."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from tests.full import Figure, NotMeasured, at_most, exactly, must_show
from tests.interpreters import get, interpreters
from tests.processes import wait_until
from tests.triggering import (
    ORDERS,
    SORTS,
    WAITER,
    Watched,
    of_all_sorts,
    provoke,
    rules,
    watched,
    wrong_in,
)
from tracer.triggers.engine import Triggers

MEMBERS = [one for one in interpreters() if one.version[:2] >= (3, 11)]
DUMPS = 10
BURST, BURSTS = 1000, 5
OFTEN = 'cooldown = "1ms"\nper_hour = 1000\nbreaker_rest = "300ms"\n'
LOOP_CALLS = ("on_events", "on_health", "tend")


@must_show("the dump of a long park", issue=5, line=1)
def the_moment() -> Iterator[Figure]:
    if os.geteuid():
        raise NotMeasured("needs root")
    for interpreter in MEMBERS:
        after_ms, wrong = [], []
        text = f"[[trigger]]\non='{WAITER}'\n{OFTEN}do=[{{heap-dump=true, engine='clone'}}]\n"
        with (
            tempfile.TemporaryDirectory() as folder,
            watched(interpreter, rules(Path(folder), text)) as watch,
        ):
            for number in range(1, DUMPS + 1):
                facts = watch.tell("park 0.6")
                said = watch.wait_for("action", number, status="done")[-1]
                (park,) = watch.events("park_long", park_id=said.data["park_id"])
                result = said.data["result"]
                wrong += wrong_in(Path(result["path"]), facts, park)
                wrong += [] if result["park_still_on"] is True else ["not known to be on"]
                after_ms.append(result["freeze_after_crossing_ns"] / 1e6)
                Path(result["path"]).unlink()
                watch.answer()
        note = f"{DUMPS} parks, median {median(after_ms):.0f} ms, by clone"
        yield Figure(max(after_ms), f"{interpreter.id}: longest from crossing to freeze, ms",
                     at_most(100, "ms"), note)  # fmt: skip
        yield Figure(len(wrong), f"{interpreter.id}: frames, lock, holder not as the target says",
                     exactly(0), "; ".join(wrong[:3]))  # fmt: skip


@must_show("stalls, deadlocks, memory and threads set off triggers", issue=5, line=1)
def all_sorts() -> Iterator[Figure]:
    for backend in ("proc",) if os.geteuid() else ("proc", "bcc"):
        wrong = []
        for interpreter in MEMBERS:
            with (
                tempfile.TemporaryDirectory() as folder,
                watched(interpreter, of_all_sorts(Path(folder)), backend, ORDERS) as watch,
            ):
                provoke(watch)
                watch.wait_for("action", len(SORTS), status="done")
                fired = sorted(event.data["trigger"] for event in watch.events("trigger"))
            wrong += [] if fired == sorted(SORTS) else [f"{interpreter.id}: {fired}"]
        yield Figure(len(wrong), f"{backend}: interpreters on which not each fired once",
                     exactly(0), "; ".join(wrong) or f"{len(MEMBERS)} interpreters")  # fmt: skip


@contextmanager
def _timed() -> Iterator[list[float]]:
    """How long each call of the loop to the triggers takes, in ms."""
    took: list[float] = []
    before = {name: getattr(Triggers, name) for name in LOOP_CALLS}

    def timed(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any) -> Any:
            began = time.perf_counter()
            try:
                return call(*arguments)
            finally:
                took.append((time.perf_counter() - began) * 1e3)

        return wrapped

    for name, call in before.items():
        setattr(Triggers, name, timed(call))
    try:
        yield took
    finally:
        for name, call in before.items():
            setattr(Triggers, name, call)


@must_show("a burst of parks", issue=5, line=1)
def burst() -> Iterator[Figure]:
    if os.geteuid():
        raise NotMeasured("needs root")
    said = [_burst() for _ in range(BURSTS)]
    frozen_ms = [one.frozen_ms for one in said]
    yield Figure(max(one.dumps for one in said), f"{BURST} parks at once: dumps", exactly(1))
    yield Figure(sum(one.unsaid for one in said), "parks not said", exactly(0))
    yield Figure(sum(one.lost for one in said), "records lost meanwhile", exactly(0))
    note = f"{BURSTS} bursts, median {median(frozen_ms):.0f} ms"
    yield Figure(max(frozen_ms), "longest from the crossing to the freeze, ms",
                 at_most(100, "ms"), note)  # fmt: skip
    took = [ms for one in said for ms in one.took_ms]
    yield Figure(max(took), "longest that the triggers kept the loop, ms", at_most(20, "ms"),
                 f"{len(took)} calls, median {median(took):.3f} ms")  # fmt: skip


@dataclass(frozen=True)
class _Burst:
    """How one went. ``frozen_ms``: from the crossing of the park that fired."""

    dumps: int
    unsaid: int
    lost: int
    frozen_ms: float
    took_ms: list[float]


def _burst() -> _Burst:
    text = f"[[trigger]]\non='{WAITER}'\ndo=[{{heap-dump=true, engine='clone'}}]\n"
    with tempfile.TemporaryDirectory() as folder, _timed() as took:
        with watched(get("system-3.11"), rules(Path(folder), text)) as watch:
            facts = watch.tell(f"burst {BURST} 4")
            (said,) = watch.wait_for("action", status="done")
            watch.answer()
            wait_until(lambda: len(_of_waiters(watch, "park_end")) >= BURST, "all ends", 30)
        dumps = len(list(Path(folder).glob("*.heap")))
    known = {event.tid for event in _of_waiters(watch, "park_long")}
    counters = watch.session.sink.counters
    return _Burst(
        dumps,
        len(set(facts["waiters"]) - known),
        sum(counters.dropped.values()) + counters.malformed if counters else -1,
        said.data["result"]["freeze_after_crossing_ns"] / 1e6,
        took,
    )


def _of_waiters(watch: Watched, name: str) -> list[Any]:
    return [event for event in watch.events(name) if event.thread_name == "waiter"]


@must_show("what fails is left alone for a while", issue=5, line=1)
def breakers() -> Iterator[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        disk = Path(folder, "disk")
        disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=2m,mode=700", "none", str(disk)]
        if subprocess.run(mount, check=False).returncode:
            raise NotMeasured("no file system can be mounted here")
        try:
            ballast = disk / "ballast"
            ballast.write_bytes(b"\1" * (2 << 20))
            do = f"{{heap-dump='{disk}', min_free=0}}"
            yield _breaker(Path(folder), "heap-dump", do, ballast.unlink)
        finally:
            subprocess.run(["umount", "-l", str(disk)], check=True)
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "program")
        _script(program, "exit 3")
        do = f"{{exec=['{program}']}}"
        yield _breaker(Path(folder), "exec", do, lambda: _script(program, "cat >/dev/null"))


def _script(place: Path, words: str) -> None:
    beside = place.with_suffix(".new")
    beside.write_text(f"#!/bin/sh\n{words}\n")
    beside.chmod(0o700)
    beside.rename(place)


def _breaker(folder: Path, action: str, do: str, repair: Callable[[], Any]) -> Figure:
    """Fail until it opens, repair, and go on until it closes."""
    text = f"[[trigger]]\nname='t'\non='{WAITER}'\n{OFTEN}do=[{do}]\n"
    name = f"action:t/{action}"
    with watched(get("system-3.11"), rules(folder, text)) as watch:

        def turned(state: str) -> bool:
            watch.tell("park 0.3")
            watch.answer()
            return bool(watch.events("breaker", name=name, to=state))

        wait_until(lambda: turned("open"), "the breaker to open", 60)
        repair()
        wait_until(lambda: turned("closed"), "its probe to close it", 60)
    states = [event.data["to"] for event in watch.events("breaker", name=name)]
    right = states[0] == "open" and states[-2:] == ["half-open", "closed"]
    return Figure(int(not right), f"{action}: opened by failures, closed by its probe (0: yes)",
                  exactly(0), " → ".join(states))  # fmt: skip
