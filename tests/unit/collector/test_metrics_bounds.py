"""What a target can make of labels: nothing that a scrape could not carry."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from collector.events import Event
from collector.metrics import catalogue as m
from collector.metrics.exposition import Renderer
from collector.metrics.labels import MAX_CHARACTERS, MAX_PIDS
from collector.metrics.readings import MAX_SERIES, Readings
from collector.sinks.metrics import MetricsSink
from tests.metrics_events import S, attached, ended, parse, told, total


@pytest.fixture
def sink() -> MetricsSink:
    return MetricsSink()


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


def test_a_process_too_many_is_counted_when_it_comes_not_with_each_look(sink: MetricsSink) -> None:
    events = [attached(pid, python="3.12.1") for pid in range(1, MAX_PIDS + 3)]
    before = told(sink, *events).get(m.OVERFLOW, "pid")
    sink.close()
    sink.close()
    assert sink.snapshot.get(m.OVERFLOW, "pid") == before == 2


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
