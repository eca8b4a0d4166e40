"""What is counted of native maps: from ``native_map`` events to readings.

A ``native_map`` event has running totals of one map: ``ranges`` (a list, by ``mode`` and
``outcome``, with ``count``, ``items`` and ``duration_ns``) and numbers beside it. What is
missing or of another form is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from collector.events import Event
from collector.metrics import catalogue as m
from collector.metrics.labels import Labels
from collector.metrics.readings import Readings

STALE_AWARE: Final = frozenset({"strict", "snapshot", "view"})
"""Modes of a range that notice, or cannot meet, what was changed or retired under them."""

MAX_TOTALS: Final = 20_000


class NativeMaps:
    """Folds events of any number of maps; of ``MAX_TOTALS`` running totals it knows the last."""

    def __init__(self, readings: Readings, labels: Labels) -> None:
        self._readings = readings
        self._labels = labels
        self._before: dict[tuple[object, ...], int] = {}

    def fold(self, pid: str, event: Event) -> None:
        """Take one event over. ``pid``: its process as a label's value."""
        known = event.data.get("map")
        name = self._labels.value("map", known)
        for done in event.data.get("ranges") or ():
            if isinstance(done, Mapping):
                self._range((pid, name), (event.pid, str(known)), done)

    def forget(self, pid: int) -> None:
        """A process has ended."""
        self._before = {key: value for key, value in self._before.items() if key[0] != pid}

    def _range(
        self, labels: tuple[str, str], known: tuple[object, ...], done: Mapping[str, Any]
    ) -> None:
        mode, outcome = (self._labels.value(key, done.get(key)) for key in ("mode", "outcome"))
        known = *known, str(done.get("mode")), str(done.get("outcome"))
        count, items, duration_ns = (
            self._more((*known, key), done.get(key)) for key in ("count", "items", "duration_ns")
        )
        aware = "true" if mode in STALE_AWARE else "false"
        key = *labels, mode, step(items, count), aware
        self._readings.add(m.RANGES, (*key, outcome), count)
        self._readings.add(m.RANGE_TIME, key, duration_ns)

    def _more(self, key: tuple[object, ...], total: object) -> int:
        """How much a running total has grown; one that has shrunk began anew."""
        if not isinstance(total, int):
            return 0
        if key not in self._before and len(self._before) >= MAX_TOTALS:
            self._labels.overflow["map"] += 1
            return 0
        before, self._before[key] = self._before.get(key, 0), total
        return total - before if total >= before else total


def step(items: int, count: int) -> str:
    """The size class of ranges, by the mean number of their entries: ``10-99``."""
    if count <= 0 or items < count:
        return "0"
    digits = len(str(min(items // count, 10**9)))
    return f"{10 ** (digits - 1)}-{10**digits - 1}" if digits < 10 else "1000000000-"
