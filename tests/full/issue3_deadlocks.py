"""Issue 3, line 2: deadlocks are found in time, and line 3: real programs are understood."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE

from tests import interpreters, processes
from tests.full import Figure, NotMeasured, at_most, exactly, must_show
from tests.interpreters import Interpreter
from tests.observe import attached
from tracer.session import SessionOptions

BACKEND = os.environ.get("PARKSCOPE_BACKEND", "bcc")
ROUNDS = 3 * int(os.environ.get("PARKSCOPE_REPEATS", "1"))
ROOT = Path(__file__).resolve().parents[2]
TARGET = ROOT / "tests/targets/deadlocks.py"
REAL_PROGRAMS = "tests/integration/processes/test_real_programs.py"
SORTS = ("locks 2", "mixed 3", "locks 10", "joins", "itself", "feed", "pool", "gil")
MS = 1_000_000
LONG_PARK_NS = 200 * MS


@dataclass(frozen=True)
class Found:
    """How long after the crossing, or the attach, it was said; None: it was not, or wrongly."""

    sort: str
    late_ms: float | None


def one(interpreter: Interpreter, sort: str, *, before: bool) -> Found:
    """A deadlock that began before the attach, or that begins while one watches."""
    args = [*sort.split(), *(() if before else ("--hold-off",))]
    process = interpreters.launch(interpreter, TARGET, args, stdin=PIPE, stdout=PIPE)
    with processes.started(process):
        processes.wait_ready(process)
        tids = json.loads(processes.read_line(process))["tids"]
        options = SessionOptions(pids=(process.pid,), backend=BACKEND)
        with attached(options) as session:
            if not before and process.stdin is not None:
                process.stdin.write(b"\n")
                process.stdin.flush()
            try:
                event = processes.wait_until(
                    lambda: next(
                        (e for e in list(session.sink.events) if e.event == "deadlock"), None
                    ),
                    "the deadlock",
                    5,
                )
            except AssertionError:
                return Found(sort, None)
    if sorted(member["tid"] for member in event.data["cycle"]) != sorted(tids):
        return Found(sort, None)
    reached_ns = session.sink.reached_ns[session.sink.events.index(event)]
    crossing_ns = event.start_ns + LONG_PARK_NS
    return Found(sort, (reached_ns - max(crossing_ns, session.armed_ns)) / MS)


def figures(interpreter: Interpreter) -> Iterator[Figure]:
    for before, what in ((True, "older than the attach"), (False, "begun meanwhile")):
        found = [one(interpreter, sort, before=before) for sort in SORTS for _ in range(ROUNDS)]
        missed = [each.sort for each in found if each.late_ms is None]
        said = [(each.late_ms, each.sort) for each in found if each.late_ms is not None]
        name = f"{interpreter.id}: {what}"
        yield Figure(len(missed), f"{name}, missed or wrong", exactly(0), f"of {len(found)}")
        if said:
            late_ms, sort = max(said)
            middle = sorted(said)[len(said) // 2][0]
            note = f"{sort}; median {middle:.0f} ms, n={len(said)}"
            yield Figure(late_ms, f"{name}, latest", at_most(300, "ms"), note)


def measurement(name: str) -> Callable[[], list[Figure]]:
    """All sorts under one interpreter."""

    def measure() -> list[Figure]:
        found = {each.id: each for each in interpreters.interpreters()}
        if name not in found:
            raise NotMeasured(interpreters.absent().get(name, "not on this machine"))
        return list(figures(found[name]))

    return measure


for wanted in interpreters.WANTED:
    must_show(f"{wanted}: deadlocks of 1, 2, 3 and 10", issue=3, line=2)(measurement(wanted))


@must_show("real programs: pool, tasks, logging, requests", issue=3, line=3)
def real_programs() -> Iterator[Figure]:
    """The integration tests say what the true cause is; here they are counted."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", REAL_PROGRAMS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    counts = {
        word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|skipped|error)", done.stdout)
    }
    if not counts.get("passed") and not counts.get("failed"):
        raise NotMeasured(done.stdout.strip().rpartition("\n")[2])
    wrong = counts.get("failed", 0) + counts.get("error", 0)
    note = f"{counts.get('passed', 0)} right, both backends where they can be used"
    yield Figure(wrong, "diagnoses that miss the cause", exactly(0), note)
