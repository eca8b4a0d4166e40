"""The values of all metrics: folded by one thread, copied whole for others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from collector.metrics.catalogue import Metric
from collector.metrics.labels import OTHER

MAX_SERIES: Final = 2000
"""Of one metric. What would be one more is counted with every label ``other``."""

Key = tuple[str, ...]


@dataclass(slots=True)
class Spread:
    """A histogram: counts per bucket (one more than bounds: the rest) and the sum of values."""

    counts: list[int]
    total: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All readings of one moment, which nobody changes. ``now_ns`` is the source's clock."""

    now_ns: int = 0
    values: Mapping[Metric, Mapping[Key, int]] = field(default_factory=dict)
    spreads: Mapping[Metric, Mapping[Key, Spread]] = field(default_factory=dict)

    def get(self, metric: Metric, *key: str) -> int:
        """One value, 0 where there is none; for a histogram how many values it has."""
        if metric.bounds:
            spread = self.spreads.get(metric, {}).get(key)
            return 0 if spread is None else sum(spread.counts)
        return self.values.get(metric, {}).get(key, 0)


class Readings:
    """Values by metric and label values, in the order of the metric's labels."""

    def __init__(self) -> None:
        self.overflow = 0
        self._values: dict[Metric, dict[Key, int]] = {}
        self._spreads: dict[Metric, dict[Key, Spread]] = {}

    def add(self, metric: Metric, key: Key, amount: int = 1) -> None:
        """More of a counter; less than nothing is nothing."""
        series = self._values.setdefault(metric, {})
        key = self._room(series, key)
        series[key] = series.get(key, 0) + max(0, amount)

    def set(self, metric: Metric, key: Key, value: int) -> None:
        """The value of now."""
        series = self._values.setdefault(metric, {})
        series[self._room(series, key)] = value

    def replace(self, metric: Metric, series: Mapping[Key, int]) -> None:
        """All values of a metric at once: those that are missing are gone."""
        self._values[metric] = dict(series)

    def spread(self, metric: Metric, key: Key, counts: Sequence[int], total: int) -> None:
        """More of a histogram, by bucket."""
        series = self._spreads.setdefault(metric, {})
        key = self._room(series, key)
        known = series.get(key)
        if known is None:
            series[key] = Spread(list(counts), total)
            return
        known.counts = [had + more for had, more in zip(known.counts, counts, strict=True)]
        known.total += total

    def observe(self, metric: Metric, key: Key, value: int) -> None:
        """One value of a histogram."""
        bucket = sum(bound < value for bound in metric.bounds)
        counts = [0] * (len(metric.bounds) + 1)
        counts[bucket] = 1
        self.spread(metric, key, counts, value)

    def forget(self, label: str, value: str, *metrics: Metric) -> None:
        """Drop the series in which ``label`` has that value: of ``metrics``, or of all."""
        for table in (self._values, self._spreads):
            for metric, series in table.items():
                if label in metric.labels and (not metrics or metric in metrics):
                    at = metric.labels.index(label)
                    for key in [key for key in series if key[at] == value]:
                        del series[key]

    def keys(self, metric: Metric) -> list[Key]:
        """The label values that a metric has."""
        return list(self._values.get(metric, ()))

    def snapshot(self, now_ns: int) -> Snapshot:
        """A copy of everything. A ``Spread`` is changed by replacing its lists only."""
        return Snapshot(
            now_ns,
            {metric: dict(series) for metric, series in self._values.items()},
            {
                metric: {key: Spread(one.counts, one.total) for key, one in series.items()}
                for metric, series in self._spreads.items()
            },
        )

    def _room(self, series: Mapping[Key, object], key: Key) -> Key:
        if key in series or len(series) < MAX_SERIES:
            return key
        self.overflow += 1
        return (OTHER,) * len(key)
