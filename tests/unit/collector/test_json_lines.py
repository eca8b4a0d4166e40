"""JSON lines: the documented keys, the data unchanged, nothing that steers a terminal."""

from __future__ import annotations

import io
import json

from hypothesis import given
from hypothesis import strategies as st

from collector.counters import Counters
from collector.events import COMMON, Event
from collector.sinks.json_lines import JsonLines, json_line


def test_every_line_has_the_common_keys_first() -> None:
    stream = io.BytesIO()
    sink = JsonLines(stream)
    sink.on_events([Event("park_long", 5, 1, 2, "w", "io", False, 3, 2, True, {"fd": 7})])
    sink.on_health(Counters(scans=3), 9)
    sink.close()
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert list(first) == [*COMMON, "fd"]
    assert first == {
        "event": "park_long", "schema": 1, "ts_ns": 5, "pid": 1, "tid": 2, "thread_name": "w",
        "kind": "io", "idle": False, "start_ns": 3, "duration_ns": 2, "before_attach": True,
        "fd": 7,
    }  # fmt: skip
    assert (second["event"], second["ts_ns"], second["totals"]["scans"]) == ("totals", 9, 3)
    assert not stream.closed


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_the_data_is_the_same_and_the_line_is_printable(name: str) -> None:
    line = json_line(Event("park_long", 1, thread_name=name, data={f"-{name}": [name]}))
    assert line.endswith(b"\n")
    text = line[:-1].decode()
    assert text.isprintable()
    read = json.loads(text)
    assert read["thread_name"] == name
    assert read[f"-{name}"] == [name]


def test_a_file_name_that_is_no_utf8_does_not_stop_the_stream() -> None:
    line = json_line(Event("park_long", 1, thread_name="caf\udce9"))
    assert json.loads(line)["thread_name"] == "caf\\udce9"
