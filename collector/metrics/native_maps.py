"""What is counted of native maps: from ``native_map`` events to readings.

Such an event has running totals of one map: ``ranges`` (by ``mode`` and ``outcome``, with
``count``, ``items`` and ``total_ns``), ``waits``, and plain numbers beside them. What has
grown since the event before is added. What is missing or of another form is left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from collector.events import Event
from collector.metrics import catalogue as m
from collector.metrics.labels import UNKNOWN, Labels
from collector.metrics.readings import Readings

STALE_AWARE: Final = frozenset({"strict", "snapshot", "view"})
"""Modes of a range that notice, or cannot meet, what was changed or retired under them."""
MIXED: Final = "mixed"
"""Where several modes were at work, nobody knows which of them a count is of."""
MAX_MAPS: Final = 2_000
MAX_TOTALS: Final = 256
"""Of one map; ours has some thirty."""
COUNTS: Final = (
    *("ranges_begun", "released", "splits", "splits_done", "moved", "retired", "retries"),
    *("spins", "views_opened", "views_closed", "operations"),
)


@dataclass(frozen=True, slots=True)
class _Grown:
    """What a line of ``ranges`` has grown by."""

    mode: str
    outcome: str
    count: int
    items: int
    total_ns: int


class NativeMaps:
    """Folds events of ``MAX_MAPS`` maps; others are left out whole, so that no ratio is wrong."""

    def __init__(self, readings: Readings, labels: Labels) -> None:
        self._readings = readings
        self._labels = labels
        self._before: dict[tuple[int | None, str], dict[tuple[str, ...], int]] = {}

    def fold(self, pid: str, event: Event) -> None:
        """Take one event over. ``pid``: its process as a label's value."""
        data = event.data
        named = data.get("map") or data.get("type")
        known = event.pid, str(data.get("address") or named)
        if known not in self._before and len(self._before) >= MAX_MAPS:
            self._labels.overflow["map"] += 1
            return
        before = self._before.setdefault(known, {})
        place = pid, self._labels.value("map", named)
        grown = list(self._ranges(before, data.get("ranges")))
        steps = {mode: _step_of(mode, grown) for mode in {one.mode for one in grown}}
        for one in grown:
            key = *place, one.mode, steps[one.mode], aware(one.mode)
            self._readings.add(m.RANGES, (*key, one.outcome), one.count)
            self._readings.add(m.RANGE_TIME, key, one.total_ns)
        self._stale(place, grown, steps, _more(before, ("stale",), data.get("stale")))
        for what in COUNTS:
            self._count(place, what, _more(before, (what,), data.get(what)))
        waits = data.get("waits")
        if isinstance(waits, Mapping):
            for what, name in (("waits", "count"), ("parks", "parks")):
                self._count(place, what, _more(before, (what,), waits.get(name)))
            waited_ns = _more(before, ("waited",), waits.get("total_ns"))
            self._readings.add(m.MAP_WAIT, place, waited_ns)
        for group in _texts(data.get("partial")):
            self._readings.set(m.MAP_PARTIAL, (*place, self._labels.value("what", group)), 1)

    def forget(self, pid: int) -> None:
        """Another process has the number now, or nobody asks for that one's any more."""
        self._before = {key: value for key, value in self._before.items() if key[0] != pid}

    def _count(self, place: tuple[str, str], what: str, more: int) -> None:
        if more:
            self._readings.add(m.MAP_EVENTS, (*place, what), more)

    def _ranges(self, before: dict[tuple[str, ...], int], lines: object) -> Iterator[_Grown]:
        for line in lines if isinstance(lines, list | tuple) else ():
            if not isinstance(line, Mapping):
                continue
            mode, outcome = str(line.get("mode")), str(line.get("outcome"))
            count, items, total_ns = (
                _more(before, (mode, outcome, name), line.get(name))
                for name in ("count", "items", "total_ns")
            )
            if count:
                yield _Grown(
                    self._labels.value("query_type", mode),
                    self._labels.value("outcome", outcome),
                    count,
                    items,
                    total_ns,
                )

    def _stale(
        self, place: tuple[str, str], grown: list[_Grown], steps: Mapping[str, str], hits: int
    ) -> None:
        """The kernel counts stale buckets by map; of which mode is known if there was but one."""
        ranges = Counter[str]()
        for one in grown:
            ranges[one.mode] += one.count
        only = next(iter(ranges)) if len(ranges) == 1 else None
        key = (MIXED, MIXED, UNKNOWN) if only is None else (only, steps[only], aware(only))
        if hits or ranges:
            self._readings.add(m.STALE_HITS, (*place, *key), hits)
            self._readings.add(m.STALE_BASE, (*place, *key), ranges.total())


def _more(before: dict[tuple[str, ...], int], key: tuple[str, ...], total: object) -> int:
    """How much a running total has grown; one that has shrunk began anew."""
    if not isinstance(total, int) or (key not in before and len(before) >= MAX_TOTALS):
        return 0
    last, before[key] = before.get(key, 0), total
    return total - last if total >= last else total


def aware(mode: str) -> str:
    """``is_stale_aware`` of a mode."""
    return "true" if mode in STALE_AWARE else "false"


def step(items: int, count: int) -> str:
    """The size class of ranges, by the mean number of their entries: ``10-99``."""
    if count <= 0 or items < count:
        return "0"
    digits = len(str(min(items // count, 10**9)))
    return f"{10 ** (digits - 1)}-{10**digits - 1}" if digits < 10 else "1000000000-"


def _step_of(mode: str, grown: list[_Grown]) -> str:
    """One class for all outcomes of a mode: those that ended early were meant to go as far."""
    own = [one for one in grown if one.mode == mode]
    whole = [one for one in own if one.outcome == "complete"] or own
    return step(sum(one.items for one in whole), sum(one.count for one in whole))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, list | tuple):
        yield from (one for one in value if isinstance(one, str))
