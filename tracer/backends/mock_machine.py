"""A kernel that is no kernel: what a scenario's threads do, as the probes would see it.

Two ways lead out of it, as in the real one. Scans read the threads' states and the
kernel's counts directly, so nothing of them is ever lost. Everything that happens
between scans (wakes, ended waits, allocations, lifecycle) goes through the ring.
"""

from __future__ import annotations

import heapq
import random
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from probes.enums import NO_SHARD
from probes.kinds import FUTEX
from probes.wire import (
    NO_BUCKET,
    PAYLOAD,
    RECORD,
    AllocApi,
    Flag,
    Kind,
    MapCounter,
    MapMode,
    MapOutcome,
    RunState,
    WaitClass,
    empty,
    make,
)
from tracer.backends.mock_scenario import (
    Burst,
    Life,
    MapCount,
    Refill,
    Scenario,
    ShortWaits,
    Thread,
    Wait,
)
from tracer.backends.scan import NEWS_AFTER_NS, DeltaFilter, ScanScheduler, is_blocked

MS = 1_000_000
MIN_PARK_NS = 1 * MS
SLICE_NS = 5 * MS
SCAN_RECORD_NS = 1_000 * MS
SCAN_COST_NS = 260
RETURN_NS = 20_000
"""From the wake to the return out of the slow path, where its record is made."""
SYSCALL_WRITE = 1
FOREVER = 1 << 62

Records = npt.NDArray[Any]
_NO_SAMPLES = np.empty(0, PAYLOAD[Kind.THREAD_STATE])


@dataclass(frozen=True, slots=True)
class Sleep:
    """One time off the CPU, part of one logical wait."""

    start_ns: int
    end_ns: int
    wait: Wait


@dataclass(slots=True, eq=False)
class ThreadLife:
    """A thread's life, the sleep that is watched and the wait that was told as open."""

    thread: Thread
    start_ns: int
    exit_ns: int
    sleeps: list[Sleep] = field(default_factory=list)
    watched: Sleep | None = None
    opened: Wait | None = None

    def alive(self, now_ns: int) -> bool:
        """Whether a scan finds it."""
        return self.start_ns <= now_ns < self.exit_ns

    def at(self, now_ns: int) -> tuple[Sleep | None, int]:
        """The sleep it is in, and else since when it runs."""
        index = bisect_right(self.sleeps, now_ns, key=lambda sleep: sleep.start_ns) - 1
        if index < 0:
            return None, self.start_ns
        sleep = self.sleeps[index]
        return (sleep, sleep.start_ns) if now_ns < sleep.end_ns else (None, sleep.end_ns)

    def cpu_ns(self, now_ns: int) -> int:
        """CPU time used: all the time that it lived and did not sleep."""
        slept = sum(min(s.end_ns, now_ns) - s.start_ns for s in self.sleeps if s.start_ns < now_ns)
        return now_ns - self.start_ns - slept


class Machine:
    """The simulated side of one scenario, on a clock that only ``scan`` and ``ring`` move."""

    def __init__(self, scenario: Scenario, attach_ns: int) -> None:
        self.attach_ns = attach_ns
        self._scenario = scenario
        self._random = random.Random(scenario.seed)
        self._lives = {key: self._life(thread) for key, thread in scenario.threads.items()}
        for wait in scenario.wait:
            self._add_wait(wait)
        for life in self._lives.values():
            life.sleeps.sort(key=lambda sleep: sleep.start_ns)
        self._ring = self._ring_stream()
        self._ring_read = 0
        self._late: list[tuple[int, int, Records]] = []
        self._serial = 0
        counted: list[Refill | ShortWaits | MapCount]
        counted = [*scenario.refill, *scenario.short_waits, *scenario.map_count]
        self._counted = sorted(counted, key=lambda entry: entry.at_ms)
        self._counted_read = 0
        self._scheduler = ScanScheduler(scenario.long_park_ms * MS)
        self._filter = DeltaFilter(armed_ns=attach_ns)
        self._scanned_ns = attach_ns - 1
        self._scan_said_ns = 0

    def ns(self, at_ms: float) -> int:
        """A scenario's time on the machine's clock."""
        return self.attach_ns + round(at_ms * MS)

    @property
    def next_scan_ns(self) -> int:
        """When the next scan is due."""
        return max(self.attach_ns, self._scheduler.next_scan_ns(self.attach_ns))

    def scan(self, now_ns: int) -> Records:
        """Records of one scan: news of threads, counts, and the scan itself."""
        found: list[Records] = []
        living: list[tuple[ThreadLife, Sleep | None, bool]] = []
        for life in self._lives.values():
            found += self._gil_waits_over(life, now_ns)
            if life.alive(now_ns):
                sleep = life.at(now_ns)[0]
                probed = sleep is not None and self._is_probed(life, sleep)
                living.append((life, sleep, probed))
            elif self._scanned_ns < life.exit_ns <= now_ns:
                pid, tid = life.thread.pid, life.thread.tid
                self._filter.forget_threads(make(Kind.THREAD_EXIT, pid=pid, tid=tid))
        samples = np.concatenate([_NO_SAMPLES, *(self._sample(*one, now_ns) for one in living)])
        open_wait = np.array([probed for _, _, probed in living], np.bool_)
        found.append(self._filter.news(samples, now_ns, open_wait))
        for life, sleep, probed in living:
            if sleep is not None and probed and life.opened is not sleep.wait:
                life.opened = sleep.wait
                found.append(self._wait_record(life, sleep.wait, now_ns, Kind.WAIT_OPEN))
        found += self._counts(now_ns)
        self._scheduler.scanned(now_ns, samples)
        self._scanned_ns = now_ns
        records = np.concatenate(found)
        if len(records) or now_ns - self._scan_said_ns >= SCAN_RECORD_NS:
            self._scan_said_ns = now_ns
            records = np.concatenate((records, self._scan_record(samples, now_ns)))
        return records

    def ring(self, until_ns: int) -> Records:
        """Everything pushed into the ring since the last call, in time order."""
        end = int(np.searchsorted(self._ring["ts_ns"], until_ns, side="right"))
        parts = [self._ring[self._ring_read : end]]
        self._ring_read = end
        while self._late and self._late[0][0] <= until_ns:
            parts.append(heapq.heappop(self._late)[2])
        records = np.concatenate(parts)
        if len(parts) > 1:
            records = records[np.argsort(records["ts_ns"], kind="stable")]
        return records

    # -- building ------------------------------------------------------------------

    def _life(self, thread: Thread) -> ThreadLife:
        exit_ns = FOREVER if thread.exit_ms is None else self.ns(thread.exit_ms)
        return ThreadLife(thread, max(0, self.ns(thread.start_ms)), exit_ns)

    def _add_wait(self, wait: Wait) -> None:
        life = self._lives[wait.thread]
        start = self.ns(wait.at_ms)
        end = FOREVER if wait.until_ms is None else self.ns(wait.until_ms)
        end = min(end, life.exit_ns)
        if not wait.gil:
            life.sleeps.append(Sleep(start, end, wait))
            return
        last = min(end, self.ns(self._scenario.duration_ms) + SLICE_NS)
        while start < last:
            stop = min(last, start + SLICE_NS + self._random.randrange(100_000))
            life.sleeps.append(Sleep(start, stop, wait))
            start = stop + 8_000 + self._random.randrange(8_000)

    def _ring_stream(self) -> Records:
        """What goes through the ring whether or not anybody scans."""
        parts: list[Records] = [self._burst(burst) for burst in self._scenario.alloc]
        for life in self._lives.values():
            parts += self._lifecycle(life)
            parts += [
                self._wait_record(life, sleep.wait, sleep.end_ns + RETURN_NS)
                for sleep in life.sleeps
                if not sleep.wait.gil and self._is_probed(life, sleep) and _returns(life, sleep)
            ]
        parts += [self._process(entry) for entry in self._scenario.life]
        stream = np.concatenate([empty(), *parts])
        stream = stream[stream["ts_ns"] >= self.attach_ns]
        return stream[np.argsort(stream["ts_ns"], kind="stable")]

    def _burst(self, burst: Burst) -> Records:
        thread = self._scenario.threads[burst.thread]
        rows = np.zeros(burst.count, PAYLOAD[Kind.LARGE_ALLOC])
        step = round(burst.every_us * 1000)
        rows["ts_ns"] = self.ns(burst.at_ms) + np.arange(burst.count, dtype=np.uint64) * step
        rows["pid"], rows["tid"], rows["kind"] = thread.pid, thread.tid, Kind.LARGE_ALLOC
        rows["size_bytes"] = burst.size_bytes
        rows["api"] = AllocApi[burst.api.upper()]
        return rows.view(RECORD)

    def _lifecycle(self, life: ThreadLife) -> list[Records]:
        thread = life.thread
        return [
            make(kind, ts_ns=at, pid=thread.pid, tid=thread.tid, comm=b"python3")
            for kind, at in (
                (Kind.THREAD_START, life.start_ns),
                (Kind.THREAD_EXIT, life.exit_ns),
            )
            if at < FOREVER
        ]

    def _process(self, entry: Life) -> Records:
        return make(
            Kind[entry.what.upper()],
            ts_ns=self.ns(entry.at_ms),
            pid=entry.pid,
            tid=entry.pid,
            child_pid=entry.child_pid,
            exit_code=entry.exit_code,
            comm=entry.comm.encode()[:16],
        )

    # -- what a scan sees ------------------------------------------------------------

    def _sample(self, life: ThreadLife, sleep: Sleep | None, probed: bool, now_ns: int) -> Records:
        """A thread as a scan finds it; a sleep that is worth it gets a watch."""
        flags = Flag(0)
        since_ns = life.at(now_ns)[1]
        if sleep is not None and sleep.wait.gil:
            flags = Flag.GIL
        elif sleep is not None and (probed or now_ns - since_ns >= NEWS_AFTER_NS):
            flags = Flag.WATCHED
            if life.watched is not sleep and _returns(life, sleep):
                life.watched = sleep
                self._push_late(self._wake(life, sleep))
        return make(
            Kind.THREAD_STATE,
            ts_ns=now_ns,
            pid=life.thread.pid,
            tid=life.thread.tid,
            flags=flags,
            since_ns=since_ns,
            arg0=0 if sleep is None else sleep.wait.arg0,
            arg1=0 if sleep is None else sleep.wait.arg1,
            cpu_ns=life.cpu_ns(now_ns),
            syscall=-1 if sleep is None else sleep.wait.syscall,
            state=RunState.RUNNING if sleep is None else RunState.SLEEPING,
        ).view(PAYLOAD[Kind.THREAD_STATE])

    def _scan_record(self, samples: Records, now_ns: int) -> Records:
        return make(
            Kind.SCAN,
            ts_ns=now_ns,
            threads=len(samples),
            blocked=int(is_blocked(samples).sum()),
            cost_ns=SCAN_COST_NS * len(samples),
            period_ns=self._scheduler.period_ns,
        )

    def _wake(self, life: ThreadLife, sleep: Sleep) -> Records:
        waker = None if sleep.wait.waker is None else self._scenario.threads[sleep.wait.waker]
        futex = sleep.wait.syscall == FUTEX
        return make(
            Kind.WAKE,
            ts_ns=sleep.end_ns,
            pid=life.thread.pid,
            tid=life.thread.tid,
            waker_pid=0 if waker is None else waker.pid,
            waker_tid=0 if waker is None else waker.tid,
            waker_arg0=sleep.wait.arg0 if waker is not None and futex else 0,
            waker_syscall=-1 if waker is None else FUTEX if futex else SYSCALL_WRITE,
            since_ns=sleep.start_ns,
        )

    def _wait_record(
        self, life: ThreadLife, wait: Wait, ts_ns: int, kind: Kind = Kind.WAIT
    ) -> Records:
        start_ns = self.ns(wait.at_ms)
        slices = sum(s.wait is wait and s.start_ns < ts_ns for s in life.sleeps)
        end_ns = ts_ns if kind is Kind.WAIT_OPEN else self._end_ns(life, wait)
        flags = Flag.TIMED_OUT if wait.timed_out and kind is Kind.WAIT else Flag(0)
        return make(
            kind,
            ts_ns=ts_ns,
            pid=life.thread.pid,
            tid=life.thread.tid,
            flags=flags,
            start_ns=start_ns,
            address=wait.arg0,
            duration_ns=end_ns - start_ns,
            wait_class=wait.wait_class,
            slices=slices,
            **self._in_map(wait),
        )

    def _in_map(self, wait: Wait) -> dict[str, int]:
        """Which map and shard a wait for a shard tells of."""
        if wait.map is None:
            return {}
        shard = NO_SHARD if wait.shard is None else wait.shard
        return {"site": self._scenario.maps[wait.map].address, "aux": shard}

    def _gil_waits_over(self, life: ThreadLife, now_ns: int) -> list[Records]:
        """Logical GIL waits that ended since the last scan; the scan flushes them."""
        probed = [s for s in life.sleeps if s.wait.gil and self._is_probed(life, s)]
        waits = {id(sleep.wait): sleep.wait for sleep in probed}
        return [
            self._wait_record(life, wait, now_ns)
            for wait in waits.values()
            if self._scanned_ns < self._end_ns(life, wait) <= now_ns
        ]

    def _end_ns(self, life: ThreadLife, wait: Wait) -> int:
        end = FOREVER if wait.until_ms is None else self.ns(wait.until_ms)
        return min(end, life.exit_ns)

    def _is_probed(self, life: ThreadLife, sleep: Sleep) -> bool:
        """Whether the slow path saw it begin: probes know only what came after them."""
        wait = sleep.wait
        armed = self._scenario.slow_path or wait.map is not None
        if not (armed and wait.probed and wait.syscall == FUTEX):
            return False
        start_ns = self.ns(wait.at_ms)
        long_enough = self._end_ns(life, wait) - start_ns >= MIN_PARK_NS
        return start_ns >= self.attach_ns and long_enough

    def _counts(self, now_ns: int) -> list[Records]:
        """Counts in the kernel's maps that have come up since the last scan."""
        found: list[Records] = []
        while self._counted_read < len(self._counted):
            counted = self._counted[self._counted_read]
            if self.ns(counted.at_ms) > now_ns:
                break
            self._counted_read += 1
            if isinstance(counted, MapCount):
                found.append(self._map_count(counted, now_ns))
                continue
            thread = self._scenario.threads[counted.thread]
            where = {"ts_ns": now_ns, "pid": thread.pid, "tid": thread.tid, "count": counted.count}
            if isinstance(counted, ShortWaits):
                found.append(
                    make(
                        Kind.WAIT_HIST,
                        **where,
                        wait_class=WaitClass[counted.wait_class.upper()],
                        bucket=counted.bucket,
                        total_ns=counted.count * 3 * (1 << counted.bucket) // 2,
                    )
                )
            else:
                found.append(make(Kind.POOL_REFILL, **where, size_bytes=counted.size_bytes))
        return found

    def _map_count(self, counted: MapCount, now_ns: int) -> Records:
        bucket = counted.bucket
        return make(
            Kind.MAP_COUNT,
            ts_ns=now_ns,
            pid=self._scenario.maps[counted.map].pid,
            map=self._scenario.maps[counted.map].address,
            count=counted.count,
            items=counted.items,
            counter=MapCounter[counted.counter.upper()],
            mode=MapMode[counted.mode.upper()],
            outcome=MapOutcome[counted.outcome.upper()],
            bucket=NO_BUCKET if bucket is None else bucket,
            total_ns=0 if bucket is None else counted.count * 3 * (1 << bucket) // 2,
        )

    def _push_late(self, record: Records) -> None:
        self._serial += 1
        heapq.heappush(self._late, (int(record["ts_ns"][0]), self._serial, record))


def _returns(life: ThreadLife, sleep: Sleep) -> bool:
    """Whether the thread comes back from it: not when it never ends or the thread dies in it."""
    return sleep.end_ns < min(life.exit_ns, FOREVER)
