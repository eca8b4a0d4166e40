"""Instance attributes of objects in another process, wherever the interpreter keeps them.

Sources: Include/internal/pycore_object.h (``_PyObject_GetManagedDict`` and its
predecessors), Include/internal/pycore_dict.h, Objects/dictobject.c (3.11 to 3.15).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from probes.errors import ImplausibleMemory, MemoryFault, MemoryReadError
from tracer.pymem.layout import Layout
from tracer.pymem.memory import MemoryReader
from tracer.pymem.objects import MAX_ENTRIES, ObjectReader, TypeInfo, word

MANAGED_DICT, INLINE_VALUES = 1 << 4, 1 << 2  # Py_TPFLAGS_*, Include/object.h
_MAX_TYPES = 4096
_WORD = 8


@dataclass(frozen=True, slots=True)
class _Slots:
    """Where a type's instances keep some attributes: indices into their values, or -1.

    ``check`` are the type's bytes that this was found out from.
    """

    kind: TypeInfo
    places: tuple[int, ...]
    check: bytes


class AttributeReader:
    """Instance attributes by name. Only names of ASCII characters are found."""

    def __init__(self, memory: MemoryReader, layout: Layout, objects: ObjectReader) -> None:
        self._memory = memory
        self._layout = layout
        self._objects = objects
        self._at_type = layout["PyObject.ob_type"]
        self._at_keys = layout["PyHeapTypeObject.ht_cached_keys"]
        fields = ("tp_name", "tp_basicsize", "tp_flags", "tp_dictoffset")
        self._checked = [layout[f"PyTypeObject.{name}"] for name in fields] + [self._at_keys]
        self._known: dict[tuple[int, tuple[str, ...]], _Slots] = {}

    def of(self, address: int, names: tuple[str, ...]) -> list[int]:
        """Addresses of an object's attributes (not those of its class), 0 where one is missing.

        Raises MemoryFault and ImplausibleMemory.
        """
        (found,) = self.of_many((address,), names)
        if found is None:
            raise ImplausibleMemory(f"no instance at {address:#x}")
        return found

    def of_many(self, addresses: Sequence[int], names: tuple[str, ...]) -> list[list[int] | None]:
        """The same of many objects at once; None where there is no such object."""
        at_type = self._at_type
        types = self._memory.read_many([(at + at_type, _WORD) for at in addresses])
        slots: dict[int, _Slots | None] = {}
        results: list[list[int] | None] = []
        for address, raw in zip(addresses, types, strict=True):
            kind_at = word(raw or b"", 0)
            if kind_at not in slots:
                slots[kind_at] = self._slots(kind_at, names)
            kind = slots[kind_at]
            try:
                results.append(None if kind is None else self._read(address, kind, names))
            except MemoryReadError:
                results.append(None)
        return results

    def _slots(self, address: int, names: tuple[str, ...]) -> _Slots | None:
        """Where instances of the type at ``address`` keep those attributes.

        Keys that instances share only ever grow, so what was found stays true while
        the type and its keys are the same.
        """
        try:
            check = self._check_value(address)
            known = self._known.get((address, names))
            if known is not None and known.check == check and check and -1 not in known.places:
                return known
            slots = self._find_slots(address, names, check)
        except MemoryReadError:
            return None
        if len(self._known) >= _MAX_TYPES:
            self._known.clear()
        self._known[address, names] = slots
        return slots

    def _check_value(self, address: int) -> bytes:
        try:
            raw = self._memory.read(address, self._at_keys + _WORD)
        except MemoryFault:
            return b""  # a type of C code, which is shorter, at the end of a mapping
        return b"".join([raw[at : at + _WORD] for at in self._checked])

    def _find_slots(self, address: int, names: tuple[str, ...], check: bytes) -> _Slots:
        kind = self._objects.type_info(address)
        if not kind.flags & MANAGED_DICT:
            return _Slots(kind, (), check)
        keys = self._objects.pointer(address + self._at_keys)
        pairs = self._objects.key_slots(keys, MAX_ENTRIES) if keys else []
        found = self._objects.which(pairs, names)
        places = tuple(found.index(name) if name in found else -1 for name in names)
        return _Slots(kind, places, check)

    def _read(self, address: int, slots: _Slots, names: tuple[str, ...]) -> list[int]:
        kind = slots.kind
        values, found = 0, 0
        if kind.flags & MANAGED_DICT:
            values, found = self._managed(address, kind)
        elif kind.dictoffset > 0:
            found = self._objects.pointer(address + kind.dictoffset)
        if values:
            count = max(slots.places, default=-1) + 1
            first = self._layout["PyDictValues.values"]
            raw = self._memory.read(values + first, _WORD * count) if count else b""
            return [word(raw, _WORD * at) if at >= 0 else 0 for at in slots.places]
        return self._objects.lookup(found, names) if found else [0] * len(names)

    def _managed(self, address: int, kind: TypeInfo) -> tuple[int, int]:
        """(values, dict) of an object whose attributes the interpreter keeps; one is 0.

        ``prefix_words`` (3.11): values at -4 words, dict at -3. ``tagged_prefix``
        (3.12): one word at -3, values when bit 0 is set (less one), else the dict.
        ``inline_values`` (3.13 on): dict at -3; without one, the values stand right
        behind the object while their ``valid`` byte is set.
        """
        strategy = self._layout.strategies["instance_dict"]
        before, at = struct.unpack("<QQ", self._memory.read(address - 4 * _WORD, 2 * _WORD))
        if strategy == "prefix_words":
            return before, at
        if strategy == "tagged_prefix":
            return (at + 1, 0) if at & 1 else (0, at)
        if not at and kind.flags & INLINE_VALUES:
            values = address + kind.basicsize
            valid = self._memory.read(values + self._layout["PyDictValues.valid"], 1)[0]
            return (values, 0) if valid else (0, 0)
        return 0, at
