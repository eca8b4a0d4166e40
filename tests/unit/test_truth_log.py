"""The scenarios' own log: a thread that says that it has no gaps has none."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from examples.scenarios import TRUTH_LOG
from tests.observe import read_truth

MS = 1_000_000


class Told:
    """A log whose clock, and time on the run queue, are told (ns)."""

    def __init__(self, file: Path) -> None:
        spec = importlib.util.spec_from_file_location("told_truth_log", TRUTH_LOG)
        assert spec is not None
        assert spec.loader is not None
        module: Any = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self.file, self.now_ns, self.ready_ns = file, 1000, 0
        module.now_ns = lambda: self.now_ns
        self.log = module.Log(str(file))
        self.log._ready = self
        self.log.computing = 1

    def ns(self) -> int:
        return self.ready_ns

    def rest(self) -> None:
        with self.log.wait("sleep", "a sleep"):
            self.now_ns += 60 * MS

    def lines(self) -> list[tuple[str, int, int]]:
        """Kind, begin and end in ms."""
        return [
            (one.kind, one.start_ns // MS, (one.end_ns or 0) // MS) for one in read_truth(self.file)
        ]


@pytest.fixture
def told(tmp_path: Path) -> Told:
    return Told(tmp_path / "log")


def test_the_gil_may_be_lost_between_two_lines(told: Told) -> None:
    """A thread that was preempted there for 5 ms has to let go of it, and the hog takes it."""
    told.log.without_gaps()
    told.rest()
    told.now_ns += 508 * MS
    told.rest()
    assert told.lines() == [("sleep", 0, 60), ("gil", 60, 568), ("sleep", 568, 628)]


def test_who_stands_ready_for_a_cpu_waits_for_nothing(told: Told) -> None:
    told.log.without_gaps()
    told.rest()
    told.now_ns += 508 * MS
    told.ready_ns += 470 * MS
    told.rest()
    assert told.lines() == [("sleep", 0, 60), ("sleep", 568, 628)]


def test_a_thread_that_computes_has_gaps_that_are_no_waits(told: Told) -> None:
    told.rest()
    told.now_ns += 508 * MS
    told.rest()
    assert told.lines() == [("sleep", 0, 60), ("sleep", 568, 628)]
