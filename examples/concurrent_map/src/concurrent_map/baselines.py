"""The other known cures for a ``dict`` of several threads: to measure against, to migrate from.

``LockedDict`` and ``ReadWriteDict`` keep the contract of ``ConcurrentMap.items()`` (each
walk is of one moment) by a copy under the lock. ``LockedDict.each()`` collects the keys first
and loads each when its turn comes: cheap in memory, but of no single moment.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, Generic, Self, TypeVar

K = TypeVar("K")
V = TypeVar("V")

_ABSENT: Any = object()


class LockedDict(Generic[K, V]):
    """A ``dict`` and one lock around everything."""

    def __init__(self, items: Any = ()) -> None:
        self.table: dict[K, V] = dict(items)
        self.lock = threading.Lock()

    def load(self, key: K, default: Any = None) -> Any:
        """The value, or ``default``."""
        with self.lock:
            return self.table.get(key, default)

    def store(self, key: K, value: V) -> None:
        """Give ``key`` the value."""
        with self.lock:
            self.table[key] = value

    def load_and_delete(self, key: K, default: Any = None) -> Any:
        """Delete the key; the value that it had, or ``default``."""
        with self.lock:
            return self.table.pop(key, default)

    def snapshot(self) -> dict[K, V]:
        """A copy. The others wait for it."""
        with self.lock:
            return dict(self.table)

    def items(self) -> Iterator[tuple[K, V]]:
        """The entries of one moment: a list of all is made while the others wait."""
        with self.lock:
            items = list(self.table.items())
        return iter(items)

    def each(self) -> Iterator[tuple[K, V]]:
        """The keys of one moment, each with its value at the time of its turn, if it has one."""
        with self.lock:
            keys = list(self.table)
        for key in keys:
            with self.lock:
                value = self.table.get(key, _ABSENT)
            if value is not _ABSENT:
                yield key, value


class _Reading:
    """``with`` section of readers."""

    def __init__(self, lock: ReadWriteLock) -> None:
        self._lock = lock

    def __enter__(self) -> Self:
        lock = self._lock
        with lock.turnstile, lock.mutex:
            lock.readers += 1
            if lock.readers == 1:
                lock.room.acquire()
        return self

    def __exit__(self, *exc_info: object) -> None:
        lock = self._lock
        with lock.mutex:
            lock.readers -= 1
            if lock.readers == 0:
                lock.room.release()


class _Writing:
    """``with`` section of a writer."""

    def __init__(self, lock: ReadWriteLock) -> None:
        self._lock = lock

    def __enter__(self) -> Self:
        with self._lock.turnstile:  # held while it waits: no further reader overtakes it
            self._lock.room.acquire()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._lock.room.release()


class ReadWriteLock:
    """Many readers or one writer; a waiting writer goes before readers that come later."""

    def __init__(self) -> None:
        self.turnstile, self.mutex, self.room = threading.Lock(), threading.Lock(), threading.Lock()
        self.readers = 0
        self.reading, self.writing = _Reading(self), _Writing(self)


class ReadWriteDict(Generic[K, V]):
    """A ``dict`` and a readers-writer lock."""

    def __init__(self, items: Any = ()) -> None:
        self.table: dict[K, V] = dict(items)
        self.lock = ReadWriteLock()

    def load(self, key: K, default: Any = None) -> Any:
        """The value, or ``default``."""
        with self.lock.reading:
            return self.table.get(key, default)

    def store(self, key: K, value: V) -> None:
        """Give ``key`` the value."""
        with self.lock.writing:
            self.table[key] = value

    def load_and_delete(self, key: K, default: Any = None) -> Any:
        """Delete the key; the value that it had, or ``default``."""
        with self.lock.writing:
            return self.table.pop(key, default)

    def snapshot(self) -> dict[K, V]:
        """A copy. Other readers go on; writers wait for it."""
        with self.lock.reading:
            return dict(self.table)

    def items(self) -> Iterator[tuple[K, V]]:
        """The entries in one walk, during which writers wait: close it, or they wait for ever."""
        with self.lock.reading:
            yield from self.table.items()
