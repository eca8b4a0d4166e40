# ruff: noqa: A002, PYI001, PYI021 - the contracts of a C module stand in its stub
"""The C implementation. ``concurrent_map.ConcurrentMap`` adds MutableMapping's methods.

Every method is atomic: it takes effect at one moment between call and return. A shard's
lock is never held while Python code runs (``__eq__``, ``__hash__``, finalizers, callbacks):
such code may use the same map. Methods that hash raise TypeError for unhashable keys, and
hand on what a key's ``__hash__`` or ``__eq__`` raises; the map is then unchanged.
"""

from collections.abc import Callable, Iterator
from typing import Any, Generic, Literal, Self, TypeAlias, TypeVar, overload

from concurrent_map._stats import Stats

K = TypeVar("K")
V = TypeVar("V")
D = TypeVar("D")

Mode: TypeAlias = Literal["weak", "strict", "snapshot", "view"]
What: TypeAlias = Literal["items", "keys", "values"]
Change: TypeAlias = tuple[int, Literal["store", "delete", "clear"], Any, Any]

HAS_PROBES: bool
"""Whether the USDT probes were compiled in: on x86-64 and aarch64."""

def probe_breaker(map: Map[Any, Any], old: int, new: int, failures: int, samples: int, /) -> None:
    """Fire the USDT probe ``breaker``(map, old, new, failures, samples), and nothing else.

    The states: 0 closed, 1 open, 2 half_open. Raises TypeError if ``map`` is no Map.
    """

class Map(Generic[K, V]):
    """A sharded hash table for many threads."""

    def __init__(
        self, items: Any = ..., /, *, name: str | None = ..., shards: int = ..., history: int = ...
    ) -> None:
        """An empty map, or one with ``items`` (a mapping or an iterable of pairs).

        ``name`` is what tools call the map. ``shards`` is rounded up to a power of two, 1 to
        1024. ``history`` is how many changes are kept for ``changes()``; they keep their keys
        and values alive. Raises ValueError for numbers out of range.
        """

    @classmethod
    def __class_getitem__(cls, item: Any, /) -> Any: ...
    @property
    def name(self) -> str | None: ...
    @property
    def shards(self) -> int: ...
    @property
    def version(self) -> int:
        """How many changes were made so far. Each change has a version of its own."""

    def __len__(self) -> int: ...
    def __contains__(self, key: object, /) -> bool: ...
    def __getitem__(self, key: K, /) -> V: ...
    def __setitem__(self, key: K, value: V, /) -> None: ...
    def __delitem__(self, key: K, /) -> None: ...
    @overload
    def load(self, key: K, /) -> V | None:
        """The key's value, or ``default``. Never changes the map."""

    @overload
    def load(self, key: K, default: V | D, /) -> V | D: ...
    def store(self, key: K, value: V, /) -> None:
        """Give ``key`` the value ``value``. A key that is there stays the same object."""

    def load_or_store(self, key: K, value: V, /) -> tuple[V, bool]:
        """(the value that is there, True), or store ``value``: (value, False)."""

    @overload
    def load_and_delete(self, key: K, /) -> tuple[V | None, bool]:
        """Delete the key: (its value, True), or (default, False) when it is not there."""

    @overload
    def load_and_delete(self, key: K, default: V | D, /) -> tuple[V | D, bool]: ...
    def compare_and_swap(self, key: K, expected: V, value: V, /) -> bool:
        """Store ``value`` if the key's value is ``expected`` (identical or equal).

        False, and nothing changed, when it is another one or the key is not there.
        """

    def compare_and_delete(self, key: K, expected: V, /) -> bool:
        """Delete the key if its value is ``expected`` (identical or equal)."""

    def clear(self) -> None:
        """Delete everything, as one change."""

    def range(self, callback: Callable[[K, V], object], mode: Mode = ..., /) -> int:
        """Call ``callback(key, value)`` for the entries; how many it was called for.

        A callback that returns ``False`` (the object, no other false value) ends the range
        early: that is the only legal early end. What it raises is handed on.
        The contract of each mode is that of ``iterate``; the default is "weak".
        """

    def iterate(self, mode: Mode = ..., what: What = ..., /) -> MapIterator[Any]:
        """An iterator over (key, value), keys or values. Default: ``"snapshot", "items"``.

        weak      never fails. It walks the table as it is at each moment, in pieces of one
                  bucket, by number, up to the number of buckets that a shard had when the
                  walk came to it. Under writes it may miss keys, repeat keys, and give
                  entries that were deleted or values that were replaced since it came to
                  their bucket. Without writes it gives each entry once.
        strict    gives each entry once or raises StaleIterationError at the very next step
                  after a key was added or deleted anywhere, or a bucket was split or
                  retired. A value stored to a key that was there does not count: the value
                  given is the one at the time of the step's bucket. Nothing of a retired
                  bucket is ever read.
        snapshot  the map at the moment of the call; never fails.
        view      the same by way of ``read_view()``.
        """

    def exclusive(self, key: K, /) -> Exclusive:
        """``with m.exclusive(key):`` holds the lock of the key's shard.

        The thread itself may go on using the map, other threads park at that shard. As
        with any lock, two threads that each hold one shard and want the other's wait for
        ever. It may be nested.
        """

    def shard_of(self, key: K, /) -> int:
        """The number of the shard that the key belongs to."""

    def on_update(self, callback: Callable[[int, str, Any, Any], object], /) -> None:
        """Call ``callback(version, operation, key, value)`` after each change, in its thread.

        operation is "store", "delete" (value None) or "clear" (key and value None). Calls of
        several threads may come in another order than their versions. What a callback
        raises goes to ``sys.unraisablehook``: the change has been made.
        """

    def remove_on_update(self, callback: Callable[[int, str, Any, Any], object], /) -> None:
        """Undo one ``on_update``. Raises ValueError when it is not registered."""

    def changes(self, since_version: int, /) -> list[Change]:
        """All changes after ``since_version``, in their order: (version, operation, key, value).

        Raises HistoryLostError when some of them are no longer in the bounded history
        (``ConcurrentMap(history=N)``), ValueError for a version that there is not yet.
        """

    def stats(self) -> Stats: ...

class View(Generic[K, V]):
    """A consistent picture of a map: all changes up to ``version`` and none after it.

    Taking it costs one reference per shard; afterwards each first write to a bucket copies
    that bucket. It reads without locks and never fails; it keeps what it needs until
    ``close()``, the end of its ``with`` block, or its end as an object.
    """

    def __init__(self, map: Map[K, V], /, *, view: bool = ...) -> None:
        """``view`` says which of the two it is counted and probed as (view_open, view_close)."""

    @property
    def version(self) -> int: ...
    @property
    def closed(self) -> bool: ...
    def close(self) -> None:
        """Release the old versions. Afterwards every use raises ViewClosedError."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *exc_info: object) -> None: ...
    def __len__(self) -> int: ...
    def __contains__(self, key: object, /) -> bool: ...
    def __getitem__(self, key: K, /) -> V: ...
    @overload
    def load(self, key: K, /) -> V | None: ...
    @overload
    def load(self, key: K, default: V | D, /) -> V | D: ...
    def range(self, callback: Callable[[K, V], object], /) -> int: ...
    def iterate(self, what: What = ..., /) -> MapIterator[Any]: ...

class MapIterator(Generic[D]):
    """What ``iterate`` returns.

    Its range begins when it is made, and ends when it is exhausted, fails, is closed, or
    goes away (outcome "stopped" for the last two).
    """

    @property
    def mode(self) -> Mode: ...
    @property
    def valid(self) -> bool:
        """False once a strict iteration would fail.

        Always True for snapshots and views; for weak ones it says whether the structure is
        still the one that it began with.
        """

    def close(self) -> None: ...
    def __iter__(self) -> Iterator[D]: ...
    def __next__(self) -> D: ...

class CursorGroup(Generic[K, V]):
    """A snapshot of a map cut into ``steps``, handed out by one atomic counter."""

    def __init__(self, map: Map[K, V], /) -> None: ...
    @property
    def steps(self) -> int: ...
    @property
    def position(self) -> int:
        """The next step that nobody has taken; ``steps`` at the end."""

    @property
    def conflicts(self) -> int:
        """How many try_advance() have lost."""

    def try_advance(self, expected: int, /) -> list[tuple[K, V]] | None:
        """Take step ``expected`` by compare-and-swap: its items, perhaps none.

        None when somebody else took it. Raises IndexError from ``steps`` on.
        """

    def close(self) -> None: ...

class Exclusive:
    """The context manager of ``Map.exclusive``."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *exc_info: object) -> None: ...

class RawMap:
    """For tests: the same table with integers instead of objects, used with the GIL released.

    tests/histories.py checks what it records.
    """

    def __init__(self, *, name: str | None = ..., shards: int = ...) -> None: ...
    @property
    def name(self) -> str | None: ...
    def __len__(self) -> int: ...
    def stats(self) -> Stats: ...
    def churn(self, seed: int, operations: int, keys: int, store: int, delete: int, /) -> int:
        """Random operations on keys 0 to ``keys``-1; how many loads found their key.

        ``store`` and ``delete`` of 100 are such writes, the rest are loads.
        """

    def gate(self, threads: int, pace: int, /) -> None:
        """The next so many threads that record wait for each other before they begin.

        From then on each yields its core after ``pace`` operations or items, operations in
        their middle: so they overlap there where cores are few (0: never).
        """

    def record(self, seed: int, operations: int, keys: int, /) -> list[tuple[int, ...]]:
        """Random operations with their times.

        Each as (operation, key, value, expected, result, began_ns, ended_ns, version).
        Operations: 0 load 1 store 2 load_or_store 3 load_and_delete 4 compare_and_swap
        5 compare_and_delete. Values are unique; 0 is «not there». ``version`` is that of its
        change, 0 when it changed nothing.
        """

    def record_clear(self) -> tuple[int, int, int]:
        """Delete everything: (version, began_ns, ended_ns)."""

    def record_walks(self, mode: int, rounds: int, keys: int, /) -> list[tuple[Any, ...]]:
        """Whole walks with what they gave; modes 0 weak 1 strict 2 snapshot 3 view.

        Each as (mode, outcome, began_ns, begun_ns, ended_ns, before, after, version, items,
        loads): ``begun_ns`` is when the view was open; ``before`` and ``after`` are versions
        of the map, ``version`` is the view's. ``items`` are pairs of key and value, native
        64-bit numbers; so are ``loads``, of keys 0 to ``keys``-1 from the view, each with
        value 0 when it was not there. Outcomes: 0 complete 2 stale 3 no memory.
        """

    def walk(self, mode: int, rounds: int, /) -> tuple[int, int, int]:
        """Whole ranges: (complete, stale, items)."""

    def snapshots(self, rounds: int, /) -> int:
        """Take snapshots and walk each twice; how often the two walks differed (0)."""

    def hold(self, shard: int, milliseconds: int, /) -> None:
        """Hold one shard's lock."""

    def advance(self, group: RawCursors, /) -> tuple[int, int]:
        """Take steps until the end: (won, lost)."""

    def drain(self, group: RawCursors, /) -> tuple[int, int, bytes]:
        """The same with what the steps hold: (won, lost, items as of ``record_walks``)."""
    def race(
        self, group: RawCursors, seed: int, pause: int, window: int, /
    ) -> tuple[int, int, int, int, int]:
        """The same, timed: (won, lost, left out, in_ns, elapsed_ns).

        Between two steps ``pause`` rounds of work are done, and ``window`` rounds between
        reading the counter and the compare-and-swap: twice as many at most, at random.
        ``in_ns``: the sum of the times from after the reading to after the swap. Attempts of
        more than 20 us are left out.
        """

class RawCursors:
    """An atomic counter for RawMap.advance, or the steps of a snapshot of a RawMap."""

    def __init__(self, steps: int | RawMap, /) -> None: ...
    @property
    def version(self) -> int:
        """The snapshot's; 0 without one."""
