"""A trace file as Arrow tables, for queries.

=============  =====================================================================
table          one row per
=============  =====================================================================
session        the trace: ``path``, ``state`` (clean, truncated, corrupt), ``began_ns``,
               ``ended_ns`` (first and last time of the source's clock),
               ``realtime_offset_ns`` (wall clock - monotonic), ``backend``, ``why``,
               ``version``, ``targets``, ``malformed``, ``own_cpu_ns``
records        record, the fields of ``probes.wire.RECORD``
parks          park that ended, the fields of ``collector.park.PARK``
events         event: the common keys, ``park_id``, ``end_kind``, ``waker``, ``resource``,
               ``fd``, ``syscall``, ``place`` (innermost call), ``idle_reason``, ``data`` (JSON),
               ``resource_type``, ``resource_address``, ``holder``, ``holder_tid``,
               ``holder_how``, ``holder_place``, ``waker_name``, ``waker_why``, ``map``, ``shard``
chains         thread in the chain of a long park (``chain_table``)
cycles         thread of a deadlock (``cycle_table``)
native_maps    native map, by its last event (``map_table``)
actions        what became of an action of a trigger (``action_table``)
breaker_changes  change of a circuit breaker's state (``breaker_table``)
drops          record kind: ``kind``, ``dropped``
damage         sort of damage to the file: ``what``, ``lost``
record_kinds   name of a record kind by number: ``kind``, ``name``
park_kinds     name of a park kind by number
park_ends      name of a park's end by number
=============  =====================================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from collector.events import Event
from collector.park import PARK, End
from collector.trace.columns import record_batch, schema_of
from collector.trace.reader import Integrity, TraceReader
from probes.kinds import KINDS
from probes.wire import RECORD, Kind
from tracer.analysis.native_maps import map_table
from tracer.analysis.told import MAX_INT, chain_table, cycle_table, event_table, integer, text
from tracer.analysis.told_actions import action_table, breaker_table

if TYPE_CHECKING:
    import pyarrow as pa

_MAX_TIME_NS = 4 * 10**18
"""Some 126 years: two such times can be added in 64 bits. A made-up file may say more."""


class _Span:
    """First and last moment that anything in the trace speaks of."""

    def __init__(self) -> None:
        self.began_ns: int | None = None
        self.ended_ns = 0

    def include(self, now_ns: int) -> None:
        if 0 < now_ns <= _MAX_TIME_NS:
            self.began_ns = now_ns if self.began_ns is None else min(self.began_ns, now_ns)
            self.ended_ns = max(self.ended_ns, now_ns)


def load(path: Path) -> Mapping[str, pa.Table]:
    """All tables of a trace, by name.

    Raises NotATrace, UnknownTraceVersion, TraceError. A damaged trace gives what can
    be read of it; the ``damage`` table tells the rest.
    """
    import pyarrow as pa

    records: list[pa.RecordBatch] = []
    parks: list[pa.RecordBatch] = []
    events: list[Event] = []
    span = _Span()
    with TraceReader(path) as reader:
        for frame in reader.frames():
            for tick in frame.header.ticks:
                span.include(tick.now_ns)
            span.include(frame.header.now_ns)
            if len(frame.records):
                records.append(record_batch(frame.records))
            if len(frame.parks):
                parks.append(record_batch(_in_range(frame.parks)))
            events += frame.events
        if reader.end_ns is not None:
            span.include(reader.end_ns)
        session = _session(reader, events, span)
        integrity = reader.integrity
    return {
        "session": session,
        "records": pa.Table.from_batches(records, schema_of(RECORD)),
        "parks": pa.Table.from_batches(parks, schema_of(PARK)),
        "events": event_table(events),
        "chains": chain_table(events),
        "cycles": cycle_table(events),
        "native_maps": map_table(events),
        "actions": action_table(events),
        "breaker_changes": breaker_table(events),
        "drops": _drops(integrity),
        "damage": _damage(integrity),
        "record_kinds": _names({kind.value: kind.name.lower() for kind in Kind}),
        "park_kinds": _names(dict(enumerate(KINDS))),
        "park_ends": _names({end.value: end.name.lower() for end in End}),
    }


def _in_range(parks: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Parks with numbers that exist; a made-up file may say others."""
    fine = (parks["kind"] < len(KINDS)) & (parks["end"] < len(End))
    kept: npt.NDArray[Any] = parks[fine & (parks["park_id"] <= MAX_INT)]
    return kept


def _session(reader: TraceReader, events: Sequence[Event], span: _Span) -> pa.Table:
    import pyarrow as pa

    attached = next((event.data for event in events if event.event == "attached"), {})
    pids = {event.pid for event in events if event.pid is not None}
    attached_to = {e.pid for e in events if e.event == "attached" and e.pid is not None}
    targets = sorted(attached_to or pids)
    totals = _totals(reader, events)
    row: dict[str, tuple[pa.DataType, Any]] = {
        "path": (pa.string(), text(str(reader.path))),
        "state": (pa.string(), reader.integrity.state.value),
        "began_ns": (pa.int64(), span.began_ns or 0),
        "ended_ns": (pa.int64(), span.ended_ns),
        "realtime_offset_ns": (pa.int64(), _realtime_offset(reader.meta.get("clock"))),
        "backend": (pa.string(), text(attached.get("backend"))),
        "why": (pa.string(), text(attached.get("why"))),
        "version": (pa.string(), text(attached.get("version"))),
        "targets": (pa.string(), ", ".join(map(str, targets)) or None),
        "malformed": (pa.int64(), integer(totals.get("records_malformed"))),
        "own_cpu_ns": (pa.int64(), integer(totals.get("own_cpu_ns"))),
    }
    return pa.table({name: pa.array([value], kind) for name, (kind, value) in row.items()})


def _realtime_offset(clock: Any) -> int | None:
    """Wall clock minus CLOCK_MONOTONIC, by the pair that the recorder read."""
    if not isinstance(clock, dict):
        return None
    wall, monotonic = integer(clock.get("realtime_ns")), integer(clock.get("monotonic_ns"))
    if wall is None or monotonic is None or not 0 <= wall - monotonic <= _MAX_TIME_NS:
        return None
    return wall - monotonic


def _totals(reader: TraceReader, events: Sequence[Event]) -> Mapping[str, Any]:
    """The last counters that the trace has: of its end, or the last that were said."""
    found = None if reader.end is None else reader.end.get("totals")
    if isinstance(found, dict) and found:
        return found
    said = (event for event in reversed(events) if event.event in ("totals", "detached"))
    for event in said:
        inner = event.data.get("totals", event.data)
        if isinstance(inner, Mapping):
            return inner
    return {}


def _drops(integrity: Integrity) -> pa.Table:
    import pyarrow as pa

    kinds = sorted(integrity.dropped)
    counts = [min(integrity.dropped[kind], MAX_INT) for kind in kinds]
    return pa.table(
        {
            "kind": pa.array([min(kind, MAX_INT) for kind in kinds], pa.int64()),
            "dropped": pa.array(counts, pa.int64()),
        }
    )


def _damage(integrity: Integrity) -> pa.Table:
    import pyarrow as pa

    found = {
        "damaged frames": integrity.bad_frames,
        "missing frames": integrity.lost_frames,
        "skipped bytes": integrity.skipped_bytes,
        "unreadable events": integrity.bad_lines,
        **{f"{kind} in them": n for kind, n in sorted(integrity.lost_rows.items())},
        **{f"unwritten {kind}": n for kind, n in sorted(integrity.unwritten.items())},
    }
    return pa.table(
        {
            "what": pa.array([text(what) for what in found], pa.string()),
            "lost": pa.array([min(n, MAX_INT) for n in found.values()], pa.int64()),
        }
    )


def _names(names: Mapping[int, str]) -> pa.Table:
    import pyarrow as pa

    return pa.table(
        {
            "kind": pa.array(np.array(list(names), np.int64)),
            "name": pa.array(list(names.values()), pa.string()),
        }
    )
