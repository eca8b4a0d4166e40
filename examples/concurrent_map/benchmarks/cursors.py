"""How often compare-and-swap on a cursor is lost, beside what the model says. JSON out.

    python cursors.py [--table]

Two threads on two CPUs take steps from one counter in C loops without the GIL: a pause,
then the reading of the counter, some work, and the compare-and-swap. The model: an attempt
is lost when the other thread wins a step in between, so the share of lost attempts is the
rate at which the other one wins steps (arrivals) times the time from the reading to the
swap (latency), as long as that is small.

Attempts of more than 20 us are left out: somebody else had the CPU. A run in which that
happened to the threads for long is not counted, and made again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import threading
import time
from dataclasses import asdict, dataclass

from concurrent_map import _core

WINDOWS = (0, 60, 250)
PAUSES = (100, 300, 1000, 3000, 10000)
RUNS = 7
RUN_S = 0.04
ROUND_NS = 1.5
MOST_TRIES = 5
LEAST_SHARE = 0.9
"""Of a CPU that a thread must have had."""


@dataclass
class Row:
    """Medians over the runs. Rates per microsecond, times in ns, shares of 1."""

    window: int
    pause: int
    arrivals_per_us: float
    latency_ns: float
    model: float
    measured: float
    attempts: int


def race(pause: int, window: int, cpus: list[int]) -> list[Row] | None:
    """One run, from each thread's side; None when they did not have their CPUs."""
    steps = int(RUN_S * 2e9 / (2 * 40 + (pause + window) * ROUND_NS))
    cursors = _core.RawCursors(steps)
    barrier = threading.Barrier(len(cpus))
    results: list[tuple[int, ...]] = [()] * len(cpus)
    shares = [0.0] * len(cpus)

    def run(number: int) -> None:
        os.sched_setaffinity(0, {cpus[number]})
        racer = _core.RawMap(shards=1)
        barrier.wait()
        began, began_cpu = time.monotonic(), time.thread_time()
        results[number] = racer.race(cursors, number + 1, pause, window)
        shares[number] = (time.thread_time() - began_cpu) / (time.monotonic() - began)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(cpus))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if min(shares) < LEAST_SHARE:
        return None
    rows = []
    for mine, other in (results, results[::-1]):
        won, lost, _left_out, in_ns, _elapsed_ns = mine
        latency_ns = in_ns / (won + lost)
        arrivals = other[0] / other[4]
        row = Row(window, pause, arrivals * 1e3, latency_ns, arrivals * latency_ns,
                  lost / (won + lost), won + lost)  # fmt: skip
        rows.append(row)
    return rows


def measured(pause: int, window: int, cpus: list[int]) -> Row | None:
    """The median of some runs; None where too few could be made."""
    rows: list[Row] = []
    for _ in range(RUNS * MOST_TRIES):
        rows += race(pause, window, cpus) or []
        if len(rows) >= RUNS * len(cpus):
            break
    if len(rows) < RUNS:
        return None
    middle = {
        name: statistics.median(getattr(row, name) for row in rows)
        for name in ("arrivals_per_us", "latency_ns", "model", "measured")
    }
    return Row(window, pause, **middle, attempts=sum(row.attempts for row in rows))


def table(rows: list[Row]) -> str:
    """Markdown."""
    lines = [
        "| work in between | arrivals, 1/us | latency, ns | model | measured | attempts |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {'none' if not row.window else f'{row.window} rounds'} | {row.arrivals_per_us:.3f}"
        f" | {row.latency_ns:.0f} | {row.model:.2%} | {row.measured:.2%} | {row.attempts:,} |"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> None:
    """All rows, as JSON or as the table of the README."""
    parser = argparse.ArgumentParser(description="lost compare-and-swaps against the model")
    parser.add_argument("--table", action="store_true", help="Markdown instead of JSON")
    asked = parser.parse_args()
    cpus = sorted(os.sched_getaffinity(0))[-2:]
    if len(cpus) < 2:
        sys.exit("this needs two CPUs")
    found = [measured(pause, window, cpus) for window in WINDOWS for pause in PAUSES]
    rows = [row for row in found if row is not None]
    print(table(rows) if asked.table else json.dumps([asdict(row) for row in rows]))


if __name__ == "__main__":
    main()
