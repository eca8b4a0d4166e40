"""Which deadlocks there are now: said as events, gone with a thread or with the process."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from collector.events import Event


@dataclass(frozen=True, slots=True)
class _Deadlock:
    pid: int
    members: frozenset[int]


class Deadlocked:
    """A deadlock is certain when it is said, so it lasts until one of its parks ends."""

    def __init__(self) -> None:
        self._all: list[_Deadlock] = []

    def said(self, event: Event) -> None:
        """One more."""
        members = frozenset(
            member["tid"]
            for member in event.data.get("cycle") or ()
            if isinstance(member.get("tid"), int)
        )
        self._all.append(_Deadlock(event.pid or 0, members))

    def over(self, pid: int | None, tid: int | None = None) -> None:
        """A thread's park has ended; without a thread: the process has."""
        self._all = [
            one
            for one in self._all
            if one.pid != pid or (tid is not None and tid not in one.members)
        ]

    def counts(self) -> Counter[int]:
        """Deadlocks by process."""
        return Counter(one.pid for one in self._all)

    def threads(self) -> Counter[int]:
        """Threads in them by process."""
        found: Counter[int] = Counter()
        for one in self._all:
            found[one.pid] += len(one.members)
        return found
