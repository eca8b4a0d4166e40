"""The governor: what probing costs the target, and what is given up when it is too much.

A circuit breaker (``collector.breaker``) per probe group, over one sliding window and one
budget for all of them (a share of one core): what fails is not a call but the CPU time that
the target had to pay. Pure: costs and times come from outside, decisions go out; the
backend carries them out and turns them into ``governor`` and ``breaker`` events.

*Fast*: the window's whole allowance (10 ms of CPU time per second at 1 %) may be
spent at once and no more, so a probe that costs 25 % of a core is given up after
40 ms. *Rare*: each failed trial doubles the rest before the next one, and a trial
may spend a quarter of the allowance only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from collector.breaker import Breaker, Change, Policy, State

SECOND_NS = 1_000_000_000
_TRIAL_ALLOWANCE = 0.25
_WORTH_SHEDDING = 0.1  # of the budget: giving up less does not help


@dataclass(frozen=True, slots=True)
class Group:
    """Probes that are given up and taken back together.

    ``shed_order``: the lowest is given up first. ``look_first``: not armed before
    ``Governor.look`` has said what it will cost.
    """

    name: str
    shed_order: int
    look_first: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """Arm or give up a group now. ``cost`` is a share of one core; ``why`` is for people."""

    group: str
    arm: bool
    action: str  # armed, not_armed, shed, trial, restored
    why: str
    cost: float
    change: Change = field(compare=False)


@dataclass(slots=True)
class _Governed:
    """A group, its breaker, and the CPU time in ns that it had cost when last looked at."""

    group: Group
    breaker: Breaker
    spent_ns: int = 0


class Governor:
    """Decides which probe groups the target can afford.

    ``budget`` is a share of one core, ``window_ns`` the length of the sliding window.
    ``rest_ns`` is the first rest after a group was given up (doubled with each failure
    up to ``longest_rest_ns``), ``trial_ns`` how long a trial has to stay cheap.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        budget: float,
        *,
        window_ns: int = SECOND_NS,
        rest_ns: int = 2 * SECOND_NS,
        longest_rest_ns: int = 300 * SECOND_NS,
        trial_ns: int = SECOND_NS // 4,
    ) -> None:
        self._budget = budget
        self._policy = Policy(window_ns, rest_ns, longest_rest_ns)
        self._trial_ns = trial_ns
        self._governed: dict[str, _Governed] = {}
        for group in groups:
            self.add(group)

    def add(self, group: Group) -> None:
        """Govern one more group."""
        state = State.WAITING if group.look_first else State.CLOSED
        breaker = Breaker(f"probe:{group.name}", self._policy, state)
        self._governed[group.name] = _Governed(group, breaker)
        ordered = sorted(self._governed.values(), key=lambda one: one.group.shed_order)
        self._governed = {one.group.name: one for one in ordered}

    def state(self, name: str) -> State:
        """Where a group stands."""
        return self._governed[name].breaker.state

    def armed(self, name: str) -> bool:
        """Whether a group should be armed now; one that was dropped should not."""
        governed = self._governed.get(name)
        return governed is not None and governed.breaker.passing

    def cost(self, name: str) -> float:
        """What a group has cost in the last window, as a share of one core."""
        return self._governed[name].breaker.failures() / self._policy.window_ns

    def drop(self, name: str) -> None:
        """Forget a group that could not be attached."""
        self._governed.pop(name, None)

    def look(self, name: str, now_ns: int, predicted: float) -> Decision | None:
        """Say what a waiting group would cost (a share of one core); the decision.

        The prediction is an upper bound, so a group that looks too dear rests and is
        tried later. None when the group is not waiting.
        """
        governed = self._governed.get(name)
        if governed is None or governed.breaker.state is not State.WAITING:
            return None
        breaker = governed.breaker
        if predicted <= self._budget:
            why = "the target's switch rate allows it"
            return Decision(name, True, "armed", why, predicted, breaker.close(now_ns, why))
        change = breaker.trip(now_ns, "the target switches too often for it")
        return Decision(
            name,
            False,
            "not_armed",
            f"at the target's switch rate it may cost {predicted:.1%} of a core "
            f"(budget {self._budget:.1%}); tried again in {_seconds(breaker.rest_ns)}",
            predicted,
            change,
        )

    def observe(self, now_ns: int, spent_ns: Mapping[str, int]) -> list[Decision]:
        """Take the running totals of CPU time (ns) that each group has cost; what to change.

        Totals never go down; a group that is missing has not changed.
        """
        for name, total in spent_ns.items():
            if (governed := self._governed.get(name)) is not None:
                governed.breaker.add(now_ns, failed=max(0, total - governed.spent_ns))
                governed.spent_ns = total
        decisions = self._finish_trials(now_ns)
        decisions += self._shed(now_ns)
        decisions += self._start_trials(now_ns)
        return decisions

    def next_change_ns(self, now_ns: int) -> int | None:
        """When ``observe`` should be called again at the latest; None: nothing is pending."""
        breakers = [governed.breaker for governed in self._governed.values()]
        due = [due_ns for breaker in breakers if (due_ns := breaker.due_ns()) is not None]
        due += [
            breaker.changed_ns + self._trial_ns
            for breaker in breakers
            if breaker.state is State.HALF_OPEN
        ]
        return max(now_ns, min(due)) if due else None

    def _finish_trials(self, now_ns: int) -> list[Decision]:
        decisions = []
        allowance = self._budget * self._policy.window_ns * _TRIAL_ALLOWANCE
        for name, governed in self._governed.items():
            breaker = governed.breaker
            if breaker.state is not State.HALF_OPEN:
                continue
            elapsed = max(1, now_ns - breaker.changed_ns)
            cost = breaker.trial_failed / elapsed
            if breaker.trial_failed > allowance:
                decisions.append(self._open(governed, now_ns, cost, "a trial went over the budget"))
            elif elapsed >= self._trial_ns and cost <= self._budget:
                why = "a trial stayed cheap"
                change = breaker.close(now_ns, why)
                decisions.append(Decision(name, True, "restored", why, cost, change))
        return decisions

    def _shed(self, now_ns: int) -> list[Decision]:
        decisions: list[Decision] = []
        allowance = self._budget * self._policy.window_ns
        while True:
            armed = [one for one in self._governed.values() if one.breaker.passing]
            costs = {one.group.name: one.breaker.failures() for one in armed}
            excess = sum(costs.values()) - allowance
            candidates = [
                one for one in armed if costs[one.group.name] > allowance * _WORTH_SHEDDING
            ]
            if excess <= 0 or not candidates:
                return decisions
            enough = [one for one in candidates if costs[one.group.name] >= excess]
            victim = (enough or candidates)[0]
            cost = costs[victim.group.name] / self._policy.window_ns
            decisions.append(self._open(victim, now_ns, cost, "over the budget"))

    def _open(self, governed: _Governed, now_ns: int, cost: float, why: str) -> Decision:
        breaker = governed.breaker
        change = breaker.trip(now_ns, f"{why} of {self._budget:.1%}")
        text = f"{change.why}; tried again in {_seconds(breaker.rest_ns)}"
        return Decision(governed.group.name, False, "shed", text, cost, change)

    def _start_trials(self, now_ns: int) -> list[Decision]:
        decisions = []
        for name, governed in self._governed.items():
            if (change := governed.breaker.probe(now_ns)) is not None:
                decisions.append(Decision(name, True, "trial", change.why, 0.0, change))
        return decisions


def _seconds(duration_ns: int) -> str:
    return f"{duration_ns / SECOND_NS:g} s"


__all__ = ["SECOND_NS", "Decision", "Governor", "Group", "State"]
