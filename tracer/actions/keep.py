"""The flight recorder: the last seconds of everything observed, written out as a trace.

It remembers what passes through the session (records, parks, events), bounded by time and
by bytes, and writes a regular trace when it is told to. Writing is done by a thread over
a snapshot: the loop takes references and goes on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy.typing as npt

from collector.counters import Counters
from collector.events import Event
from collector.sinks import SinkBase
from collector.sinks.trace_file import TraceFile
from probes.errors import ActionFailed
from tracer.triggers.job import Job, new_file, room

SUFFIX = ".pks"
_EVENT_BYTES = 512
_VALUE_BYTES = 64
"""What an event is reckoned to take, and each value in it: a stack has a hundred."""


class _Passed(NamedTuple):
    """Something that passed: when, what it takes, and how it is handed to a sink."""

    now_ns: int
    size: int
    replay: Callable[[TraceFile], None]


class Ring(SinkBase):
    """A sink that remembers the last ``last_ns``, ``max_bytes`` at most.

    What had to go for want of room is counted: ``forgotten``. ``attached`` events are kept
    for ever, since a trace without them does not say of what it is.
    """

    def __init__(self, last_ns: int, max_bytes: int) -> None:
        self._last_ns = last_ns
        self._max_bytes = max_bytes
        self._passed: deque[_Passed] = deque()
        self._attached: list[Event] = []
        self._bytes = 0
        self._now_ns = 0
        self._totals: Counters | None = None
        self.forgotten = 0

    def on_records(self, records: npt.NDArray[Any], dropped: dict[int, int], now_ns: int) -> None:
        """Remember a batch; an empty one passes."""
        self._now_ns = max(self._now_ns, now_ns)
        if len(records) or dropped:
            kept = records.copy()
            self._add(kept.nbytes, lambda sink: sink.on_records(kept, dropped, now_ns))
        self._forget()

    def on_parks(self, parks: npt.NDArray[Any]) -> None:
        """Remember parks that ended."""
        kept = parks.copy()
        self._add(kept.nbytes, lambda sink: sink.on_parks(kept))

    def on_events(self, events: Sequence[Event]) -> None:
        """Remember events."""
        self._attached += [event for event in events if event.event == "attached"]
        kept = [event for event in events if event.event != "attached"]
        if kept:
            self._add(sum(map(_weight, kept)), lambda sink: sink.on_events(kept))

    def on_health(self, counters: Counters, now_ns: int) -> None:
        """Keep the counters for the end of a trace."""
        self._totals = counters
        self._now_ns = max(self._now_ns, now_ns)
        self._forget()

    def snapshot(self, last_ns: int) -> tuple[list[Event], list[_Passed]]:
        """What is remembered of the last ``last_ns``, for another thread to write."""
        since_ns = self._now_ns - last_ns
        return list(self._attached), [one for one in self._passed if one.now_ns >= since_ns]

    def _add(self, size: int, replay: Callable[[TraceFile], None]) -> None:
        self._passed.append(_Passed(self._now_ns, size, replay))
        self._bytes += size

    def _forget(self) -> None:
        since_ns = self._now_ns - self._last_ns
        while self._passed and (self._passed[0].now_ns < since_ns or self._bytes > self._max_bytes):
            gone = self._passed.popleft()
            self._bytes -= gone.size
            self.forgotten += gone.now_ns >= since_ns


def _weight(event: Event) -> int:
    return _EVENT_BYTES + _VALUE_BYTES * _values(event.data)


def _values(value: Any) -> int:
    if isinstance(value, Mapping):
        return 1 + sum(map(_values, value.values()))
    return 1 + sum(map(_values, value)) if isinstance(value, list | tuple) else 1


def write(
    job: Job, facts: Mapping[str, Any], snapshot: tuple[list[Event], list[_Passed]]
) -> dict[str, Any]:
    """Write a snapshot as a trace; what is to be said of it.

    Raises ActionFailed (no room), RecordingError; then no file is left.
    """
    attached, passed = snapshot
    path = new_file(job, SUFFIX)
    needed = sum(one.size for one in passed)
    if needed > room(job, path.parent):
        raise ActionFailed(f"over the budget: {path} may take {needed} bytes")
    sink = TraceFile(path, {**facts, "kept": dict(job.trigger)})
    try:
        with closing(sink):
            sink.on_events(attached)
            for one in passed:
                one.replay(sink)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    span_ns = passed[-1].now_ns - passed[0].now_ns if passed else 0
    size = Path(path).stat().st_size
    return {"path": str(path), "bytes": size, "span_ns": span_ns, "pieces": len(passed)}
