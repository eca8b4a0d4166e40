"""The mapped ring over a plain file whose contents are written here as the kernel would."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from probes.wire import RECORD_SIZE
from tracer.backends.bcc.ring import (
    IDLE_LOOKS,
    IDLE_PERIOD_NS,
    MIN_PERIOD_NS,
    PAGE,
    PERIOD_NS,
    STRIDE,
    Pace,
    Ring,
)

SIZE = PAGE
BUSY, DISCARDED = 1 << 31, 1 << 30


class File:
    """The kernel's side: positions and records in a file of the ring's layout.

    A record that crosses the end is written to both copies of the data, which in
    the kernel are the same memory.
    """

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT)
        os.ftruncate(self.fd, 2 * PAGE + 2 * SIZE)
        self.produced = 0

    def start_at(self, position: int) -> None:
        self.produced = position
        os.pwrite(self.fd, struct.pack("<Q", position), 0)
        os.pwrite(self.fd, struct.pack("<Q", position), PAGE)

    def put(self, number: int, flags: int = 0) -> int:
        at = self.produced
        self.header(at, flags)
        for copy in (0, SIZE):
            place = 2 * PAGE + copy + at % SIZE + 8
            if place + RECORD_SIZE <= 2 * PAGE + 2 * SIZE:
                os.pwrite(self.fd, struct.pack("<Q", number) + bytes(RECORD_SIZE - 8), place)
        self.mirror(at)
        self.produced += STRIDE
        os.pwrite(self.fd, struct.pack("<Q", self.produced), PAGE)
        return at

    def header(self, at: int, flags: int) -> None:
        data = struct.pack("<II", RECORD_SIZE | flags, 0)
        os.pwrite(self.fd, data, 2 * PAGE + at % SIZE)

    def mirror(self, at: int) -> None:
        """What stands past the end of the first copy stands at the start of it too."""
        over = at % SIZE + STRIDE - SIZE
        if over > 0:
            tail = os.pread(self.fd, over, 2 * PAGE + SIZE)
            os.pwrite(self.fd, tail, 2 * PAGE)

    def consumed(self) -> int:
        return int(struct.unpack("<Q", os.pread(self.fd, 8, 0))[0])


@pytest.fixture
def file(tmp_path: Path) -> Iterator[File]:
    made = File(tmp_path / "ring")
    yield made
    os.close(made.fd)


@pytest.fixture
def ring(file: File) -> Iterator[Ring]:
    made = Ring(file.fd, SIZE)
    yield made
    made.close()


def numbers(ring: Ring) -> list[int]:
    return [int(n) for n in ring.drain()["ts_ns"]]


def test_nothing_is_nothing(file: File, ring: Ring) -> None:
    assert not len(ring.drain())
    assert ring.pending() == 0
    assert file.consumed() == 0


def test_records_come_once_in_order_and_free_their_room(file: File, ring: Ring) -> None:
    for number in range(5):
        file.put(number)
    assert ring.pending() == 5 * STRIDE
    assert numbers(ring) == [0, 1, 2, 3, 4]
    assert file.consumed() == 5 * STRIDE
    assert numbers(ring) == []


def test_round_and_round_across_the_end(file: File, ring: Ring) -> None:
    expected, got = list(range(1000)), []
    for first in range(0, 1000, 40):  # 40 records of 72 bytes in a page: every offset comes up
        for number in expected[first : first + 40]:
            file.put(number)
        got += numbers(ring)
    assert got == expected
    assert file.consumed() == 1000 * STRIDE


def test_a_record_that_is_being_written_holds_back_the_later_ones(file: File, ring: Ring) -> None:
    file.put(1)
    at = file.put(2, BUSY)
    file.put(3)
    assert numbers(ring) == [1]
    assert file.consumed() == STRIDE
    assert numbers(ring) == []
    file.header(at, 0)
    assert numbers(ring) == [2, 3]


def test_discarded_records_are_left_out(file: File, ring: Ring) -> None:
    for number, flags in ((1, 0), (2, DISCARDED), (3, 0), (4, DISCARDED)):
        file.put(number, flags)
    assert numbers(ring) == [1, 3]
    assert file.consumed() == 4 * STRIDE


def test_positions_beyond_four_gigabytes(file: File) -> None:
    file.start_at((1 << 40) // STRIDE * STRIDE)
    ring = Ring(file.fd, SIZE)
    file.put(7)
    assert numbers(ring) == [7]
    ring.close()


def test_what_was_drained_is_a_copy(file: File, ring: Ring) -> None:
    file.put(1)
    records = ring.drain()
    for number in range(2, 2 + SIZE // STRIDE):
        file.put(number)
    assert records["ts_ns"].tolist() == [1]
    assert records.flags.writeable


@pytest.mark.parametrize("size", [0, 100, PAGE + 1, 3 * PAGE])
def test_only_a_power_of_two_of_pages(size: int, file: File) -> None:
    with pytest.raises(ValueError, match="ring"):
        Ring(file.fd, size)


def test_closing_twice(file: File) -> None:
    ring = Ring(file.fd, SIZE)
    assert isinstance(ring.drain(), np.ndarray)
    ring.close()
    ring.close()


MS = 1_000_000


def test_an_idle_ring_is_looked_at_rarely() -> None:
    pace = Pace(16 << 20)
    pace.looked(0, 1000 * MS)
    assert pace.due_ns == 1000 * MS + PERIOD_NS


def test_a_ring_that_stays_empty_is_looked_at_more_rarely_until_it_is_not() -> None:
    pace = Pace(16 << 20)
    pace.looked(STRIDE, 1000 * MS)
    gaps = []
    for _ in range(IDLE_LOOKS + 1):
        now = pace.due_ns
        pace.looked(0, now)
        gaps.append(pace.due_ns - now)
    assert gaps == [PERIOD_NS] * (IDLE_LOOKS - 1) + [IDLE_PERIOD_NS] * 2
    now = pace.due_ns
    pace.looked(STRIDE, now)
    assert pace.due_ns == now + PERIOD_NS


def test_a_flood_is_drained_at_a_quarter_whatever_a_second_look_finds() -> None:
    pace = Pace(16 << 20)
    pace.looked(0, 1000 * MS)
    pace.looked(4 << 20, 1010 * MS)  # a quarter in 10 ms
    assert pace.due_ns == 1020 * MS
    pace.looked(0, 1010 * MS + 50_000)
    assert pace.due_ns == 1020 * MS
    pace.looked(4 << 20, 1020 * MS)
    assert pace.due_ns == 1030 * MS


def test_after_a_flood_the_looks_get_rarer_step_by_step() -> None:
    pace = Pace(16 << 20)
    pace.looked(0, 1000 * MS)
    pace.looked(8 << 20, 1010 * MS)
    gaps = []
    for _ in range(5):
        now = pace.due_ns
        pace.looked(0, now)
        gaps.append((pace.due_ns - now) // MS)
    assert gaps == [10, 20, 40, 45, 45]


def test_never_more_often_than_every_millisecond() -> None:
    pace = Pace(PAGE)
    pace.looked(0, 1000 * MS)
    pace.looked(1 << 30, 1002 * MS)
    assert pace.due_ns == 1002 * MS + MIN_PERIOD_NS
