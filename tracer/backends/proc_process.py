"""One process as samples of its threads, taken from /proc."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from probes.errors import PermissionDenied, TargetGone
from probes.kinds import FUTEX, PTRACE
from probes.wire import PAYLOAD, Flag, Kind, RunState, make
from tracer.backends.proc_files import (
    FileBudget,
    Stat,
    ThreadFiles,
    ThreadGone,
    parse_stat,
    parse_switches,
    parse_syscall,
    process_cpu_ns,
    syscall_of_wchan,
)
from tracer.backends.scan import NEWS_AFTER_NS

_SAMPLE = PAYLOAD[Kind.THREAD_STATE]
_BLOCKED = (RunState.SLEEPING, RunState.DISK_SLEEP)
_NO_STAT = Stat(RunState.DEAD, 0, (b"", b""), 0)
_TRIES = 3
_AFTER_GIL_NS = 50_000_000


class WaitFile(Enum):
    """Which file tells what a thread waits in."""

    SYSCALL = "syscall"
    WCHAN = "wchan"


@dataclass(slots=True)
class _Thread:
    """What was last seen of a thread. ``mark`` changes whenever it runs."""

    files: ThreadFiles
    mark: bytes = b""
    cpu_ns: int = 0
    state: int = RunState.RUNNING
    since_ns: int = 0
    call: tuple[int, int, int] = (-1, 0, 0)
    gil: bool = False
    stat: Stat = _NO_STAT

    @property
    def blocked(self) -> bool:
        return self.state in _BLOCKED


@dataclass(slots=True)
class Look:
    """What one pass over a process found out besides the samples.

    ``records``: wake-ups, starts, program changes (dtype ``RECORD``). ``news``: a
    sleep worth telling has ended, a thread has gone or waits for the GIL.
    ``asleep``: a thread has fallen asleep, which is worth telling if it lasts.
    ``active``: some thread has run at all.
    """

    active: bool = False
    news: bool = False
    asleep: bool = False
    records: list[npt.NDArray[Any]] = field(default_factory=list)
    gone: bool = False


class SampledProcess:
    """Samples one process.

    A thread whose ``schedstat`` (CPU time, run-queue delay, number of turns on a
    CPU) has not changed since the last pass still is in the same sleep; one that
    has changed has run in between, so both the end of the old sleep and the begin
    of the new one lie between the two passes. The latest possible moment is taken
    for either: the CPU time that was used in between comes after the end. But a sleep
    is not called long that may not have been: then the earliest end is taken.

    Raises PermissionDenied when nothing tells what threads wait in, TargetGone.
    """

    def __init__(
        self,
        pid: int,
        gil_ranges: tuple[tuple[int, int], ...],
        long_park_ns: int,
        budget: FileBudget,
    ) -> None:
        self.pid = pid
        self.gil_ranges = gil_ranges
        self.wait_file = _wait_file(pid)
        self._long_park_ns = long_park_ns
        self._budget = budget
        self._threads: dict[int, _Thread] = {}
        self._links = -1
        self._cpu_ns = -1
        self._pass_ns = 0
        self._gil_until_ns = 0
        self._children: set[int] = set()
        self._mark_file = mark_file()
        self.stopped_until_ns = 0
        """Until then a tracer may stop all threads: that they ran ends no wait."""

    @property
    def threads(self) -> int:
        """How many threads the last pass saw."""
        return len(self._threads)

    @property
    def exit_status(self) -> int:
        """The wait(2) status of a process that has ended but was not reaped yet, else 0."""
        with suppress(OSError, ValueError, IndexError):
            stat = parse_stat(Path(f"/proc/{self.pid}/stat").read_bytes())
            return stat.exit_status if stat.over else 0
        return 0

    def look(self, now_ns: int) -> Look:
        """Take a pass over all threads at ``now_ns``."""
        look = Look()
        try:
            cpu_ns = process_cpu_ns(self.pid)
            if cpu_ns == self._cpu_ns:
                self._pass_ns = now_ns
                return look
            first, look.active = self._cpu_ns < 0, True
            self._cpu_ns = cpu_ns
            self._visit(now_ns, look)
            self._list(now_ns, look, first)
        except ThreadGone:
            look.gone = True
        look.gone |= not self._threads
        look.news |= look.gone or now_ns < self._gil_until_ns
        self._pass_ns = now_ns
        return look

    def samples(self, now_ns: int) -> npt.NDArray[Any]:
        """All threads as of the last pass (``PAYLOAD[THREAD_STATE]``)."""
        rows = [
            (
                now_ns,
                self.pid,
                tid,
                Kind.THREAD_STATE,
                (Flag.GIL if t.gil else 0) | (Flag.COARSE if t.blocked else 0),
                0,
                t.since_ns,
                t.call[1],
                t.call[2],
                t.cpu_ns,
                t.call[0],
                t.state,
                0,
                0,
            )
            for tid, t in self._threads.items()
        ]
        return np.array(rows, _SAMPLE)

    def new_children(self) -> list[tuple[int, int]]:
        """(parent's tid, child's pid) of processes that it has forked since the last call."""
        found = []
        for tid in self._threads:
            with suppress(OSError, ValueError):
                children = Path(f"/proc/{self.pid}/task/{tid}/children").read_bytes()
                found += [(tid, int(word)) for word in children.split()]
        new = [(tid, child) for tid, child in found if child not in self._children]
        self._children = {child for _, child in found}
        return new

    def forget(self) -> None:
        """Another program runs in the process now: its addresses mean something else."""
        self.gil_ranges = ()

    def close(self) -> None:
        """Close all files."""
        for thread in self._threads.values():
            thread.files.close()
        self._threads.clear()

    # -- a pass ---------------------------------------------------------------------

    def _visit(self, now_ns: int, look: Look) -> None:
        gone = []
        for tid, thread in self._threads.items():
            try:
                mark = self._mark(thread)
                if mark != thread.mark:
                    self._update(tid, thread, mark, now_ns, look)
            except ThreadGone:
                gone.append(tid)
        for tid in gone:
            self._threads.pop(tid).files.close()
            look.news = True
            self._links = -1

    def _list(self, now_ns: int, look: Look, first: bool) -> None:
        """Find new threads. The directory's link count is the number of threads plus 2."""
        try:
            links = os.stat(f"/proc/{self.pid}/task").st_nlink
            if links == self._links:
                return
            tids = os.listdir(f"/proc/{self.pid}/task")
        except OSError:
            raise ThreadGone from None
        self._links = links
        for tid in map(int, tids):
            if tid not in self._threads:
                self._add(tid, now_ns, look, first)

    def _add(self, tid: int, now_ns: int, look: Look, first: bool) -> None:
        thread = _Thread(ThreadFiles(self.pid, tid, self._budget))
        try:
            self._update(tid, thread, self._mark(thread), now_ns, look)
        except ThreadGone:
            thread.files.close()
            return
        self._threads[tid] = thread
        if not first:
            look.records.append(
                make(Kind.THREAD_START, ts_ns=now_ns, pid=self.pid, tid=tid, flags=Flag.INFERRED)
            )

    def _update(self, tid: int, thread: _Thread, mark: bytes, now_ns: int, look: Look) -> None:
        """The thread has run since the last pass: see what it does now."""
        was_blocked, was_gil, before_ns = thread.blocked, thread.gil, thread.cpu_ns
        program = thread.stat.program
        self._see(thread, mark)
        ran_ns = max(0, thread.cpu_ns - before_ns)
        latest_ns = max(self._pass_ns, now_ns - ran_ns)
        if tid == self.pid and program not in (thread.stat.program, _NO_STAT.program):
            self.forget()
            look.records.append(
                make(Kind.PROC_EXEC, ts_ns=now_ns, pid=self.pid, tid=tid, flags=Flag.INFERRED)
            )
        elif was_blocked and not was_gil and thread.since_ns + NEWS_AFTER_NS <= self._pass_ns:
            crossing_ns = thread.since_ns + self._long_park_ns
            certain = crossing_ns <= self._pass_ns or crossing_ns > latest_ns
            end_ns = latest_ns if certain else self._pass_ns
            look.records.append(self._wake(tid, end_ns, thread.since_ns))
            look.news = True
        if thread.gil or was_gil:
            # Whether it got the GIL shows only in the CPU time of the passes to come.
            self._gil_until_ns = now_ns + _AFTER_GIL_NS
        look.asleep |= thread.blocked
        thread.since_ns = now_ns if thread.blocked else latest_ns

    def _see(self, thread: _Thread, mark: bytes) -> None:
        """State and system call of one and the same sleep: the mark is the same after it."""
        call = None
        for _ in range(_TRIES):
            thread.mark = mark
            thread.stat = parse_stat(thread.files.read("stat"))
            if thread.stat.over:
                raise ThreadGone
            thread.state = thread.stat.run_state
            call = None if thread.state == RunState.RUNNING else self._call(thread)
            mark = self._mark(thread)
            if mark == thread.mark:
                break
        thread.mark = mark
        if call is None and thread.blocked:
            thread.state = RunState.RUNNING
        thread.call = call or (-1, 0, 0)
        thread.cpu_ns = self._cpu(thread)
        thread.gil = thread.blocked and self._is_gil(thread.call)

    def _mark(self, thread: _Thread) -> bytes:
        text = thread.files.read(self._mark_file)
        return text if self._mark_file == "schedstat" else parse_switches(text)

    def _cpu(self, thread: _Thread) -> int:
        if self._mark_file == "schedstat":
            return int(thread.mark.split(None, 1)[0])
        return thread.stat.cpu_ns

    def _call(self, thread: _Thread) -> tuple[int, int, int] | None:
        if self.wait_file is WaitFile.SYSCALL:
            try:
                return parse_syscall(thread.files.read("syscall"))
            except PermissionError:
                self.wait_file = WaitFile.WCHAN  # it has executed a set-user-ID program
        return syscall_of_wchan(thread.files.read("wchan"))

    def _is_gil(self, call: tuple[int, int, int]) -> bool:
        return call[0] == FUTEX and any(low <= call[1] < high for low, high in self.gil_ranges)

    def _wake(self, tid: int, ts_ns: int, since_ns: int) -> npt.NDArray[Any]:
        return make(
            Kind.WAKE,
            ts_ns=ts_ns,
            pid=self.pid,
            tid=tid,
            flags=Flag.INFERRED | Flag.COARSE,
            waker_syscall=PTRACE if ts_ns < self.stopped_until_ns else -1,
            since_ns=since_ns,
        )


@cache
def mark_file() -> str:
    """The file that tells whether a thread has run: ``schedstat``, else ``status``.

    A kernel without CONFIG_SCHED_INFO has no ``schedstat`` or one of zeros.
    """
    with suppress(OSError):
        if Path("/proc/thread-self/schedstat").read_bytes().split()[0] != b"0":
            return "schedstat"
    return "status"


def _wait_file(pid: int) -> WaitFile:
    """``syscall`` needs the right to attach (Yama!), ``wchan`` only the right to read."""
    process = Path(f"/proc/{pid}")
    try:
        (process / "syscall").read_bytes()
    except PermissionError:
        pass
    except (FileNotFoundError, ProcessLookupError):
        if not process.exists():
            raise TargetGone(f"process {pid} has gone") from None
    else:
        return WaitFile.SYSCALL
    try:
        # wchan itself says "0" to those who may not know; maps asks for the same right.
        with (process / "maps").open("rb"):
            return WaitFile.WCHAN
    except PermissionError:
        raise PermissionDenied(
            f"/proc/{pid}/syscall and wchan may not be read by this user"
        ) from None
    except (FileNotFoundError, ProcessLookupError):
        raise TargetGone(f"process {pid} has gone") from None
