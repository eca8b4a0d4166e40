"""What is known of native maps, in words. Pure; events may come from a file that anybody made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from collector.events import Event
from tracer import units
from tracer.diagnosis import plain, thing
from tracer.escape import terminal

_MAX_MODES = 5


def native_library(event: Event) -> str:
    """``4711 uses native maps (concurrent_map.so): 12 places are probed``."""
    data = event.data
    places = data.get("places")
    count = units.plural(places, "place") if isinstance(places, int) else "some places"
    return f"{event.pid} uses native maps ({plain(data.get('library'))}): {count} probed"


def native_map(event: Event) -> str:
    """``ConcurrentMap sessions: 120 ranges, 98.3 % fine (weak 90), 2 stale buckets, …``."""
    data = event.data
    parts = [*_ranges(data), *_waits(data.get("waits")), *_counts(data)]
    text = f"{map_name(data)}: {', '.join(parts) or 'nothing yet'}"
    partial = data.get("partial")
    if isinstance(partial, list) and partial:
        text += f" (counted in part: {', '.join(plain(one) for one in partial)})"
    return text


def map_name(data: Mapping[str, Any]) -> str:
    """``ConcurrentMap sessions``, by its address where it has no name."""
    kind, name, address = (data.get(key) for key in ("type", "map", "address"))
    if not isinstance(address, str):
        return "other maps"
    known = thing({"type": kind, "name": name, "address": address})
    return known if known is not None else f"map {plain(address)}"


def _ranges(data: Mapping[str, Any]) -> list[str]:
    by_mode: dict[str, int] = {}
    ended = 0
    for one in data.get("ranges") if isinstance(data.get("ranges"), list) else ():  # type: ignore[union-attr]
        count = one.get("count") if isinstance(one, Mapping) else None
        if isinstance(count, int):
            mode = terminal(str(one.get("mode")), 20)
            by_mode[mode] = by_mode.get(mode, 0) + count
            ended += count
    if not ended:
        return []
    text = units.plural(ended, "range")
    if isinstance(rate := data.get("success_rate"), float):
        text += f", {units.percent(rate)} of them fine"
    modes = ", ".join(f"{mode} {units.number(n)}" for mode, n in list(by_mode.items())[:_MAX_MODES])
    return [f"{text} ({modes})"]


def _waits(waits: Any) -> list[str]:
    if not isinstance(waits, Mapping) or not isinstance(waits.get("count"), int):
        return []
    count, parks, total_ns = waits["count"], waits.get("parks"), waits.get("total_ns")
    if not count or not isinstance(total_ns, int):
        return []
    long = f", {units.plural(parks, 'park')}" if isinstance(parks, int) and parks else ""
    return [f"{units.plural(count, 'wait')} for a shard ({units.duration(total_ns)} in all{long})"]


def _counts(data: Mapping[str, Any]) -> list[str]:
    said = []
    for key, word in (
        ("stale", "stale bucket"),
        ("splits", "split"),
        ("retired", "retired bucket"),
        ("retries", "retr"),
        ("spins", "spin"),
        ("views_opened", "view"),
        ("operations", "operation"),
    ):
        count = data.get(key)
        if isinstance(count, int) and count > 0:
            if word == "retr":
                said.append(f"{units.number(count)} {'retry' if count == 1 else 'retries'}")
            else:
                said.append(units.plural(count, word))
    return said
