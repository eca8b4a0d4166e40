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
from typing import Any

import numpy as np
import numpy.typing as npt

from collector.context import Frame, Party
from probes.errors import MemoryReadError
from tests import interpreters
from tests.processes import kill, wait_ready, wait_until
from tracer.pymem import PythonReader
from tracer.target import inspect

TARGET = Path(__file__).parent / "targets" / "lock_storm.py"
_ENTRY = np.dtype([("time_ns", "<u8"), ("lock", "<u8"), ("tid", "<u8")])
_ENOUGH = 40  # claims, for a storm to say anything
_GRACE_NS = 300_000_000
_NEVER = 1 << 63


@dataclass(frozen=True, slots=True)
class Claim:
    """A holder that was named, and when it was read."""

    lock: int
    tid: int
    began_ns: int
    ended_ns: int
    frames: tuple[Frame, ...] | None


@dataclass(slots=True)
class Outcome:
    """How many waits were looked at, for how many a holder was named, and the wrong ones."""

    rounds: int = 0
    waits: int = 0
    named: int = 0
    wrong: list[str] = field(default_factory=list)


def storm(
    interpreter: interpreters.Interpreter, rounds: int, seed: int, mixed: bool = False
) -> Outcome:
    """So many readings of all waits of a storm under that interpreter, more where few are named.

    ``mixed`` gives each claim the holder of another one, made at another time: a control.
    """
    with interpreters.scratch(interpreter) as scratch:
        log = scratch / "log"
        log.touch()
        arguments: list[str | Path] = [log, str(seed)]
        process = interpreters.launch(interpreter, TARGET, arguments, stdout=subprocess.PIPE)
        try:
            wait_ready(process)
            outcome, claims = _read(PythonReader(inspect(process.pid)), rounds)
            # Who had taken a lock just now writes that down when it gets the GIL.
            end_ns = time.monotonic_ns() + _GRACE_NS
            wait_until(lambda: _entries(log)["time_ns"].max() > end_ns, "more of the log")
        finally:
            kill(process)
        half = len(claims) // 2 if mixed else 0
        others = claims[half:] + claims[:half]
        claims = [replace(one, tid=other.tid) for one, other in zip(claims, others, strict=True)]
        outcome.wrong = _check(log, claims)
    return outcome


def _read(reader: PythonReader, rounds: int) -> tuple[Outcome, list[Claim]]:
    outcome = Outcome()
    claims: list[Claim] = []
    while outcome.rounds < rounds or len(claims) < min(_ENOUGH, rounds):
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
                holder = blame.holder
                claims.append(
                    Claim(blame.resource.address, holder.tid, began_ns, ended_ns, holder.frames)
                )
    outcome.named = len(claims)
    return outcome, claims


def _entries(log: Path) -> npt.NDArray[Any]:
    entries = np.fromfile(log, _ENTRY)
    return entries[entries["time_ns"] > 0]


def _near(entries: npt.NDArray[Any], claim: Claim) -> list[Any]:
    """What the log says of a lock around a claim: milliseconds from its begin, thread."""
    own = entries[entries["lock"] == claim.lock]
    at = int(np.searchsorted(own["time_ns"], claim.began_ns))
    return [
        (round((int(one["time_ns"]) - claim.began_ns) / 1e6, 3), int(one["tid"]))
        for one in own[max(0, at - 4) : at + 4]
    ]


def _unlogged(holder: Party) -> bool:
    """Whether a thread may have a lock of the library's own, which the log does not tell of."""
    return any(frame.module != "__main__" for frame in (holder.frames or ())[:2])


def _check(log: Path, claims: list[Claim]) -> list[str]:
    """The claims that the log contradicts."""
    entries = _entries(log)
    had: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for lock in np.unique(entries["lock"]).tolist():
        own = entries[entries["lock"] == lock]
        own = own[np.argsort(own["time_ns"], kind="stable")]
        times = [0, *own["time_ns"].tolist(), _NEVER, _NEVER]
        for at, tid in enumerate(own["tid"].tolist(), 1):
            if tid:  # entry at + 1 says that it is let go, at + 2 that somebody else has it
                had[lock, tid].append((times[at - 1], times[at + 2]))
    return [
        f"{claim}; near it: {_near(entries, claim)}"
        for claim in claims
        if not any(
            start <= claim.ended_ns and claim.began_ns <= end
            for start, end in had.get((claim.lock, claim.tid), ())
        )
    ]
