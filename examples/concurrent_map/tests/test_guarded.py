"""GuardedMap: every transition, what is served in each state."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest

from concurrent_map import (
    ConcurrentMap,
    GuardedMap,
    MapUnavailableError,
    StaleIterationError,
    Transition,
    _core,
    guards,
)
from concurrent_map.guarded import GuardedIterator
from guarding import REST_S, WINDOW, Clock, fail, moves, opened, state, whole


def test_it_opens_with_one_failure_more_than_the_share(
    guarded: GuardedMap[int, int], told: list[Transition]
) -> None:
    fail(guarded, 6)
    assert (state(guarded), guarded.failures, guarded.samples) == ("closed", 6, 6)
    for _ in range(4):
        whole(guarded)
    assert (state(guarded), guarded.failures, guarded.samples) == ("closed", 6, 10)
    fail(guarded)  # the first failure leaves the window, another one comes
    assert (state(guarded), guarded.failures) == ("closed", 6)
    fail(guarded, 6)
    assert (state(guarded), guarded.failures) == ("open", 7)
    said = Transition(1, "closed", "open", 100.0, "too many failures", 7, 10)
    assert told == [said]


def test_the_numbers_of_the_default_are_60_of_100_and_30_seconds(inner: Any, clock: Clock) -> None:
    guarded: GuardedMap[int, int] = GuardedMap(inner, clock=clock)
    for _ in range(40):
        whole(guarded)
    fail(guarded, 60)
    assert state(guarded) == "closed"
    fail(guarded)
    assert (state(guarded), guarded.failures, guarded.samples) == ("open", 61, 100)
    clock.now_s += 29.99
    assert guarded.probe() == "open"
    clock.now_s += 0.01
    assert guarded.probe() == "closed"


def test_open_serves_the_last_good_snapshot_and_refuses_writes(
    guarded: GuardedMap[int, int], inner: Any, clock: Clock
) -> None:
    guarded.store(100, 1)
    good = whole(guarded)
    assert guarded.good_version == inner.version
    guarded.store(101, 2)  # after the last good iteration
    assert guarded.load(101) == 2
    opened(guarded)
    assert whole(guarded) == good
    assert dict(guarded) == good
    assert (guarded.load(100), guarded.load(101, "none"), 101 in guarded) == (1, "none", False)
    assert (guarded[100], len(guarded)) == (1, 41)
    seen: dict[int, int] = {}
    assert guarded.range(seen.__setitem__) == 41
    assert seen == good
    writes: list[Callable[[], object]] = [
        lambda: guarded.store(1, 1),
        lambda: guarded.load_or_store(1, 1),
        lambda: guarded.load_and_delete(1),
        lambda: guarded.compare_and_swap(1, 1, 2),
        lambda: guarded.compare_and_delete(1, 1),
        lambda: guarded.setdefault(1, 1),
        lambda: guarded.update({1: 2}),
        lambda: guarded.pop(1),
        guarded.popitem,
        guarded.clear,
        lambda: guarded.__setitem__(1, 1),
        lambda: guarded.__delitem__(1),
    ]
    version = inner.version
    clock.now_s += 10
    for write in writes:
        with pytest.raises(MapUnavailableError, match=r"'sessions' takes no writes.*20\.0 s") as e:
            write()
        assert (e.value.state, e.value.retry_in_s, e.value.name) == ("open", 20.0, "sessions")
    assert inner.version == version


def test_a_probe_that_gets_through_closes_it(
    guarded: GuardedMap[int, int], inner: Any, clock: Clock, told: list[Transition]
) -> None:
    opened(guarded)
    inner.store(500, 5)
    clock.now_s += REST_S
    assert state(guarded) == "open"  # time alone changes nothing
    walk = guarded.iterate()
    assert isinstance(walk, GuardedIterator)
    assert walk.is_probe
    assert state(guarded) == "half_open"
    assert 500 not in guarded
    with pytest.raises(MapUnavailableError, match="half_open"):
        guarded.store(1, 1)
    assert not isinstance(guarded.iterate(), GuardedIterator)
    assert dict(walk)[500] == 5
    assert (state(guarded), guarded.failures, guarded.samples) == ("closed", 0, 0)
    guarded.store(1, 1)
    assert 500 in guarded
    assert moves(told) == [("closed", "open"), ("open", "half_open"), ("half_open", "closed")]


def test_a_probe_that_fails_opens_it_again_for_a_whole_rest(
    guarded: GuardedMap[int, int], clock: Clock, told: list[Transition]
) -> None:
    opened(guarded)
    clock.now_s += REST_S + 5
    fail(guarded)
    assert state(guarded) == "open"
    assert moves(told)[1:] == [("open", "half_open"), ("half_open", "open")]
    clock.now_s += REST_S - 1
    assert guarded.probe() == "open"
    clock.now_s += 1
    assert guarded.probe() == "closed"


@pytest.mark.parametrize("how", ["close", "forget"])
def test_a_probe_that_was_stopped_leaves_the_next_one_to_probe(
    guarded: GuardedMap[int, int], clock: Clock, how: str
) -> None:
    opened(guarded)
    clock.now_s += REST_S
    walk: Any = guarded.iterate()
    next(walk)
    if how == "close":
        walk.close()
    else:
        del walk
        gc.collect()
    again = guarded.iterate()
    assert isinstance(again, GuardedIterator)
    assert again.is_probe
    assert len(list(again)) == 40
    assert state(guarded) == "closed"


def test_a_probe_that_never_ends_is_given_up_after_another_rest(
    guarded: GuardedMap[int, int], clock: Clock, told: list[Transition]
) -> None:
    opened(guarded)
    clock.now_s += REST_S
    first = guarded.iterate()
    clock.now_s += REST_S - 1
    assert not isinstance(guarded.iterate(), GuardedIterator)
    clock.now_s += 1
    second = guarded.iterate()
    assert isinstance(second, GuardedIterator)
    list(first)  # its word counts no more
    assert state(guarded) == "half_open"
    list(second)
    assert state(guarded) == "closed"
    assert [one.number for one in told] == [1, 2, 3]


def test_iterations_of_an_earlier_time_do_not_count(
    guarded: GuardedMap[int, int], clock: Clock
) -> None:
    early = [guarded.iterate() for _ in range(9)]
    opened(guarded)
    clock.now_s += REST_S
    assert guarded.probe() == "closed"
    guarded.map.store(7777, 1)
    for walk in early:
        with pytest.raises(StaleIterationError):
            next(walk)
    assert (state(guarded), guarded.samples) == ("closed", 0)


def test_ending_early_and_errors_of_the_callback_are_no_failures(
    guarded: GuardedMap[int, int],
) -> None:
    for _ in range(WINDOW):
        assert guarded.range(lambda _key, _value: False) == 1
    assert (guarded.failures, guarded.samples) == (0, 10)

    def broken(_key: int, _value: int) -> None:
        raise LookupError("mine")

    for _ in range(WINDOW):
        with pytest.raises(LookupError, match="mine"):
            guarded.range(broken)
    assert (state(guarded), guarded.failures, guarded.samples) == ("closed", 0, 10)


def test_a_snapshot_is_taken_no_more_often_than_asked(inner: Any, clock: Clock) -> None:
    guarded: GuardedMap[int, int] = GuardedMap(inner, snapshot_every_s=2, clock=clock)
    versions = []
    for _ in range(5):
        guarded[1000] = 1
        whole(guarded)
        versions.append(guarded.good_version - inner.version)
        clock.now_s += 1
    assert versions == [-1, -2, 0, -1, 0]


def test_it_is_a_mutable_mapping_while_closed(guarded: GuardedMap[int, int]) -> None:
    assert guarded.load_or_store(1, 5) == (1, True)
    assert guarded.load_or_store(200, 5) == (5, False)
    assert guarded.compare_and_swap(200, 5, 6)
    assert guarded.compare_and_delete(200, 6)
    assert guarded.load_and_delete(0) == (0, True)
    assert guarded.pop(1) == 1
    assert guarded.setdefault(1, 7) == 7
    key, value = guarded.popitem()
    assert key not in guarded
    guarded[key] = value
    del guarded[key]
    guarded.update({1: 1})
    assert set(guarded.keys()) | {key, 0} == set(range(40))
    assert repr(guarded) == "<GuardedMap 'sessions': 38 entries>"
    guarded.clear()
    assert not guarded


def test_numbers_out_of_range_are_refused(inner: Any) -> None:
    for wrong in ({"percent": 100}, {"percent": -1}, {"window": 0}, {"rest_s": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            GuardedMap(inner, **wrong)  # type: ignore[arg-type]


def test_a_guard_is_found_while_it_lives_and_is_in_no_cycle(inner: Any) -> None:
    gc.disable()
    try:
        guarded: GuardedMap[int, int] = GuardedMap(inner)
        assert any(one is guarded for one in guards())
        number = id(guarded)
        del guarded
        assert number not in {id(one) for one in guards()}
    finally:
        gc.enable()


def test_a_listener_may_use_the_map_and_its_errors_are_not_the_callers(
    inner: Any, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    seen = []

    def listen(transition: Transition) -> None:
        seen.append((transition.new, len(whole(mine))))
        raise LookupError(transition.new)

    mine: GuardedMap[int, int] = GuardedMap(inner, window=1, clock=clock, on_change=listen)
    fail(mine)
    clock.now_s += 30
    assert mine.probe() == "closed"
    assert seen == [("open", 40), ("half_open", 40), ("closed", 40)]
    logged = [str(one.exc_info[1]) for one in caplog.records if one.exc_info]
    assert logged == ["open", "half_open", "closed"]


def test_each_change_of_state_fires_the_probe(
    monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    fired: list[tuple[Any, ...]] = []
    monkeypatch.setattr(_core, "probe_breaker", lambda *said: fired.append(said))
    m: ConcurrentMap[int, int] = ConcurrentMap({1: 1})
    guarded: GuardedMap[int, int] = GuardedMap(m, window=WINDOW, clock=clock)
    opened(guarded)
    clock.now_s += REST_S
    assert guarded.probe() == "closed"
    assert fired == [(m, 0, 1, 7, 7), (m, 1, 2, 7, 7), (m, 2, 0, 7, 7)]


def test_the_probe_takes_maps_and_numbers() -> None:
    m: Any = ConcurrentMap()
    probe: Any = _core.probe_breaker
    assert probe(m, 0, 1, 61, 100) is None
    wrongs: list[Any] = [({}, 0, 1, 2, 3), (m, 0, 1, 2), (m, "0", 1, 2, 3)]
    for wrong in wrongs:
        with pytest.raises(TypeError):
            probe(*wrong)
