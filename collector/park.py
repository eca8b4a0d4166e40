"""What a park is: the object while it lasts, the row once it has ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from collector.context import InMap, ParkedAt
from probes.enums import NO_SHARD, SHARD_BITS
from probes.kinds import FUTEX, KIND_INDEX, RESTART
from probes.wire import Flag, WaitClass

PARK: np.dtype[Any] = np.dtype(
    [
        ("park_id", "<u8"),
        ("pid", "<u4"),
        ("tid", "<u4"),
        ("kind", "<u1"),
        ("end", "<u1"),
        ("flags", "<u2"),
        ("syscall", "<i2"),
        ("source", "<u1"),
        ("idle", "<i1"),
        ("slices", "<u4"),
        ("start_ns", "<u8"),
        ("duration_ns", "<u8"),
        ("address", "<u8"),
        ("arg1", "<u8"),
        ("waker_pid", "<u4"),
        ("waker_tid", "<u4"),
    ]
)
"""One park that has ended (or, at the end of a session, has not). ``kind`` indexes
``probes.kinds.KINDS``, ``park_id`` is 0 for a park that never crossed the threshold."""

CLASS_KIND = {WaitClass.LOCK: "lock", WaitClass.GIL: "gil", WaitClass.MAP: "map"}
_CLASS_INDEX = np.array([0, *(KIND_INDEX[CLASS_KIND[c]] for c in WaitClass)], np.uint8)


class End(IntEnum):
    """How a park ended."""

    OPEN = 0
    WOKEN = 1
    TIMED_OUT = 2
    EXITED = 3
    LOST = 4


class Seen(IntEnum):
    """Which source a park's begin comes from."""

    SLOW_PATH = 1
    SCAN = 2


@dataclass(slots=True, eq=False)
class Park:
    """One park, open or ended. ``park_id`` is set when it crosses the threshold.

    ``waker_stack``: the source's key of the stack that the waker had, 0 for none.
    ``between_ns``: when a waiter for the GIL was last seen awake without having run.
    ``stopped_ns``: when a tracer (a heap dump's, a debugger) stopped or released it.
    A thread that was woken at ``wake_ns`` (``woken`` says by what) is parked until it has
    got a CPU: ``run_delay_ns`` later, on ``ran_cpu``. That and the other CPUs, where it
    had slept and where it was woken, are -1 where they are not known. ``place``: where in
    a native map it waits, for the kind ``map``.
    """

    pid: int
    tid: int
    kind: str
    source: Seen
    start_ns: int
    address: int
    arg1: int = 0
    syscall: int = -1
    flags: int = 0
    slices: int = 1
    since_ns: int = 0
    last_seen_ns: int = 0
    between_ns: int = 0
    stopped_ns: int = 0
    cpu_ns: int = 0
    park_id: int = 0
    end: End = End.OPEN
    end_ns: int = 0
    waker_pid: int = 0
    waker_tid: int = 0
    waker_syscall: int = -1
    waker_stack: int = 0
    wake_ns: int = 0
    woken: End = End.WOKEN
    run_delay_ns: int = -1
    slept_cpu: int = -1
    waker_cpu: int = -1
    ran_cpu: int = -1
    idle: bool | None = None
    place: InMap | None = None

    @property
    def confirmed_by_silence(self) -> bool:
        """Whether the absence of a record proves that it still lasts.

        A watched sleep is ended by a WAKE and a slow-path wait by a WAIT. A GIL
        wait is not: its last slice may have returned a moment ago.
        """
        if self.kind == "gil":
            return False
        return self.source is Seen.SLOW_PATH or bool(self.flags & Flag.WATCHED)

    @property
    def parked(self) -> ParkedAt:
        """Where its thread is parked, for those who read it."""
        return ParkedAt(self.kind, self.address, self.place)

    def resumed_by(self, kind: str, r: Any) -> bool:
        """Whether a sleep (a state record) is this wait, gone on after a tracer had stopped it.

        The kernel restarts the call, or the library does: with the same first argument,
        after next to no time on a CPU.
        """
        if not self.stopped_ns or int(r["since_ns"]) < self.stopped_ns:
            return False
        same = int(r["syscall"]) == RESTART or kind == self.kind
        address = int(r["arg0"]) == self.address
        return same and address and self.hardly_ran(int(r["cpu_ns"]), int(r["ts_ns"]))

    def hardly_ran(self, cpu_ns: int, now_ns: int) -> bool:
        """Whether its thread used so little CPU that it cannot have held the GIL and run.

        0.5 ms, or 5 % of the time since it was last seen waiting: re-waiting 200 times
        a second costs a few percent; a thread that got the GIL runs for 5 ms.
        """
        if self.cpu_ns == 0:
            return True  # known from the slow path only: nothing to compare with yet
        return cpu_ns - self.cpu_ns <= max(500_000, (now_ns - self.last_seen_ns) // 20)


@dataclass(slots=True)
class Findings:
    """What one ``take`` returns.

    Parks that crossed the threshold, long parks that ended (each object was in
    ``crossed`` before), and rows of all parks that ended.
    """

    crossed: list[Park] = field(default_factory=list)
    ended: list[Park] = field(default_factory=list)
    rows: list[npt.NDArray[Any]] = field(default_factory=list)

    def parks(self) -> npt.NDArray[Any]:
        """All rows as one array (dtype ``PARK``)."""
        return np.concatenate(self.rows) if self.rows else np.empty(0, PARK)


def due_by(heap: Sequence[tuple[int, int, Park]], until_ns: int) -> list[Park]:
    """The parks of a heap of (time, number, park) that are due until then."""
    found, todo = [], [0]
    while todo:  # down the heap, no further than it is early enough
        at = todo.pop()
        if at < len(heap) and heap[at][0] <= until_ns:
            found.append(heap[at][2])
            todo += (2 * at + 1, 2 * at + 2)
    return found


def place_of(wait: Any) -> InMap | None:
    """Where in a native map a wait (``PAYLOAD[Kind.WAIT]``) is; None for any other wait."""
    if wait["wait_class"] != WaitClass.MAP:
        return None
    aux = int(wait["aux"])
    shard = aux & NO_SHARD
    return InMap(int(wait["site"]), None if shard == NO_SHARD else shard, aux >> SHARD_BITS)


def park_of_state(state: Any, kind: str) -> Park:
    """The park in which a scan saw a thread (``PAYLOAD[Kind.THREAD_STATE]``)."""
    return Park(
        pid=int(state["pid"]),
        tid=int(state["tid"]),
        kind=kind,
        source=Seen.SCAN,
        start_ns=int(state["since_ns"]),
        address=int(state["arg0"]),
        arg1=int(state["arg1"]),
        syscall=int(state["syscall"]),
        flags=int(state["flags"]),
        since_ns=int(state["since_ns"]),
        last_seen_ns=int(state["ts_ns"]),
        cpu_ns=int(state["cpu_ns"]),
    )


def park_of_wait(wait: Any, kind: str) -> Park:
    """The park that a slow-path wait is (``PAYLOAD[Kind.WAIT]``)."""
    return Park(
        pid=int(wait["pid"]),
        tid=int(wait["tid"]),
        kind=kind,
        source=Seen.SLOW_PATH,
        start_ns=int(wait["start_ns"]),
        address=int(wait["address"]),
        syscall=FUTEX,
        flags=int(wait["flags"]),
        slices=max(1, int(wait["slices"])),
        place=place_of(wait),
    )


def park_rows(parks: Sequence[Park]) -> npt.NDArray[Any]:
    """Rows (dtype ``PARK``) of parks that have an ``end_ns``."""
    return np.array(
        [
            (
                p.park_id,
                p.pid,
                p.tid,
                KIND_INDEX[p.kind],
                p.end,
                p.flags,
                p.syscall,
                p.source,
                -1 if p.idle is None else int(p.idle),
                p.slices,
                p.start_ns,
                p.end_ns - p.start_ns,
                p.address,
                p.arg1,
                p.waker_pid,
                p.waker_tid,
            )
            for p in parks
        ],
        PARK,
    )


def wait_rows(waits: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Rows of complete slow-path waits (``PAYLOAD[Kind.WAIT]``), in bulk."""
    rows = np.zeros(len(waits), PARK)
    for name in ("pid", "tid", "flags", "slices", "start_ns", "duration_ns", "address"):
        rows[name] = waits[name]
    rows["kind"] = _CLASS_INDEX[waits["wait_class"]]
    timed_out = (waits["flags"] & np.uint16(Flag.TIMED_OUT)) != 0
    rows["end"] = np.where(timed_out, End.TIMED_OUT, End.WOKEN)
    rows["syscall"] = FUTEX
    rows["source"] = Seen.SLOW_PATH
    rows["idle"] = -1
    return rows
