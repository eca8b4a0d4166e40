"""The sink that records a session whose backend is not known before it is armed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt

from collector.counters import Counters
from collector.events import Event
from collector.sinks.trace_file import TraceFile
from collector.source import SourceInfo
from collector.trace.facts import recording_facts
from probes.errors import RecordingError
from tracer.session import SessionOptions, speakable
from tracer.version import VERSION


class Recording:
    """A sink: ``TraceFile`` at ``path``, created by ``open`` once the source is known.

    Raises RecordingError at once when ``path`` cannot be meant (it exists and is not
    to be replaced, its folder does not), so that nothing is attached in vain.
    """

    def __init__(self, path: Path, options: SessionOptions, *, force: bool) -> None:
        if os.path.lexists(path) and not force:
            raise RecordingError(
                f"{path} exists", hint="Choose another '-o', or add '--force' to replace it."
            )
        if not os.path.isdir(path.parent):  # unlike Path's, it never raises
            raise RecordingError(f"{path.parent} is no directory", hint="Choose another '-o'.")
        self.path = path
        self._options = options
        self._force = force
        self._file: TraceFile | None = None

    def open(self, info: SourceInfo) -> None:
        """Create the file. Raises RecordingError."""
        facts = recording_facts(
            info,
            [{"pid": pid} for pid in self._options.pids],
            speakable(self._options),
            VERSION,
        )
        self._file = TraceFile(self.path, facts, force=self._force)

    def on_records(self, records: npt.NDArray[Any], dropped: dict[int, int], now_ns: int) -> None:
        """Keep records and losses. Raises RecordingError, as all methods below."""
        if self._file is not None:
            self._file.on_records(records, dropped, now_ns)

    def on_parks(self, parks: npt.NDArray[Any]) -> None:
        """Keep parks that ended."""
        if self._file is not None:
            self._file.on_parks(parks)

    def on_events(self, events: Sequence[Event]) -> None:
        """Keep events."""
        if self._file is not None:
            self._file.on_events(events)

    def on_health(self, counters: Counters, now_ns: int) -> None:
        """Keep counters for the end record."""
        if self._file is not None:
            self._file.on_health(counters, now_ns)

    def close(self) -> None:
        """Write the end record; safe to call twice."""
        if self._file is not None:
            self._file.close()
