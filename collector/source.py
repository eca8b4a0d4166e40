"""Where records come from: the protocol that every backend implements."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from collector.events import Event

Buffer = bytes | bytearray | memoryview | Any
"""Anything with the buffer protocol; numpy arrays of ``RECORD`` included."""


@dataclass(frozen=True, slots=True)
class ProbeUse:
    """Where a group of probes stands, and since the attach: its hits, what it has cost.

    ``state``: ``waiting``, ``closed`` (armed), ``open`` (given up), ``half-open`` (on
    trial). ``cost_ns`` is CPU time of the targets, hits by their measured price.
    """

    state: str
    hits: int
    cost_ns: int


@dataclass(frozen=True, slots=True)
class Batch:
    """What a source hands over at once.

    ``raw`` is a run of 64-byte records of ``probes/record.h``, in the order in
    which they were taken. ``dropped`` counts, by record kind, what was lost since
    the batch before (a delta, never negative). ``events`` are facts about the
    source itself (a probe attached or failed, the governor stepped in, a target
    has gone). ``now_ns`` is the source's clock (CLOCK_MONOTONIC, or virtual) once
    everything in the batch has happened: the collector has no other clock.
    ``done`` says that nothing will follow. ``probes``: by group, once a second from
    backends that have groups of probes; empty: nothing new is known.
    """

    now_ns: int
    raw: Buffer = b""
    dropped: Mapping[int, int] = field(default_factory=dict)
    events: tuple[Event, ...] = ()
    done: bool = False
    probes: Mapping[str, ProbeUse] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """What a backend says of itself in the ``attached`` event and in ``live``.

    ``start_error_ns`` and ``end_error_ns`` are the stated accuracy (99th
    percentile) of a park's start and end; ``missed_below_ns`` is the duration
    under which a park may not be seen at all. ``nodes``: the NUMA node of each CPU, by
    its number; empty where that is not known.
    """

    backend: str
    why: str = ""
    start_error_ns: int = 0
    end_error_ns: int = 0
    missed_below_ns: int = 0
    probes: tuple[str, ...] = ()
    nodes: tuple[int, ...] = ()


class RecordSource(Protocol):
    """A backend, attached: bcc, proc or mock.

    ``poll`` blocks for at most ``timeout_ns`` of the source's own clock (a mock
    on a virtual clock does not really wait) and may return early and empty. The
    source decides itself when it has to scan; it never calls the collector.
    ``close`` detaches and is safe to call twice.
    """

    @property
    def info(self) -> SourceInfo:
        """What this backend is and how exact."""

    def poll(self, timeout_ns: int) -> Batch:
        """The next batch."""

    def close(self) -> None:
        """Detach from everything, leave nothing behind."""


def counted_last(source: RecordSource) -> Batch | None:
    """What a source has counted and not told yet, at the end of a session.

    A source that counts anything by itself has a method ``last``; its records concern no
    park, and nothing follows them.
    """
    last = getattr(source, "last", None)
    return None if last is None else last()
