# ruff: noqa: D102 - the contracts stand in _core.pyi
"""The same map in plain Python: one ``dict`` and one lock. It says what is right, not how fast.

Both implementations pass the same tests. This one keeps every contract of ``_core.pyi``; its
weak iteration misses keys that were added since it began, and gives deleted ones, but
repeats none; what ``stats()`` says of shards and buckets is what one shard and one bucket
would say.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

from concurrent_map._errors import HistoryLostError, StaleIterationError, ViewClosedError
from concurrent_map._mapping import Cursor, MapMethods, ViewMethods
from concurrent_map._stats import Stats
from concurrent_map._unraisable import unraisable

K = TypeVar("K")
V = TypeVar("V")

MODES = ("weak", "strict", "snapshot", "view", "cursor")
OUTCOMES = ("complete", "stopped", "stale", "error")
STEP = 16
"""How many items a cursor takes at a time."""

_ABSENT: Any = object()


def _pick(item: tuple[Any, Any], what: str) -> Any:
    return item if what == "items" else item[what == "values"]


class MapIterator:
    """See ``_core.pyi``."""

    _running = False

    def __init__(self, owner: ConcurrentMap[Any, Any], items: Any, mode: str, what: str) -> None:
        if what not in {"items", "keys", "values"}:
            raise ValueError("what must be 'items', 'keys' or 'values'")
        self._map, self._items, self._mode, self._what = owner, items, mode, what
        self._structure = owner._structure
        self._count = 0
        self._running = True
        owner._begun += 1

    @property
    def mode(self) -> str:
        return self._mode

    @property
    def valid(self) -> bool:
        if self._mode in {"snapshot", "view"}:
            return True
        return self._structure == self._map._structure

    def _end(self, outcome: str) -> None:
        if self._running:
            self._running = False
            self._map._ended(self._mode, outcome, self._count)

    def close(self) -> None:
        self._end("stopped")

    __del__ = close

    def __iter__(self) -> MapIterator:
        return self

    def __next__(self) -> Any:
        if not self._running:
            raise StopIteration
        if self._mode == "strict" and not self.valid:
            self._map._stale += 1
            self._end("stale")
            raise StaleIterationError("the map was changed during a strict iteration")
        try:
            item = next(self._items)
        except StopIteration:
            self._end("complete")
            raise
        self._count += 1
        return _pick(item, self._what)


class View(ViewMethods[K, V]):
    """A copy that says it is a picture."""

    _table: dict[K, V] | None = None

    def __init__(self, owner: ConcurrentMap[K, V], *, view: bool = False) -> None:
        with owner._lock:
            self._map, self._view = owner, view
            self._version = owner._version
            self._table = dict(owner._table)
            owner._open += 1

    def _opened(self) -> dict[K, V]:
        if self._table is None:
            raise ViewClosedError("the view is closed")
        return self._table

    @property
    def version(self) -> int:
        return self._version

    @property
    def closed(self) -> bool:
        return self._table is None

    def close(self) -> None:
        if self._table is not None:
            self._table = None
            self._map._open -= 1

    __del__ = close

    def __enter__(self) -> View[K, V]:
        self._opened()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._opened())

    def __contains__(self, key: object) -> bool:
        return key in self._opened()

    def __getitem__(self, key: K) -> V:
        return self._opened()[key]

    def load(self, key: K, default: Any = None, /) -> Any:
        return self._opened().get(key, default)

    def iterate(self, what: str = "items", /) -> MapIterator:
        mode = "view" if self._view else "snapshot"
        return MapIterator(self._map, iter(list(self._opened().items())), mode, what)

    def range(self, callback: Callable[[K, V], object], /) -> int:
        return _range(self.iterate(), callback)


Snapshot = ReadView = View


def _range(walk: MapIterator, callback: Callable[[Any, Any], object]) -> int:
    try:
        for key, value in walk:
            if callback(key, value) is False:
                walk.close()
                break
    except StaleIterationError:
        walk._end("error")  # the callback's own; a strict walk's has ended it already
        raise
    except BaseException:
        walk._end("error")
        raise
    return walk._count


class CursorGroup:
    """See ``_core.pyi``."""

    def __init__(self, owner: ConcurrentMap[Any, Any]) -> None:
        self._lock = threading.Lock()
        self._map = owner
        self._items = list(View(owner).items())
        self.steps = -(-len(self._items) // STEP)
        self.position = 0
        self.conflicts = 0

    def try_advance(self, expected: int, /) -> list[Any] | None:
        if not 0 <= expected < self.steps:
            raise IndexError("no such step")
        with self._lock:
            if self.position != expected:
                self.conflicts += 1
                self._map._retries += 1
                return None
            self.position += 1
        return self._items[expected * STEP : (expected + 1) * STEP]


class ConcurrentMap(MapMethods[K, V]):
    """See ``_core.pyi``."""

    def __init__(
        self, items: Any = (), /, *, name: str | None = None, shards: int = 16, history: int = 0
    ) -> None:
        if not 1 <= shards <= 1024:
            raise ValueError("shards must be 1 to 1024")
        if not 0 <= history <= 1 << 28:
            raise ValueError("history must be 0 to 268435456")
        if name is not None and not isinstance(name, str):
            raise TypeError("name must be a str or None")
        self.name = name
        self.shards = 1 << (shards - 1).bit_length()
        self._lock = threading.RLock()
        self._table: dict[K, V] = {}
        self._version = self._structure = 0
        self._history: deque[Any] = deque(maxlen=history)
        self._callbacks: list[Callable[[int, str, Any, Any], object]] = []
        self._begun = self._items = self._stale = self._retries = self._open = 0
        self._outcomes = {mode: dict.fromkeys(OUTCOMES, 0) for mode in MODES}
        self.update(items)

    @property
    def version(self) -> int:
        return self._version

    def _ended(self, mode: str, outcome: str, count: int) -> None:
        with self._lock:
            self._outcomes[mode][outcome] += 1
            self._items += count

    def _changed(self, operation: str, key: Any, value: Any, structure: int) -> Any:
        """Note a change, under the lock. Returns what to tell the callbacks of it."""
        self._version += 1
        self._structure += structure
        change = (self._version, operation, key, value)
        self._history.append(change)
        return change

    def _tell(self, change: Any) -> None:
        for callback in tuple(self._callbacks):
            try:
                callback(*change)
            except BaseException as error:  # noqa: BLE001 - the change has been made
                unraisable(error, callback)

    def __len__(self) -> int:
        return len(self._table)

    def __contains__(self, key: object) -> bool:
        with self._lock:
            return key in self._table

    def __getitem__(self, key: K) -> V:
        with self._lock:
            return self._table[key]

    def __setitem__(self, key: K, value: V) -> None:
        self.store(key, value)

    def __delitem__(self, key: K) -> None:
        if not self.load_and_delete(key)[1]:
            raise KeyError(key)

    def load(self, key: K, default: Any = None, /) -> Any:
        with self._lock:
            return self._table.get(key, default)

    def store(self, key: K, value: V, /) -> None:
        with self._lock:
            new = key not in self._table
            self._table[key] = value
            change = self._changed("store", key, value, new)
        self._tell(change)

    def load_or_store(self, key: K, value: V, /) -> tuple[V, bool]:
        with self._lock:
            if (there := self._table.get(key, _ABSENT)) is not _ABSENT:
                return there, True
            self._table[key] = value
            change = self._changed("store", key, value, 1)
        self._tell(change)
        return value, False

    def load_and_delete(self, key: K, default: Any = None, /) -> tuple[Any, bool]:
        with self._lock:
            if (value := self._table.pop(key, _ABSENT)) is _ABSENT:
                return default, False
            change = self._changed("delete", key, None, 1)
        self._tell(change)
        return value, True

    def compare_and_swap(self, key: K, expected: V, value: V, /) -> bool:
        with self._lock:
            there = self._table.get(key, _ABSENT)
            if there is _ABSENT or not (there is expected or there == expected):
                return False
            self._table[key] = value
            change = self._changed("store", key, value, 0)
        self._tell(change)
        return True

    def compare_and_delete(self, key: K, expected: V, /) -> bool:
        with self._lock:
            there = self._table.get(key, _ABSENT)
            if there is _ABSENT or not (there is expected or there == expected):
                return False
            del self._table[key]
            change = self._changed("delete", key, None, 1)
        self._tell(change)
        return True

    def clear(self) -> None:
        with self._lock:
            old, self._table = self._table, {}
            change = self._changed("clear", None, None, 1)
        old.clear()
        self._tell(change)

    def iterate(self, mode: str = "snapshot", what: str = "items", /) -> MapIterator:
        if mode not in MODES[:4]:
            raise ValueError("mode must be 'weak', 'strict', 'snapshot' or 'view'")
        with self._lock:
            return MapIterator(self, iter(list(self._table.items())), mode, what)

    def range(self, callback: Callable[[K, V], object], mode: str = "weak", /) -> int:
        return _range(self.iterate(mode), callback)

    def exclusive(self, key: K, /) -> AbstractContextManager[None]:
        hash(key)

        @contextmanager
        def section() -> Iterator[None]:
            with self._lock:
                yield

        return section()

    def shard_of(self, key: K, /) -> int:
        return hash(key) % self.shards

    def on_update(self, callback: Callable[[int, str, Any, Any], object], /) -> None:
        if not callable(callback):
            raise TypeError("the callback is not callable")
        self._callbacks = [*self._callbacks, callback]

    def remove_on_update(self, callback: Callable[[int, str, Any, Any], object], /) -> None:
        left = list(self._callbacks)
        left.remove(callback)
        self._callbacks = left

    def changes(self, since_version: int, /) -> list[Any]:
        if not isinstance(since_version, int):
            raise TypeError("since_version must be an int")
        with self._lock:
            missing = self._version - since_version
            if since_version < 0 or missing < 0:
                raise ValueError("there is no such version yet")
            if missing > len(self._history):
                raise HistoryLostError(f"the changes since {since_version} are not all kept")
            return list(self._history)[len(self._history) - missing :]

    def snapshot(self) -> View[K, V]:
        return View(self)

    def read_view(self) -> View[K, V]:
        return View(self, view=True)

    def cursors(self, n: int) -> list[Cursor[K, V]]:
        group = CursorGroup(self)
        return [Cursor(group) for _ in range(n)]

    def stats(self) -> Stats:
        with self._lock:
            return {
                "entries": len(self._table),
                "shards": self.shards,
                "buckets": 1,
                "version": self._version,
                "table_bytes": sys.getsizeof(self._table),
                "splits": 0,
                "moved": 0,
                "retired": 0,
                "waits": 0,
                "retries": self._retries,
                "stale_hits": self._stale,
                "ranges": {mode: dict(counts) for mode, counts in self._outcomes.items()},
                "range_items": self._items,
                "ranges_begun": self._begun,
                "views_open": self._open,
                "view_bytes": 0,
                "view_entries": 0,
                "history": len(self._history),
            }
