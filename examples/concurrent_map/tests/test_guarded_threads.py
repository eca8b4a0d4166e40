"""GuardedMap among many threads: one probe, no outcome lost, transitions in order."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from typing import Any

from concurrent_map import (
    GuardedMap,
    Transition,
)
from concurrent_map._breaker import Breaker, Permit
from concurrent_map.guarded import GuardedIterator
from guarding import REST_S, Clock, moves, opened, state, whole


def together(count: int, work: Callable[[int], None]) -> None:
    """``work(number)`` in so many threads, which begin at once."""
    barrier = threading.Barrier(count)
    errors: list[BaseException] = []

    def run(number: int) -> None:
        barrier.wait()
        try:
            work(number)
        except BaseException as error:  # noqa: BLE001 - told below
            errors.append(error)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


def test_of_many_threads_exactly_one_probes(guarded: GuardedMap[int, int], clock: Clock) -> None:
    for _ in range(50):
        opened(guarded)
        clock.now_s += REST_S
        walks: list[Any] = []
        together(8, lambda _number, walks=walks: walks.append(guarded.iterate()))  # type: ignore[misc]
        probes = [walk for walk in walks if isinstance(walk, GuardedIterator)]
        assert len(probes) == 1
        assert len(list(probes[0])) == 40
        assert state(guarded) == "closed"


def test_no_outcome_is_lost_between_threads(clock: Clock) -> None:
    breaker = Breaker(percent=90, window=100_000, rest_s=1, clock=clock)

    def work(number: int) -> None:
        for n in range(2000):
            permit = breaker.ask()
            assert permit is not None
            breaker.settle(permit, "failed" if n % 4 == number % 4 else "complete")

    together(6, work)
    assert (breaker.samples, breaker.failures) == (12_000, 3000)


def test_transitions_are_told_in_order_whoever_causes_them(inner: Any, clock: Clock) -> None:
    told: list[Transition] = []
    guarded: GuardedMap[int, int] = GuardedMap(
        inner, window=3, percent=50, rest_s=0, clock=clock, on_change=told.append
    )

    def work(number: int) -> None:
        for n in range(100):
            if number < 2:
                inner.store(1000 + n % 3, number)
                inner.load_and_delete(1000 + n % 3)
            guarded.probe()

    together(6, work)
    assert [one.number for one in told] == list(range(1, guarded.transitions + 1))
    states = ["closed", *(one.new for one in told)]
    assert all(one.old == states[one.number - 1] for one in told)
    allowed = {("closed", "open"), ("open", "half_open"), ("half_open", "open")}
    assert set(moves(told)) <= allowed | {("half_open", "closed")}


def test_an_iterator_may_go_away_while_the_same_thread_holds_the_breaker(
    guarded: GuardedMap[int, int],
) -> None:
    walk: Any = guarded.iterate()
    next(walk)
    with guarded._breaker._lock:  # as when the garbage collector runs at an allocation inside
        del walk
        gc.collect()
    whole(guarded)
    assert (guarded.failures, guarded.samples) == (0, 2)


def test_only_the_first_word_for_a_permit_counts(clock: Clock) -> None:
    breaker = Breaker(percent=60, window=5, rest_s=1, clock=clock)
    permit = breaker.ask()
    assert isinstance(permit, Permit)
    assert breaker.settle(permit, "failed")
    assert not breaker.settle(permit, "complete")
    assert (breaker.samples, breaker.failures, breaker.retry_in_s()) == (1, 1, 0.0)
