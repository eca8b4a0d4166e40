"""Every number that Parkscope keeps about itself.

``received`` counts well-formed records by kind, ``dropped`` those that the kernel
or a queue could not keep, ``malformed`` bytes runs that were no record. Emitted =
received + dropped + malformed, exactly; tests hold it at every overload.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from collector.source import ProbeUse


@dataclass(slots=True)
class Counters:
    """Totals since the start of the session."""

    received: Counter[int] = field(default_factory=Counter)
    dropped: Counter[int] = field(default_factory=Counter)
    malformed: int = 0
    parks: Counter[str] = field(default_factory=Counter)
    long_parks: Counter[str] = field(default_factory=Counter)
    idle_parks: int = 0
    cross_node_wakes: int = 0
    large_allocs: int = 0
    large_alloc_bytes: int = 0
    refills: Counter[int] = field(default_factory=Counter)
    short_waits: Counter[tuple[int, int]] = field(default_factory=Counter)
    short_wait_ns: Counter[int] = field(default_factory=Counter)
    scans: int = 0
    scan_cost_ns: int = 0
    threads: int = 0
    probes: dict[str, ProbeUse] = field(default_factory=dict)
    own_cpu_ns: int = 0
    elapsed_ns: int = 0

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready copy."""
        return {
            "records_received": sum(self.received.values()),
            "records_dropped": sum(self.dropped.values()),
            "records_malformed": self.malformed,
            "parks": dict(self.parks),
            "long_parks": dict(self.long_parks),
            "idle_parks": self.idle_parks,
            "cross_node_wakes": self.cross_node_wakes,
            "large_allocs": self.large_allocs,
            "large_alloc_bytes": self.large_alloc_bytes,
            "pool_refills": {str(size): n for size, n in sorted(self.refills.items())},
            "short_waits": sum(self.short_waits.values()),
            "short_wait_ns": sum(self.short_wait_ns.values()),
            "scans": self.scans,
            "scan_cost_ns": self.scan_cost_ns,
            "threads": self.threads,
            "probes": {name: asdict(use) for name, use in self.probes.items()},
            "own_cpu_ns": self.own_cpu_ns,
            "elapsed_ns": self.elapsed_ns,
        }
