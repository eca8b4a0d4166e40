"""What /proc tells of one thread, read again and again at little cost.

Sources: the kernel's Documentation/filesystems/proc.rst, ``fs/proc/base.c`` (syscall,
wchan, schedstat), ``fs/proc/array.c`` (stat).
"""

from __future__ import annotations

import os
import resource
import time
from contextlib import suppress
from dataclasses import dataclass

from probes.wire import RunState

_SIZE = {"schedstat": 64, "syscall": 256, "stat": 1024, "status": 4096, "wchan": 128}
_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_CPUCLOCK_SCHED = 2  # include/linux/posix-timers_types.h

UNKNOWN_ARGUMENT = 0xFFFFFFFF
"""Stands for an argument that ``wchan`` does not tell: no descriptor, no address."""

_WCHAN_SYSCALL = {
    "futex": 202,
    "hrtimer_nanosleep": 230,
    "do_nanosleep": 230,
    "ep_poll": 232,
    "do_epoll_wait": 232,
    "do_poll": 7,
    "do_sys_poll": 7,
    "poll_schedule": 7,
    "do_select": 23,
    "sk_wait_data": 45,
    "__skb_wait": 45,
    "unix_stream_read": 45,
    "unix_stream_data_wait": 45,
    "inet_csk_accept": 43,
    "unix_accept": 43,
    "sock_alloc_send": 44,
    "sk_stream_wait": 44,
    "pipe_read": 0,
    "anon_pipe_read": 0,
    "pipe_write": 1,
    "anon_pipe_write": 1,
    "do_wait": 61,
    "kernel_wait4": 61,
}
"""Beginnings of the kernel functions that threads sleep in, and the system call (by
its x86-64 number) that leads there."""


class ThreadGone(Exception):
    """The thread has ended."""


@dataclass(slots=True)
class FileBudget:
    """How many files may stay open: a share of what this process may have.

    A thread's first file matters most (it is read in every scan), so the others
    get a smaller share.
    """

    held: int = 0
    limit: int = 0

    @classmethod
    def of_this_process(cls) -> FileBudget:
        """Three quarters of the soft limit; the rest is the program's own."""
        soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        return cls(0, (1 << 20 if soft == resource.RLIM_INFINITY else soft) * 3 // 4)

    def allows(self, name: str) -> bool:
        """Whether one more file of that name may stay open."""
        return self.held < (self.limit if name == "schedstat" else self.limit // 2)


class ThreadFiles:
    """The files of one thread. They stay open where the budget allows it."""

    __slots__ = ("_budget", "_directory", "_open")

    def __init__(self, pid: int, tid: int, budget: FileBudget) -> None:
        self._directory = f"/proc/{pid}/task/{tid}/"
        self._budget = budget
        self._open: dict[str, int] = {}

    def read(self, name: str) -> bytes:
        """What the file says now.

        Raises ThreadGone; PermissionError when this user may not know; another
        OSError (ENOENT becomes ThreadGone) when the kernel has no such file.
        """
        try:
            fd = self._open.get(name)
            if fd is not None:
                return os.pread(fd, _SIZE[name], 0)
            fd = os.open(self._directory + name, os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, ProcessLookupError):
            raise ThreadGone from None
        try:
            text = os.pread(fd, _SIZE[name], 0)
        except ProcessLookupError:
            os.close(fd)
            raise ThreadGone from None
        except OSError:
            os.close(fd)
            raise
        if self._budget.allows(name):
            self._open[name] = fd
            self._budget.held += 1
        else:
            os.close(fd)
        return text

    def close(self) -> None:
        """Close what is open."""
        for fd in self._open.values():
            with suppress(OSError):
                os.close(fd)
        self._budget.held -= len(self._open)
        self._open.clear()


@dataclass(frozen=True, slots=True)
class Stat:
    """The parts of ``stat`` that matter. ``program`` changes when another is executed.

    ``exit_status`` is a wait(2) status, meaningful for a zombie that we may inspect.
    """

    state: int
    cpu_ns: int
    program: tuple[bytes, bytes]
    exit_status: int

    @property
    def over(self) -> bool:
        """Whether the thread has ended (a zombie leader counts)."""
        return self.state in b"ZXx"

    @property
    def run_state(self) -> RunState:
        """The state as records carry it."""
        return _RUN_STATE.get(self.state, RunState.SLEEPING)


_RUN_STATE = {
    ord("R"): RunState.RUNNING,
    ord("D"): RunState.DISK_SLEEP,
    ord("T"): RunState.STOPPED,
    ord("t"): RunState.STOPPED,
    ord("Z"): RunState.DEAD,
    ord("X"): RunState.DEAD,
    ord("x"): RunState.DEAD,
}


def parse_stat(text: bytes) -> Stat:
    """``stat`` of a thread. CPU time here has the resolution of the kernel's tick."""
    fields = text[text.rindex(b")") + 2 :].split()
    return Stat(
        state=fields[0][0],
        cpu_ns=(int(fields[11]) + int(fields[12])) * _TICK_NS,
        program=(fields[23], fields[25]),
        exit_status=int(fields[49]),
    )


def parse_syscall(text: bytes) -> tuple[int, int, int] | None:
    """(number, first, second argument); None while the thread is not blocked.

    The number is -1 when it is blocked outside any system call (a page fault).
    """
    fields = text.split()
    if not fields or fields[0] == b"running":
        return None
    if len(fields) < 3 or fields[0] == b"-1":
        return -1, 0, 0
    return int(fields[0]), int(fields[1], 16), int(fields[2], 16)


def syscall_of_wchan(text: bytes) -> tuple[int, int, int]:
    """The most likely system call from the kernel function that a thread sleeps in."""
    name = text.decode("ascii", "replace").strip()
    for beginning, number in _WCHAN_SYSCALL.items():
        if name.startswith(beginning):
            return number, 0 if number == 202 else UNKNOWN_ARGUMENT, UNKNOWN_ARGUMENT
    return -1, 0, 0


def parse_switches(status: bytes) -> bytes:
    """The two lines of ``status`` that count context switches, as they stand."""
    at = status.rfind(b"\nvoluntary_ctxt_switches")
    return status[at + 1 :]


def process_cpu_ns(pid: int) -> int:
    """CPU time that all threads of process ``pid`` have used, exact to the nanosecond.

    One system call that needs no right (clock_getcpuclockid(3)): while it stands
    still, no thread has run, so no thread has changed. Raises ThreadGone.
    """
    try:
        return time.clock_gettime_ns((~pid << 3) | _CPUCLOCK_SCHED)
    except OSError:
        raise ThreadGone from None
