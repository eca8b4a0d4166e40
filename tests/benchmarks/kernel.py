"""What the kernel itself says of eBPF: run times of programs, programs and links that exist.

Numbers and layouts: include/uapi/linux/bpf.h. Root only.
"""

from __future__ import annotations

import ctypes
import errno
import glob
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_SYS_BPF = 321
_PROG_GET_NEXT_ID, _PROG_GET_FD_BY_ID, _OBJ_GET_INFO_BY_FD = 11, 13, 15
_LINK_GET_NEXT_ID, _ENABLE_STATS = 31, 32
_STATS_RUN_TIME = 0
_INFO_SIZE = 232  # struct bpf_prog_info up to recursion_misses and verified_insns
_NAME, _RUN_TIME, _RUN_COUNT = 64, 192, 200  # its fields' offsets

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


@dataclass(frozen=True, slots=True)
class ProgramTime:
    """What one program has cost while statistics were on."""

    name: str
    run_ns: int
    runs: int


def _bpf(command: int, attributes: bytearray) -> int:
    buffer = (ctypes.c_char * len(attributes)).from_buffer(attributes)
    result = int(_libc.syscall(_SYS_BPF, command, buffer, len(attributes)))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _ids(command: int) -> Iterator[int]:
    last = 0
    while True:
        attributes = bytearray(struct.pack("<III", last, 0, 0))
        try:
            _bpf(command, attributes)
        except OSError as error:
            if error.errno == errno.ENOENT:
                return
            raise
        last = struct.unpack_from("<I", attributes, 4)[0]
        yield last


def programs() -> set[int]:
    """Ids of all programs that are loaded."""
    return set(_ids(_PROG_GET_NEXT_ID))


def links() -> set[int]:
    """Ids of all links that exist."""
    return set(_ids(_LINK_GET_NEXT_ID))


@contextmanager
def statistics_on() -> Iterator[None]:
    """Run times are kept while this lasts (and by nobody else's setting changed after it)."""
    fd = _bpf(_ENABLE_STATS, bytearray(struct.pack("<I", _STATS_RUN_TIME)))
    try:
        yield
    finally:
        os.close(fd)


def held_by(pid: int, field: str) -> set[int]:
    """The ids of what a process's threads hold by descriptors: ``link_id`` or ``prog_id``."""
    found = set()
    for file in glob.glob(f"/proc/{pid}/task/*/fdinfo/*"):
        try:
            lines = Path(file).read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            continue  # closed since it was listed, or its thread has ended
        for line in lines:
            if line.startswith(f"{field}:"):
                found.add(int(line.split()[1]))
    return found


def program_times(pid: int) -> dict[int, ProgramTime]:
    """Run times so far of the programs that a process holds, by id."""
    times = {}
    for number in held_by(pid, "prog_id"):
        try:
            fd = _bpf(_PROG_GET_FD_BY_ID, bytearray(struct.pack("<III", number, 0, 0)))
        except FileNotFoundError:
            continue  # it has just gone
        try:
            info = bytearray(_INFO_SIZE)
            place = (ctypes.c_char * len(info)).from_buffer(info)
            attributes = struct.pack("<IIQ", fd, len(info), ctypes.addressof(place))
            _bpf(_OBJ_GET_INFO_BY_FD, bytearray(attributes))
        finally:
            os.close(fd)
        name = bytes(info[_NAME : _NAME + 16]).rstrip(b"\0").decode()
        run_ns, runs = struct.unpack_from("<QQ", info, _RUN_TIME)
        times[number] = ProgramTime(name, run_ns, runs)
    return times


def times_since(before: dict[int, ProgramTime], after: dict[int, ProgramTime]) -> list[ProgramTime]:
    """What each program that is in ``after`` has cost since ``before``, dearest first."""
    none = ProgramTime("", 0, 0)
    differences = [
        ProgramTime(
            now.name,
            now.run_ns - before.get(number, none).run_ns,
            now.runs - before.get(number, none).runs,
        )
        for number, now in after.items()
    ]
    return sorted((one for one in differences if one.runs), key=lambda one: -one.run_ns)
