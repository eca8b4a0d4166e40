"""From a park to an event that a person can act on: names, frames, idle or stuck.

A stack is read from a thread that holds still, so it is true only if the park
outlasted the reading. ``Attributor.look`` reads; the pipeline drains the source
once more and tells ``long_event`` whether the park was still open then. What may
be wrong is not said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Protocol

from collector.chains import EXPLAINED, SeenLink
from collector.context import (
    UNKNOWN,
    Blame,
    ContextProvider,
    Link,
    NoBlames,
    ParkedAt,
    Resource,
    ThreadContext,
    Waking,
)
from collector.events import Event
from collector.park import End, Park, Seen
from collector.said import link_dict, party_dict, resource_dict, stack_list
from probes.kinds import fd_of, syscall_name
from probes.wire import Flag

_SOURCES = MappingProxyType({Seen.SLOW_PATH: "slow_path", Seen.SCAN: "scan"})

# A wake-up is somebody's deed when the waker was inside one of these calls; in an
# interrupt the current task is whoever happened to run.
_WAKING_CALLS = frozenset({1, 3, 18, 20, 44, 46, 48, 60, 62, 131, 200, 202, 231, 234, 307, 424})
_SIGNAL_CALLS = frozenset({62, 200, 234, 424})  # kill, tkill, tgkill, pidfd_send_signal

_NOBODY: Mapping[str, Any] = MappingProxyType(
    {
        "pid": None,
        "tid": None,
        "same_process": None,
        "thread_name": None,
        "stack": None,
        "stack_truncated": None,
    }
)


class IdleRules(Protocol):
    """Known sites where threads wait by design (``collector.idle``)."""

    def match(self, kind: str, context: ThreadContext, /) -> str | None:
        """Why this park is idle, None when it is not known to be."""


@dataclass(frozen=True, slots=True)
class Sight:
    """A crossed park and what was read of its thread and of its chain, before it is said.

    The thread is read before its blame, and the blame before the links. ``idle``: by what
    was read it waits there by design. ``earlier``: what was read of it before it crossed.
    """

    park: Park
    context: ThreadContext
    blame: Blame | None = None
    links: tuple[SeenLink, ...] = ()
    idle: bool = False
    earlier: Sight | None = None

    @property
    def asks(self) -> bool:
        """Whether to read the blame though the park is over: that tells who has had the GIL."""
        before = None if self.earlier is None else self.earlier.blame
        return before is not None and before.holder is not None and before.turn > 0


class Attributor:
    """Builds ``park_long``, ``resource_named`` and ``park_end`` events; one per session."""

    def __init__(
        self, context: ContextProvider, rules: IdleRules, nodes: Sequence[int] = ()
    ) -> None:
        self.context = context
        self._nodes = nodes
        self._rules = rules
        self._said: dict[int, Event] = {}
        self._unnamed: dict[int, tuple[Park, Resource]] = {}

    def look(self, park: Park) -> Sight:
        """Read the thread of a park that has just crossed the threshold."""
        context = self.context.describe(park.pid, park.tid, park.start_ns)
        idle = self._rules.match(park.kind, context) is not None
        return Sight(park, context, context.blame, idle=idle)

    def long_event(self, sight: Sight, now_ns: int, is_open: bool, chain: Sequence[Link]) -> Event:
        """The ``park_long`` event; without what may have been read too late.

        ``is_open``: the park still lasts. ``chain``: what has been confirmed of the links.
        """
        park = sight.park
        context, blame = (sight.context, sight.blame) if is_open else _outlasted(sight)
        if blame is not sight.blame:
            chain = ()
        chain = context.chain if context.chain is not None else chain
        reason = self._rules.match(park.kind, context)
        # Without frames nobody knows whether the thread waits there by design.
        known = reason is not None or context.frames is not None
        park.idle = reason is not None if known else None
        event = Event(
            "park_long",
            ts_ns=now_ns,
            pid=park.pid,
            tid=park.tid,
            thread_name=context.thread_name,
            kind=park.kind,
            idle=park.idle,
            start_ns=park.start_ns,
            duration_ns=max(0, now_ns - park.start_ns),
            before_attach=bool(park.flags & Flag.BEFORE_ATTACH),
            data={
                "park_id": park.park_id,
                "source": _SOURCES[park.source],
                "syscall": syscall_name(park.syscall),
                "fd": fd_of(park.syscall, park.address),
                **_blame(park, blame, chain),
                **_in_map(park, blame),
                "python": context.python,
                "stack": stack_list(context.frames),
                "stack_torn": context.torn,
                "idle_reason": reason,
            },
        )
        self._said[park.park_id] = event
        if blame is not None and blame.resource.name is None:
            self._unnamed[park.park_id] = park, blame.resource
        return event

    def has_said(self, park: Park) -> bool:
        """Whether ``long_event`` was called for a park, and not yet ``end_event``."""
        return park.park_id in self._said

    def end_event(self, park: Park, now_ns: int) -> Event:
        """The ``park_end`` event of a park that ``long_event`` was called for."""
        said = self._said.pop(park.park_id)
        self._unnamed.pop(park.park_id, None)
        resource = said.data["resource"]
        return replace(
            said,
            event="park_end",
            ts_ns=now_ns,
            kind=park.kind,
            start_ns=park.start_ns,
            duration_ns=park.end_ns - park.start_ns,
            data={
                **said.data,
                "source": _SOURCES[park.source],
                "resource": resource if _is_known(resource) else _resource(park),
                "slices": park.slices,
                "end": End(park.end).name.lower(),
                "waker": self._waker(park, said.data["holder"]),
                **self._placed(park),
            },
        )

    def _placed(self, park: Park) -> dict[str, Any]:
        """How long a woken thread stood ready, and whether its wake-up came from another node."""
        if park.run_delay_ns < 0:
            return {"run_delay_ns": None, "cpu": None, "node": None, "cross_node": None}
        cpu = {"slept": park.slept_cpu, "waker": park.waker_cpu, "ran": park.ran_cpu}
        known = all(0 <= one < len(self._nodes) for one in cpu.values())
        node = {name: self._nodes[one] for name, one in cpu.items()} if known else None
        return {
            "run_delay_ns": park.run_delay_ns,
            "cpu": cpu,
            "node": node,
            "cross_node": None if node is None else crosses_nodes(park, self._nodes),
        }

    def name_more(self) -> list[tuple[Park, Resource]]:
        """Look on, for a few milliseconds, for the name of one thing: the parks that it names."""
        park_id = next(iter(self._unnamed), None)
        if park_id is None:
            return []
        park, resource = self._unnamed.pop(park_id)
        name, done = self.context.find_name(park.pid, resource)
        if name is None:
            if not done:
                self._unnamed[park_id] = park, resource  # behind the others
            return []
        same = {
            other: one
            for other, (one, wanted) in self._unnamed.items()
            if one.pid == park.pid and wanted == resource
        }
        for other in same:
            del self._unnamed[other]
        named = replace(resource, name=name)
        return [(one, named) for one in (park, *same.values())]

    @property
    def names_missing(self) -> bool:
        """Whether there is a name to look for."""
        return bool(self._unnamed)

    def named_event(self, park: Park, resource: Resource, now_ns: int) -> Event | None:
        """The ``resource_named`` event; None where there is nothing new to say of the park."""
        said = self._said.get(park.park_id)
        known = resource_dict(resource)
        if said is None or said.data["resource"] == known:
            return None
        map_name = {"map": resource.name} if park.kind == "map" else {}
        self._said[park.park_id] = replace(said, data={**said.data, "resource": known, **map_name})
        return replace(
            said,
            event="resource_named",
            ts_ns=now_ns,
            duration_ns=max(0, now_ns - park.start_ns),
            data={"park_id": park.park_id, "resource": known, **map_name},
        )

    def thread_name(self, pid: int, tid: int) -> str | None:
        """Python's name of a thread, None when unknown."""
        return self.context.thread_name(pid, tid)

    def _waker(self, park: Park, holder: Mapping[str, Any] | None) -> dict[str, Any] | None:
        """What ended it, where that is certain: never an interrupted bystander.

        ``holder``: as it was told. One who ends the park by its own end has a name no more.
        """
        why = _why_awake(park)
        if why is None or why == "timer":
            return None if why is None else {**_NOBODY, "why": why}
        waking = Waking(park.waker_pid, park.waker_tid, park.waker_stack)
        stack = self.context.waker_stack(park.pid, park.tid, park.start_ns, waking)
        name = self.thread_name(park.waker_pid, park.waker_tid)
        waker = park.waker_pid, park.waker_tid
        if name is None and holder and (park.pid, holder["tid"]) == waker:
            name = holder["thread_name"]
        return {
            "pid": park.waker_pid,
            "tid": park.waker_tid,
            "same_process": park.waker_pid == park.pid,
            "why": why,
            "thread_name": name,
            "stack": None if stack is None else stack_list(stack.frames),
            "stack_truncated": None if stack is None else stack.truncated,
        }


def crosses_nodes(park: Park, nodes: Sequence[int]) -> bool:
    """Whether a thread was woken from another NUMA node than it had slept on, or ran on another."""
    cpus = (park.slept_cpu, park.waker_cpu, park.ran_cpu)
    return len({nodes[cpu] for cpu in cpus if 0 <= cpu < len(nodes)}) > 1


def _why_awake(park: Park) -> str | None:
    if park.end is End.TIMED_OUT:
        return "timer"
    if park.end is not End.WOKEN:
        return None
    told = park.waker_tid and park.waker_syscall in _WAKING_CALLS
    if told and park.waker_syscall in _SIGNAL_CALLS:
        return "signal"
    if park.kind == "sleep":
        return "timer" if park.wake_ns else None  # nobody else can end one
    if not told:
        return None
    return "thread" if park.waker_pid == park.pid else "process"


def _outlasted(sight: Sight) -> tuple[ThreadContext, Blame | None]:
    """What was read of a park that is over by now, as late as possible before its end."""
    park, earlier = sight.park, sight.earlier
    for one in (sight,) if earlier is None else (sight, earlier):
        if _ended_later(park, one.context.read_ns):
            if sight.blame is not None and _ended_later(park, sight.blame.read_ns):
                return one.context, sight.blame
            return one.context, None if earlier is None else _kept(park, earlier.blame, sight.blame)
    return _name_only(sight.context), None


def _kept(park: Park, blame: Blame | None, now: Blame | None) -> Blame | None:
    """What was read before the crossing; its holder only if it had the thing to the end.

    It had if it ended the park; of a GIL, if by ``now`` nobody has taken it but the thread
    that waited. Otherwise what was waited for may have changed hands in between.
    """
    if blame is None or not _ended_later(park, blame.read_ns):
        return None
    ended = park.waker_pid == park.pid and blame.holder and blame.holder.tid == park.waker_tid
    passed = blame.turn and now is not None and now.turn == blame.turn + 1
    return blame if ended or passed else replace(blame, holder=None, needs=None)


def _ended_later(park: Park, read_ns: int) -> bool:
    """Whether a park that is over by now had not ended when it was read."""
    return not park.flags & Flag.COARSE and 0 < read_ns < park.end_ns


def _name_only(context: ThreadContext) -> ThreadContext:
    """What holds of a thread whose park may have ended before it was looked at.

    That no interpreter knew it does not: a Python thread's state goes first when it ends.
    """
    if context.frames is None:
        return replace(context, chain=None)
    return ThreadContext(thread_name=context.thread_name, python=context.python or None)


def _blame(park: Park, blame: Blame | None, chain: Sequence[Link]) -> dict[str, Any]:
    """The keys that say what a park is for, who has that, and where the chain ends."""
    if blame is None:
        return {"resource": _resource(park), "holder": None, "candidates": [], "chain": None}
    holder = blame.holder
    chain = chain if holder is not None else ()
    first = chain[0] if chain else None if holder is None else Link(holder)
    return {
        "resource": resource_dict(blame.resource),
        "holder": None if holder is None or first is None else link_dict(first),
        "candidates": [party_dict(party) for party in blame.candidates],
        "chain": [link_dict(link) for link in chain] if len(chain) > 1 else None,
    }


def _in_map(park: Park, blame: Blame | None) -> dict[str, Any]:
    """The keys that say where in a native map a thread waits; null for other kinds."""
    place = park.place
    if place is None:
        return {"map": None, "shard": None, "lock": None}
    return {
        "map": None if blame is None else blame.resource.name,
        "shard": place.shard,
        "lock": f"{park.address:#x}" if park.address else None,
    }


def _resource(park: Park) -> dict[str, Any] | None:
    if park.kind not in EXPLAINED or not park.address:
        return None
    return resource_dict(Resource(park.kind, None, park.address))


def _is_known(resource: dict[str, Any] | None) -> bool:
    """Whether it says more than the kind and address, which a park's end may know better."""
    return resource is not None and (
        resource["name"] is not None or resource["type"] not in EXPLAINED
    )


class NoContext(NoBlames):
    """A ContextProvider that knows nothing (``--no-python``)."""

    def describe(
        self, _pid: int, _tid: int, _since_ns: int, _parked: ParkedAt | None = None, /
    ) -> ThreadContext:
        """Always ``UNKNOWN``."""
        return UNKNOWN

    def thread_name(self, _pid: int, _tid: int, /) -> str | None:
        """Always None."""
        return None


class NoIdleRules:
    """Idle rules that match nothing."""

    def match(self, _kind: str, _context: ThreadContext, /) -> str | None:
        """Always None."""
        return None
