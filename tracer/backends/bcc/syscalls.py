"""bpf(2), called directly: bcc compiles, everything after that needs only this.

Layouts and numbers: include/uapi/linux/bpf.h (union bpf_attr), man 2 bpf.
x86-64, as all of this backend.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from probes.errors import BackendUnavailable, ParkscopeError, PermissionDenied

_SYS_BPF, _SYS_CLOSE_RANGE = 321, 436
_CLOSE_RANGE_UNSHARE = 1 << 1  # include/uapi/linux/close_range.h
_LAST_DESCRIPTOR = 0xFFFFFFFF
_MAP_CREATE, _MAP_LOOKUP, _MAP_UPDATE, _MAP_DELETE = 0, 1, 2, 3
_PROG_LOAD, _OBJ_GET_INFO_BY_FD, _MAP_LOOKUP_AND_DELETE = 5, 15, 21
_RAW_TRACEPOINT_OPEN, _MAP_LOOKUP_BATCH, _MAP_LOOKUP_AND_DELETE_BATCH = 17, 24, 25
_LINK_CREATE, _ITER_CREATE = 28, 33
_MAP_TYPE_ARRAY = 2
_ITERATOR_READ = 8 << 12  # bpf_seq_read hands over at most 8 pages at once

ATTACH_TRACE_RAW_TP = 23
ATTACH_TRACE_ITER = 28
ATTACH_TRACE_UPROBE_MULTI = 48

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long


def _bpf(command: int, attributes: bytes, keep: Sequence[object] = ()) -> int:
    """The call itself. ``keep`` holds what ``attributes`` points to. Raises OSError."""
    buffer = ctypes.create_string_buffer(attributes, max(len(attributes), 16))
    result = int(_syscall(_SYS_BPF, command, buffer, ctypes.c_uint(len(attributes))))
    del keep
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"bpf(2) command {command}: {os.strerror(code)}")
    return result


def unshare_descriptors(keep: Sequence[int]) -> None:
    """Give this thread a table of descriptors of its own with only ``keep`` (ascending) in it.

    close_range(2), Linux 5.9. Raises OSError; the table is the process's own then as before.
    """
    first, flags = 0, _CLOSE_RANGE_UNSHARE
    for descriptor in (*keep, _LAST_DESCRIPTOR + 1):
        if first < descriptor:
            if _syscall(_SYS_CLOSE_RANGE, *map(ctypes.c_uint, (first, descriptor - 1, flags))) < 0:
                code = ctypes.get_errno()
                raise OSError(code, f"close_range(2): {os.strerror(code)}")
            flags = 0
        first = descriptor + 1


def refusal(error: OSError, what: str) -> ParkscopeError:
    """What a person is told when the kernel refuses ``what``."""
    if error.errno in (errno.EPERM, errno.EACCES):
        return PermissionDenied(
            f"the kernel does not allow {what}",
            hint="It takes root, or CAP_BPF and CAP_PERFMON ('sudo setcap' or a service "
            "unit's AmbientCapabilities); lockdown mode may forbid it altogether. "
            "'--backend proc' needs neither.",
        )
    return BackendUnavailable(f"the kernel cannot do {what}: {error.strerror}")


def probe_rights() -> None:
    """Try whether eBPF may be used at all. Raises OSError."""
    os.close(_bpf(_MAP_CREATE, struct.pack("<IIIII", _MAP_TYPE_ARRAY, 4, 8, 1, 0)))


def map_create(name: str, kind: int, key: int, value: int, entries: int, flags: int) -> int:
    """A map: type, sizes of key and value in bytes, elements, flags. Raises OSError."""
    attributes = struct.pack("<IIIIIII", kind, key, value, entries, flags, 0, 0)
    return _bpf(_MAP_CREATE, attributes + _object_name(name))


def map_shape(fd: int) -> tuple[int, int, int, int, int]:
    """What ``map_create`` has to be told to make such a map again. Raises OSError."""
    info = ctypes.create_string_buffer(80)  # the head of struct bpf_map_info
    attributes = struct.pack("<IIQ", fd, len(info), ctypes.addressof(info))
    _bpf(_OBJ_GET_INFO_BY_FD, attributes, (info,))
    kind, _, key, value, entries, flags = struct.unpack_from("<6I", info)
    return kind, key, value, entries, flags


def load_program(name: str, kind: int, code: bytes, attach_type: int, attach_to: int) -> int:
    """A program from its instructions; ``attach_to`` is a BTF id or 0. Raises OSError."""
    body = ctypes.create_string_buffer(code, len(code))
    terms = ctypes.create_string_buffer(b"GPL")
    attributes = struct.pack(
        "<IIQQIIQII16sII",
        kind,
        len(code) // 8,
        ctypes.addressof(body),
        ctypes.addressof(terms),
        0,
        0,
        0,
        0,
        0,
        _object_name(name),
        0,
        attach_type,
    )
    # prog_btf_fd … line_info_cnt: no debug information; then attach_btf_id, attach_prog_fd
    attributes += struct.pack("<IIQIIQIII", 0, 0, 0, 0, 0, 0, 0, attach_to, 0)
    return _bpf(_PROG_LOAD, attributes, (body, terms))


def _object_name(name: str) -> bytes:
    """At most 15 characters and a zero (BPF_OBJ_NAME_LEN)."""
    return name.encode()[:15].ljust(16, b"\0")


def open_raw_tracepoint(program: int, name: str | None) -> int:
    """Attach a program to a raw tracepoint; closing the result detaches. Raises OSError.

    ``name`` is None for a program of a BTF tracepoint: it was loaded for one.
    """
    if name is None:
        return _bpf(_RAW_TRACEPOINT_OPEN, struct.pack("<QII", 0, program, 0))
    text = ctypes.create_string_buffer(name.encode())
    return _bpf(
        _RAW_TRACEPOINT_OPEN, struct.pack("<QII", ctypes.addressof(text), program, 0), (text,)
    )


def link_iterator(program: int, pid: int | None = None) -> int:
    """A link of a task iterator, over one process (Linux 6.1) or over all. Raises OSError."""
    if pid is None:
        return _bpf(_LINK_CREATE, struct.pack("<IIIIQI", program, 0, ATTACH_TRACE_ITER, 0, 0, 0))
    info = ctypes.create_string_buffer(struct.pack("<III", 0, pid, 0))  # tid, pid, pid_fd
    return _bpf(
        _LINK_CREATE,
        struct.pack("<IIIIQI", program, 0, ATTACH_TRACE_ITER, 0, ctypes.addressof(info), 12),
        (info,),
    )


def link_uprobe_multi(
    program: int,
    path: str,
    offsets: Sequence[int],
    cookies: Sequence[int],
    counters: Sequence[int] = (),
    *,
    pid: int,
    returns: bool = False,
) -> int:
    """Uprobes at file ``offsets`` of ``path`` in one process, one link (Linux 6.6).

    Each offset's program run sees its cookie (``bpf_get_attach_cookie``). ``counters``: file
    offsets of USDT semaphores, 0 for a place without one. Raises OSError.
    """
    name = ctypes.create_string_buffer(os.fsencode(path))
    at = np.array(offsets, np.uint64)
    labels = np.array(cookies, np.uint64)
    semaphores = np.array(counters, np.uint64)
    attributes = struct.pack(
        "<IIIIQQQQIIII",
        program,
        0,
        ATTACH_TRACE_UPROBE_MULTI,
        0,
        ctypes.addressof(name),
        at.ctypes.data,
        semaphores.ctypes.data if any(counters) else 0,
        labels.ctypes.data,
        len(at),
        int(returns),
        pid,
        0,
    )
    return _bpf(_LINK_CREATE, attributes, (name, at, labels, semaphores))


def run_iterator(link: int, buffer: bytearray, start: int = 0) -> int:
    """One run of a linked iterator; what its program wrote goes to ``buffer[start:]``.

    Returns where it ends. The buffer grows as needed (no view of it may exist), and
    is meant to be used again: fresh memory for every run would cost more than the run.
    Raises OSError.
    """
    fd = _bpf(_ITER_CREATE, struct.pack("<II", link, 0))
    try:
        while True:
            if len(buffer) - start < _ITERATOR_READ:
                buffer.extend(bytes(len(buffer) + _ITERATOR_READ))
            with memoryview(buffer) as view:
                count = os.readv(fd, [view[start:]])
            if not count:
                return start
            start += count
    finally:
        os.close(fd)


def map_update(fd: int, key: bytes, value: bytes) -> None:
    """Insert or replace one element. Raises OSError."""
    name = ctypes.create_string_buffer(key, len(key))
    data = ctypes.create_string_buffer(value, len(value))
    _bpf(
        _MAP_UPDATE,
        struct.pack("<IIQQQ", fd, 0, ctypes.addressof(name), ctypes.addressof(data), 0),
        (name, data),
    )


def map_delete(fd: int, key: bytes) -> bool:
    """Delete one element; False when there was none. Raises OSError."""
    name = ctypes.create_string_buffer(key, len(key))
    try:
        _bpf(_MAP_DELETE, struct.pack("<IIQ", fd, 0, ctypes.addressof(name)), (name,))
    except FileNotFoundError:
        return False
    return True


def map_lookup(fd: int, key: bytes, size: int, *, take: bool = False) -> bytes | None:
    """One element's value (``size`` bytes; per-CPU maps: of all CPUs). Raises OSError.

    ``take`` deletes it in the same step (hash maps; Linux 5.14).
    """
    name = ctypes.create_string_buffer(key, len(key))
    value = ctypes.create_string_buffer(size)
    try:
        _bpf(
            _MAP_LOOKUP_AND_DELETE if take else _MAP_LOOKUP,
            struct.pack("<IIQQQ", fd, 0, ctypes.addressof(name), ctypes.addressof(value), 0),
            (name, value),
        )
    except FileNotFoundError:
        return None
    return value.raw


def map_items(
    fd: int, key_size: int, value_size: int, limit: int, *, take: bool = False
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Up to ``limit`` elements at once, as bytes: shapes (n, key_size) and (n, value_size).

    ``take`` deletes them in the same step (hash maps). For per-CPU maps ``value_size``
    is that of all CPUs (8-byte rounded each). Raises OSError.
    """
    keys = np.zeros((limit, key_size), np.uint8)
    values = np.zeros((limit, value_size), np.uint8)
    cursor = np.zeros(max(key_size, 8), np.uint8)
    found, first = 0, True
    while found < limit:
        attributes = struct.pack(
            "<QQQQIIQQ",
            0 if first else cursor.ctypes.data,
            cursor.ctypes.data,
            keys[found:].ctypes.data,
            values[found:].ctypes.data,
            limit - found,
            fd,
            0,
            0,
        )
        count, more = _batch(
            _MAP_LOOKUP_AND_DELETE_BATCH if take else _MAP_LOOKUP_BATCH, attributes
        )
        found, first = found + count, False
        if not more:
            break
    return keys[:found], values[:found]


def _batch(command: int, attributes: bytes) -> tuple[int, bool]:
    """(elements found, whether there may be more) of one batch call. Raises OSError."""
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    result = int(_syscall(_SYS_BPF, command, buffer, ctypes.c_uint(len(attributes))))
    code = ctypes.get_errno() if result < 0 else 0
    if code not in (0, errno.ENOENT):  # ENOENT: the end has been reached
        raise OSError(code, f"bpf(2) command {command}: {os.strerror(code)}")
    (count,) = struct.unpack_from("<I", buffer, 32)
    return count, code == 0


def per_cpu_sums(fd: int, entries: int) -> npt.NDArray[np.uint64]:
    """The elements of a per-CPU array of u64, each summed over CPUs. Raises OSError."""
    keys, values = map_items(fd, 4, 8 * cpus(), entries)
    sums = np.zeros(entries, np.uint64)
    sums[keys.view(np.uint32)[:, 0]] = values.view(np.uint64).sum(axis=1)
    return sums


@cache
def cpus() -> int:
    """How many values a per-CPU element has: the CPUs that this kernel could ever have."""
    text = Path("/sys/devices/system/cpu/possible").read_text()
    return int(text.strip().rpartition("-")[2].rpartition(",")[2]) + 1
