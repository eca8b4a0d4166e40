"""One budget for everything that costs the target: who is asked, and who carries it out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from collector.events import Event
from collector.source import ProbeUse
from tracer.backends.scan import ScanScheduler
from tracer.governor import SECOND_NS, Decision, Governor, Group, State

QUIET_LOOK_NS = SECOND_NS // 4
"""While next to nothing is spent, somebody looks so often only: ten looks a second take the
tracer 0.3 % of a core. What begins meanwhile is priced a quarter of a second later at most."""
_NEXT_TO_NOTHING = 0.05  # of the budget


class Governed(Protocol):
    """Probes that can be given up and taken back, in groups."""

    groups: Sequence[Group]

    def spent_ns(self) -> Mapping[str, int]:
        """CPU time that each group has cost the targets so far; totals never go down."""

    def take_back(self, group: str, now_ns: int) -> Iterable[Event]:
        """Attach a group again; the events say what failed."""

    def give_up(self, group: str) -> None:
        """Detach a group."""


@runtime_checkable
class Counted(Protocol):
    """Governed probes that know how often they were hit."""

    def hit_counts(self) -> Mapping[str, int]:
        """Hits of each group so far, as of the last ``spent_ns``; totals never go down."""


def scans_governed(scheduler: ScanScheduler, threads: int, cost_ns: int, now_ns: int) -> Event:
    """Scans cost the tracer more than they may and come more rarely, or do not any more."""
    cost_ms, period_ms = cost_ns / 1e6, scheduler.period_ns / 1e6
    data = {
        "probe": "scans",
        "action": "slowed" if scheduler.slowed else "restored",
        "why": f"one of {threads} threads takes {cost_ms:.1f} ms: one every {period_ms:.0f} ms",
        "cost": round(cost_ns / scheduler.period_ns, 6),
    }
    return Event("governor", now_ns, data=data)


class Budget:
    """The governor and those that it governs. ``share``: of one core."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._governor = Governor((), share)
        self._owners: dict[str, Governed] = {}
        self._spent: dict[str, int] = {}
        self._looked_ns = self._quiet_until_ns = self._uses_due_ns = 0

    def join(self, governed: Governed) -> None:
        """From now on the groups of ``governed`` count."""
        for group in governed.groups:
            self._governor.add(group)
            self._owners[group.name] = governed

    def leave(self, governed: Governed) -> None:
        """Forget everything of ``governed``."""
        for name, owner in list(self._owners.items()):
            if owner is governed:
                self.drop(name)

    def armed(self, group: str) -> bool:
        """Whether a group should be attached now."""
        return self._governor.armed(group)

    def drop(self, group: str) -> None:
        """A group could not be attached: forget it."""
        self._governor.drop(group)
        self._owners.pop(group, None)

    def waiting(self, group: str) -> bool:
        """Whether ``look`` has still to say what a group will cost."""
        return group in self._owners and self._governor.state(group) is State.WAITING

    def look(self, group: str, now_ns: int, predicted: float) -> list[Event]:
        """What a waiting group would cost, as a share of a core: armed if that is little."""
        decision = self._governor.look(group, now_ns, predicted)
        return [] if decision is None else self._carry_out(decision, now_ns)

    def tend(self, now_ns: int) -> list[Event]:
        """See what has been spent, and give up or take back what follows from it."""
        if now_ns < self._quiet_until_ns:
            return []
        spent: dict[str, int] = {}
        for governed in dict.fromkeys(self._owners.values()):
            spent.update(governed.spent_ns())
        decisions = self._governor.observe(now_ns, spent)
        more = sum(spent.values()) - sum(self._spent.values())
        allowed = self._share * (now_ns - self._looked_ns)
        self._spent, self._looked_ns = spent, now_ns
        pending = self._governor.next_change_ns(now_ns) is not None
        if more <= allowed * _NEXT_TO_NOTHING and not pending:
            self._quiet_until_ns = now_ns + QUIET_LOOK_NS
        return [event for one in decisions for event in self._carry_out(one, now_ns)]

    def uses_due(self, now_ns: int) -> dict[str, ProbeUse]:
        """Where each group stands: once a second, and after each change; else empty."""
        if now_ns < self._uses_due_ns:
            return {}
        self._uses_due_ns = now_ns + SECOND_NS
        hits: dict[str, int] = {}
        for owner in dict.fromkeys(self._owners.values()):
            if isinstance(owner, Counted):
                hits.update(owner.hit_counts())
        return {
            name: ProbeUse(
                self._governor.state(name).value, hits.get(name, 0), self._spent.get(name, 0)
            )
            for name in self._owners
        }

    def _carry_out(self, decision: Decision, now_ns: int) -> list[Event]:
        """Attach or detach as decided. What was restored is attached already."""
        self._uses_due_ns = 0
        owner = self._owners[decision.group]
        events: list[Event] = []
        if decision.arm and decision.action != "restored":
            events += owner.take_back(decision.group, now_ns)
        elif not decision.arm:
            owner.give_up(decision.group)
        data = {
            "probe": decision.group,
            "action": decision.action,
            "why": decision.why,
            "cost": round(decision.cost, 6),
        }
        return [*events, Event("governor", now_ns, data=data), decision.change.event(now_ns)]
