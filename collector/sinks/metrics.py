"""The sink that counts: everything that passes folded into readings for Prometheus.

Nothing is rendered and nobody is waited for here. The loop's thread folds; any other
may take ``MetricsSink.snapshot``, which is replaced as a whole and never changed, so that
a scrape costs the loop nothing. ``collector.metrics.exposition`` renders it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from collector.counters import Counters
from collector.events import Event
from collector.metrics import catalogue as m
from collector.metrics import counting
from collector.metrics.breakers import BreakerStates
from collector.metrics.deadlocked import Deadlocked
from collector.metrics.labels import OTHER, Labels
from collector.metrics.native_maps import NativeMaps
from collector.metrics.readings import Key, Readings, Snapshot
from collector.sinks import SinkBase
from collector.source import ProbeUse
from probes.enums import Kind
from probes.kinds import KINDS

PUBLISH_NS = 250_000_000
"""A new snapshot at most so often, by the source's clock."""

_STATE_AFTER = {
    "armed": "closed",
    "restored": "closed",
    "not_armed": "open",
    "shed": "open",
    "trial": "half-open",
}
"""A governor's action says where the group stands from then on."""
STATES = ("waiting", "closed", "open", "half-open")


@dataclass(frozen=True, slots=True)
class Usage:
    """What a target uses: resident memory, threads, CPU time since it was started."""

    rss_bytes: int
    threads: int
    cpu_ns: int


@dataclass(frozen=True, slots=True)
class _Open:
    """A long park that lasts. ``idle`` as a label's value."""

    pid: str
    kind: str
    idle: str
    start_ns: int


class MetricsSink(SinkBase):
    """A sink that keeps ``snapshot`` up to date.

    ``usage`` is asked once a second for each live target, None where that is not known;
    ``own_memory`` for the resident bytes of this process.
    """

    def __init__(
        self,
        usage: Callable[[int], Usage | None] = lambda _pid: None,
        own_memory: Callable[[], int] = lambda: 0,
    ) -> None:
        self._usage = usage
        self._own_memory = own_memory
        self._labels = Labels()
        self._readings = Readings()
        self._up: dict[int, str] = {}
        self._open: dict[int, _Open] = {}
        self._deadlocked = Deadlocked()
        self._maps = NativeMaps(self._readings, self._labels)
        self._breakers = BreakerStates()
        self._states: dict[str, str] = {}
        self._seen: set[str] = set()
        self._searched: set[int] = set()
        self._now_ns = 0
        self._published_ns: int | None = None
        self._snapshot = Snapshot()
        self._folds: Mapping[str, Callable[[Event], None]] = {
            "attached": self._attached,
            "park_long": self._park_long,
            "park_end": self._park_end,
            "deadlock": self._deadlock,
            "process_fork": self._process_fork,
            "process_exec": self._process_exec,
            "process_exit": self._process_exit,
            "governor": self._governor,
            "probe_failed": self._probe_failed,
            "data_loss": self._data_loss,
            "breaker": self._breaker,
            "trigger": self._trigger,
            "action": self._action,
            "native_map": self._native_map,
            "detached": self._detached,
        }

    @property
    def snapshot(self) -> Snapshot:
        """The latest readings (safe from any thread)."""
        return self._snapshot

    def on_records(self, records: npt.NDArray[Any], dropped: dict[int, int], now_ns: int) -> None:
        """Fold what the kernel has counted."""
        self._now_ns = max(self._now_ns, now_ns)
        if len(records):
            for pid, kind, counts, total_ns in counting.short_waits(records):
                label = self._pid(pid)
                self._readings.spread(m.SHORT_WAITS, (label, kind), counts, total_ns)
                if kind == "gil":
                    self._gil(label, sum(counts), total_ns)
            period_ns = counting.scan_period_ns(records)
            if period_ns is not None:
                self._readings.set(m.SCAN_PERIOD, (), period_ns)
        if self._published_ns is None or self._now_ns - self._published_ns >= PUBLISH_NS:
            self._publish()

    def on_parks(self, parks: npt.NDArray[Any]) -> None:
        """Fold parks that were not long; those that were come as events."""
        for pid, kind, idle, counts, total_ns in counting.parks(parks):
            label = self._pid(pid)
            self._readings.spread(m.PARKS, (label, kind, idle), counts, total_ns)
            if kind == "gil":
                self._gil(label, sum(counts), total_ns)

    def on_events(self, events: Sequence[Event]) -> None:
        """Fold events, those of unknown names as nothing."""
        for event in events:
            self._now_ns = max(self._now_ns, event.ts_ns)
            fold = self._folds.get(event.event)
            if fold is not None:
                fold(event)

    def on_health(self, counters: Counters, now_ns: int) -> None:
        """Take the counters over, and look at what the targets use."""
        self._now_ns = max(self._now_ns, now_ns)
        self._counters(counters)
        self._probes(counters.probes)
        for pid, label in self._up.items():
            usage = self._usage(pid) if label != OTHER else None
            if usage is not None:
                self._readings.set(m.TARGET_RSS, (label,), usage.rss_bytes)
                self._readings.set(m.TARGET_THREADS, (label,), usage.threads)
                self._readings.set(m.TARGET_CPU, (label,), usage.cpu_ns)
        self._publish()

    def close(self) -> None:
        """Leave a last snapshot."""
        self._publish()

    # -- processes ----------------------------------------------------------------------

    def _attached(self, event: Event) -> None:
        version, backend = (str(event.data.get(key, "")) for key in ("version", "backend"))
        self._readings.replace(m.BUILD, {(version, backend): 1})
        self._readings.set(m.WATCHING, (), 1)
        self._seen.update(
            event.data.get("probes") or (), ("nodes",) * bool(event.data.get("nodes"))
        )
        if event.pid is not None:
            label = self._came(event.pid)
            if event.data.get("python") is not None:
                self._searched.add(event.pid)
                for sort in ("cycle", "knot"):
                    self._readings.add(m.DEADLOCKS, (label, sort), 0)
            told = [self._labels.value(key, event.data.get(key)) for key in ("program", "python")]
            self._readings.set(m.TARGET_INFO, (label, *told), 1)

    def _process_fork(self, event: Event) -> None:
        if event.data.get("followed") and isinstance(child := event.data.get("child_pid"), int):
            self._came(child)

    def _process_exec(self, event: Event) -> None:
        """Another program runs there now, of which nothing is known yet."""
        self._deadlocked.over(event.pid)
        self._readings.forget("pid", self._pid(event.pid), m.TARGET_INFO)

    def _process_exit(self, event: Event) -> None:
        self._deadlocked.over(event.pid)
        if event.pid is not None and self._up.pop(event.pid, None) is not None:
            self._ended(event.pid)

    def _ended(self, pid: int) -> None:
        label = self._pid(pid)
        if label != OTHER:
            self._readings.set(m.TARGET_UP, (label,), 0)
        self._labels.ended(pid)
        self._searched.discard(pid)
        self._breakers.forget(pid)
        self._readings.forget("pid", label, m.TARGET_RSS, m.TARGET_THREADS)

    def _came(self, pid: int) -> str:
        label = self._pid(pid)
        self._labels.alive(pid)
        if pid not in self._up:  # its maps may still be told of after its end, but not now
            self._maps.forget(pid)
        self._up[pid] = label
        if label != OTHER:
            self._readings.set(m.TARGET_UP, (label,), 1)
        # A counter that first shows up as 1 has not increased, as Prometheus sees it.
        for kind in KINDS:
            self._readings.add(m.LONG_PARKS, (label, kind, "false"), 0)
        return label

    def _pid(self, pid: int | None) -> str:
        label, freed = self._labels.pid(pid)
        if freed is not None:
            self._readings.forget("pid", freed)
            self._maps.forget(int(freed))
        return label

    # -- parks --------------------------------------------------------------------------

    def _park_long(self, event: Event) -> None:
        key = self._pid(event.pid), event.kind or "other", self._idle(event)
        self._readings.add(m.LONG_PARKS, key)
        park_id = event.data.get("park_id")
        if isinstance(park_id, int):
            self._open[park_id] = _Open(*key, event.start_ns or event.ts_ns)

    def _park_end(self, event: Event) -> None:
        pid, kind, idle = self._pid(event.pid), event.kind or "other", self._idle(event)
        duration_ns = max(0, event.duration_ns or 0)
        self._open.pop(event.data.get("park_id") or 0, None)
        self._deadlocked.over(event.pid, event.tid or 0)
        self._readings.observe(m.PARKS, (pid, kind, idle), duration_ns)
        if kind == "gil":
            self._gil(pid, 1, duration_ns)
        if isinstance(delay_ns := event.data.get("run_delay_ns"), int):
            self._readings.observe(m.RUN_DELAY, (pid,), delay_ns)
        if idle == "true":
            return
        thread = self._labels.thread(event.thread_name)
        self._readings.add(m.THREAD_PARKED, (pid, kind, thread), duration_ns)
        holder = event.data.get("holder")
        if isinstance(holder, Mapping):
            thread = self._labels.thread(holder.get("thread_name"))
            self._readings.add(m.BLAMED, (pid, kind, thread), duration_ns)

    def _idle(self, event: Event) -> str:
        return self._labels.value("idle", event.idle)

    def _gil(self, pid: str, count: int, total_ns: int) -> None:
        self._readings.add(m.GIL_WAITS, (pid,), count)
        self._readings.add(m.GIL_WAIT, (pid,), total_ns)

    def _deadlock(self, event: Event) -> None:
        self._deadlocked.said(event)
        sort = "knot" if event.data.get("knot") else "cycle"
        self._readings.add(m.DEADLOCKS, (self._pid(event.pid), sort))

    # -- what others count ----------------------------------------------------------------

    def _counters(self, counters: Counters) -> None:
        readings = self._readings
        readings.replace(m.RECEIVED, {(_record(k),): n for k, n in counters.received.items()})
        for kind in counters.received | counters.dropped:
            readings.set(m.DROPPED, ("kernel", _record(kind)), counters.dropped[kind])
        if "nodes" in self._seen:
            readings.set(m.CROSS_NODE, (), counters.cross_node_wakes)
        if "alloc" in self._seen:  # else nobody looks, and 0 would be said of what is unknown
            readings.set(m.LARGE_ALLOCS, (), counters.large_allocs)
            readings.set(m.LARGE_BYTES, (), counters.large_alloc_bytes)
        for metric, value in (
            (m.MALFORMED, counters.malformed),
            (m.SCANS, counters.scans),
            (m.SCAN_TIME, counters.scan_cost_ns),
            (m.THREADS, counters.threads),
            (m.OWN_CPU, counters.own_cpu_ns),
            (m.OWN_RSS, self._own_memory()),
            (m.WATCHED, counters.elapsed_ns),
        ):
            readings.set(metric, (), value)
        for size, count in counters.refills.items():
            readings.set(m.REFILLS, (self._labels.value("size_bytes", size),), count)

    def _probes(self, probes: Mapping[str, ProbeUse]) -> None:
        if probes:
            self._states.clear()  # a group that could not be attached is not among them
        for name, use in probes.items():
            label = self._labels.value("probe", name)
            self._states[label] = use.state
            self._readings.set(m.PROBE_HITS, (label,), use.hits)
            self._readings.set(m.PROBE_COST, (label,), use.cost_ns)

    def _governor(self, event: Event) -> None:
        probe = self._labels.value("probe", event.data.get("probe"))
        action = event.data.get("action")
        self._readings.add(m.GOVERNED, (probe, self._labels.value("action", action)))
        if action in _STATE_AFTER and probe != "scans":
            self._states[probe] = _STATE_AFTER[action]

    def _probe_failed(self, event: Event) -> None:
        self._readings.add(
            m.PROBE_FAILURES, (self._labels.value("probe", event.data.get("probe")),)
        )

    def _data_loss(self, event: Event) -> None:
        """Losses of places that are not among the counters."""
        where, count = event.data.get("where"), event.data.get("count")
        if where not in ("kernel", "decode") and isinstance(count, int):
            key = tuple(
                self._labels.value(label, event.data.get(name))
                for label, name in (("where", "where"), ("record", "record_kind"))
            )
            self._readings.add(m.DROPPED, key, count)

    def _breaker(self, event: Event) -> None:
        name = self._labels.value("breaker", event.data.get("name"))
        state = self._labels.value("state", event.data.get("to"))
        self._breakers.fold(name, state, event)
        self._readings.add(m.BREAKER_CHANGES, (name, state))

    def _trigger(self, event: Event) -> None:
        self._readings.add(m.FIRED, (self._labels.value("trigger", event.data.get("trigger")),))

    def _action(self, event: Event) -> None:
        """``count``: so many that were skipped are said at once."""
        key = tuple(self._labels.value(name, event.data.get(name)) for name in ("action", "status"))
        count = event.data.get("count")
        self._readings.add(m.ACTIONS, key, count if isinstance(count, int) else 1)

    def _native_map(self, event: Event) -> None:
        self._maps.fold(self._pid(event.pid), event)

    def _detached(self, event: Event) -> None:
        self._readings.set(m.WATCHING, (), 0)
        for pid in list(self._up):
            del self._up[pid]
            self._ended(pid)
        self._open.clear()

    # -- publishing -----------------------------------------------------------------------

    def _publish(self) -> None:
        self._published_ns = self._now_ns
        self._gauges()
        self._snapshot = self._readings.snapshot(self._now_ns)

    def _gauges(self) -> None:
        """What is true now, rather than what has happened."""
        readings = self._readings
        now = dict.fromkeys(readings.keys(m.LONG_PARKS), 0)
        oldest: dict[Key, int] = {(label,): 0 for label in self._up.values()}
        for park in self._open.values():
            key = park.pid, park.kind, park.idle
            now[key] = now.get(key, 0) + 1
            if park.idle != "true":
                age_ns = max(0, self._now_ns - park.start_ns)
                oldest[park.pid,] = max(oldest.get((park.pid,), 0), age_ns)
        readings.replace(m.LONG_NOW, now)
        readings.replace(m.OLDEST_NOW, oldest)
        known = {pid: 0 for pid in self._up if pid in self._searched}
        for metric, found in (
            (m.DEADLOCKS_NOW, self._deadlocked.counts()),
            (m.DEADLOCKED, self._deadlocked.threads()),
        ):
            readings.replace(metric, {})
            for pid, count in {**known, **found}.items():
                readings.add(metric, (self._up.get(pid) or self._pid(pid),), count)
        for metric, states in (
            (m.PROBE_STATE, self._states),
            (m.BREAKER_STATE, self._breakers.worst()),
        ):
            readings.replace(
                metric,
                {
                    (name, one): int(one == state)
                    for name, state in states.items()
                    for one in dict.fromkeys((*STATES, state))
                },
            )
        overflow = dict(self._labels.overflow)
        if readings.overflow:
            overflow["series"] = readings.overflow
        readings.replace(m.OVERFLOW, {(label,): n for label, n in overflow.items()})


def _record(kind: int) -> str:
    try:
        return Kind(kind).name.lower()
    except ValueError:
        return "unknown"
