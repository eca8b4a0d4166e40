"""The governor on a hand-turned clock."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from tracer.governor import SECOND_NS, Decision, Governor, Group, State

MS = 1_000_000
GROUPS = (Group("alloc", 1), Group("slow_path", 2, look_first=True))


def drive(
    governor: Governor, rates: dict[str, float], until_ns: int, step_ns: int = 20 * MS
) -> tuple[list[tuple[int, Decision]], dict[str, int]]:
    """Groups cost ``rates`` (shares of a core) while they are armed; what was decided, spent."""
    spent = dict.fromkeys(rates, 0)
    log = []
    for now in range(step_ns, until_ns + 1, step_ns):
        for name, rate in rates.items():
            if governor.armed(name):
                spent[name] += int(rate * step_ns)
        log += [(now, decision) for decision in governor.observe(now, spent)]
    return log, spent


def test_a_cheap_group_is_left_alone() -> None:
    governor = Governor(GROUPS, 0.01)
    log, _ = drive(governor, {"alloc": 0.009}, 20 * SECOND_NS)
    assert log == []
    assert 0.008 < governor.cost("alloc") < 0.0095


def test_a_dear_group_is_given_up_within_60_ms() -> None:
    governor = Governor(GROUPS, 0.01)
    log, spent = drive(governor, {"alloc": 0.25}, 500 * MS)
    (when, decision), *_ = log
    assert (decision.group, decision.arm, decision.action) == ("alloc", False, "shed")
    assert when <= 60 * MS
    assert spent["alloc"] <= 15 * MS
    assert "2 s" in decision.why
    assert governor.state("alloc") is State.OPEN


def test_trials_get_rarer_and_stay_short() -> None:
    governor = Governor(GROUPS, 0.01)
    log, spent = drive(governor, {"alloc": 0.25}, 120 * SECOND_NS)
    trials = [when for when, decision in log if decision.action == "trial"]
    gaps = [later - earlier for earlier, later in pairwise(trials)]
    assert len(trials) == 5  # after 2, 6, 14, 30, 62 s
    assert all(later > 1.8 * earlier for earlier, later in pairwise(gaps))
    assert spent["alloc"] < 15 * MS + 5 * 10 * MS


def test_a_group_whose_load_has_gone_is_taken_back() -> None:
    governor = Governor(GROUPS, 0.01)
    drive(governor, {"alloc": 0.25}, SECOND_NS)
    log = []
    for now in range(SECOND_NS, 5 * SECOND_NS, 20 * MS):
        log += governor.observe(now, {})
    assert [decision.action for decision in log] == ["trial", "restored"]
    assert governor.state("alloc") is State.CLOSED


def test_a_change_of_load_after_a_quiet_time_starts_with_a_short_rest() -> None:
    governor = Governor(GROUPS, 0.01, rest_ns=SECOND_NS)
    drive(governor, {"alloc": 0.25}, 8 * SECOND_NS)  # rests of 1, 2, 4 s
    for now in range(8 * SECOND_NS, 30 * SECOND_NS, 20 * MS):
        governor.observe(now, {})
    assert governor.state("alloc") is State.CLOSED
    total = 10 * SECOND_NS
    (decision,) = governor.observe(30 * SECOND_NS, {"alloc": total})
    assert decision.action == "shed"
    assert "1 s" in decision.why


def test_what_costs_least_to_lose_goes_first() -> None:
    governor = Governor((Group("alloc", 1), Group("slow_path", 2)), 0.01)
    (decision,) = governor.observe(SECOND_NS, {"alloc": 8 * MS, "slow_path": 8 * MS})
    assert decision.group == "alloc"
    assert governor.armed("slow_path")


def test_a_cheap_group_is_not_given_up_for_a_dear_one() -> None:
    governor = Governor((Group("alloc", 1), Group("slow_path", 2)), 0.01)
    (decision,) = governor.observe(SECOND_NS, {"alloc": MS // 2, "slow_path": 50 * MS})
    assert decision.group == "slow_path"
    assert governor.armed("alloc")


def test_look_arms_what_the_switch_rate_allows() -> None:
    governor = Governor(GROUPS, 0.01)
    assert not governor.armed("slow_path")
    decision = governor.look("slow_path", 0, 0.002)
    assert decision is not None
    assert decision.arm
    assert governor.armed("slow_path")
    assert governor.look("slow_path", 0, 0.5) is None


def test_look_leaves_a_busy_target_alone_and_tries_later() -> None:
    governor = Governor(GROUPS, 0.01)
    decision = governor.look("slow_path", 0, 0.08)
    assert decision is not None
    assert (decision.arm, decision.action) == (False, "not_armed")
    assert governor.next_change_ns(0) == 2 * SECOND_NS
    (trial,) = governor.observe(2 * SECOND_NS, {})
    assert (trial.group, trial.action) == ("slow_path", "trial")


def test_a_dropped_group_is_forgotten() -> None:
    governor = Governor(GROUPS, 0.01)
    governor.drop("slow_path")
    assert governor.look("slow_path", 0, 0.0) is None
    assert governor.observe(SECOND_NS, {"slow_path": SECOND_NS}) == []


@settings(max_examples=40, deadline=None)
@given(
    rates=st.fixed_dictionaries({"alloc": st.floats(0, 1), "slow_path": st.floats(0, 1)}),
    step_ms=st.integers(10, 60),
)
def test_the_budget_holds_in_every_window(rates: dict[str, float], step_ms: int) -> None:
    """No window costs more than the allowance, what one step overshoots, and one trial."""
    governor = Governor((Group("alloc", 1), Group("slow_path", 2)), 0.01)
    step = step_ms * MS
    history = [0]
    spent = dict.fromkeys(rates, 0)
    for now in range(step, 15 * SECOND_NS, step):
        for name, rate in rates.items():
            spent[name] += int(rate * step) * governor.armed(name)
        governor.observe(now, spent)
        history.append(sum(spent.values()))
    window = SECOND_NS // step
    worst = max(later - earlier for earlier, later in zip(history, history[window:], strict=False))
    overshoot = sum(rate * step for rate in rates.values())
    assert worst <= 2 * (10 * MS + overshoot) + 5 * MS
