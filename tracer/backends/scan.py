"""When to look at all threads, and what of a look is news. Pure: no clock, no kernel.

Both backends that sample threads use it. A scan costs the tracer time in
proportion to the threads, so scans go by deadline: a slow base period, one scan
when a blocked thread will cross the threshold (unless its wake-up will be told by
the kernel), a fast period only while some thread waits for a GIL.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from probes.wire import PAYLOAD, RECORD, Flag, Kind, RunState

BASE_PERIOD_NS = 100_000_000
GIL_PERIOD_NS = 20_000_000
COALESCE_NS = 4_000_000
"""Crossings that follow one another so closely share the scan at the last of them."""
SPACING_NS = 5_000_000
"""Scans never follow one another more closely."""
COST_SPACING = 10
"""… and not more closely than ten times what a scan costs: scanning never takes
more than a tenth of a core, whatever the number of threads."""
NEWS_AFTER_NS = 10_000_000

_SAMPLE = PAYLOAD[Kind.THREAD_STATE]
_LIFECYCLE = PAYLOAD[Kind.THREAD_EXIT]


def is_blocked(samples: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Which samples (``PAYLOAD[THREAD_STATE]``) show a sleeping thread."""
    state = samples["state"]
    blocked: npt.NDArray[np.bool_] = (state == RunState.SLEEPING) | (state == RunState.DISK_SLEEP)
    return blocked


def has_flag(samples: npt.NDArray[Any], flag: Flag) -> npt.NDArray[np.bool_]:
    """Which samples carry ``flag``."""
    found: npt.NDArray[np.bool_] = (samples["flags"] & np.uint16(flag)) != 0
    return found


class ScanScheduler:
    """Says when the next scan is due. Times are ns of one clock, given from outside.

    ``base_period_ns`` is by default ``min(100 ms, 0.45 * long_park_ns)``: a park
    then is seen twice before it is long.
    """

    def __init__(
        self,
        long_park_ns: int,
        base_period_ns: int | None = None,
        gil_period_ns: int = GIL_PERIOD_NS,
    ) -> None:
        if base_period_ns is None:
            base_period_ns = min(BASE_PERIOD_NS, long_park_ns * 45 // 100)
        self._long_park_ns = long_park_ns
        self._base_ns = base_period_ns
        self._gil_ns = min(gil_period_ns, base_period_ns)
        self._last_ns: int | None = None
        self._due_ns = 0
        self._period_ns = base_period_ns

    @property
    def period_ns(self) -> int:
        """The period in force: base or GIL, stretched by what a scan costs."""
        return self._period_ns

    def next_scan_ns(self, now_ns: int) -> int:
        """When the next scan is due: a time that may have passed; at once at first."""
        return now_ns if self._last_ns is None else self._due_ns

    def scanned(self, now_ns: int, samples: npt.NDArray[Any], cost_ns: int = 0) -> None:
        """A scan was made at ``now_ns``, cost ``cost_ns`` and saw ``samples``."""
        spacing = max(SPACING_NS, COST_SPACING * cost_ns)
        blocked = is_blocked(samples)
        gil = blocked & has_flag(samples, Flag.GIL)
        self._period_ns = max(spacing, self._gil_ns if gil.any() else self._base_ns)
        due = now_ns + self._period_ns
        # A watched sleep needs no look at its crossing: the kernel tells its end.
        unsure = blocked & ~gil & ~has_flag(samples, Flag.WATCHED)
        if unsure.any():
            crossing = self._crossing(now_ns, due, samples["since_ns"][unsure])
            if crossing is not None:
                due = max(crossing, now_ns + spacing)
        self._last_ns, self._due_ns = now_ns, due

    def _crossing(self, now_ns: int, due_ns: int, since: npt.NDArray[Any]) -> int | None:
        """The scan that serves the earliest crossing between now and ``due_ns``."""
        crossings = since.astype(np.int64) + self._long_park_ns
        ahead = crossings[(crossings > now_ns) & (crossings < due_ns)]
        if not len(ahead):
            return None
        return int(ahead[ahead <= ahead.min() + COALESCE_NS].max())


class DeltaFilter:
    """Turns complete scans into the records that the collector has not had yet.

    ``news_after_ns``: a thread is news once it has been blocked so long (at once
    when it waits for a GIL or in an open slow-path wait). ``armed_ns``: sleeps that
    are older are flagged BEFORE_ATTACH. ``gone_after_scans``: how many scans in a
    row must miss a thread before its exit is inferred; more than 1 where a scan
    may be incomplete and exits are reported by other means.
    """

    def __init__(
        self,
        news_after_ns: int = NEWS_AFTER_NS,
        armed_ns: int = 0,
        gone_after_scans: int = 1,
    ) -> None:
        self._news_after_ns = news_after_ns
        self._armed_ns = armed_ns
        self._gone_after = gone_after_scans
        self._known = np.empty(0, _KNOWN)

    def news(
        self,
        samples: npt.NDArray[Any],
        now_ns: int,
        open_wait: npt.NDArray[np.bool_] | None = None,
    ) -> npt.NDArray[Any]:
        """What of one scan of all threads is new, as ``RECORD``s (shape ``(n,)``).

        ``samples``: ``PAYLOAD[THREAD_STATE]``, one per thread, any order; their
        headers but for ``kind`` are the caller's. ``open_wait`` marks those in an
        open slow-path wait. Exits inferred from vanished threads come last.
        """
        order = np.argsort(_keys(samples), kind="stable")
        samples = samples[order]
        keys = _keys(samples)
        before, seen_before = self._lookup(keys)
        blocked = is_blocked(samples)
        gil = blocked & has_flag(samples, Flag.GIL)
        at_once = gil if open_wait is None else gil | (blocked & open_wait[order])
        since, cpu = samples["since_ns"], samples["cpu_ns"]

        watched = has_flag(samples, Flag.WATCHED)
        same = before["said"] & (before["since_ns"] == since)
        # A sleep told before it was watched is told again: now its silence means something.
        same &= before["watched"] | ~watched
        settled = samples["ts_ns"] >= since + np.uint64(self._news_after_ns)
        fresh = blocked & ~same & (at_once | settled)
        changed = before["said"] & (~blocked | ~same)
        # A GIL waiter between two slices looks running; only its CPU time tells
        # whether it got the GIL, so it is shown running until that is plain.
        news = fresh | changed | before["gil"]
        news &= ~(blocked & same)

        after = np.zeros(len(samples), _KNOWN)
        after["key"], after["pid"], after["tid"] = keys, samples["pid"], samples["tid"]
        after["since_ns"] = since
        after["said"] = blocked & (same | news)
        pending = before["gil"] & ~blocked & ~_surely_ran(before, samples)
        after["watched"] = watched
        after["gil"] = gil | pending
        after["cpu_ns"] = np.where(pending, before["cpu_ns"], cpu)
        after["seen_ns"] = np.where(pending, before["seen_ns"], samples["ts_ns"])
        exits = self._vanished(seen_before, after, now_ns)

        told = samples[news]
        told["kind"] = Kind.THREAD_STATE
        old = is_blocked(told) & (told["since_ns"] < self._armed_ns)
        told["flags"] |= np.where(old, np.uint16(Flag.BEFORE_ATTACH), np.uint16(0))
        return np.concatenate((told.view(RECORD), exits))

    def forget(self, pid: int) -> None:
        """A process is known to be over: infer no exit of its threads."""
        self._known = self._known[self._known["pid"] != pid]

    def forget_threads(self, threads: npt.NDArray[Any]) -> None:
        """Exits that were reported (any records): infer none of these threads."""
        self._known = self._known[~np.isin(self._known["key"], _keys(threads))]

    def _lookup(self, keys: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
        """What is known of each of ``keys`` (zeros if new), and which known ones they hit."""
        known = self._known
        before = np.zeros(len(keys), _KNOWN)
        hit = np.zeros(len(known), np.bool_)
        if len(known) and len(keys):
            at = np.minimum(np.searchsorted(known["key"], keys), len(known) - 1)
            found = known["key"][at] == keys
            before[found] = known[at[found]]
            hit[at[found]] = True
        return before, hit

    def _vanished(
        self, hit: npt.NDArray[np.bool_], after: npt.NDArray[Any], now_ns: int
    ) -> npt.NDArray[Any]:
        """Remember ``after``; return THREAD_EXIT records of threads missed too often."""
        missed = self._known[~hit]
        missed["missed"] += 1
        missed["gone_ns"] = np.where(missed["missed"] == 1, now_ns, missed["gone_ns"])
        over = missed["missed"] >= self._gone_after
        kept = np.concatenate((after, missed[~over]))
        self._known = kept[np.argsort(kept["key"], kind="stable")]
        gone = missed[over]
        exits = np.zeros(len(gone), _LIFECYCLE)
        exits["ts_ns"], exits["pid"], exits["tid"] = gone["gone_ns"], gone["pid"], gone["tid"]
        exits["kind"], exits["flags"] = Kind.THREAD_EXIT, Flag.INFERRED
        return exits.view(RECORD)


_KNOWN: np.dtype[Any] = np.dtype(
    [
        ("key", "<u8"),
        ("pid", "<u4"),
        ("tid", "<u4"),
        ("since_ns", "<u8"),
        ("cpu_ns", "<u8"),
        ("seen_ns", "<u8"),
        ("gone_ns", "<u8"),
        ("missed", "<u4"),
        ("said", "?"),
        ("watched", "?"),
        ("gil", "?"),
    ]
)
"""What the filter keeps of a thread. ``said``: its sleep since ``since_ns`` was told.
``gil``: it was last told waiting for a GIL, at ``seen_ns`` and ``cpu_ns``."""


def _keys(samples: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    keys: npt.NDArray[np.uint64] = samples["pid"].astype(np.uint64) << np.uint64(32)
    keys |= samples["tid"]
    return keys


def _surely_ran(before: npt.NDArray[Any], samples: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Whether CPU time proves that a GIL waiter got the GIL.

    Twice the detector's own bound (0.5 ms or 5 % of the time), so that it has
    been shown a sample that decides before the thread is let go.
    """
    ran = samples["cpu_ns"].astype(np.int64) - before["cpu_ns"].astype(np.int64)
    elapsed = samples["ts_ns"].astype(np.int64) - before["seen_ns"].astype(np.int64)
    surely: npt.NDArray[np.bool_] = ran > np.maximum(1_000_000, elapsed // 10)
    return surely
