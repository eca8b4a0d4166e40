"""Names, stacks and blame as the events of a trace give them; whatever is odd is unknown."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from collector.context import (
    UNKNOWN,
    Blame,
    Frame,
    Link,
    MapFacts,
    NameFound,
    NoBlames,
    ParkedAt,
    Party,
    Resource,
    ThreadContext,
    WakerStack,
    Waking,
)
from collector.events import Event
from tracer.backends.mock_replay import ReplaySource

_MAX_FRAMES = 64
_MAX_PARTIES = 64
_MAX_LINE = 1 << 31
_MAX_ADDRESS = 1 << 64
_SAME_PARK_NS = 1_000_000

_Key = tuple[int, int]


class ReplayContext(NoBlames):
    """What the recorder had read. It has no ``needs``: recorded deadlocks are facts."""

    def __init__(self, source: ReplaySource) -> None:
        self._source = source
        self._parks: dict[_Key, list[Event]] = defaultdict(list)
        self._named: dict[_Key, list[tuple[int, str]]] = defaultdict(list)
        self._resources: dict[_Key, list[tuple[int, Resource]]] = defaultdict(list)
        self._ends: dict[_Key, list[Event]] = defaultdict(list)
        self._facts: dict[_Key, list[tuple[int, MapFacts]]] = defaultdict(list)
        for event in source.events:
            if event.event in ("native_map", "breaker") and event.pid is not None:
                address = _address(event.data.get("address"))
                self._facts[event.pid, address].append((event.ts_ns, _facts(event)))
            if event.pid is None or event.tid is None:
                continue
            if event.event == "park_long" and event.start_ns is not None:
                self._parks[event.pid, event.tid].append(event)
            if event.event == "park_end" and event.start_ns is not None:
                self._ends[event.pid, event.tid].append(event)
            if event.event == "resource_named":
                resource = _resource(event.data.get("resource"))
                if resource is not None:
                    self._resources[event.pid, resource.address].append((event.ts_ns, resource))
            for key, name in _names(event):
                self._named[key].append((event.ts_ns, name))
        for parks in (*self._parks.values(), *self._ends.values()):
            parks.sort(key=_start)
        for named in self._named.values():
            named.sort()
        for facts in self._facts.values():
            facts.sort(key=_when)

    def describe(
        self, pid: int, tid: int, since_ns: int, _parked: ParkedAt | None = None, /
    ) -> ThreadContext:
        """What was read of this park when it was recorded; only the name of another one."""
        park = _same(self._parks.get((pid, tid), []), since_ns)
        if park is not None:
            return _context(park)
        name = self._name_at(pid, tid, since_ns)
        return UNKNOWN if name is None else ThreadContext(thread_name=name)

    def find_name(self, pid: int, resource: Resource, /) -> NameFound:
        """The name that the recorder had found by now, or has yet to find."""
        now_ns = self._source.now_ns
        found = [
            (ts, r)
            for ts, r in self._resources.get((pid, resource.address), ())
            if r.type == resource.type
        ]
        name = next((r.name for ts, r in reversed(found) if ts <= now_ns), None)
        return NameFound(name, done=name is not None or not found)

    def native_map(self, pid: int, address: int, _profile: int, /) -> MapFacts | None:
        """What the recorder had found out by now, or says next."""
        known = self._facts.get((pid, address), [])
        at = bisect_left(known, self._source.now_ns, key=_when)
        return known[min(at, len(known) - 1)][1] if known else None

    def thread_name(self, pid: int, tid: int) -> str | None:
        """The name that the thread with this tid had at the replayed moment."""
        return self._name_at(pid, tid, self._source.now_ns)

    def waker_stack(
        self, pid: int, tid: int, since_ns: int, waking: Waking, /
    ) -> WakerStack | None:
        """What the recorder had named of the waker's stack."""
        end = _same(self._ends.get((pid, tid), []), since_ns)
        waker = None if end is None else end.data.get("waker")
        if not isinstance(waker, dict) or waker.get("tid") != waking.tid:
            return None
        frames = _frames(waker.get("stack"))
        return WakerStack(frames, waker.get("stack_truncated") is True) if frames else None

    def _name_at(self, pid: int, tid: int, at_ns: int) -> str | None:
        """By the next event of the thread (events follow what they tell of), else the last."""
        named = self._named.get((pid, tid))
        if not named:
            return None
        return named[min(bisect_left(named, (at_ns, "")), len(named) - 1)][1]


def _names(event: Event) -> Iterator[tuple[_Key, str]]:
    """The threads that an event names: its own, and a waker."""
    if event.pid is not None and event.tid is not None and event.thread_name is not None:
        yield (event.pid, event.tid), event.thread_name
    waker = event.data.get("waker")
    if isinstance(waker, dict):
        pid, tid, name = waker.get("pid"), waker.get("tid"), waker.get("thread_name")
        if type(pid) is int and type(tid) is int and isinstance(name, str):
            yield (pid, tid), name


def _same(parks: list[Event], since_ns: int) -> Event | None:
    """The event of the park that began then."""
    at = bisect_left(parks, since_ns - _SAME_PARK_NS, key=_start)
    if at < len(parks) and _start(parks[at]) <= since_ns + _SAME_PARK_NS:
        return parks[at]
    return None


def _facts(event: Event) -> MapFacts:
    """Of a ``native_map`` event, or a map's ``breaker``; parts of a wrong type are unknown."""
    words = [event.data.get(key) for key in ("type", "map", "profile")]
    kind, name, profile = (word if isinstance(word, str) else None for word in words)
    return MapFacts(kind or "map", name, profile)


def _when(fact: tuple[int, MapFacts]) -> int:
    return fact[0]


def _start(event: Event) -> int:
    return event.start_ns or 0


def _context(event: Event) -> ThreadContext:
    """The context out of a ``park_long`` event; a part of a wrong type counts as unknown."""
    data = event.data
    python = data.get("python")
    return ThreadContext(
        thread_name=event.thread_name,
        python=python if isinstance(python, bool) else None,
        frames=_frames(data.get("stack")),
        torn=data.get("stack_torn") is True,
        blame=_blame(event),
        chain=_chain(data),
    )


def _blame(event: Event) -> Blame | None:
    """None where the recorder knew no more than the kind and address of the wait."""
    data = event.data
    resource = _resource(data.get("resource"))
    holder, candidates = _party(data.get("holder")), _parties(data.get("candidates"))
    if resource is None or (resource.type == event.kind and not holder and not candidates):
        return None
    return Blame(resource, holder, candidates)


def _resource(value: Any) -> Resource | None:
    if not isinstance(value, dict) or not isinstance(value.get("type"), str):
        return None
    name, address = value.get("name"), value.get("address")
    return Resource(value["type"], name if isinstance(name, str) else None, _address(address))


def _address(value: Any) -> int:
    """An address as events write it (``0x7f00``), 0 for anything else."""
    try:
        address = int(value, 16) if isinstance(value, str) and value.startswith("0x") else 0
    except ValueError:
        return 0
    return address if 0 <= address < _MAX_ADDRESS else 0


def _parties(value: Any) -> tuple[Party, ...]:
    some: Iterable[Any] = value[:_MAX_PARTIES] if isinstance(value, list) else ()
    return tuple(party for each in some if (party := _party(each)) is not None)


def _party(value: Any) -> Party | None:
    if not isinstance(value, dict) or type(value.get("tid")) is not int:
        return None
    name = value.get("thread_name")
    return Party(
        tid=value["tid"],
        thread_name=name if isinstance(name, str) else None,
        how=str(value.get("how")),
        frames=_frames(value.get("stack")),
    )


def _chain(data: Any) -> tuple[Link, ...]:
    """The chain that was said; one that was no longer than the holder is in the holder."""
    chain, holder = data.get("chain"), data.get("holder")
    links = [_link(each) for each in chain[:_MAX_PARTIES]] if isinstance(chain, list) else []
    if not links:
        links = [_link(holder)]
    return tuple(link for link in links if link is not None)


def _link(value: Any) -> Link | None:
    party = _party(value)
    if party is None:
        return None
    does = value.get("does")
    return Link(party, does if isinstance(does, str) else None, _resource(value.get("waits_on")))


def _frames(stack: Any) -> tuple[Frame, ...] | None:
    if not isinstance(stack, list):
        return None
    frames = []
    for entry in stack[:_MAX_FRAMES]:
        if not isinstance(entry, dict):
            return None
        module, line = entry.get("module"), entry.get("line")
        frames.append(
            Frame(
                module=module if isinstance(module, str) else None,
                function=str(entry.get("function")),
                file=str(entry.get("file")),
                line=line if type(line) is int and 0 <= line < _MAX_LINE else None,
            )
        )
    return tuple(frames)
