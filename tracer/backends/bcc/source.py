"""The real backend: records of eBPF programs and of scans by the task iterator."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from collector.events import Event
from collector.source import Batch, SourceInfo
from probes.errors import ParkscopeError, TargetGone
from probes.wire import KIND_END, PAYLOAD, RECORD, Flag, Kind, RunState, make
from tracer import procfs
from tracer.backends import Options, TargetPlan
from tracer.backends.bcc import syscalls
from tracer.backends.bcc.addon import ADDONS, Addon, AddonFactory, Harvest
from tracer.backends.bcc.attach import Attachment, load, probe_failed
from tracer.backends.bcc.budget import Budget, scans_governed
from tracer.backends.bcc.cache import cache_directory
from tracer.backends.bcc.clock import ClockKeeper
from tracer.backends.bcc.exits import PROCESS_KINDS, inferred_exit, is_over
from tracer.backends.bcc.ring import PAGE, Pace, joined
from tracer.backends.bcc.samples import GilRanges, OpenWaits
from tracer.backends.bcc.unit import CORE
from tracer.backends.bcc.watch import Watch
from tracer.backends.scan import NEWS_AFTER_NS, DeltaFilter, ScanScheduler, has_flag, is_blocked
from tracer.target import alive

RING_PAGES = 4096
"""16 MiB: 3.5 million records a second fill it in 66 ms."""
SCAN_WITH_DEADLINE_NS = 1_000_000
SAY_SCAN_NS = 1_000_000_000
COMPLETE_SCAN_NS = 1_000_000_000
START_ERROR_NS = 500_000
END_ERROR_NS = 1_000_000


class BccSource:
    """Attached when constructed; see ``collector.source.RecordSource``.

    Raises BackendUnavailable, WrongBcc, PermissionDenied, TargetGone; then nothing
    is left behind. ``addons``: what plugs in beyond the scan. ``ring_pages``: size
    of the ring in pages of 4 KiB, a power of two.
    """

    def __init__(
        self,
        targets: Sequence[TargetPlan],
        options: Options,
        *,
        addons: Sequence[AddonFactory] = ADDONS,
        ring_pages: int = RING_PAGES,
    ) -> None:
        self._options = options
        self._pids = {plan.target.pid for plan in targets}
        self._gil = GilRanges()
        self._waits = OpenWaits()
        self._budget = Budget(options.budget)
        self._scheduler = ScanScheduler(options.long_park_ns)
        self._clock: ClockKeeper | None = None
        self._pace = Pace(ring_pages * PAGE)
        self._complete_due_ns = self._scan_said_ns = self._lost_looked_ns = 0
        self._missing: set[int] = set()
        self._lost = np.zeros(KIND_END, np.uint64)
        self._records: list[npt.NDArray[Any]] = []
        self._dropped: dict[int, int] = {}
        self._events: list[Event] = []
        self._attachment: Attachment | None = None
        self._addons = [addon for factory in addons if (addon := factory(options)) is not None]
        try:
            self._load(targets, ring_pages)
            self._arm(targets)
        except BaseException:
            self.close()
            raise

    # -- attaching ----------------------------------------------------------------

    def _load(self, targets: Sequence[TargetPlan], ring_pages: int) -> None:
        def plan() -> None:
            for addon in list(self._addons):
                self._ask(addon, partial(addon.plan, targets))

        cache = cache_directory(self._options.cache_dir)
        kernel = load(self._addons, ring_pages, cache, plan)
        self._attachment = Attachment(kernel, self._options, ring_pages)
        for addon in list(self._addons):
            self._ask(addon, partial(addon.prepare, kernel, self._budget))

    def _arm(self, targets: Sequence[TargetPlan]) -> None:
        attached = self._attached
        self._clock = ClockKeeper(attached.own_samples, attached.set_clock_offset)
        attached.attach_tracepoints()
        self._events += attached.failures
        armed_ns = time.monotonic_ns()
        self._filter = DeltaFilter(armed_ns=armed_ns, gone_after_scans=2)
        self._budget.join(Watch(attached, lambda: self._filter.switches, self._look_at_all))
        for plan in targets:
            try:
                attached.trace(plan.target.pid)
            except OSError as error:
                raise syscalls.refusal(error, "eBPF task iterators") from None
            self._gil.set(plan.target.pid, plan.gil_ranges)
        gone = [plan.target.pid for plan in targets if not alive(plan.target)]
        if len(gone) == len(targets):
            raise TargetGone(f"process {gone[0]} exited while it was being attached to")
        for pid in gone:
            self._process_over(pid)
            self._records.append(inferred_exit(pid, armed_ns))
        for addon in list(self._addons):
            self._ask(addon, partial(addon.arm, armed_ns))
        self._scan_said_ns = armed_ns

    def _ask(self, addon: Addon, request: Callable[[], Harvest | None]) -> None:
        """A request to an addon; its failure is an event, and the rest goes on."""
        try:
            harvest = request()
        except ParkscopeError as error:
            names = ", ".join(spec.name for spec in addon.specs)
            self._events.append(probe_failed(names, error.message))
            addon.close()
            self._addons.remove(addon)
            return
        if harvest is not None:
            self._records += harvest.records
            self._events += harvest.events
            for kind, count in harvest.dropped.items():
                self._dropped[kind] = self._dropped.get(kind, 0) + count

    @property
    def _attached(self) -> Attachment:
        if self._attachment is None:
            raise ValueError("the source has been closed")
        return self._attachment

    @property
    def _scheduler_clock(self) -> ClockKeeper:
        if self._clock is None:
            raise ValueError("the source is not armed")
        return self._clock

    @property
    def info(self) -> SourceInfo:
        """What this backend is and how exact."""
        names = [*CORE, *(spec.name for addon in self._addons for spec in addon.specs)]
        return SourceInfo(
            "bcc",
            start_error_ns=START_ERROR_NS,
            end_error_ns=END_ERROR_NS,
            missed_below_ns=self._scheduler.period_ns + NEWS_AFTER_NS,
            probes=tuple(dict.fromkeys(names)),
            nodes=procfs.numa_nodes(),
        )

    def retarget(self, plan: TargetPlan) -> None:
        """More is known of a process that is followed already: another program, a child."""
        pid = plan.target.pid
        if pid in self._pids:
            self._gil.set(pid, plan.gil_ranges)
            for addon in list(self._addons):
                self._ask(addon, partial(addon.retarget, plan))

    def kernel_stack(self, key: int) -> bytes | None:
        """The stack (``ps_stack``) that a program interned under ``key``, if it is still there."""
        return self._attached.stack(key)

    def forget_codes(self, pid: int) -> None:
        """Have the programs look anew at the code objects of that process."""
        self._attached.forget_codes(pid)

    # -- polling ------------------------------------------------------------------

    def poll(self, timeout_ns: int) -> Batch:
        """The next batch: as soon as there is something, else empty at the timeout.

        Raises BackendUnavailable when the kernel refuses a scan it did before.
        """
        deadline = time.monotonic_ns() + timeout_ns
        while True:
            self._sleep_until_due(deadline)
            now = time.monotonic_ns()
            # Who waits until a crossing gets the scan of that crossing with it.
            early = SCAN_WITH_DEADLINE_NS if now >= deadline else 0
            if now + early >= self._scheduler.next_scan_ns(now):
                self._scan(now)
            self._scheduler_clock.tend(now)
            now = time.monotonic_ns()  # what happens from here on may be in the next batch
            self._drain(now)
            done = not self._pids
            if self._records or self._events or done or now >= deadline:
                return self._batch(now, done)

    def _sleep_until_due(self, deadline_ns: int) -> None:
        """Until there is something to do.

        Also right after a batch: or a loop that never sleeps would drain a flood in
        ever smaller pieces, and take the whole of a core for it.
        """
        now = time.monotonic_ns()
        due = min(
            deadline_ns,
            self._scheduler.next_scan_ns(now),
            self._pace.due_ns,
            self._scheduler_clock.due_ns,
        )
        if due > now:
            time.sleep((due - now) / 1e9)

    def _batch(self, now_ns: int, done: bool) -> Batch:
        if self._records or done or now_ns - self._lost_looked_ns >= SAY_SCAN_NS:
            self._count_losses(now_ns)
        more = (self._dropped, tuple(self._events), done, self._budget.uses_due(now_ns))
        records, self._records, self._dropped, self._events = self._records, [], {}, []
        if not records:
            return Batch(now_ns, b"", *more)
        raw = records[0] if len(records) == 1 else joined(records)
        return Batch(max(now_ns, int(raw["ts_ns"].max())), raw, *more)

    def _count_losses(self, now_ns: int) -> None:
        lost = self._attached.dropped()
        self._lost_looked_ns = now_ns
        for kind in np.flatnonzero(lost != self._lost).tolist():
            more = int(lost[kind] - self._lost[kind])
            self._dropped[kind] = self._dropped.get(kind, 0) + more
        self._lost = lost

    # -- scans --------------------------------------------------------------------

    def _scan(self, now_ns: int) -> None:
        """Look at the threads: once a second at all, else at those with possible news."""
        began = time.thread_time_ns()
        complete = now_ns >= self._complete_due_ns
        try:
            samples = self._attached.scan(complete=complete)
        except OSError as error:
            raise syscalls.refusal(error, "eBPF task iterators") from None
        states = samples["state"]
        if complete or len(samples):  # else: all of them sleep on, under watch
            states = self._digest(samples, now_ns, complete=complete)
        for addon in list(self._addons):
            self._ask(addon, partial(addon.on_scan, now_ns))
        self._events += self._budget.tend(now_ns)
        cost = time.thread_time_ns() - began
        slowed = self._scheduler.slowed
        self._scheduler.scanned(now_ns, states, cost, complete=complete)
        if self._scheduler.slowed != slowed:
            self._events.append(scans_governed(self._scheduler, self._filter.threads, cost, now_ns))
        if self._records or len(states) or now_ns - self._scan_said_ns >= SAY_SCAN_NS:
            self._say_scan(now_ns, states, cost)

    def _look_at_all(self) -> None:
        """Sleeps that were watched are not any more: show them all, at once."""
        self._complete_due_ns = 0
        self._scheduler.hurry()

    def _digest(
        self, samples: npt.NDArray[Any], now_ns: int, *, complete: bool
    ) -> npt.NDArray[Any]:
        """Keep what is news of raw samples; the states that they show, in CLOCK_MONOTONIC."""
        dead = samples["state"]["state"] == RunState.DEAD
        if dead.any():
            samples = samples[~dead]
        states = np.ascontiguousarray(samples["state"])
        states["since_ns"] = self._scheduler_clock.to_monotonic(states["since_ns"])
        self._flag_gil(states, samples["wait_class"])
        opened = self._waits.news(samples, complete=complete)
        waiting = samples["wait_start_ns"] != 0
        news = self._filter.news(states, now_ns, waiting, complete=complete)
        self._records += [part for part in (opened, news) if len(part)]
        if complete:
            self._complete_due_ns = now_ns + COMPLETE_SCAN_NS
            self._missing = self._pids.difference(states["pid"].tolist())
        return states

    def _flag_gil(self, states: npt.NDArray[Any], wait_class: npt.NDArray[Any]) -> None:
        """A GIL wait is many sleeps: the wake-up from one of them is not its end."""
        odd = self._gil.flag(states, wait_class) & has_flag(states, Flag.WATCHED)
        if odd.any():
            self._attached.unwatch(states["tid"][odd].tolist())
            states["flags"][odd] &= np.uint16(0xFFFF ^ Flag.WATCHED)

    def _say_scan(self, now_ns: int, states: npt.NDArray[Any], cost_ns: int) -> None:
        """A SCAN record: with news, when silence means something, and once a second."""
        blocked = is_blocked(states)
        left_out = self._filter.threads - len(states)  # these sleep under watch
        unwatched = blocked & ~has_flag(states, Flag.WATCHED)
        crossed = states["since_ns"] + np.uint64(self._options.long_park_ns) <= states["ts_ns"]
        due = now_ns - self._scan_said_ns >= SAY_SCAN_NS
        if not (self._records or due or (unwatched & crossed).any()):
            return
        self._scan_said_ns = now_ns
        self._records.append(
            make(
                Kind.SCAN,
                ts_ns=now_ns,
                threads=self._filter.threads,
                blocked=int(blocked.sum()) + left_out,
                cost_ns=cost_ns,
                period_ns=self._scheduler.period_ns,
            )
        )

    # -- the ring -----------------------------------------------------------------

    def _drain(self, now_ns: int) -> None:
        ring = self._attached.ring
        pending = ring.pending()
        self._pace.looked(pending, now_ns)
        if pending and len(records := ring.drain()):
            self._scheduler.stirred()
            self._records.insert(0, records)
            self._read(records)
        # A process of which the last scan saw no thread has reported its exit by now,
        # unless that record was lost.
        for pid in self._missing & self._pids:
            if is_over(pid):
                self._process_over(pid)
                self._records.append(inferred_exit(pid, now_ns))
        self._missing = set()

    def _read(self, records: npt.NDArray[Any]) -> None:
        """What the source itself has to know of drained records."""
        kinds = records["kind"]
        wakes = kinds == Kind.WAKE
        if wakes.any():
            self._scheduler.woken(records[wakes])
            rows = records[wakes].view(PAYLOAD[Kind.WAKE])
            rows["since_ns"] = self._scheduler_clock.to_monotonic(rows["since_ns"])
            records[wakes] = rows.view(RECORD)
        exits = kinds == Kind.THREAD_EXIT
        if exits.any():
            self._filter.forget_threads(records[exits])
        for record in records[np.isin(kinds, PROCESS_KINDS)]:
            self._process_record(record.view(PAYLOAD[Kind.PROC_FORK]))

    def _process_record(self, life: Any) -> None:
        pid, child = int(life["pid"]), int(life["child_pid"])
        if pid not in self._pids:
            return
        if life["kind"] == Kind.PROC_EXIT:
            self._process_over(pid)
        elif life["kind"] == Kind.PROC_EXEC:
            self._gil.forget(pid)
            for addon in self._addons:
                addon.gone(pid)
        elif self._options.follow:
            self._pids.add(child)
            self._gil.inherit(pid, child)
            self._attached.scanner.add(child)

    def _process_over(self, pid: int) -> None:
        self._pids.discard(pid)
        self._attached.untrace(pid)
        self._filter.forget(pid)
        self._gil.forget(pid)
        for addon in self._addons:
            addon.gone(pid)

    # -- the end ------------------------------------------------------------------

    def last(self) -> Batch:
        """What the programs have counted and nobody has asked for yet."""
        now_ns = time.monotonic_ns()
        for addon in list(self._addons):
            self._ask(addon, partial(addon.last, now_ns))
        return self._batch(now_ns, done=True)

    def emitted(self) -> dict[int, int]:
        """Records that the programs wanted to make, by kind: received + dropped + on the way."""
        counts = self._attached.emitted()
        return {kind: int(counts[kind]) for kind in np.flatnonzero(counts).tolist()}

    def detach(self) -> None:
        """Stop all programs; what they have left in the ring is still handed over by ``poll``."""
        for addon in self._addons:
            addon.close()
        self._attached.detach()

    def close(self) -> None:
        """Detach and leave nothing behind. Safe to call twice."""
        for addon in self._addons:
            addon.close()
        self._addons.clear()
        if self._clock is not None:
            self._clock.close()
            self._clock = None
        if self._attachment is not None:
            self._attachment.close()
            self._attachment = None
