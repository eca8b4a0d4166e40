"""Circuit breakers over native maps: events out of records, and what sinks make of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from collector.attribution import NoContext
from collector.context import MapFacts
from collector.decode import decode
from collector.events import Event
from collector.map_breakers import MapBreakers
from collector.metrics import catalogue as m
from collector.sinks.live import LiveSink
from collector.sinks.metrics import MetricsSink
from probes.wire import BreakerState, Kind, empty, make

MAP = 0x7F0000001000
S = 10**9
CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN


class Names(NoContext):
    """Knows one map, and how often it was asked."""

    def __init__(self, name: str | None = "orders") -> None:
        self.asked, self.name = 0, name

    def native_map(self, _pid: int, _address: int, _profile: int, /) -> MapFacts | None:
        self.asked += 1
        return MapFacts("ConcurrentMap", self.name, "concurrent_map")


def change(old: int, new: int, ts_ns: int = 5, pid: int = 7, **fields: Any) -> Any:
    return make(
        Kind.BREAKER, ts_ns=ts_ns, pid=pid, tid=9, map=MAP, **{"from": old, "to": new, **fields}
    )


def told(*records: Any, name: str | None = "orders") -> list[Event]:
    return MapBreakers(Names(name)).events(np.concatenate(records))


def test_changes_are_told_in_order_with_their_facts() -> None:
    names = Names()
    later = change(OPEN, HALF_OPEN, 9, failures=61, samples=100)
    first = change(CLOSED, OPEN, 5, failures=61, samples=100)
    opened, probed = MapBreakers(names).events(np.concatenate([later, first]))
    assert names.asked == 1, "once for all changes of a batch"
    assert (opened.ts_ns, opened.pid, opened.tid) == (5, 7, 9)
    assert dict(opened.data) == {
        "name": "map:orders", "from": "closed", "to": "open",
        "why": "61 of the last 100 iterations failed", "failures": 61, "samples": 100,
        "map": "orders", "address": hex(MAP), "type": "ConcurrentMap",
        "profile": "concurrent_map",
    }  # fmt: skip
    assert (probed.data["from"], probed.data["to"]) == ("open", "half-open")


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (OPEN, HALF_OPEN, "the rest is over: one probe is let through"),
        (HALF_OPEN, CLOSED, "the probe got through"),
        (HALF_OPEN, OPEN, "the probe did not get through"),
        (CLOSED, OPEN, "the program says so"),
        (BreakerState.UNKNOWN, CLOSED, "the program says so"),
    ],
)
def test_why(old: BreakerState, new: BreakerState, why: str) -> None:
    (event,) = told(change(old, new))
    assert event.data["why"] == why


def test_a_map_without_a_name_is_called_by_its_address() -> None:
    (event,) = told(change(CLOSED, OPEN), name=None)
    assert event.data["name"] == f"map:{MAP:#x}"
    assert event.data["map"] is None


def test_states_that_there_are_not_are_malformed() -> None:
    good, bad = change(CLOSED, OPEN), change(CLOSED, BreakerState.UNKNOWN + 1)
    decoded = decode(np.concatenate([good, bad, change(9, OPEN)]))
    assert (len(decoded.records), decoded.malformed) == (1, 2)


def states(sink: MetricsSink, now_ns: int) -> set[str]:
    sink.on_records(empty(), {}, now_ns)
    reading = sink.snapshot
    return {
        one
        for one in ("waiting", "closed", "half-open", "open")
        if reading.get(m.BREAKER_STATE, "map:orders", one)
    }


def test_workers_with_the_same_map_are_one_metric_in_the_worst_state() -> None:
    sink = MetricsSink()
    sink.on_events([*told(change(CLOSED, OPEN, pid=7)), *told(change(CLOSED, OPEN, pid=8))])
    sink.on_events(told(change(OPEN, HALF_OPEN, pid=7)))
    assert states(sink, 2 * S) == {"open"}
    sink.on_events([Event("attached", S, pid=8), Event("process_exit", S, pid=8)])
    assert states(sink, 4 * S) == {"half-open"}, "nobody is open any more"


def test_the_live_view_knows_workers_apart_and_forgets_those_that_ended() -> None:
    sink = LiveSink()
    sink.on_events([*told(change(CLOSED, OPEN, pid=7)), *told(change(CLOSED, OPEN, pid=8))])
    sink.on_events(told(change(HALF_OPEN, CLOSED, pid=7)))
    assert list(sink.snapshot.breakers) == [("map:orders", "open")]
    sink.on_records(make(Kind.PROC_EXIT, ts_ns=S, pid=8, tid=8), {}, 2 * S)
    sink.on_events([])
    assert not sink.snapshot.breakers
