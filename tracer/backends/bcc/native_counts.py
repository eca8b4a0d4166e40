"""The maps of the native map programs: sites in, counts and open waits out.

Layouts: ``probes/native_map/native_map.bpf.c``. Counters are read without being taken and
only ever grow, so a hit in the middle of a reading is in the next one; one that has to make
room is taken with what was counted last.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from probes.wire import PAYLOAD, RECORD, Kind, empty
from tracer.backends.bcc import syscalls
from tracer.backends.bcc.load import Kernel

MAX_SITES = 512  # PS_MAX_MAP_SITES
MAX_WAITS = 8192
MAX_RANGES = 16384
MAX_COUNTS = 8192
"""Counters of all maps together: a map that is iterated over has some forty."""
_NEARLY_FULL, _FULL = MAX_COUNTS * 3 // 4, MAX_COUNTS * 7 // 8
_WAIT_SIZE, _RANGE_KEY, _RANGE_SIZE = 40, 24, 24

_KEY = np.dtype(
    [
        ("map", "<u8"), ("pid", "<u4"), ("profile", "<u4"), ("counter", "u1"), ("mode", "u1"),
        ("outcome", "u1"), ("bucket", "u1"), ("pad", "<u4"),
    ]
)  # fmt: skip
_ZERO = (0, 0, 0)
_VALUE = np.dtype([("count", "<u8"), ("total_ns", "<u8"), ("items", "<u8")])
_QUIET_READINGS, _QUIET_AT_ONCE = 60, 2
"""Where there is hardly room left, counters that stood still for so many readings go; where
there is none, sooner: a program may make a map for each request."""


class MapMaps:
    """One per source."""

    NAMES = ("ps_map_sites", "ps_map_hits", "ps_map_waits", "ps_map_ranges", "ps_map_counts")

    def __init__(self, kernel: Kernel) -> None:
        self._maps = kernel.maps
        self._seen: dict[bytes, tuple[int, int, int]] = {}
        self._quiet: dict[bytes, int] = {}

    def put_site(self, number: int, site: bytes) -> None:
        """Say what a cookie means. Raises OSError."""
        syscalls.map_update(self._maps["ps_map_sites"], struct.pack("<I", number), site)

    def hits(self, sites: int) -> npt.NDArray[np.uint64]:
        """How often each of the first ``sites`` places was hit so far."""
        if not sites:
            return np.zeros(0, np.uint64)
        return syscalls.per_cpu_sums(self._maps["ps_map_hits"], sites)

    def drop_waits(self) -> None:
        """Forget all waits that are open: their ends will not be seen any more."""
        syscalls.map_items(self._maps["ps_map_waits"], 4, _WAIT_SIZE, MAX_WAITS, take=True)

    def drop_ranges(self, pid: int | None = None) -> None:
        """Forget ranges that are open, of one process or all."""
        fd = self._maps["ps_map_ranges"]
        if pid is None:
            syscalls.map_items(fd, _RANGE_KEY, _RANGE_SIZE, MAX_RANGES, take=True)
            return
        keys, _ = syscalls.map_items(fd, _RANGE_KEY, _RANGE_SIZE, MAX_RANGES)
        for key in keys[keys.view("<u4")[:, 4] == pid]:
            syscalls.map_delete(fd, key.tobytes())

    def take_counts(self, now_ns: int) -> npt.NDArray[Any]:
        """What was counted since the last call, as MAP_COUNT records."""
        keys, sums = self._read()
        news: list[bytes] = []
        rows: list[tuple[int, ...]] = []
        for key, total in zip(map(bytes, keys), sums, strict=True):
            before = self._seen.get(key, _ZERO)
            if total == before:
                self._quiet[key] = self._quiet.get(key, 0) + 1
                continue
            self._quiet.pop(key, None)
            self._seen[key] = total
            news.append(key)
            rows.append(_more(total, before))
        if len(keys) > _NEARLY_FULL:
            for key, row in self._make_room(_QUIET_AT_ONCE if len(keys) > _FULL else None):
                news.append(key)
                rows.append(row)
        return _records(news, rows, now_ns) if news else empty()

    def _read(self) -> tuple[npt.NDArray[np.uint8], list[tuple[int, int, int]]]:
        """Keys and, summed over CPUs, values."""
        size = _VALUE.itemsize * syscalls.cpus()
        keys, values = syscalls.map_items(
            self._maps["ps_map_counts"], _KEY.itemsize, size, MAX_COUNTS
        )
        return keys, _sums(values.reshape(-1))

    def _make_room(self, readings: int | None) -> Iterator[tuple[bytes, tuple[int, ...]]]:
        """Let go of counters that stand still; what they counted since they were read."""
        least = _QUIET_READINGS if readings is None else readings
        size = _VALUE.itemsize * syscalls.cpus()
        for key in [key for key, quiet in self._quiet.items() if quiet >= least]:
            value = syscalls.map_lookup(self._maps["ps_map_counts"], key, size, take=True)
            before = self._seen.pop(key, _ZERO)
            del self._quiet[key]
            (total,) = _sums(np.frombuffer(value, np.uint8)) if value is not None else (before,)
            if total != before:
                yield key, _more(total, before)

    def forget(self, pid: int) -> None:
        """A process is over: its counters were read, its maps are no more."""
        for key in [key for key in self._seen if struct.unpack_from("<I", key, 8)[0] == pid]:
            self._forget(key)
        self.drop_ranges(pid)

    def _forget(self, key: bytes) -> None:
        syscalls.map_delete(self._maps["ps_map_counts"], key)
        self._seen.pop(key, None)
        self._quiet.pop(key, None)


def _sums(values: npt.NDArray[np.uint8]) -> list[tuple[int, int, int]]:
    """Count, time and items, summed over CPUs, of each element's value."""
    counts = values.view(_VALUE).reshape(-1, syscalls.cpus())
    columns = [counts[name].sum(axis=1).tolist() for name in ("count", "total_ns", "items")]
    return list(zip(*columns, strict=True))


def _more(total: tuple[int, int, int], before: tuple[int, int, int]) -> tuple[int, ...]:
    return tuple(now - then for now, then in zip(total, before, strict=True))


def _records(names: list[bytes], rows: list[tuple[int, ...]], now_ns: int) -> npt.NDArray[Any]:
    keys = np.frombuffer(b"".join(names), _KEY)
    records = np.zeros(len(keys), PAYLOAD[Kind.MAP_COUNT])
    records["kind"], records["ts_ns"] = Kind.MAP_COUNT, now_ns
    for name in ("map", "pid", "profile", "counter", "mode", "outcome", "bucket"):
        records[name] = keys[name]
    for name, column in zip(("count", "total_ns", "items"), zip(*rows, strict=True), strict=True):
        records[name] = column
    return records.view(RECORD)
