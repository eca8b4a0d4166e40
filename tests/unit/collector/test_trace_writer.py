"""The writer: what is in the file, when it is written, and what happens when it cannot be."""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from collector.events import Event
from collector.trace.format import TraceState
from collector.trace.writer import TraceWriter
from probes.errors import RecordingError
from probes.wire import RECORD
from tests.traces import (
    MS,
    START_NS,
    raw_frames,
    read,
    small_trace,
    some_events,
    some_parks,
    some_records,
)

META, RECORDS, PARKS, EVENTS, END = 1, 2, 3, 4, 5


def test_the_bytes_are_those_of_the_documented_tables(tmp_path: Path) -> None:
    import pyarrow as pa

    path = tmp_path / "t"
    records = some_records(5)
    writer = TraceWriter(path, {"host": {"machine": "x"}})
    writer.add_records(records, {4: 2, 10: 7}, START_NS)
    writer.add_events([Event("totals", START_NS, data={"a": 1})])
    writer.close({"scans": 3})

    data = path.read_bytes()
    assert data[:12] == b"\x89PSK\r\n\x1a\n\x01\x00\x00\x00"
    meta, rows, events, end = raw_frames(data)
    assert [f.kind for f in (meta, rows, events, end)] == [META, RECORDS, EVENTS, END]
    assert [f.sequence for f in (meta, rows, events, end)] == [0, 1, 2, 3]
    assert all(f.header_holds and f.payload_holds for f in (meta, rows, events, end))
    assert meta.json() == {
        "host": {"machine": "x"},
        "versions": {"format": 1, "wire": 1, "events": 1},
    }
    assert rows.ticks == ((START_NS, 5),)
    assert rows.drops == ((4, 2), (10, 7))
    schema = pa.schema(
        [pa.field(n, pa.from_numpy_dtype(RECORD[n]), nullable=False) for n in RECORD.names or ()]
    )
    batch = pa.ipc.read_record_batch(pa.ipc.read_message(rows.unpacked()), schema)
    assert batch.num_rows == 5
    for name in RECORD.names or ():
        assert batch[name].to_pylist() == records[name].tolist()
    assert events.json()["event"] == "totals"
    assert end.json() == {
        "written": {"records": 5, "parks": 0, "events": 1, "drops": 9},
        "unwritten": {},
        "dropped": {"4": 2, "10": 7},
        "totals": {"scans": 3},
    }


def test_everything_comes_back_bit_for_bit(tmp_path: Path) -> None:
    path = tmp_path / "t"
    records, parks, events = some_records(20_000), some_parks(9_000), some_events(30)
    writer = TraceWriter(path, {})
    for start in range(0, 20_000, 700):
        writer.add_records(records[start : start + 700], {1: 1}, START_NS + start * 1000)
    writer.add_parks(parks)
    writer.add_events(events)
    writer.close()
    got = read(path)
    assert got.records.tobytes() == records.tobytes()
    assert got.parks.tobytes() == parks.tobytes()
    assert got.events == events
    assert got.reader.integrity.state is TraceState.CLEAN
    assert got.reader.integrity.dropped == {1: 29}
    assert not got.reader.integrity.notes


def test_the_source_may_reuse_its_buffer(tmp_path: Path) -> None:
    writer = TraceWriter(tmp_path / "t", {})
    buffer = some_records(10)
    kept = buffer.copy()
    writer.add_records(buffer, {}, START_NS)
    buffer[:] = 0
    writer.close()
    assert read(tmp_path / "t").records.tobytes() == kept.tobytes()


def test_frames_are_cut_at_8192_rows_and_at_250_ms(tmp_path: Path) -> None:
    path = tmp_path / "t"
    writer = TraceWriter(path, {})
    writer.add_records(some_records(20_000), {}, START_NS)
    rows = [f.rows for f in raw_frames(path.read_bytes()) if f.kind == RECORDS]
    assert rows == [8192, 8192]
    writer.add_records(some_records(1), {}, START_NS + 249 * MS)
    assert len([f for f in raw_frames(path.read_bytes()) if f.kind == RECORDS]) == 2
    writer.advance(START_NS + 250 * MS)
    rows = [f.rows for f in raw_frames(path.read_bytes()) if f.kind == RECORDS]
    assert rows == [8192, 8192, 20_001 - 2 * 8192]
    writer.close()


@pytest.mark.parametrize("first", [0, 3])
def test_silence_writes_nothing(tmp_path: Path, first: int) -> None:
    path = tmp_path / "t"
    writer = TraceWriter(path, {})
    writer.add_records(some_records(first), {}, START_NS)
    writer.flush()
    size = path.stat().st_size
    for n in range(1, 5000):
        writer.add_records(some_records(0), {}, START_NS + n * 100 * MS)
        writer.advance(START_NS + n * 100 * MS)
    assert path.stat().st_size == size
    writer.close()
    assert read(path).reader.end_ns == START_NS + 4999 * 100 * MS


def test_losses_alone_are_written_too(tmp_path: Path) -> None:
    writer = TraceWriter(tmp_path / "t", {})
    writer.add_records(some_records(0), {k: k + 1 for k in range(100)}, START_NS)
    writer.close()
    assert read(tmp_path / "t").reader.integrity.dropped == {k: k + 1 for k in range(100)}


def test_every_frame_is_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writes: list[bytes] = []
    real = os.write

    def spy(fd: int, data: Any) -> int:
        writes.append(bytes(data))
        return real(fd, data)

    monkeypatch.setattr(os, "write", spy)
    small_trace(tmp_path / "t")
    frames = list(raw_frames((tmp_path / "t").read_bytes()))
    assert [len(w) for w in writes] == [
        frame.end - (0 if frame.sequence == 0 else frame.offset) for frame in frames
    ]


def test_mode_is_0600_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        small_trace(tmp_path / "t")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "t").stat().st_mode) == 0o600


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    path = tmp_path / "t"
    path.write_text("mine")
    with pytest.raises(RecordingError, match="exists") as raised:
        TraceWriter(path, {})
    assert "--force" in raised.value.hint
    assert path.read_text() == "mine"
    TraceWriter(path, {}, force=True).close()
    assert read(path).reader.integrity.state is TraceState.CLEAN
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_force_gives_a_new_file_to_a_new_reader(tmp_path: Path) -> None:
    path = tmp_path / "t"
    path.write_text("old")
    with path.open() as old:
        TraceWriter(path, {}, force=True).close()
        assert old.read() == "old"


@pytest.mark.parametrize("force", [False, True])
def test_symlinks_are_not_followed(tmp_path: Path, force: bool) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    link = tmp_path / "link"
    link.symlink_to(victim)
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "nowhere")
    for path in (link, dangling):
        with pytest.raises(RecordingError):
            TraceWriter(path, {}, force=force)
    assert victim.read_text() == "precious"
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("where", ["no/such/dir/t", ".", "nul\0byte", "a" * 300])
def test_places_where_no_file_can_be(tmp_path: Path, where: str) -> None:
    for force in (False, True):
        with pytest.raises(RecordingError):
            TraceWriter(tmp_path / where, {}, force=force)


class FullDisk:
    """Stands for os.write: room for so many bytes, then ENOSPC, as a file system does it."""

    def __init__(self, room: int) -> None:
        self.room = room
        self._write = os.write

    def __call__(self, fd: int, data: Any) -> int:
        if self.room <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        done = self._write(fd, bytes(data)[: self.room])
        self.room -= done
        return done


def write_six_batches(writer: TraceWriter, accepted: Counter[str]) -> None:
    for batch in range(6):
        accepted["records"] += 7
        writer.add_records(some_records(7, batch * 7), {4: batch}, START_NS + batch * 100 * MS)
        accepted["parks"] += 3
        writer.add_parks(some_parks(3))
        accepted["events"] += 2
        writer.add_events(some_events(2))
    writer.close()


def test_a_full_disk_keeps_what_was_written_and_counts_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_trace(tmp_path / "whole")
    whole = (tmp_path / "whole").read_bytes()
    for room in range(next(raw_frames(whole)).end, len(whole) - 40, 97):
        path = tmp_path / f"{room}"
        accepted: Counter[str] = Counter()
        monkeypatch.setattr(os, "write", FullDisk(room))
        writer = TraceWriter(path, {"what": "a small trace"})
        with pytest.raises(RecordingError, match="No space left"):
            write_six_batches(writer, accepted)
        writer.close()
        monkeypatch.undo()
        got = read(path)
        assert got.reader.integrity.state is TraceState.TRUNCATED
        assert not got.reader.integrity.damaged
        found = Counter(records=len(got.records), parks=len(got.parks), events=len(got.events))
        told = Counter({kind: n for kind, n in writer.unwritten.items() if kind != "drops"})
        assert told == accepted - found


def test_a_disk_that_has_room_again_gets_an_end_record_that_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t"
    writer = TraceWriter(path, {})
    writer.add_records(some_records(4), {}, START_NS)
    writer.flush()
    writer.add_records(some_records(5), {}, START_NS)
    monkeypatch.setattr(os, "write", FullDisk(30))
    with pytest.raises(RecordingError):
        writer.flush()
    with pytest.raises(RecordingError):
        writer.add_records(some_records(6), {7: 1}, START_NS)
    monkeypatch.undo()
    writer.close()
    got = read(path)
    assert len(got.records) == 4
    assert got.reader.integrity.unwritten == {"records": 11, "drops": 1}
    assert got.reader.integrity.state is TraceState.TRUNCATED


def test_an_interrupted_write_leaves_no_half_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t"
    writer = TraceWriter(path, {})
    writer.add_records(some_records(4), {}, START_NS)
    real = os.write

    def interrupted(fd: int, data: Any) -> int:
        real(fd, bytes(data)[:60])
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        writer.flush()
    monkeypatch.undo()
    writer.close()
    assert not read(path).reader.integrity.damaged


def test_closing_twice_is_safe_and_nothing_follows(tmp_path: Path) -> None:
    writer = TraceWriter(tmp_path / "t", {})
    writer.close()
    size = (tmp_path / "t").stat().st_size
    writer.close()
    with pytest.raises(RecordingError):
        writer.add_records(some_records(1), {}, START_NS)
    assert (tmp_path / "t").stat().st_size == size


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (b"\xff\x00a", "\\xff\x00a"),
        ("\udc80name", "\\udc80name"),
        (1 << 70, str(1 << 70)),
        (np.uint64(7), 7),
        ((1, 2), [1, 2]),
        (float("nan"), None),
        ({1: "x"}, {"1": "x"}),
    ],
)
def test_no_value_is_refused(tmp_path: Path, value: Any, told: Any) -> None:
    writer = TraceWriter(tmp_path / "t", {})
    writer.add_events([Event("governor", START_NS, thread_name="\udcff", data={"v": value})])
    writer.close()
    (event,) = read(tmp_path / "t").events
    assert event.data["v"] == told
    assert event.thread_name == "\\udcff"


def test_an_event_of_megabytes_is_written_without_its_data(tmp_path: Path) -> None:
    writer = TraceWriter(tmp_path / "t", {})
    writer.add_events([Event("governor", START_NS, pid=3, data={"v": "x" * (2 << 20)})])
    writer.close()
    (event,) = read(tmp_path / "t").events
    assert event.pid == 3
    assert event.data["oversized_bytes"] > 2 << 20
