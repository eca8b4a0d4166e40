"""The detector against a simulated kernel: whatever threads do, it says just that.

The simulation knows the truth (who waits from when to when, on what) and emits
what the two sources would: scans at a base period and at predicted crossings,
wake-ups of watched sleeps, and, with the slow path armed, exact lock waits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.park import End, Park
from collector.parks import ParkDetector
from probes.wire import Flag, Kind, RunState, WaitClass, make

MS = 1_000_000
PID = 4711
LONG, NEWS_AFTER, BASE = 200 * MS, 10 * MS, 90 * MS
SYSCALLS = {"lock": 202, "io": 45, "sleep": 230, "child": 61}


@dataclass(frozen=True)
class Wait:
    """What one thread really did."""

    tid: int
    kind: str
    start: int
    end: int


@st.composite
def timelines(draw: st.DrawFn) -> list[Wait]:
    waits = []
    for tid in range(10, 10 + draw(st.integers(1, 4))):
        now = draw(st.integers(0, 300)) * MS + tid
        for _ in range(draw(st.integers(1, 6))):
            length = draw(st.one_of(st.integers(1, 199), st.integers(201, 900))) * MS
            waits.append(Wait(tid, draw(st.sampled_from(sorted(SYSCALLS))), now, now + length))
            now += length + draw(st.integers(1, 120)) * MS
    return waits


def scan_times(waits: list[Wait], until: int) -> list[int]:
    crossings = [w.start + LONG + MS // 2 for w in waits if w.end - w.start >= LONG]
    return sorted({*range(0, until, BASE), *crossings, until})


def state(wait: Wait, ts: int, slow_path: bool) -> list[npt.NDArray[Any]]:
    records = [
        make(
            Kind.THREAD_STATE, ts_ns=ts, pid=PID, tid=wait.tid, since_ns=wait.start,
            state=RunState.SLEEPING, syscall=SYSCALLS[wait.kind], arg0=wait.tid << 8, arg1=1,
            flags=Flag.WATCHED, cpu_ns=MS,
        )
    ]  # fmt: skip
    if slow_path and wait.kind == "lock":
        records.append(exact(wait, ts, Kind.WAIT_OPEN))
    return records


def exact(wait: Wait, ts: int, kind: Kind) -> npt.NDArray[Any]:
    return make(
        kind, ts_ns=ts, pid=PID, tid=wait.tid, start_ns=wait.start,
        duration_ns=(wait.end if kind is Kind.WAIT else ts) - wait.start,
        address=wait.tid << 8, wait_class=WaitClass.LOCK, slices=1,
    )  # fmt: skip


def running(tid: int, ts: int) -> npt.NDArray[Any]:
    return make(
        Kind.THREAD_STATE, ts_ns=ts, pid=PID, tid=tid, since_ns=ts, state=RunState.RUNNING,
        syscall=-1, cpu_ns=50 * MS,
    )  # fmt: skip


def stream(waits: list[Wait], slow_path: bool) -> list[tuple[int, list[npt.NDArray[Any]]]]:
    """Batches of (now, records), as a backend would hand them over."""
    until = max(w.end for w in waits) + 10 * MS
    said: dict[int, Wait] = {}
    batches, before = [], -1
    for now in scan_times(waits, until):
        records = []
        for wait in waits:
            if before < wait.end <= now and wait.end > wait.start:
                if slow_path and wait.kind == "lock":
                    records.append(exact(wait, wait.end, Kind.WAIT))
                if said.get(wait.tid) == wait:
                    records.append(make(Kind.WAKE, ts_ns=wait.end, pid=PID, tid=wait.tid))
        for tid in {w.tid for w in waits}:
            current = next((w for w in waits if w.tid == tid and w.start <= now < w.end), None)
            if current is not None and said.get(tid) != current:
                if now - current.start >= NEWS_AFTER:
                    records += state(current, now, slow_path)
                    said[tid] = current
            elif current is None and tid in said:
                records.append(running(tid, now))
                del said[tid]
        records.append(make(Kind.SCAN, ts_ns=now, pid=PID))
        batches.append((now, records))
        before = now
    return batches


@settings(max_examples=150, deadline=None)
@given(waits=timelines(), slow_path=st.booleans(), order=st.randoms(use_true_random=False))
def test_every_long_park_once_and_exactly_and_none_invented(
    waits: list[Wait], slow_path: bool, order: Any
) -> None:
    detector = ParkDetector(LONG, MS)
    crossed: list[tuple[int, Park]] = []
    ended: list[Park] = []
    rows = []
    for now, records in stream(waits, slow_path):
        order.shuffle(records)
        if records:
            detector.feed(np.concatenate(records))
        detector.advance(now)
        found = detector.take()
        crossed += [(now, park) for park in found.crossed]
        ended += found.ended
        rows.append(found.parks())

    truth = {(w.tid, w.start): w for w in waits if w.end - w.start >= LONG}
    assert {(p.tid, p.start_ns) for _, p in crossed} == set(truth)
    assert len(crossed) == len(truth), "each once"
    for now, park in crossed:
        wait = truth[park.tid, park.start_ns]
        assert park.kind == wait.kind
        assert now - (wait.start + LONG) <= MS, "while it lasts, at the crossing"
    assert len(ended) == len(truth)
    for park in ended:
        assert park.end_ns == truth[park.tid, park.start_ns].end
        assert park.end is End.WOKEN
    table = np.concatenate(rows)
    every = {(w.tid, w.start): w.end - w.start for w in waits}
    for row in table:
        assert every[int(row["tid"]), int(row["start_ns"])] == int(row["duration_ns"])
    assert len({(int(r["tid"]), int(r["start_ns"])) for r in table}) == len(table), "no doubles"
