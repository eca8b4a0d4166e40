"""The ``action`` events of a trace as an Arrow table: parts of a wrong type are null."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from collector.events import Event
from tracer.analysis.told import integer, table, text

if TYPE_CHECKING:
    import pyarrow as pa


def action_table(events: Sequence[Event]) -> pa.Table:
    """One row per ``action`` event.

    ``ts_ns``, ``pid``, ``trigger``, ``action``, ``firing``, ``status``, ``why``, ``count``,
    ``fired_by`` (an event), ``park_id``, ``path``, ``took_ns``, and of a heap dump
    ``engine``, ``pause_ns``, ``freeze_after_crossing_ns``, ``park_still_on``, ``objects``,
    ``bytes``.
    """
    import pyarrow as pa

    said = [event for event in events if event.event == "action"]
    results = [_object(event.data.get("result")) for event in said]
    columns: dict[str, tuple[pa.DataType, list[Any]]] = {
        "ts_ns": (pa.uint64(), [event.ts_ns for event in said]),
        "pid": (pa.uint32(), [event.pid for event in said]),
        "fired_by": (pa.string(), [text(event.data.get("on")) for event in said]),
        "engine": (pa.string(), [text(one.get("engine")) for one in results]),
        "park_still_on": (pa.bool_(), [_truth(one.get("park_still_on")) for one in results]),
    }
    for name in ("trigger", "action", "status", "why", "path"):
        columns[name] = (pa.string(), [text(event.data.get(name)) for event in said])
    for name in ("firing", "count", "park_id", "took_ns"):
        columns[name] = (pa.int64(), [integer(event.data.get(name)) for event in said])
    for name in ("pause_ns", "freeze_after_crossing_ns", "objects", "bytes"):
        columns[name] = (pa.int64(), [integer(one.get(name)) for one in results])
    return table(columns)


def breaker_table(events: Sequence[Event]) -> pa.Table:
    """One row per ``breaker`` event: ``ts_ns``, ``name``, ``old``, ``new``, ``why``."""
    import pyarrow as pa

    said = [event for event in events if event.event == "breaker"]
    keys = {"name": "name", "old": "from", "new": "to", "why": "why"}
    columns: dict[str, tuple[pa.DataType, list[Any]]] = {
        "ts_ns": (pa.uint64(), [event.ts_ns for event in said])
    }
    for column, key in keys.items():
        columns[column] = (pa.string(), [text(event.data.get(key)) for event in said])
    return table(columns)


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _truth(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None
