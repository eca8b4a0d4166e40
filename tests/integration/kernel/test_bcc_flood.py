"""Loss is exact: what programs emitted is what was received plus what was counted as lost."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from probes.wire import Kind
from tests.conftest import Start
from tests.integration.kernel.bcc_session import Watch, obedient, tell, watching
from tests.integration.kernel.flood import PER_CALL, factory

pytestmark = pytest.mark.kernel

CALLS = 2000


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all tests here: compiled once per ring size."""
    return tmp_path_factory.mktemp("cache")


def balance(watch: Watch) -> dict[int, tuple[int, int]]:
    """By kind: what was emitted, and what was received or lost, once all has stopped."""
    watch.source.detach()
    while len(watch.poll().raw):
        pass
    received = np.bincount(watch.records()["kind"], minlength=16)
    emitted = watch.source.emitted()
    in_ring = set(emitted) | set(watch.dropped)
    return {
        kind: (emitted.get(kind, 0), int(received[kind]) + watch.dropped.get(kind, 0))
        for kind in in_ring
    }


def test_a_ring_that_is_far_too_small(start: Start, cache: Path) -> None:
    target = obedient(start, sys.executable)
    with watching(target, cache=cache, addons=[factory], ring_pages=2) as watch:
        watch.ask(target, f"syscalls {CALLS}")
        watch.ask(target, "thread")
        sums = balance(watch)
    assert all(emitted == accounted for emitted, accounted in sums.values()), sums
    assert sums[Kind.WAIT][0] >= CALLS * PER_CALL
    assert watch.dropped[Kind.WAIT] > 0
    addresses = watch.of(Kind.WAIT)["address"]
    assert addresses.max() < PER_CALL


def test_nobody_polls_for_a_while(start: Start, cache: Path) -> None:
    target = obedient(start, sys.executable)
    with watching(target, cache=cache, addons=[factory], ring_pages=64) as watch:
        tell(target, f"syscalls {CALLS}")
        while watch.source.emitted().get(Kind.WAIT, 0) < CALLS * PER_CALL:
            pass
        watch.answer(target)
        sums = balance(watch)
    assert all(emitted == accounted for emitted, accounted in sums.values()), sums
    assert len(watch.of(Kind.WAIT)) >= 64 * 4096 // 72 - 1, "a full ring at least"


def test_a_ring_of_the_usual_size_loses_nothing_of_a_steady_stream(
    start: Start, cache: Path
) -> None:
    target = obedient(start, sys.executable)
    with watching(target, cache=cache, addons=[factory]) as watch:
        for _ in range(20):
            watch.ask(target, f"syscalls {CALLS // 20}")
        sums = balance(watch)
    assert sums[Kind.WAIT][0] >= CALLS * PER_CALL
    assert not watch.dropped
    assert all(emitted == accounted for emitted, accounted in sums.values()), sums
