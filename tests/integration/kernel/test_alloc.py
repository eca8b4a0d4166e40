"""Allocation probes against the target's own list of requests and CPython's own statistics."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from probes.wire import AllocApi, Kind
from tests import interpreters
from tests.conftest import Start
from tests.integration.kernel.uprobe_session import Session, attached
from tests.interpreters import Interpreter

pytestmark = pytest.mark.kernel

TARGET = Path(__file__).parents[2] / "targets" / "alloc_target.py"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all tests here, so that prices are measured once."""
    return tmp_path_factory.mktemp("cache")


def told(session: Session, tid: int) -> Counter[int]:
    """How many LARGE_ALLOC records of each size the thread has."""
    records = session.of(Kind.LARGE_ALLOC)
    return Counter(records["size_bytes"][records["tid"] == tid].tolist())


def all_requests_are_told(session: Session, what: str, count: int) -> None:
    truth = session.ask(f"large {what} {count}")
    wanted = Counter(truth["sizes"])
    assert wanted.total() == count
    session.until(lambda: not wanted - told(session, truth["tid"]), f"all {what} requests")
    assert not session.dropped


@interpreters.matrix()
def test_every_large_request_and_every_pool(
    interpreter: Interpreter, start: Start, cache: Path
) -> None:
    process = start(interpreter, TARGET, ready=True, stdin=subprocess.PIPE)
    with attached(process, cache, slow_path=False) as session:
        all_requests_are_told(session, "bytes", 2500)
        all_requests_are_told(session, "list", 2500)
        refills_equal_the_growth_of_pools(session)
        assert not session.said("probe_failed")


def refills(session: Session, tid: int) -> Counter[int]:
    """Refills of the thread by block size."""
    records = session.of(Kind.POOL_REFILL)
    counted: Counter[int] = Counter()
    for record in records[records["tid"] == tid]:
        counted[int(record["size_bytes"])] += int(record["count"])
    return counted


def refills_equal_the_growth_of_pools(session: Session) -> None:
    tid = session.process.pid
    session.drained()
    before = refills(session, tid)
    session.ask("grow 60000")
    session.drained()
    found = refills(session, tid) - before
    grown = {int(size): count for size, count in session.ask("pools").items() if count > 100}
    assert len(grown) == 4
    assert all(abs(found[size] / grown[size] - 1) <= 0.02 for size in grown), (found, grown)


def test_numpy_arrays_are_told_too(start: Start, cache: Path) -> None:
    pytest.importorskip("numpy")
    process = start([sys.executable, "-u", str(TARGET), "numpy"], ready=True, stdin=subprocess.PIPE)
    with attached(process, cache, slow_path=False) as session:
        all_requests_are_told(session, "numpy", 2000)
        records = session.of(Kind.LARGE_ALLOC)
        assert {AllocApi.MALLOC, AllocApi.CALLOC} <= set(records["api"].tolist())


@interpreters.matrix("system-3.11", "chroot-3.14")
def test_growing_asks_once_each_time(interpreter: Interpreter, start: Start, cache: Path) -> None:
    """``realloc`` calls ``malloc`` for some: one request, one record."""
    process = start(interpreter, TARGET, ready=True, stdin=subprocess.PIPE)
    with attached(process, cache, slow_path=False) as session:
        session.ask("large list 500")  # what grows on the way has grown
        session.drained()
        before = session.of(Kind.LARGE_ALLOC)
        truth = session.ask("large list 500")
        session.drained()
        records = session.of(Kind.LARGE_ALLOC)[len(before) :]
        reallocs = Counter(records["size_bytes"][records["api"] == AllocApi.REALLOC].tolist())
        mallocs = Counter(records["size_bytes"][records["api"] == AllocApi.MALLOC].tolist())
        whole = Counter(truth["sizes"][:250])
        assert not whole - mallocs
        grown = Counter(truth["sizes"][250:])
        assert not grown - reallocs
        assert not set(mallocs) & (set(grown) - set(whole))


@interpreters.matrix("system-3.11")
def test_too_many_requests_are_given_up(
    interpreter: Interpreter, start: Start, cache: Path
) -> None:
    process = start(interpreter, TARGET, ready=True, stdin=subprocess.PIPE)
    with attached(process, cache, slow_path=False, budget=1e-9) as session:
        session.ask("large bytes 100")
        (shed, *_) = session.until(
            lambda: session.said("governor", probe="alloc.malloc", action="shed"), "shed"
        )
        assert shed.data["cost"] > 0
        assert process.poll() is None
