"""What native maps do, added up from the kernel's counts and said once a second.

A map is an object at an address of a process. What was counted of it is true if nothing
was left out: where the governor gave a group of probes up, or counts were lost, the
figures that rest on them are marked as partial.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

from collector.context import ContextProvider, MapFacts
from collector.events import Event
from probes.wire import NO_BUCKET, PAYLOAD, Kind, MapCounter, MapMode, MapOutcome

MAX_MAPS = 256
"""Maps of one process that are told apart; the others are one, without an address."""
OTHERS = 0
ROUNDS_AFTER = 3
"""The kernel's last counts of a process come up to a second after its end; then its maps go."""
GROUP_PREFIX = "native_map."
_RANGES, _WAITS, _COUNTS = "ranges", "waits", "counts"
_GIVEN_UP = ("shed", "not_armed")

_PLAIN = {
    MapCounter.RELEASED: "released",
    MapCounter.SPLIT: "splits",
    MapCounter.SPLIT_DONE: "splits_done",
    MapCounter.RETIRED: "retired",
    MapCounter.STALE: "stale",
    MapCounter.RETRY: "retries",
    MapCounter.SPIN: "spins",
    MapCounter.VIEW_OPENED: "views_opened",
    MapCounter.VIEW_CLOSED: "views_closed",
    MapCounter.OPERATION: "operations",
}


@dataclass(slots=True)
class _Sum:
    """One line: how often, how long (where known), over how many entries."""

    count: int = 0
    total_ns: int = 0
    items: int = 0
    buckets: Counter[int] = field(default_factory=Counter)

    def add(self, row: Any) -> None:
        count, bucket = int(row["count"]), int(row["bucket"])
        self.count += count
        self.total_ns += int(row["total_ns"])
        self.items += int(row["items"])
        if bucket != NO_BUCKET:
            self.buckets[bucket] += count

    def histogram(self) -> dict[str, int]:
        """``{"17": 3}``: three between 2**17 and 2**18 ns."""
        return {str(bucket): self.buckets[bucket] for bucket in sorted(self.buckets)}


@dataclass(slots=True)
class _Tally:
    """One map, since it was first heard of."""

    profile: int
    since_ns: int
    plain: dict[MapCounter, _Sum] = field(default_factory=dict)
    ranges: dict[tuple[int, int], _Sum] = field(default_factory=dict)
    waits: _Sum = field(default_factory=_Sum)
    parks: int = 0
    begun: int = 0
    changed: bool = True
    facts: MapFacts | None = None

    def add(self, row: Any) -> None:
        counter = MapCounter(int(row["counter"]))
        if counter is MapCounter.RANGE:
            key = int(row["mode"]), int(row["outcome"])
            self.ranges.setdefault(key, _Sum()).add(row)
        elif counter is MapCounter.RANGE_BEGUN:
            self.begun += int(row["count"])
        elif counter in (MapCounter.WAIT, MapCounter.PARK):
            self.waits.add(row)
            self.parks += int(row["count"]) if counter is MapCounter.PARK else 0
        else:
            self.plain.setdefault(counter, _Sum()).add(row)
        self.changed = True


class MapTallies:
    """One per session."""

    def __init__(self, context: ContextProvider) -> None:
        self._context = context
        self._tallies: dict[tuple[int, int], _Tally] = {}
        self._partial: set[str] = set()
        self._over: dict[int, int] = {}

    def feed(self, records: npt.NDArray[Any], lost: bool = False) -> None:
        """Take decoded records of one batch. ``lost``: counts found no room in the kernel."""
        if lost:
            self._doubt((_RANGES, _WAITS, _COUNTS))
        counts = records[records["kind"] == Kind.MAP_COUNT]
        for row in counts.view(PAYLOAD[Kind.MAP_COUNT]):
            self._tally(row).add(row)

    def heard(self, events: Iterable[Event]) -> None:
        """Hear of the governor, for what it gives up is not counted, and of ends of processes."""
        for event in events:
            if event.event == "process_exit" and event.pid is not None:
                self._over[event.pid] = ROUNDS_AFTER
            probe = event.data.get("probe")
            if event.event == "governor" and isinstance(probe, str):
                group = probe.removeprefix(GROUP_PREFIX)
                if group != probe and event.data.get("action") in _GIVEN_UP:
                    self._doubt((group,))

    def _doubt(self, groups: Iterable[str]) -> None:
        if not self._partial.issuperset(groups):
            self._partial.update(groups)
            for tally in self._tallies.values():
                tally.changed = True

    def _tally(self, row: Any) -> _Tally:
        key = int(row["pid"]), int(row["map"])
        if key not in self._tallies:
            if sum(pid == key[0] for pid, _ in self._tallies) >= MAX_MAPS:
                key = key[0], OTHERS
            if key not in self._tallies:
                self._tallies[key] = _Tally(int(row["profile"]), int(row["ts_ns"]))
        return self._tallies[key]

    def events(self, now_ns: int) -> list[Event]:
        """``native_map`` of every map of which there is something new."""
        said = list(self._events(now_ns))
        self._over = {pid: rounds - 1 for pid, rounds in self._over.items()}
        over = {pid for pid, rounds in self._over.items() if not rounds}
        if over:
            self._over = {pid: rounds for pid, rounds in self._over.items() if rounds}
            self._tallies = {key: one for key, one in self._tallies.items() if key[0] not in over}
        return said

    def _events(self, now_ns: int) -> Iterator[Event]:
        for (pid, address), tally in self._tallies.items():
            facts = tally.facts
            if address and (facts is None or facts.name is None):
                facts = self._context.native_map(pid, address, tally.profile) or facts
            if tally.changed or facts != tally.facts:
                tally.changed, tally.facts = False, facts
                yield Event("native_map", now_ns, pid=pid, data=self._said(address, tally))

    def _said(self, address: int, tally: _Tally) -> dict[str, Any]:
        facts = tally.facts
        by_outcome: Counter[int] = Counter()
        for (_, outcome), one in tally.ranges.items():
            by_outcome[outcome] += one.count
        plain = {name: tally.plain.get(counter, _Sum()) for counter, name in _PLAIN.items()}
        ended = sum(by_outcome.values())
        known = ended - by_outcome[MapOutcome.UNKNOWN]
        fine = by_outcome[MapOutcome.COMPLETE] + by_outcome[MapOutcome.STOPPED]
        return {
            "map": None if facts is None else facts.name,
            "address": f"{address:#x}" if address else None,
            "type": None if facts is None else facts.type,
            "profile": None if facts is None else facts.profile,
            "ranges_begun": tally.begun,
            "ranges": [
                {
                    "mode": MapMode(mode).name.lower(),
                    "outcome": MapOutcome(outcome).name.lower(),
                    "count": one.count,
                    "items": one.items,
                    "total_ns": one.total_ns,
                    "buckets": one.histogram(),
                }
                for (mode, outcome), one in sorted(tally.ranges.items())
            ],
            "waits": {
                "count": tally.waits.count,
                "parks": tally.parks,
                "total_ns": tally.waits.total_ns,
                "buckets": tally.waits.histogram(),
            },
            **{name: one.count for name, one in plain.items()},
            "moved": plain["splits_done"].items,
            "success_rate": fine / known if known else None,
            "stale_ratio": plain["stale"].count / ended if ended else None,
            "partial": sorted(self._partial),
        }
