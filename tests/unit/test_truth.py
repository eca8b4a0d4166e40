"""The comparison itself: it must find what it is there to find."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from collector.events import Event
from collector.park import PARK
from collector.source import SourceInfo
from probes.kinds import KIND_INDEX
from tests.observe import Observation, TrueWait
from tests.truth import compare

MS = 1_000_000
TID = 7


def wait(kind: str, start_ms: float, end_ms: float | None, **more: Any) -> TrueWait:
    facts: dict[str, Any] = {
        "tid": TID,
        "thread": "t",
        "kind": kind,
        "start_ns": int(start_ms * MS),
        "end_ns": None if end_ms is None else int(end_ms * MS),
        "what": "w",
        "idle": False,
        "contended": False,
        "wake_ns": None,
    }
    return TrueWait(**{**facts, **more})


def observation(truth: list[TrueWait], *parks: tuple[str, float, float, bool]) -> Observation:
    """``parks``: kind, start, end in ms, idle; those of 200 ms and more are flagged."""
    rows = np.zeros(len(parks), PARK)
    events = []
    for number, (row, (kind, start_ms, end_ms, idle)) in enumerate(zip(rows, parks, strict=True)):
        row["tid"], row["kind"], row["end"] = TID, KIND_INDEX[kind], 1
        row["start_ns"], row["duration_ns"] = start_ms * MS, (end_ms - start_ms) * MS
        if end_ms - start_ms >= 200:
            row["park_id"] = number + 1
            data = {"park_id": number + 1}
            events.append(Event("park_long", 0, tid=TID, kind=kind, idle=idle, data=data))
    return Observation(
        scenario="s",
        interpreter="i",
        backend="bcc",
        long_park_ns=200 * MS,
        began_ns=0,
        armed_ns=0,
        info=SourceInfo("bcc"),
        truth=truth,
        events=events,
        reached_ns=[int(parks[e.data["park_id"] - 1][1] * MS) + 203 * MS for e in events],
        rows=rows,
        counters=None,
        status=0,
    )


def test_a_park_that_agrees_with_the_log_is_no_fault_and_its_errors_are_measured() -> None:
    report = compare(observation([wait("io", 100, 600)], ("io", 100.2, 599.9, False)))
    assert report.faults == []
    assert report.expected == 1
    assert np.allclose(report.start_ms, [0.2])
    assert np.allclose(report.duration_ms, [-0.3])
    assert np.allclose(report.latency_ms, [3.2])


def test_a_wait_that_was_not_flagged_is_missed() -> None:
    assert len(compare(observation([wait("io", 100, 600)])).missed) == 1
    assert len(compare(observation([wait("lock", 100, None)])).missed) == 1


def test_a_wait_below_the_threshold_or_just_above_it_need_not_be_flagged() -> None:
    assert compare(observation([wait("io", 100, 250), wait("io", 300, 500.5)])).faults == []


def test_another_kind_is_a_wrong_kind() -> None:
    report = compare(observation([wait("io", 100, 600)], ("lock", 100, 600, False)))
    assert len(report.wrong_kind) == 1


def test_a_flagged_park_that_nobody_logged_is_invented() -> None:
    assert len(compare(observation([], ("io", 100, 600, False))).invented) == 1
    short = observation([wait("io", 100, 250)], ("io", 60, 270, False))
    assert len(compare(short).invented) == 1


def test_idle_parks_need_no_log_but_a_real_wait_is_not_idle() -> None:
    assert compare(observation([], ("io", 100, 600, True))).faults == []
    hidden = compare(observation([wait("io", 100, 600)], ("io", 100, 600, True)))
    assert len(hidden.wrong_idle) == 1
    alarm = compare(observation([wait("io", 100, None, idle=True)], ("io", 100, 600, False)))
    assert len(alarm.wrong_idle) == 1


def test_a_wait_and_the_gil_after_it_are_compared_together() -> None:
    parks = ("lock", 100.0, 500.0, False), ("gil", 500.0, 506.0, False)
    report = compare(observation([wait("lock", 100, 506, contended=True)], *parks))
    assert report.faults == []
    assert np.allclose(report.contended_ms, [0])


@pytest.mark.parametrize(
    ("ready_ms", "seen_from", "error_ms"), [(3, 103, 0), (3, 105, -2), (0, 103, -3), (3, 98, 2)]
)
def test_what_a_thread_stood_ready_for_a_cpu_may_be_missing_and_no_more(
    ready_ms: float, seen_from: float, error_ms: float
) -> None:
    truth = wait("lock", 100, 506, contended=True, ready_ns=int(ready_ms * MS))
    parks = ("lock", seen_from, 500.0, False), ("gil", 500.0, 506.0, False)
    report = compare(observation([truth], *parks))
    assert np.allclose(report.contended_ms, [error_ms])
    assert np.allclose(report.contended_plain_ms, [100 - seen_from])


def test_the_gil_after_a_short_sleep_is_expected_as_a_park_of_its_own() -> None:
    truth = wait("sleep", 100, 600, contended=True, wake_ns=130 * MS)
    good = compare(observation([truth], ("sleep", 100, 130, False), ("gil", 130, 600, False)))
    assert good.faults == []
    assert np.allclose(good.gil_end_ms, [0])
    assert len(compare(observation([truth], ("sleep", 100, 130, False))).missed) == 1


def test_a_park_older_than_the_attach_must_say_so() -> None:
    seen = observation([wait("io", 100, 900)], ("io", 100, 900, False))
    report = compare(replace(seen, began_ns=300 * MS, armed_ns=400 * MS))
    assert len(report.wrong_mark) == 1
