"""What is going on right now: records and events folded into an immutable picture.

Nothing is drawn here. The loop's thread folds; another thread may take
``LiveSink.snapshot`` at any time: it is replaced as a whole, never changed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from collector.counters import Counters
from collector.events import Event
from collector.park import CLASS_KIND, place_of
from probes.kinds import FUTEX, fd_of, park_kind, syscall_name
from probes.wire import PAYLOAD, Flag, Kind, RunState, WaitClass

PUBLISH_NS = 100_000_000
"""A new snapshot at most ten times a second of the source's clock."""

RECENT_EVENTS = 50
_LIVES = (Kind.THREAD_START, Kind.THREAD_EXIT, Kind.PROC_EXEC, Kind.PROC_EXIT)
_FOLDED = (Kind.THREAD_STATE, Kind.WAIT_OPEN, Kind.WAIT, Kind.WAKE, *_LIVES)
_NEWS = frozenset(
    {
        "action", "breaker", "data_loss", "deadlock", "governor", "probe_failed", "process_exec",
        "process_fork",
    }
)  # fmt: skip
_WELL = ("closed", "waiting")
_BLOCKED = (RunState.SLEEPING, RunState.DISK_SLEEP)

Key = tuple[int, int]
NameOf = Callable[[int, int], str | None]


@dataclass(frozen=True, slots=True)
class LiveThread:
    """One thread as last seen. ``kind`` None: it runs, or may run, since ``since_ns``.

    ``long`` marks a park over the threshold; ``idle`` is None until that is known.
    ``data`` holds the keys of a ``park_long`` event as far as they are known:
    ``resource``, ``holder``, ``syscall``, ``fd``, ``stack``, ``idle_reason``.
    """

    pid: int
    tid: int
    since_ns: int
    kind: str | None = None
    thread_name: str | None = None
    idle: bool | None = None
    long: bool = False
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LiveSnapshot:
    """Everything that a live view shows, at ``now_ns`` of the source's clock.

    ``attached`` are the events of that name, ``news`` the latest ones that a person
    should see, ``maps`` the latest ``native_map`` of each map, ``totals`` the form of
    ``Counters.to_dict``. ``breakers``: name and state of those circuit breakers that keep
    something back.
    """

    now_ns: int = 0
    threads: tuple[LiveThread, ...] = ()
    attached: tuple[Event, ...] = ()
    news: tuple[Event, ...] = ()
    maps: tuple[Event, ...] = ()
    totals: Mapping[str, Any] = field(default_factory=dict)
    ended: Event | None = None
    breakers: tuple[tuple[str, str], ...] = ()


class LiveSink:
    """A sink that keeps ``snapshot`` up to date.

    ``name_of`` tells Python's name of a thread; it is asked again each second while
    it has no answer.
    """

    def __init__(self, name_of: NameOf = lambda _pid, _tid: None) -> None:
        self._name_of = name_of
        self._threads: dict[Key, LiveThread] = {}
        self._long: dict[Key, LiveThread] = {}
        self._names: dict[Key, str | None] = {}
        self._attached: list[Event] = []
        self._news: deque[Event] = deque(maxlen=RECENT_EVENTS)
        self._maps: dict[tuple[int | None, Any], Event] = {}
        self._totals: Mapping[str, Any] = {}
        self._ended: Event | None = None
        self._breakers: dict[tuple[str, int | None, str], str] = {}
        self._now_ns = 0
        self._published_ns: int | None = None
        self._snapshot = LiveSnapshot()

    @property
    def snapshot(self) -> LiveSnapshot:
        """The latest picture (safe from any thread)."""
        return self._snapshot

    def on_records(self, records: npt.NDArray[Any], dropped: dict[int, int], now_ns: int) -> None:
        """Fold the records that tell of a thread's state, by time."""
        self._now_ns = max(self._now_ns, now_ns)
        for record in _telling(records):
            kind = Kind(int(record["kind"]))
            self._fold(kind, record.view(PAYLOAD[kind]))
        if self._published_ns is None or now_ns - self._published_ns >= PUBLISH_NS:
            self._publish()

    def on_parks(self, parks: npt.NDArray[Any]) -> None:
        """Nothing: the records have told it."""

    def on_events(self, events: Sequence[Event]) -> None:
        """Fold what is known of long parks, and what a person should see."""
        for event in events:
            self._now_ns = max(self._now_ns, event.ts_ns)
            if event.event == "attached":
                self._attached.append(event)
            elif event.event == "park_long":
                self._crossed(event)
            elif event.event == "park_end":
                self._over(event)
            elif event.event == "resource_named":
                self._named(event)
            elif event.event == "native_map":
                self._maps[event.pid, str(event.data.get("address"))] = event
            elif event.event == "detached":
                self._ended = event
            elif event.event in _NEWS and event.data.get("status") != "skipped":
                self._news.append(event)
            if event.event == "breaker":
                name, address = (str(event.data.get(key)) for key in ("name", "address"))
                self._breakers[name, event.pid, address] = str(event.data.get("to"))
        self._publish()

    def on_health(self, counters: Counters, now_ns: int) -> None:
        """Keep the totals."""
        self._now_ns = max(self._now_ns, now_ns)
        self._totals = counters.to_dict()
        self._ask_names()
        self._publish()

    def close(self) -> None:
        """Leave a last snapshot."""
        self._publish()

    def _fold(self, kind: Kind, r: Any) -> None:
        key = int(r["pid"]), int(r["tid"])
        if kind is Kind.THREAD_STATE:
            self._state(key, r)
        elif kind is Kind.WAIT_OPEN:
            self._wait_open(key, r)
        elif kind is Kind.THREAD_EXIT:
            self._forget(key)
        elif kind in (Kind.PROC_EXEC, Kind.PROC_EXIT):
            for gone in [each for each in self._threads if each[0] == key[0]]:
                self._forget(gone)
            for breaker in [each for each in self._breakers if each[1] == key[0]]:
                del self._breakers[breaker]
        elif kind is Kind.THREAD_START:
            self._forget(key)
            self._running(key, int(r["ts_ns"]))
        elif kind is Kind.WAKE or key in self._threads:  # a wake, or a wait that has ended
            self._running(key, int(r["ts_ns"]))

    def _state(self, key: Key, r: Any) -> None:
        since_ns, syscall, arg0 = int(r["since_ns"]), int(r["syscall"]), int(r["arg0"])
        if r["state"] not in _BLOCKED:
            self._running(key, since_ns)
            return
        kind = park_kind(syscall, arg0, int(r["arg1"]), bool(r["flags"] & Flag.GIL))
        before = self._threads.get(key)
        if before is not None and before.kind == kind == "gil":
            return  # a later slice of one logical wait
        resource = {"type": kind, "name": None, "address": f"{arg0:#x}"}
        self._threads[key] = LiveThread(
            *key,
            since_ns=since_ns,
            kind=kind,
            thread_name=self._name(key),
            data={
                "syscall": syscall_name(syscall),
                "fd": fd_of(syscall, arg0),
                "resource": resource if syscall == FUTEX and arg0 else None,
            },
        )

    def _wait_open(self, key: Key, r: Any) -> None:
        kind = CLASS_KIND[WaitClass(int(r["wait_class"]))]
        place = place_of(r)
        resource = {"type": kind, "name": None, "address": f"{int(r['address']):#x}"}
        self._threads[key] = LiveThread(
            *key,
            since_ns=int(r["start_ns"]),
            kind=kind,
            thread_name=self._name(key),
            data={"resource": resource, "shard": None if place is None else place.shard},
        )

    def _running(self, key: Key, since_ns: int) -> None:
        before = self._threads.get(key)
        if before is None or before.kind is not None:
            self._threads[key] = LiveThread(*key, since_ns=since_ns, thread_name=self._name(key))

    def _forget(self, key: Key) -> None:
        for table in (self._threads, self._long, self._names):
            table.pop(key, None)

    def _crossed(self, event: Event) -> None:
        if event.pid is None or event.tid is None:
            return
        key = event.pid, event.tid
        if event.thread_name is not None:
            self._names[key] = event.thread_name
        self._long[key] = LiveThread(
            *key,
            since_ns=event.start_ns or 0,
            kind=event.kind,
            thread_name=self._name(key),
            idle=event.idle,
            long=True,
            data=event.data,
        )

    def _over(self, event: Event) -> None:
        """The detector's word on the end of a long park; what followed is in ``_threads``."""
        key = event.pid or 0, event.tid or 0
        shown = self._long.get(key)
        if shown is not None and shown.data.get("park_id") == event.data.get("park_id"):
            del self._long[key]
            end_ns = (event.start_ns or 0) + (event.duration_ns or 0)
            base = self._threads.get(key)
            if base is not None and base.since_ns < end_ns:
                self._running(key, end_ns)

    def _named(self, event: Event) -> None:
        """What a long park is on has a name by now."""
        key = event.pid or 0, event.tid or 0
        shown = self._long.get(key)
        if shown is not None and shown.data.get("park_id") == event.data.get("park_id"):
            data = {**shown.data, "resource": event.data.get("resource")}
            self._long[key] = replace(shown, data=data)

    def _name(self, key: Key) -> str | None:
        if key not in self._names:
            self._names[key] = self._name_of(*key)
        return self._names[key]

    def _ask_names(self) -> None:
        """Ask again for the names that nobody knew."""
        self._names = {key: name for key, name in self._names.items() if name is not None}
        for table in (self._threads, self._long):
            for key, thread in table.items():
                if thread.thread_name is None and self._name(key) is not None:
                    table[key] = replace(thread, thread_name=self._name(key))

    def _publish(self) -> None:
        self._published_ns = self._now_ns
        self._snapshot = LiveSnapshot(
            now_ns=self._now_ns,
            threads=tuple({**self._threads, **self._long}.values()),
            attached=tuple(self._attached),
            news=tuple(self._news),
            maps=tuple(self._maps.values()),
            totals=self._totals,
            ended=self._ended,
            breakers=tuple(
                (name, state)
                for (name, _, _), state in self._breakers.items()
                if state not in _WELL
            ),
        )


def _telling(records: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """By time, of each thread the last record that tells its state, and all of lives."""
    told = records[np.isin(records["kind"], _FOLDED)]
    told = told[np.argsort(told["ts_ns"], kind="stable")]
    keys = told["pid"].astype(np.uint64) << np.uint64(32) | told["tid"]
    _, from_the_end = np.unique(keys[::-1], return_index=True)
    kept: npt.NDArray[np.bool_] = np.isin(told["kind"], _LIVES)
    kept[len(told) - 1 - from_the_end] = True
    return told[kept]
