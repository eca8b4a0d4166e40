"""What /proc says of a process: its identity, state, mappings and threads.

Source: proc(5) and the kernel's Documentation/filesystems/proc.rst. Everything
here is bounded; a process that goes away while it is read is ``TargetGone``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from probes.errors import NoSuchProcess, PermissionDenied, TargetGone

MAX_MAPS_BYTES = 64 << 20
_PAGE = os.sysconf("SC_PAGE_SIZE")
_PF_KTHREAD = 0x00200000  # include/linux/sched.h
_SYSCALL_WORDS = 9
_FUTEX_COMMAND = 0x7F  # ~(FUTEX_PRIVATE_FLAG | FUTEX_CLOCK_REALTIME), include/uapi/linux/futex.h
_FUTEX_WAITS = frozenset({0, 9})  # FUTEX_WAIT, FUTEX_WAIT_BITSET
_FUTEX_PRIVATE = 0x80
_QUIET_SIGNALS = (2, 4, 6, 7, 8, 11, 32, 33)  # INT, ILL, ABRT, BUS, FPE, SEGV, glibc's two
_MAPPING = re.compile(
    rb"^([0-9a-f]+)-([0-9a-f]+) (....) ([0-9a-f]+) ([0-9a-f]+):([0-9a-f]+) (\d+) *(.*)$",
    re.MULTILINE,
)
_CODE = re.compile(
    rb"^[0-9a-f]+-[0-9a-f]+ ..x. [0-9a-f]+ ([0-9a-f]+):([0-9a-f]+) ([1-9]\d*) +(.*)$", re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class Mapping:
    """One line of /proc/PID/maps. Addresses and ``offset`` in bytes."""

    start: int
    end: int
    permissions: str
    offset: int
    device: int
    inode: int
    path: str

    @property
    def executable(self) -> bool:
        """Whether code may run from it."""
        return self.permissions[2] == "x"


@dataclass(frozen=True, slots=True)
class ProcessState:
    """The parts of /proc/PID/stat that say which process this is and whether it lives."""

    pid: int
    state: str
    start_ticks: int
    kernel_thread: bool


def pid_max() -> int:
    """Above the highest PID and TID that the kernel gives out (sysctl kernel.pid_max)."""
    try:
        return int(Path("/proc/sys/kernel/pid_max").read_text())
    except (OSError, ValueError):
        return 1 << 22  # PID_MAX_LIMIT of 64-bit kernels, include/linux/threads.h


def numa_nodes(root: Path = Path("/sys/devices/system/node")) -> tuple[int, ...]:
    """The NUMA node of each CPU, by CPU number; empty where the kernel does not say.

    Source: the kernel's Documentation/ABI/stable/sysfs-devices-node (``cpulist``).
    """
    nodes: dict[int, int] = {}
    try:
        for directory in root.glob("node[0-9]*"):
            for part in (directory / "cpulist").read_text().strip().split(","):
                first, _, last = part.partition("-")
                if first:  # a node without CPUs has an empty list
                    cpus = range(int(first), int(last or first) + 1)
                    nodes.update(dict.fromkeys(cpus, int(directory.name[4:])))
        return tuple(nodes[cpu] for cpu in range(len(nodes)))
    except (OSError, ValueError, KeyError):
        return ()


def _read(pid: int, name: str, limit: int) -> bytes:
    """A file of /proc/PID. Raises NoSuchProcess, PermissionDenied."""
    try:
        with open(f"/proc/{pid}/{name}", "rb") as file:
            return file.read(limit)
    except (FileNotFoundError, ProcessLookupError):
        raise NoSuchProcess(f"no process has the PID {pid}") from None
    except PermissionError:
        raise PermissionDenied(f"/proc/{pid}/{name} may not be read by this user") from None


def _stat(pid: int) -> list[bytes]:
    """The fields of /proc/PID/stat from the third, the state, on (proc(5))."""
    text = _read(pid, "stat", 4096)
    return text[text.rindex(b")") + 2 :].split()


@dataclass(frozen=True, slots=True)
class ProcessUsage:
    """What a process uses. CPU time in clock ticks (sysconf), memory in pages."""

    start_ticks: int
    cpu_ticks: int
    threads: int
    rss_pages: int


def process_usage(pid: int) -> ProcessUsage:
    """What process ``pid`` uses, by one reading. Raises NoSuchProcess, PermissionDenied."""
    fields = _stat(pid)
    return ProcessUsage(
        start_ticks=int(fields[19]),
        cpu_ticks=int(fields[11]) + int(fields[12]),
        threads=int(fields[17]),
        rss_pages=int(fields[21]),
    )


def process_state(pid: int) -> ProcessState:
    """State and identity of process ``pid``. Raises NoSuchProcess, PermissionDenied."""
    fields = _stat(pid)
    return ProcessState(
        pid=pid,
        state=fields[0].decode("ascii"),
        start_ticks=int(fields[19]),
        kernel_thread=bool(int(fields[6]) & _PF_KTHREAD),
    )


def figures(pid: int) -> dict[str, int]:
    """``rss`` (resident bytes) and ``threads`` of a process; empty when it has gone."""
    try:
        text = _read(pid, "stat", 4096)
    except (NoSuchProcess, PermissionDenied):
        return {}
    fields = text[text.rindex(b")") + 2 :].split()
    return {"rss": int(fields[21]) * _PAGE, "threads": int(fields[17])}


def thread_group(pid: int) -> int:
    """The process that ``pid`` belongs to (a TID opens /proc/TID too). Raises NoSuchProcess."""
    found = re.search(rb"^Tgid:\s*(\d+)", _read(pid, "status", 65536), re.MULTILINE)
    return int(found[1]) if found else pid


def command_line(pid: int) -> tuple[str, ...]:
    """The process's arguments, at most 64 KiB; empty for kernel threads and zombies."""
    raw = _read(pid, "cmdline", 65536)
    return tuple(os.fsdecode(part) for part in raw.split(b"\0")[:-1])


def mappings(pid: int) -> list[Mapping]:
    """All mappings, by address. Raises NoSuchProcess, PermissionDenied."""
    text = _read(pid, "maps", MAX_MAPS_BYTES)
    return [
        Mapping(
            start=int(found[1], 16),
            end=int(found[2], 16),
            permissions=found[3].decode("ascii"),
            offset=int(found[4], 16),
            device=os.makedev(int(found[5], 16), int(found[6], 16)),
            inode=int(found[7]),
            path=os.fsdecode(found[8]),
        )
        for found in _MAPPING.finditer(text)
    ]


def code_files(pid: int) -> set[tuple[str, int, int]]:
    """Path, device and inode of files that are mapped to be executed; cheaper than ``mappings``.

    Raises NoSuchProcess, PermissionDenied.
    """
    return {
        (os.fsdecode(path), os.makedev(int(major, 16), int(minor, 16)), int(inode))
        for major, minor, inode, path in _CODE.findall(_read(pid, "maps", MAX_MAPS_BYTES))
    }


def thread_ids(pid: int) -> set[int]:
    """TIDs of the process's threads. Raises TargetGone."""
    try:
        return {int(name) for name in os.listdir(f"/proc/{pid}/task")}
    except OSError:
        raise TargetGone(f"process {pid} has gone") from None


def has_thread(pid: int, tid: int) -> bool:
    """Whether the process has that thread now."""
    return Path(f"/proc/{pid}/task/{tid}").exists()


def futex_wait(pid: int, tid: int) -> tuple[int, bool | None]:
    """The address of the futex that a thread waits on now, and whether it has a time limit.

    (0, None) for a thread that waits on none. Raises PermissionDenied.
    """
    address, _, timeout = futex_arguments(pid, tid)
    return (address, timeout != 0) if address else (0, None)


def waits_privately(pid: int, tid: int) -> bool:
    """Whether a thread waits without limit on a futex that only its own process can wake.

    Raises PermissionDenied.
    """
    address, operation, timeout = futex_arguments(pid, tid)
    return bool(address) and bool(operation & _FUTEX_PRIVATE) and not timeout


def handles_signals(pid: int) -> bool:
    """Whether a process has a handler for a signal that may tell it to go on.

    Not counted: SIGINT, which CPython handles in every program, the signals of a crash
    (faulthandler), and those that glibc keeps for itself. Raises NoSuchProcess,
    PermissionDenied. Source: ``SigCgt`` in proc_pid_status(5).
    """
    found = re.search(rb"^SigCgt:\s*([0-9a-f]+)", _read(pid, "status", 65536), re.MULTILINE)
    caught = int(found[1], 16) if found else -1
    return bool(caught & ~sum(1 << (number - 1) for number in _QUIET_SIGNALS))


def futex_arguments(pid: int, tid: int) -> tuple[int, int, int]:
    """Address, operation and time limit's address of a futex wait; zeros if it is in none.

    Source: futex(2), ``proc_pid_syscall`` in fs/proc/base.c: number, six arguments, stack
    and instruction pointer.
    """
    try:
        words = _read(pid, f"task/{tid}/syscall", 512).split()
    except NoSuchProcess:
        return 0, 0, 0
    if len(words) < _SYSCALL_WORDS or words[0] != b"202":
        return 0, 0, 0
    address, operation, _, timeout = (int(word, 16) for word in words[1:5])
    if operation & _FUTEX_COMMAND not in _FUTEX_WAITS:
        return 0, 0, 0
    return address, operation, timeout


def process_ids() -> Iterator[int]:
    """PIDs of this machine, as far as they are visible here."""
    return (int(name) for name in sorted(os.listdir("/proc")) if name.isdigit())


def namespace_ids(pid: int, tids: set[int]) -> dict[int, int]:
    """TID as the process itself sees it (gettid(2) in its PID namespace) → TID here.

    From ``NSpid`` in /proc/PID/task/TID/status: here first, innermost last.
    """
    seen = {}
    for tid in tids:
        try:
            text = _read(pid, f"task/{tid}/status", 65536)
        except NoSuchProcess:
            continue  # a thread that has just ended
        found = re.search(rb"^NSpid:.*?(\d+)$", text, re.MULTILINE)
        seen[int(found[1]) if found else tid] = tid
    return seen


def same_pid_namespace(pid: int) -> bool:
    """Whether the process numbers threads as this one does."""
    try:
        return os.readlink(f"/proc/{pid}/ns/pid") == os.readlink("/proc/self/ns/pid")
    except OSError:
        return True
