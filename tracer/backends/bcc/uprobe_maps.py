"""The maps of the uprobe programs: what user space writes into them and reads out.

Layouts: ``probes/slow_path/slow_path.bpf.c`` and ``probes/alloc/alloc.bpf.c``.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from probes.wire import PAYLOAD, RECORD, Kind
from tracer.backends.bcc import syscalls
from tracer.backends.bcc.load import Kernel
from tracer.sites.allocation import ALIGNMENT
from tracer.sites.hooks import LibcCode

HIT_SLOTS = 8  # PS_SITE_END, PS_ALLOC_SITE_END
MAX_HISTOGRAM = 4096
MAX_REFILLS = 16384
OPEN_WAITS = 32768
_OPEN_WAIT_SIZE = 56

_HIST_KEY = np.dtype([("pid", "<u4"), ("wait_class", "<u2"), ("bucket", "<u2")])
_HIST_VALUE = np.dtype([("count", "<u8"), ("total_ns", "<u8")])
_REFILL_KEY = np.dtype([("pid", "<u4"), ("tid", "<u4"), ("size_class", "<u4")])


class WaitMaps:
    """Maps of the slow-path probe."""

    NAMES = ("ps_open_waits", "ps_gils", "ps_take_gil", "ps_wait_hist", "ps_wait_hits")

    def __init__(self, kernel: Kernel) -> None:
        self._maps = kernel.maps
        self._gils: dict[int, tuple[int, ...]] = {}

    def hits(self) -> npt.NDArray[np.uint64]:
        """How often each site (index: cookie) was hit so far; 0, the scratch child, left out."""
        hits = syscalls.per_cpu_sums(self._maps["ps_wait_hits"], HIT_SLOTS)
        hits[0] = 0
        return hits

    def know_gils(
        self, pid: int, conditions: tuple[int, ...], take_gil: tuple[int, int] | None
    ) -> None:
        """Tell a process's GILs: their conditions, else where ``take_gil``'s code stands."""
        self.forget(pid)
        for condition in conditions:
            key = struct.pack("<QII", condition, pid, 0)
            syscalls.map_update(self._maps["ps_gils"], key, struct.pack("<I", 1))
        self._gils[pid] = conditions
        if not conditions and take_gil is not None:
            key = struct.pack("<I", pid)
            syscalls.map_update(self._maps["ps_take_gil"], key, struct.pack("<QQ", *take_gil))

    def forget(self, pid: int) -> None:
        """The process has ended or replaced its program."""
        for condition in self._gils.pop(pid, ()):
            syscalls.map_delete(self._maps["ps_gils"], struct.pack("<QII", condition, pid, 0))
        syscalls.map_delete(self._maps["ps_take_gil"], struct.pack("<I", pid))

    def drop_open(self) -> None:
        """Forget all waits that are open: their returns will not be seen any more."""
        syscalls.map_items(self._maps["ps_open_waits"], 4, _OPEN_WAIT_SIZE, OPEN_WAITS, take=True)

    def take_histogram(self, now_ns: int) -> npt.NDArray[Any]:
        """The waits too short for a record since the last call, as WAIT_HIST records."""
        cpus = syscalls.cpus()
        keys, values = syscalls.map_items(
            self._maps["ps_wait_hist"], _HIST_KEY.itemsize, _HIST_VALUE.itemsize * cpus,
            MAX_HISTOGRAM, take=True,
        )  # fmt: skip
        names = keys.reshape(-1).view(_HIST_KEY)
        counts = values.reshape(-1).view(_HIST_VALUE).reshape(-1, cpus)
        records = np.zeros(len(names), PAYLOAD[Kind.WAIT_HIST])
        records["kind"], records["ts_ns"], records["pid"] = Kind.WAIT_HIST, now_ns, names["pid"]
        records["wait_class"], records["bucket"] = names["wait_class"], names["bucket"]
        records["count"] = counts["count"].sum(axis=1)
        records["total_ns"] = counts["total_ns"].sum(axis=1)
        return records.view(RECORD)


class AllocMaps:
    """Maps of the allocation probe."""

    NAMES = ("ps_refills", "ps_libc_code", "ps_alloc_hits")

    def __init__(self, kernel: Kernel) -> None:
        self._maps = kernel.maps

    def hits(self) -> npt.NDArray[np.uint64]:
        """How often each site (index: cookie) was hit so far."""
        return syscalls.per_cpu_sums(self._maps["ps_alloc_hits"], HIT_SLOTS)

    def know_libc(self, pid: int, code: LibcCode | None) -> None:
        """Tell where a process's libc has the functions that call ``malloc`` themselves."""
        key = struct.pack("<I", pid)
        if code is None:
            syscalls.map_delete(self._maps["ps_libc_code"], key)
            return
        value = struct.pack("<QQQQII", *code.calloc, *code.realloc, code.realloc_null_is_malloc, 0)
        syscalls.map_update(self._maps["ps_libc_code"], key, value)

    def take_refills(self, now_ns: int) -> npt.NDArray[Any]:
        """The pool refills since the last call, as POOL_REFILL records."""
        keys, values = syscalls.map_items(
            self._maps["ps_refills"], _REFILL_KEY.itemsize, 8, MAX_REFILLS, take=True
        )
        names = keys.reshape(-1).view(_REFILL_KEY)
        records = np.zeros(len(names), PAYLOAD[Kind.POOL_REFILL])
        records["kind"], records["ts_ns"] = Kind.POOL_REFILL, now_ns
        records["pid"], records["tid"] = names["pid"], names["tid"]
        records["size_bytes"] = (names["size_class"] + 1) * ALIGNMENT
        records["count"] = values.reshape(-1).view(np.uint64)
        return records.view(RECORD)
