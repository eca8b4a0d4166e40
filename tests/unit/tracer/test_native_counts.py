"""Counters of native maps: read without being taken, taken where there is no room, never lost."""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from probes.wire import PAYLOAD, Kind
from tracer.backends.bcc import syscalls
from tracer.backends.bcc.native_counts import MAX_COUNTS, MapMaps

CPUS = 2


class Counters:
    """A per-CPU hash map that the test counts in, as the programs would."""

    def __init__(self) -> None:
        self.values: dict[bytes, list[list[int]]] = {}
        self.before_take: list[tuple[int, int]] = []

    def count(self, address: int, n: int, cpu: int = 0) -> None:
        key = struct.pack("<QIIBBBBI", address, 7, 0, 3, 0, 0, 255, 0)
        value = self.values.setdefault(key, [[0, 0, 0] for _ in range(CPUS)])
        value[cpu] = [value[cpu][0] + n, value[cpu][1] + 10 * n, value[cpu][2]]

    def map_items(self, _fd: int, key: int, value: int, limit: int) -> tuple[Any, Any]:
        assert len(self.values) <= limit
        keys = np.frombuffer(b"".join(self.values), np.uint8).reshape(-1, key)
        values = np.array(list(self.values.values()), np.uint64).view(np.uint8)
        return keys, values.reshape(-1, value)

    def map_lookup(self, _fd: int, key: bytes, _size: int, *, take: bool = False) -> bytes:
        assert take
        (address,) = struct.unpack_from("<Q", key)
        for late, n in self.before_take:
            if late == address:
                self.count(late, n, cpu=1)
        return np.array(self.values.pop(key), np.uint64).tobytes()


def test_room_is_made_for_maps_that_come_and_go_and_nothing_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kernel = Counters()
    for name in ("map_items", "map_lookup"):
        monkeypatch.setattr(syscalls, name, getattr(kernel, name))
    monkeypatch.setattr(syscalls, "cpus", lambda: CPUS)
    maps = MapMaps(SimpleNamespace(maps={"ps_map_counts": 0}))  # type: ignore[arg-type]
    told = 0

    def read() -> None:
        nonlocal told
        found = maps.take_counts(5).view(PAYLOAD[Kind.MAP_COUNT])
        assert (found["total_ns"] == 10 * found["count"]).all()
        told += int(found["count"].sum())

    for address in range(MAX_COUNTS):
        kernel.count(address, 2)
    read()
    kernel.count(0, 1)
    read()
    assert len(kernel.values) == MAX_COUNTS, "nothing has stood still for long"
    kernel.count(0, 1)
    kernel.before_take = [(5, 3)]  # hit between the reading and the taking
    read()
    assert len(kernel.values) == 1
    kernel.count(5, 4)
    read()
    assert told == 2 * MAX_COUNTS + 2 + 3 + 4
