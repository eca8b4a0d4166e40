"""A trace under any damage: never an exception but a TraceError, never an invented row."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.events import Event
from collector.park import PARK
from collector.trace.format import FILE_MAGIC, TraceState
from collector.trace.reader import TraceReader
from collector.trace.writer import TraceWriter
from probes.errors import NotATrace, TraceError, UnknownTraceVersion
from probes.wire import RECORD
from tests.traces import raw_frames, read, small_trace


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("traces")


@pytest.fixture(scope="module")
def whole(place: Path) -> bytes:
    small_trace(place / "whole")
    return (place / "whole").read_bytes()


def rows_of(dtype: np.dtype[Any], most: int = 40) -> st.SearchStrategy[npt.NDArray[Any]]:
    return st.integers(0, most).flatmap(
        lambda n: st.binary(min_size=n * dtype.itemsize, max_size=n * dtype.itemsize).map(
            lambda data: np.frombuffer(data, dtype)
        )
    )


u64 = st.integers(0, (1 << 64) - 1)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
events = st.builds(
    Event,
    event=st.text(),
    ts_ns=st.integers(0, 1 << 40),
    pid=st.none() | st.integers(0, (1 << 32) - 1),
    tid=st.none() | st.integers(0, (1 << 32) - 1),
    thread_name=st.none() | st.text(),
    kind=st.none() | st.text(),
    idle=st.none() | st.booleans(),
    start_ns=st.none() | u64,
    duration_ns=st.none() | u64,
    before_attach=st.none() | st.booleans(),
    data=st.dictionaries(st.text().map(lambda key: f"x{key}"), json_values, max_size=4),
)
steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("records"),
            rows_of(RECORD),
            st.dictionaries(st.integers(0, 20), st.integers(0, 1 << 40), max_size=4),
            st.integers(0, 400_000_000),
        ),
        st.tuples(st.just("parks"), rows_of(PARK)),
        st.tuples(st.just("events"), st.lists(events, max_size=4)),
    ),
    max_size=12,
)


@given(steps=steps)
@settings(max_examples=60, deadline=None)
def test_what_goes_in_comes_out(place: Path, steps: list[tuple[Any, ...]]) -> None:
    path = Path(tempfile.mkdtemp(dir=place)) / "t"
    writer = TraceWriter(path, {})
    now_ns = 0
    dropped: dict[int, int] = {}
    parts: dict[str, list[Any]] = {"records": [], "parks": [], "events": []}
    for what, content, *more in steps:
        parts[what].append(content)
        if what == "records":
            losses, passed = more
            now_ns += passed
            for kind, count in losses.items():
                dropped[kind] = dropped.get(kind, 0) + count
            writer.add_records(content, losses, now_ns)
        elif what == "parks":
            writer.add_parks(content)
        else:
            writer.add_events(content)
    writer.close()
    got = read(path)
    assert got.records.tobytes() == b"".join(p.tobytes() for p in parts["records"])
    assert got.parks.tobytes() == b"".join(p.tobytes() for p in parts["parks"])
    assert got.events == [event for part in parts["events"] for event in part]
    assert got.reader.integrity.dropped == {k: n for k, n in dropped.items() if n}
    assert got.reader.integrity.state is TraceState.CLEAN


def outcome(place: Path, data: bytes, whole: bytes) -> TraceReader | None:
    """Reads damaged data; what comes out must be rows of the undamaged trace, in order."""
    path = place / "damaged"
    path.write_bytes(data)
    try:
        got = read(path)
    except (NotATrace, UnknownTraceVersion):
        return None
    except TraceError as error:
        pytest.fail(f"not the error that says what is wrong: {error!r}")
    (place / "undamaged").write_bytes(whole)
    truth = read(place / "undamaged")
    found = iter(truth.records.tolist())
    assert all(row in found for row in got.records.tolist())
    found = iter(truth.parks.tolist())
    assert all(row in found for row in got.parks.tolist())
    known = iter(truth.events)
    assert all(event in known for event in got.events)
    integrity = got.reader.integrity
    if got.reader.end is not None:
        assert len(got.records) + integrity.lost_rows["records"] == len(truth.records)
        assert len(got.parks) + integrity.lost_rows["parks"] == len(truth.parks)
        assert len(got.events) + integrity.lost_rows["events"] == len(truth.events)
        assert integrity.dropped == truth.reader.integrity.dropped
    return got.reader


@given(data=st.data())
@settings(max_examples=250, deadline=None)
def test_flipped_bytes(place: Path, whole: bytes, data: st.DataObject) -> None:
    damaged = bytearray(whole)
    flips = data.draw(
        st.dictionaries(st.integers(0, len(whole) - 1), st.integers(1, 255), min_size=1, max_size=6)
    )
    for at, mask in flips.items():
        damaged[at] ^= mask
    reader = outcome(place, bytes(damaged), whole)
    assert reader is None or reader.integrity.state is TraceState.CORRUPT


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_cut_anywhere(place: Path, whole: bytes, data: st.DataObject) -> None:
    size = data.draw(st.integers(0, len(whole) - 1))
    reader = outcome(place, whole[:size], whole)
    first = next(raw_frames(whole)).end
    if size >= first:
        assert reader is not None
        assert reader.integrity.state is TraceState.TRUNCATED
        assert not reader.integrity.damaged


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_pieces_cut_out_put_in_and_turned_round(
    place: Path, whole: bytes, data: st.DataObject
) -> None:
    start, end = sorted(
        data.draw(st.tuples(st.integers(16, len(whole)), st.integers(16, len(whole))))
    )
    piece = data.draw(
        st.one_of(
            st.just(b""),
            st.binary(max_size=300),
            st.just(whole[start:end] * 2),
            st.just(whole[start:end][::-1]),
        )
    )
    damaged = whole[:start] + piece + whole[end:]
    reader = outcome(place, damaged, whole)
    if reader is not None and damaged != whole:
        assert reader.integrity.state is not TraceState.CLEAN


@given(junk=st.binary(max_size=2000).filter(lambda junk: junk[:8] != FILE_MAGIC))
@settings(max_examples=100, deadline=None)
def test_junk_is_no_trace(place: Path, junk: bytes) -> None:
    (place / "junk").write_bytes(junk)
    with pytest.raises(TraceError):
        TraceReader(place / "junk")
