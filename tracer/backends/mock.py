"""The mock backend: scripted scenarios and recorded traces, on a virtual clock.

Both hand out real 64-byte records through the same decoder as every other backend,
drops included. The clock moves only inside ``poll`` and nobody sleeps, unless
``realtime`` asks for a show at its true pace.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from collector.context import ContextProvider
from collector.events import Event
from collector.source import Batch, RecordSource, SourceInfo
from probes.wire import RECORD_SIZE, Kind
from tracer.backends import mock_scenario
from tracer.backends.mock_context import ScenarioContext
from tracer.backends.mock_machine import Machine
from tracer.backends.mock_replay import ReplaySource
from tracer.backends.mock_scenario import Scenario
from tracer.backends.replay_context import ReplayContext
from tracer.backends.scan import BASE_PERIOD_NS, GIL_PERIOD_NS, NEWS_AFTER_NS

ATTACH_NS = 1_000_000_000_000
"""The virtual clock at the attach: room for what happened before."""

RING_HEADER_SIZE = 8
"""What the kernel's ring buffer puts before each record (BPF_RINGBUF_HDR_SZ)."""


@dataclass(frozen=True, slots=True)
class Played:
    """A source and what is known of its threads."""

    source: RecordSource
    context: ContextProvider


def scenario(name: str | Path, *, realtime: bool = False) -> Played:
    """Plays a scenario by its name or from a TOML file. Raises UsageError."""
    source = ScenarioSource(mock_scenario.load(name), realtime=realtime)
    return Played(source, ScenarioContext(source.scenario, source.machine, lambda: source.now_ns))


def replay(path: Path, *, realtime: bool = False) -> Played:
    """Plays a trace file again. Raises TraceError when it cannot be read."""
    source = ReplaySource(path, realtime=realtime)
    return Played(source, ReplayContext(source))


class ScenarioSource:
    """A RecordSource over a simulated machine. Deterministic: the same file, the same bytes.

    ``emitted`` counts, by kind, what the machine has made so far, whether it was
    handed out or dropped.
    """

    def __init__(self, scenario: Scenario, *, realtime: bool = False) -> None:
        self.scenario = scenario
        self.emitted: Counter[int] = Counter()
        self._realtime = realtime
        self._now_ns = time.monotonic_ns() if realtime else ATTACH_NS
        self.machine = Machine(scenario, self._now_ns)
        self._end_ns = self.machine.ns(scenario.duration_ms)
        self._room = scenario.ring_bytes // (RECORD_SIZE + RING_HEADER_SIZE)
        self._losses = sorted(scenario.loss, key=lambda loss: loss.at_ms)
        self._facts = sorted(scenario.fact, key=lambda fact: fact.at_ms)
        self._done = False

    @property
    def now_ns(self) -> int:
        """The virtual clock."""
        return self._now_ns

    @property
    def info(self) -> SourceInfo:
        """Exact by construction, except for GIL ends, which scans see."""
        return SourceInfo(
            backend="mock",
            why=f"scenario {self.scenario.name}",
            end_error_ns=GIL_PERIOD_NS,
            missed_below_ns=NEWS_AFTER_NS + BASE_PERIOD_NS,
        )

    def poll(self, timeout_ns: int) -> Batch:
        """Moves the clock to the next scan, but by no more than ``timeout_ns``."""
        if self._done:
            return Batch(self._now_ns, done=True)
        until = min(self._now_ns + max(0, timeout_ns), self.machine.next_scan_ns, self._end_ns)
        if self._realtime:
            time.sleep(max(0, until - time.monotonic_ns()) / 1e9)
        self._now_ns = until
        pushed = self.machine.ring(until)
        kept, lost = pushed[: self._room], pushed[self._room :]
        dropped = _by_kind(lost) + self._scripted_losses()
        records = [kept]
        if until >= min(self.machine.next_scan_ns, self._end_ns):
            records.append(self.machine.scan(until))
        raw = np.concatenate(records)
        self.emitted.update(_by_kind(raw))
        self.emitted.update(dropped)
        self._done = until >= self._end_ns
        return Batch(until, raw, dropped, self._events(), self._done)

    def close(self) -> None:
        """Nothing follows; safe to call twice."""
        self._done = True

    def _scripted_losses(self) -> Counter[int]:
        lost: Counter[int] = Counter()
        while self._losses and self.machine.ns(self._losses[0].at_ms) <= self._now_ns:
            loss = self._losses.pop(0)
            lost[Kind[loss.kind.upper()]] += loss.count
        return lost

    def _events(self) -> tuple[Event, ...]:
        due = []
        while self._facts and self.machine.ns(self._facts[0].at_ms) <= self._now_ns:
            fact = self._facts.pop(0)
            due.append(Event(fact.event, self.machine.ns(fact.at_ms), data=dict(fact.data)))
        return tuple(due)


def _by_kind(records: npt.NDArray[Any]) -> Counter[int]:
    counts = np.bincount(records["kind"]) if len(records) else np.empty(0, np.int64)
    return Counter({kind: int(n) for kind, n in enumerate(counts.tolist()) if n})
