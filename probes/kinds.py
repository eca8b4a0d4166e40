"""From a system call to the kind of a park: the documented table.

Numbers are those of x86-64 (kernel: ``arch/x86/entry/syscalls/syscall_64.tbl``).

=======  ==========================================================================
kind     a thread is in
=======  ==========================================================================
lock     ``futex``: Lock, RLock, Condition, Event, Semaphore, Queue, join, native
         mutexes; System V semaphores
gil      ``futex`` on the interpreter's GIL
io       reads, writes, polls, sockets, file locks, fsync, io_uring
sleep    ``nanosleep``, ``clock_nanosleep``; ``select``/``poll`` on no descriptor
         (``time.sleep`` up to CPython 3.10)
child    ``wait4``, ``waitid``
map      a shard lock of a native map (by its own probes)
other    anything else: signals, page faults, unknown system calls
=======  ==========================================================================
"""

from __future__ import annotations

from typing import Final

KINDS: Final = ("lock", "gil", "io", "sleep", "child", "map", "other")
KIND_INDEX: Final = {name: index for index, name in enumerate(KINDS)}

FUTEX: Final = 202
EXIT_GROUP: Final = 231
PTRACE: Final = 101
RESTART: Final = 219  # restart_syscall(2): what a wait with a time limit goes on as after a stop
_SELECT, _PSELECT6, _POLL, _PPOLL = 23, 270, 7, 271

_NAMES: dict[str, dict[int, str]] = {
    "lock": {202: "futex", 449: "futex_waitv", 455: "futex_wait", 65: "semop", 220: "semtimedop"},
    "io": {
        0: "read", 1: "write", 2: "open", 3: "close", 7: "poll", 16: "ioctl", 17: "pread64",
        18: "pwrite64", 19: "readv", 20: "writev", 23: "select", 26: "msync", 40: "sendfile",
        42: "connect", 43: "accept", 44: "sendto", 45: "recvfrom", 46: "sendmsg",
        47: "recvmsg", 48: "shutdown", 69: "msgsnd", 70: "msgrcv", 72: "fcntl", 73: "flock",
        74: "fsync", 75: "fdatasync", 77: "ftruncate", 78: "getdents", 162: "sync",
        208: "io_getevents", 217: "getdents64", 232: "epoll_wait", 242: "mq_timedsend",
        243: "mq_timedreceive", 257: "openat", 270: "pselect6", 271: "ppoll", 275: "splice",
        276: "tee", 277: "sync_file_range", 278: "vmsplice", 281: "epoll_pwait",
        285: "fallocate", 288: "accept4", 295: "preadv", 296: "pwritev", 299: "recvmmsg",
        306: "syncfs", 307: "sendmmsg", 318: "getrandom", 326: "copy_file_range",
        327: "preadv2", 328: "pwritev2", 333: "io_pgetevents", 426: "io_uring_enter",
        437: "openat2", 441: "epoll_pwait2",
    },
    "sleep": {35: "nanosleep", 230: "clock_nanosleep"},
    "child": {61: "wait4", 247: "waitid"},
    "other": {
        34: "pause", 128: "rt_sigtimedwait", 130: "rt_sigsuspend", 219: "restart_syscall",
        9: "mmap", 11: "munmap", 56: "clone", 59: "execve", 101: "ptrace", 322: "execveat",
    },
}  # fmt: skip

SYSCALL_NAMES: Final = {nr: name for table in _NAMES.values() for nr, name in table.items()}
_KIND_OF: Final = {nr: kind for kind, table in _NAMES.items() for nr in table}

# Their first argument is not a file descriptor, though they are I/O.
_NO_FD_FIRST: Final = frozenset({2, 7, 23, 26, 162, 208, 257, 270, 271, 333, 437})


def park_kind(syscall: int, arg0: int, arg1: int, gil: bool) -> str:
    """The kind of a park from the system call that the thread blocks in.

    ``gil``: the futex address lies inside a GIL of the target. ``syscall`` -1
    (blocked outside any system call: a page fault) is ``other``.
    """
    if gil and syscall == FUTEX:
        return "gil"
    if syscall in (_SELECT, _PSELECT6) and arg0 == 0:
        return "sleep"
    if syscall in (_POLL, _PPOLL) and arg1 == 0:
        return "sleep"
    return _KIND_OF.get(syscall, "other")


def syscall_name(syscall: int) -> str | None:
    """``recvfrom`` for 45; ``syscall 999`` for an unknown one, None for -1."""
    if syscall < 0:
        return None
    return SYSCALL_NAMES.get(syscall, f"syscall {syscall}")


def fd_of(syscall: int, arg0: int) -> int | None:
    """The file descriptor that a blocked I/O call works on, where it names one."""
    if _KIND_OF.get(syscall) != "io" or syscall in _NO_FD_FIRST:
        return None
    fd = arg0 & 0xFFFFFFFF
    return fd if fd < 1 << 31 else None
