"""The circuit breaker on a hand-turned clock."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from collector.breaker import Breaker, Policy, State

S = 1_000_000_000
POLICY = Policy(window_ns=60 * S, rest_ns=10 * S, longest_rest_ns=40 * S, least=3)


def opened(at_ns: int = 0) -> Breaker:
    breaker = Breaker("action:t/exec", POLICY)
    breaker.record(at_ns, failed=True)
    breaker.record(at_ns, failed=True)
    change = breaker.record(at_ns, failed=True, why="it failed")
    assert change is not None
    assert (change.old, change.new, change.why) == (State.CLOSED, State.OPEN, "it failed")
    return breaker


def test_few_failures_or_a_low_rate_open_nothing() -> None:
    breaker = Breaker("x", POLICY)
    assert breaker.record(0, failed=True) is None
    assert breaker.record(S, failed=True) is None
    for second in range(2, 6):
        assert breaker.record(second * S, failed=False) is None
    assert breaker.record(7 * S, failed=True) is None, "three of seven"
    assert breaker.state is State.CLOSED


def test_what_is_older_than_the_window_does_not_count() -> None:
    breaker = Breaker("x", POLICY)
    breaker.record(0, failed=True)
    breaker.record(S, failed=True)
    assert breaker.record(62 * S, failed=True) is None
    assert breaker.failures() == 1


def test_one_probe_after_the_rest_closes_it_again() -> None:
    breaker = opened()
    assert not breaker.passing
    assert breaker.probe(10 * S - 1) is None
    change = breaker.probe(10 * S)
    assert change is not None
    assert change.event(5).data == {
        "name": "action:t/exec", "from": "open", "to": "half-open", "why": "the rest is over",
    }  # fmt: skip
    assert breaker.probe(11 * S) is None, "one probe at a time"
    closed = breaker.record(12 * S, failed=False)
    assert closed is not None
    assert closed.new is State.CLOSED
    assert breaker.passing


def test_failed_probes_double_the_rest_up_to_the_longest() -> None:
    breaker, now, rests = opened(), 0, []
    for _ in range(4):
        due = breaker.due_ns()
        assert due is not None
        rests.append(due - now)
        now = due
        breaker.probe(now)
        change = breaker.record(now, failed=True, why="again")
        assert change is not None
        assert change.new is State.OPEN
    assert rests == [10 * S, 20 * S, 40 * S, 40 * S]


def test_after_a_good_time_the_first_rest_is_short_again() -> None:
    breaker = opened()
    breaker.probe(10 * S)
    breaker.record(10 * S, failed=True)
    breaker.probe(30 * S)
    breaker.record(30 * S, failed=False)
    for _ in range(5):
        breaker.record(50 * S, failed=True)
    assert breaker.due_ns() == 60 * S


@given(st.lists(st.tuples(st.integers(0, 30 * S), st.booleans()), max_size=60))
def test_it_never_lets_more_pass_than_it_may(steps: list[tuple[int, bool]]) -> None:
    """Asked in the order of time, as the engine asks: at most one probe for each rest."""
    breaker, now, last_open_ns = Breaker("x", POLICY), 0, None
    for pause, failed in steps:
        now += pause
        breaker.probe(now)
        if not breaker.passing:
            due = breaker.due_ns()
            assert due is not None
            assert due > now
            continue
        if breaker.state is State.HALF_OPEN:
            assert last_open_ns is not None
            assert now - last_open_ns >= POLICY.rest_ns
        breaker.record(now, failed=failed)
        if breaker.state is State.OPEN:
            last_open_ns = now
