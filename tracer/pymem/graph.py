"""What objects refer to, for many at once: namespaces, dicts, lists, tuples, instances, classes.

Made for searches: values come as plain addresses with few system calls, and only what was
found is given a name. An object that changes while it is read may show an old or a missing
value; whoever found something reads the word at its ``place`` again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from probes.errors import MemoryReadError
from tracer.pymem.attributes import INLINE_VALUES, MANAGED_DICT
from tracer.pymem.layout import Layout
from tracer.pymem.memory import MAX_READ, MemoryReader
from tracer.pymem.objects import ObjectReader, TypeInfo, word

MAX_VALUES = 4096
"""So many values of one object are looked at."""

_LIST, _TUPLE, _DICT, _TYPE = 1 << 25, 1 << 26, 1 << 29, 1 << 31  # Py_TPFLAGS_*_SUBCLASS
_WORD = 8
_PREFIX = 4 * _WORD  # what the interpreter keeps before an object
_HEAD = 64
_SHORTEST = 16  # PyObject
_KIND_GENERAL = 0  # DictKeysKind, pycore_dict.h
_MAX_TYPES = 1 << 14


@dataclass(frozen=True, slots=True)
class Contents:
    """The values in one object. ``first`` and ``stride``: where their words lie, in bytes.

    ``keys``: addresses of their keys, empty for a sequence; ``attributes``: they are names of
    attributes and not items of a dict.
    """

    values: tuple[int, ...]
    first: int
    stride: int
    keys: tuple[int, ...] = ()
    attributes: bool = False

    def place(self, index: int) -> int:
        """Address of the word that has value number ``index``."""
        return self.first + index * self.stride


@dataclass(frozen=True, slots=True)
class _Keys:
    """Where the slots of a dict's keys lie, and how many words each has."""

    first: int
    count: int
    words: int


class GraphReader:
    """Contents of objects of one target. Raises nothing for what cannot be read."""

    def __init__(self, memory: MemoryReader, layout: Layout, objects: ObjectReader) -> None:
        self._memory = memory
        self._layout = layout
        self._objects = objects
        self._at_type = layout["PyObject.ob_type"]
        self._types: dict[int, TypeInfo | None] = {}

    def forget(self) -> None:
        """Forget the classes that were met: they may have changed since the last search."""
        self._types.clear()

    def type_of(self, address: int) -> TypeInfo | None:
        """The type at ``address`` of a type object, remembered until ``forget``."""
        if address not in self._types:
            if len(self._types) >= _MAX_TYPES:
                self._types.clear()
            try:
                self._types[address] = self._objects.type_info(address)
            except MemoryReadError:
                self._types[address] = None
        return self._types[address]

    def contents(self, addresses: Sequence[int]) -> list[Contents | None]:
        """What each object refers to; None for one that holds nothing of interest here."""
        raws = self._raws(addresses)
        dicts: dict[int, tuple[int, bool]] = {}
        runs: dict[int, tuple[int, int, int]] = {}
        for index, (address, raw) in enumerate(zip(addresses, raws, strict=True)):
            kind = self.type_of(word(raw, _PREFIX + self._at_type)) if raw else None
            if raw is not None and kind is not None:
                self._sort(index, address, raw, kind, dicts, runs)
        found: list[Contents | None] = [None] * len(addresses)
        namespaces = self.dicts([at for at, _ in dicts.values()])
        for (index, (_, attributes)), one in zip(dicts.items(), namespaces, strict=True):
            found[index] = one and Contents(one.values, one.first, one.stride, one.keys, attributes)
        self._read_runs(runs, found)
        return found

    def _raws(self, addresses: Sequence[int]) -> list[bytes | None]:
        """Objects with what stands before them; short at the end of a mapping."""
        raws = self._memory.read_many([(at - _PREFIX, _PREFIX + _HEAD) for at in addresses])
        short = [at for at, raw in zip(addresses, raws, strict=True) if raw is None]
        if not short:
            return raws
        again = iter(self._memory.read_many([(at - _PREFIX, _PREFIX + _SHORTEST) for at in short]))
        return [next(again) if raw is None else raw for raw in raws]

    def _sort(
        self,
        index: int,
        address: int,
        raw: bytes,
        kind: TypeInfo,
        dicts: dict[int, tuple[int, bool]],
        runs: dict[int, tuple[int, int, int]],
    ) -> None:
        """Put an object under those whose values are in a dict or in a run of words.

        Runs are (first word, how many, keys object or 0).
        """
        layout, head = self._layout, raw[_PREFIX:]
        if kind.flags & _DICT:
            dicts[index] = address, False
        elif kind.flags & _LIST:
            count = word(head, layout["PyVarObject.ob_size"])
            runs[index] = word(head, layout["PyListObject.ob_item"]), count, 0
        elif kind.flags & _TUPLE:
            count = word(head, layout["PyVarObject.ob_size"])
            runs[index] = address + layout["PyTupleObject.ob_item"], count, 0
        elif kind.flags & _TYPE:
            self._class(index, address, dicts)
        elif kind.flags & MANAGED_DICT:
            self._instance(index, address, raw, kind, dicts, runs)
        elif kind.dictoffset > 0 and not kind.static:  # functions have one, too: of no interest
            (held,) = self._memory.read_many([(address + kind.dictoffset, _WORD)])
            dicts[index] = word(held or b"", 0), True

    def _class(self, index: int, address: int, dicts: dict[int, tuple[int, bool]]) -> None:
        info = self.type_of(address)
        if info is not None and not info.static:
            (held,) = self._memory.read_many([(address + self._layout["PyTypeObject.tp_dict"], 8)])
            dicts[index] = word(held or b"", 0), True

    def _instance(
        self,
        index: int,
        address: int,
        raw: bytes,
        kind: TypeInfo,
        dicts: dict[int, tuple[int, bool]],
        runs: dict[int, tuple[int, int, int]],
    ) -> None:
        """An object whose attributes the interpreter keeps (see ``attributes.py``)."""
        strategy = self._layout.strategies["instance_dict"]
        before, held = word(raw, 0), word(raw, _WORD)
        values = 0
        if strategy == "prefix_words":
            values = before
        elif strategy == "tagged_prefix":
            values, held = (held + 1, 0) if held & 1 else (0, held)
        elif not held and kind.flags & INLINE_VALUES:
            at = address + kind.basicsize
            (valid,) = self._memory.read_many([(at + self._layout["PyDictValues.valid"], 1)])
            values = at if valid and valid[0] else 0
        if not values:
            dicts[index] = held, True
            return
        place = kind.address + self._layout["PyHeapTypeObject.ht_cached_keys"]
        (keys,) = self._memory.read_many([(place, _WORD)])
        runs[index] = values + self._layout["PyDictValues.values"], -1, word(keys or b"", 0)

    def _read_runs(
        self, runs: dict[int, tuple[int, int, int]], found: list[Contents | None]
    ) -> None:
        owners = sorted({keys for _, _, keys in runs.values() if keys})
        tables = dict(zip(owners, self._keys(owners), strict=True))
        wanted = []
        for index, (first, count, keys) in runs.items():
            table = tables.get(keys)
            known = (table.count if table else 0) if keys else count
            if first and known > 0:
                wanted.append((index, first, min(known, MAX_VALUES)))
        names = dict(zip(owners, self._names([tables[at] for at in owners]), strict=True))
        raws = self._memory.read_many([(first, count * _WORD) for _, first, count in wanted])
        for (index, first, count), raw in zip(wanted, raws, strict=True):
            if raw is not None:
                labels = names.get(runs[index][2], ())[:count]
                found[index] = Contents(_words(raw), first, _WORD, labels, bool(labels))

    def _names(self, tables: Iterable[_Keys | None]) -> list[tuple[int, ...]]:
        """The keys in some key tables."""
        known = list(tables)
        raws = iter(
            self._memory.read_many(
                [(one.first, min(MAX_READ, one.count * one.words * _WORD)) for one in known if one]
            )
        )
        found: list[tuple[int, ...]] = []
        for one in known:
            raw = next(raws) if one else None
            found.append(_words(raw)[one.words - 2 :: one.words] if one and raw else ())
        return found

    def dicts(self, addresses: Sequence[int]) -> list[Contents | None]:
        """The contents of dicts (not of subclasses that keep more elsewhere); None for others."""
        layout = self._layout
        size = layout["PyDictObject.ma_values"] + _WORD
        heads = self._memory.read_many([(at, size) for at in addresses])
        keys_at, values_at = [], []
        for head in heads:
            kind = self.type_of(word(head, self._at_type)) if head else None
            fits = head is not None and kind is not None and kind.flags & _DICT
            keys_at.append(word(head, layout["PyDictObject.ma_keys"]) if head and fits else 0)
            values_at.append(word(head, layout["PyDictObject.ma_values"]) if head and fits else 0)
        tables = self._keys(keys_at)
        raws = iter(
            self._memory.read_many(
                [(one.first, min(MAX_READ, one.count * one.words * _WORD)) for one in tables if one]
            )
        )
        found: list[Contents | None] = []
        for table, values in zip(tables, values_at, strict=True):
            raw = next(raws) if table else None
            found.append(None if table is None or raw is None else self._dict(table, raw, values))
        return found

    def _dict(self, table: _Keys, raw: bytes, values: int) -> Contents | None:
        slots = _words(raw)
        keys = slots[table.words - 2 :: table.words]
        stride = table.words * _WORD
        if not values:
            first = table.first + stride - _WORD
            return Contents(slots[table.words - 1 :: table.words], first, stride, keys)
        first = values + self._layout["PyDictValues.values"]
        (apart,) = self._memory.read_many([(first, table.count * _WORD)])
        return None if apart is None else Contents(_words(apart), first, _WORD, keys)

    def _keys(self, addresses: Sequence[int]) -> list[_Keys | None]:
        """Where the entries of key tables lie; None where there is none, or none with entries."""
        layout = self._layout
        size = layout["PyDictKeysObject.dk_indices"]
        found: list[_Keys | None] = []
        heads = self._memory.read_many([(at, size) for at in addresses])
        for address, head in zip(addresses, heads, strict=True):
            log2_index = head[layout["PyDictKeysObject.dk_log2_index_bytes"]] if head else 64
            count = word(head or b"", layout["PyDictKeysObject.dk_nentries"])
            if head is None or log2_index > 24 or not 0 < count < 1 << 24:
                found.append(None)
                continue
            general = head[layout["PyDictKeysObject.dk_kind"]] == _KIND_GENERAL
            first = address + size + (1 << log2_index)
            found.append(_Keys(first, min(count, MAX_VALUES), 3 if general else 2))
        return found


def _words(raw: bytes) -> tuple[int, ...]:
    whole = raw[: len(raw) & -_WORD]
    return tuple(memoryview(whole).cast("Q"))
