"""A bcc source on one target that obeys commands, polled by the test itself."""

from __future__ import annotations

import json
import select
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from collector.events import Event
from probes.wire import PAYLOAD, RECORD, Kind
from tests.processes import read_line
from tracer.backends import Options, TargetPlan
from tracer.backends.bcc.source import BccSource
from tracer.backends.bcc.uprobes import DRAIN_PERIOD_NS, Uprobes
from tracer.pymem import PythonReader
from tracer.target import inspect

POLL_NS = 20_000_000
PATIENCE_POLLS = 500


@dataclass
class Session:
    """Everything that came out of the source so far."""

    source: BccSource
    uprobes: Uprobes
    process: subprocess.Popen[bytes]
    plan: TargetPlan
    events: list[Event] = field(default_factory=list)
    dropped: dict[int, int] = field(default_factory=dict)
    _pieces: list[npt.NDArray[Any]] = field(default_factory=list)

    def poll(self) -> None:
        """One batch."""
        batch = self.source.poll(POLL_NS)
        self.events += batch.events
        for kind, count in batch.dropped.items():
            self.dropped[kind] = self.dropped.get(kind, 0) + count
        if len(batch.raw):
            self._pieces.append(np.frombuffer(batch.raw, RECORD))

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        """Poll until ``condition()`` is true; its value."""
        for _ in range(PATIENCE_POLLS):
            if value := condition():
                return value
            self.poll()
        raise AssertionError(f"not seen: {what}; events: {self.events}")

    def of(self, kind: Kind) -> npt.NDArray[Any]:
        """Records of a kind so far, with the payload's names."""
        everything = np.concatenate(self._pieces) if self._pieces else np.empty(0, RECORD)
        chosen: npt.NDArray[Any] = everything[everything["kind"] == kind].view(PAYLOAD[kind])
        return chosen

    def ask(self, command: str) -> dict[str, Any]:
        """Have the target do something, polling meanwhile; what it says about it."""
        if self.process.stdin is None or self.process.stdout is None:
            raise ValueError("the target has no pipes")
        self.process.stdin.write(f"{command}\n".encode())
        self.process.stdin.flush()
        stream = self.process.stdout
        self.until(lambda: select.select([stream], [], [], 0)[0], f"an answer to {command}")
        answer: dict[str, Any] = json.loads(read_line(self.process))
        return answer

    def drained(self) -> None:
        """Poll until the maps that are read once a second have been read once more."""
        due_ns = time.monotonic_ns() + DRAIN_PERIOD_NS

        def scanned() -> bool:
            return bool((self.of(Kind.SCAN)["ts_ns"] >= due_ns).any())

        self.until(scanned, "a scan a second later")

    def said(self, event: str, **data: Any) -> list[Event]:
        """Events of that name whose data has these values."""
        return [
            one
            for one in self.events
            if one.event == event and all(one.data.get(key) == data[key] for key in data)
        ]

    def armed(self) -> None:
        """Poll until the slow path has been armed, after the look or on trial."""
        pid = self.process.pid
        self.until(lambda: pid in self.uprobes.links.pids("slow_path"), "slow path armed")


@contextmanager
def attached(
    process: subprocess.Popen[bytes],
    cache: Path,
    *,
    multi: bool | None = None,
    know_gil: bool = True,
    **options: Any,
) -> Iterator[Session]:
    """A session on a process that has said ``ready``."""
    target = inspect(process.pid)
    reader = PythonReader(target)
    plan = TargetPlan(target, tuple(reader.gil_ranges()), tuple(reader.gil_conditions()))
    if not know_gil:
        plan = replace(plan, gil_ranges=(), gil_conditions=())
    chosen = Options(cache_dir=cache, **{"budget": 0.5, **options})
    uprobes = Uprobes(chosen, multi=multi)
    source = BccSource([plan], chosen, addons=[lambda _: uprobes])
    try:
        yield Session(source, uprobes, process, plan)
    finally:
        source.close()
