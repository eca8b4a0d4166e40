"""Allocation probes against what the target logs and what its interpreter says of its pools."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson

from tests.benchmarks.pairs import TARGETS
from tests.benchmarks.tools import BIN
from tests.interpreters import Interpreter, launch
from tests.processes import kill, read_line, started, wait_ready

GROWN_OBJECTS = 60_000
_SCRIPT = TARGETS / "alloc_target.py"
_PATIENCE_S = 60.0


@dataclass(slots=True)
class Session:
    """A target that allocates when asked, and ``parkscope attach --json`` on it."""

    target: subprocess.Popen[bytes]
    tracer: subprocess.Popen[bytes]
    large: Counter[tuple[int, int]] = field(default_factory=Counter)
    refills: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def ask(self, line: str) -> Any:
        """What the target answers."""
        if self.target.stdin is None:
            raise ValueError("started without stdin=PIPE")
        self.target.stdin.write(line.encode() + b"\n")
        self.target.stdin.flush()
        return json.loads(read_line(self.target, _PATIENCE_S))

    def until(self, event: str, times: int = 1) -> None:
        """Read events until one was seen so often."""
        while times:
            line = orjson.loads(read_line(self.tracer, _PATIENCE_S))
            times -= line["event"] == event
            if line["event"] == "large_alloc":
                self.large[line["tid"], line["size_bytes"]] += 1
            elif line["event"] == "totals":
                self.refills = line["totals"]["pool_refills"]
            elif line["event"] in ("probe_failed", "governor"):
                self.failures.append(f"{line.get('action', 'failed')}: {line['why']}")


@contextmanager
def _session(target: subprocess.Popen[bytes]) -> Iterator[Session]:
    with started(target):
        wait_ready(target)
        command = [str(BIN / "parkscope"), "attach", str(target.pid), "--json"]
        tracer = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        try:
            session = Session(target, tracer)
            session.until("attached")
            session.until("totals")
            yield session
        finally:
            kill(tracer)


def _with_numpy() -> subprocess.Popen[bytes]:
    """The target under this very interpreter, which has numpy."""
    return subprocess.Popen(
        [sys.executable, "-u", str(_SCRIPT), "numpy"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


@dataclass(frozen=True, slots=True)
class Found:
    """Of the requests that a target logged: how many, and how many were told rightly."""

    logged: int
    told: int
    note: str


def large_requests(interpreter: Interpreter | None, wanted: Sequence[tuple[str, int]]) -> Found:
    """Have so many requests of each sort made. ``interpreter`` None: this one, with numpy."""
    if interpreter is None:
        target = _with_numpy()
    else:
        target = launch(interpreter, _SCRIPT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    logged: Counter[tuple[int, int]] = Counter()
    with _session(target) as session:
        for what, count in wanted:
            answer = session.ask(f"large {what} {count}")
            logged.update((answer["tid"], size) for size in answer["sizes"])
            session.until("totals", 2)  # what was made before the first is told by the second
    told = (logged & session.large).total()
    words = ", ".join(f"{count} {what}" for what, count in wanted)
    return Found(logged.total(), told, "; ".join([words, *session.failures]))


def refills_and_growth(interpreter: Interpreter) -> dict[int, tuple[int, int]]:
    """By block size: pool refills that were counted, pools by which the heap has grown."""
    target = launch(interpreter, _SCRIPT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with _session(target) as session:
        session.until("totals")
        before = Counter(session.refills)
        session.ask(f"grow {GROWN_OBJECTS}")
        session.until("totals", 3)
        counted = Counter(session.refills) - before
        grown = session.ask("pools")
    return {int(size): (counted[size], pools) for size, pools in grown.items() if pools > 100}
