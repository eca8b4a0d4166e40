"""Parkscope's stable public API: ``import parkscope``.

The folders ``probes``, ``collector`` and ``tracer`` are its insides and may change
with any version; what this module names does not change its meaning without a new
major version::

    import parkscope

    for event in parkscope.attach(4711, long_park_ns=200_000_000, duration_ns=10**10):
        if event.event == "park_long" and not event.idle:
            print(event.to_dict())

    parkscope.record(4711, "trace.pks", duration_ns=10**10)
    columns, rows = parkscope.analyze("trace.pks", "parks")
    for event in parkscope.replay("trace.pks"):
        ...

    wanted = parkscope.TriggerOptions(on=(("park > 1s", "heap-dump"),))
    for event in parkscope.attach(4711, triggers=wanted):
        ...

All times are CLOCK_MONOTONIC nanoseconds. Every error is a ``ParkscopeError`` with
a ``hint``.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from collector.events import SCHEMA_VERSION, Event
from collector.sinks import SinkBase
from probes.errors import ParkscopeError
from tracer.session import SessionOptions, SessionResult, open_session, run_session
from tracer.triggers.setup import TriggerOptions
from tracer.version import VERSION

__version__ = VERSION
__all__ = [
    "SCHEMA_VERSION",
    "Event",
    "ParkscopeError",
    "SessionOptions",
    "SessionResult",
    "TriggerOptions",
    "analyze",
    "attach",
    "record",
    "replay",
    "views",
]


def attach(*pids: int, **options: Any) -> Generator[Event, None, None]:
    """Attach to live processes and yield events as they happen.

    ``options`` are fields of ``SessionOptions``. Ends when the targets are gone or
    ``duration_ns`` is over; closing the iterator detaches.
    """
    return _events(SessionOptions(pids=pids, **options))


def replay(trace: str | Path, **options: Any) -> Generator[Event, None, None]:
    """Play a recorded trace through the same detector, on a virtual clock."""
    return _events(SessionOptions(replay=Path(trace), **options))


def record(
    pids: int | Sequence[int], trace: str | Path, *, overwrite: bool = False, **options: Any
) -> SessionResult:
    """Record live processes into the file ``trace`` (mode 0600).

    Raises RecordingError when writing fails; what was written before is readable.
    """
    from tracer.recording import Recording

    targets = (pids,) if isinstance(pids, int) else tuple(pids)
    session = SessionOptions(pids=targets, **options)
    recording = Recording(Path(trace), session, force=overwrite)
    return run_session(session, [recording], on_attached=recording.open)


def analyze(trace: str | Path, view: str = "summary") -> tuple[list[str], list[tuple[Any, ...]]]:
    """Run a named view over a trace: column names and rows.

    Raises TraceError for a file that is no readable trace, UsageError for an
    unknown view.
    """
    from tracer.analysis import run_view

    result = run_view(Path(trace), view)
    return list(result.columns), list(result.rows)


def views() -> dict[str, str]:
    """The names of all views with what they show."""
    from tracer.analysis import list_views

    return dict(list_views())


def _events(options: SessionOptions) -> Generator[Event, None, None]:
    sink = _Collected()
    pipeline, _ = open_session(options, [sink])
    with closing(pipeline.steps()) as steps:
        for _ in steps:
            yield from sink.take()


class _Collected(SinkBase):
    """A sink that keeps events until they are taken."""

    def __init__(self) -> None:
        self._events: list[Event] = []

    def take(self) -> list[Event]:
        taken, self._events = self._events, []
        return taken

    def on_events(self, events: Sequence[Event]) -> None:
        self._events += events
