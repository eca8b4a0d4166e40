"""Traces that somebody made to harm a reader: every check sum in them is right."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from collector.trace import columns, lines
from collector.trace.format import (
    FrameHeader,
    FrameKind,
    Tick,
    TraceState,
    pack_file_header,
    pack_frame,
)
from probes.wire import RECORD
from tests.traces import START_NS, read, some_records

CORRUPT = TraceState.CORRUPT


def craft(path: Path, *frames: bytes) -> None:
    """A trace of somebody else's making, with an honest beginning."""
    raw = lines.dump({"versions": {"format": 1, "wire": 1, "events": 1}})
    stored = columns.compress(raw)
    meta = pack_frame(FrameHeader(FrameKind.META, 0, 0, 0, 1, raw_length=len(raw)), stored)
    path.write_bytes(pack_file_header() + meta + b"".join(frames))


def records_frame(payload: bytes, raw_length: int, rows: int, **header: Any) -> bytes:
    base = FrameHeader(FrameKind.RECORDS, 1, START_NS, 0, rows, raw_length=raw_length)
    return pack_frame(replace(base, **header), payload)


def refused(path: Path, frame: bytes, lost: int | None = None) -> None:
    craft(path, frame)
    got = read(path)
    assert len(got.records) == 0
    assert got.reader.integrity.state is CORRUPT
    assert got.reader.integrity.bad_frames == 1
    if lost is not None:
        assert got.reader.integrity.lost_rows == {"records": lost}


def test_the_honest_frame_is_read(tmp_path: Path) -> None:
    rows = some_records(3)
    craft(tmp_path / "t", records_frame(*columns.encode(rows), 3))
    assert read(tmp_path / "t").records.tobytes() == rows.tobytes()


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    stored = columns.compress(bytes(15 << 20))
    assert len(stored) < 4096
    refused(tmp_path / "t", records_frame(stored, 15 << 20, 3), lost=3)


def test_a_length_that_lies_is_refused(tmp_path: Path) -> None:
    stored, raw_length = columns.encode(some_records(3))
    refused(tmp_path / "t", records_frame(stored, raw_length - 8, 3), lost=3)
    refused(tmp_path / "t", records_frame(stored, raw_length + 8, 3), lost=3)
    refused(tmp_path / "t", records_frame(stored, raw_length, 4), lost=4)
    refused(tmp_path / "t", records_frame(b"", 0, 4), lost=4)


def test_buffers_packed_inside_are_refused(tmp_path: Path) -> None:
    import pyarrow as pa

    rows = np.zeros(60_000, RECORD)
    schema = columns.schema_of(RECORD)
    batch = pa.RecordBatch.from_arrays(
        [pa.array(np.ascontiguousarray(rows[name])) for name in schema.names], schema=schema
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as out:
        out.write_batch(batch)
    raw = sink.getvalue().to_pybytes()[schema.serialize().size :]
    refused(tmp_path / "t", records_frame(columns.compress(raw), len(raw), 60_000), lost=60_000)


def test_other_columns_are_refused(tmp_path: Path) -> None:
    import pyarrow as pa

    for batch in (
        pa.RecordBatch.from_pydict({"ts_ns": pa.array([1, 2, 3], pa.uint64())}),
        pa.RecordBatch.from_pydict({name: ["a", "b", "c"] for name in RECORD.names or ()}),
        pa.RecordBatch.from_pydict({name: [1, None, 3] for name in RECORD.names or ()}),
    ):
        raw = batch.serialize().to_pybytes()
        refused(tmp_path / "t", records_frame(columns.compress(raw), len(raw), 3), lost=3)


def test_a_schema_in_place_of_rows_is_refused(tmp_path: Path) -> None:
    raw = columns.schema_of(RECORD).serialize().to_pybytes()
    refused(tmp_path / "t", records_frame(columns.compress(raw), len(raw), 3), lost=3)


def test_every_flipped_byte_of_an_arrow_message_is_survived(tmp_path: Path) -> None:
    import pyarrow as pa

    batch_rows = some_records(2)
    stored, raw_length = columns.encode(batch_rows)
    raw = bytearray(pa.Codec("zstd").decompress(stored, raw_length, asbytes=True))
    metadata = len(raw) - 2 * RECORD.itemsize
    for at in range(metadata):
        for bit in (0x01, 0x80):
            raw[at] ^= bit
            craft(tmp_path / "t", records_frame(columns.compress(bytes(raw)), raw_length, 2))
            assert len(read(tmp_path / "t").records) in (0, 2)
            raw[at] ^= bit


def test_ticks_that_run_backwards_are_refused(tmp_path: Path) -> None:
    stored, raw_length = columns.encode(some_records(3))
    for ticks in (
        (Tick(5, 1), Tick(4, 2)),
        (Tick(5, 2), Tick(6, 1)),
        (Tick(5, 9),),
    ):
        craft(tmp_path / "t", records_frame(stored, raw_length, 3, ticks=ticks))
        assert len(read(tmp_path / "t").records) == 0


def test_rows_that_claim_to_come_late_are_only_a_number(tmp_path: Path) -> None:
    stored, raw_length = columns.encode(some_records(3))
    craft(tmp_path / "t", records_frame(stored, raw_length, 3, first_row=(1 << 64) - 9, sequence=9))
    got = read(tmp_path / "t")
    assert len(got.records) == 3
    assert got.reader.integrity.lost_rows == {"records": (1 << 64) - 9}
    assert got.reader.integrity.lost_frames == 8


def events_frame(raw: bytes, rows: int) -> bytes:
    header = FrameHeader(FrameKind.EVENTS, 1, START_NS, 0, rows, raw_length=len(raw))
    return pack_frame(header, columns.compress(raw))


@pytest.mark.parametrize(
    "line",
    [
        b"[1,2]",
        b'"text"',
        b"{",
        b'{"event":"x"}',
        b'{"event":1,"ts_ns":1}',
        b'{"event":"x","ts_ns":"1"}',
        b'{"event":"x","ts_ns":-1}',
        b'{"event":"x","ts_ns":true}',
        b'{"event":"x","ts_ns":1e400}',
        b'{"event":"x","ts_ns":99999999999999999999999}',
        b'{"event":"x","ts_ns":1,"pid":"7"}',
        b'{"event":"x","ts_ns":1,"tid":[]}',
        b'{"event":"x","ts_ns":1,"tid":4294967296}',
        b'{"event":"x","ts_ns":1,"thread_name":{}}',
        b'{"event":"x","ts_ns":1,"idle":1}',
        b'{"event":"x","ts_ns":1,"kind":3}',
        b'{"event":"\xff","ts_ns":1}',
        b'{"event":"\\ud800","ts_ns":1}',
        b"[" * 100_000,
        b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
        b"\x00",
        b"nul",
    ],
)
def test_lines_that_are_no_events_are_counted(tmp_path: Path, line: bytes) -> None:
    good = b'{"event":"x","ts_ns":1,"data":{"deep":[[[]]]}}'
    craft(tmp_path / "t", events_frame(b"\n".join([good, line, good, b""]), 3))
    got = read(tmp_path / "t")
    assert len(got.events) == 2
    assert got.reader.integrity.bad_lines == 1
    assert got.reader.integrity.state is CORRUPT


def test_a_wrong_number_of_events_is_refused(tmp_path: Path) -> None:
    craft(tmp_path / "t", events_frame(b'{"event":"x","ts_ns":1}\n', 2))
    assert read(tmp_path / "t").reader.integrity.bad_frames == 1


@pytest.mark.parametrize(
    "end",
    [
        b"[]",
        b"{}",
        b'{"written":7,"unwritten":[],"dropped":"x"}',
        b'{"written":{"records":-5},"dropped":{"4":1.5,"x":3,"-1":2},"unwritten":{"records":true}}',
    ],
)
def test_an_end_record_that_says_nonsense(tmp_path: Path, end: bytes) -> None:
    header = FrameHeader(FrameKind.END, 1, START_NS, 0, 1, raw_length=len(end))
    craft(tmp_path / "t", pack_frame(header, columns.compress(end)))
    got = read(tmp_path / "t").reader.integrity
    assert not got.lost_rows
    assert not got.unwritten


def test_a_second_meta_frame_is_refused(tmp_path: Path) -> None:
    raw = lines.dump({"versions": {"wire": 1}})
    header = FrameHeader(FrameKind.META, 1, 0, 1, 1, raw_length=len(raw))
    craft(tmp_path / "t", pack_frame(header, columns.compress(raw)))
    assert read(tmp_path / "t").reader.integrity.bad_frames == 1
