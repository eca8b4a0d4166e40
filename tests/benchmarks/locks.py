"""What it takes to say what a parked thread waits for, among many threads."""

from __future__ import annotations

import json
import statistics
import subprocess
import time
from dataclasses import dataclass

from collector.context import ParkedAt
from tests.benchmarks.pairs import TARGETS, interpreter
from tests.benchmarks.quiet import going_first
from tests.interpreters import launch
from tests.processes import read_line, started, wait_until
from tracer import procfs
from tracer.context import TargetContext
from tracer.target import inspect
from tracer.watch import settle

REPEATS = 60
FIRSTS = 5
"""So often the target is looked at as for the first time."""


@dataclass(frozen=True, slots=True)
class Costs:
    """Milliseconds of the tracer's CPU: first looks at a target after an attach, and later ones.

    ``passed_ms``: those that passed meanwhile, as a median. ``held``: all were right.
    """

    first_ms: list[float]
    later_ms: list[float]
    passed_ms: float
    held: bool


@dataclass(frozen=True, slots=True)
class _Look:
    cpu_ms: float
    passed_ms: float
    right: bool


def blame_costs(name: str, threads: int) -> Costs:
    """Of all that is read for one long park (name, stack, resource, holder) in such a target."""
    script, arguments = TARGETS / "lock_among_many.py", [str(threads)]
    options = {"stdout": subprocess.PIPE, "start_new_session": False}
    process = launch(interpreter(name), script, arguments, **options)
    with going_first(), started(process):
        truth = json.loads(read_line(process, 60))
        pid, tid = process.pid, truth["waiter"]
        wait_until(lambda: procfs.futex_wait(pid, tid)[0], "the waiter in its wait", 20)
        contexts = [TargetContext([inspect(pid)]) for _ in range(FIRSTS)]
        settle()  # as the commands do
        firsts = [_look(context, pid, truth) for context in contexts]
        context = contexts[0]
        later = [_look(context, pid, truth) for _ in range(REPEATS)]
    return Costs(
        first_ms=[one.cpu_ms for one in firsts],
        later_ms=[one.cpu_ms for one in later],
        passed_ms=statistics.median(one.passed_ms for one in later),
        held=all(one.right for one in (*firsts, *later)),
    )


def _look(context: TargetContext, pid: int, truth: dict[str, int]) -> _Look:
    began, cpu = time.perf_counter(), time.process_time()
    found = context.describe(pid, truth["waiter"], 0, ParkedAt("lock", 0))
    cpu_ms = (time.process_time() - cpu) * 1000
    passed_ms = (time.perf_counter() - began) * 1000
    holder = found.blame and found.blame.holder
    return _Look(cpu_ms, passed_ms, bool(holder and holder.tid == truth["holder"]))
