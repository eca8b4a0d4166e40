"""A real flood: a C program whose probed function makes records faster than any target.

What is measured is the product's: its programs' ``ps_reserve``, its ring, its source,
its decoder. Only the program that makes the records and its target are of the test.
"""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import probes
from collector.decode import decode
from probes.spec import CostClass, Hook, ProbeSpec, Program
from probes.wire import Kind
from tests.benchmarks.quiet import going_first, last_cpu, waited_ns
from tests.full import NotMeasured
from tests.processes import read_line, started
from tracer.backends import Options, TargetPlan
from tracer.backends.bcc import syscalls
from tracer.backends.bcc.addon import NOTHING, Addon, Harvest
from tracer.backends.bcc.budget import Budget
from tracer.backends.bcc.load import Kernel
from tracer.backends.bcc.source import BccSource
from tracer.target import inspect

HERE = Path(__file__).parent
_PROBES = Path(probes.__file__).parent
BURST = 8
"""Records per hit: a hit alone costs as much time as five of them."""
_QUIET_POLL_NS = 20_000_000

SPEC = ProbeSpec(
    name=os.path.relpath(HERE, _PROBES),
    summary="a flood of records, for a benchmark",
    source="flood.bpf.c",
    programs=(Program("ps_flood", Hook.UPROBE),),
    records=(Kind.WAIT,),
    cost=CostClass.C,
)


class _Producer:
    """The running C program; it spins on the machine's last CPU."""

    def __init__(self, process: subprocess.Popen[bytes], offset: int) -> None:
        self._process = process
        self.pid = process.pid
        self.offset = offset

    def start(self, calls: int, pace_ns: int) -> None:
        """Have it make so many calls, one every ``pace_ns`` (0: as fast as it can)."""
        if self._process.stdin is not None:
            self._process.stdin.write(f"{calls} {pace_ns}\n".encode())
            self._process.stdin.flush()

    def done(self) -> bool:
        """Whether it has made them all."""
        stdout = self._process.stdout
        return stdout is None or bool(select.select([stdout], [], [], 0)[0])

    def finish(self) -> tuple[int, int]:
        """Calls made and the nanoseconds they took; waits for the end."""
        calls, took_ns = read_line(self._process, 120).split()
        return int(calls), int(took_ns)


@contextmanager
def producer() -> Iterator[_Producer]:
    """Compile and start it. Raises NotMeasured without a C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise NotMeasured("no C compiler (apt install gcc libc6-dev)")
    with tempfile.TemporaryDirectory() as folder, going_first():
        program = f"{folder}/producer"
        command = [compiler, "-O2", "-o", program, str(HERE / "producer.c")]
        subprocess.run(command, check=True, capture_output=True)
        process = subprocess.Popen(
            [program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        with started(process):
            os.sched_setaffinity(process.pid, last_cpu())
            word, offset = read_line(process).split()
            if word != "ready":
                raise NotMeasured("the producer did not start")
            yield _Producer(process, int(offset))


class _Flood:
    """The addon that brings the flooding program into the product's source."""

    def __init__(self, target: _Producer) -> None:
        self.specs: Sequence[ProbeSpec] = (SPEC,)
        self.maps: Sequence[str] = ()
        self._target = target
        self._programs: Mapping[str, int] = {}
        self._link: int | None = None

    def defines(self) -> Mapping[str, int]:
        return {"PS_FLOOD_BURST": BURST}

    def plan(self, plans: Sequence[TargetPlan]) -> None:
        """Its site is known."""

    def prepare(self, kernel: Kernel, budget: Budget) -> None:
        if refused := kernel.refused.get("ps_flood"):
            raise NotMeasured(f"the kernel refuses the flooding program: {refused}")
        self._programs = kernel.programs

    def arm(self, now_ns: int) -> Harvest:
        pid = self._target.pid
        self._link = syscalls.link_uprobe_multi(
            self._programs["ps_flood"], f"/proc/{pid}/exe", [self._target.offset], [0], pid=pid
        )
        return NOTHING

    def retarget(self, plan: TargetPlan) -> Harvest:
        return NOTHING

    def gone(self, pid: int) -> None:
        """It ends with the test."""

    def on_scan(self, now_ns: int) -> Harvest:
        return NOTHING

    def last(self, _now_ns: int) -> Harvest:
        return NOTHING

    def close(self) -> None:
        if self._link is not None:
            os.close(self._link)
            self._link = None


@dataclass(slots=True)
class Outcome:
    """One flood: records as the producer, the programs and the consumer counted them."""

    made: int = 0
    emitted: int = 0
    received: int = 0
    dropped: int = 0
    producer_ns: int = 0
    consumer_cpu_ns: int = 0
    consumer_waited_ns: int = 0

    @property
    def rate(self) -> float:
        """Records per second that the producer made."""
        return self.made * 1e9 / self.producer_ns

    @property
    def core(self) -> float:
        """Share of a core that draining and decoding took while the flood lasted."""
        return self.consumer_cpu_ns / self.producer_ns

    @property
    def exact(self) -> bool:
        """Whether every record that was made was received or counted as dropped."""
        return self.made == self.emitted == self.received + self.dropped


@contextmanager
def flooded_source(target: _Producer, ring_pages: int | None = None) -> Iterator[BccSource]:
    """The product's source, attached to the producer."""

    def flood(_options: Options) -> Addon:
        return _Flood(target)

    size = {} if ring_pages is None else {"ring_pages": ring_pages}
    plan = TargetPlan(inspect(target.pid))
    source = BccSource([plan], Options(alloc=False, slow_path=False), addons=(flood,), **size)
    try:
        yield source
    finally:
        source.close()


def flood(
    target: _Producer, source: BccSource, calls: int, pace_ns: int, *, pause_ns: int = 0
) -> Outcome:
    """Let the producer make ``calls`` hits while the source is drained and decoded.

    ``pause_ns``: the consumer sleeps so long between polls, to be overloaded.
    """
    outcome = Outcome()
    before = source.emitted().get(Kind.WAIT, 0)
    _take(source, outcome, 0)
    outcome.received = outcome.dropped = 0
    target.start(calls, pace_ns)
    cpu_ns, ready_ns = time.thread_time_ns(), waited_ns()
    while not target.done():
        _take(source, outcome, _QUIET_POLL_NS)
        if pause_ns:
            time.sleep(pause_ns / 1e9)
    outcome.consumer_cpu_ns = time.thread_time_ns() - cpu_ns
    outcome.consumer_waited_ns = waited_ns() - ready_ns
    made, outcome.producer_ns = target.finish()
    outcome.made = made * BURST
    while _take(source, outcome, 2 * _QUIET_POLL_NS):
        pass  # what the ring still holds
    outcome.emitted = source.emitted().get(Kind.WAIT, 0) - before
    return outcome


def _take(source: BccSource, outcome: Outcome, timeout_ns: int) -> int:
    """Poll once, and again until drops are told too; how many waits came."""
    batch = source.poll(timeout_ns)
    records = decode(batch.raw).records
    waits = int((records["kind"] == Kind.WAIT).sum())
    outcome.received += waits
    outcome.dropped += batch.dropped.get(Kind.WAIT, 0)
    return waits
