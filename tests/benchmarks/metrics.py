"""What metrics cost the loop: the same stream through the collector with and without the sink."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from contextlib import closing

import numpy as np
import numpy.typing as npt

from collector.attribution import Attributor, NoContext, NoIdleRules
from collector.metrics.exposition import Renderer
from collector.parks import ParkDetector
from collector.pipeline import Pipeline
from collector.sinks import Sink
from collector.sinks.metrics import MetricsSink
from collector.source import Batch, SourceInfo
from probes.wire import PAYLOAD, RECORD, Kind
from tests.metrics_events import sink_of_everything

BATCHES, RECORDS, PERIOD_NS = 60, 20_000, 50_000_000
PAIRS = 7
_MS = 1_000_000


class _Stream:
    """A backend that hands over what it was given, every 50 ms of a virtual clock."""

    info = SourceInfo("stream")

    def __init__(self, batches: Sequence[npt.NDArray[np.void]]) -> None:
        self._batches = batches
        self._at = 0

    def poll(self, _timeout_ns: int) -> Batch:
        self._at += 1
        done = self._at >= len(self._batches)
        return Batch(self._at * PERIOD_NS, self._batches[self._at - 1], done=done)

    def close(self) -> None:
        """Nothing is open."""


def _waits(seed: int) -> npt.NDArray[np.void]:
    """Waits for locks and the GIL of 1 to 50 ms by 200 threads of four processes."""
    chance = np.random.default_rng(seed)
    rows = np.zeros(RECORDS, PAYLOAD[Kind.WAIT])
    rows["kind"] = Kind.WAIT
    rows["pid"] = chance.integers(1, 5, RECORDS)
    rows["tid"] = chance.integers(1, 201, RECORDS)
    rows["duration_ns"] = chance.integers(_MS, 50 * _MS, RECORDS)
    rows["start_ns"] = rows["ts_ns"] = seed * PERIOD_NS
    rows["wait_class"] = chance.integers(1, 3, RECORDS)
    return rows.view(RECORD)


def _seconds(batches: Sequence[npt.NDArray[np.void]], sinks: Sequence[Sink]) -> float:
    detector = ParkDetector(200 * _MS, _MS)
    pipeline = Pipeline(_Stream(batches), detector, Attributor(NoContext(), NoIdleRules()), sinks)
    began = time.thread_time()
    with closing(pipeline.steps()) as steps:
        for _ in steps:
            pass
    return time.thread_time() - began


def ratio() -> tuple[float, float]:
    """CPU time of the loop with the sink ÷ without it (median); records a second with it."""
    batches = [_waits(at) for at in range(BATCHES)]
    _seconds(batches, [MetricsSink()])
    pairs = [(_seconds(batches, []), _seconds(batches, [MetricsSink()])) for _ in range(PAIRS)]
    with_it = statistics.median(second for _, second in pairs)
    return statistics.median(b / a for a, b in pairs), BATCHES * RECORDS / with_it


def publish_s(repeats: int = 200) -> float:
    """CPU time of publishing a snapshot with a value for every metric."""
    sink = sink_of_everything()
    began = time.thread_time()
    for _ in range(repeats):
        sink.close()
    return (time.thread_time() - began) / repeats


def render_s(repeats: int = 20) -> tuple[float, int]:
    """CPU time of a scrape of the same, and its bytes."""
    sink = sink_of_everything()
    spent, size = 0.0, 0
    for _ in range(repeats):
        sink.close()
        renderer = Renderer(lambda: sink.snapshot)
        began = time.thread_time()
        size = len(renderer.render()[0])
        spent += time.thread_time() - began
    return spent / repeats, size
