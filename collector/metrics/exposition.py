"""Readings in Prometheus' formats, by prometheus_client, which only this module imports."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from threading import Lock
from typing import TYPE_CHECKING

from collector.metrics.catalogue import METRICS, Metric
from collector.metrics.readings import Snapshot

if TYPE_CHECKING:
    from prometheus_client.core import HistogramMetricFamily
    from prometheus_client.core import Metric as Family

KEPT = 4
"""Renderings of one snapshot that are kept, by format."""


class Renderer:
    """The latest snapshot as text; safe from any number of threads.

    One snapshot is rendered once per format, however often it is asked for: a flood of
    scrapes takes no more of the interpreter than a few a second.
    """

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._snapshot = snapshot
        self._lock = Lock()
        self._of: Snapshot | None = None
        self._kept: dict[str, bytes] = {}

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """The text and its content type: what an ``Accept`` header prefers, else plain text."""
        from prometheus_client.exposition import choose_encoder

        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # a version that is no version
            encode, content_type = choose_encoder("")
        with self._lock:
            snapshot = self._snapshot()
            if snapshot is not self._of or len(self._kept) >= KEPT:
                self._of = snapshot
                self._kept = {}
            if content_type not in self._kept:
                self._kept[content_type] = encode(_Collected(snapshot))
            return self._kept[content_type], content_type


class _Collected:
    """What prometheus_client encodes (its ``Collector``)."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterable[Family]:
        return families(self._snapshot)


def families(snapshot: Snapshot) -> Iterator[Family]:
    """Every metric that has a value, with its samples."""
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
    )

    for metric in METRICS:
        if metric.type == "histogram":
            if spreads := snapshot.spreads.get(metric):
                family = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
                for key, spread in sorted(spreads.items()):
                    _add_histogram(family, metric, key, spread.counts, spread.total)
                yield family
            continue
        if values := snapshot.values.get(metric):
            make = CounterMetricFamily if metric.type == "counter" else GaugeMetricFamily
            single = make(metric.name, metric.help, labels=metric.labels)
            for key, value in sorted(values.items()):
                single.add_metric(key, value / metric.per)
            yield single


def _add_histogram(
    family: HistogramMetricFamily,
    metric: Metric,
    key: tuple[str, ...],
    counts: list[int],
    total: int,
) -> None:
    buckets: list[tuple[str, float]] = []
    so_far = 0
    for bound, count in zip(metric.bounds, counts, strict=False):
        so_far += count
        buckets.append((repr(bound / metric.per), so_far))
    buckets.append(("+Inf", so_far + counts[-1]))
    family.add_metric(key, buckets, sum_value=total / metric.per)
