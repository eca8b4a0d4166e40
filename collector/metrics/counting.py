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

IDLE = {-1: "unknown", 0: "false", 1: "true"}
_BOUNDS = np.array(PARK_BOUNDS_NS, np.uint64)
_BUCKETS = len(PARK_BOUNDS_NS) + 1
_CLASSES = {int(one): kind for one, kind in CLASS_KIND.items()}
_FIRST_SHORT = SHORT_BOUNDS_NS[0].bit_length() - 1


def parks(rows: npt.NDArray[Any]) -> Iterator[tuple[int, str, str, list[int], int]]:
    """(pid, kind, idle, counts, total_ns) of parks that ended without having been long.

    A long one comes as an event, which knows better whether it is idle; one that the end
    of the session cut off has not ended.
    """
    rows = rows[(rows["park_id"] == 0) & (rows["end"] != End.OPEN)]
    if not len(rows):
        return
    buckets = np.searchsorted(_BOUNDS, rows["duration_ns"], side="left")
    packed = rows["pid"].astype(np.uint64) << np.uint64(16)
    packed |= rows["kind"].astype(np.uint64) << np.uint64(8) | rows["idle"].astype(np.uint8)
    keys, which = np.unique(packed, return_inverse=True)
    counts = np.bincount(which * _BUCKETS + buckets, minlength=len(keys) * _BUCKETS)
    totals = np.bincount(which, weights=rows["duration_ns"])
    for at, key in enumerate(keys.tolist()):
        idle = int(np.uint8(key & 0xFF).astype(np.int8))
        own = counts[at * _BUCKETS : (at + 1) * _BUCKETS].tolist()
        yield key >> 16, KINDS[key >> 8 & 0xFF], IDLE[idle], own, int(totals[at])


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
