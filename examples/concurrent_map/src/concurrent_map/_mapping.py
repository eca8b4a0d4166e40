"""The methods of a mapping that both implementations get from a few atomic ones."""

from __future__ import annotations

from collections.abc import (
    ItemsView,
    Iterator,
    KeysView,
    Mapping,
    MutableMapping,
    ValuesView,
)
from typing import Any, Generic, Protocol, TypeVar

K = TypeVar("K")
V = TypeVar("V")

_ABSENT: Any = object()


class _Keys(KeysView[K]):
    __slots__ = ()
    _mapping: Any

    def __iter__(self) -> Iterator[K]:
        return iter(self._mapping)


class _Items(ItemsView[K, V]):
    __slots__ = ()
    _mapping: Any

    def __iter__(self) -> Iterator[tuple[K, V]]:
        return self._mapping._walk("items")  # type: ignore[no-any-return]


class _Values(ValuesView[V]):
    __slots__ = ()
    _mapping: Any

    def __iter__(self) -> Iterator[V]:
        return self._mapping._walk("values")  # type: ignore[no-any-return]


def _refuse(mapping: Any) -> Any:
    name = type(mapping).__name__
    raise TypeError(f"a {name} can be neither copied nor pickled; dict(it) can")


class MapMethods(MutableMapping[K, V]):
    """MutableMapping by way of the atomic methods. Its iterators walk a snapshot."""

    __slots__ = ()

    def _walk(self: Any, what: str) -> Any:
        return self.iterate("snapshot", what)

    def __iter__(self) -> Iterator[K]:
        """Keys of a snapshot."""
        return self._walk("keys")  # type: ignore[no-any-return]

    def keys(self) -> KeysView[K]:
        """A set-like object; each iteration over it walks a snapshot of its own."""
        return _Keys(self)

    def items(self) -> ItemsView[K, V]:
        """A set-like object; each iteration over it walks a snapshot of its own."""
        return _Items(self)

    def values(self) -> ValuesView[V]:
        """Each iteration over it walks a snapshot of its own."""
        return _Values(self)

    def get(self: Any, key: K, default: Any = None, /) -> Any:
        """The value, or ``default``."""
        return self.load(key, default)

    def pop(self: Any, key: K, default: Any = _ABSENT, /) -> Any:
        """Delete the key and return its value: one atomic step.

        Raises KeyError when it is not there and no default is given.
        """
        value, loaded = self.load_and_delete(key, default)
        if not loaded and value is _ABSENT:
            raise KeyError(key)
        return value

    def popitem(self: Any) -> tuple[K, V]:
        """Delete some entry and return it. Raises KeyError when the map is empty."""
        while True:
            key = next(self.iterate("weak", "keys"), _ABSENT)
            if key is _ABSENT:
                raise KeyError("popitem(): the map is empty")
            value, loaded = self.load_and_delete(key)
            if loaded:  # else another thread was quicker
                return key, value

    def setdefault(self: Any, key: K, default: Any = None, /) -> Any:
        """The value; ``default`` is stored first when the key is not there. Atomic."""
        return self.load_or_store(key, default)[0]

    def __reduce_ex__(self, protocol: Any) -> Any:
        """A map belongs to its threads. Raises TypeError."""
        return _refuse(self)

    def __repr__(self) -> str:
        """Type, name and size: a map may be too large to be written out."""
        name = getattr(self, "name", None)
        return f"<{type(self).__name__}{f' {name!r}' if name else ''}: {len(self)} entries>"


class ViewMethods(Mapping[K, V]):
    """Mapping by way of ``load`` and ``iterate``."""

    __slots__ = ()

    def __reduce_ex__(self, protocol: Any) -> Any:
        """A view belongs to its map. Raises TypeError."""
        return _refuse(self)

    def _walk(self: Any, what: str) -> Any:
        return self.iterate(what)

    def __iter__(self) -> Iterator[K]:
        """Its keys."""
        return self._walk("keys")  # type: ignore[no-any-return]

    def keys(self) -> KeysView[K]:
        """A set-like object."""
        return _Keys(self)

    def items(self) -> ItemsView[K, V]:
        """A set-like object."""
        return _Items(self)

    def values(self) -> ValuesView[V]:
        """An iterable of all values."""
        return _Values(self)

    def get(self: Any, key: K, default: Any = None, /) -> Any:
        """The value, or ``default``."""
        return self.load(key, default)


class _Group(Protocol):
    @property
    def steps(self) -> int: ...
    @property
    def position(self) -> int: ...
    @property
    def conflicts(self) -> int: ...
    def try_advance(self, expected: int, /) -> list[Any] | None: ...


class Cursor(Generic[K, V]):
    """One of several iterators that share out one snapshot; see ``ConcurrentMap.cursors``.

    A cursor belongs to one thread. Iterating over it advances for as long as there is
    something left; ``try_advance`` is the same step by step.
    """

    def __init__(self, group: _Group) -> None:
        self.group = group

    @property
    def position(self) -> int:
        """The next step that no cursor has taken."""
        return self.group.position

    @property
    def steps(self) -> int:
        """How many there are."""
        return self.group.steps

    @property
    def conflicts(self) -> int:
        """How many ``try_advance`` of all cursors together have lost."""
        return self.group.conflicts

    def try_advance(self, expected: int) -> list[tuple[K, V]] | None:
        """Take step ``expected``: its items (perhaps none), or None if it was taken already.

        Raises IndexError from ``steps`` on.
        """
        return self.group.try_advance(expected)

    def __iter__(self) -> Iterator[tuple[K, V]]:
        """The items of all steps that this cursor wins."""
        steps = self.group.steps
        while (expected := self.group.position) < steps:
            yield from self.group.try_advance(expected) or ()
