"""Attached ÷ unattached: alternating pairs in one target, with a control and an interval.

A machine that others use too is slower or faster from one second to the next, by more
than what is measured here. So each ratio is of two slices of work that follow each
other in the same process, the order alternates from pair to pair, and control pairs
(nothing is attached in either half, the same pauses are made) run in between: what
they show besides 1 is the machine's, not the tool's.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.benchmarks.quiet import going_first, last_cpu
from tests.full import NotMeasured
from tests.interpreters import Interpreter, interpreters, launch
from tests.processes import read_line, started, wait_ready

PAIRS = 7
SLICE_S = 2.4
PARTS = 8
_SETTLE_S = 0.4
_LOOK_S = 0.25
TARGETS = Path(__file__).resolve().parents[1] / "targets"

Attach = Callable[[int], AbstractContextManager[object]]
"""Attaches a tool to a PID; ready when entered, gone when left."""


@dataclass(frozen=True, slots=True)
class Slice:
    """Work done in some time."""

    work: int
    wall_ns: int
    cpu_ns: int

    @property
    def rate(self) -> float:
        """Operations per second."""
        return self.work * 1e9 / self.wall_ns

    @property
    def rate_per_cpu(self) -> float:
        """Operations per second of CPU time: others' share of the machine is left out."""
        return self.work * 1e9 / self.cpu_ns


class Workload:
    """A running target that works when told to."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.pid = process.pid

    def work(self, seconds: float) -> Slice:
        """Do the work for so long."""
        stdin = self._process.stdin
        if stdin is None:
            raise ValueError("started without stdin=PIPE")
        stdin.write(f"{seconds}\n".encode())
        stdin.flush()
        answer = json.loads(read_line(self._process, seconds + 60))
        return Slice(answer["work"], answer["wall_ns"], answer["cpu_ns"])


def interpreter(*names: str) -> Interpreter:
    """The first of ``names`` (ids of ``tests.interpreters``) that is here."""
    here = {one.id: one for one in interpreters()}
    for name in names or ("pyenv-3.11", "system-3.11", "pyenv-3.12"):
        if name in here:
            return here[name]
    raise NotMeasured(f"no interpreter {' or '.join(names) or 'of 3.11 or 3.12'} is here")


@contextmanager
def workload(interpreter: Interpreter, name: str) -> Iterator[Workload]:
    """``tests/targets/workload.py NAME``, warmed up, on the machine's last CPU.

    One CPU: threads that wake each other run at the same pace each time, wherever
    the scheduler would have put them; tools are free to use the others.
    """
    with going_first():
        process = launch(
            interpreter,
            TARGETS / "workload.py",
            [name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=False,
        )
        with started(process):
            os.sched_setaffinity(process.pid, last_cpu())
            wait_ready(process)
            target = Workload(process)
            target.work(SLICE_S / 2)
            yield target


@dataclass(slots=True)
class Ratios:
    """What the pairs gave: attached ÷ unattached, and the same of control pairs."""

    rate: list[float] = field(default_factory=list)
    per_cpu: list[float] = field(default_factory=list)
    control: list[float] = field(default_factory=list)
    control_per_cpu: list[float] = field(default_factory=list)
    base: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """The figure: median of attached ÷ unattached throughput."""
        return statistics.median(self.rate)

    def note(self) -> str:
        """Intervals, control, the figure per CPU-second, and how even the baseline was."""
        low, high = interval(self.rate)
        text = f"[{low:.3f}, {high:.3f}]"
        text += f", per CPU-s {statistics.median(self.per_cpu):.3f}"
        if self.control:
            low, high = interval(self.control)
            text += f"; A/A {statistics.median(self.control):.3f} [{low:.3f}, {high:.3f}]"
            text += f", per CPU-s {statistics.median(self.control_per_cpu):.3f}"
        spread = statistics.pstdev(self.base) / statistics.mean(self.base)
        return f"{text}; {statistics.median(self.base):,.0f}/s ± {spread:.0%}"


def interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Bootstrap interval of the median (fixed seed: the same values give the same one)."""
    chance = random.Random(0)
    medians = sorted(statistics.median(chance.choices(values, k=len(values))) for _ in range(2000))
    cut = round((1 - level) / 2 * len(medians))
    return medians[cut], medians[-cut - 1]


@contextmanager
def nothing(_pid: int) -> Iterator[None]:
    """The control: attaches nothing."""
    yield


def measure_pairs(
    target: Workload,
    attach: Attach,
    *,
    pairs: int = PAIRS,
    seconds: float = SLICE_S,
    control: bool = True,
) -> Ratios:
    """Alternating pairs; raises NotMeasured when the baseline itself is not sane."""
    ratios = Ratios()
    for number in range(pairs):
        first = number % 2 == 0
        plain, attached = _pair(target, attach, seconds, first)
        ratios.rate.append(attached.rate / plain.rate)
        ratios.per_cpu.append(attached.rate_per_cpu / plain.rate_per_cpu)
        ratios.base.append(plain.rate)
        if control:
            plain, other = _pair(target, nothing, seconds, first)
            ratios.control.append(other.rate / plain.rate)
            ratios.control_per_cpu.append(other.rate_per_cpu / plain.rate_per_cpu)
            ratios.base.append(plain.rate)
    if max(ratios.base) > 20 * min(ratios.base):
        raise NotMeasured(f"the unattached target did {min(ratios.base):.0f}/s to "
                          f"{max(ratios.base):.0f}/s: not a baseline")  # fmt: skip
    return ratios


def _pair(
    target: Workload, attach: Attach, seconds: float, plain_first: bool
) -> tuple[Slice, Slice]:
    """(unattached, attached) in either order, each once it has settled."""
    before = _settled(target, seconds) if plain_first else None
    with attach(target.pid):
        attached = _settled(target, seconds)
    return before or _settled(target, seconds), attached


def _settled(target: Workload, seconds: float) -> Slice:
    """A slice after some work that does not count: coming and going is not what is asked.

    In parts, each with threads of its own: in which order they happen to wake each
    other decides some percent, for as long as they live.
    """
    target.work(_SETTLE_S)
    parts = [target.work(seconds / PARTS) for _ in range(PARTS)]
    return Slice(
        sum(part.work for part in parts),
        sum(part.wall_ns for part in parts),
        sum(part.cpu_ns for part in parts),
    )


@dataclass(slots=True)
class Switches:
    """How often per second a process's threads gave the CPU away by themselves."""

    per_second: float = 0.0


@contextmanager
def counted_switches(pid: int) -> Iterator[Switches]:
    """Count them while this lasts.

    A thread takes its own count along when it ends, so the count is of the threads
    that are there in the middle of it.
    """
    result = Switches()
    stop = threading.Event()

    def look() -> None:
        first, began, rates = _voluntary(pid), time.monotonic(), []
        while not stop.wait(_LOOK_S):
            now, passed = _voluntary(pid), time.monotonic() - began
            both = first.keys() & now.keys()
            rates.append(sum(now[tid] - first[tid] for tid in both) / passed)
            first, began = now, began + passed
        result.per_second = statistics.median(rates) if rates else 0.0

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield result
    finally:
        stop.set()
        watcher.join()


def _voluntary(pid: int) -> dict[str, int]:
    counts = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):
            for line in (task / "status").read_text().splitlines():
                if line.startswith("voluntary_ctxt_switches:"):
                    counts[task.name] = int(line.split()[1])
    return counts
