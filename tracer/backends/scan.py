"""When to look at all threads, and what of a look is news. Pure: no clock, no kernel.

Both backends that sample threads use it. A scan costs the tracer time in
proportion to the threads, so scans go by deadline: a slow base period, one scan
when a blocked thread will cross the threshold (unless its wake-up was told), a fast
period only while some thread waits for a GIL.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from probes.wire import PAYLOAD, RECORD, Flag, Kind, RunState

BASE_PERIOD_NS = 100_000_000
QUIET_PERIOD_NS = 500_000_000
"""Where every thread sleeps under watch, the ring says whatever happens. It is not relied
on alone: now and then a kernel runs no program for a wake-up."""
GIL_PERIOD_NS = 20_000_000
COALESCE_NS = 4_000_000
"""Crossings that follow one another so closely share the scan at the last of them."""
SPACING_NS = 5_000_000
"""Scans never follow one another more closely."""
COST_SPACING = 10
"""… and not more closely than ten times what a scan costs: scanning never takes
more than a tenth of a core, whatever the number of threads."""
_GIL_LINGER = 3
"""Fast scans after the last one that saw a thread wait for a GIL: between two slices of
its wait it looks running, for longer when the CPUs are busy."""
_IN_A_ROW = 3
"""So many scans in a row must be dear, or cheap again, before that is more than a moment."""
NEWS_AFTER_NS = 10_000_000

_LOW = np.uint64(0xFFFFFFFF)
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
    then is seen twice before it is long. Where all threads sleep under watch it is
    ``min(500 ms, 0.9 * long_park_ns)``, until ``stirred`` tells that something
    happened: a park is seen before it is long even if nobody tells. A blocked thread
    is looked at once more when it will cross ``long_park_ns``, unless ``woken`` has
    told of its end: a park that is called long was seen to last, also where a wake-up
    was lost.
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
        self._quiet_ns = max(base_period_ns, min(QUIET_PERIOD_NS, long_park_ns * 9 // 10))
        self._quiet = False
        self._last_ns = 0
        self._spacing_ns = SPACING_NS
        self._gil_ns = min(gil_period_ns, base_period_ns)
        self._due_ns: int | None = None
        self._gil_until_ns = -1
        self._period_ns = base_period_ns
        self.slowed = False
        """Whether scans are so dear that they come more rarely than the base period."""
        self._otherwise = 0
        self._keys = np.empty(0, np.uint64)
        self._crossings = np.empty(0, np.int64)

    @property
    def period_ns(self) -> int:
        """The period in force: base or GIL, stretched by what a scan costs."""
        return self._period_ns

    def next_scan_ns(self, now_ns: int) -> int:
        """When the next scan is due: a time that may have passed; at once at first."""
        return now_ns if self._due_ns is None else self._due_ns

    def scanned(
        self, now_ns: int, samples: npt.NDArray[Any], cost_ns: int = 0, *, complete: bool = True
    ) -> None:
        """A scan was made at ``now_ns``, cost ``cost_ns`` and saw ``samples``.

        One that is not ``complete`` leaves out threads that sleep on as before.
        """
        if complete or len(samples):
            blocked = is_blocked(samples)
            gil = has_flag(samples, Flag.GIL)
            if gil.any():
                self._gil_until_ns = now_ns + _GIL_LINGER * self._gil_ns
            self._expect(now_ns, samples, blocked & ~gil, complete=complete)
            under_watch = blocked & has_flag(samples, Flag.WATCHED)
            self._quiet = bool(len(samples) and under_watch.all())
        self._last_ns = now_ns
        spacing = self._spacing_ns = max(SPACING_NS, COST_SPACING * cost_ns)
        self._otherwise = 0 if (spacing > self._base_ns) == self.slowed else self._otherwise + 1
        if self._otherwise == _IN_A_ROW:
            self.slowed, self._otherwise = not self.slowed, 0
        if now_ns <= self._gil_until_ns:
            period = self._gil_ns
        else:
            period = self._quiet_ns if self._quiet else self._base_ns
        self._period_ns = max(spacing, period)
        due = now_ns + self._period_ns
        ahead = self._crossings[(self._crossings > now_ns) & (self._crossings < due)]
        if len(ahead):
            together = ahead[ahead <= ahead.min() + COALESCE_NS]
            due = max(int(together.max()), now_ns + spacing)
        self._due_ns = due

    def hurry(self) -> None:
        """Scan again as soon as the last scan's cost allows."""
        self._due_ns = self._last_ns + self._spacing_ns

    def stirred(self) -> None:
        """Some thread has been told of: it may have begun another sleep since then."""
        if self._quiet and self._due_ns is not None:
            self._quiet = False
            self._due_ns = min(self._due_ns, self._last_ns + self._base_ns)

    def woken(self, wakes: npt.NDArray[Any]) -> None:
        """Threads were woken (records, oldest first): their sleeps need no look any more."""
        if not len(self._keys):
            return
        keys = _keys(wakes)
        order = np.argsort(keys, kind="stable")
        at = np.maximum(np.searchsorted(keys[order], self._keys, side="right") - 1, 0)
        last = order[at]
        begun = self._crossings - self._long_park_ns
        kept = (keys[last] != self._keys) | (wakes["ts_ns"][last].astype(np.int64) < begun)
        self._keys, self._crossings = self._keys[kept], self._crossings[kept]

    def _expect(
        self,
        now_ns: int,
        samples: npt.NDArray[Any],
        sleeping: npt.NDArray[np.bool_],
        *,
        complete: bool,
    ) -> None:
        """Note when each sleeping thread will cross."""
        keys = _keys(samples)
        crossings = samples["since_ns"].astype(np.int64) + self._long_park_ns
        new = sleeping & (crossings > now_ns)
        kept = np.zeros(len(self._keys), np.bool_)
        if not complete:
            kept = (self._crossings > now_ns) & ~_member(self._keys, keys)
        self._keys = np.concatenate((self._keys[kept], keys[new]))
        self._crossings = np.concatenate((self._crossings[kept], crossings[new]))


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
        self.switches = 0
        """How often all threads have given the CPU away by themselves, while they were seen."""

    def news(
        self,
        samples: npt.NDArray[Any],
        now_ns: int,
        open_wait: npt.NDArray[np.bool_] | None = None,
        *,
        complete: bool = True,
    ) -> npt.NDArray[Any]:
        """What of one scan is new, as ``RECORD``s (shape ``(n,)``).

        ``samples``: ``PAYLOAD[THREAD_STATE]``, one per thread, any order; their
        headers but for ``kind`` are the caller's. ``open_wait`` marks those in an
        open slow-path wait. Exits inferred from vanished threads come last; a scan
        that is not ``complete`` leaves out threads of which there is no news.
        """
        keys = _keys(samples)
        if not (keys[1:] > keys[:-1]).all():
            order = np.argsort(keys, kind="stable")
            samples, keys = samples[order], keys[order]
            open_wait = None if open_wait is None else open_wait[order]
        before, place = self._lookup(keys)
        blocked = is_blocked(samples)
        gil = blocked & has_flag(samples, Flag.GIL)
        at_once = gil if open_wait is None else gil | (blocked & open_wait)
        since, cpu = samples["since_ns"], samples["cpu_ns"]

        watched = has_flag(samples, Flag.WATCHED)
        same = before["said"] & (before["since_ns"] == since)
        # A sleep told as watched, or not, is told again when that changes: its silence
        # means something now, or does not any more.
        same &= before["watched"] == watched
        settled = samples["ts_ns"] >= since + np.uint64(self._news_after_ns)
        fresh = blocked & ~same & (at_once | settled)
        changed = before["said"] & (~blocked | ~same)
        # A GIL waiter between two slices looks running; only its CPU time tells
        # whether it got the GIL, so it is shown running until that is plain.
        news = fresh | changed | before["gil"]
        news &= ~(blocked & same)

        switched = (samples["aux"] - before["switches"])[before["key"] != 0]
        self.switches += int(switched.sum(dtype=np.uint64))

        after = np.zeros(len(samples), _KNOWN)
        after["key"] = keys
        after["since_ns"] = since
        after["said"] = blocked & (same | news)
        pending = before["gil"] & ~blocked & ~_surely_ran(before, samples)
        after["watched"], after["switches"] = watched, samples["aux"]
        after["gil"] = gil | pending
        after["cpu_ns"] = np.where(pending, before["cpu_ns"], cpu)
        after["seen_ns"] = np.where(pending, before["seen_ns"], samples["ts_ns"])
        exits = self._remember(after, place, now_ns if complete else None)
        told = samples[news]
        told["kind"] = Kind.THREAD_STATE
        old = is_blocked(told) & (told["since_ns"] < self._armed_ns)
        told["flags"] |= np.where(old, np.uint16(Flag.BEFORE_ATTACH), np.uint16(0))
        return np.concatenate((told.view(RECORD), exits))

    @property
    def threads(self) -> int:
        """How many threads are known."""
        return len(self._known)

    def forget(self, pid: int) -> None:
        """A process is known to be over: infer no exit of its threads."""
        self._known = self._known[self._known["key"] >> np.uint64(32) != pid]

    def forget_threads(self, threads: npt.NDArray[Any]) -> None:
        """Exits that were reported (any records): infer none of these threads."""
        self._known = self._known[~_member(self._known["key"], _keys(threads))]

    def _lookup(self, keys: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[np.intp]]:
        """What is known of each of ``keys`` (zeros if new), and where it stands (-1)."""
        known = self._known
        if np.array_equal(known["key"], keys):
            return known, np.arange(len(known))
        before = np.zeros(len(keys), _KNOWN)
        place = np.full(len(keys), -1)
        if len(known) and len(keys):
            at = np.minimum(np.searchsorted(known["key"], keys), len(known) - 1)
            found = known["key"][at] == keys
            before[found] = known[at[found]]
            place[found] = at[found]
        return before, place

    def _remember(
        self, after: npt.NDArray[Any], place: npt.NDArray[np.intp], missed_ns: int | None
    ) -> npt.NDArray[Any]:
        """Keep ``after``; return THREAD_EXIT records of threads missed too often.

        ``missed_ns`` of None: to be left out does not mean to be missed.
        """
        known, here = self._known, place >= 0
        known[place[here]] = after[here]
        over = np.zeros(len(known), np.bool_)
        if missed_ns is not None:
            missing = np.ones(len(known), np.bool_)
            missing[place[here]] = False
            known["gone_ns"][missing & (known["missed"] == 0)] = missed_ns
            known["missed"][missing] += 1
            over = known["missed"] >= self._gone_after
        if here.all() and not over.any():
            return np.empty(0, RECORD)
        gone = known[over]
        kept = np.concatenate((known[~over], after[~here]))
        self._known = kept[np.argsort(kept["key"], kind="stable")]
        exits = np.zeros(len(gone), _LIFECYCLE)
        exits["ts_ns"] = gone["gone_ns"]
        exits["pid"], exits["tid"] = gone["key"] >> np.uint64(32), gone["key"] & _LOW
        exits["kind"], exits["flags"] = Kind.THREAD_EXIT, Flag.INFERRED
        return exits.view(RECORD)


_KNOWN: np.dtype[Any] = np.dtype(
    [
        ("key", "<u8"),
        ("since_ns", "<u8"),
        ("cpu_ns", "<u8"),
        ("seen_ns", "<u8"),
        ("gone_ns", "<u8"),
        ("missed", "<u4"),
        ("switches", "<u4"),
        ("said", "?"),
        ("watched", "?"),
        ("gil", "?"),
    ]
)
"""What the filter keeps of a thread; ``key``: pid and tid. ``said``: its sleep since
``since_ns`` was told.
``gil``: it was last told waiting for a GIL, at ``seen_ns`` and ``cpu_ns``."""


def _keys(samples: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    keys: npt.NDArray[np.uint64] = samples["pid"].astype(np.uint64) << np.uint64(32)
    keys |= samples["tid"]
    return keys


def _member(values: npt.NDArray[Any], among: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Which ``values`` are ``among`` others (np.isin would import numpy.ma: 20 ms)."""
    if not len(among):
        return np.zeros(len(values), np.bool_)
    among = np.sort(among)
    at = np.minimum(np.searchsorted(among, values), len(among) - 1)
    found: npt.NDArray[np.bool_] = among[at] == values
    return found


def _surely_ran(before: npt.NDArray[Any], samples: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Whether CPU time proves that a GIL waiter got the GIL.

    Twice the detector's own bound (0.5 ms or 5 % of the time), so that it has
    been shown a sample that decides before the thread is let go.
    """
    ran = samples["cpu_ns"].astype(np.int64) - before["cpu_ns"].astype(np.int64)
    elapsed = samples["ts_ns"].astype(np.int64) - before["seen_ns"].astype(np.int64)
    surely: npt.NDArray[np.bool_] = ran > np.maximum(1_000_000, elapsed // 10)
    return surely
