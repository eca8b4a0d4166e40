"""One budget over several owners of probes, and the watch on wake-ups as one of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from collector.events import Event
from tracer.backends.bcc.attach import Attachment
from tracer.backends.bcc.budget import QUIET_LOOK_NS, Budget
from tracer.backends.bcc.watch import TRACEPOINT_NS, Watch
from tracer.governor import SECOND_NS, Group

MS = 1_000_000


class Probes:
    """Costs what a test says, while attached."""

    def __init__(self, *groups: Group) -> None:
        self.groups: Sequence[Group] = groups
        self.spent = {group.name: 0 for group in groups}
        self.attached = {group.name for group in groups if not group.look_first}
        self.asked = 0

    def spend(self, cost_ns: int) -> None:
        for name in self.attached:
            self.spent[name] += cost_ns

    def spent_ns(self) -> Mapping[str, int]:
        self.asked += 1
        return dict(self.spent)

    def take_back(self, group: str, now_ns: int) -> Iterable[Event]:
        self.attached.add(group)
        return []

    def give_up(self, group: str) -> None:
        self.attached.discard(group)


def tend(budget: Budget, probes: Iterable[Probes], shares: Sequence[float], ms: int) -> list[Event]:
    """So many ms, each owner's attached groups costing a share of a core."""
    events = []
    for now_ns in range(20 * MS, ms * MS + 1, 20 * MS):
        for one, share in zip(probes, shares, strict=True):
            one.spend(int(share * 20 * MS))
        events += budget.tend(now_ns)
    return events


def said(events: Iterable[Event]) -> list[tuple[Any, Any]]:
    governed = [event for event in events if event.event == "governor"]
    return [(event.data["probe"], event.data["action"]) for event in governed]


def test_the_sum_of_all_owners_counts_and_the_lowest_goes_first() -> None:
    budget, late, early = Budget(0.01), Probes(Group("late", 5)), Probes(Group("early", 0))
    budget.join(late)
    budget.join(early)
    events = tend(budget, (late, early), (0.006, 0.007), 1500)
    assert said(events) == [("early", "shed")]
    assert (late.attached, early.attached) == ({"late"}, set())
    assert not budget.armed("early")


def test_the_last_goes_too_when_it_alone_is_too_dear() -> None:
    budget, late, early = Budget(0.01), Probes(Group("late", 5)), Probes(Group("early", 0))
    budget.join(late)
    budget.join(early)
    tend(budget, (late, early), (0.05, 0.0), 500)
    assert (late.attached, early.attached) == (set(), {"early"})


def test_who_has_left_is_not_asked_any_more() -> None:
    budget, one = Budget(0.01), Probes(Group("one", 1))
    budget.join(one)
    budget.leave(one)
    assert tend(budget, (one,), (0.5,), 500) == []
    assert one.asked == 0


def test_next_to_nothing_is_looked_at_rarely() -> None:
    budget, one = Budget(0.01), Probes(Group("one", 1))
    budget.join(one)
    tend(budget, (one,), (0.0001,), 5000)
    assert one.asked <= 5000 * MS / QUIET_LOOK_NS + 1


def test_a_waiting_group_is_armed_or_not_by_what_is_predicted() -> None:
    budget, one = Budget(0.01), Probes(Group("dear", 1, look_first=True))
    budget.join(one)
    assert budget.waiting("dear")
    assert said(budget.look("dear", MS, 0.02)) == [("dear", "not_armed")]
    assert not budget.waiting("dear")
    assert one.attached == set()


class Tracepoints:
    """An attachment's tracepoints, as the watch sees them."""

    def __init__(self) -> None:
        self.attached = {"sched_waking", "sched_switch"}

    def is_attached(self, event: str) -> bool:
        return event in self.attached

    def attach_tracepoint(self, event: str) -> str:
        self.attached.add(event)
        return ""

    def detach_tracepoint(self, event: str) -> None:
        self.attached.discard(event)


def watched(switches: Sequence[int]) -> tuple[Watch, Tracepoints, list[str]]:
    tracepoints, changes, counts = Tracepoints(), [], iter(switches)
    watch = Watch(
        cast("Attachment", tracepoints), lambda: next(counts), lambda: changes.append("changed")
    )
    return watch, tracepoints, changes


def test_each_tracepoint_costs_by_the_switches_while_it_is_attached() -> None:
    watch, _, _ = watched([1000, 1500, 9500])
    assert set(watch.spent_ns().values()) == {1000 * TRACEPOINT_NS}
    watch.give_up("run_delay")
    assert watch.spent_ns() == {"run_delay": 1000 * TRACEPOINT_NS, "wakes": 1500 * TRACEPOINT_NS}
    watch.take_back("run_delay", 0)
    assert watch.spent_ns()["run_delay"] == 9000 * TRACEPOINT_NS


def test_only_without_wake_ups_do_sleeps_lose_their_watch() -> None:
    watch, tracepoints, changes = watched([])
    watch.give_up("run_delay")
    assert (tracepoints.attached, changes) == ({"sched_waking"}, [])
    watch.give_up("wakes")
    assert (tracepoints.attached, changes) == (set(), ["changed"])


def test_a_target_of_two_hundred_thousand_switches_loses_the_run_delay_first() -> None:
    budget = Budget(0.01)
    counts = [int(200_000 * ms / 1000) for ms in range(20, 100_000, 20)]
    watch, _, _ = watched(counts)
    budget.join(watch)
    events = [event for n in range(1, 20) for event in budget.tend(n * 20 * MS)]
    assert said(events)[0] == ("run_delay", "shed")
    assert 200_000 * TRACEPOINT_NS > 0.01 * SECOND_NS, "or the test is about nothing"
