"""The governor: what probing costs the target, and what is given up when it is too much.

A circuit breaker per probe group, over one sliding window and one budget for all of
them (a share of one core). Pure: costs and times come from outside, decisions go
out; the backend carries them out and turns them into ``governor`` events.

::

    waiting ──look: cheap──► closed ──over budget──► open ──rest is over──► half-open
       │                       ▲                      ▲  ▲                     │  │
       └──look: dear───────────┼──────────────────────┘  └────too dear again───┘  │
                               └──────────────── stayed within the budget ────────┘

*Fast*: the window's whole allowance (10 ms of CPU time per second at 1 %) may be
spent at once and no more, so a probe that costs 25 % of a core is given up after
40 ms. *Rare*: each failed trial doubles the rest before the next one, and a trial
may spend a quarter of the allowance only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

SECOND_NS = 1_000_000_000
_TRIAL_ALLOWANCE = 0.25
_WORTH_SHEDDING = 0.1  # of the budget: giving up less does not help


class State(Enum):
    """Where a group stands."""

    WAITING = "waiting"
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


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


@dataclass(slots=True)
class _Breaker:
    group: Group
    state: State
    spent_ns: int = 0
    rest_ns: int = 0
    changed_ns: int = 0
    trial_spent_ns: int = 0
    samples: deque[tuple[int, int]] = field(default_factory=deque)

    @property
    def armed(self) -> bool:
        return self.state in (State.CLOSED, State.HALF_OPEN)

    def window_ns(self) -> int:
        """CPU time spent within the window."""
        return sum(cost for _, cost in self.samples)


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
        self._window_ns = window_ns
        self._first_rest_ns = rest_ns
        self._longest_rest_ns = longest_rest_ns
        self._trial_ns = trial_ns
        self._breakers: dict[str, _Breaker] = {}
        for group in groups:
            self.add(group)

    def add(self, group: Group) -> None:
        """Govern one more group."""
        state = State.WAITING if group.look_first else State.CLOSED
        self._breakers[group.name] = _Breaker(group, state)
        ordered = sorted(self._breakers.values(), key=lambda one: one.group.shed_order)
        self._breakers = {one.group.name: one for one in ordered}

    def state(self, name: str) -> State:
        """Where a group stands."""
        return self._breakers[name].state

    def armed(self, name: str) -> bool:
        """Whether a group should be armed now; one that was dropped should not."""
        breaker = self._breakers.get(name)
        return breaker is not None and breaker.armed

    def cost(self, name: str) -> float:
        """What a group has cost in the last window, as a share of one core."""
        return self._breakers[name].window_ns() / self._window_ns

    def drop(self, name: str) -> None:
        """Forget a group that could not be attached."""
        self._breakers.pop(name, None)

    def look(self, name: str, now_ns: int, predicted: float) -> Decision | None:
        """Say what a waiting group would cost (a share of one core); the decision.

        The prediction is an upper bound, so a group that looks too dear rests and is
        tried later. None when the group is not waiting.
        """
        breaker = self._breakers.get(name)
        if breaker is None or breaker.state is not State.WAITING:
            return None
        breaker.changed_ns = now_ns
        if predicted <= self._budget:
            breaker.state = State.CLOSED
            return Decision(name, True, "armed", "the target's switch rate allows it", predicted)
        breaker.state = State.OPEN
        breaker.rest_ns = self._first_rest_ns
        return Decision(
            name,
            False,
            "not_armed",
            f"at the target's switch rate it may cost {predicted:.1%} of a core "
            f"(budget {self._budget:.1%}); tried again in {_seconds(breaker.rest_ns)}",
            predicted,
        )

    def observe(self, now_ns: int, spent_ns: Mapping[str, int]) -> list[Decision]:
        """Take the running totals of CPU time (ns) that each group has cost; what to change.

        Totals never go down; a group that is missing has not changed.
        """
        for name, total in spent_ns.items():
            self._account(name, now_ns, total)
        decisions = self._finish_trials(now_ns)
        decisions += self._shed(now_ns)
        decisions += self._start_trials(now_ns)
        return decisions

    def next_change_ns(self, now_ns: int) -> int | None:
        """When ``observe`` should be called again at the latest; None: nothing is pending."""
        due = [
            breaker.changed_ns + breaker.rest_ns
            for breaker in self._breakers.values()
            if breaker.state is State.OPEN
        ]
        due += [
            breaker.changed_ns + self._trial_ns
            for breaker in self._breakers.values()
            if breaker.state is State.HALF_OPEN
        ]
        return max(now_ns, min(due)) if due else None

    def _account(self, name: str, now_ns: int, total: int) -> None:
        breaker = self._breakers.get(name)
        if breaker is None:
            return
        cost = total - breaker.spent_ns
        breaker.spent_ns = total
        if cost > 0:
            breaker.samples.append((now_ns, cost))
            if breaker.state is State.HALF_OPEN:
                breaker.trial_spent_ns += cost
        while breaker.samples and breaker.samples[0][0] <= now_ns - self._window_ns:
            breaker.samples.popleft()

    def _finish_trials(self, now_ns: int) -> list[Decision]:
        decisions = []
        allowance = self._budget * self._window_ns * _TRIAL_ALLOWANCE
        for breaker in self._breakers.values():
            if breaker.state is not State.HALF_OPEN:
                continue
            elapsed = max(1, now_ns - breaker.changed_ns)
            cost = breaker.trial_spent_ns / elapsed
            if breaker.trial_spent_ns > allowance:
                decisions.append(self._open(breaker, now_ns, cost, "a trial went over the budget"))
            elif elapsed >= self._trial_ns and cost <= self._budget:
                breaker.state = State.CLOSED
                breaker.changed_ns = now_ns
                decisions.append(
                    Decision(breaker.group.name, True, "restored", "a trial stayed cheap", cost)
                )
        return decisions

    def _shed(self, now_ns: int) -> list[Decision]:
        decisions: list[Decision] = []
        allowance = self._budget * self._window_ns
        while True:
            armed = [breaker for breaker in self._breakers.values() if breaker.armed]
            costs = {breaker.group.name: breaker.window_ns() for breaker in armed}
            excess = sum(costs.values()) - allowance
            candidates = [
                breaker
                for breaker in armed
                if costs[breaker.group.name] > allowance * _WORTH_SHEDDING
            ]
            if excess <= 0 or not candidates:
                return decisions
            enough = [one for one in candidates if costs[one.group.name] >= excess]
            victim = (enough or candidates)[0]
            cost = costs[victim.group.name] / self._window_ns
            decisions.append(self._open(victim, now_ns, cost, "over the budget"))

    def _open(self, breaker: _Breaker, now_ns: int, cost: float, why: str) -> Decision:
        settled = now_ns - breaker.changed_ns > self._first_rest_ns
        if breaker.state is State.CLOSED and settled:
            breaker.rest_ns = 0  # it was cheap for a while: the load has changed
        rest = min(self._longest_rest_ns, breaker.rest_ns * 2 or self._first_rest_ns)
        breaker.rest_ns = rest
        breaker.state = State.OPEN
        breaker.changed_ns = now_ns
        breaker.samples.clear()
        text = f"{why} of {self._budget:.1%}; tried again in {_seconds(rest)}"
        return Decision(breaker.group.name, False, "shed", text, cost)

    def _start_trials(self, now_ns: int) -> list[Decision]:
        decisions = []
        for breaker in self._breakers.values():
            if breaker.state is State.OPEN and now_ns - breaker.changed_ns >= breaker.rest_ns:
                breaker.state = State.HALF_OPEN
                breaker.changed_ns = now_ns
                breaker.trial_spent_ns = 0
                decisions.append(
                    Decision(breaker.group.name, True, "trial", "the rest is over", 0.0)
                )
        return decisions


def _seconds(duration_ns: int) -> str:
    return f"{duration_ns / SECOND_NS:g} s"
