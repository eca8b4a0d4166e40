"""The reader: damage of every sort, and files made to harm."""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from collector.trace import columns, lines
from collector.trace.format import (
    FILE_HEADER_SIZE,
    FrameHeader,
    FrameKind,
    Tick,
    TraceState,
    pack_file_header,
    pack_frame,
)
from collector.trace.reader import TraceReader
from probes.errors import NotATrace, TraceError, UnknownTraceVersion
from probes.wire import RECORD
from tests.traces import START_NS, RawFrame, raw_frames, read, small_trace, some_records

RECORDS, PARKS, EVENTS, END = 2, 3, 4, 5
CLEAN, TRUNCATED, CORRUPT = TraceState.CLEAN, TraceState.TRUNCATED, TraceState.CORRUPT


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    small_trace(tmp_path / "t")
    return tmp_path / "t"


def frames_of(path: Path, kind: int) -> list[RawFrame]:
    return [frame for frame in raw_frames(path.read_bytes()) if frame.kind == kind]


def without(path: Path, start: int, end: int) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:start] + data[end:])


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x41
    path.write_bytes(data)


def craft(path: Path, *frames: bytes) -> None:
    """A trace of somebody else's making, with an honest beginning."""
    raw = lines.dump({"versions": {"format": 1, "wire": 1, "events": 1}})
    stored = columns.compress(raw)
    meta = pack_frame(FrameHeader(FrameKind.META, 0, 0, 0, 1, raw_length=len(raw)), stored)
    path.write_bytes(pack_file_header() + meta + b"".join(frames))


def test_meta_is_there_before_any_frame(trace: Path) -> None:
    with TraceReader(trace) as reader:
        assert reader.meta["what"] == "a small trace"
        before = reader.end
        list(reader.frames())
        assert before is None
        assert reader.end is not None
        assert reader.end["totals"] == {"parks": 18}


def test_frames_can_be_read_again(trace: Path) -> None:
    with TraceReader(trace) as reader:
        first = [frame.header.sequence for frame in reader.frames()]
        assert [frame.header.sequence for frame in reader.frames()] == first
        assert reader.integrity.frames == len(list(raw_frames(trace.read_bytes())))
        only = [frame.header.kind for frame in reader.frames((FrameKind.EVENTS,))]
        assert set(only) == {FrameKind.EVENTS}
        assert reader.integrity.state is CLEAN


def test_a_missing_end_is_truncated_and_costs_nothing(trace: Path) -> None:
    whole = read(trace)
    (end,) = frames_of(trace, END)
    without(trace, end.offset, end.end)
    got = read(trace)
    assert got.reader.integrity.state is TRUNCATED
    assert got.records.tobytes() == whole.records.tobytes()
    assert not got.reader.integrity.lost_rows


def test_half_a_frame_at_the_end_is_truncated_at_every_byte(trace: Path) -> None:
    data = trace.read_bytes()
    last = frames_of(trace, PARKS)[-1]
    for size in range(last.offset + 1, last.end):
        trace.write_bytes(data[:size])
        got = read(trace).reader.integrity
        assert got.state is TRUNCATED, size
        assert not got.damaged
        knows_header = size >= last.payload_offset
        assert got.lost_rows == ({"parks": last.rows} if knows_header else {}), size


@pytest.mark.parametrize("kind", [RECORDS, PARKS, EVENTS])
def test_a_damaged_payload_costs_its_frame_alone(trace: Path, kind: int) -> None:
    whole = read(trace)
    frame = frames_of(trace, kind)[1]
    flip(trace, frame.payload_offset + len(frame.payload) // 2)
    got = read(trace)
    name = FrameKind(kind).name.lower()
    assert got.reader.integrity.state is CORRUPT
    assert got.reader.integrity.bad_frames == 1
    assert got.reader.integrity.lost_rows == {name: frame.rows}
    lost = {"records": 0, "parks": 0, "events": 0, name: frame.rows}
    assert len(got.records) == len(whole.records) - lost["records"]
    assert len(got.parks) == len(whole.parks) - lost["parks"]
    assert len(got.events) == len(whole.events) - lost["events"]
    assert got.reader.integrity.dropped == whole.reader.integrity.dropped


@pytest.mark.parametrize("at", [0, 8, 12, 24, 32, 36, 44, 52, 57])
def test_a_damaged_header_costs_its_frame_alone(trace: Path, at: int) -> None:
    whole = read(trace)
    frame = frames_of(trace, RECORDS)[1]
    flip(trace, frame.offset + at)
    got = read(trace)
    assert got.reader.integrity.state is CORRUPT
    assert got.reader.integrity.lost_frames == 1
    assert got.reader.integrity.skipped_bytes == frame.end - frame.offset
    assert got.reader.integrity.lost_rows == {"records": frame.rows}
    before, after = frame.first_row, frame.first_row + frame.rows
    assert got.records.tobytes() == np.delete(whole.records, slice(before, after)).tobytes()
    # The end record knows what the lost frame knew.
    assert got.reader.integrity.dropped == whole.reader.integrity.dropped


def test_a_frame_cut_out_is_missed(trace: Path) -> None:
    frame = frames_of(trace, PARKS)[0]
    without(trace, frame.offset, frame.end)
    got = read(trace).reader.integrity
    assert (got.state, got.lost_frames, got.skipped_bytes) == (CORRUPT, 1, 0)
    assert got.lost_rows == {"parks": frame.rows}


def test_the_last_frames_of_a_kind_are_missed_by_the_end_record(trace: Path) -> None:
    frame = frames_of(trace, RECORDS)[-1]
    without(trace, frame.offset, frame.end)
    assert read(trace).reader.integrity.lost_rows == {"records": frame.rows}


def test_a_frame_twice_is_read_once(trace: Path) -> None:
    whole = read(trace)
    data = trace.read_bytes()
    frame = frames_of(trace, RECORDS)[0]
    trace.write_bytes(data[: frame.end] + data[frame.offset :])
    got = read(trace)
    assert got.records.tobytes() == whole.records.tobytes()
    assert got.reader.integrity.state is CORRUPT


def test_bytes_after_the_end_are_reported(trace: Path) -> None:
    trace.write_bytes(trace.read_bytes() + b"more")
    got = read(trace).reader.integrity
    assert (got.state, got.skipped_bytes) == (CORRUPT, 4)


def test_a_hole_of_zeros_is_skipped(trace: Path) -> None:
    whole = read(trace)
    data = trace.read_bytes()
    frame = frames_of(trace, EVENTS)[0]
    trace.write_bytes(data[: frame.offset] + bytes(3 << 20) + data[frame.offset :])
    got = read(trace)
    assert got.records.tobytes() == whole.records.tobytes()
    assert got.reader.integrity.skipped_bytes == 3 << 20


@pytest.mark.parametrize("at", range(FILE_HEADER_SIZE))
def test_a_damaged_file_header_costs_nothing_but_the_verdict(trace: Path, at: int) -> None:
    whole = read(trace)
    flip(trace, at)
    got = read(trace)
    assert got.records.tobytes() == whole.records.tobytes()
    assert got.reader.integrity.state is CORRUPT


def test_a_damaged_meta_frame_costs_the_facts_alone(trace: Path) -> None:
    whole = read(trace)
    meta = next(raw_frames(trace.read_bytes()))
    for offset in (meta.offset + 3, meta.payload_offset + 5):
        flip(trace, offset)
        got = read(trace)
        assert got.reader.meta == {}
        assert got.reader.integrity.state is CORRUPT
        assert got.records.tobytes() == whole.records.tobytes()
        flip(trace, offset)


@pytest.mark.parametrize(
    "content",
    [b"", b"PK\x03\x04", b"\x89PNG\r\n\x1a\n" + bytes(100), b"\x7fELF" + bytes(4000), b"a" * 15],
)
def test_other_files_are_no_traces(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "t"
    path.write_bytes(content)
    with pytest.raises(NotATrace):
        TraceReader(path)


def test_things_that_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(TraceError):
        TraceReader(tmp_path / "fifo")
    with pytest.raises(TraceError):
        TraceReader(tmp_path)
    with pytest.raises(TraceError, match="No such file"):
        TraceReader(tmp_path / "none")
    with pytest.raises(TraceError):
        TraceReader("nul\0byte")


def test_a_newer_format_is_refused(trace: Path) -> None:
    data = trace.read_bytes()
    head = data[:8] + struct.pack("<I", 2)
    trace.write_bytes(head + struct.pack("<I", zlib.crc32(head)) + data[16:])
    with pytest.raises(UnknownTraceVersion, match="format 2") as raised:
        TraceReader(trace)
    assert raised.value.exit_code == 7


def test_another_record_layout_is_refused(tmp_path: Path) -> None:
    raw = lines.dump({"versions": {"format": 1, "wire": 9, "events": 1}})
    meta = pack_frame(
        FrameHeader(FrameKind.META, 0, 0, 0, 1, raw_length=len(raw)), columns.compress(raw)
    )
    (tmp_path / "t").write_bytes(pack_file_header() + meta)
    with pytest.raises(UnknownTraceVersion, match="version 9"):
        TraceReader(tmp_path / "t")


# -- made to harm: every check sum is right ---------------------------------------


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
