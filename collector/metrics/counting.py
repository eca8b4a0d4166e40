"""Many rows at once into buckets: parks that ended, waits that the kernel counted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from collector.metrics.catalogue import PARK_BOUNDS_NS, SHORT_BOUNDS_NS
from collector.park import CLASS_KIND, End
from probes.kinds import KINDS
from probes.wire import PAYLOAD, Kind

IDLE = ("unknown", "false", "true")
_BOUNDS = np.array(PARK_BOUNDS_NS, np.uint64)
_BUCKETS = len(PARK_BOUNDS_NS) + 1
_CLASSES = {int(one): kind for one, kind in CLASS_KIND.items()}
_FIRST_SHORT = SHORT_BOUNDS_NS[0].bit_length() - 1


def parks(rows: npt.NDArray[Any]) -> Iterator[tuple[int, str, str, list[int], int]]:
    """(pid, kind, idle, counts, total_ns) of parks that ended without having been long.

    A long one comes as an event, which knows better whether it is idle; one that the end
    of the session cut off has not ended.
    """
    wanted = (rows["park_id"] == 0) & (rows["end"] != End.OPEN)
    if not wanted.all():
        rows = rows[wanted]
    durations, pids = np.ascontiguousarray(rows["duration_ns"]), np.ascontiguousarray(rows["pid"])
    # One number for kind, idleness and bucket; processes are few, so one pass for each.
    sort = rows["kind"].astype(np.int64) * len(IDLE) + rows["idle"] + 1
    bucket = sort * _BUCKETS + np.searchsorted(_BOUNDS, durations, side="left")
    for pid, chosen in _by_pid(pids):
        own, ns = (sort, durations) if chosen is None else (sort[chosen], durations[chosen])
        totals = np.bincount(own, ns)
        every = np.bincount(
            bucket if chosen is None else bucket[chosen], minlength=len(totals) * _BUCKETS
        ).reshape(-1, _BUCKETS)
        for one in np.flatnonzero(every.any(axis=1)).tolist():
            kind, idle = divmod(one, len(IDLE))
            yield pid, KINDS[kind], IDLE[idle], every[one].tolist(), int(totals[one])


def _by_pid(
    pids: npt.NDArray[np.uint32],
) -> Iterator[tuple[int, npt.NDArray[np.bool_] | None]]:
    """Each process and which rows are its own; None: all of them."""
    if len(pids) and (pids == pids[0]).all():
        yield int(pids[0]), None
        return
    left = pids
    while len(left):
        yield int(left[0]), pids == left[0]
        left = left[left != left[0]]


def short_waits(records: npt.NDArray[Any]) -> Iterator[tuple[int, str, list[int], int]]:
    """(pid, kind, counts, total_ns) of each WAIT_HIST record."""
    for row in records[records["kind"] == Kind.WAIT_HIST].view(PAYLOAD[Kind.WAIT_HIST]):
        counts = [0] * (len(SHORT_BOUNDS_NS) + 1)
        bucket = max(0, int(row["bucket"]) - _FIRST_SHORT)
        counts[min(bucket, len(SHORT_BOUNDS_NS))] = int(row["count"])
        if (wait_class := int(row["wait_class"])) in _CLASSES:
            yield int(row["pid"]), _CLASSES[wait_class], counts, int(row["total_ns"])


def scan_period_ns(records: npt.NDArray[Any]) -> int | None:
    """The period that the last SCAN record says, None without one."""
    scans = records[records["kind"] == Kind.SCAN].view(PAYLOAD[Kind.SCAN])
    return int(scans["period_ns"][-1]) if len(scans) else None
