"""Native maps: running totals of each become counters with the labels that the rules want."""

from __future__ import annotations

from typing import Any

import pytest

from collector.events import Event
from collector.metrics import catalogue as m
from collector.metrics.native_maps import step
from collector.sinks.metrics import MetricsSink
from tests.metrics_events import S, told, total


@pytest.fixture
def sink() -> MetricsSink:
    return MetricsSink()


def map_event(address: int = 0x10, name: str | None = "app.cache", **data: Any) -> Event:
    ranges = [
        {"mode": mode, "outcome": outcome, "count": count, "items": items, "total_ns": count}
        for mode, outcome, count, items in data.pop("ranges", ())
    ]
    facts = {"map": name, "address": f"{address:#x}", "type": "ConcurrentMap", "ranges": ranges}
    return Event("native_map", S, pid=7, data={**facts, **data})


def test_running_totals_of_maps_become_counters(sink: MetricsSink) -> None:
    first = [("strict", "complete", 3, 150), ("strict", "stale", 1, 2), ("weak", "complete", 5, 5)]
    waits = {"count": 4, "parks": 1, "total_ns": 900}
    snapshot = told(sink, map_event(ranges=first, waits=waits, splits=2, stale=7))
    strict = ("7", "app.cache", "strict", "10-99", "true")
    assert snapshot.get(m.RANGES, *strict, "complete") == 3
    assert snapshot.get(m.RANGES, *strict, "stale") == 1, "in the class of those that went on"
    assert snapshot.get(m.RANGES, "7", "app.cache", "weak", "1-9", "false", "complete") == 5
    assert snapshot.get(m.MAP_EVENTS, "7", "app.cache", "waits") == 4
    assert snapshot.get(m.MAP_EVENTS, "7", "app.cache", "parks") == 1
    assert snapshot.get(m.MAP_EVENTS, "7", "app.cache", "splits") == 2
    assert snapshot.get(m.MAP_WAIT, "7", "app.cache") == 900
    mixed = ("7", "app.cache", "mixed", "mixed", "unknown")
    assert (snapshot.get(m.STALE_HITS, *mixed), snapshot.get(m.STALE_BASE, *mixed)) == (7, 9)
    later = [*first[:2], ("weak", "complete", 9, 4005)]
    snapshot = told(sink, map_event(ranges=later, waits=waits, splits=2, stale=9))
    weak = ("7", "app.cache", "weak", "1000-9999", "false")
    assert snapshot.get(m.RANGES, *weak, "complete") == 4
    assert snapshot.get(m.RANGES, *strict, "complete") == 3
    assert (snapshot.get(m.STALE_HITS, *weak), snapshot.get(m.STALE_BASE, *weak)) == (2, 4)
    assert total(snapshot, m.STALE_HITS) == 9
    assert total(snapshot, m.STALE_BASE) == total(snapshot, m.RANGES) == 13


def test_maps_without_a_name_share_one_and_keep_their_sums(sink: MetricsSink) -> None:
    def both(count: int, name: str | None = None) -> list[Event]:
        ranges = [("weak", "complete", count, count)]
        return [map_event(at, name if at == 1 else None, ranges=ranges) for at in (1, 2)]

    snapshot = told(sink, *both(5), *both(8), *both(10, "app.m"))
    assert total(snapshot, m.RANGES, map="ConcurrentMap") == 8 + 10
    assert total(snapshot, m.RANGES, map="app.m") == 2


def test_the_size_class_of_ranges() -> None:
    cases = [(0, 0), (0, 5), (3, 5), (9, 1), (10, 1), (990, 10), (10**6, 1), (10**15, 1)]
    assert [step(items, count) for items, count in cases] == [
        *("0", "0", "0", "1-9", "10-99", "10-99", "1000000-9999999", "1000000000-")
    ]


def test_what_is_told_of_a_map_after_its_process_ended_is_counted_once(sink: MetricsSink) -> None:
    """The kernel's last counts come once the process is over."""

    def so_far(count: int) -> Event:
        return map_event(ranges=[("weak", "complete", count, count)], splits=count)

    alive = Event("attached", 1, pid=7)
    told(sink, alive, so_far(10), Event("process_exit", S, pid=7))
    snapshot = told(sink, so_far(12))
    assert total(snapshot, m.RANGES) == 12
    assert snapshot.get(m.MAP_EVENTS, "7", "app.cache", "splits") == 12
    snapshot = told(sink, alive, so_far(5))
    assert total(snapshot, m.RANGES) == 12 + 5, "another process has its number"


def test_a_map_too_many_is_left_out_whole(
    sink: MetricsSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("collector.metrics.native_maps.MAX_MAPS", 1)
    ranges = [("weak", "complete", 1, 1), ("weak", "stale", 1, 1)]
    snapshot = told(sink, map_event(0x10, ranges=ranges), map_event(0x20, "app.b", ranges=ranges))
    assert total(snapshot, m.RANGES) == 2
    assert snapshot.get(m.OVERFLOW, "map") == 1
