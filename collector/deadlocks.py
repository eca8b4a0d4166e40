"""Finds deadlocks while they last, and says each once, when it is certain.

When a park crosses the threshold (or is old already at the attach) its chain is
followed: what it waits for, who has that, what that thread waits for, also where that
one is not parked for long yet. What counts as a deadlock is ``collector.wait_graph``'s.

Threads are read one after the other, so what was read need never have been true at one
moment. A suspicion is therefore said only after two more steps: the source is drained,
every park must still be the same and everything must read the same a second time; then
it is drained again, and every park must still be open. A thread that was parked all
the time did nothing all the time: what was read of it was true at one moment.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from collector.chains import EXPLAINED, Blames, OpenParks
from collector.context import Blame, Census, ContextProvider, ThreadContext
from collector.events import Event
from collector.park import Park
from collector.said import resource_dict, stack_list
from collector.wait_graph import Deadlock, Node, ends_with_anyone, find

MAX_THREADS = 2_000
"""A process with more threads is not searched for knots: reading them takes too long."""
NAMING_NS = 60_000_000
"""So long after it was suspected first a deadlock is said without the names of what its members
wait for. The source is drained after each few milliseconds of the search."""
NAME_TRIES = 16
"""… and how often, for a clock that stands still meanwhile."""
AT_ONCE = 4
"""Parks that ``look_again`` reads again in one go, so that it stays cheap."""
SOON_NS = 40_000_000
"""When a wait that could not be read at its crossing is looked at again, once."""
THREADS_A_SECOND = 10
"""So many threads of whole processes are read again per second on average."""


class Parks(OpenParks, Protocol):
    """The detector, as far as it is needed here."""

    @property
    def open_parks(self) -> list[Park]:
        """All parks that have not ended."""


@dataclass(slots=True)
class Suspicion:
    """A deadlock as it was read once; ``contexts`` are of the second reading.

    ``since_ns``: when it was suspected. ``names``: members whose resource has no name yet.
    """

    pid: int
    start: int
    found: Deadlock
    parks: Mapping[int, Park]
    blames: dict[int, Blame]
    census: Census | None
    since_ns: int
    names: list[int] = field(default_factory=list)
    tries: int = 0
    contexts: dict[int, ThreadContext] = field(default_factory=dict)


class DeadlockWatch:
    """One per session. Each drain of the source is followed by ``advance``."""

    def __init__(self, context: ContextProvider, parks: Parks, blames: Blames) -> None:
        self._context = context
        self._parks = parks
        self._blames = blames
        self._read_once: list[Suspicion] = []
        self._read_twice: list[Suspicion] = []
        self._said: set[Park] = set()
        self._unclear: dict[Park, None] = {}
        self._soon: dict[Park, int] = {}
        self._now_ns = 0
        self._examined: set[int] = set()
        self._threads_read = self._rest = 0

    @property
    def busy(self) -> bool:
        """Whether something is suspected: drain the source soon."""
        return bool(self._read_once or self._read_twice)

    @property
    def due_ns(self) -> int | None:
        """When ``advance`` has something to look at again."""
        return min(self._soon.values(), default=None)

    def suspect(self, parks: Iterable[Park]) -> None:
        """Follow the chains of parks that have just crossed the threshold."""
        self._examined.clear()
        for park in parks:
            # One that is idle by design is no start: whoever it holds up is one.
            if self._may_be_stuck(park) and not self._follow(park):
                self._soon[park] = self._now_ns + SOON_NS

    def look_again(self) -> None:
        """About once a second: chains that could not be read, knots that were not yet tied.

        A process of many threads is looked at more rarely: each takes a fifth of a
        millisecond, and nothing may ever come of it.
        """
        self._said = {park for park in self._said if self._parks.is_open(park)}
        waiting = [p for p in self._unclear if self._parks.is_open(p) and not p.idle]
        self._unclear = dict.fromkeys(waiting)
        self._rest -= 1
        if self._rest > 0:
            return
        self._threads_read = 0
        self._unclear = dict.fromkeys(waiting[AT_ONCE:])
        self._blames.forget()
        self._examined.clear()
        for park in waiting[:AT_ONCE]:
            self._follow(park)
        self._rest = self._threads_read // THREADS_A_SECOND

    def advance(self, now_ns: int) -> list[Event]:
        """The source has been drained since the last call: what is certain by now."""
        self._now_ns = now_ns
        self._look_soon()
        events = []
        waiting = []
        for suspicion in self._read_twice:
            if not self._all_open(suspicion):
                continue
            if self._looks_for_names(suspicion, now_ns):
                waiting.append(suspicion)
            elif self._unsaid(suspicion):
                events.append(_event(suspicion, now_ns))
        again = [s for s in self._read_once if self._all_open(s) and self._reads_same(s)]
        self._read_once, self._read_twice = [], waiting + again
        return events

    # -- the first reading ------------------------------------------------------------

    def _may_be_stuck(self, park: Park) -> bool:
        return park.kind in EXPLAINED and not park.idle and self._parks.is_open(park)

    def _look_soon(self) -> None:
        """Look once more at those that could not be read: the next health check may be far."""
        due = [park for park, at_ns in self._soon.items() if at_ns <= self._now_ns]
        if due:
            self._blames.forget()
            self._examined.clear()
        for park in due:
            del self._soon[park]
            if self._may_be_stuck(park):
                self._follow(park)

    def _follow(self, park: Park) -> bool:
        """Look where a park's chain leads; False when some of it could not be read."""
        parks, blames = self._chain(park)
        was_read = all(tid in blames for tid, one in parks.items() if one.kind in EXPLAINED)
        nodes = {tid: _node(blame, parks[tid]) for tid, blame in blames.items()}
        found, census = find(park.tid, nodes, None), None
        if found is None:
            anyone = ends_with_anyone(park.tid, nodes)
            if anyone or len(blames) < len(parks):
                self._unclear[park] = None
            if not (anyone and (whole := self._whole_process(park.pid))):
                return was_read  # or it was looked at for another thread: the answer is the same
            parks, blames, census = whole
            nodes = {tid: _node(blame, parks[tid]) for tid, blame in blames.items()}
            found = find(park.tid, nodes, frozenset(census.threads))
        if found is not None and self._is_new([parks[tid] for tid in found.members]):
            on = {tid: parks[tid] for tid in found.on}
            first = {tid: blames[tid] for tid in found.on}
            start = park.pid, park.tid
            self._read_once.append(Suspicion(*start, found, on, first, census, self._now_ns))
        return was_read

    def _is_new(self, members: list[Park]) -> bool:
        """Whether none of them is in a deadlock that was said or is suspected already."""
        suspected = {
            park
            for suspicion in (*self._read_once, *self._read_twice)
            for park in suspicion.parks.values()
        }
        return self._said.isdisjoint(members) and suspected.isdisjoint(members)

    def _chain(self, park: Park) -> tuple[dict[int, Park], dict[int, Blame]]:
        """The parks that a park's end depends on, and what each is for, if it could be read."""
        parks, blames = {park.tid: park}, {}
        edge = [park]
        while edge and len(parks) < MAX_THREADS:
            self._blames.read(edge)
            following = []
            for each in edge:
                blame = self._blames.of(each)
                if blame is None:
                    continue
                blames[each.tid] = blame
                for tid in blame.needs or ():
                    other = self._parks.park_of(park.pid, tid)
                    if other is not None and tid not in parks:
                        parks[tid] = other
                        following.append(other)
            edge = following
        return parks, blames

    def _whole_process(self, pid: int) -> tuple[dict[int, Park], dict[int, Blame], Census] | None:
        """All threads of a process, provided that each waits and it is known for what.

        Once per round: a knot is one of the whole process, from whichever thread it is seen.
        """
        if pid in self._examined:
            return None
        self._examined.add(pid)
        parks = {park.tid: park for park in self._parks.open_parks if park.pid == pid}
        if len(parks) > MAX_THREADS or any(p.kind not in EXPLAINED for p in parks.values()):
            return None
        census = self._context.census(pid)
        if census is None or census.handlers or not census.threads.keys() <= parks.keys():
            return None
        parks = {tid: parks[tid] for tid in census.threads}
        self._threads_read += len(parks)
        self._blames.read(parks.values())
        blames = {tid: self._blames.of(park) for tid, park in parks.items()}
        known = {tid: blame for tid, blame in blames.items() if blame is not None}
        return (parks, known, census) if len(known) == len(parks) else None

    # -- what is still so --------------------------------------------------------------

    def _all_open(self, suspicion: Suspicion) -> bool:
        return all(self._parks.is_open(park) for park in suspicion.parks.values())

    def _unsaid(self, suspicion: Suspicion) -> bool:
        members = [suspicion.parks[tid] for tid in suspicion.found.members]
        if not self._said.isdisjoint(members):
            return False
        self._said.update(members)
        return True

    def _looks_for_names(self, suspicion: Suspicion, now_ns: int) -> bool:
        """Search once more for a name; False when there is no name or no time left."""
        late = now_ns > suspicion.since_ns + NAMING_NS or suspicion.tries >= NAME_TRIES
        if late or not suspicion.names:
            return False
        suspicion.tries += 1
        tid = suspicion.names[0]
        blame = suspicion.blames[tid]
        name, done = self._context.find_name(suspicion.pid, blame.resource)
        if name is not None:
            resource = replace(blame.resource, name=name)
            suspicion.blames[tid] = replace(blame, resource=resource)
        if name is not None or done:
            suspicion.names.pop(0)
        return True

    def _reads_same(self, suspicion: Suspicion) -> bool:
        """Read everything once more; keep the members' stacks of this reading."""
        pid, members = suspicion.pid, suspicion.found.members
        again = self._context.blames(pid, {t: p.parked for t, p in suspicion.parks.items()})
        if any(_facts(again.get(t)) != _facts(b) for t, b in suspicion.blames.items()):
            return False
        everyone = None
        if suspicion.census is not None:
            census = self._context.census(pid)
            if census != suspicion.census:
                return False
            everyone = frozenset(suspicion.census.threads)
        # By now it is known which of them wait by design, too.
        nodes = {tid: _node(again[tid], park) for tid, park in suspicion.parks.items()}
        start = suspicion.start if suspicion.start in nodes else members[0]
        found = find(start, nodes, everyone)
        if found is None:
            return False
        suspicion.found, suspicion.blames = found, dict(again)
        suspicion.names = [t for t in found.members if again[t].resource.name is None]
        suspicion.contexts = {
            tid: self._context.describe(pid, tid, suspicion.parks[tid].start_ns)
            for tid in found.members
        }
        return True


def _node(blame: Blame, park: Park) -> Node:
    return Node(park.tid, blame, bool(park.idle))


def _facts(blame: Blame | None) -> tuple[Any, ...] | None:
    """What has to be the same when it is read twice; a name may be found in between."""
    if blame is None:
        return None
    holder = None if blame.holder is None else blame.holder.tid
    return blame.resource.type, blame.resource.address, holder, blame.needs, blame.timed


def _event(suspicion: Suspicion, now_ns: int) -> Event:
    members = suspicion.found.members
    since_ns = max(suspicion.parks[tid].start_ns for tid in members)
    return Event(
        "deadlock",
        now_ns,
        pid=suspicion.pid,
        start_ns=since_ns,
        duration_ns=max(0, now_ns - since_ns),
        data={
            "since_ns": since_ns,
            "knot": suspicion.found.knot,
            "cycle": [_member(suspicion, tid) for tid in members],
        },
    )


def _member(suspicion: Suspicion, tid: int) -> dict[str, Any]:
    context, park, blame = suspicion.contexts[tid], suspicion.parks[tid], suspicion.blames[tid]
    holder, needs = blame.holder, blame.needs or ()
    held_by = holder.tid if holder is not None else needs[0] if len(needs) == 1 else None
    return {
        "tid": tid,
        "thread_name": context.thread_name,
        "stack": stack_list(context.frames),
        "waits_on": resource_dict(blame.resource),
        "held_by": held_by,
        "how": None if holder is None else holder.how,
        "since_ns": park.start_ns,
        "park_id": park.park_id or None,
    }
