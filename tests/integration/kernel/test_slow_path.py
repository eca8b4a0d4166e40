"""Waits on real locks and on the real GIL, against what the target says of itself.

Inequalities, not tolerances: what is recorded must lie inside what the target logged
around it, and must cover what it logged within.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from probes.wire import Flag, Kind, WaitClass
from tests import interpreters
from tests.conftest import Start
from tests.integration.kernel.uprobe_session import Session, attached
from tests.interpreters import Interpreter

pytestmark = pytest.mark.kernel

TARGET = Path(__file__).parents[2] / "targets" / "slow_path_target.py"
OBJECT_HEADER = 16  # the first field of a lock object


def started(start: Start, interpreter: Interpreter) -> subprocess.Popen[bytes]:
    return start(interpreter, TARGET, ready=True, stdin=subprocess.PIPE)


def wait_of(session: Session, truth: dict[str, Any]) -> Any:
    """The one WAIT record that ended within what the target says, of that thread."""

    def found() -> Any:
        waits = session.of(Kind.WAIT)
        return waits[
            (waits["tid"] == truth["tid"])
            & (waits["wait_class"] == WaitClass.LOCK)
            & (waits["start_ns"] >= truth["start_ns"])
        ]

    session.until(lambda: len(found()), f"a wait like {truth}")
    (wait,) = found()
    assert wait["ts_ns"] <= truth["end_ns"]
    assert wait["duration_ns"] == wait["ts_ns"] - wait["start_ns"]
    return wait


def lock_addresses(pid: int, lock: int) -> tuple[int, int]:
    """Where the lock's first field stands, and what pointer is in it."""
    field = lock + OBJECT_HEADER
    with open(f"/proc/{pid}/mem", "rb") as memory:
        return field, int.from_bytes(os.pread(memory.fileno(), 8, field), "little")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all tests here, so that prices are measured once."""
    return tmp_path_factory.mktemp("cache")


@interpreters.matrix()
def test_locks_and_the_gil(interpreter: Interpreter, start: Start, cache: Path) -> None:
    process = started(start, interpreter)
    with attached(process, cache) as session:
        session.armed()
        for kind in ("Lock", "RLock"):
            one_contended_lock(session, kind, interpreter)
        one_timeout(session)
        one_gil_wait(session)
        assert not session.said("probe_failed")
        assert not session.dropped


def one_contended_lock(session: Session, kind: str, interpreter: Interpreter) -> None:
    truth = session.ask(f"lock {kind} 0.3")
    wait = wait_of(session, truth)
    assert wait["ts_ns"] >= truth["release_ns"]
    assert not wait["flags"] & Flag.TIMED_OUT
    field, pointer = lock_addresses(session.process.pid, truth["address"])
    if interpreter.version < (3, 13):
        assert wait["address"] == pointer  # a sem_t of its own
    elif interpreter.version >= (3, 14):
        assert wait["address"] == field  # a PyMutex within the object
    else:
        assert wait["address"] in (pointer, field)
    opened = session.of(Kind.WAIT_OPEN)
    opened = opened[opened["start_ns"] == wait["start_ns"]]
    assert len(opened) == 1  # a scan falls into 0.3 s; the next tell nothing new
    assert opened["address"][0] == wait["address"]


def one_timeout(session: Session) -> None:
    truth = session.ask("lock Lock 0.5 0.1")
    wait = wait_of(session, truth)
    assert bool(wait["flags"] & Flag.TIMED_OUT) is not truth["got"]


def one_gil_wait(session: Session) -> None:
    """The victim wants the GIL, once, until the hog's C code has ended."""
    truth = session.ask("gil 0.3")

    def starved() -> Any:
        waits = session.of(Kind.WAIT)
        waits = waits[(waits["tid"] == truth["tid"]) & (waits["wait_class"] == WaitClass.GIL)]
        return waits[waits["slices"] >= 4]

    session.until(lambda: len(starved()), f"a wait for the GIL like {truth}")
    session.drained()
    (wait,) = starved()
    assert wait["flags"] & Flag.GIL
    assert wait["ts_ns"] <= truth["end_ns"]
    assert wait["ts_ns"] == wait["start_ns"] + wait["duration_ns"]
    # Each slice but the last has lasted its whole 5 ms (sys.getswitchinterval).
    assert wait["duration_ns"] >= (int(wait["slices"]) - 1) * 5_000_000


@interpreters.matrix("pyenv-3.11", "pyenv-3.13")
def test_the_gil_is_known_by_symbol_where_its_address_is_not(
    interpreter: Interpreter, start: Start, cache: Path
) -> None:
    process = started(start, interpreter)
    with attached(process, cache, know_gil=False) as session:
        session.armed()
        one_gil_wait(session)


@interpreters.matrix("pyenv-3.11", "system-3.11", "chroot-3.14")
def test_a_free_lock_never_traps(interpreter: Interpreter, start: Start, cache: Path) -> None:
    process = started(start, interpreter)
    with attached(process, cache) as session:
        session.armed()
        before = session.uprobes.hits()["slow_path"]
        assert session.ask("free 1000000") == {"count": 1_000_000}
        assert (session.uprobes.hits()["slow_path"] == before).all()


@interpreters.matrix("system-3.11")
def test_perf_events_do_the_same_where_uprobe_multi_is_missing(
    interpreter: Interpreter, start: Start, cache: Path
) -> None:
    process = started(start, interpreter)
    with attached(process, cache, multi=False) as session:
        session.armed()
        truth = session.ask("lock Lock 0.2")
        assert wait_of(session, truth)["ts_ns"] >= truth["release_ns"]
        assert not session.said("probe_failed")


@interpreters.matrix("system-3.11")
def test_short_waits_are_counted_and_not_told(
    interpreter: Interpreter, start: Start, cache: Path
) -> None:
    process = started(start, interpreter)
    with attached(process, cache, min_park_ns=10_000_000_000) as session:
        session.armed()
        for _ in range(5):
            session.ask("lock Lock 0.02")

        def short_waits() -> Any:
            short = session.of(Kind.WAIT_HIST)
            return short[short["wait_class"] == WaitClass.LOCK]

        session.until(lambda: short_waits()["count"].sum() >= 5, "five short waits")
        assert len(session.of(Kind.WAIT)) == 0
        locks = short_waits()
        low = 2.0 ** locks["bucket"].astype(float) * locks["count"]
        assert (locks["total_ns"] >= low).all()
        assert (locks["total_ns"] < 2 * low).all()


@interpreters.matrix("system-3.11")
def test_too_dear_a_slow_path_is_given_up_and_the_target_lives(
    interpreter: Interpreter, start: Start, cache: Path
) -> None:
    process = started(start, interpreter)
    with attached(process, cache, budget=1e-9, alloc=False) as session:
        # At once if nobody switches while the target waits for a command, else on trial.
        session.armed()
        session.ask("lock Lock 0.02")
        (shed, *_) = session.until(
            lambda: session.said("governor", probe="slow_path", action="shed"), "shed"
        )
        assert "the budget" in shed.data["why"]
        hits = session.uprobes.hits()["slow_path"].sum()
        session.ask("lock Lock 0.02")
        session.poll()
        assert session.uprobes.hits()["slow_path"].sum() - hits < 20
        assert process.poll() is None


@interpreters.matrix("system-3.11")
def test_a_switched_off_probe_is_not_there(
    interpreter: Interpreter, start: Start, cache: Path
) -> None:
    process = started(start, interpreter)
    with attached(process, cache, slow_path=False) as session:
        truth = session.ask("lock Lock 0.05")
        session.drained()
        assert truth["got"]
        assert len(session.of(Kind.WAIT)) == 0
        assert "slow_path" not in session.source.info.probes
        assert "slow_path" not in session.uprobes.hits()


@interpreters.matrix("system-3.11")
def test_a_process_that_is_probed_anew_is_probed_once(
    interpreter: Interpreter, start: Start, cache: Path
) -> None:
    process = started(start, interpreter)
    with attached(process, cache) as session:
        session.armed()
        session.source.retarget(session.plan)
        truth = session.ask("lock Lock 0.05")
        wait = wait_of(session, truth)
        assert wait["ts_ns"] >= truth["release_ns"]
        session.drained()
        assert len(session.of(Kind.WAIT)[session.of(Kind.WAIT)["tid"] == truth["tid"]]) == 1
        assert not session.said("probe_failed")
