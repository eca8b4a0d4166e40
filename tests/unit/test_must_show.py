"""The runner behind ``./check --full``: what it calls held, missed and not measured."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from tests.full import Bound, Figure, Measurement, MustShow, NotMeasured, at_least, at_most, exactly
from tests.full.__main__ import Row, run, table, write_json


def _rows(measure: Measurement, bound: Bound | None = None) -> list[Row]:
    return run([MustShow(9, 1, "thing", bound, measure)], {(9, 1): "first"})


def test_a_number_is_held_against_the_bound() -> None:
    assert [row.holds for row in _rows(lambda: 0.99, at_least(0.99))] == [True]
    assert [row.holds for row in _rows(lambda: 0.98, at_least(0.99))] == [False]
    assert [row.holds for row in _rows(lambda: 1.5, at_most(1, "ms"))] == [False]
    assert [row.holds for row in _rows(lambda: 0, exactly(0))] == [True]
    assert [row.holds for row in _rows(lambda: 3)] == [None]


def test_several_figures_have_their_own_names_and_bounds() -> None:
    def several() -> Iterator[Figure]:
        yield Figure(1.0, "one", at_most(2), note="n = 7")
        yield Figure(3.0, "two")

    assert _rows(several, at_most(2)) == [
        Row(9, 1, "one", "≤ 2", 1.0, True, "n = 7"),
        Row(9, 1, "two", "≤ 2", 3.0, False),
    ]


def test_what_fails_or_is_not_measured_does_not_hold_and_stops_nothing() -> None:
    def broken() -> float:
        raise OSError("gone")

    def impossible() -> float:
        raise NotMeasured("no root")

    rows = run(
        [
            MustShow(9, 2, "later", None, lambda: 1),
            MustShow(9, 1, "broken", at_most(1), broken),
            MustShow(9, 1, "impossible", None, impossible),
        ],
        {},
    )
    assert [(row.what, row.holds, row.note) for row in rows] == [
        ("broken", False, "failed: OSError: gone"),
        ("impossible", False, "not measured: no root"),
        ("later", None, ""),
    ]


def test_a_line_without_measurement_is_shown_as_missing() -> None:
    rows = run([], {(9, 1): "first", (8, 3): "third"})
    assert [(row.issue, row.line, row.holds) for row in rows] == [(8, 3, False), (9, 1, False)]
    assert [row.what for row in run([], {(9, 1): "a", (9, 2): "b", (8, 1): "c"}, ["9.2", "8"])] == [
        "c",
        "b",
    ]


def test_table_and_json_say_the_same(tmp_path: Path) -> None:
    rows = _rows(lambda: 1234567.5, at_least(1e6, "records/s"))
    head, line = table(rows).split("\n")
    assert head.split() == ["issue", "line", "what", "bound", "figure", "holds", "note"]
    assert line.split() == ["9", "1", "thing", "≥", "1,000,000", "records/s", "1,234,568", "yes"]
    write_json(rows, tmp_path / "new" / "out.json")
    document = json.loads((tmp_path / "new" / "out.json").read_text())
    assert document["rows"] == [
        {
            "issue": 9,
            "line": 1,
            "what": "thing",
            "bound": "≥ 1,000,000 records/s",
            "figure": 1234567.5,
            "holds": True,
            "note": "",
        }
    ]
