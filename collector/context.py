"""What is known about a parked thread besides its records: a lookup protocol.

The detector knows times, system calls and addresses. Thread names and Python
frames are read from the target by the tracer, come from the scenario in the
mock, and from the recorded events in a replay: all through ``ContextProvider``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Frame:
    """One Python call. ``line`` is None where it could not be read for certain."""

    module: str | None
    function: str
    file: str
    line: int | None = None


@dataclass(frozen=True, slots=True)
class ThreadContext:
    """What is known about one thread at one moment.

    ``thread_name`` is Python's name (``threading.Thread.name``), never the
    kernel's comm. ``python`` is False for a thread that no interpreter knows
    (a native library's pool), None where that could not be found out.
    ``frames`` are the innermost first, possibly not all of them; None where they
    could not be read (empty: read, and there are none). ``torn`` marks a stack
    that kept changing while it was read. ``read_ns`` is the source's time by which
    it had been read, 0 where that is unknown.
    """

    thread_name: str | None = None
    python: bool | None = None
    frames: tuple[Frame, ...] | None = None
    torn: bool = False
    read_ns: int = 0


UNKNOWN = ThreadContext()


class ContextProvider(Protocol):
    """Answers about threads; never raises for a target that has gone."""

    def describe(self, pid: int, tid: int, since_ns: int, /) -> ThreadContext:
        """The thread parked since ``since_ns``; ``UNKNOWN`` when nothing can be read."""

    def thread_name(self, pid: int, tid: int, /) -> str | None:
        """Python's name of a thread, None when unknown."""
