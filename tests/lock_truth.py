"""``targets/lock_waits.py``: what is read of its waits, against what it says of them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from collector.context import Blame
from tests.interpreters import Interpreter, launch
from tests.processes import read_line, started, wait_until
from tracer import procfs
from tracer.pymem import PythonReader
from tracer.target import inspect

TARGET = Path(__file__).parent / "targets" / "lock_waits.py"
MAX_SLICES = 200
"""Slices of the search for a name: none may need as many."""


@dataclass(frozen=True, slots=True)
class Compared:
    """How many waits there were, for how many all was right, and what was wrong with others."""

    waits: int
    right: int
    wrong: list[str]


def compare(interpreter: Interpreter) -> Compared:
    """All that is read of the waits under an interpreter."""
    with started(launch(interpreter, TARGET, stdout=subprocess.PIPE)) as process:
        pid = process.pid
        truths = {int(tid): one for tid, one in json.loads(read_line(process, 60)).items()}
        wait_until(lambda: all(procfs.futex_wait(pid, tid)[0] for tid in truths), "every wait", 20)
        reader = PythonReader(inspect(pid))
        blames = reader.blames(dict.fromkeys(truths, ("lock", 0)))
        names = {tid: _name(reader, blame) for tid, blame in blames.items()}
        found = {
            tid: [*_wrong(truth, blames.get(tid), names.get(tid)), *_lines(reader, tid, truth)]
            for tid, truth in truths.items()
        }
        for tid, truth in truths.items():  # one by one it is the same, now from caches
            blame = reader.blame(tid, "lock", procfs.futex_wait(pid, tid)[0])
            found[tid] += _wrong(truth, blame, names.get(tid)) + _unsuspected(truth, blame)
    wrong = [f"{truths[tid]['scene']}: {words}" for tid, words in found.items() if words]
    return Compared(len(truths), len(truths) - len(wrong), wrong)


def _name(reader: PythonReader, blame: Blame) -> str | None:
    """The name of a resource, searched for until it is found or cannot be."""
    name, done = blame.resource.name, False
    for _ in range(MAX_SLICES):
        if name is not None or done:
            break
        name, done = reader.find_name(blame.resource)
    return name


def _lines(reader: PythonReader, tid: int, truth: Mapping[str, Any]) -> list[str]:
    stack = reader.stack(tid, 1)
    innermost = None if stack is None else [stack[0][0].function, stack[0][0].line]
    return [] if innermost == truth["innermost"] else [f"stands in {innermost}"]


def _wrong(truth: Mapping[str, Any], blame: Blame | None, name: str | None) -> list[str]:
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


def _unsuspected(truth: Mapping[str, Any], blame: Blame | None) -> list[str]:
    """Whether a holder that leaves traces is missing among the candidates."""
    candidates = () if blame is None else blame.candidates
    missing = truth["suspect"] and truth["holder"] not in [one.tid for one in candidates]
    return [f"candidates are {candidates}"] if missing else []
