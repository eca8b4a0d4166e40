"""How often the targets' threads give the CPU away by themselves, before any probe is there.

Each contended wait is at least one voluntary switch (proc(5), ``voluntary_ctxt_switches``),
so the rate bounds what probes on waits can cost before they have been tried.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

LOOK_NS = 50_000_000
"""A rate is not known before so long a time."""
MAX_THREADS = 256
"""Of a process with more threads, so many are looked at, evenly chosen, and stand for all."""

_SWITCHES = re.compile(rb"^voluntary_ctxt_switches:\s*(\d+)", re.MULTILINE)


class SwitchRate:
    """Takes the first look when made. ``now_ns``: CLOCK_MONOTONIC."""

    def __init__(self, pids: Iterable[int], now_ns: int) -> None:
        self._began_ns = now_ns
        self._before = {pid: _switches(pid) for pid in pids}

    def known(self, now_ns: int) -> bool:
        """Whether enough time has passed for a rate."""
        return now_ns - self._began_ns >= LOOK_NS

    def per_second(self, now_ns: int) -> float:
        """Voluntary switches per second of all processes together since the first look."""
        total = 0.0
        for pid, (threads, before) in self._before.items():
            counts = ((tid, _count(pid, tid)) for tid in before)
            switched = sum(count - before[tid] for tid, count in counts if count is not None)
            total += switched * threads / max(1, len(before))
        return total * 1e9 / max(1, now_ns - self._began_ns)


def _switches(pid: int) -> tuple[int, dict[int, int]]:
    """How many threads there are, and the counters of those that are looked at."""
    try:
        tids = sorted(int(name) for name in os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return 0, {}
    chosen = tids[:: -(-len(tids) // MAX_THREADS) or 1]
    counts = {tid: _count(pid, tid) for tid in chosen}
    return len(tids), {tid: count for tid, count in counts.items() if count is not None}


def _count(pid: int, tid: int) -> int | None:
    try:
        found = _SWITCHES.search(Path(f"/proc/{pid}/task/{tid}/status").read_bytes())
    except OSError:
        return None  # the thread has gone meanwhile
    return int(found[1]) if found else None
