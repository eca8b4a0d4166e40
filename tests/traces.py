"""Small traces to order, and a second reader of their bytes that shares no code with the first."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from collector.events import Event
from collector.park import PARK
from collector.trace.reader import TraceReader
from collector.trace.writer import TraceWriter
from probes.wire import RECORD

MS = 1_000_000
START_NS = 10**12

_FIXED = struct.Struct("<8sHHIQQIIIHHII")


@dataclass(frozen=True)
class RawFrame:
    """A frame by FORMAT.md's table, nothing checked but its magic."""

    offset: int
    kind: int
    sequence: int
    now_ns: int
    first_row: int
    rows: int
    raw_length: int
    ticks: tuple[tuple[int, int], ...]
    drops: tuple[tuple[int, int], ...]
    payload: bytes
    payload_offset: int
    header_holds: bool
    payload_holds: bool

    @property
    def end(self) -> int:
        return self.payload_offset + len(self.payload)

    def unpacked(self) -> bytes:
        import pyarrow as pa

        raw: bytes = pa.Codec("zstd").decompress(self.payload, self.raw_length, asbytes=True)
        return raw

    def json(self) -> Any:
        return json.loads(self.unpacked())


def raw_frames(data: bytes) -> Iterator[RawFrame]:
    """The frames of an undamaged trace."""
    offset = 16
    while offset < len(data):
        fixed = data[offset : offset + 56]
        magic, kind, _, sequence, now_ns, first_row, rows, length, raw, n_ticks, n_drops, *crcs = (
            _FIXED.unpack(fixed)
        )
        assert magic == b"\xa7PSFRM\n\x5a"
        at = offset + 56
        ticks = tuple(struct.iter_unpack("<QI", data[at : at + 12 * n_ticks]))
        at += 12 * n_ticks
        drops = tuple(struct.iter_unpack("<IQ", data[at : at + 12 * n_drops]))
        at += 12 * n_drops
        payload = data[at : at + length]
        header = fixed[:52] + data[offset + 56 : at]
        yield RawFrame(
            offset, kind, sequence, now_ns, first_row, rows, raw, ticks, drops, payload, at,
            zlib.crc32(header) == crcs[1], zlib.crc32(payload) == crcs[0],
        )  # fmt: skip
        offset = at + length


def some_records(count: int, start: int = 0) -> npt.NDArray[Any]:
    """Records that differ in every byte of every column sooner or later."""
    random = np.random.default_rng([count, start])
    rows = np.frombuffer(random.bytes(count * RECORD.itemsize), RECORD).copy()
    rows["ts_ns"] = START_NS + (start + np.arange(count)) * 1000
    return rows


def some_parks(count: int) -> npt.NDArray[Any]:
    random = np.random.default_rng(count)
    return np.frombuffer(random.bytes(count * PARK.itemsize), PARK).copy()


def some_events(count: int) -> list[Event]:
    return [
        Event("park_long", START_NS + n, pid=1, tid=n, thread_name=f"t{n}", kind="lock", idle=False,
              start_ns=n, duration_ns=5, before_attach=False, data={"park_id": n, "stack": None})
        for n in range(count)
    ]  # fmt: skip


@dataclass
class Content:
    """All that a trace gave."""

    records: npt.NDArray[Any]
    parks: npt.NDArray[Any]
    events: list[Event]
    reader: TraceReader


def read(path: Path) -> Content:
    """Everything that can be read, with the (closed) reader for its verdict."""
    records, parks = [np.empty(0, RECORD)], [np.empty(0, PARK)]
    events: list[Event] = []
    with TraceReader(path) as reader:
        for frame in reader.frames():
            records.append(frame.records)
            parks.append(frame.parks)
            events += frame.events
    return Content(np.concatenate(records), np.concatenate(parks), events, reader)


def small_trace(path: Path) -> None:
    """A clean trace with several frames of each kind."""
    writer = TraceWriter(path, {"what": "a small trace"})
    for batch in range(6):
        now_ns = START_NS + batch * 100 * MS
        writer.add_records(some_records(7, batch * 7), {4: batch, 10: 1}, now_ns)
        writer.add_parks(some_parks(3))
        writer.add_events(some_events(2))
    writer.close({"parks": 18})
