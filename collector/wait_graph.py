"""Which waits can never end: deadlocks out of what threads wait for. Pure: no clock.

A node is a thread that waits, with what is known of its wait (``Blame``). A wait ends
in one of three ways, and only in these:

*owed*    one of certain threads has to act (``Blame.needs``): who holds the lock, the
          thread that is joined, who has the GIL
*anyone*  ``needs`` is None and the thing is one of ``ANYONE``: some thread of the same
          process has to put, set, notify or release; nobody outside can
*free*    everything else: a time limit, a wait that is not understood, no wait at all

A set of threads is stuck when none of its waits is free and every thread that could end
one of them belongs to the set. ``stuck`` finds the largest such set by striking out
threads until none is left that another could still wake. It asserts nothing of its own:
whoever may be woken is struck out, so what is left is left only for lack of any helper.

A pool's worker that waits for work at the head of its loop is a thread like any other:
it cannot act by itself, and it is in the set only because its queue is in ``ANYONE``
and everybody who could put into it is in the set too. One in a timed wait is free.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from collector.context import Blame

NATIVE = "native"
"""The type of what a thread that no interpreter knows waits for, inside its process."""

ANYONE = frozenset(
    {"Lock", "RLock", "Condition", "Event", "Semaphore", "Queue", "Barrier", "Future", "Thread"}
    | {NATIVE}
)
"""What lives in one process's memory: only its own threads can end a wait for it."""

OWED = frozenset({"Lock", "RLock", "Barrier", "Future", "Thread", "GIL", "mutex"})
"""What nobody waits for on purpose for ever. An Event, a Queue, a Condition may be
waited for in a quiet program that a signal or a debugger will end one day."""


@dataclass(frozen=True, slots=True)
class Node:
    """A thread that waits. ``idle``: at a place where it waits by design."""

    tid: int
    blame: Blame
    idle: bool = False


@dataclass(frozen=True, slots=True)
class Deadlock:
    """Threads that wait for one another for ever.

    ``members``: in the order of who waits for whom, as far as there is one. ``on``:
    all threads whose waits it rests on, the members among them. ``knot``: some member
    waits for any of the others rather than for a certain one.
    """

    members: tuple[int, ...]
    on: frozenset[int]
    knot: bool


def stuck(nodes: Mapping[int, Node], everyone: frozenset[int] | None) -> frozenset[int]:
    """The threads of ``nodes`` whose waits cannot end.

    ``everyone``: all threads that could act at all, None when they are not known; then
    a wait that anyone could end counts as one that will.
    """
    left = {tid for tid, node in nodes.items() if node.blame.timed is False}
    while True:
        nobody_free = everyone is not None and everyone <= left
        free = {tid for tid in left if not _hopeless(nodes[tid].blame, left, nobody_free)}
        if not free:
            return frozenset(left)
        left -= free


def find(start: int, nodes: Mapping[int, Node], everyone: frozenset[int] | None) -> Deadlock | None:
    """The deadlock that a thread is in, or that its wait leads into; None if there is none.

    A knot counts only if something in it is owed (``OWED``).
    """
    left = stuck(nodes, everyone)
    if start not in left:
        return None
    path: list[int] = []
    tid = start
    while tid not in path:
        path.append(tid)
        needs = nodes[tid].blame.needs
        if needs is None:
            return _knot(path, nodes, left)
        tid = needs[0]
    ring = path[path.index(tid) :]
    members = _with_all_needs(ring, nodes)
    if members is None:
        return _knot(ring, nodes, left)
    return Deadlock(members, frozenset(members), knot=False)


def ends_with_anyone(start: int, nodes: Mapping[int, Node]) -> bool:
    """Whether a thread's chain leads to a wait that any thread could end."""
    seen: set[int] = set()
    tid = start
    while tid in nodes and tid not in seen:
        seen.add(tid)
        blame = nodes[tid].blame
        if blame.timed is not False:
            return False
        if blame.needs is None:
            return blame.resource.type in ANYONE
        if not blame.needs:
            return False
        tid = blame.needs[0]
    return False


def _hopeless(blame: Blame, left: set[int], nobody_free: bool) -> bool:
    if blame.needs is None:
        return nobody_free and blame.resource.type in ANYONE
    return bool(blame.needs) and left.issuperset(blame.needs)


def _with_all_needs(ring: list[int], nodes: Mapping[int, Node]) -> tuple[int, ...] | None:
    """The ring and whoever else could help one of it; None when that may be anyone."""
    members = list(ring)
    for tid in members:  # grows while it is walked
        needs = nodes[tid].blame.needs
        if needs is None:
            return None
        members += [other for other in dict.fromkeys(needs) if other not in members]
    return tuple(members)


def _knot(first: list[int], nodes: Mapping[int, Node], left: frozenset[int]) -> Deadlock | None:
    """All that are stuck, but for those who wait by design: nothing holds them up."""
    rest = sorted(tid for tid in left if tid not in first)
    native = {tid for tid in left if nodes[tid].blame.resource.type == NATIVE}
    members = tuple(t for t in [*first, *rest] if not nodes[t].idle and t not in native)
    if not any(nodes[tid].blame.resource.type in OWED for tid in members):
        return None
    return Deadlock(members, left, knot=True)
