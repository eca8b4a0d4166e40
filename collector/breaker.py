"""The circuit breaker: what has failed or cost too much lately is left alone for a while.

One class for all who need it: the governor's groups of probes (failure: CPU time that the
target had to pay) and the actions of triggers (failure: an action that failed or took too
much). Pure: times come from outside, changes go out as values.

::

    waiting ──ready──► closed ──failure rate, or tripped──► open ──rest is over──► half-open
       │                 ▲                                  ▲  ▲                     │   │
       └──tripped────────┼──────────────────────────────────┘  └───────failed again──┘   │
                         └──────────────────────── the probe went well ──────────────────┘

Each failed probe doubles the rest before the next one, up to a longest. Who was closed for
longer than the first rest begins with the first again: what failed now is another thing.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from collector.events import Event


class State(Enum):
    """Where a breaker stands: only a closed one lets everything pass."""

    WAITING = "waiting"
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


@dataclass(frozen=True, slots=True)
class Policy:
    """When a breaker opens and for how long. Times in ns.

    It opens when of at least ``least`` outcomes within ``window_ns`` a share of
    ``failure_rate`` or more have failed. The rest before a probe is ``rest_ns``, doubled by
    each failed probe up to ``longest_rest_ns``.
    """

    window_ns: int
    rest_ns: int
    longest_rest_ns: int
    failure_rate: float = 0.5
    least: int = 1


class Change(NamedTuple):
    """A breaker went from one state to another. ``why`` is for people."""

    name: str
    old: State
    new: State
    why: str

    def event(self, now_ns: int) -> Event:
        """The ``breaker`` event."""
        data = {"name": self.name, "from": self.old.value, "to": self.new.value, "why": self.why}
        return Event("breaker", now_ns, data=data)


class Breaker:
    """One breaker. ``name`` is what it guards: ``probe:alloc.malloc``, ``action:stuck/exec``."""

    def __init__(self, name: str, policy: Policy, state: State = State.CLOSED) -> None:
        self.name = name
        self.state = state
        self.policy = policy
        self.rest_ns = 0
        self.changed_ns = 0
        self.trial_failed = 0
        self._samples: deque[tuple[int, int, int]] = deque()

    @property
    def passing(self) -> bool:
        """Whether what it guards goes on: for a trial at least."""
        return self.state in (State.CLOSED, State.HALF_OPEN)

    def add(self, now_ns: int, *, good: int = 0, failed: int = 0) -> None:
        """Count outcomes, or amounts of them, in the sliding window; no change follows."""
        if good or failed:
            self._samples.append((now_ns, good, failed))
            if self.state is State.HALF_OPEN:
                self.trial_failed += failed
        while self._samples and self._samples[0][0] <= now_ns - self.policy.window_ns:
            self._samples.popleft()

    def failures(self) -> int:
        """What has failed within the window, as of the last ``add``."""
        return sum(failed for _, _, failed in self._samples)

    def outcomes(self) -> int:
        """All that is known of the window, as of the last ``add``."""
        return sum(good + failed for _, good, failed in self._samples)

    def record(self, now_ns: int, *, failed: bool, why: str = "") -> Change | None:
        """Count one outcome and draw the conclusion. ``why``: what failed."""
        self.add(now_ns, good=int(not failed), failed=int(failed))
        if self.state is State.HALF_OPEN:
            return self.trip(now_ns, why) if failed else self.close(now_ns, "the probe went well")
        known = self.outcomes()
        often = known >= self.policy.least and self.failures() >= self.policy.failure_rate * known
        return self.trip(now_ns, why) if self.state is State.CLOSED and failed and often else None

    def trip(self, now_ns: int, why: str) -> Change:
        """Open it: the rest begins."""
        settled = now_ns - self.changed_ns > self.policy.rest_ns
        if self.state is State.CLOSED and settled:
            self.rest_ns = 0  # it was well for a while: something else is wrong now
        longer = self.rest_ns * 2 or self.policy.rest_ns
        self.rest_ns = min(self.policy.longest_rest_ns, longer)
        self._samples.clear()
        return self._go(State.OPEN, now_ns, why)

    def close(self, now_ns: int, why: str) -> Change:
        """All is well: let everything pass."""
        return self._go(State.CLOSED, now_ns, why)

    def due_ns(self) -> int | None:
        """When the rest of an open one is over."""
        return self.changed_ns + self.rest_ns if self.state is State.OPEN else None

    def probe(self, now_ns: int) -> Change | None:
        """Begin a probe if it is time for one: one attempt may pass, to see how it goes."""
        due_ns = self.due_ns()
        if due_ns is None or now_ns < due_ns:
            return None
        self.trial_failed = 0
        return self._go(State.HALF_OPEN, now_ns, "the rest is over")

    def _go(self, state: State, now_ns: int, why: str) -> Change:
        old, self.state = self.state, state
        self.changed_ns = now_ns
        return Change(self.name, old, state, why)
