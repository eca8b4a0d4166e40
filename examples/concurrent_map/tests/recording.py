"""Threads that really overlap on a map, what they did, and the judgement on it.

    python recording.py calls ROUNDS OPERATIONS        single keys, judged by times alone
    python recording.py walks ROUNDS OPERATIONS        walks, views, steps, clear() beside writers
    python recording.py objects ROUNDS OPERATIONS      single keys of the real map, keys in Python

Prints one line of JSON; ``wrong`` counts what no order explains. The package is the one on
the path. The threads of the first two run C loops with the GIL released (``RawMap``); those
of the third give the GIL up inside of ``__eq__``, which is where the real map's operations
can meet.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from threading import Barrier
from typing import Any

from concurrent_map import ConcurrentMap
from concurrent_map._core import RawCursors, RawMap
from histories import (
    ABSENT,
    COMPARE_AND_DELETE,
    COMPLETE,
    LOAD,
    LOAD_AND_DELETE,
    LOAD_OR_STORE,
    SNAPSHOT,
    STALE,
    STORE,
    STRICT,
    SWAP,
    VIEW,
    WEAK,
    Call,
    Timeline,
    Walk,
    not_linearizable,
    overlapping,
    pairs,
)

THREADS = 4
FEW_KEYS, MANY_KEYS = 12, 300
SHOWN = 3
"""How many of the wrong things are told in words."""


def together(works: Sequence[Callable[[], Any]]) -> list[Any]:
    """What each gives, each in a thread of its own, all begun at once."""
    barrier = Barrier(len(works))

    def one(work: Callable[[], Any]) -> Any:
        barrier.wait()
        return work()

    with ThreadPoolExecutor(len(works)) as pool:
        return [future.result() for future in [pool.submit(one, work) for work in works]]


def _said(counts: Counter[str], wrong: Sequence[object]) -> None:
    counts["wrong"] += len(wrong)
    for one in wrong[:SHOWN]:
        print(one, file=sys.stderr)


def recorded_calls(seed: int, operations: int, *, shards: int = 2) -> list[Call]:
    """Random calls of all threads on few keys of one raw map."""
    raw = RawMap(shards=shards)
    raw.gate(THREADS, 32)
    seeds = range(seed * THREADS + 1, seed * THREADS + THREADS + 1)
    works = [partial(raw.record, one, operations, FEW_KEYS) for one in seeds]
    return [Call(*call) for calls in together(works) for call in calls]


def calls(rounds: int, operations: int) -> Counter[str]:
    """Histories of single keys, judged one by one."""
    counts: Counter[str] = Counter()
    for seed in range(rounds):
        history = recorded_calls(seed % 60, operations, shards=1 << seed % 3)
        counts["histories"] += 1
        counts["calls"] += len(history)
        counts["overlapping"] += overlapping(history)
        _said(counts, not_linearizable(history))
        _said(counts, Timeline(history).errors)
    return counts


# --- walks ----------------------------------------------------------------------------------


def _cleared(raw: RawMap, times: int) -> list[tuple[int, int, int]]:
    clears = []
    for _ in range(times):
        time.sleep(0.002)
        clears.append(raw.record_clear())
    return clears


def _shared_out(raw: RawMap, rounds: int) -> list[tuple[int, list[tuple[int, int]]]]:
    """For each round the version of a snapshot, and what two threads took of its steps."""
    shared = []
    for _ in range(rounds):
        group = RawCursors(raw)
        parts = together([partial(raw.drain, group)] * 2)
        shared.append((group.version, [pair for part in parts for pair in pairs(part[2])]))
    return shared


def recorded_walks(
    seed: int, operations: int, walks: int
) -> tuple[Timeline, list[Walk], list[tuple[int, list[tuple[int, int]]]], RawMap]:
    """Two writers, and beside them walkers of all modes, clear(), and shared steps."""
    narrow = seed % 2 == 0
    keys, pace = (FEW_KEYS, 1) if narrow else (MANY_KEYS, 32)
    raw = RawMap(shards=1 << seed // 2 % 4)
    raw.record(0, 2, 1)  # so that no version is 0
    works: list[Callable[[], Any]] = [
        partial(raw.record, number, operations >> seed % 3, keys)
        for number in (seed * 2 + 1, seed * 2 + 2)
    ]
    works += [partial(raw.record_walks, mode, walks, 40) for mode in (WEAK, STRICT, SNAPSHOT, VIEW)]
    works += [partial(_cleared, raw, 3), partial(_shared_out, raw, walks // 8)]
    raw.gate(len(works) - 1, pace)
    *recorded, clears, shared = together(works)
    history = [Call(*call) for part in recorded[:2] for call in part]
    return Timeline(history, clears), [Walk(*w) for part in recorded[2:] for w in part], shared, raw


def walks(rounds: int, operations: int) -> Counter[str]:
    """Histories of walks, held against the states between the changes."""
    counts: Counter[str] = Counter()
    for seed in range(rounds):
        timeline, walked, shared, raw = recorded_walks(seed % 100, operations, operations // 100)
        counts["histories"] += 1
        counts["changes"] += len(timeline.changes)
        _said(counts, timeline.errors)
        _said(counts, [why for walk in walked if (why := timeline.wrong(walk)) is not None])
        _said(counts, [why for one in shared if (why := timeline.wrong_cut(*one)) is not None])
        counts["shared_out"] += len(shared)
        for walk in walked:
            counts["walks"] += 1
            counts["items"] += len(walk.items) // 16
            counts["loads"] += len(walk.loads) // 16
            counts["under_write"] += walk.before < walk.after
            counts["strict_complete"] += walk.mode == STRICT and walk.outcome == COMPLETE
            counts["strict_stale"] += walk.outcome == STALE
        counts["left_over"] += raw.stats()["view_bytes"] + raw.stats()["views_open"]
    return counts


# --- the real map -----------------------------------------------------------------------------


class Slow:
    """Equal by number; the comparison is Python, and lets other threads run."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number

    def __hash__(self) -> int:
        return 7

    def __eq__(self, other: object) -> bool:
        time.sleep(0)
        return isinstance(other, Slow) and other.number == self.number


def _call(m: ConcurrentMap[Slow, Slow], operation: int, key: int, value: int, expected: int) -> int:
    """One call with objects of its own; its answer as a number."""
    at, new = Slow(key), Slow(value)
    if operation == LOAD:
        found = m.load(at)
        return found.number if found is not None else ABSENT
    if operation == STORE:
        m.store(at, new)
        return ABSENT
    if operation == LOAD_OR_STORE:
        there, loaded = m.load_or_store(at, new)
        return there.number if loaded else ABSENT
    if operation == LOAD_AND_DELETE:
        gone, loaded = m.load_and_delete(at)
        return gone.number if loaded and gone is not None else ABSENT
    if operation == SWAP:
        return m.compare_and_swap(at, Slow(expected), new)
    return m.compare_and_delete(at, Slow(expected))


def _call_at_random(
    m: ConcurrentMap[Slow, Slow], number: int, operations: int, keys: int
) -> list[Call]:
    dice = random.Random(number)
    seen: dict[int, int] = {}
    history = []
    for i in range(1, operations + 1):
        operation, key = dice.randrange(COMPARE_AND_DELETE + 1), dice.randrange(keys)
        value = number << 32 | i
        expected = seen.get(key, value)
        began = time.monotonic_ns()
        result = _call(m, operation, key, value, expected)
        history.append(Call(operation, key, value, expected, result, began, time.monotonic_ns()))
        if operation in {LOAD, LOAD_OR_STORE} and result:
            seen[key] = result
    return history


@contextmanager
def _switching_often() -> Any:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def objects(rounds: int, operations: int) -> Counter[str]:
    """Histories of the real map with keys and values that are compared by Python code."""
    counts: Counter[str] = Counter()
    for seed in range(rounds):
        m: ConcurrentMap[Slow, Slow] = ConcurrentMap(shards=1)
        seeds = range(seed * THREADS + 1, seed * THREADS + THREADS + 1)
        works = [partial(_call_at_random, m, one, operations, 3) for one in seeds]
        with _switching_often():
            history = [call for part in together(works) for call in part]
        counts["histories"] += 1
        counts["calls"] += len(history)
        counts["overlapping"] += overlapping(history)
        counts["retries"] += m.stats()["retries"]
        _said(counts, not_linearizable(history))
    return counts


KINDS = {"calls": calls, "walks": walks, "objects": objects}


def main(words: Sequence[str]) -> int:
    """Entry point; the exit status is 1 when something was wrong."""
    kind, rounds, operations = words
    counts = KINDS[kind](int(rounds), int(operations))
    print(json.dumps(counts))
    return 1 if counts["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
