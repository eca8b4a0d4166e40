"""The metrics sink: what it makes of events and records, on scripted scenarios and by hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from collector.attribution import Attributor, NoIdleRules
from collector.counters import Counters
from collector.events import Event
from collector.metrics import catalogue as m
from collector.metrics.exposition import Renderer
from collector.metrics.labels import MAX_CHARACTERS, MAX_PIDS
from collector.metrics.native_maps import step
from collector.metrics.readings import MAX_SERIES, Readings, Snapshot
from collector.park import PARK, End, Seen
from collector.parks import ParkDetector
from collector.pipeline import Pipeline
from collector.sinks.metrics import MetricsSink, Usage
from collector.source import ProbeUse
from probes.kinds import KIND_INDEX, KINDS
from probes.wire import Kind, WaitClass, make
from tests.metrics_events import parse
from tests.played import LONG_PARK_NS, MIN_PARK_NS, Recorder
from tracer.backends import mock
from tracer.backends.mock_scenario import SCENARIO_DIR

MS = 1_000_000
S = 1000 * MS
SCENARIOS = sorted(path.stem for path in SCENARIO_DIR.glob("*.toml"))


class History(MetricsSink):
    """Keeps every snapshot that was published."""

    def __init__(self) -> None:
        super().__init__()
        self.all: list[Snapshot] = []

    def on_health(self, counters: Counters, now_ns: int) -> None:
        super().on_health(counters, now_ns)
        self.all.append(self.snapshot)

    def on_events(self, events: Any) -> None:
        super().on_events(events)
        self.all.append(self.snapshot)


def play(name: str) -> tuple[History, Recorder, Counters]:
    """A scripted scenario through the whole collector."""
    played = mock.scenario(name)
    sink, recorder = History(), Recorder()
    pipeline = Pipeline(
        played.source,
        ParkDetector(LONG_PARK_NS, MIN_PARK_NS),
        Attributor(played.context, NoIdleRules()),
        [recorder, sink],
        opening=lambda now_ns: [
            Event("attached", now_ns, pid=4000, data={"backend": "mock", "python": "3.12.1"})
        ],
    )
    pipeline.run()
    return sink, recorder, pipeline.counters


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


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_park_is_counted_once_with_its_duration(name: str) -> None:
    sink, recorder, counters = play(name)
    rows = recorder.parks[recorder.parks["end"] != End.OPEN]
    snapshot = sink.snapshot
    assert total(snapshot, m.PARKS) == len(rows)
    for kind in KINDS:
        assert total(snapshot, m.PARKS, kind=kind) == (rows["kind"] == KIND_INDEX[kind]).sum()
    assert duration_ns(snapshot, m.PARKS) == rows["duration_ns"].sum()
    # Those for shards are counted by map.
    short = {key: n for key, n in counters.short_waits.items() if key[0] != WaitClass.MAP}
    assert total(snapshot, m.SHORT_WAITS) == sum(short.values())
    assert duration_ns(snapshot, m.SHORT_WAITS) == sum(
        counters.short_wait_ns[one] for one in (WaitClass.LOCK, WaitClass.GIL)
    )
    assert total(snapshot, m.LONG_PARKS) == sum(counters.long_parks.values())
    assert total(snapshot, m.RECEIVED) == sum(counters.received.values())
    assert total(snapshot, m.DROPPED, where="kernel") == sum(counters.dropped.values())
    gil = rows[rows["kind"] == KIND_INDEX["gil"]]
    short_gil = sum(n for (one, _), n in short.items() if one == WaitClass.GIL)
    assert total(snapshot, m.GIL_WAITS) == len(gil) + short_gil
    waited_ns = int(gil["duration_ns"].sum()) + counters.short_wait_ns[WaitClass.GIL]
    assert total(snapshot, m.GIL_WAIT) == waited_ns


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_scripts_own_truth_is_in_the_buckets(name: str) -> None:
    """Parks over 200 ms as the scenario's author wrote them down, by hand."""
    expected = [
        one
        for one in mock.scenario(name).source.scenario.expect  # type: ignore[attr-defined]
        if one.duration_ms is not None and one.end != "open"
    ]
    snapshot = play(name)[0].snapshot
    at = m.PARK_BOUNDS_NS.index(200 * MS)
    for kind in KINDS:
        over = sum(
            sum(spread.counts[at + 1 :])
            for key, spread in snapshot.spreads.get(m.PARKS, {}).items()
            if key[1] == kind
        )
        assert over == sum(one.kind == kind for one in expected), kind


@pytest.mark.parametrize("name", SCENARIOS)
def test_counters_never_go_down(name: str) -> None:
    history = play(name)[0].all
    for metric in m.METRICS:
        for before, after in pairwise(history):
            if metric.type == "counter":
                for key, value in before.values.get(metric, {}).items():
                    assert after.values[metric][key] >= value, (metric.name, key)
            if metric.type == "histogram":
                for key, spread in before.spreads.get(metric, {}).items():
                    later = after.spreads[metric][key]
                    assert later.total >= spread.total
                    pairs = zip(spread.counts, later.counts, strict=True)
                    assert all(was <= now for was, now in pairs)


def test_a_long_park_is_seen_while_it_lasts() -> None:
    history, recorder, _ = play("lock_convoy")
    said = recorder.said("park_long", "park_end")
    most = max(total(one, m.LONG_NOW) for one in history.all)
    open_now, peak = 0, 0
    for event in said:
        open_now += 1 if event.event == "park_long" else -1
        peak = max(peak, open_now)
    assert 1 < most <= peak
    oldest = max(one.get(m.OLDEST_NOW, "4000") for one in history.all)
    assert oldest >= 5 * S, "the main thread has waited for five seconds before the attach"
    assert history.snapshot.get(m.WATCHING) == 0
    assert total(history.snapshot, m.LONG_NOW) == 0


def test_the_holder_is_blamed_with_the_time_that_others_lost() -> None:
    history, recorder, _ = play("lock_convoy")
    blamed = [e for e in recorder.said("park_end") if e.data["holder"] is not None]
    assert blamed
    assert total(history.snapshot, m.BLAMED, thread="keeper") == sum(
        event.duration_ns or 0 for event in blamed
    )
    assert total(history.snapshot, m.THREAD_PARKED, thread="worker-N") > 0


@pytest.mark.parametrize("name", ["deadlock", "deadlock_ring", "deadlock_queue"])
def test_a_deadlock_is_current_until_its_process_ends(name: str) -> None:
    history, recorder, _ = play(name)
    said = recorder.said("deadlock")
    assert said
    assert total(history.snapshot, m.DEADLOCKS) == len(said)
    assert total(history.all[0], m.DEADLOCKS) == 0, "there to be increased from"
    assert total(history.snapshot, m.DEADLOCKS_NOW) == len(said)
    assert total(history.snapshot, m.DEADLOCKED) == sum(len(e.data["cycle"]) for e in said)
    history.on_events([Event("process_exit", 99 * S, pid=said[0].pid)])
    history.close()
    assert total(history.snapshot, m.DEADLOCKS_NOW) == 0


@pytest.fixture
def sink() -> MetricsSink:
    return MetricsSink()


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


def test_a_snapshot_is_whole_and_never_changes(sink: MetricsSink) -> None:
    first = told(sink, ended(duration_ns=S))
    assert first.get(m.PARKS, "7", "lock", "false") == 1
    sink.on_events([ended(duration_ns=2 * S, park_id=2)])
    assert sink.snapshot is first, "not before it is published"
    sink.close()
    second = sink.snapshot
    assert (total(first, m.PARKS), duration_ns(first, m.PARKS)) == (1, S)
    assert (total(second, m.PARKS), duration_ns(second, m.PARKS)) == (2, 3 * S)


def test_a_value_on_a_bound_is_in_its_bucket(sink: MetricsSink) -> None:
    at = m.PARK_BOUNDS_NS.index(200 * MS)
    rows = np.zeros(2, PARK)
    rows["duration_ns"] = [200 * MS, 200 * MS + 1]
    rows["pid"], rows["kind"], rows["idle"], rows["end"] = 7, 0, -1, End.WOKEN
    rows["source"] = Seen.SCAN
    sink.on_parks(rows)
    snapshot = told(sink, ended(duration_ns=200 * MS), ended(duration_ns=200 * MS + 1))
    for idle in ("unknown", "false"):
        counts = snapshot.spreads[m.PARKS]["7", "lock", idle].counts
        assert (counts[at], counts[at + 1], sum(counts)) == (1, 1, 2)


def test_what_the_session_cut_off_has_not_ended(sink: MetricsSink) -> None:
    rows = np.zeros(2, PARK)
    rows["end"], rows["park_id"] = [End.OPEN, End.WOKEN], [0, 5]
    sink.on_parks(rows)
    sink.close()
    assert total(sink.snapshot, m.PARKS) == 0


@pytest.mark.parametrize(("bucket", "low", "high"), [(0, 0, 1e-6), (15, 2**15, 2**16), (40, 0, 1)])
def test_kernel_buckets_keep_their_bounds(
    sink: MetricsSink, bucket: int, low: float, high: float
) -> None:
    record = make(Kind.WAIT_HIST, pid=7, wait_class=1, bucket=bucket, count=5, total_ns=10)
    sink.on_records(record, {}, S)
    sink.on_records(make(Kind.WAIT_HIST, pid=7, wait_class=99, bucket=1, count=5), {}, S)
    sink.close()
    (spread,) = sink.snapshot.spreads[m.SHORT_WAITS].values()
    at = spread.counts.index(5)
    assert sum(spread.counts) == 5
    if bucket == 15:
        assert m.SHORT_BOUNDS_NS[at] == high - 1
        assert m.SHORT_BOUNDS_NS[at - 1] == low - 1
    else:
        assert at == (0 if bucket == 0 else len(m.SHORT_BOUNDS_NS))


def test_run_queue_delay_is_said_only_where_it_is_known(sink: MetricsSink) -> None:
    snapshot = told(
        sink, ended(data={"run_delay_ns": 3 * MS}), ended(data={"run_delay_ns": None}), ended()
    )
    assert total(snapshot, m.RUN_DELAY) == 1
    assert duration_ns(snapshot, m.RUN_DELAY) == 3 * MS


def test_idle_parks_blame_nobody(sink: MetricsSink) -> None:
    holder = {"holder": {"thread_name": "x"}}
    snapshot = told(sink, ended(idle=True, data=holder), ended(idle=None, data=holder))
    assert total(snapshot, m.PARKS, idle="true") == total(snapshot, m.PARKS, idle="unknown") == 1
    assert total(snapshot, m.BLAMED) == S


def test_nothing_is_shown_as_0_that_nobody_looks_at(sink: MetricsSink) -> None:
    sink.on_events([attached(7, probes=["threads"], nodes=[], python=None)])
    sink.on_health(Counters(), S)
    unknown = {m.LARGE_ALLOCS, m.LARGE_BYTES, m.CROSS_NODE, m.PROBE_HITS}
    assert not [one for one in unknown if sink.snapshot.values.get(one)]
    assert not sink.snapshot.values.get(m.DEADLOCKS)
    assert not sink.snapshot.values.get(m.DEADLOCKS_NOW)
    sink.on_events([attached(7, probes=["alloc"], nodes=[0, 0], python="3.12.1")])
    sink.on_health(Counters(), 2 * S)
    for metric in (m.LARGE_ALLOCS, m.CROSS_NODE, m.DEADLOCKS_NOW):
        assert sink.snapshot.values[metric]


def test_targets_come_and_go() -> None:
    use = {7: Usage(1 << 20, 5, 3 * S)}
    sink = MetricsSink(use.get, lambda: 4096)
    sink.on_events([attached(7, program="python", python="3.12.1"), attached(8)])
    sink.on_health(Counters(), S)
    snapshot = sink.snapshot
    assert snapshot.get(m.TARGET_RSS, "7") == 1 << 20
    assert snapshot.get(m.TARGET_CPU, "7") == 3 * S
    assert not snapshot.values[m.TARGET_RSS].keys() & {("8",)}
    assert snapshot.get(m.OWN_RSS) == 4096
    assert snapshot.get(m.TARGET_INFO, "7", "python", "3.12.1") == 1
    fork = {"child_pid": 70, "followed": True}
    snapshot = told(sink, Event("process_fork", S, pid=7, data=fork))
    assert snapshot.get(m.TARGET_UP, "70") == 1
    snapshot = told(sink, Event("process_exec", S, pid=7), Event("process_exit", S, pid=70))
    assert ("7", "python", "3.12.1") not in snapshot.values[m.TARGET_INFO]
    assert (snapshot.get(m.TARGET_UP, "7"), snapshot.values[m.TARGET_UP]["70",]) == (1, 0)
    assert snapshot.get(m.WATCHING) == 1
    snapshot = told(sink, Event("detached", 2 * S))
    assert snapshot.get(m.WATCHING) == 0
    assert set(snapshot.values[m.TARGET_UP].values()) == {0}
    assert not snapshot.values[m.TARGET_RSS]


def test_probe_states_follow_the_governor_and_the_counters(sink: MetricsSink) -> None:
    def state(snapshot: Snapshot, probe: str) -> list[str]:
        return [s for (p, s), one in snapshot.values[m.PROBE_STATE].items() if p == probe and one]

    def governed(probe: str, action: str) -> Event:
        return Event("governor", S, data={"probe": probe, "action": action, "why": "", "cost": 0})

    snapshot = told(sink, governed("alloc.malloc", "shed"), governed("scans", "slowed"))
    assert state(snapshot, "alloc.malloc") == ["open"]
    assert state(snapshot, "scans") == []
    assert snapshot.get(m.GOVERNED, "scans", "slowed") == 1
    assert state(told(sink, governed("alloc.malloc", "trial")), "alloc.malloc") == ["half-open"]
    counters = Counters(probes={"wakes": ProbeUse("closed", 30, 2400)})
    sink.on_health(counters, 2 * S)
    assert state(sink.snapshot, "wakes") == ["closed"]
    assert sink.snapshot.get(m.PROBE_HITS, "wakes") == 30
    assert sink.snapshot.get(m.PROBE_COST, "wakes") == 2400
    assert state(sink.snapshot, "alloc.malloc") == [], "it is not among the groups any more"


def test_the_whole_life_of_a_breaker_and_what_actions_came_to(sink: MetricsSink) -> None:
    seen: list[str] = []
    snapshot = sink.snapshot
    for old, new in (
        ("closed", "open"),
        ("open", "half-open"),
        ("half-open", "open"),
        ("open", "half-open"),
        ("half-open", "closed"),
    ):
        data = {"name": "action:dump", "from": old, "to": new, "why": "it failed"}
        snapshot = told(sink, Event("breaker", S, data=data))
        seen += [s for (_, s), one in snapshot.values[m.BREAKER_STATE].items() if one]
    assert seen == ["open", "half-open", "open", "half-open", "closed"]
    assert snapshot.get(m.BREAKER_CHANGES, "action:dump", "open") == 2
    snapshot = told(
        sink,
        Event("action", S, data={"trigger": "t", "action": "heap_dump", "status": "done"}),
        Event("action", S, data={"action": "heap_dump", "status": "failed"}),
        Event("action", S, data={"action": "heap_dump", "status": "skipped", "count": 6}),
        Event("trigger", S, data={"trigger": "on-1"}),
        Event("action", S),
    )
    assert snapshot.get(m.ACTIONS, "heap_dump", "skipped") == 6
    assert snapshot.get(m.FIRED, "on-1") == 1
    assert snapshot.get(m.ACTIONS, "heap_dump", "done") == 1
    assert snapshot.get(m.ACTIONS, "unknown", "unknown") == 1


def test_other_places_of_loss_are_counted_too(sink: MetricsSink) -> None:
    def loss(where: str, kind: str | None, count: Any) -> Event:
        return Event("data_loss", S, data={"where": where, "record_kind": kind, "count": count})

    counters = Counters()
    counters.dropped[int(Kind.WAIT)] = 5
    counters.received[int(Kind.WAKE)] = 1
    sink.on_events([loss("kernel", "wait", 5), loss("disk", None, 3), loss("disk", "wait", "?")])
    sink.on_health(counters, S)
    snapshot = sink.snapshot
    assert snapshot.get(m.DROPPED, "kernel", "wait") == 5
    assert snapshot.values[m.DROPPED]["kernel", "wake"] == 0
    assert snapshot.get(m.DROPPED, "disk", "unknown") == 3


HOSTILE = ('"}\nevil 1\n', "\x1b[31m", "\u202egnp.exe", "\ud800", "a" * 10_000, "\\", "", "é✓")


def test_text_of_a_target_stays_within_its_label(sink: MetricsSink) -> None:
    events = [
        ended(thread_name=name, park_id=at, data={"holder": {"thread_name": name}})
        for at, name in enumerate(HOSTILE)
    ]
    sink.on_events([attached(7, program=HOSTILE[0]), *events])
    sink.close()
    text = Renderer(lambda: sink.snapshot).render()[0].decode()
    assert all(character.isprintable() or character == "\n" for character in text)
    families = parse(text)
    assert set(families) <= {one.name.removesuffix("_total") for one in m.METRICS}
    names = {one.labels["thread"] for one in families[m.BLAMED.name[:-6]].samples}
    assert len(names) == len(HOSTILE)
    assert max(map(len, names)) <= MAX_CHARACTERS


def _many(count: int) -> Iterator[Event]:
    for at in range(count):
        yield attached(at + 1)
        name = f"{'abcdefghij'[at % 10] * (at // 10 + 1)}"
        yield ended(at + 1, thread_name=name, data={"holder": {"thread_name": name}})
        yield Event("breaker", S, data={"name": name, "to": name})
        yield Event("action", S, data={"action": name, "status": name})
        yield Event("data_loss", S, data={"where": name, "record_kind": name, "count": 1})
        ranges = [{"mode": name, "outcome": name, "count": 1, "items": 10 ** (at % 18)}]
        yield Event("native_map", S, pid=at + 1, data={"map": name, "ranges": ranges})


def test_series_are_bounded_and_what_has_no_room_is_other(sink: MetricsSink) -> None:
    snapshot = told(sink, *_many(400))
    for metric in m.METRICS:
        for table in (snapshot.values, snapshot.spreads):
            assert len(table.get(metric, {})) <= MAX_SERIES + 1, metric.name
    assert len(snapshot.values[m.TARGET_UP]) == MAX_PIDS
    assert total(snapshot, m.PARKS) == total(snapshot, m.ACTIONS) == 400
    assert total(snapshot, m.RANGES) == 400
    assert snapshot.get(m.PARKS, "other", "lock", "false") == 400 - MAX_PIDS
    over = {key[0] for key, n in snapshot.values[m.OVERFLOW].items() if n}
    assert {"pid", "thread", "map", "breaker", "where"} <= over
    assert len(Renderer(lambda: snapshot).render()[0]) < 2_000_000


def test_a_metric_has_no_more_series_than_a_metric_may_have() -> None:
    readings = Readings()
    for at in range(MAX_SERIES + 10):
        readings.add(m.ACTIONS, (str(at), "done"))
    snapshot = readings.snapshot(0)
    assert len(snapshot.values[m.ACTIONS]) == MAX_SERIES + 1
    assert snapshot.get(m.ACTIONS, "other", "other") == readings.overflow == 10


def test_one_that_has_ended_makes_room(sink: MetricsSink) -> None:
    for pid in range(1, MAX_PIDS + 2):
        event = Event("process_exit", S, pid=pid)
        sink.on_events([attached(pid), ended(pid), *([event] if pid > 1 else [])])
    snapshot = told(sink, attached(999), ended(999))
    assert snapshot.get(m.PARKS, "1", "lock", "false") == 1, "it lives"
    assert snapshot.get(m.PARKS, "999", "lock", "false") == 1
    assert snapshot.get(m.PARKS, "2", "lock", "false") == 0, "the first that had ended"
    assert not snapshot.values[m.OVERFLOW].keys() & {("pid",)}


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


def test_odd_events_break_nothing(sink: MetricsSink) -> None:
    odd: Any = {"cycle": [{}], "ranges": [None, 5], "park_id": "x", "holder": "me", "map": 3}
    names = ("park_long", "park_end", "deadlock", "native_map", "breaker", "governor", "news")
    for data in (dict[str, Any](), odd):
        told(sink, *(Event(name, S, data=data) for name in names))
    Renderer(lambda: sink.snapshot).render()


def test_the_scenarios_are_all_here() -> None:
    assert (Path(SCENARIO_DIR) / "flood.toml").exists()
    assert len(SCENARIOS) > 10
