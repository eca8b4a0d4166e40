"""Reading another process's memory: the protocol and its live and recorded forms.

A read gives exactly what was asked for or raises ``MemoryFault``; sizes and
counts are bounded here, so that a corrupt length in the target never makes
Parkscope allocate or loop without end.
"""

from __future__ import annotations

import bisect
import ctypes
import errno
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from probes.errors import MemoryFault, PermissionDenied, TargetGone

MAX_READ = 1 << 20
"""The longest single read, in bytes: nothing that is looked at here is larger."""

_BUFFER = 1 << 18
_IOV_MAX = 1024  # UIO_MAXIOV, include/uapi/linux/uio.h
_ADDRESS_END = 1 << 47  # user addresses of x86-64 with four page-table levels


class MemoryReader(Protocol):
    """Bytes by address. Every method raises ``MemoryFault`` where nothing can be read."""

    def read(self, address: int, size: int) -> bytes:
        """Exactly ``size`` bytes."""

    def read_many(self, requests: Sequence[tuple[int, int]]) -> list[bytes | None]:
        """One answer per (address, size); None where it cannot be read. Never raises for one."""


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def _process_vm_readv() -> ctypes._NamedFuncPointer:
    function = ctypes.CDLL(None, use_errno=True).process_vm_readv
    function.restype = ctypes.c_ssize_t
    function.argtypes = (
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_ulong,
        ctypes.c_void_p,
        ctypes.c_ulong,
        ctypes.c_ulong,
    )
    return function


class ProcessMemory:
    """A live process, through process_vm_readv(2): it is neither stopped nor slowed.

    Raises TargetGone when the process has gone and PermissionDenied when the
    kernel refuses (ptrace access mode, ptrace(2)); MemoryFault else.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._call = _process_vm_readv()
        self._remote = _Iovec(0, 0)
        self._local = _Iovec(0, 0)
        self._remote_at = ctypes.addressof(self._remote)
        self._local_at = ctypes.addressof(self._local)
        self._buffer = bytearray(_BUFFER)
        self._buffer_at = ctypes.addressof(
            (ctypes.c_char * len(self._buffer)).from_buffer(self._buffer)
        )

    def read(self, address: int, size: int) -> bytes:
        """Exactly ``size`` bytes at ``address``."""
        if not (0 < size <= MAX_READ and 0 < address <= _ADDRESS_END - size):
            raise MemoryFault(address, size)
        if size > len(self._buffer):
            own = ctypes.create_string_buffer(size)
            self._transfer(address, size, ctypes.addressof(own))
            return own.raw
        self._transfer(address, size, self._buffer_at)
        return bytes(memoryview(self._buffer)[:size])

    def _transfer(self, address: int, size: int, into: int) -> None:
        self._remote.base, self._remote.length = address, size
        self._local.base, self._local.length = into, size
        got = self._call(self._pid, self._local_at, 1, self._remote_at, 1, 0)
        if got != size:
            if got < 0:
                self._check_errno(ctypes.get_errno())
            raise MemoryFault(address, size)

    def _check_errno(self, code: int) -> None:
        if code == errno.ESRCH:
            raise TargetGone(f"process {self._pid} has gone")
        if code == errno.EPERM:
            raise PermissionDenied(f"the memory of process {self._pid} may not be read")

    def read_many(self, requests: Sequence[tuple[int, int]]) -> list[bytes | None]:
        """One answer per (address, size), None for what cannot be read; few system calls."""
        if len(requests) == 1:
            return [self._read_or_none(*requests[0])]
        answers: list[bytes | None] = []
        while len(answers) < len(requests):
            self._read_some(requests, answers)
        return answers

    def _read_some(self, requests: Sequence[tuple[int, int]], answers: list[bytes | None]) -> None:
        """Append some more answers with one call, at least one."""
        at, total = len(answers), 0
        table: list[tuple[int, int]] = []
        some = requests[at : at + max(1, min(_IOV_MAX, _BUFFER // max(1, requests[at][1])))]
        if self._uniform(some, answers):
            return
        for address, size in some:
            if not (0 < size <= len(self._buffer) - total and 0 < address <= _ADDRESS_END - size):
                break
            table.append((address, size))
            total += size
        if not table:
            answers.append(self._read_or_none(*requests[at]))
            return
        got = self._scatter(np.array(table, dtype=np.uint64), self._buffer_at, total)
        data = bytes(memoryview(self._buffer)[:got])
        start = 0
        for _, size in table:
            end = start + size
            if end > got:
                answers.append(None)  # the kernel stops at the first that it cannot read
                return
            answers.append(data[start:end])
            start = end

    def _uniform(self, some: Sequence[tuple[int, int]], answers: list[bytes | None]) -> bool:
        """The same for requests of one size that fit at once, which are most; False for others."""
        addresses, sizes = zip(*some, strict=True)
        size, count = sizes[0], len(sizes)
        if sizes.count(size) != count or not 0 < size * count <= len(self._buffer):
            return False
        if min(addresses) <= 0 or max(addresses) > _ADDRESS_END - size:
            return False
        table = np.empty((count, 2), dtype=np.uint64)
        table[:, 0], table[:, 1] = addresses, size
        got = self._scatter(table, self._buffer_at, size * count)
        whole = got - got % size
        data = bytes(memoryview(self._buffer)[:whole])
        answers += [data[start : start + size] for start in range(0, whole, size)]
        if whole < size * count:
            answers.append(None)  # the kernel stops at the first that it cannot read
        return True

    def _read_or_none(self, address: int, size: int) -> bytes | None:
        try:
            return self.read(address, size)
        except MemoryFault:
            return None

    def _scatter(self, remote: npt.NDArray[np.uint64], into: int, total: int) -> int:
        """Bytes that arrived: the kernel stops at the first element that it cannot read."""
        self._local.base, self._local.length = into, total
        got: int = self._call(self._pid, self._local_at, 1, remote.ctypes.data, len(remote), 0)
        if got < 0:
            self._check_errno(ctypes.get_errno())
            return 0
        return got


class OneByOne:
    """Reads many as often as one: where a read is no system call, or does not matter."""

    def read(self, address: int, size: int) -> bytes:
        """Exactly ``size`` bytes. Raises MemoryFault."""
        raise NotImplementedError

    def read_many(self, requests: Sequence[tuple[int, int]]) -> list[bytes | None]:
        """One answer per (address, size), None for what is not there."""
        answers: list[bytes | None] = []
        for address, size in requests:
            try:
                answers.append(self.read(address, size))
            except MemoryFault:
                answers.append(None)
        return answers


class SegmentMemory(OneByOne):
    """Recorded or made-up memory: a list of (address, bytes). For images and tests."""

    def __init__(self, segments: Sequence[tuple[int, bytes]]) -> None:
        self._segments = sorted(segments)
        self._starts = [start for start, _ in self._segments]

    def read(self, address: int, size: int) -> bytes:
        """Exactly ``size`` bytes; they may cross from one segment to an adjoining one."""
        if not 0 < size <= MAX_READ:
            raise MemoryFault(address, size)
        parts, at, left = [], address, size
        while left:
            index = bisect.bisect_right(self._starts, at) - 1
            if index < 0:
                raise MemoryFault(address, size)
            start, data = self._segments[index]
            part = data[at - start : at - start + left]
            if not part:
                raise MemoryFault(address, size)
            parts.append(part)
            at += len(part)
            left -= len(part)
        return b"".join(parts)
