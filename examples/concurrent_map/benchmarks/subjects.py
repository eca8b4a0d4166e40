"""What is compared: each workload written out for each way to keep a table for threads.

Each is written as people write it for that table: bound methods, the lock inline, nothing
in between. Operations are (kind, key) with kind 0 load, 1 store, 2 delete.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from concurrent_map import ConcurrentMap
from concurrent_map.baselines import LockedDict, ReadWriteDict

TRIES = 3
Operations = Sequence[tuple[int, str]]


class Map:
    """ConcurrentMap. Its walk is of a snapshot."""

    name = "ConcurrentMap"

    def __init__(self, items: dict[str, Any]) -> None:
        self.table: Any = ConcurrentMap(items, name="bench")

    def operate(self, operations: Operations) -> None:
        """Point operations."""
        load, store, delete = self.table.load, self.table.store, self.table.load_and_delete
        for kind, key in operations:
            if kind == 0:
                load(key)
            elif kind == 1:
                store(key, kind)
            else:
                delete(key)

    def walk(self) -> int:
        """One whole walk of one moment; the number of entries."""
        count = 0
        for _key, _value in self.table.items():
            count += 1
        return count

    def snapshot(self) -> Any:
        """A picture that stays."""
        return self.table.snapshot()


class Locked:
    """``dict`` + Lock, the lock inline. Its walk copies the items under the lock."""

    name = "dict + Lock"

    def __init__(self, items: dict[str, Any]) -> None:
        self.table: Any = LockedDict(items)

    def operate(self, operations: Operations) -> None:
        """Point operations."""
        table, lock = self.table.table, self.table.lock
        for kind, key in operations:
            if kind == 0:
                with lock:
                    table.get(key)
            elif kind == 1:
                with lock:
                    table[key] = kind
            else:
                with lock:
                    table.pop(key, None)

    def walk(self) -> int:
        """One whole walk of one moment; the number of entries."""
        count = 0
        for _key, _value in self.table.items():
            count += 1
        return count

    def snapshot(self) -> Any:
        """A picture that stays."""
        return self.table.snapshot()


class KeysFirst(Locked):
    """The same, but its walk collects the keys and loads each. It is of no single moment."""

    name = "keys first"

    def walk(self) -> int:
        """One whole walk."""
        count = 0
        for _key, _value in self.table.each():
            count += 1
        return count


class ReadWrite(Locked):
    """``dict`` + readers-writer lock. Its walk keeps writers out."""

    name = "dict + rw lock"

    def __init__(self, items: dict[str, Any]) -> None:
        self.table: Any = ReadWriteDict(items)

    def operate(self, operations: Operations) -> None:
        """Point operations."""
        table = self.table.table
        reading, writing = self.table.lock.reading, self.table.lock.writing
        for kind, key in operations:
            if kind == 0:
                with reading:
                    table.get(key)
            elif kind == 1:
                with writing:
                    table[key] = kind
            else:
                with writing:
                    table.pop(key, None)


class Plain:
    """A ``dict`` without a lock: single operations are atomic under the GIL, walks are not."""

    name = "dict"

    def __init__(self, items: dict[str, Any]) -> None:
        self.table = dict(items)

    def operate(self, operations: Operations) -> None:
        """Point operations."""
        table = self.table
        load, delete = table.get, table.pop
        for kind, key in operations:
            if kind == 0:
                load(key)
            elif kind == 1:
                table[key] = kind
            else:
                delete(key, None)

    def walk(self) -> int:
        """One whole walk, begun again when it fails; at last of a copy, or it would never end."""
        for attempt in range(TRIES):
            last = attempt == TRIES - 1
            count = 0
            try:
                for _key, _value in list(self.table.items()) if last else self.table.items():
                    count += 1
            except RuntimeError:  # dictionary changed size during iteration
                continue
            return count
        raise RuntimeError("a copy failed")

    def snapshot(self) -> Any:
        """A picture that stays: dict() of a dict does not let go of the GIL."""
        return dict(self.table)


def _atomic() -> Callable[[dict[str, Any]], Any] | None:
    try:
        from cereggii import AtomicDict
    except ImportError:
        return None

    class Atomic:
        """cereggii's AtomicDict. Its walk is a weak one; it has no snapshot."""

        name = "AtomicDict"

        def __init__(self, items: dict[str, Any]) -> None:
            self.table = AtomicDict(items)

        def operate(self, operations: Operations) -> None:
            table = self.table
            load = table.get
            for kind, key in operations:
                if kind == 0:
                    load(key)
                elif kind == 1:
                    table[key] = kind
                else:
                    with suppress(KeyError):
                        del table[key]

        def walk(self) -> int:
            count = 0
            for _key, _value in self.table.fast_iter():
                count += 1
            return count

    return Atomic


ATOMIC = _atomic()
SUBJECTS: tuple[Any, ...] = (Map, Locked, KeysFirst, ReadWrite, Plain)
if ATOMIC is not None:
    SUBJECTS += (ATOMIC,)
