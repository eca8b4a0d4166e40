"""From a park to an event that a person can act on: names, frames, idle or stuck.

A stack is read from a thread that holds still, so it is true only if the park
outlasted the reading. ``Attributor.look`` reads; the pipeline drains the source
once more and tells ``long_event`` whether the park was still open then. What may
be wrong is not said.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Protocol

from collector.context import (
    UNKNOWN,
    ContextProvider,
    Frame,
    NoBlames,
    ParkedAt,
    ThreadContext,
)
from collector.events import Event
from collector.park import End, Park, Seen
from probes.kinds import fd_of, syscall_name
from probes.wire import Flag

_SOURCES = MappingProxyType({Seen.SLOW_PATH: "slow_path", Seen.SCAN: "scan"})

# A wake-up is somebody's deed when the waker was inside one of these calls; in an
# interrupt the current task is whoever happened to run.
_WAKING_CALLS = frozenset({1, 3, 18, 20, 44, 46, 48, 60, 62, 131, 200, 202, 231, 234, 307, 424})


class IdleRules(Protocol):
    """Known sites where threads wait by design (``collector.idle``)."""

    def match(self, kind: str, context: ThreadContext, /) -> str | None:
        """Why this park is idle, None when it is not known to be."""


@dataclass(frozen=True, slots=True)
class Sight:
    """A crossed park and what was read of its thread, before it is said."""

    park: Park
    context: ThreadContext


class Attributor:
    """Builds ``park_long`` and ``park_end`` events; one per session."""

    def __init__(self, context: ContextProvider, rules: IdleRules) -> None:
        self._context = context
        self._rules = rules
        self._said: dict[int, Event] = {}

    def look(self, park: Park) -> Sight:
        """Read the thread of a park that has just crossed the threshold."""
        parked = ParkedAt(park.kind, park.address)
        return Sight(park, self._context.describe(park.pid, park.tid, park.start_ns, parked))

    def long_event(self, sight: Sight, now_ns: int, outlasted: bool) -> Event:
        """The ``park_long`` event; without frames if the park may have ended first."""
        park = sight.park
        context = sight.context if outlasted else _name_only(sight.context)
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
                "resource": _resource(park),
                "python": context.python,
                "stack": _stack(context.frames),
                "stack_torn": context.torn,
                "idle_reason": reason,
            },
        )
        self._said[park.park_id] = event
        return event

    def end_event(self, park: Park, now_ns: int) -> Event:
        """The ``park_end`` event of a park that ``long_event`` was called for."""
        said = self._said.pop(park.park_id)
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
                "resource": _resource(park),
                "slices": park.slices,
                "end": End(park.end).name.lower(),
                "waker": _waker(park),
            },
        )

    def thread_name(self, pid: int, tid: int) -> str | None:
        """Python's name of a thread, None when unknown."""
        return self._context.thread_name(pid, tid)


def _name_only(context: ThreadContext) -> ThreadContext:
    """What holds of a thread whose park may have ended before it was looked at.

    That no interpreter knew it does not: a Python thread's state goes first when it ends.
    """
    if context.frames is None:
        return context
    return ThreadContext(thread_name=context.thread_name, python=context.python or None)


def _stack(frames: tuple[Frame, ...] | None) -> list[dict[str, Any]] | None:
    if frames is None:
        return None
    return [
        {"function": f.function, "file": f.file, "line": f.line, "module": f.module} for f in frames
    ]


def _resource(park: Park) -> dict[str, Any] | None:
    if park.kind not in ("lock", "gil", "map") or not park.address:
        return None
    return {"type": park.kind, "name": None, "address": f"{park.address:#x}"}


def _waker(park: Park) -> dict[str, Any] | None:
    """Who ended it, where that is certain: never an interrupted bystander."""
    if park.end is End.EXITED or not park.waker_tid or park.waker_syscall not in _WAKING_CALLS:
        return None
    return {
        "pid": park.waker_pid,
        "tid": park.waker_tid,
        "same_process": park.waker_pid == park.pid,
    }


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
