"""SIGKILL of the tracer at random moments: what the target notices, and what stays behind."""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tests.benchmarks import kernel
from tests.benchmarks.pairs import TARGETS, interpreter
from tests.benchmarks.quiet import last_cpu
from tests.benchmarks.startup import idle_target
from tests.benchmarks.tools import parkscope_process
from tests.interpreters import launch
from tests.processes import read_line, started, wait_ready

KILLS = 50
GONE_S = 0.5
_LATEST_S = 0.6
"""The kill comes so long after everything was armed at the latest."""
STALL_NS = 50_000_000
_TEXT = ("libc.so.6", "libpython", "python")


@dataclass(frozen=True, slots=True)
class Noticed:
    """What the target saw of one period."""

    seconds: float
    rounds: int
    longest_ns: int
    waits: int

    @property
    def rate(self) -> float:
        """Rounds of its loop per second."""
        return self.rounds / self.seconds


@dataclass(slots=True)
class Verdict:
    """All periods, with a kill of its tracer or of a bystander's; and what was left behind."""

    killed: list[Noticed] = field(default_factory=list)
    control: list[Noticed] = field(default_factory=list)
    probed_bytes: list[int] = field(default_factory=list)
    left_bytes: list[int] = field(default_factory=list)
    left_links: list[int] = field(default_factory=list)
    left_programs: list[int] = field(default_factory=list)
    crashed: bool = False

    def stalls(self) -> int:
        """Killed periods with a gap that no control period comes near to."""
        limit = max(STALL_NS, 2 * max(one.longest_ns for one in self.control))
        stuck = sum(one.waits == 0 for one in self.killed)
        return stuck + sum(one.longest_ns > limit for one in self.killed)

    def note(self) -> str:
        """The longest gaps and the paces of both."""
        return (
            f"longest gap {_longest(self.killed):.1f} ms, control {_longest(self.control):.1f} ms; "
            f"median of longest {_typical(self.killed):.1f} ms, control "
            f"{_typical(self.control):.1f} ms; pace {_pace(self.killed) / _pace(self.control):.3f}"
        )


def _longest(periods: list[Noticed]) -> float:
    return max(one.longest_ns for one in periods) / 1e6


def _typical(periods: list[Noticed]) -> float:
    return statistics.median(one.longest_ns for one in periods) / 1e6


def _pace(periods: list[Noticed]) -> float:
    return statistics.median(one.rate for one in periods)


class _Target:
    """The steady loop."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.pid = process.pid
        self._asked = time.monotonic()

    def alive(self) -> bool:
        return self._process.poll() is None

    def noticed(self) -> Noticed:
        """What it saw since the last call."""
        if self._process.stdin is None:
            raise ValueError("started without stdin=PIPE")
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()
        answer = json.loads(read_line(self._process, 60))
        before, self._asked = self._asked, time.monotonic()
        return Noticed(self._asked - before, **answer)


@contextmanager
def _target() -> Iterator[_Target]:
    # Not before everybody else: the kernel's own threads, which take the probes out, wait too.
    process = launch(
        interpreter("pyenv-3.11", "system-3.11"),
        TARGETS / "steady_loop.py",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=False,  # one group for the scheduler, with the tracers
    )
    with started(process):
        os.sched_setaffinity(process.pid, last_cpu())
        wait_ready(process)
        yield _Target(process)


def kill_often(times: int = KILLS, seed: int = 0) -> Verdict:
    """Attach and kill so many times, in turn with control periods.

    In a control period the same is done to a bystander: the machine has the same to
    do, and the target is not attached to.
    """
    chance, verdict = random.Random(seed), Verdict()
    with _target() as target, idle_target(3) as bystander:
        target.noticed()
        for _ in range(times):
            after_s = chance.uniform(0, _LATEST_S)
            _kill_once(target.pid, after_s, verdict)
            verdict.killed.append(target.noticed())
            _kill_once(bystander, after_s, Verdict())
            verdict.control.append(target.noticed())
            if not target.alive():
                verdict.crashed = True
                break
    return verdict


def _kill_once(pid: int, after_s: float, verdict: Verdict) -> None:
    with parkscope_process(pid) as tracer:
        time.sleep(after_s)
        links = kernel.held_by(tracer.pid, "link_id")
        programs = kernel.held_by(tracer.pid, "prog_id")
        verdict.probed_bytes.append(changed_bytes(pid))
        tracer.kill()
        time.sleep(GONE_S)
        verdict.left_bytes.append(changed_bytes(pid))
        verdict.left_links.append(len(links & kernel.links()))
        verdict.left_programs.append(len(programs & kernel.programs()))


def changed_bytes(pid: int) -> int:
    """How many bytes of the interpreter's and libc's code in memory are not those of the file."""
    changed = 0
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, rights, offset, _, _, *name = line.split(maxsplit=5)
            if not name or "x" not in rights or not _is_code_of_interest(name[0]):
                continue
            start, end = (int(number, 16) for number in span.split("-"))
            memory.seek(start)
            now = np.frombuffer(memory.read(end - start), np.uint8)
            was = np.fromfile(name[0], np.uint8, end - start, offset=int(offset, 16))
            length = min(len(now), len(was))
            changed += int((now[:length] != was[:length]).sum())
    return changed


def _is_code_of_interest(path: str) -> bool:
    return any(word in path.rpartition("/")[2] for word in _TEXT)
