"""How often a rule may act, and what is said of what it did not do."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from collector.breaker import Breaker
from collector.events import Event
from tracer import units
from tracer.triggers.config import Rule

HOUR_NS = 3_600_000_000_000
SAY_NS = 1_000_000_000
"""What was left out is said at most once a second, with its count."""


@dataclass(slots=True)
class RuleState:
    """A rule and what it has done. ``breakers``: one for each of its actions, by its place.

    ``was_true``: processes of which a condition about the process itself held last time.
    ``probing``: actions that are the one probe of a half-open breaker.
    """

    rule: Rule
    breakers: tuple[Breaker, ...]
    acted_ns: dict[int | None, int] = field(default_factory=dict)
    fired_ns: deque[int] = field(default_factory=deque)
    was_true: set[int] = field(default_factory=set)
    probing: set[int] = field(default_factory=set)

    @classmethod
    def of(cls, rule: Rule) -> RuleState:
        """A rule that has done nothing yet."""
        names = [f"action:{rule.name}/{ask.action}" for ask in rule.asks]
        return cls(rule, tuple(Breaker(name, rule.policy) for name in names))

    def why_not(self, pid: int | None, now_ns: int) -> str | None:
        """Why it may not act now, None if it may."""
        acted_ns = self.acted_ns.get(pid)
        if acted_ns is not None and now_ns - acted_ns < self.rule.cooldown_ns:
            return f"cooldown of {units.duration(self.rule.cooldown_ns)}"
        while self.fired_ns and now_ns - self.fired_ns[0] >= HOUR_NS:
            self.fired_ns.popleft()
        if len(self.fired_ns) >= self.rule.per_hour:
            return f"{self.rule.per_hour} within an hour"
        return None

    def forget(self, pid: int) -> None:
        """A process has ended; another one may get its number."""
        self.acted_ns.pop(pid, None)
        self.was_true.discard(pid)

    def acted(self, pid: int | None, now_ns: int) -> None:
        """It has acted."""
        self.acted_ns[pid] = now_ns
        self.fired_ns.append(now_ns)


class Skips:
    """Counts of what was not done, by rule, action and reason; each is said now and then."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str, str]] = Counter()
        self._first: dict[tuple[str, str, str], Event | None] = {}
        self._said_ns: int | None = None

    def count(self, state: RuleState, action: str, why: str, event: Event | None) -> None:
        """One more. ``event``: what had met the condition."""
        key = state.rule.name, action, why
        self._counts[key] += 1
        self._first.setdefault(key, event)

    def due_ns(self, now_ns: int) -> int | None:
        """When the next are to be said."""
        if not self._counts:
            return None
        return now_ns if self._said_ns is None else self._said_ns + SAY_NS

    def take(self, now_ns: int, *, at_once: bool = False) -> list[Event]:
        """The ``action`` events that are due."""
        due_ns = self.due_ns(now_ns)
        if due_ns is None or (now_ns < due_ns and not at_once):
            return []
        said = []
        for (trigger, action, why), count in self._counts.items():
            event = self._first[trigger, action, why]
            data = {
                "trigger": trigger,
                "action": action,
                "firing": None,
                "status": "skipped",
                "why": why,
                "count": count,
                "on": None if event is None else event.event,
                "park_id": None if event is None else event.data.get("park_id"),
                "path": None,
                "took_ns": None,
                "result": None,
            }
            pid = None if event is None else event.pid
            said.append(Event("action", now_ns, pid=pid, data=data))
        self._counts.clear()
        self._first.clear()
        self._said_ns = now_ns
        return said


def park_of_event(event: Event, crossing_ns: int) -> dict[str, Any]:
    """What an action is told of a park that met the condition when it was that long."""
    return {
        "park_id": event.data["park_id"],
        "tid": event.tid,
        "thread_name": event.thread_name,
        "crossing_ns": crossing_ns,
    }


def about(
    event: Event | None, pid: int | None, name: str, now_ns: int, data: Mapping[str, Any]
) -> Event:
    """An event about what another one was about."""
    if event is None:
        return Event(name, now_ns, pid=pid, data=data)
    return replace(
        Event(name, now_ns, data=data), pid=event.pid, tid=event.tid, thread_name=event.thread_name
    )
