"""The last word on each native map as an Arrow table; parts of a wrong type are null."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from collector.events import Event
from tracer.analysis.told import integer, text

if TYPE_CHECKING:
    import pyarrow as pa

_COUNTS = (
    "ranges_begun", "released", "splits", "splits_done", "moved", "retired", "stale",
    "retries", "spins", "views_opened", "views_closed", "operations",
)  # fmt: skip
_OUTCOMES = ("complete", "stopped", "stale", "error", "unknown")


def map_table(events: Sequence[Event]) -> pa.Table:
    """One row per native map.

    ``pid``, ``address``, ``map``, ``type``, ``profile``, the counts of the event,
    ``ended_<outcome>``, ``range_ns``, ``items``, ``waits``, ``parks``, ``wait_ns``,
    ``success_rate``, ``stale_ratio``, ``partial``.
    """
    import pyarrow as pa

    last: dict[tuple[int | None, str | None], Event] = {}
    for event in events:
        if event.event == "native_map":
            last[event.pid, text(event.data.get("address"))] = event
    told = [event.data for event in last.values()]
    columns: dict[str, tuple[Any, list[Any]]] = {
        "pid": (pa.int64(), [integer(pid) for pid, _ in last]),
        "address": (pa.string(), [address for _, address in last]),
    }
    for name in ("map", "type", "profile"):
        columns[name] = (pa.string(), [text(data.get(name)) for data in told])
    for name in _COUNTS:
        columns[name] = (pa.int64(), [integer(data.get(name)) for data in told])
    for name in _OUTCOMES:
        sums = [_sum(data, "count", name) for data in told]
        columns[f"ended_{name}"] = (pa.int64(), sums)
    columns["range_ns"] = (pa.int64(), [_sum(data, "total_ns") for data in told])
    columns["items"] = (pa.int64(), [_sum(data, "items") for data in told])
    for name, key in (("waits", "count"), ("parks", "parks"), ("wait_ns", "total_ns")):
        columns[name] = (pa.int64(), [integer(_waits(data).get(key)) for data in told])
    for name in ("success_rate", "stale_ratio"):
        columns[name] = (pa.float64(), [_share(data.get(name)) for data in told])
    columns["partial"] = (pa.string(), [_words(data.get("partial")) for data in told])
    return pa.table({name: pa.array(values, kind) for name, (kind, values) in columns.items()})


def _sum(data: Mapping[str, Any], key: str, outcome: str | None = None) -> int | None:
    """Over the ranges of all modes; None where that is no number that fits."""
    total = 0
    ranges = data.get("ranges")
    for one in ranges if isinstance(ranges, list) else ():
        if isinstance(one, dict) and outcome in (None, one.get("outcome")):
            total += integer(one.get(key)) or 0
    return integer(total)


def _waits(data: Mapping[str, Any]) -> Mapping[str, Any]:
    waits = data.get("waits")
    return waits if isinstance(waits, dict) else {}


def _share(value: Any) -> float | None:
    return value if isinstance(value, float) and value >= 0 else None


def _words(value: Any) -> str | None:
    words = [word for word in value if isinstance(word, str)] if isinstance(value, list) else []
    return text(", ".join(words)) if words else None
