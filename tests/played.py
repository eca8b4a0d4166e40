"""Scenarios and traces through the whole collector, for tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from collector.attribution import Attributor, NoIdleRules
from collector.counters import Counters
from collector.events import Event
from collector.park import PARK
from collector.parks import ParkDetector
from collector.pipeline import Pipeline
from collector.sinks import Sink
from collector.sinks.trace_file import TraceFile
from probes.wire import RECORD
from tracer.backends.mock import Played

LONG_PARK_NS = 200_000_000
MIN_PARK_NS = 1_000_000


@dataclass
class Recorder:
    """A sink that keeps everything."""

    events: list[Event] = field(default_factory=list)
    batches: list[tuple[bytes, int]] = field(default_factory=list)
    parks: npt.NDArray[Any] = field(default_factory=lambda: np.empty(0, PARK))
    dropped: dict[int, int] = field(default_factory=dict)

    def on_records(self, records: npt.NDArray[Any], dropped: dict[int, int], now_ns: int) -> None:
        if len(records):
            self.batches.append((records.tobytes(), now_ns))
        for kind, count in dropped.items():
            self.dropped[int(kind)] = self.dropped.get(int(kind), 0) + count

    def on_parks(self, parks: npt.NDArray[Any]) -> None:
        self.parks = np.concatenate((self.parks, parks))

    def on_events(self, events: Sequence[Event]) -> None:
        self.events += events

    def on_health(self, counters: Counters, now_ns: int) -> None:
        self.health = counters.to_dict()

    def close(self) -> None:
        """Nothing is held open."""

    @property
    def records(self) -> npt.NDArray[Any]:
        return np.frombuffer(b"".join(raw for raw, _ in self.batches), RECORD)

    def said(self, *names: str) -> list[Event]:
        return [event for event in self.events if event.event in names]


def run(played: Played, trace: Path | None = None) -> Recorder:
    """The session of a source, from first batch to last; recorded into ``trace``."""
    recorder = Recorder()
    sinks: list[Sink] = [recorder]
    if trace is not None:
        sinks.append(TraceFile(trace, {"targets": []}))
    Pipeline(
        played.source,
        ParkDetector(LONG_PARK_NS, MIN_PARK_NS),
        Attributor(played.context, NoIdleRules()),
        sinks,
        opening=lambda now_ns: [
            Event("attached", now_ns, pid=4000, data={"backend": played.source.info.backend})
        ],
    ).run()
    return recorder
