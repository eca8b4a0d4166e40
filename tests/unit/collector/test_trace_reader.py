"""The reader: damage of every sort, and files made to harm."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from collector.trace import columns, lines
from collector.trace.format import (
    FILE_HEADER_SIZE,
    FrameHeader,
    FrameKind,
    TraceState,
    pack_file_header,
    pack_frame,
)
from collector.trace.reader import TraceReader
from probes.errors import NotATrace, TraceError, UnknownTraceVersion
from tests.traces import RawFrame, raw_frames, read, small_trace

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
