"""Events and records that give every metric a value."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from collector.counters import Counters
from collector.events import Event
from collector.metrics import catalogue as m
from collector.metrics.labels import DEFAULT_LIMIT
from collector.metrics.readings import Snapshot
from collector.park import PARK, End
from collector.sinks.metrics import MetricsSink, Usage
from collector.source import ProbeUse
from probes.wire import Kind, make

S = 1_000_000_000


_MANY = [("action", {"data": {"action": str(at)}}) for at in range(DEFAULT_LIMIT + 1)]
_RANGE = {"mode": "weak", "outcome": "complete", "count": 1, "items": 5, "total_ns": 9}
_MAP: dict[str, Any] = {
    "map": "cache",
    "address": "0x10",
    "ranges": [_RANGE],
    "waits": {"count": 3, "parks": 1, "total_ns": 9},
    "stale": 1,
    "splits": 2,
    "partial": ["waits"],
}
_PARK: dict[str, Any] = {
    "thread_name": "worker-1",
    "kind": "lock",
    "idle": False,
    "start_ns": 1,
    "duration_ns": S,
    "data": {"park_id": 1, "run_delay_ns": 5, "holder": {"thread_name": "keeper"}},
}
EVENTS: list[tuple[str, dict[str, Any]]] = [
    (
        "attached",
        {
            "data": {
                "backend": "bcc",
                "version": "1",
                "program": "python",
                "python": "3.12.1",
                "probes": ["alloc"],
                "nodes": [0],
            }
        },
    ),
    ("park_long", _PARK),
    ("park_end", _PARK),
    ("deadlock", {"data": {"cycle": [{"tid": 1}, {"tid": 2}], "knot": False}}),
    ("native_map", {"data": _MAP}),
    ("governor", {"data": {"probe": "wakes", "action": "shed"}}),
    ("probe_failed", {"data": {"probe": "alloc", "why": "?"}}),
    ("trigger", {"data": {"trigger": "on-1"}}),
    ("breaker", {"data": {"name": "map", "from": "closed", "to": "open"}}),
    *_MANY,
]


def parse(text: str, *, strict: bool = False) -> dict[str, Any]:
    """A scrape's families by name, read by prometheus_client; ``strict``: as OpenMetrics."""
    from prometheus_client.openmetrics import parser as openmetrics
    from prometheus_client.parser import text_string_to_metric_families

    if strict:
        read: Any = openmetrics.text_string_to_metric_families
        return {one.name: one for one in read(text)}
    return {one.name: one for one in text_string_to_metric_families(text)}


def value(families: dict[str, Any], name: str, **labels: str) -> float:
    """The sum of a scrape's samples of that name that have these labels."""
    return sum(
        float(sample.value)
        for family in families.values()
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def sink_of_everything() -> MetricsSink:
    """A sink that has folded at least one of each."""
    sink = MetricsSink(lambda _pid: Usage(1, 2, 3), lambda: 4)
    sink.on_records(make(Kind.WAIT_HIST, pid=7, wait_class=2, bucket=12, count=3), {}, S)
    sink.on_records(make(Kind.SCAN, threads=3, period_ns=5), {}, S)
    rows = np.zeros(1, PARK)
    rows["pid"], rows["end"], rows["duration_ns"], rows["idle"] = 7, End.WOKEN, 5_000_000, -1
    sink.on_parks(rows)
    sink.on_events([Event(name, S, pid=7, tid=9, **facts) for name, facts in EVENTS])
    counters = Counters(probes={"wakes": ProbeUse("closed", 1, 1)})
    counters.received[int(Kind.WAIT)] = counters.dropped[int(Kind.WAIT)] = 1
    counters.refills[64] = 1
    sink.on_health(counters, 2 * S)
    return sink


def total(snapshot: Snapshot, metric: m.Metric, **labels: str) -> int:
    """The sum over all series with these label values; of a histogram, how many values."""
    wanted = [(metric.labels.index(label), value) for label, value in labels.items()]
    table: Any = (snapshot.spreads if metric.bounds else snapshot.values).get(metric, {})
    return sum(
        sum(value.counts) if metric.bounds else value
        for key, value in table.items()
        if all(key[at] == value for at, value in wanted)
    )


def duration_ns(snapshot: Snapshot, metric: m.Metric) -> int:
    return sum(one.total for one in snapshot.spreads.get(metric, {}).values())


def told(sink: MetricsSink, *events: Event) -> Snapshot:
    sink.on_events(events)
    sink.close()
    return sink.snapshot


def attached(pid: int, **data: Any) -> Event:
    return Event("attached", 0, pid=pid, data={"backend": "bcc", "version": "1", **data})


def ended(pid: int = 7, **facts: Any) -> Event:
    event = Event("park_end", S, pid=pid, tid=9, kind="lock", idle=False, start_ns=0)
    data = {"park_id": facts.pop("park_id", 1), **facts.pop("data", {})}
    return replace(event, duration_ns=facts.pop("duration_ns", S), data=data, **facts)
