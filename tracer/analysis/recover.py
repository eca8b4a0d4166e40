"""A clean trace out of a damaged one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from collector.trace.reader import Integrity, TraceReader
from collector.trace.writer import TraceWriter


def recover(damaged: Path, output: Path, *, force: bool = False) -> Integrity:
    """Writes whatever can be read of a trace into a new, clean one; returns what was found.

    The new file's META has ``recovered``: the verdict on the old one and its notes.
    Raises TraceError when nothing can be read, RecordingError when writing fails.
    """
    with TraceReader(damaged) as reader:
        for _ in reader.frames(()):
            pass
        found = reader.integrity
        facts: dict[str, Any] = {
            **reader.meta,
            "recovered": {"state": found.state.value, "notes": found.notes},
        }
        writer = TraceWriter(output, facts, force=force)
        try:
            _copy(reader, writer)
        finally:
            writer.close(reader.end.get("totals") if reader.end is not None else None)
        return reader.integrity


def _copy(reader: TraceReader, writer: TraceWriter) -> None:
    for frame in reader.frames():
        start = 0
        for tick in frame.header.ticks:
            writer.add_records(frame.records[start : tick.end_row], {}, tick.now_ns)
            start = tick.end_row
        if start < len(frame.records) or frame.header.dropped:
            writer.add_records(frame.records[start:], frame.header.dropped, frame.header.now_ns)
        if len(frame.parks):
            writer.add_parks(frame.parks)
        writer.add_events(frame.events)
        writer.advance(frame.header.now_ns)
