"""What a recording says of itself: enough to read it, nothing about who made it."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from collector.events import Event
from collector.sinks.trace_file import TraceFile
from collector.source import SourceInfo
from collector.trace.facts import clock_pair, recording_facts
from collector.trace.lines import dump
from probes.kinds import KINDS
from probes.wire import Kind
from tests.traces import START_NS, read, some_events, some_parks, some_records


def test_the_two_clocks_are_of_one_moment() -> None:
    before, before_wall = time.monotonic_ns(), time.time_ns()
    pair = clock_pair()
    after, after_wall = time.monotonic_ns(), time.time_ns()
    assert before <= pair["monotonic_ns"] <= after
    assert before_wall <= pair["realtime_ns"] <= after_wall
    assert 0 <= pair["within_ns"] <= after - before


def test_numbers_in_records_and_parks_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_PASSWORD", "hunter2-hunter2")
    info = SourceInfo("bcc", why="it works", probes=("threads",))
    facts = json.loads(dump(recording_facts(info, [{"pid": 7}], {"long_park_ns": 5}, "1.2.3")))
    assert facts["kinds"]["records"] == {str(kind.value): kind.name.lower() for kind in Kind}
    assert facts["kinds"]["parks"] == list(KINDS)
    assert facts["backend"]["backend"] == "bcc"
    assert facts["targets"] == [{"pid": 7}]
    assert facts["options"] == {"long_park_ns": 5}
    assert facts["parkscope"] == "1.2.3"
    assert facts["host"]["kernel"] == os.uname().release
    assert set(facts["host"]) == {"machine", "kernel", "cpus", "python"}
    assert "hunter2" not in json.dumps(facts)


def test_the_sink_keeps_whatever_passes(tmp_path: Path) -> None:
    from collector.counters import Counters

    sink = TraceFile(tmp_path / "t", {})
    assert sink.path == tmp_path / "t"
    sink.on_records(some_records(3), {4: 2}, START_NS)
    sink.on_parks(some_parks(2))
    sink.on_events(some_events(1))
    sink.on_health(Counters(malformed=9), START_NS)
    sink.on_events([Event("detached", START_NS)])
    sink.close()
    sink.close()
    got = read(tmp_path / "t")
    assert got.records.tobytes() == some_records(3).tobytes()
    assert len(got.parks) == 2
    assert [event.event for event in got.events] == ["park_long", "detached"]
    assert got.reader.end is not None
    assert got.reader.end["totals"]["records_malformed"] == 9
