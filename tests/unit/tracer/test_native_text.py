"""Native maps for people: lines, the live table, the view; whatever an event's data is."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from collector.events import Event
from collector.sinks.live import LiveSink
from tests.played import run
from tracer.analysis import run_view
from tracer.backends import mock
from tracer.human import HumanLines, Style
from tracer.live_view import ViewState, plain_picture
from tracer.native_text import native_map
from tracer.session import SessionOptions, run_session

SCENARIO = SessionOptions(backend="mock", scenario="native_map")


def test_the_lines_name_shard_map_and_holder_and_sum_up_at_the_end() -> None:
    stream = StringIO()
    run_session(SCENARIO, [HumanLines(stream, Style())])
    said = stream.getvalue().splitlines()
    waits = [line for line in said if "waits 200 ms" in line]
    assert len(waits) == 2
    assert all("for shard 3 of ConcurrentMap sessions, held by writer" in line for line in waits)
    (sums,) = [line for line in said if "ConcurrentMap sessions: " in line]
    assert "100 ranges, 90 % of them fine (weak 90, strict 10)" in sums
    assert "252 waits for a shard" in sums
    assert "4 stale buckets, 2 splits, 7 retries" in sums
    assert said.index(sums) == len(said) - 2  # before the totals


def test_the_live_table_has_a_line_for_a_map() -> None:
    sink = LiveSink()
    run_session(SCENARIO, [sink])
    picture = plain_picture(sink.snapshot, ViewState(), 120)
    assert "ConcurrentMap sessions: 100 ranges" in picture


def test_a_replay_says_the_same_of_maps(tmp_path: Path) -> None:
    trace = tmp_path / "t"
    first = run(mock.scenario("native_map"), trace)
    again = run(mock.replay(trace))
    said, resaid = ([e.to_dict() for e in r.said("native_map")] for r in (first, again))
    assert said[-1] == resaid[-1]
    parks, reparks = ([e.to_dict() for e in r.said("park_long")] for r in (first, again))
    keys = ("tid", "kind", "map", "shard", "lock", "resource", "holder")
    assert [[p[k] for k in keys] for p in parks] == [[p[k] for k in keys] for p in reparks]
    result = run_view(trace, "maps")
    (row,) = [dict(zip(result.columns, row, strict=True)) for row in result.rows]
    assert (row["type"], row["name"], row["ranges"]) == ("ConcurrentMap", "sessions", 100)
    assert (row["success_rate"], row["stale_ranges"], row["stale_buckets"]) == (0.9, 10, 4)
    assert (row["longest_shard"], row["held_by"], row["long_parks"]) == (3, "writer", 2)


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"ranges": 3, "waits": [], "partial": "x", "stale": "many", "splits": -1},
        {"ranges": [1, {"count": "x"}, {"count": 2, "mode": None}], "waits": {"count": 1}},
        {"address": 5, "map": ["x"], "type": 7, "success_rate": "high"},
        {"address": "0x1", "map": "a\x1b[31m", "type": "b\x07", "partial": ["\x1b"]},
    ],
)
def test_any_data_gives_a_printable_line(data: dict[str, Any]) -> None:
    text = native_map(Event("native_map", 1, pid=2, data=data))
    assert text
    assert text.isprintable()
