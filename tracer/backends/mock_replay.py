"""A trace file played again: the same records in the same batches, on the recorded clock."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from collector.events import Event
from collector.map_breakers import PREFIX
from collector.source import Batch, SourceInfo
from collector.trace.format import FrameKind
from collector.trace.reader import Integrity, TraceReader

SOURCE_FACTS = (
    "governor", "breaker", "probe_failed", "native_library", "deadlock", "trigger", "action",
)  # fmt: skip
"""Events that rest on what only the recorder could see or do: its source, the target's
memory, its actions. All others are found anew, and so are breakers over native maps."""

_MAX_SILENT_POLLS = 1_000_000
"""Three days of silence at the loop's pace. What is silent for longer (or says so: a
made-up file may claim centuries) is skipped, not waited through."""


@dataclass(frozen=True, slots=True)
class _Step:
    """One batch of the recorded source."""

    now_ns: int
    raw: npt.NDArray[Any]
    dropped: Counter[int]

    @property
    def first_ns(self) -> int:
        """Until when nothing had happened: records of a batch are older than its end."""
        return int(self.raw["ts_ns"].min()) if len(self.raw) else self.now_ns


class ReplaySource:
    """A RecordSource over a trace. What a damaged trace has lost is said at the end.

    ``events`` are the recorded events (read in one pass before the first batch).
    """

    def __init__(self, path: Path, *, realtime: bool = False) -> None:
        """Raises NotATrace, UnknownTraceVersion, TraceError."""
        self._reader = TraceReader(path)
        try:
            self.events = self._read_events()
        except BaseException:
            self._reader.close()
            raise
        self._facts = [event for event in self.events if _is_fact(event)]
        self._realtime = realtime
        self._steps = self._walk()
        self._next = next(self._steps, None)
        self._now_ns = 0 if self._next is None else self._next.now_ns
        self._began = (time.monotonic_ns(), self._now_ns)
        self._silent_polls = 0
        self._done = False

    @property
    def now_ns(self) -> int:
        """The recorded clock."""
        return self._now_ns

    @property
    def integrity(self) -> Integrity:
        """How much of the trace could be read so far."""
        return self._reader.integrity

    @property
    def info(self) -> SourceInfo:
        """The accuracy that the recorded backend stated."""
        said = next((event.data for event in self.events if event.event == "attached"), {})
        probes = said.get("probes")
        return SourceInfo(
            backend="mock",
            why=f"replay of a recording by {said.get('backend', 'an unknown backend')}",
            start_error_ns=_number(said.get("start_error_ns")),
            end_error_ns=_number(said.get("end_error_ns")),
            missed_below_ns=_number(said.get("missed_below_ns")),
            probes=tuple(map(str, probes)) if isinstance(probes, list) else (),
            nodes=_nodes(said.get("nodes")),
        )

    def poll(self, timeout_ns: int) -> Batch:
        """The next recorded batch, or silence for ``timeout_ns`` where there was silence.

        A batch comes whole, at its own time, even if that is later than asked for: with
        another threshold than the recorded one the loop asks in the middle of batches,
        and silence there would deny what had happened already.
        """
        if self._done:
            return Batch(self._now_ns, done=True)
        limit = self._now_ns + max(0, timeout_ns)
        step = self._next
        if step is not None and min(step.first_ns, step.now_ns) > limit and not self._skipping:
            self._silent_polls += 1
            self._move(limit)
            return Batch(limit, events=self._due_facts())
        if step is None:
            self._done = True
            return Batch(self._now_ns, events=(*self._due_facts(), *self._losses()), done=True)
        self._next = next(self._steps, None)
        self._move(step.now_ns)
        self._done = self._next is None
        events = (*self._due_facts(), *(self._losses() if self._done else ()))
        return Batch(step.now_ns, step.raw, step.dropped, events, self._done)

    @property
    def _skipping(self) -> bool:
        return self._silent_polls >= _MAX_SILENT_POLLS and not self._realtime

    def close(self) -> None:
        """Closes the file; safe to call twice."""
        self._done = True
        self._steps.close()
        self._reader.close()

    def _read_events(self) -> list[Event]:
        only = (FrameKind.EVENTS,)
        return [event for frame in self._reader.frames(only) for event in frame.events]

    def _walk(self) -> Generator[_Step]:
        """The batches as their ticks cut them; rows of one batch may span frames."""
        waiting: list[npt.NDArray[Any]] = []
        dropped: Counter[int] = Counter()
        now_ns = 0
        for frame in self._reader.frames((FrameKind.RECORDS,)):
            dropped.update(frame.header.dropped)
            start = 0
            for n, tick in enumerate(frame.header.ticks, start=1):
                waiting.append(frame.records[start : tick.end_row])
                start, now_ns = tick.end_row, max(now_ns, tick.now_ns)
                last = n == len(frame.header.ticks)
                yield _Step(now_ns, np.concatenate(waiting), dropped if last else Counter())
                waiting.clear()
                dropped = Counter() if last else dropped
            waiting.append(frame.records[start:])
            now_ns = max(now_ns, frame.header.now_ns)
        end_ns = max(now_ns, self._reader.end_ns or 0)
        rest = np.concatenate(waiting) if waiting else np.empty(0, np.uint8)
        yield _Step(end_ns, rest, dropped)

    def _move(self, now_ns: int) -> None:
        self._now_ns = now_ns
        if self._realtime:
            began, first = self._began
            time.sleep(max(0, began + now_ns - first - time.monotonic_ns()) / 1e9)

    def _due_facts(self) -> tuple[Event, ...]:
        """What had been said by now; a deadlock only after the parks that it is made of."""
        count = 0
        while count < len(self._facts) and (
            self._facts[count].ts_ns + (self._facts[count].event == "deadlock") <= self._now_ns
            or self._done
        ):
            count += 1
        due, self._facts = self._facts[:count], self._facts[count:]
        return tuple(due)

    def _losses(self) -> tuple[Event, ...]:
        """What the file no longer had: replayed results rest on the remainder."""
        return tuple(
            Event(
                "data_loss",
                self._now_ns,
                data={"where": "trace", "record_kind": None, "rows": kind, "count": count},
            )
            for kind, count in sorted(self._reader.integrity.lost_rows.items())
        )


def _is_fact(event: Event) -> bool:
    of_a_map = event.event == "breaker" and str(event.data.get("name")).startswith(PREFIX)
    return event.event in SOURCE_FACTS and not of_a_map


def _nodes(value: Any) -> tuple[int, ...]:
    """NUMA nodes by CPU, as recorded; nothing if they are anything else."""
    if isinstance(value, list) and all(type(one) is int and one >= 0 for one in value):
        return tuple(value)
    return ()


def _number(value: Any) -> int:
    return value if type(value) is int and value >= 0 else 0
