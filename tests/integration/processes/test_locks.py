"""What parked threads wait for and who has it, read from outside, against the target's word."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from collector.context import Blame
from tests import storm
from tests.interpreters import Interpreter, get, matrix
from tests.processes import read_line, wait_until
from tracer import procfs
from tracer.pymem import PythonReader
from tracer.target import inspect

pytestmark = pytest.mark.ptrace

Start = Callable[..., subprocess.Popen[bytes]]
TARGETS = Path(__file__).parents[2] / "targets"
MAX_SLICES = 200
STORM_ROUNDS = 120


def with_names(reader: PythonReader, blames: dict[int, Blame]) -> dict[int, str | None]:
    """The names of all resources, searched for until they are found or cannot be."""
    names = {}
    for tid, blame in blames.items():
        name = blame.resource.name
        for _ in range(MAX_SLICES):
            if name is not None:
                break
            name, done = reader.find_name(blame.resource)
            if done:
                break
        names[tid] = name
    return names


def wrong(truth: dict[str, Any], blame: Blame | None, name: str | None) -> list[str]:
    """In what a blame differs from the target's word."""
    if blame is None:
        return ["nothing was found out"]
    resource, holder = blame.resource, blame.holder
    found = []
    if (resource.type, resource.address) != (truth["type"], truth["address"]):
        found.append(f"waits on {resource}")
    if name not in truth["names"]:
        found.append(f"is named {name!r}")
    tid = None if holder is None else holder.tid
    if tid != truth["holder"] and (truth["proof"] or tid is not None):
        found.append(f"is held by {holder}, candidates {blame.candidates}")
    needs = (truth["holder"],) if truth["proof"] and truth["type"] != "Future" else None
    if blame.needs != needs and (truth["proof"] or blame.needs != (truth["holder"],)):
        found.append(f"needs {blame.needs}")
    if blame.timed is not truth["timed"]:
        found.append(f"timed {blame.timed}")
    return found


@matrix()
def test_every_wait_is_what_the_target_says(interpreter: Interpreter, start: Start) -> None:
    process = start(interpreter, TARGETS / "lock_waits.py")
    truths = {int(tid): truth for tid, truth in json.loads(read_line(process, 60)).items()}
    pid = process.pid

    def all_wait() -> bool:
        return all(procfs.futex_wait(pid, tid)[0] for tid in truths)

    wait_until(all_wait, "all threads in a futex", 20)
    reader = PythonReader(inspect(pid))
    blames = reader.blames(dict.fromkeys(truths, ("lock", 0)))
    names = with_names(reader, blames)
    stacks = reader.stacks(truths, 1)
    innermost = {tid: [one.frames[0].function, one.frames[0].line] for tid, one in stacks.items()}
    assert innermost == {tid: truth["innermost"] for tid, truth in truths.items()}
    found = {
        truth["scene"]: wrong(truth, blames.get(tid), names.get(tid))
        for tid, truth in truths.items()
    }
    assert {scene: words for scene, words in found.items() if words} == {}
    for tid, truth in truths.items():  # one by one it is the same, now from caches
        blame = reader.blame(tid, "lock", procfs.futex_wait(pid, tid)[0])
        assert wrong(truth, blame, (blame and blame.resource.name) or names[tid]) == []


@matrix()
def test_never_a_wrong_holder_in_a_storm(interpreter: Interpreter) -> None:
    outcome = storm.storm(interpreter, STORM_ROUNDS, seed=1)
    assert outcome.wrong == []
    assert outcome.named > STORM_ROUNDS / 10, outcome


def test_the_storms_log_tells_right_from_wrong() -> None:
    """A control: of holders that are taken from another reading many are wrong."""
    outcome = storm.storm(get("system-3.11"), STORM_ROUNDS, seed=2, shift=STORM_ROUNDS // 2)
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
