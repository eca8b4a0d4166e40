"""The metrics sink: what it makes of events and records, on scripted scenarios and by hand."""

from __future__ import annotations

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
from collector.metrics.readings import Snapshot
from collector.park import PARK, End, Seen
from collector.parks import ParkDetector
from collector.pipeline import Pipeline
from collector.sinks.metrics import MetricsSink, Usage
from collector.source import ProbeUse
from probes.kinds import KIND_INDEX, KINDS
from probes.wire import Kind, WaitClass, make
from tests.metrics_events import S, attached, duration_ns, ended, told, total
from tests.played import LONG_PARK_NS, MIN_PARK_NS, Recorder
from tracer.backends import mock
from tracer.backends.mock_scenario import SCENARIO_DIR

MS = 1_000_000
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


def test_odd_events_break_nothing(sink: MetricsSink) -> None:
    odd: Any = {"cycle": [{}], "ranges": [None, 5], "park_id": "x", "holder": "me", "map": 3}
    names = ("park_long", "park_end", "deadlock", "native_map", "breaker", "governor", "news")
    for data in (dict[str, Any](), odd):
        told(sink, *(Event(name, S, data=data) for name in names))
    Renderer(lambda: sink.snapshot).render()


def test_the_scenarios_are_all_here() -> None:
    assert (Path(SCENARIO_DIR) / "flood.toml").exists()
    assert len(SCENARIOS) > 10
