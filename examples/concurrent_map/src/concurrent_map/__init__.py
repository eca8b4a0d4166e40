"""A hash table for many threads, in C: sharded locks, safe iteration, a change stream.

    from concurrent_map import ConcurrentMap

    m = ConcurrentMap(name="sessions")
    m.store("a", 1)
    for key, value in m.items():        # a snapshot: other threads may write meanwhile
        ...

The contracts of all methods stand in ``_core.pyi``. ``concurrent_map.reference`` is the same
in plain Python.
"""

from __future__ import annotations

from typing import TypeVar

from concurrent_map import _core
from concurrent_map._breaker import Transition
from concurrent_map._core import HAS_PROBES, CursorGroup, MapIterator
from concurrent_map._errors import HistoryLostError, StaleIterationError, ViewClosedError
from concurrent_map._mapping import Cursor, MapMethods, ViewMethods
from concurrent_map._stats import Stats
from concurrent_map.guarded import GuardedMap, MapUnavailableError, guards

K = TypeVar("K")
V = TypeVar("V")

__all__ = [
    "HAS_PROBES",
    "ConcurrentMap",
    "Cursor",
    "GuardedMap",
    "HistoryLostError",
    "MapIterator",
    "MapUnavailableError",
    "ReadView",
    "Snapshot",
    "StaleIterationError",
    "Stats",
    "Transition",
    "ViewClosedError",
    "guards",
]


class Snapshot(_core.View[K, V], ViewMethods[K, V]):
    """``ConcurrentMap.snapshot()``: a read-only mapping that nothing changes any more."""

    __slots__ = ("__weakref__",)


class ReadView(_core.View[K, V], ViewMethods[K, V]):
    """``ConcurrentMap.read_view()``: the map at ``version``, as a context manager."""

    __slots__ = ("__weakref__",)


class ConcurrentMap(_core.Map[K, V], MapMethods[K, V]):
    """A ``MutableMapping`` for many threads; see ``_core.pyi`` for the contracts."""

    __slots__ = ("__weakref__",)

    def snapshot(self) -> Snapshot[K, V]:
        """The map at this moment, in time that does not depend on its size."""
        return Snapshot(self)

    def read_view(self) -> ReadView[K, V]:
        """The same, with a version, and released at the end of its ``with`` block."""
        return ReadView(self, view=True)

    def cursors(self, n: int) -> list[Cursor[K, V]]:
        """``n`` iterators, one for each thread, that share out one snapshot: each item once."""
        group: CursorGroup[K, V] = CursorGroup(self)
        return [Cursor(group) for _ in range(n)]
