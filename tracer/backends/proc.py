"""The backend without privileges: samples of /proc, for same-user ptrace rights.

It runs where eBPF is not allowed and yields the same records, with the accuracy of
its sampling: the begin of a sleep is the first pass that saw it (flag COARSE), its
end lies between two passes. Passes are as frequent as a fixed small share of one
core allows; a process whose CPU clock stands still is not looked at at all.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from collector.events import Event
from collector.source import Batch, SourceInfo
from probes.errors import PermissionDenied, TargetGone
from probes.wire import PAYLOAD, Flag, Kind, make
from tracer.backends import Options, TargetPlan
from tracer.backends.proc_files import FileBudget
from tracer.backends.proc_process import Look, SampledProcess, WaitFile
from tracer.backends.scan import (
    NEWS_AFTER_NS,
    SPACING_NS,
    DeltaFilter,
    is_blocked,
)

SHARE = 0.04
"""Of one core: what passes may cost on average while the targets are busy. They are
spaced accordingly."""

STILL_PERIOD_NS = 10_000_000
"""No pass is needed sooner while nothing at all runs: waking up itself costs most then."""

CROSSING_SHARE = 0.1
"""What they may cost when a thread is just about to cross the threshold."""

NEVER_NS = 1 << 62
_CHILDREN_PERIOD_NS = 100_000_000
_LATE_NS = 2_000_000
"""What a pass itself may take; part of the stated accuracy."""
_GAPS = 1000


def available() -> str | None:
    """Why /proc cannot be sampled here; None when it can."""
    if not Path("/proc/self/task").is_dir():
        return "/proc is not mounted"
    if not any(Path("/proc/self", wait.value).exists() for wait in WaitFile):
        return "this kernel's /proc has neither 'syscall' nor 'wchan'"
    return None


class ProcSource:
    """A ``RecordSource`` over one or more live processes.

    Raises PermissionDenied when a target's waits may not be read at all, TargetGone.
    """

    def __init__(self, targets: Sequence[TargetPlan], options: Options) -> None:
        self._options = options
        self._budget = FileBudget.of_this_process()
        self._processes: dict[int, SampledProcess] = {}
        self._period_ns = SPACING_NS
        self._gaps_ns: deque[int] = deque(maxlen=_GAPS)
        self._cost_ns = 0.0
        self._events: list[Event] = []
        self._records: list[npt.NDArray[Any]] = []
        self._scanned = False
        self._last_cost_ns = 0
        self._samples = np.empty(0, PAYLOAD[Kind.THREAD_STATE])
        self._tell_ns = 0
        self._pass_ns = 0
        self._crossing_ns = NEVER_NS
        self._children_ns = 0
        self._filter = DeltaFilter()
        try:
            for plan in targets:
                self._follow(plan.target.pid, plan.gil_ranges)
            first_ns = time.monotonic_ns()
            # Whoever is asleep in the first pass fell asleep before it.
            self._filter = DeltaFilter(NEWS_AFTER_NS, armed_ns=first_ns + 1)
            self._pass(first_ns)
            for process in self._processes.values():
                process.new_children()  # those that are older than the attach
        except BaseException:
            self.close()
            raise

    @property
    def info(self) -> SourceInfo:
        """What this backend is.

        The accuracy is that of the latest passes; many busy threads make it worse.
        """
        error_ns = max(STILL_PERIOD_NS, self._period_ns, self._usual_gap_ns()) + _LATE_NS
        files = sorted({process.wait_file.value for process in self._processes.values()})
        why = "samples /proc; no eBPF"
        if WaitFile.WCHAN.value in files:
            why += "; system calls may not be read (ptrace_scope?): kinds are guessed from wchan"
        return SourceInfo(
            backend="proc",
            why=why,
            start_error_ns=error_ns,
            end_error_ns=error_ns,
            missed_below_ns=NEWS_AFTER_NS + 2 * error_ns,
            probes=tuple(f"/proc/PID/task/TID/{name}" for name in files),
        )

    def poll(self, timeout_ns: int) -> Batch:
        """Sample until there is news, a park may have crossed, or time is over.

        A poll that may not wait samples in any case: the collector asks that way
        whether a thread still held still while its stack was being read.
        """
        if not self._processes and not self._records:
            return Batch(time.monotonic_ns(), done=True)
        if timeout_ns == 0 and not self._scanned:
            self._pass(time.monotonic_ns())
        until_ns = time.monotonic_ns() + timeout_ns
        while not self._records and not self._events:
            due_ns = self._next_pass_ns()
            _sleep_until(min(due_ns, until_ns))
            now_ns = time.monotonic_ns()
            if now_ns >= due_ns:
                crossing_ns = self._crossing_ns
                self._pass(now_ns)
                if now_ns >= crossing_ns:
                    break  # the collector waits for this pass to confirm the park
            if now_ns >= until_ns:
                break
        return self._batch()

    def retarget(self, plan: TargetPlan) -> None:
        """Use the GIL's addresses of an interpreter that has come up by now."""
        process = self._processes.get(plan.target.pid)
        if process is not None:
            process.gil_ranges = plan.gil_ranges

    def stopping(self, pid: int, until_ns: int) -> None:
        """A heap dump stops that process's threads at some moment until then."""
        process = self._processes.get(pid)
        if process is not None:
            process.stopped_until_ns = until_ns

    def close(self) -> None:
        """Close all files."""
        for process in self._processes.values():
            process.close()
        self._processes.clear()

    # -- passes ---------------------------------------------------------------------

    def _follow(self, pid: int, gil_ranges: tuple[tuple[int, int], ...]) -> None:
        process = SampledProcess(pid, gil_ranges, self._options.long_park_ns, self._budget)
        self._processes[pid] = process
        if process.wait_file is WaitFile.WCHAN:
            why = f"/proc/{pid}/syscall may not be read: kinds are guessed from wchan"
            data = {"probe": "syscall", "why": why}
            self._events.append(Event("probe_failed", time.monotonic_ns(), pid=pid, data=data))

    def _pass(self, now_ns: int) -> None:
        began_ns = time.thread_time_ns()
        first, active = self._pass_ns == 0, False
        news = now_ns >= self._tell_ns
        for pid, process in list(self._processes.items()):
            look = process.look(now_ns)
            news |= look.news
            active |= look.active
            if look.asleep:
                self._tell_ns = min(self._tell_ns, now_ns + NEWS_AFTER_NS)
            self._take(pid, look, now_ns)
        if self._options.follow and now_ns >= self._children_ns:
            self._children_ns = now_ns + _CHILDREN_PERIOD_NS
            self._take_children(now_ns)
        if news or self._crossing_ns <= now_ns:
            self._tell_news(now_ns)
        before_ns, self._pass_ns, self._scanned = self._pass_ns, now_ns, True
        self._last_cost_ns = time.thread_time_ns() - began_ns
        if not first:  # which opens all files
            self._gaps_ns.append(now_ns - before_ns)
            self._cost_ns += (self._last_cost_ns - self._cost_ns) / 8
        least_ns = SPACING_NS if active else STILL_PERIOD_NS
        self._period_ns = max(least_ns, int(self._cost_ns / SHARE))

    def _usual_gap_ns(self) -> int:
        """The 99th percentile of the time between passes; the machine may be busy."""
        gaps = sorted(self._gaps_ns)
        return gaps[len(gaps) * 99 // 100] if gaps else 0

    def _next_pass_ns(self) -> int:
        """At the next crossing, or after the period; never sooner than the cost allows."""
        soonest_ns = self._pass_ns + min(self._period_ns, int(self._last_cost_ns / CROSSING_SHARE))
        return max(soonest_ns, min(self._pass_ns + self._period_ns, self._crossing_ns))

    def _take(self, pid: int, look: Look, now_ns: int) -> None:
        self._records += look.records
        if look.gone:
            process = self._processes.pop(pid)
            self._records.append(
                make(
                    Kind.PROC_EXIT,
                    ts_ns=now_ns,
                    pid=pid,
                    tid=pid,
                    flags=Flag.INFERRED,
                    exit_code=process.exit_status,
                )
            )
            process.close()
            self._filter.forget(pid)

    def _take_children(self, now_ns: int) -> None:
        for pid, process in list(self._processes.items()):
            for tid, child in process.new_children():
                if child in self._processes:
                    continue
                with suppress(TargetGone, PermissionDenied):
                    # The child of a fork has the same memory, so the same GIL.
                    self._follow(child, process.gil_ranges)
                self._records.append(
                    make(
                        Kind.PROC_FORK,
                        ts_ns=now_ns,
                        pid=pid,
                        tid=tid,
                        flags=Flag.INFERRED,
                        parent_pid=pid,
                        parent_tid=tid,
                        child_pid=child,
                    )
                )

    def _tell_news(self, now_ns: int) -> None:
        parts = [process.samples(now_ns) for process in self._processes.values()]
        self._samples = np.concatenate(parts) if parts else self._samples[:0]
        news = self._filter.news(self._samples, now_ns)
        if len(news):
            self._records.append(news)
        since = self._samples["since_ns"][is_blocked(self._samples)]
        young = since[since + np.uint64(NEWS_AFTER_NS) > now_ns]
        self._tell_ns = int(young.min()) + NEWS_AFTER_NS if len(young) else NEVER_NS
        crossings = since + np.uint64(self._options.long_park_ns)
        ahead = crossings[crossings > now_ns]
        self._crossing_ns = int(ahead.min()) if len(ahead) else NEVER_NS

    def _batch(self) -> Batch:
        if self._scanned:
            self._records.append(
                make(
                    Kind.SCAN,
                    ts_ns=self._pass_ns,
                    threads=len(self._samples),
                    blocked=int(is_blocked(self._samples).sum()),
                    cost_ns=self._last_cost_ns,
                    period_ns=self._period_ns,
                )
            )
        raw = np.concatenate(self._records) if self._records else b""
        events = tuple(self._events)
        self._records, self._events, self._scanned = [], [], False
        return Batch(time.monotonic_ns(), raw, events=events, done=not self._processes)


def _sleep_until(deadline_ns: int) -> None:
    left_ns = deadline_ns - time.monotonic_ns()
    if left_ns > 0:
        time.sleep(left_ns / 1e9)
