"""A bcc source on processes that obey, polled by the test itself."""

from __future__ import annotations

import json
import select
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from collector.events import Event
from collector.source import Batch
from probes.wire import PAYLOAD, RECORD, Kind
from tests.conftest import Start
from tests.processes import read_line
from tracer.backends import Options, TargetPlan
from tracer.backends.bcc.addon import AddonFactory
from tracer.backends.bcc.source import RING_PAGES, BccSource
from tracer.target import inspect

OBEDIENT = Path(__file__).parents[2] / "targets" / "obedient.py"
POLL_NS = 20_000_000
PATIENCE_POLLS = 500

Process = subprocess.Popen[bytes]


def obedient(start: Start, python: str) -> Process:
    """A target that waits for commands."""
    return start([python, str(OBEDIENT)], ready=True, stdin=subprocess.PIPE)


def tell(process: Process, command: str) -> None:
    """Give a command without waiting for its answer."""
    if process.stdin is None:
        raise ValueError("the target has no stdin")
    process.stdin.write(f"{command}\n".encode())
    process.stdin.flush()


@dataclass
class Watch:
    """Everything that came out of a source so far."""

    source: BccSource
    events: list[Event] = field(default_factory=list)
    dropped: dict[int, int] = field(default_factory=dict)
    last: Batch | None = None
    _pieces: list[npt.NDArray[Any]] = field(default_factory=list)

    def poll(self) -> Batch:
        """One batch, kept."""
        batch = self.source.poll(POLL_NS)
        self.last = batch
        self.events += batch.events
        for kind, count in batch.dropped.items():
            self.dropped[kind] = self.dropped.get(kind, 0) + count
        if len(batch.raw):
            self._pieces.append(np.frombuffer(batch.raw, RECORD))
        return batch

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        """Poll until ``condition()`` is true; its value."""
        for _ in range(PATIENCE_POLLS):
            if value := condition():
                return value
            self.poll()
        raise AssertionError(f"not seen: {what}; events: {self.events}")

    def until_done(self) -> None:
        """Poll until the source says that nothing will follow."""
        self.until(lambda: self.last is not None and self.last.done, "the end")

    def records(self) -> npt.NDArray[Any]:
        """All records so far."""
        return np.concatenate(self._pieces) if self._pieces else np.empty(0, RECORD)

    def of(self, kind: Kind, **fields: int) -> npt.NDArray[Any]:
        """Records of a kind so far, with the payload's names, whose fields have these values."""
        records = self.records()
        chosen: npt.NDArray[Any] = records[records["kind"] == kind].view(PAYLOAD[kind])
        for name, value in fields.items():
            chosen = chosen[chosen[name] == value]
        return chosen

    def first(self, kind: Kind, **fields: int) -> Any:
        """The first such record, waited for."""
        what = f"{kind.name} with {fields}"
        return self.until(lambda: list(self.of(kind, **fields)[:1]), what)[0]

    def ask(self, process: Process, command: str) -> dict[str, Any]:
        """Have a target do something, polling meanwhile; what it says about it."""
        tell(process, command)
        return self.answer(process)

    def answer(self, process: Process) -> dict[str, Any]:
        """What a target says when it has done what it was told."""
        stream = process.stdout
        if stream is None:
            raise ValueError("the target has no stdout")
        self.until(lambda: select.select([stream], [], [], 0)[0], "an answer")
        answer: dict[str, Any] = json.loads(read_line(process))
        return answer


@contextmanager
def watching(
    *processes: Process,
    cache: Path,
    addons: Sequence[AddonFactory] = (),
    ring_pages: int = RING_PAGES,
    **options: Any,
) -> Iterator[Watch]:
    """A source on processes that have said ``ready``; by default without uprobes."""
    plans = [TargetPlan(inspect(process.pid)) for process in processes]
    chosen = Options(cache_dir=cache, **options)
    source = BccSource(plans, chosen, addons=addons, ring_pages=ring_pages)
    try:
        yield Watch(source)
    finally:
        source.close()
