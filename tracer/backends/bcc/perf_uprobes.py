"""Uprobes one by one through perf events: for kernels without ``uprobe_multi`` (before 6.6).

perf_event_open(2); Documentation/trace/uprobetracer.rst; the PMU's numbers stand in
/sys/bus/event_source/devices/uprobe. A perf event for a process's uprobe sees all
of its threads (kernel: kernel/trace/trace_uprobe.c filters by memory space). Cookies
for such links exist since Linux 5.15.
"""

from __future__ import annotations

import ctypes
import os
import struct
from functools import cache
from pathlib import Path
from typing import NamedTuple

_SYS_BPF = 321
_LINK_CREATE = 28
_BPF_PERF_EVENT = 41
_SYS_PERF_EVENT_OPEN = 298
_PMU = Path("/sys/bus/event_source/devices/uprobe")
_ATTRIBUTES_SIZE = 112  # PERF_ATTR_SIZE_VER5
_FLAG_CLOEXEC = 8
_COUNTER_SHIFT = 32  # format/ref_ctr_offset of the PMU: config:32-63
_BTF = Path("/sys/kernel/btf/vmlinux")

_libc = ctypes.CDLL(None, use_errno=True)


@cache
def kernel_has_uprobe_multi() -> bool:
    """Whether this kernel knows ``uprobe_multi`` links: its own types name the attach type."""
    try:
        return b"\0BPF_TRACE_UPROBE_MULTI\0" in _BTF.read_bytes()
    except OSError:
        return False


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"uprobe by perf event: {os.strerror(code)}")
    return result


@cache
def _pmu() -> tuple[int, int]:
    """Type of the uprobe PMU and its bit for return probes. Raises OSError, ValueError."""
    kind = int((_PMU / "type").read_text())
    _, _, bit = (_PMU / "format" / "retprobe").read_text().strip().partition("config:")
    return kind, 1 << int(bit)


class Place(NamedTuple):
    """A place in a file, and the counter that the kernel raises while it is probed (0: none)."""

    path: str
    offset: int
    semaphore: int = 0


def open_uprobe(place: Place, pid: int, *, returns: bool) -> int:
    """A perf event that fires at a place in process ``pid``. Raises OSError."""
    kind, return_bit = _pmu()
    config = (return_bit if returns else 0) | place.semaphore << _COUNTER_SHIFT
    name = ctypes.create_string_buffer(os.fsencode(place.path))
    attributes = bytearray(_ATTRIBUTES_SIZE)
    # type, size, config, sample_period, sample_type, read_format
    struct.pack_into("<IIQQQQ", attributes, 0, kind, _ATTRIBUTES_SIZE, config, 1, 0, 0)
    # uprobe_path, probe_offset
    struct.pack_into("<QQ", attributes, 56, ctypes.addressof(name), place.offset)
    buffer = ctypes.create_string_buffer(bytes(attributes), len(attributes))
    return _checked(_libc.syscall(_SYS_PERF_EVENT_OPEN, buffer, pid, -1, -1, _FLAG_CLOEXEC))


def link_uprobe(
    program: int, place: Place, cookie: int, *, pid: int, returns: bool
) -> tuple[int, int]:
    """Attach ``program`` there: (link, event), both to be closed. Raises OSError."""
    event = open_uprobe(place, pid, returns=returns)
    try:
        # union bpf_attr, link_create: prog_fd, target_fd, attach_type, flags, bpf_cookie
        attributes = struct.pack("<IIIIQ", program, event, _BPF_PERF_EVENT, 0, cookie)
        buffer = ctypes.create_string_buffer(attributes, len(attributes))
        return _checked(_libc.syscall(_SYS_BPF, _LINK_CREATE, buffer, len(attributes))), event
    except OSError:
        os.close(event)
        raise
