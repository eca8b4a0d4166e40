"""Issue 6, line 2: the map beside dict + Lock, AtomicDict and dict; snapshots beside copies."""

from __future__ import annotations

import importlib.util
import json
import random
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.full import Bound, Figure, NotMeasured, at_least, at_most, must_show

BENCHMARKS = Path(__file__).resolve().parents[2] / "examples" / "concurrent_map" / "benchmarks"
MAP, LOCKED = "ConcurrentMap", "dict + Lock"
WORKLOADS = {
    "read_mostly": "read-mostly", "mixed": "mixed", "range": "range under write",
    "snapshot": "snapshot under write",
}  # fmt: skip
ENTRIES = (1_000, 1_000_000)
ROUNDS = 7
RESAMPLES = 2000
LEAST = 0.9
AHEAD = 3.0
"""Of snapshots of large maps: a copy takes time by the entry, a snapshot does not."""
OVERLAP = 0.9
SOME_PAGES = 65536


def run(script: str, *words: str) -> Any:
    """What a benchmark of the example says, by the interpreter that ./check installs it in."""
    for needed in ("concurrent_map", "cereggii"):
        if importlib.util.find_spec(needed) is None:
            raise NotMeasured(f"{needed} is not installed")
    command = [sys.executable, str(BENCHMARKS / script), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode:
        raise NotMeasured(done.stderr.strip().rpartition("\n")[2] or f"{script} failed")
    return json.loads(done.stdout)


def ratios(rates: dict[str, Sequence[float]], of: str) -> list[float]:
    """ConcurrentMap ÷ that one, round by round."""
    return [ours / theirs for ours, theirs in zip(rates[MAP], rates[of], strict=True)]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % of the median, by bootstrap."""
    chance = random.Random(0)
    medians = sorted(
        statistics.median(chance.choices(values, k=len(values))) for _ in range(RESAMPLES)
    )
    return medians[int(0.025 * RESAMPLES)], medians[int(0.975 * RESAMPLES)]


def _note(said: Any) -> str:
    """The interval, and the map against the others."""
    low, high = interval(ratios(said["rates"], LOCKED))
    others = ", ".join(
        f"{statistics.median(ratios(said['rates'], name)):.2f} × {name}"
        for name in said["rates"]
        if name not in (MAP, LOCKED)
    )
    rate = statistics.median(said["rates"][MAP])
    return f"[{low:.2f}, {high:.2f}], {rate / 1e6:.2f} million/s; {others}"


def _bound(workload: str, entries: int) -> Bound:
    return at_least(AHEAD if workload == "snapshot" and entries > 100_000 else LEAST)


@must_show("throughput, ConcurrentMap ÷ dict + Lock", issue=6, line=2)
def throughput() -> Iterator[Figure]:
    for workload, words in WORKLOADS.items():
        for threads in (1, 2):
            for entries in ENTRIES:
                said = run(
                    "throughput.py", "--workload", workload, "--threads", str(threads),
                    "--entries", str(entries), "--rounds", str(ROUNDS),
                )  # fmt: skip
                what = f"{words}, {threads} thread{'s'[: threads - 1]}, {entries:,} entries"
                figure = statistics.median(ratios(said["rates"], LOCKED))
                yield Figure(figure, what, _bound(workload, entries), _note(said))
                if threads == 2 and workload == "range":
                    both = statistics.median(said["overlap"][MAP])
                    yield Figure(both, f"{what}: both at work", at_least(OVERLAP))


@must_show("snapshots beside copies of a dict", issue=6, line=2)
def snapshots() -> Iterator[Figure]:
    for entries in ENTRIES:
        ours, copy = (
            run("snapshots.py", "--entries", str(entries), "--subject", subject)
            for subject in ("map", "dict")
        )
        large = entries > 100_000
        size, theirs = ours["memory_bytes"], copy["memory_bytes"]
        what = f"{entries:,} entries"
        yield Figure(
            size["first"],
            f"{what}: memory of a snapshot, bytes",
            at_most(SOME_PAGES),
            f"a copy: {theirs['first']:,}",
        )
        yield Figure(
            size["each_with_stores"],
            f"{what}: of each further one, 1 % of the keys stored to, bytes",
            at_most(theirs["each_with_stores"] * 0.6) if large else None,
            f"a copy: {theirs['each_with_stores']:,}",
        )
        yield Figure(
            ours["take_ms"] * 1e3,
            f"{what}: taking it, us",
            at_most(20),
            f"a copy: {copy['take_ms'] * 1e3:,.1f} us",
        )
        yield Figure(
            ours["gap_ms"],
            f"{what}: longest stand-still of another thread, ms",
            at_most(copy["gap_ms"]) if large else None,
            f"with copies: {copy['gap_ms']:.2f}; with neither: {ours['gap_without_ms']:.2f}",
        )
        yield Figure(
            ours["gc_ms"]["1"] / ours["gc_ms"]["0"],
            f"{what}: full collection, one snapshot ÷ none",
            at_most(1.3) if large else None,
            f"{ours['gc_ms']['1']:.1f} ms; a copy ÷ none:"
            f" {copy['gc_ms']['1'] / copy['gc_ms']['0']:.2f}, {copy['gc_ms']['1']:.1f} ms",
        )
