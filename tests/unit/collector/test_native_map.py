"""What native maps do, added up: exact, bounded, and honest about what is missing."""

from __future__ import annotations

from typing import Any

import numpy as np

from collector.attribution import NoContext
from collector.context import MapFacts
from collector.events import Event
from collector.native_map import MAX_MAPS, MapTallies
from probes.wire import Kind, MapCounter, MapMode, MapOutcome, make

MAP, OTHER = 0x7F0000001000, 0x7F0000002000


class Names(NoContext):
    """Knows the name of one map from the third question on."""

    def __init__(self) -> None:
        self.asked = 0

    def native_map(self, _pid: int, address: int, _profile: int, /) -> MapFacts | None:
        self.asked += 1
        name = "sessions" if address == MAP and self.asked > 2 else None
        return MapFacts("ConcurrentMap", name, "concurrent_map")


def count(counter: MapCounter, n: int = 1, address: int = MAP, **fields: Any) -> Any:
    return make(
        Kind.MAP_COUNT, ts_ns=5, pid=7, map=address, counter=counter, count=n,
        **{"bucket": 255, **fields},
    )  # fmt: skip


def ranges(outcome: MapOutcome, n: int, bucket: int = 12) -> Any:
    return count(
        MapCounter.RANGE, n, mode=MapMode.STRICT, outcome=outcome, bucket=bucket, items=n * 3,
        total_ns=n * 5000,
    )  # fmt: skip


def test_sums_rates_and_names() -> None:
    names = Names()
    tallies = MapTallies(names)
    tallies.feed(
        np.concatenate(
            [
                count(MapCounter.RANGE_BEGUN, 11),
                ranges(MapOutcome.COMPLETE, 5),
                ranges(MapOutcome.COMPLETE, 1, bucket=255),
                ranges(MapOutcome.STOPPED, 2),
                ranges(MapOutcome.STALE, 2),
                count(MapCounter.WAIT, 30, bucket=14, total_ns=900),
                count(MapCounter.PARK, 2, bucket=24, total_ns=100),
                count(MapCounter.STALE, 4),
                count(MapCounter.SPLIT_DONE, 3, items=40),
            ]
        )
    )
    (event,) = tallies.events(100)
    data = event.data
    assert (event.event, event.pid, data["map"], data["type"]) == (
        "native_map", 7, None, "ConcurrentMap",
    )  # fmt: skip
    assert data["ranges_begun"] == 11
    (complete,) = [one for one in data["ranges"] if one["outcome"] == "complete"]
    assert (complete["mode"], complete["count"], complete["items"]) == ("strict", 6, 18)
    assert complete["buckets"] == {"12": 5}  # of one the duration is not known
    assert data["success_rate"] == 8 / 10
    assert data["stale_ratio"] == 4 / 10
    assert data["waits"] == {
        "count": 32, "parks": 2, "total_ns": 1000, "buckets": {"14": 30, "24": 2},
    }  # fmt: skip
    assert (data["splits_done"], data["moved"], data["partial"]) == (3, 40, [])
    assert tallies.events(200) == []  # nothing new
    tallies.feed(count(MapCounter.RETRY, 2))
    (event,) = tallies.events(300)
    assert (event.data["retries"], event.data["map"]) == (2, "sessions")


def test_an_unknown_outcome_is_in_no_rate() -> None:
    tallies = MapTallies(NoContext())
    tallies.feed(ranges(MapOutcome.UNKNOWN, 3))
    (event,) = tallies.events(1)
    assert event.data["success_rate"] is None
    assert event.data["stale_ratio"] == 0


def test_what_the_governor_gave_up_is_said() -> None:
    tallies = MapTallies(NoContext())
    tallies.feed(count(MapCounter.RETRY))
    assert tallies.events(1)[0].data["partial"] == []
    said = [
        Event("governor", 2, data={"probe": probe, "action": action})
        for probe, action in (("native_map.ranges", "shed"), ("slow_path", "shed"))
    ]
    tallies.heard(said)
    assert tallies.events(3)[0].data["partial"] == ["ranges"]
    # It stays: what was missed meanwhile is missing for good.
    tallies.heard([Event("governor", 4, data={"probe": "native_map.ranges", "action": "restored"})])
    tallies.feed(count(MapCounter.RETRY))
    assert tallies.events(5)[0].data["partial"] == ["ranges"]


def test_lost_counts_make_all_figures_partial() -> None:
    tallies = MapTallies(NoContext())
    tallies.feed(count(MapCounter.RETRY), lost=True)
    assert tallies.events(1)[0].data["partial"] == ["counts", "ranges", "waits"]


def test_the_number_of_maps_is_bounded_and_nothing_is_lost() -> None:
    tallies = MapTallies(NoContext())
    many = [count(MapCounter.RETRY, 1, MAP + 64 * n) for n in range(MAX_MAPS + 50)]
    tallies.feed(np.concatenate(many))
    events = tallies.events(1)
    assert len(events) == MAX_MAPS + 1
    assert sum(event.data["retries"] for event in events) == MAX_MAPS + 50
    (others,) = [event for event in events if event.data["address"] is None]
    assert others.data["retries"] == 50


def test_the_maps_of_a_process_that_is_over_go_once_the_last_was_said() -> None:
    """In a session over many short processes; another one may get the same number."""
    tallies = MapTallies(NoContext())
    tallies.feed(count(MapCounter.SPLIT, 2))
    assert len(tallies.events(100)) == 1
    tallies.heard([Event("process_exit", 150, pid=7)])
    assert not tallies.events(200)
    tallies.feed(count(MapCounter.SPLIT, 3))  # the kernel's last counts
    assert [event.data["splits"] for event in tallies.events(300)] == [5]
    assert not tallies.events(400)
    tallies.feed(count(MapCounter.SPLIT, 1))
    assert [event.data["splits"] for event in tallies.events(500)] == [1]
