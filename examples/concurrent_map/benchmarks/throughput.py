"""Throughput of several tables side by side: alternating rounds in one process, JSON out.

    python throughput.py --entries 1000 --threads 2 --workload mixed

Each round does the same operations on each table, beginning with another one each time.
The result: {"rates": {table: [operations per second in each round]}, …}. Ratios are to be taken
round by round: a machine that others use is faster or slower from one second to the next.

    read_mostly    95 % load, 5 % store, of keys that are there
    mixed          50 % load, 25 % store, 25 % delete, half of the keys are there
    range          whole walks while the same number of writes (store and delete of keys of
                   their own) are made: by another thread, or between the walks
    snapshot       a snapshot is taken and kept, then 100 stores are made, and so on; with two
                   threads, one takes and drops snapshots while the other stores
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import threading
import time
from collections.abc import Callable
from typing import Any

from subjects import ATOMIC, SUBJECTS, KeysFirst, Operations

WRITES_PER_SNAPSHOT = 100
Work = Callable[[], int]
"""One thread's part of a round; the operations that it did."""


def point_operations(keys: list[str], count: int, workload: str, seed: int) -> Operations:
    """``count`` operations in random order."""
    chance = random.Random(seed)
    weights = (95, 5, 0) if workload == "read_mostly" else (50, 25, 25)
    kinds = chance.choices((0, 1, 2), weights, k=count)
    # Each key is a str object of its own, as when it comes out of a request.
    return [(kind, "".join(chance.choice(keys))) for kind in kinds]


def in_threads(works: list[Work]) -> float:
    """Operations per second of all together, from their common begin to the last one's end."""
    if len(works) == 1:
        began = time.perf_counter()
        return works[0]() / (time.perf_counter() - began)
    barrier = threading.Barrier(len(works) + 1)
    done = [0] * len(works)

    def run(number: int) -> None:
        barrier.wait()
        done[number] = works[number]()

    threads = [threading.Thread(target=run, args=(n,)) for n in range(len(works))]
    for thread in threads:
        thread.start()
    barrier.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    return sum(done) / (time.perf_counter() - began)


def points(table: Any, keys: list[str], count: int, workload: str, threads: int) -> list[Work]:
    """Each thread has operations of its own."""

    def work(operations: Operations) -> Work:
        def run() -> int:
            table.operate(operations)
            return len(operations)

        return run

    parts = range(threads)
    return [work(point_operations(keys, count // threads, workload, n)) for n in parts]


def ranges(table: Any, entries: int, count: int, threads: int) -> list[Work]:
    """Walks of about ``count`` items in all, and a tenth as many writes."""
    walks = max(1, count // entries)
    writes: Operations = [
        (kind, f"new {n % 50}") for n in range(max(walks, count // 20)) for kind in (1, 2)
    ]

    def walk() -> int:
        return sum(table.walk() for _ in range(walks))

    def write() -> int:
        table.operate(writes)
        return len(writes)

    def both() -> int:
        part = len(writes) // walks
        done = 0
        for n in range(walks):
            table.operate(writes[n * part : (n + 1) * part])
            done += part + table.walk()
        return done

    return [both] if threads == 1 else [walk, write]


def snapshots(table: Any, keys: list[str], count: int, threads: int) -> list[Work]:
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

    def take() -> int:
        for _ in parts:
            table.snapshot()
        return 0

    def write() -> int:
        for part in parts:
            table.operate(part)
        return per * len(parts)

    return [both] if threads == 1 else [take, write]


def measure(
    workload: str, entries: int, threads: int, rounds: int, count: int
) -> dict[str, list[float]]:
    """Rates by table, round by round."""
    universe = [f"key {n}" for n in range(2 * entries if workload == "mixed" else entries)]
    subjects = [one for one in SUBJECTS if workload == "range" or one is not KeysFirst]
    if workload == "snapshot":
        subjects = [one for one in subjects if one is not ATOMIC]
    works: dict[str, list[Work]] = {}
    for subject in subjects:
        table = subject(dict.fromkeys(random.Random(0).sample(universe, entries), 0))
        if workload == "range":
            works[subject.name] = ranges(table, entries, count, threads)
        elif workload == "snapshot":
            works[subject.name] = snapshots(table, universe, count, threads)
        else:
            works[subject.name] = points(table, universe, count, workload, threads)
    names = list(works)
    rates: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds + 1):  # the first one warms up
        for name in names[number % len(names) :] + names[: number % len(names)]:
            rate = in_threads(works[name])
            if number:
                rates[name].append(rate)
    return rates


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
    rates = measure(asked.workload, asked.entries, asked.threads, asked.rounds, asked.operations)
    print(json.dumps({**vars(asked), "rates": rates}))


if __name__ == "__main__":
    main()
