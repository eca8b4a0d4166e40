"""Counting what passes, and saying what a count alone means: losses, allocations, processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from collector.counters import Counters
from collector.events import Event
from probes.kinds import KINDS
from probes.wire import PAYLOAD, AllocApi, Flag, Kind, MapCounter, WaitClass

LOSS_PERIOD_NS = 1_000_000_000
"""Losses are said at most once a second for each place and kind, with their sum."""

_PROCESS_EVENTS = {
    Kind.PROC_FORK: "process_fork",
    Kind.PROC_EXEC: "process_exec",
    Kind.PROC_EXIT: "process_exit",
}


class Accountant:
    """Keeps ``counters`` true and turns counts into events.

    ``alloc_events``: make a ``large_alloc`` event of each such record. ``follow``:
    say of a forked child that it is watched too.
    """

    def __init__(self, alloc_events: bool, follow: bool = False) -> None:
        self.counters = Counters()
        self._alloc_events = alloc_events
        self._follow = follow
        self._unsaid: Counter[tuple[str, int]] = Counter()
        self._said_ns = 0

    def batch(
        self, records: npt.NDArray[Any], dropped: Mapping[int, int], malformed: int
    ) -> list[Event]:
        """Count one batch; the events that its records are by themselves."""
        for kind, count in dropped.items():
            if count:
                self.counters.dropped[kind] += count
                self._unsaid["kernel", kind] += count
        if malformed:
            self.counters.malformed += malformed
            self._unsaid["decode", 0] += malformed
        if not len(records):
            return []
        kinds = np.bincount(records["kind"])
        for kind in np.flatnonzero(kinds).tolist():
            self.counters.received[kind] += int(kinds[kind])
        self._sums(records)
        return [*self._processes(records), *self._allocations(records)]

    def losses(self, now_ns: int, at_once: bool = False) -> list[Event]:
        """``data_loss`` events that are due (all of them with ``at_once``)."""
        if not self._unsaid or not (at_once or now_ns - self._said_ns >= LOSS_PERIOD_NS):
            return []
        events = [
            Event(
                "data_loss",
                now_ns,
                data={"where": where, "record_kind": _kind_name(kind), "count": count},
            )
            for (where, kind), count in sorted(self._unsaid.items())
        ]
        self._unsaid.clear()
        self._said_ns = now_ns
        return events

    def parks(self, rows: npt.NDArray[Any]) -> None:
        """Count parks that ended."""
        for kind, count in enumerate(np.bincount(rows["kind"]).tolist()):
            if count:
                self.counters.parks[KINDS[kind]] += count

    def _processes(self, records: npt.NDArray[Any]) -> Iterator[Event]:
        picked = records[np.isin(records["kind"], list(_PROCESS_EVENTS))]
        for record in picked:
            kind = Kind(int(record["kind"]))
            life = record.view(PAYLOAD[kind])
            data: dict[str, Any] = {}
            if kind is Kind.PROC_FORK:
                data["child_pid"] = int(life["child_pid"])
                data["followed"] = self._follow
            if kind is Kind.PROC_EXIT and not life["flags"] & Flag.INFERRED:
                data["exit_code"] = int(life["exit_code"])
            yield Event(
                _PROCESS_EVENTS[kind],
                int(life["ts_ns"]),
                pid=int(life["pid"]),
                tid=int(life["tid"]),
                data=data,
            )

    def _allocations(self, records: npt.NDArray[Any]) -> Iterator[Event]:
        large = records[records["kind"] == Kind.LARGE_ALLOC].view(PAYLOAD[Kind.LARGE_ALLOC])
        self.counters.large_allocs += len(large)
        self.counters.large_alloc_bytes += int(large["size_bytes"].sum(dtype=np.uint64))
        if not self._alloc_events:
            return
        columns = [large[name].tolist() for name in ("ts_ns", "pid", "tid", "size_bytes", "api")]
        for ts_ns, pid, tid, size, api in zip(*columns, strict=True):
            yield Event(
                "large_alloc",
                ts_ns,
                pid=pid,
                tid=tid,
                data={"size_bytes": size, "api": _api_name(api)},
            )

    def _sums(self, records: npt.NDArray[Any]) -> None:
        """Kernel-side counts: they make no events, only totals."""
        counters = self.counters
        hist = records[records["kind"] == Kind.WAIT_HIST].view(PAYLOAD[Kind.WAIT_HIST])
        for row in hist:
            wait_class, bucket = int(row["wait_class"]), int(row["bucket"])
            counters.short_waits[wait_class, bucket] += int(row["count"])
            counters.short_wait_ns[wait_class] += int(row["total_ns"])
        maps = records[records["kind"] == Kind.MAP_COUNT].view(PAYLOAD[Kind.MAP_COUNT])
        for row in maps[maps["counter"] == MapCounter.WAIT]:
            counters.short_waits[WaitClass.MAP, int(row["bucket"])] += int(row["count"])
            counters.short_wait_ns[WaitClass.MAP] += int(row["total_ns"])
        for row in records[records["kind"] == Kind.POOL_REFILL].view(PAYLOAD[Kind.POOL_REFILL]):
            counters.refills[int(row["size_bytes"])] += int(row["count"])
        scans = records[records["kind"] == Kind.SCAN].view(PAYLOAD[Kind.SCAN])
        if len(scans):
            counters.scans += len(scans)
            counters.scan_cost_ns += int(scans["cost_ns"].sum(dtype=np.uint64))
            counters.threads = int(scans["threads"][-1])


def _kind_name(kind: int) -> str | None:
    try:
        return Kind(kind).name.lower()
    except ValueError:
        return None


def _api_name(api: int) -> str | None:
    try:
        return AllocApi(api).name.lower()
    except ValueError:
        return None
