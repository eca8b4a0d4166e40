"""From the iterator's bytes to samples: the layout, GIL addresses, open waits."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from probes.kinds import FUTEX
from probes.wire import PAYLOAD, RECORD, Flag, Kind, WaitClass
from tracer.backends.scan import is_blocked

SAMPLE: np.dtype[Any] = np.dtype(
    [
        ("state", PAYLOAD[Kind.THREAD_STATE]),
        ("wait_start_ns", "<u8"),
        ("wait_address", "<u8"),
        ("wait_site", "<u8"),
        ("wait_class", "<u4"),
        ("wait_slices", "<u4"),
    ]
)
"""``struct ps_sample`` of ``common.bpf.h``."""


class GilRanges:
    """Which addresses belong to a GIL, by process."""

    def __init__(self) -> None:
        self._ranges: dict[int, tuple[tuple[int, int], ...]] = {}

    def set(self, pid: int, ranges: tuple[tuple[int, int], ...]) -> None:
        """``[start, end)`` of each GIL of process ``pid``."""
        self._ranges[pid] = ranges

    def inherit(self, parent: int, child: int) -> None:
        """A forked child has its parent's memory, so the same addresses."""
        self._ranges[child] = self._ranges.get(parent, ())

    def forget(self, pid: int) -> None:
        """The process is over, or another program runs in it."""
        self._ranges.pop(pid, None)

    def flag(
        self, states: npt.NDArray[Any], wait_class: npt.NDArray[Any] | None = None
    ) -> npt.NDArray[np.bool_]:
        """Set ``Flag.GIL`` in samples that wait inside a GIL; return which those are.

        Also in those whose open wait (``wait_class`` of the samples) is for a GIL but
        that are awake between two slices of it.
        """
        inside = np.zeros(len(states), np.bool_)
        in_futex = is_blocked(states) & (states["syscall"] == FUTEX)
        if in_futex.any():
            address, pids = states["arg0"], states["pid"]
            for pid, ranges in self._ranges.items():
                for start, end in ranges:
                    inside |= (pids == pid) & (address >= start) & (address < end)
            inside &= in_futex
            states["flags"][inside] |= np.uint16(Flag.GIL)
        if wait_class is not None:
            states["flags"][wait_class == WaitClass.GIL] |= np.uint16(Flag.GIL)
        return inside


class OpenWaits:
    """Tells each open slow-path wait once, as a WAIT_OPEN record."""

    def __init__(self) -> None:
        self._tids = np.empty(0, np.uint32)
        self._starts = np.empty(0, np.uint64)

    def news(self, samples: npt.NDArray[Any], *, complete: bool) -> npt.NDArray[Any]:
        """WAIT_OPEN records (dtype ``RECORD``) of waits that were not told yet.

        A scan that is not ``complete`` leaves out threads of which there is no news.
        """
        rows = samples[samples["wait_start_ns"] != 0]
        rows = rows[np.argsort(rows["state"]["tid"], kind="stable")]
        tids, starts = rows["state"]["tid"], rows["wait_start_ns"]
        told = np.zeros(len(rows), np.bool_)
        if len(rows) and len(self._tids):
            at = np.minimum(np.searchsorted(self._tids, tids), len(self._tids) - 1)
            told = (self._tids[at] == tids) & (self._starts[at] == starts)
        if complete:
            self._tids, self._starts = tids.copy(), starts.copy()
        elif not told.all():
            at = np.minimum(np.searchsorted(tids, self._tids), len(tids) - 1)
            kept = tids[at] != self._tids
            self._tids = np.concatenate((self._tids[kept], tids))
            self._starts = np.concatenate((self._starts[kept], starts))
            order = np.argsort(self._tids, kind="stable")
            self._tids, self._starts = self._tids[order], self._starts[order]
        rows = rows[~told]
        records = np.zeros(len(rows), PAYLOAD[Kind.WAIT_OPEN])
        for name in ("ts_ns", "pid", "tid"):
            records[name] = rows["state"][name]
        records["kind"] = Kind.WAIT_OPEN
        records["start_ns"] = rows["wait_start_ns"]
        # The wait may have begun after the sample's own time stamp was taken.
        records["ts_ns"] = np.maximum(records["ts_ns"], records["start_ns"])
        records["duration_ns"] = records["ts_ns"] - records["start_ns"]
        records["address"], records["site"] = rows["wait_address"], rows["wait_site"]
        records["wait_class"] = rows["wait_class"]
        on_map = rows["wait_class"] == WaitClass.MAP
        records["aux"], records["slices"] = (
            np.where(on_map, rows["wait_slices"], 0),
            np.where(on_map, 1, rows["wait_slices"]),
        )
        return records.view(RECORD)
