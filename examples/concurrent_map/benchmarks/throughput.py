"""Throughput of several tables side by side: alternating rounds in one process, JSON out.

    python throughput.py --entries 1000 --threads 2 --workload mixed

Each round does the same operations on each table, beginning with another one each time.
The result: {"rates": {table: [operations per second in each round]}, "overlap": …, …}.
Ratios are to be taken round by round: a machine that others use is faster or slower from
one second to the next.

    read_mostly    95 % load, 5 % store, of keys that are there
    mixed          50 % load, 25 % store, 25 % delete, half of the keys are there
    range          whole walks, and writes (store and delete of keys of their own): made by
                   another thread all the while, or of about the same price between the walks;
                   ten items of a walk count as one operation
    snapshot       a snapshot is taken and kept, then 100 stores are made, and so on; with two
                   threads, one takes and keeps them while the other stores, a few hundred
                   stores ahead at most

With two threads of which each has a part of its own, neither works alone for long: ranges
are cut into ``LAPS`` in each of which both begin together. "overlap" is what share of the
time both were at work, in each round.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from subjects import ATOMIC, SUBJECTS, KeysFirst, Operations

WRITES_PER_SNAPSHOT = 100
ITEMS_PER_WRITE = 10
"""An item of a walk takes about a tenth of a store."""
LAPS = 5
ENOUGH_S = 0.4
AHEAD = 4
"""So many hundred stores may be made before the snapshot that is due."""
Work = Callable[[], int]
"""One thread's part of a round, or of a lap of it; the operations that it did."""


class Works(NamedTuple):
    """What the threads of a round do: each its own, so many times, beginning together."""

    threads: list[Work]
    laps: int = 1


def point_operations(keys: list[str], count: int, workload: str, seed: int) -> Operations:
    """``count`` operations in random order."""
    chance = random.Random(seed)
    weights = (95, 5, 0) if workload == "read_mostly" else (50, 25, 25)
    kinds = chance.choices((0, 1, 2), weights, k=count)
    # Each key is a str object of its own, as when it comes out of a request.
    return [(kind, "".join(chance.choice(keys))) for kind in kinds]


def in_threads(works: Works) -> tuple[float, float]:
    """Operations per second, from the common begin to the last one's end; and the overlap."""
    if len(works.threads) == 1:
        began = time.perf_counter()
        done = sum(works.threads[0]() for _ in range(works.laps))
        return done / (time.perf_counter() - began), 1.0
    barrier = threading.Barrier(len(works.threads) + 1)
    ends = [[0.0] * len(works.threads) for _ in range(works.laps)]
    counts = [0] * len(works.threads)

    def run(number: int) -> None:
        for lap in range(works.laps):
            barrier.wait()
            counts[number] += works.threads[number]()
            ends[lap][number] = time.perf_counter()
            barrier.wait()

    threads = [threading.Thread(target=run, args=(n,)) for n in range(len(works.threads))]
    for thread in threads:
        thread.start()
    whole = both = 0.0
    for lap in range(works.laps):
        barrier.wait()
        began = time.perf_counter()
        barrier.wait()
        whole += max(ends[lap]) - began
        both += min(ends[lap]) - began
    for thread in threads:
        thread.join()
    return sum(counts) / whole, both / whole


def points(table: Any, keys: list[str], count: int, workload: str, threads: int) -> Works:
    """Each thread has operations of its own."""

    def work(operations: Operations) -> Work:
        def run() -> int:
            table.operate(operations)
            return len(operations)

        return run

    parts = range(threads)
    return Works([work(point_operations(keys, count // threads, workload, n)) for n in parts])


def ranges(table: Any, entries: int, count: int, threads: int) -> Works:
    """About ``count`` writes, and walks beside them, in laps of whole walks.

    Of two threads the writer goes on until the walks of the lap are over. An item that was
    walked counts as a part of an operation.
    """
    laps = min(LAPS, max(1, count * ITEMS_PER_WRITE // entries))
    walks = max(1, count * ITEMS_PER_WRITE // entries // laps)
    part = max(2, entries // ITEMS_PER_WRITE)
    writes: Operations = [(kind, f"new {n % 50}") for n in range(part // 2) for kind in (1, 2)]
    some = writes[:100]
    walked = written = 0

    def walk() -> int:
        nonlocal walked
        items: int = sum(table.walk() for _ in range(walks))
        walked += 1
        return items // ITEMS_PER_WRITE

    def write() -> int:
        nonlocal written
        written += 1
        done = 0
        while walked < written:
            table.operate(some)
            done += len(some)
        return done

    def both() -> int:
        done = 0
        for _ in range(walks):
            table.operate(writes)
            done += len(writes) + table.walk() // ITEMS_PER_WRITE
        return done

    return Works([both] if threads == 1 else [walk, write], laps)


def snapshots(table: Any, keys: list[str], count: int, threads: int) -> Works:
    """Stores with a snapshot before each hundred; the operations are the stores.

    Of large tables no more than a few: one copy of a million entries takes milliseconds.
    """
    chance = random.Random(1)
    per = WRITES_PER_SNAPSHOT
    number = max(5, min(count // per, 10_000_000 // len(keys)))
    parts = [[(1, chance.choice(keys)) for _ in range(per)] for _ in range(number)]

    def both() -> int:
        for part in parts:
            kept = table.snapshot()
            table.operate(part)
            del kept
        return per * len(parts)

    due, room = threading.Semaphore(0), threading.Semaphore(AHEAD)

    def take() -> int:
        kept = None
        for _ in parts:
            due.acquire()
            kept = table.snapshot()
            room.release()
        del kept
        return 0

    def write() -> int:
        for part in parts:
            room.acquire()
            due.release()
            table.operate(part)
        return per * len(parts)

    return Works([both] if threads == 1 else [take, write])


def prepared(workload: str, entries: int, threads: int, count: int) -> dict[str, Works]:
    """The tables that can do the workload, filled, and what is to be done with each."""
    universe = [f"key {n}" for n in range(2 * entries if workload == "mixed" else entries)]
    subjects = [one for one in SUBJECTS if workload == "range" or one is not KeysFirst]
    if workload == "snapshot":
        subjects = [one for one in subjects if one is not ATOMIC]
    works: dict[str, Works] = {}
    for subject in subjects:
        table = subject(dict.fromkeys(random.Random(0).sample(universe, entries), 0))
        if workload == "range":  # AtomicDict takes a hundred times as long, so it does less
            part = count // 20 if subject is ATOMIC else count
            works[subject.name] = ranges(table, entries, part, threads)
        elif workload == "snapshot":
            works[subject.name] = snapshots(table, universe, count, threads)
        else:
            works[subject.name] = points(table, universe, count, workload, threads)
    return works


def measure(
    workload: str, entries: int, threads: int, rounds: int, count: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Rates and overlaps by table, round by round."""
    works = prepared(workload, entries, threads, count)
    names = list(works)
    rates: dict[str, list[float]] = {name: [] for name in names}
    overlaps: dict[str, list[float]] = {name: [] for name in names}
    for name in names:  # this warms up, and tells how many laps of a slow one are enough
        began = time.perf_counter()
        in_threads(works[name]._replace(laps=1))
        laps = int(ENOUGH_S / (time.perf_counter() - began))
        works[name] = works[name]._replace(laps=max(1, min(laps, works[name].laps)))
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            rate, overlap = in_threads(works[name])
            rates[name].append(rate)
            overlaps[name].append(overlap)
    return rates, overlaps


def main() -> None:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    workloads = ("read_mostly", "mixed", "range", "snapshot")
    parser.add_argument("--workload", choices=workloads, default="mixed")
    parser.add_argument("--entries", type=int, default=1000)
    parser.add_argument("--threads", type=int, choices=(1, 2), default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--operations", type=int, default=200_000, help="of each in each round")
    asked = parser.parse_args()
    gc.freeze()
    gc.disable()  # a collection in the middle of one round would be that round's price
    rates, overlaps = measure(
        asked.workload, asked.entries, asked.threads, asked.rounds, asked.operations
    )
    print(json.dumps({**vars(asked), "rates": rates, "overlap": overlaps}))


if __name__ == "__main__":
    main()
