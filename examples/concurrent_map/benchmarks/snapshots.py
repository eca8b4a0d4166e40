"""What a snapshot costs beside a copy: memory, its own time, other threads' pause. JSON out.

    python snapshots.py --entries 1000000 --subject map|dict

"memory_bytes": what the process has more of its own after the first snapshot, and then for
each further one that was taken after stores to 1 % of the keys. "take_ms": one snapshot.
"gap_ms": the longest time for which a thread in a tight loop did not get on while another
one takes snapshots (the least of five runs: what others do on the machine is not ours), and
with another one that takes none. "gc_ms": a full collection with
so many snapshots alive, after stores to 1 % of the keys. The values are lists: objects that
the collector has to look at.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import statistics
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from concurrent_map import ConcurrentMap
from concurrent_map.baselines import LockedDict

SNAPSHOTS = 5
SHARE = 100
"""One key in so many is stored to under each snapshot."""
ROUNDS = 15
LOOP_S = 0.3


def private_bytes() -> int:
    """Pages that only this process has (Private_Dirty, /proc/PID/smaps_rollup)."""
    with open("/proc/self/smaps_rollup", encoding="ascii") as file:
        return sum(int(line.split()[1]) for line in file if line.startswith("Private_")) * 1024


def memory(table: Any, keys: list[str]) -> dict[str, int]:
    """Of some snapshots that are all kept, with stores in between."""
    kept: list[Any] = []
    before = private_bytes()
    kept.append(table.snapshot())
    taken = private_bytes()
    for number in range(SNAPSHOTS):
        for key in keys[number::SHARE]:
            table.store(key, [number])
        kept.append(table.snapshot())
    after = private_bytes()
    for one in kept:
        if hasattr(one, "close"):
            one.close()
    return {"first": taken - before, "each_with_stores": (after - taken) // SNAPSHOTS}


def take(table: Any) -> list[float]:
    """Milliseconds for each of some snapshots."""
    found = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        one = table.snapshot()
        found.append((time.perf_counter() - began) * 1e3)
        del one
    return found


def longest_gap(meanwhile: Callable[[], object] | None) -> float:
    """Milliseconds for which a tight loop stood still, while another thread does that."""
    over = threading.Event()

    def repeat() -> None:
        while not over.is_set():
            if meanwhile is None:
                time.sleep(0.001)
            else:
                meanwhile()
                time.sleep(0.005)

    other = threading.Thread(target=repeat)
    other.start()
    now = time.perf_counter
    end, last, longest = now() + LOOP_S, now(), 0.0
    while last < end:
        at = now()
        longest = max(longest, at - last)
        last = at
    over.set()
    other.join()
    return longest * 1e3


def collection(table: Any, keys: list[str], snapshots: int) -> float:
    """Milliseconds of a full collection, as gc.callbacks see it, with snapshots alive."""
    times: list[float] = []

    def told(_phase: str, _info: dict[str, int]) -> None:
        times.append(time.perf_counter())

    kept = []
    for number in range(snapshots):
        kept.append(table.snapshot())
        for key in keys[number::SHARE]:
            table.store(key, [number])
    gc.collect()
    gc.callbacks.append(told)
    gc.collect()
    gc.callbacks.remove(told)
    kept.clear()
    return (times[1] - times[0]) * 1e3


def main() -> None:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description="a snapshot beside a copy")
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--subject", choices=("map", "dict"), default="map")
    asked = parser.parse_args()
    keys = [f"key {n}" for n in range(asked.entries)]
    # As in a table that has been in use for long: values lie anywhere, in no order of the keys'.
    values = [[0] for _ in keys]
    random.Random(0).shuffle(values)
    items = dict(zip(keys, values, strict=True))
    table: Any = ConcurrentMap(items) if asked.subject == "map" else LockedDict(items)
    del items, values
    gc.collect()
    result = {
        "python": sys.version.split()[0],
        "cpus": os.cpu_count(),
        "subject": asked.subject,
        "entries": asked.entries,
        "memory_bytes": memory(table, keys),
        "take_ms": statistics.median(take(table)),
        "gap_ms": min(longest_gap(table.snapshot) for _ in range(5)),
        "gap_without_ms": min(longest_gap(None) for _ in range(5)),
        "gc_ms": {
            str(n): statistics.median(collection(table, keys, n) for _ in range(3)) for n in (0, 1)
        },
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
