"""The sink that records: everything that passes goes into one trace file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt

from collector.counters import Counters
from collector.events import Event
from collector.trace.writer import TraceWriter


class TraceFile:
    """Writes records, parks and events; the end record carries the last counters.

    ``meta`` describes the recording (``collector.trace.facts.recording_facts``).
    Raises RecordingError from the constructor when the file cannot be created, and
    from every method when writing fails.
    """

    def __init__(self, path: str | Path, meta: Mapping[str, Any], *, force: bool = False) -> None:
        self._writer = TraceWriter(path, meta, force=force)
        self._totals: dict[str, Any] = {}

    @property
    def path(self) -> Path:
        """Where the trace is being written."""
        return self._writer.path

    def on_records(self, records: npt.NDArray[Any], dropped: dict[int, int], now_ns: int) -> None:
        """Keeps records and their losses; nothing is written while nothing happens."""
        self._writer.add_records(records, dropped, now_ns)

    def on_parks(self, parks: npt.NDArray[Any]) -> None:
        """Keeps parks that ended."""
        self._writer.add_parks(parks)

    def on_events(self, events: Sequence[Event]) -> None:
        """Keeps events."""
        self._writer.add_events(events)

    def on_health(self, counters: Counters, now_ns: int) -> None:
        """Keeps the counters for the end record and lets waiting rows go to the file."""
        self._totals = counters.to_dict()
        self._writer.advance(now_ns)

    def close(self) -> None:
        """Writes the end record; safe to call twice."""
        self._writer.close(self._totals)
