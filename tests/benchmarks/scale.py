"""What the tracer itself takes: memory, processor time, time per scan, parks per second."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from collector.parks import ParkDetector
from probes.wire import PAYLOAD, RECORD, Kind, RunState, WaitClass
from tests.benchmarks.quiet import going_first
from tests.benchmarks.startup import idle_target
from tests.benchmarks.tools import parkscope_process
from tests.processes import wait_until
from tracer.backends import Options, TargetPlan
from tracer.backends.bcc.source import BccSource
from tracer.target import inspect

IDLE_S = 15.0
_SETTLED_S = 4.0
_POLL_NS = 100_000_000
_FUTEX = 202


@dataclass(frozen=True, slots=True)
class Footprint:
    """Of the tracer's process: resident memory (steady, highest) and share of a core."""

    rss_mb: float
    highest_mb: float
    core: float


def footprint(threads: int) -> Footprint:
    """Of ``parkscope record`` on a target with so many idle threads, once it has settled."""
    with going_first(), idle_target(threads) as pid, parkscope_process(pid) as tracer:
        time.sleep(_SETTLED_S)
        before, began = cpu_ns(tracer.pid), time.monotonic_ns()
        time.sleep(IDLE_S)
        core = (cpu_ns(tracer.pid) - before) / (time.monotonic_ns() - began)
        return Footprint(_status_mb(tracer.pid, "VmRSS"), _status_mb(tracer.pid, "VmHWM"), core)


def cpu_ns(pid: int) -> int:
    """Processor time that all threads of a process have used (they are not expected to end)."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)


def _status_mb(pid: int, field: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise ValueError(f"no {field} in the status of {pid}")


@contextmanager
def _scanned(pid: int) -> Iterator[BccSource]:
    with closing(BccSource([TargetPlan(inspect(pid))], Options())) as source:
        yield source


def scan_costs_ms(threads: int, scans: int = 10) -> list[float]:
    """What passes over so many threads took, by the source's own SCAN records."""
    costs: list[float] = []

    def enough() -> bool:
        records = np.frombuffer(source.poll(_POLL_NS).raw, RECORD)
        seen = records[records["kind"] == Kind.SCAN].view(PAYLOAD[Kind.SCAN])
        costs.extend((seen["cost_ns"][seen["threads"] >= threads] / 1e6).tolist())
        return len(costs) >= scans

    with going_first(), idle_target(threads) as pid, _scanned(pid) as source:
        wait_until(enough, f"{scans} scans of {threads} threads", 60)
    return costs[:scans]


def detector_rate(parks: int = 2_000_000, threads: int = 1000, batch: int = 8192) -> float:
    """Complete slow-path waits per second through the detector, rows of parks coming out."""
    waits = np.zeros(batch, PAYLOAD[Kind.WAIT])
    waits["kind"], waits["pid"], waits["wait_class"] = Kind.WAIT, 1, WaitClass.LOCK
    waits["tid"] = 1 + np.arange(batch) % threads
    waits["duration_ns"], waits["slices"] = 2_000_000, 1
    detector = ParkDetector(200_000_000, 1_000_000)
    done, spent_ns, now_ns = 0, 0, 10**12
    while done < parks:
        waits["ts_ns"] = now_ns + np.arange(batch) * 300
        waits["start_ns"] = waits["ts_ns"] - waits["duration_ns"]
        now_ns = int(waits["ts_ns"][-1]) + 3_000_000
        began = time.thread_time_ns()
        detector.feed(waits.view(RECORD))
        detector.advance(now_ns)
        rows = detector.take().parks()
        spent_ns += time.thread_time_ns() - began
        if len(rows) != batch:
            raise AssertionError(f"{len(rows)} parks of {batch} waits")
        done += batch
    return done * 1e9 / spent_ns


def scanned_park_rate(parks: int = 20_000, threads: int = 100) -> float:
    """Parks per second that only the scan saw: one state and one wake-up each."""
    states = np.zeros(threads, PAYLOAD[Kind.THREAD_STATE])
    states["kind"], states["pid"], states["syscall"] = Kind.THREAD_STATE, 1, _FUTEX
    states["state"], states["tid"] = RunState.SLEEPING, 1 + np.arange(threads)
    wakes = np.zeros(threads, PAYLOAD[Kind.WAKE])
    wakes["kind"], wakes["pid"], wakes["tid"] = Kind.WAKE, 1, states["tid"]
    detector = ParkDetector(200_000_000, 1_000_000)
    done, spent_ns, now_ns = 0, 0, 10**12
    while done < parks:
        states["since_ns"], states["ts_ns"] = now_ns, now_ns + 20_000_000
        wakes["since_ns"], wakes["ts_ns"] = now_ns, now_ns + 50_000_000
        now_ns += 100_000_000
        records = np.concatenate((states.view(RECORD), wakes.view(RECORD)))
        began = time.thread_time_ns()
        detector.feed(records)
        detector.advance(now_ns)
        detector.take()
        spent_ns += time.thread_time_ns() - began
        done += threads
    return done * 1e9 / spent_ns


def spread(values: list[float]) -> str:
    """Extremes and count, for a note."""
    return f"median of {len(values)}: {min(values):.2f} to {max(values):.2f}"


def median(values: list[float]) -> float:
    """The figure."""
    return statistics.median(values)
