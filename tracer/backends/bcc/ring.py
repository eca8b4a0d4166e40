"""The BPF ring buffer, mapped and drained in bulk with numpy.

Layout (the kernel's kernel/bpf/ringbuf.c): one page with the consumer's position, one
with the producer's, then the data, mapped twice in a row so that nothing wraps. Each
record has an 8-byte header: length in the low 30 bits, bit 31 busy (reserved, not
submitted), bit 30 discarded. All records here are of one size, so a drain is a copy.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from probes.wire import RECORD, RECORD_SIZE

PAGE = mmap.PAGESIZE
STRIDE = RECORD_SIZE + 8
BUSY, DISCARDED = np.uint32(1 << 31), np.uint32(1 << 30)

# The record without its fields: numpy copies it as 64 bytes, not field by field (15 times
# as slow).
PERIOD_NS = 45_000_000
"""The ring is looked at so often when nothing happens: a sudden flood finds room until
the next look, also on a busy machine where that comes late."""
IDLE_PERIOD_NS = 2 * PERIOD_NS
IDLE_LOOKS = 8
"""… and so often once so many looks in a row have found nothing: half of what the tracer
takes on an idle target is that it wakes up."""
MIN_PERIOD_NS = 1_000_000
SHARE = 4
"""Under load it is drained when it must be a quarter full."""

_SLOT = np.dtype([("length", "<u4"), ("page", "<u4"), ("record", f"V{RECORD_SIZE}")])


class Ring:
    """A mapped ring of 64-byte records.

    ``fd``: the map (or, in tests, a file of the same layout). ``size``: bytes of
    data, a power of two and a multiple of the page. Raises OSError when it cannot
    be mapped.
    """

    def __init__(self, fd: int, size: int) -> None:
        if size < PAGE or size & (size - 1):
            raise ValueError(f"a ring of {size} bytes")
        self.size = size
        self._mask = size - 1
        self._consumer_map = mmap.mmap(fd, PAGE, mmap.MAP_SHARED)
        try:
            self._data_map = mmap.mmap(
                fd, PAGE + 2 * size, mmap.MAP_SHARED, mmap.PROT_READ, offset=PAGE
            )
        except OSError:
            self._consumer_map.close()
            raise
        self._consumer = np.frombuffer(self._consumer_map, np.uint64, 1)
        self._producer = np.frombuffer(self._data_map, np.uint64, 1)

    def pending(self) -> int:
        """Bytes between the producer and what has been drained."""
        return int(self._producer[0]) - int(self._consumer[0])

    def drain(self) -> npt.NDArray[Any]:
        """All submitted records up to the first that is still being written.

        A copy (dtype ``RECORD``), in the order of reservation; the room is given
        back to the kernel. Discarded records are left out.
        """
        start = int(self._consumer[0])
        count = (int(self._producer[0]) - start) // STRIDE
        if count <= 0:
            return np.empty(0, RECORD)
        # x86-64 keeps loads in order: what the position covers has its header written.
        slots = np.frombuffer(self._data_map, _SLOT, count, PAGE + (start & self._mask))
        length = slots["length"]
        busy = np.flatnonzero(length & BUSY)
        if len(busy):
            count = int(busy[0])
            slots, length = slots[:count], length[:count]
        discarded = (length & DISCARDED) != 0
        copy = slots["record"][~discarded] if discarded.any() else slots["record"].copy()
        self._consumer[0] = start + count * STRIDE
        records: npt.NDArray[Any] = copy.view(RECORD)
        return records

    def close(self) -> None:
        """Unmap. Safe to call twice."""
        if not self._data_map.closed:
            del self._consumer, self._producer
            self._data_map.close()
            self._consumer_map.close()


def joined(pieces: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """One array of ``RECORD``, copied as bytes: numpy copies a record field by field."""
    return np.concatenate([piece.view(f"V{RECORD_SIZE}") for piece in pieces]).view(RECORD)


class Pace:
    """Says when to look at a ring of ``size`` bytes again. Pure; times in ns from outside."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._bytes = 0
        self._since_ns = 0
        self._rate = 0.0
        self._empty = 0
        self.due_ns = 0

    def looked(self, pending: int, now_ns: int) -> None:
        """At ``now_ns`` there were ``pending`` bytes, and they are being drained.

        Next time when the ring will be a quarter full at the rate of late, which two
        looks in a row do not tell: the second finds an empty ring.
        """
        self._bytes += pending
        elapsed = now_ns - self._since_ns
        if elapsed < MIN_PERIOD_NS:
            return
        self._rate = max(self._bytes / elapsed, self._rate / 2)
        self._empty = 0 if self._bytes else self._empty + 1
        self._bytes, self._since_ns = 0, now_ns
        period = IDLE_PERIOD_NS if self._empty >= IDLE_LOOKS else PERIOD_NS
        fill_ns = self._size / SHARE / self._rate if self._rate else period
        self.due_ns = now_ns + min(period, max(MIN_PERIOD_NS, int(fill_ns)))
