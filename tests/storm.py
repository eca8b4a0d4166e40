"""``targets/lock_storm.py`` and what is said of it, against its log.

A holder is right when its thread may have had the lock at some moment of the reading:
from the log's entry before its own to the entry after.
"""

from __future__ import annotations

import subprocess
import time
from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from collector.context import Party
from probes.errors import MemoryReadError
from tests import interpreters
from tests.processes import kill, wait_ready
from tracer.pymem import PythonReader
from tracer.target import inspect

TARGET = Path(__file__).parent / "targets" / "lock_storm.py"
_ENTRY = np.dtype([("time_ns", "<u8"), ("lock", "<u8"), ("tid", "<u8")])
_NEVER = 1 << 63


@dataclass(frozen=True, slots=True)
class Claim:
    """A holder that was named, and when it was read."""

    lock: int
    tid: int
    began_ns: int
    ended_ns: int


@dataclass(slots=True)
class Outcome:
    """How many waits were looked at, for how many a holder was named, and the wrong ones."""

    rounds: int = 0
    waits: int = 0
    named: int = 0
    wrong: list[str] = field(default_factory=list)


def storm(interpreter: interpreters.Interpreter, rounds: int, seed: int, shift: int = 0) -> Outcome:
    """So many readings of all waits of a storm under that interpreter.

    ``shift`` gives each claim the holder of another one, so much later: a control.
    """
    with interpreters.scratch(interpreter) as scratch:
        log = scratch / "log"
        log.touch()
        arguments: list[str | Path] = [log, str(seed)]
        process = interpreters.launch(interpreter, TARGET, arguments, stdout=subprocess.PIPE)
        try:
            wait_ready(process)
            outcome, claims = _read(PythonReader(inspect(process.pid)), rounds)
        finally:
            kill(process)
        others = claims[shift:] + claims[:shift]
        claims = [replace(one, tid=other.tid) for one, other in zip(claims, others, strict=True)]
        outcome.wrong = _check(log, claims)
    return outcome


def _read(reader: PythonReader, rounds: int) -> tuple[Outcome, list[Claim]]:
    outcome, claims = Outcome(), []
    while outcome.rounds < rounds:
        began_ns = time.monotonic_ns()
        try:
            blames = reader.blames(dict.fromkeys(reader.threads(), ("lock", 0)))
        except MemoryReadError:
            continue  # threads that come and go too fast for their list to be read
        ended_ns = time.monotonic_ns()
        outcome.rounds += 1
        for blame in blames.values():
            outcome.waits += blame.resource.type == "Lock"
            if blame.resource.type == "Lock" and blame.holder and not _unlogged(blame.holder):
                claim = Claim(blame.resource.address, blame.holder.tid, began_ns, ended_ns)
                claims.append(claim)
    outcome.named = len(claims)
    return outcome, claims


def _unlogged(holder: Party) -> bool:
    """Whether a thread may have a lock of the library's own, which the log does not tell of."""
    return any(frame.module != "__main__" for frame in (holder.frames or ())[:2])


def _check(log: Path, claims: list[Claim]) -> list[str]:
    """The claims that the log contradicts."""
    entries = np.fromfile(log, _ENTRY)
    entries = entries[entries["time_ns"] > 0]
    had: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for lock in np.unique(entries["lock"]).tolist():
        own = entries[entries["lock"] == lock]
        own = own[np.argsort(own["time_ns"], kind="stable")]
        times = [0, *own["time_ns"].tolist(), _NEVER, _NEVER]
        for at, tid in enumerate(own["tid"].tolist(), 1):
            if tid:  # entry at + 1 says that it is let go, at + 2 that somebody else has it
                had[lock, tid].append((times[at - 1], times[at + 2]))
    return [
        f"{claim} of {had.get((claim.lock, claim.tid), [])[-3:]}"
        for claim in claims
        if not any(
            start <= claim.ended_ns and claim.began_ns <= end
            for start, end in had.get((claim.lock, claim.tid), ())
        )
    ]
