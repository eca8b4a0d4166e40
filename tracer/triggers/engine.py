"""Holds conditions against events, has actions carried out, says what became of them.

Everything that is not done is counted and said: for cooldown, for the number in an hour,
for an open breaker, for want of room in the queue. Time is that of the events.
"""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from collector.breaker import Change, State
from collector.counters import Counters
from collector.events import Event
from tracer.triggers.around import Surroundings
from tracer.triggers.config import Rule
from tracer.triggers.facts import PARKS, SAMPLE, TOPICS, Moment, facts_of
from tracer.triggers.freeze import Ended, Question
from tracer.triggers.job import Job
from tracer.triggers.limits import RuleState, Skips, about, park_of_event
from tracer.triggers.runner import Runner

MAX_PENDING = 16
PICK_UP_NS = 20_000_000
"""While something is being done, the loop looks so often whether it is."""
FINISH_S = 10.0
"""How long the end of a session that somebody stops waits for what is being done; one that
ends by itself waits as long as the action may take."""
_UNSAID_S = 0.5
_GRACE_NS = 5_000_000_000
_NEVER_NS = 1 << 62
_STOPPED_NS = 50_000_000
"""What the threads of a process do so soon after a freeze may be the freeze's doing."""
_GAUGES_NS = 100_000_000
_RESTART_NS = 5_000_000_000
"""A worker that ends while nothing is done is replaced, and not more often than this."""


@dataclass(slots=True)
class _Asked:
    """An action that waits to be carried out, or is."""

    job: Job
    state: RuleState
    place: int
    event: Event | None
    began_ns: int = 0
    end: Event | None = None

    @property
    def limit_ns(self) -> int:
        """How long it may take before it is given up from here."""
        return int(self.job.options["timeout"]) + _GRACE_NS

    def heard(self, event: Event) -> None:
        """A park has ended: perhaps the one that it is about."""
        if self.event is not None and self.event.data.get("park_id") == event.data["park_id"]:
            self.end = event


class Triggers:
    """A ``Reaction``; see the module's text."""

    def __init__(self, rules: Sequence[Rule], runner: Runner, around: Surroundings) -> None:
        self._states = [RuleState.of(rule) for rule in rules]
        self._runner = runner
        self._around = around
        self._pids: set[int] = set()
        self._parks: dict[int, Event] = {}
        self._later: list[tuple[int, int, int, int]] = []
        """When to look, when the length is reached, the park, the rule."""
        self._pending: deque[_Asked] = deque()
        self._running: _Asked | None = None
        self._question: Question | None = None
        self._skips = Skips()
        self._firing = self._number = 0
        self._gauges: dict[int, tuple[int, Mapping[str, int]]] = {}
        self._now_ns = self._restart_ns = 0

    # -- as a reaction ----------------------------------------------------------------

    def on_events(self, events: Sequence[Event]) -> Sequence[Event]:
        """What follows from events."""
        said: list[Event] = []
        for event in events:
            self._now_ns = max(self._now_ns, event.ts_ns)
            self._keep_up(event)
            for topic in TOPICS.values():
                if topic.event == event.event and topic.when(event):
                    for at, state in enumerate(self._states):
                        if state.rule.condition.topic == topic.name:
                            said += self._consider(at, state, self._moment(topic.name, event))
        return said

    def on_health(self, counters: Counters, now_ns: int) -> Sequence[Event]:
        """Look at the processes themselves. A condition fires when it has become true."""
        self._now_ns = max(self._now_ns, now_ns)
        said: list[Event] = []
        for state in self._states:
            if state.rule.condition.topic != SAMPLE:
                continue
            for pid in sorted(self._pids):
                moment = Moment(SAMPLE, pid, now_ns, gauges=self._gauges_of(pid))
                holds = state.rule.condition.holds(moment)
                if holds and pid not in state.was_true:
                    said += self._fire(state, moment, None)
                (state.was_true.add if holds else state.was_true.discard)(pid)
        return said

    def tend(self, now_ns: int) -> Sequence[Event]:
        """Look again at parks that have got longer; hear of what is being done."""
        self._now_ns = max(self._now_ns, now_ns)
        said = self._look_again()
        said += self._hear()
        said += self._watch_over()
        said += self._skips.take(self._now_ns)
        return said

    def due_ns(self) -> int | None:
        """When something is due."""
        due = [self._later[0][0]] if self._later else []
        if self._running is not None or self._pending:
            due.append(self._now_ns + PICK_UP_NS)
        if (skips_ns := self._skips.due_ns(self._now_ns)) is not None:
            due.append(skips_ns)
        return min(due) if due else None

    def finish(self, now_ns: int, *, patient: bool) -> Sequence[Event]:
        """Give what is being done its time, and with patience what waits, too."""
        self._now_ns = max(self._now_ns, now_ns)
        why = "the session ended"
        said: list[Event] = []
        if not patient:
            self._skip_pending(why)
        last, began, noted = None, time.monotonic(), False
        while (running := self._running) is not None and not self._runner.lost:
            if patient and running is not last:
                last, began = running, time.monotonic()
            limit_s = running.limit_ns / 1e9 if patient else FINISH_S
            waited_s = time.monotonic() - began
            if waited_s > limit_s:
                break
            if waited_s > _UNSAID_S and not noted:
                noted = True
                what = f"{running.job.action} of {running.state.rule.name} is not done yet"
                self._around.note(f"{what}: {limit_s:.0f} s at most, or Ctrl-C")
            said += self._hear()
            if self._question is not None:  # nothing more will be heard of that park
                self._runner.answer(None)
                self._question = None
            if self._running is not None:
                time.sleep(PICK_UP_NS / 1e9)
        self._skip_pending(why)
        if self._running is not None:
            said += self._over({"say": "failed", "why": f"{why} before it was done"})
        return [*said, *self._skips.take(self._now_ns, at_once=True)]

    def _skip_pending(self, why: str) -> None:
        while self._pending:
            asked = self._pending.popleft()
            self._skips.count(asked.state, asked.job.action, why, asked.event)

    def close(self) -> None:
        """End the worker."""
        self._runner.close()

    # -- conditions -------------------------------------------------------------------

    def look_at(self, pid: int) -> None:
        """A process has a Python by now."""
        self._runner.look_at(pid)

    def _keep_up(self, event: Event) -> None:
        """Processes and parks that come and go."""
        pid = event.pid
        if event.event == "attached" and pid is not None:
            self._pids.add(pid)
        elif event.event == "process_fork" and event.data.get("followed"):
            self._pids.add(int(event.data["child_pid"]))
        elif event.event == "process_exec" and pid is not None:
            self._runner.forget(pid)
        elif event.event == "process_exit" and pid is not None:
            self._pids.discard(pid)
            self._gauges.pop(pid, None)
            for state in self._states:
                state.forget(pid)
            self._runner.forget(pid)
        elif event.event == "park_long":
            self._parks[event.data["park_id"]] = event
        elif event.event == "park_end":
            self._parks.pop(event.data["park_id"], None)
            if self._running is not None:
                self._running.heard(event)
            if self._question is not None and self._running is not None:
                self._question.end = self._running.end

    def _moment(self, topic: str, event: Event) -> Moment:
        pid = event.pid
        duration_ns = event.duration_ns or 0
        if event.start_ns is not None:
            duration_ns = max(duration_ns, self._now_ns - event.start_ns)
        gauges = {} if pid is None else self._gauges_of(pid)
        return Moment(topic, pid, self._now_ns, event, duration_ns, gauges)

    def _gauges_of(self, pid: int) -> Mapping[str, int]:
        read_ns, gauges = self._gauges.get(pid, (-_GAUGES_NS, {}))
        if self._now_ns - read_ns >= _GAUGES_NS:
            gauges = self._around.gauges(pid)
            self._gauges[pid] = self._now_ns, gauges
        return gauges

    def _consider(self, at: int, state: RuleState, moment: Moment) -> list[Event]:
        """Act if the condition holds; else look again when the park is longer."""
        condition = state.rule.condition
        if condition.holds(moment):
            crossing_ns = None
            if moment.topic in PARKS and moment.event is not None:
                reached = [one for one in condition.lengths_ns if one <= moment.duration_ns]
                least = max([self._around.long_park_ns, *reached])
                crossing_ns = (moment.event.start_ns or 0) + least
            return self._fire(state, moment, crossing_ns)
        longer = [one for one in condition.lengths_ns if one > moment.duration_ns]
        if longer and moment.event is not None and moment.event.start_ns is not None:
            park_id = int(moment.event.data["park_id"])
            reached_ns = moment.event.start_ns + longer[0]
            heapq.heappush(self._later, (reached_ns, reached_ns, park_id, at))
        return []

    def _look_again(self) -> list[Event]:
        """Parks that have reached a length that a condition compares with."""
        said: list[Event] = []
        while self._later and self._later[0][0] <= self._now_ns:
            _, reached_ns, park_id, at = heapq.heappop(self._later)
            event, state = self._parks.get(park_id), self._states[at]
            if event is None or event.pid is None or event.tid is None:
                continue  # it has ended
            park = self._around.park_of(event.pid, event.tid)
            if park is None or park.park_id != park_id:
                continue
            if not park.confirmed_by_silence and self._around.known_ns(park) < reached_ns:
                again_ns = self._now_ns + PICK_UP_NS
                heapq.heappush(self._later, (again_ns, reached_ns, park_id, at))
                continue
            said += self._consider(at, state, self._moment(state.rule.condition.topic, event))
        return said

    # -- actions ----------------------------------------------------------------------

    def _fire(self, state: RuleState, moment: Moment, crossing_ns: int | None) -> list[Event]:
        """Have the actions of a rule carried out, as far as it may act."""
        rule, event = state.rule, moment.event
        why = state.why_not(moment.pid, self._now_ns)
        if why is not None:
            for ask in rule.asks:
                self._skips.count(state, ask.action, why, event)
            return []
        facts, on = facts_of(moment), event.event if event is not None else SAMPLE
        trigger = {
            "name": rule.name,
            "condition": rule.condition.text,
            "on": on,
            "firing": self._firing + 1,
        }
        park = None if crossing_ns is None or event is None else park_of_event(event, crossing_ns)
        said: list[Event] = []
        accepted: list[str] = []
        for place, ask in enumerate(rule.asks):
            changes, why = self._may(state, place)
            said += [change.event(self._now_ns) for change in changes]
            if why is not None:
                self._skips.count(state, ask.action, why, event)
                continue
            self._number += 1
            job = Job(
                self._number,
                ask.action,
                ask.options,
                moment.pid,
                self._around.stem(moment.pid),
                trigger,
                facts,
                None if event is None else event.to_dict(),
                park,
            )
            self._pending.append(_Asked(job, state, place, event))
            accepted.append(ask.action)
        if not accepted:
            return said
        self._firing += 1
        state.acted(moment.pid, self._now_ns)
        said += self._next()  # first things first: the freeze is urgent
        data = {
            "trigger": rule.name,
            "firing": self._firing,
            "condition": rule.condition.text,
            "on": on,
            "park_id": None if event is None else event.data.get("park_id"),
            "facts": facts,
            "actions": accepted,
        }
        return [*said, about(event, moment.pid, "trigger", self._now_ns, data)]

    def _may(self, state: RuleState, place: int) -> tuple[list[Change], str | None]:
        """Whether an action may be asked for by its breaker and the queue, or why not."""
        if len(self._pending) >= MAX_PENDING:
            return [], "the queue is full"
        breaker = state.breakers[place]
        change = breaker.probe(self._now_ns)
        if not breaker.passing:
            return [], "the breaker is open"
        if breaker.state is State.HALF_OPEN:
            if place in state.probing:
                return [], "the breaker waits for its probe"
            state.probing.add(place)
        return [] if change is None else [change], None

    def _next(self) -> list[Event]:
        """Begin with what waits, if nothing is being done."""
        if self._running is not None or not self._pending:
            return []
        asked = self._pending.popleft()
        asked.began_ns = self._now_ns
        self._running, self._question = asked, None
        self._stopping(asked, _NEVER_NS)
        if not self._runner.submit(asked.job):
            return self._over({"say": "failed", "why": "the worker takes nothing"})
        return []

    def _hear(self) -> list[Event]:
        """What the runner says, and what it is to be told."""
        said: list[Event] = []
        for message in self._runner.take():
            running = self._running
            if running is None or message["number"] != running.job.number:
                continue  # of one that was given up
            if message["say"] == "frozen":
                self._stopping(running, self._now_ns + _STOPPED_NS)
                self._question = Question.of(running.event, message["frozen_ns"], running.end)
            else:
                said += self._over(message)
        if self._question is not None:
            known = self._question.answer(self._around.park_of, self._around.end_error_ns)
            if known is not Ended.UNKNOWN:
                self._runner.answer(known.value)
                self._question = None
        return said

    def _stopping(self, asked: _Asked, until_ns: int) -> None:
        if asked.job.action == "heap-dump" and asked.job.pid is not None:
            self._around.stopping(asked.job.pid, until_ns)

    def _watch_over(self) -> list[Event]:
        """End what takes too long, replace a worker that has ended, begin what waits."""
        said: list[Event] = []
        running = self._running
        if self._runner.lost and (running is not None or self._now_ns >= self._restart_ns):
            self._restart_ns = self._now_ns + _RESTART_NS
            self._runner.restart()
            if running is not None:
                said += self._over({"say": "failed", "why": "the worker ended without a word"})
        elif running is not None and self._now_ns - running.began_ns > running.limit_ns:
            self._runner.restart()
            said += self._over({"say": "failed", "why": "it took too long"})
        return [*said, *self._next()]

    def _over(self, message: Mapping[str, Any]) -> list[Event]:
        """An action has been carried out or not: say so, tell its breaker, go on."""
        asked, self._running, self._question = self._running, None, None
        if asked is None:
            return []
        self._stopping(asked, self._now_ns + _STOPPED_NS)
        result = message.get("result")
        failed = message["say"] == "failed"
        why = message.get("why") if failed else (result or {}).get("over_budget")
        asked.state.probing.discard(asked.place)
        breaker = asked.state.breakers[asked.place]
        change = breaker.record(self._now_ns, failed=why is not None, why=str(why))
        event = asked.event
        data = {
            "trigger": asked.state.rule.name,
            "action": asked.job.action,
            "firing": asked.job.trigger["firing"],
            "status": "failed" if failed else "done",
            "why": why,
            "count": 1,
            "on": asked.job.trigger["on"],
            "park_id": None if event is None else event.data.get("park_id"),
            "path": (result or {}).get("path"),
            "took_ns": self._now_ns - asked.began_ns,
            "result": result,
        }
        said = [about(event, asked.job.pid, "action", self._now_ns, data)]
        return [*said, *([] if change is None else [change.event(self._now_ns)]), *self._next()]
