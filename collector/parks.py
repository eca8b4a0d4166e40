"""The park detector: records in, parks out, on nobody's clock but the records'.

A park is a *logical* wait: 5 ms slices of ``take_gil`` on one address, or the
futex re-waits inside one semaphore wait, are one park. Two sources tell of it,
the slow-path probes (exact begin, end and lock address) and the scan (state,
block time and system call of every thread, and the wake-up); the detector makes
one park of both. The rules are written beside the code that applies them.

``feed`` takes records, ``advance`` the time; what they found is collected by
``take``. A thread has at most one open park, so tables are bounded by threads.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from collector.park import (
    CLASS_KIND,
    End,
    Findings,
    Park,
    Seen,
    due_by,
    park_of_state,
    park_of_wait,
    park_rows,
    place_of,
    wait_rows,
)
from probes.kinds import EXIT_GROUP, FUTEX, PTRACE, RESTART, park_kind
from probes.wire import PAYLOAD, Flag, Kind, RunState, WaitClass

SAME_WAIT_SLACK_NS = 1_000_000
"""A scan's block time and the slow path's begin of one wait differ by the way into
the kernel and the clock calibration: microseconds; this is a wide bound on it."""

_BLOCKED = (RunState.SLEEPING, RunState.DISK_SLEEP)


def _key(pid: int, tid: int) -> int:
    return pid << 32 | tid


class ParkDetector:
    """Follows every thread's waits; see the module's text.

    ``long_park_ns``: the threshold. ``min_park_ns``: shorter parks that only the
    scan saw are not reported (the slow path filters in the kernel).
    """

    def __init__(self, long_park_ns: int, min_park_ns: int) -> None:
        self.long_park_ns = long_park_ns
        self.min_park_ns = min_park_ns
        self._open: dict[int, Park] = {}
        self._due: list[tuple[int, int, Park]] = []
        self._unconfirmed: list[Park] = []
        self._ending: dict[int, tuple[int, int]] = {}
        self._scan_ns: dict[int, int] = {}
        self._scans = 0
        self._next_id = 1
        self._serial = 0
        self._ended_rows: list[Park] = []
        self._found = Findings()
        self._handlers: dict[Kind, Callable[[Any], None]] = {
            Kind.THREAD_STATE: self._on_state,
            Kind.WAIT_OPEN: self._on_wait_open,
            Kind.WAIT: self._on_wait,
            Kind.WAKE: self._on_wake,
            Kind.RUN: self._on_run,
            Kind.THREAD_START: self._on_thread_start,
            Kind.THREAD_EXIT: self._on_thread_exit,
            Kind.PROC_EXEC: self._on_process_over,
            Kind.PROC_EXIT: self._on_process_over,
            Kind.SCAN: self._on_scan,
        }

    @property
    def next_deadline_ns(self) -> int | None:
        """When the next open park will cross the threshold, None if none can."""
        while self._due and self._settled(self._due[0][2]):
            heapq.heappop(self._due)
        return self._due[0][0] if self._due else None

    def crossing_by(self, until_ns: int) -> list[Park]:
        """Open parks that will cross the threshold until then, if they last."""
        return [park for park in due_by(self._due, until_ns) if not self._settled(park)]

    @property
    def open_parks(self) -> list[Park]:
        """Parks that have not ended (live objects: do not change them)."""
        return list(self._open.values())

    def park_of(self, pid: int, tid: int) -> Park | None:
        """The park that a thread is in, long or not; None when none is known of."""
        return self._open.get(_key(pid, tid))

    def is_open(self, park: Park) -> bool:
        """Whether this very park still lasts, as far as is known."""
        return self._open.get(_key(park.pid, park.tid)) is park

    def feed(self, records: npt.NDArray[Any]) -> None:
        """Take decoded records (dtype ``RECORD``) of one batch, in any order."""
        if not len(records):
            return
        kinds = records["kind"]
        single = np.isin(kinds, [k for k in self._handlers if k is not Kind.WAIT])
        is_wait = kinds == Kind.WAIT
        if is_wait.any():
            single |= self._split_waits(records, is_wait, single)
        rest = records[single]
        rest = rest[np.argsort(rest["ts_ns"], kind="stable")]
        for record in rest:
            kind = Kind(int(record["kind"]))
            self._handlers[kind](record.view(PAYLOAD[kind]))

    def advance(self, now_ns: int) -> None:
        """Everything up to ``now_ns`` has been fed: flag the parks that crossed."""
        waiting = self._unconfirmed
        self._unconfirmed = []
        while self._due and self._due[0][0] <= now_ns:
            waiting.append(heapq.heappop(self._due)[2])
        for park in waiting:
            if self._settled(park):
                continue
            if park.start_ns + self.long_park_ns > now_ns:
                self._schedule(park)
            elif park.confirmed_by_silence or self._confirmed(park):
                self._cross(park)
            else:
                self._unconfirmed.append(park)

    def take(self) -> Findings:
        """What was found since the last call."""
        found, self._found = self._found, Findings()
        if self._ended_rows:
            found.rows.append(park_rows(self._ended_rows))
            self._ended_rows = []
        return found

    def finish(self, now_ns: int) -> None:
        """The session ends: parks that still last become rows with ``End.OPEN``."""
        for park in self.open_parks:
            park.end_ns = max(now_ns, park.start_ns)
            if park.park_id or park.end_ns - park.start_ns >= self.min_park_ns:
                self._ended_rows.append(park)
        self._open.clear()

    # -- complete slow-path waits: nearly all of the stream, so in bulk ------------

    def _split_waits(
        self,
        records: npt.NDArray[Any],
        is_wait: npt.NDArray[np.bool_],
        single: npt.NDArray[np.bool_],
    ) -> npt.NDArray[np.bool_]:
        """Turn waits that concern no open park into rows; return which are left."""
        keys = records["pid"].astype(np.uint64) << np.uint64(32) | records["tid"]
        concerned = set(self._open) | set(keys[single].tolist())
        left = is_wait & (records.view(PAYLOAD[Kind.WAIT])["duration_ns"] >= self.long_park_ns)
        if concerned:
            left |= is_wait & np.isin(keys, np.fromiter(concerned, np.uint64, len(concerned)))
        bulk = records[is_wait & ~left].view(PAYLOAD[Kind.WAIT])
        if len(bulk):
            self._found.rows.append(wait_rows(bulk))
        return left

    # -- one record ---------------------------------------------------------------

    def _on_state(self, r: Any) -> None:
        park = self._open.get(_key(int(r["pid"]), int(r["tid"])))
        if r["state"] in _BLOCKED:
            self._seen_blocked(park, r)
        elif park is not None and r["state"] == RunState.RUNNING:
            self._seen_running(park, r)

    def _seen_blocked(self, park: Park | None, r: Any) -> None:
        since, syscall = int(r["since_ns"]), int(r["syscall"])
        gil = bool(r["flags"] & Flag.GIL)
        kind = park_kind(syscall, int(r["arg0"]), int(r["arg1"]), gil)
        if park is not None:
            if self._same_wait(park, kind, r):
                park.slices += int(since != park.since_ns)
                park.since_ns, park.last_seen_ns = since, int(r["ts_ns"])
                park.cpu_ns = int(r["cpu_ns"])
                park.syscall = park.syscall if syscall == RESTART else syscall
                park.arg1 = int(r["arg1"])
                park.flags = park.flags & ~Flag.WATCHED | int(r["flags"])
                self._ending.pop(_key(park.pid, park.tid), None)
                return
            self._close_unseen(park, r)
        self._begin(park_of_state(r, kind))

    def _same_wait(self, park: Park, kind: str, r: Any) -> bool:
        if park.kind == "gil":
            return kind == "gil" and park.hardly_ran(int(r["cpu_ns"]), int(r["ts_ns"]))
        if park.source is Seen.SLOW_PATH:
            inside = int(r["since_ns"]) >= park.start_ns - SAME_WAIT_SLACK_NS
            # A wait for a shard may end in one for the GIL, which is part of it.
            other = kind == "gil" and park.kind != "map"
            return inside and not other and int(r["syscall"]) in (FUTEX, RESTART, -1)
        return int(r["since_ns"]) == park.since_ns or park.resumed_by(kind, r)

    def _close_unseen(self, park: Park, r: Any) -> None:
        """The thread waits for something else by now; the end itself was not seen."""
        ran, bound = max(0, int(r["cpu_ns"]) - park.cpu_ns), int(r["since_ns"])
        if park.wake_ns:
            self._end(park, park.wake_ns, park.woken)
        elif park.kind == "gil":
            self._end(park, max(park.last_seen_ns, bound - ran), End.WOKEN)
        else:
            self._end(park, max(park.last_seen_ns, bound - ran), End.LOST)

    def _seen_running(self, park: Park, r: Any) -> None:
        if park.kind == "gil":
            # Between two slices of the same wait?
            if park.hardly_ran(int(r["cpu_ns"]), int(r["ts_ns"])):
                park.between_ns = int(r["ts_ns"]) if park.cpu_ns else 0
                return
            ran = int(r["cpu_ns"]) - park.cpu_ns
            end_ns = max(park.last_seen_ns, int(r["ts_ns"]) - ran)
            if park.source is Seen.SLOW_PATH:
                # The exact end follows with the probe's own record, by the next scan.
                self._ending.setdefault(_key(park.pid, park.tid), (self._scans, end_ns))
            else:
                self._end(park, end_ns, End.WOKEN)
        elif park.source is Seen.SLOW_PATH:
            if park.wake_ns:
                # Woken, not yet back out of the wait: the probe's record is still to come.
                self._ending.setdefault(_key(park.pid, park.tid), (self._scans, park.wake_ns))
        elif int(r["since_ns"]) < max(park.start_ns, park.wake_ns):
            return  # it has not run since: still on its way to a CPU
        elif park.stopped_ns and park.hardly_ran(int(r["cpu_ns"]), int(r["ts_ns"])):
            return  # on its way into a tracer's stop, or out of it
        elif park.wake_ns:
            self._end(park, int(r["since_ns"]), park.woken)
        else:
            self._end(park, max(park.last_seen_ns, int(r["since_ns"])), End.LOST)

    def _on_wait_open(self, r: Any) -> None:
        park = self._open.get(_key(int(r["pid"]), int(r["tid"])))
        start, kind = int(r["start_ns"]), CLASS_KIND[WaitClass(int(r["wait_class"]))]
        if park is not None:
            if park.start_ns >= start - SAME_WAIT_SLACK_NS:
                self._adopt(park, r, kind)
                park.last_seen_ns = max(park.last_seen_ns, int(r["ts_ns"]))
                return
            self._end(park, start, park.woken if park.wake_ns else End.LOST)
        opened = park_of_wait(r, kind)
        opened.since_ns = start
        opened.last_seen_ns = int(r["ts_ns"])
        self._begin(opened)

    def _on_wait(self, r: Any) -> None:
        key = _key(int(r["pid"]), int(r["tid"]))
        park = self._open.get(key)
        start, kind = int(r["start_ns"]), CLASS_KIND[WaitClass(int(r["wait_class"]))]
        end_ns = start + int(r["duration_ns"])
        how = End.TIMED_OUT if r["flags"] & Flag.TIMED_OUT else End.WOKEN
        if park is not None and start - SAME_WAIT_SLACK_NS <= park.start_ns <= end_ns:
            self._adopt(park, r, kind)
            self._end(park, end_ns, how)
            return
        if park is not None and park.start_ns < start:
            self._close_before(park, start)
        done = park_of_wait(r, kind)
        if int(r["duration_ns"]) >= self.long_park_ns:
            self._cross(done)
        self._open.setdefault(key, done)
        self._end(done, end_ns, how)

    def _on_wake(self, r: Any) -> None:
        park = self._open.get(_key(int(r["pid"]), int(r["tid"])))
        ts, since = int(r["ts_ns"]), int(r["since_ns"])
        if park is None or ts < park.start_ns:
            return
        if int(r["waker_syscall"]) == PTRACE:
            # A tracer stops it, or lets it go: its wait goes on, under no watch until seen.
            park.stopped_ns, park.flags = ts, park.flags & ~Flag.WATCHED
            return
        park.wake_ns = ts
        park.waker_pid, park.waker_tid = int(r["waker_pid"]), int(r["waker_tid"])
        park.waker_syscall, park.waker_stack = int(r["waker_syscall"]), int(r["aux"])
        runs = bool(r["flags"] & Flag.RUN_FOLLOWS)
        if runs:
            park.slept_cpu, park.waker_cpu = int(r["slept_cpu"]), int(r["cpu"])
        if park.source is Seen.SCAN and park.kind != "gil":
            how = End.TIMED_OUT if r["flags"] & Flag.TIMED_OUT else End.WOKEN
            if park.waker_pid == park.pid and park.waker_syscall == EXIT_GROUP:
                how = End.EXITED  # the process ends; nobody gave what was waited for
            if since > park.last_seen_ns:  # it ends a later sleep; this one's end was not told
                park.wake_ns = park.waker_tid = 0
                self._end(park, since, End.LOST)
            elif runs and how is not End.EXITED:
                park.woken = how
            else:
                self._end(park, ts, how)

    def _on_run(self, r: Any) -> None:
        """A thread that was woken has got a CPU: only now its wait is over."""
        park = self._open.get(_key(int(r["pid"]), int(r["tid"])))
        if park is None or not park.wake_ns or int(r["ts_ns"]) < park.wake_ns:
            return
        park.run_delay_ns, park.ran_cpu = int(r["ts_ns"]) - park.wake_ns, int(r["cpu"])
        if park.source is Seen.SCAN and park.kind != "gil":
            self._end(park, int(r["ts_ns"]), park.woken)

    def _on_thread_start(self, r: Any) -> None:
        park = self._open.get(_key(int(r["pid"]), int(r["tid"])))
        if park is not None and park.start_ns < int(r["ts_ns"]):
            self._end(park, int(r["ts_ns"]), End.LOST)  # the tid is somebody else's now

    def _on_thread_exit(self, r: Any) -> None:
        park = self._open.get(_key(int(r["pid"]), int(r["tid"])))
        if park is not None:
            self._end(park, park.wake_ns or int(r["ts_ns"]), End.EXITED)

    def _on_process_over(self, r: Any) -> None:
        pid = int(r["pid"])
        for park in [p for p in self._open.values() if p.pid == pid]:
            self._end(park, int(r["ts_ns"]), End.EXITED)

    def _on_scan(self, r: Any) -> None:
        self._scan_ns[int(r["pid"])] = int(r["ts_ns"])
        self._scans += 1
        for key, (scan, end_ns) in list(self._ending.items()):
            park = self._open.get(key)
            if park is None:
                del self._ending[key]
            elif scan < self._scans - 1:
                self._end(park, end_ns, End.WOKEN)

    # -- bookkeeping --------------------------------------------------------------

    def _adopt(self, park: Park, r: Any, kind: str) -> None:
        """A scan's park turns out to be this slow-path wait: its facts are exact."""
        earlier = int(r["start_ns"]) != park.start_ns
        park.start_ns, park.kind, park.source = int(r["start_ns"]), kind, Seen.SLOW_PATH
        park.address, park.place = int(r["address"]), place_of(r)
        park.flags = (park.flags | int(r["flags"])) & ~Flag.COARSE
        park.slices = max(park.slices, int(r["slices"]))
        if earlier and not park.park_id:
            self._schedule(park)

    def _begin(self, park: Park) -> None:
        self._open[_key(park.pid, park.tid)] = park
        self._schedule(park)

    def _schedule(self, park: Park) -> None:
        self._serial += 1
        heapq.heappush(self._due, (park.start_ns + self.long_park_ns, self._serial, park))

    def _settled(self, park: Park) -> bool:
        return park.park_id != 0 or not self.is_open(park)

    def _confirmed(self, park: Park) -> bool:
        """Seen parked at or after the crossing: itself, or a scan had no news of it."""
        return self.known_ns(park) >= park.start_ns + self.long_park_ns

    def known_ns(self, park: Park) -> int:
        """Until when an open park is known to have lasted: itself seen, or no news of it."""
        if park.kind == "gil":
            return max(park.last_seen_ns, park.between_ns)
        scanned = max(self._scan_ns.get(park.pid, 0), self._scan_ns.get(0, 0))
        return max(park.last_seen_ns, scanned)

    def _cross(self, park: Park) -> None:
        park.park_id = self._next_id
        self._next_id += 1
        self._found.crossed.append(park)

    def _close_before(self, park: Park, bound_ns: int) -> None:
        if park.wake_ns:
            self._end(park, park.wake_ns, park.woken)
        else:
            self._end(park, bound_ns, End.LOST)

    def _end(self, park: Park, end_ns: int, how: End) -> None:
        key = _key(park.pid, park.tid)
        if self._open.get(key) is park:
            del self._open[key]
        self._ending.pop(key, None)
        park.end, park.end_ns = how, max(end_ns, park.start_ns)
        duration = park.end_ns - park.start_ns
        if not park.park_id and duration >= self.long_park_ns and how is not End.LOST:
            self._cross(park)  # it ended before the crossing was looked at
        if park.park_id:
            self._found.ended.append(park)
        if park.park_id or duration >= self.min_park_ns:
            self._ended_rows.append(park)
