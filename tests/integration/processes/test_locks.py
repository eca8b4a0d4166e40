"""What parked threads wait for and who has it, read from outside, against the target's word."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from collector.context import Blame, Party, Resource
from tests import storm
from tests.interpreters import Interpreter, get, matrix
from tests.lock_truth import compare
from tests.processes import read_line, wait_until
from tracer.pymem import PythonReader
from tracer.pymem.runtime import ThreadState
from tracer.target import inspect

pytestmark = pytest.mark.ptrace

Start = Callable[..., subprocess.Popen[bytes]]
TARGETS = Path(__file__).parents[2] / "targets"
MANY_WAITS = 40
STORM_ROUNDS = 100
NOBODY = Blame(Resource("GIL", None, 0))
ENDED = 1 << 22  # no native id: the kernel gives smaller ones


@matrix()
def test_every_wait_is_what_the_target_says(interpreter: Interpreter) -> None:
    done = compare(interpreter)
    assert done.wrong == []
    assert done.waits > MANY_WAITS


@matrix()
def test_never_a_wrong_holder_in_a_storm(interpreter: Interpreter) -> None:
    outcome = storm.storm(interpreter, STORM_ROUNDS, seed=1)
    assert outcome.wrong == []


def test_the_storms_log_tells_right_from_wrong() -> None:
    """A control: of holders that are taken from another reading many are wrong."""
    outcome = storm.storm(get("system-3.11"), STORM_ROUNDS, seed=2, mixed=True)
    assert len(outcome.wrong) > outcome.named / 2


@matrix()
def test_the_gil_is_held_by_the_thread_that_computes(
    interpreter: Interpreter, start: Start
) -> None:
    process = start(interpreter, TARGETS / "gil_hog.py")
    hog = int(read_line(process))
    reader = PythonReader(inspect(process.pid))
    victims = set(reader.threads()) - {hog}
    assert len(victims) == 4

    def said() -> set[int | None]:
        blames = reader.blames(dict.fromkeys(victims, ("gil", 0)))
        assert {blame.resource.type for blame in blames.values()} == {"GIL"}
        return {None if blame.holder is None else blame.holder.tid for blame in blames.values()}

    wait_until(lambda: said() == {hog}, "the hog as the one that has the GIL")
    for _ in range(50):
        blame = reader.blame(next(iter(victims)), "gil", 0)
        assert blame is not None
        assert blame.holder is not None
        assert (blame.holder.tid, blame.holder.thread_name) == (hog, "hog")
        assert blame.needs == (hog,)
        assert blame.holder.frames is not None
        assert blame.holder.frames[0].function == "compute"


def test_what_another_thread_does_in_the_state_of_an_ended_one_is_not_said_of_that(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread may end once threads have been listed, and a new one get its thread state."""
    process = start(get("system-3.11"), TARGETS / "gil_hog.py")
    hog = int(read_line(process))
    reader = PythonReader(inspect(process.pid))
    runtime = reader._readers.runtime
    listed = runtime.thread_states
    victim = min(set(reader.threads()) - {hog})

    def said(lists: int) -> Blame | None:
        """With a list, the first ``lists`` times, in which an ended thread is where the hog is."""
        left = iter(range(lists))

        def states() -> list[ThreadState]:
            if next(left, None) is None:
                return listed()
            return [replace(s, native_id=ENDED) if s.native_id == hog else s for s in listed()]

        with monkeypatch.context() as patch:
            patch.setattr(runtime, "thread_states", states)
            return reader.blame(victim, "gil", 0)

    def holder(lists: int) -> int:
        one: Party = wait_until(lambda: (said(lists) or NOBODY).holder, "a holder")
        return one.tid

    assert holder(0) == hog
    assert holder(1000) == ENDED, "as long as nobody sees the new list"
    for _ in range(50):
        blame = said(1)
        assert blame is not None
        assert blame.resource.type == "GIL"
        assert (blame.holder, blame.needs) == (None, None)
