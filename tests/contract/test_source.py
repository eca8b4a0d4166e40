"""The contract of ``RecordSource``: one suite, every backend."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from collector.decode import decode
from collector.events import EVENTS
from collector.source import Batch, RecordSource, SourceInfo
from probes.wire import KIND_END, PAYLOAD, RECORD, RECORD_SIZE, Kind, RunState
from tests.conftest import Start
from tests.contract.sources import SOURCES, Lab, Open, Opened
from tests.processes import wait_until

MS = 1_000_000
PATIENCE_S = 10.0


@pytest.fixture(params=SOURCES)
def opened(request: pytest.FixtureRequest, tmp_path: Path, start: Start) -> Iterator[Opened]:
    open_it: Open = request.param
    subject = open_it(Lab(tmp_path, start))
    with closing(subject.source):
        yield subject


def some(subject: Opened, polls: int = 12, timeout_ns: int = 50 * MS) -> list[Batch]:
    """The first batches, fewer when the source is done before."""
    batches: list[Batch] = []
    for _ in range(polls):
        batches.append(subject.source.poll(timeout_ns))
        if batches[-1].done:
            break
    return batches


def all_of(subject: Opened) -> list[Batch]:
    """Every batch up to the end, which is brought about where it would not come."""
    batches: list[Batch] = [] if subject.virtual else some(subject)
    subject.end()

    def over() -> bool:
        batches.append(subject.source.poll(50 * MS))
        return batches[-1].done

    wait_until(over, "the source is done", PATIENCE_S)
    return batches


def size(batch: Batch) -> int:
    return len(np.frombuffer(batch.raw, np.uint8))


def test_it_says_what_it_is(opened: Opened) -> None:
    info = opened.source.info
    assert isinstance(info, SourceInfo)
    assert info.backend in ("bcc", "proc", "mock")
    assert min(info.start_error_ns, info.end_error_ns, info.missed_below_ns) >= 0
    assert all(isinstance(probe, str) for probe in info.probes)


def test_the_clock_never_goes_back(opened: Opened) -> None:
    times = [batch.now_ns for batch in all_of(opened)]
    assert times == sorted(times)
    if not opened.virtual:
        assert times[-1] <= time.monotonic_ns()


def test_a_poll_takes_no_longer_than_it_may(opened: Opened) -> None:
    now_ns = opened.source.poll(0).now_ns
    for timeout_ns in (0, 1, 3 * MS, 50 * MS, 0):
        began = time.monotonic()
        batch = opened.source.poll(timeout_ns)
        if opened.whole and size(batch):
            begun = np.frombuffer(batch.raw, RECORD)["ts_ns"].min()
            assert now_ns < begun <= now_ns + timeout_ns
        elif opened.virtual:
            assert now_ns <= batch.now_ns <= now_ns + timeout_ns
        else:
            assert time.monotonic() - began < PATIENCE_S
        now_ns = batch.now_ns


def test_nothing_comes_from_after_the_clock(opened: Opened) -> None:
    for batch in all_of(opened):
        stamps = np.frombuffer(batch.raw, RECORD)["ts_ns"]
        assert (stamps <= batch.now_ns).all()


def test_raw_is_whole_well_formed_records(opened: Opened) -> None:
    batches = all_of(opened)
    for batch in batches:
        assert size(batch) % RECORD_SIZE == 0
        decoded = decode(batch.raw)
        assert decoded.malformed == 0
        assert len(decoded.records) == size(batch) // RECORD_SIZE
    assert sum(map(size, batches)) > 0


def test_records_are_of_the_target(opened: Opened) -> None:
    for batch in all_of(opened):
        records = np.frombuffer(batch.raw, RECORD)
        of_threads = records[records["kind"] != Kind.SCAN]
        assert set(of_threads["pid"].tolist()) <= opened.pids


def test_drops_are_counts_by_kind(opened: Opened) -> None:
    for batch in all_of(opened):
        for kind, count in batch.dropped.items():
            assert 0 < kind < KIND_END
            assert count >= 0


def test_events_are_known_and_not_late(opened: Opened) -> None:
    for batch in all_of(opened):
        for event in batch.events:
            assert event.event in EVENTS
            assert event.ts_ns <= batch.now_ns


def test_a_parked_thread_is_seen_with_its_begin(opened: Opened) -> None:
    """Within a few polls, whether it parked before the attach or later."""
    seen = 0
    for batch in [*some(opened, polls=40), *all_of(opened)]:
        records = np.frombuffer(batch.raw, RECORD)
        states = records[records["kind"] == Kind.THREAD_STATE].view(PAYLOAD[Kind.THREAD_STATE])
        blocked = states[np.isin(states["state"], (RunState.SLEEPING, RunState.DISK_SLEEP))]
        assert (blocked["since_ns"] <= blocked["ts_ns"]).all()
        assert (blocked["since_ns"] > 0).all()
        seen += len(blocked)
    assert seen


def test_done_stays_done(opened: Opened) -> None:
    last = all_of(opened)[-1]
    for timeout_ns in (0, 20 * MS, 0):
        batch = opened.source.poll(timeout_ns)
        assert batch.done
        assert size(batch) == 0
        assert not any(batch.dropped.values())
        assert batch.now_ns >= last.now_ns


def test_closing_twice_is_safe(opened: Opened) -> None:
    some(opened, polls=3)
    opened.source.close()
    opened.source.close()


def test_closing_unread_is_safe(opened: Opened) -> None:
    opened.source.close()


def test_emitted_is_received_plus_dropped(opened: Opened) -> None:
    batches = all_of(opened)
    if opened.emitted is None:
        pytest.skip("nobody else has counted")
    found: Counter[int] = Counter()
    for batch in batches:
        found.update(np.frombuffer(batch.raw, RECORD)["kind"].tolist())
        found.update(batch.dropped)
    assert found == opened.emitted()


def test_it_is_a_record_source(opened: Opened) -> None:
    source: RecordSource = opened.source
    assert isinstance(source.poll(0), Batch)
