"""The totals of a session (``Counters.to_dict``) as one line for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tracer import units


def totals_line(totals: Mapping[str, Any], why: str) -> str:
    """What was found, what was lost, what Parkscope itself cost; ``why`` it ended."""
    parts = [found(totals), lost(totals), own_cost(totals)]
    if allocated := allocations(totals):
        parts.insert(1, allocated)
    elapsed = units.duration(_count(totals, "elapsed_ns"))
    return f"detached after {elapsed} ({why}): " + "; ".join(parts)


def found(totals: Mapping[str, Any]) -> str:
    """``1,204 parks, 3 long (2 lock, 1 io), 5 of them idle``."""
    long_parks = _by_kind(totals.get("long_parks"))
    parks = sum(_by_kind(totals.get("parks")).values())
    text = f"{units.plural(parks, 'park')}, {units.number(sum(long_parks.values()))} long"
    if long_parks:
        text += " (" + ", ".join(f"{count} {kind}" for kind, count in long_parks.items()) + ")"
    if idle := _count(totals, "idle_parks"):
        text += f", {units.number(idle)} of them idle"
    if short := _count(totals, "short_waits"):
        text += f", {units.number(short)} short waits"
    return text


def lost(totals: Mapping[str, Any]) -> str:
    """``no record lost of 1,234``."""
    received = _count(totals, "records_received")
    gone = _count(totals, "records_dropped") + _count(totals, "records_malformed")
    emitted = received + gone
    if not gone:
        return f"no record lost of {units.number(emitted)}"
    return f"{units.plural(gone, 'record')} LOST of {units.number(emitted)}"


def allocations(totals: Mapping[str, Any]) -> str:
    """``12 large allocations, 3.1 MiB, 40 pool refills``; empty when there were none."""
    parts = []
    if count := _count(totals, "large_allocs"):
        amount = units.size(_count(totals, "large_alloc_bytes"))
        parts.append(f"{units.plural(count, 'large allocation')}, {amount}")
    if refills := sum(_by_kind(totals.get("pool_refills")).values()):
        parts.append(units.plural(refills, "pool refill"))
    return ", ".join(parts)


def own_cost(totals: Mapping[str, Any]) -> str:
    """``own cost 0.42 % of a core, 31 scans of 26 µs``."""
    elapsed = _count(totals, "elapsed_ns")
    share = _count(totals, "own_cpu_ns") / elapsed if elapsed else 0.0
    text = f"own cost {units.percent(share)} of a core"
    if scans := _count(totals, "scans"):
        each = units.duration(_count(totals, "scan_cost_ns") // scans)
        text += f", {units.plural(scans, 'scan')} of {each}"
    return text


def _count(totals: Mapping[str, Any], key: str) -> int:
    """A count, 0 where a trace says something else."""
    value = totals.get(key)
    return value if isinstance(value, int) and value > 0 else 0


def _by_kind(value: Any) -> dict[str, int]:
    if not isinstance(value, Mapping):
        return {}
    return {str(key): n for key, n in value.items() if isinstance(n, int) and n > 0}
