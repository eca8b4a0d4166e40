"""Reading Python objects from outside: str, int, bytes, tuple, dict, attributes.

Every type is checked before an object is believed to be of it, every length is
bounded, and what does not fit raises ``ImplausibleMemory``. Objects may change
while they are read: dictionaries are read, and their header is read again.

Sources: Include/cpython/unicodeobject.h, Include/cpython/longintrepr.h,
Include/internal/pycore_dict.h, Include/internal/pycore_object.h (3.11 to 3.15).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from probes.errors import ImplausibleMemory, MemoryFault, MemoryReadError
from tracer.pymem.layout import Layout
from tracer.pymem.memory import MAX_READ, MemoryReader

MAX_TEXT = 4096
"""Longer strings are cut: names and paths are shorter."""
MAX_ENTRIES = 1 << 16
"""Larger dictionaries are refused."""
MAX_ITEMS = 1 << 16

_HEAPTYPE, _MANAGED_DICT, _INLINE_VALUES = 1 << 9, 1 << 4, 1 << 2  # Include/object.h
_LONG, _TUPLE, _BYTES, _UNICODE, _DICT = 1 << 24, 1 << 26, 1 << 27, 1 << 28, 1 << 29
_WORD = 8
_KIND_GENERAL, _KIND_SPLIT = 0, 2  # DictKeysKind, pycore_dict.h
_CODECS = {1: "latin-1", 2: "utf-16-le", 4: "utf-32-le"}  # PyUnicode_Kind
_HEAD = 96  # bytes: a str of a usual length
_SHORT_HEADS = (48, 32)  # the blocks of the smallest str and of an int
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TypeInfo:
    """What of a type object matters here."""

    address: int
    name: str
    flags: int
    basicsize: int
    dictoffset: int

    @property
    def static(self) -> bool:
        """Made by the interpreter or an extension, not by a ``class`` statement."""
        return not self.flags & _HEAPTYPE


@dataclass(frozen=True, slots=True)
class _Slots:
    """Where a type's instances keep some attributes: indices into their values, or -1."""

    kind: TypeInfo
    places: tuple[int, ...]


class ObjectReader:
    """Objects of one target. Methods raise ImplausibleMemory or MemoryFault, nothing else."""

    def __init__(self, memory: MemoryReader, layout: Layout) -> None:
        self._memory = memory
        self._layout = layout
        self._static_types: dict[int, TypeInfo] = {}
        self._at_type = layout["PyObject.ob_type"]
        self._at_size = layout["PyVarObject.ob_size"]
        self._var_head = layout["PyVarObject.ob_size"] + _WORD
        self._keys_size = layout["PyDictKeysObject.dk_indices"]
        self._length = layout["PyASCIIObject.length"]
        self._state = layout["PyASCIIObject.state"]
        self._ascii = layout["PyASCIIObject.SIZE"]
        self._compact = layout["PyCompactUnicodeObject.SIZE"]
        self._type_span = 8 + max(
            layout[f"PyTypeObject.{field}"]
            for field in ("tp_name", "tp_basicsize", "tp_flags", "tp_dictoffset")
        )

    def pointer(self, address: int) -> int:
        """The eight bytes at ``address`` as an address."""
        return int.from_bytes(self._memory.read(address, _WORD), "little")

    def type_of(self, address: int) -> TypeInfo:
        """The type of the object at ``address``; types of C code are remembered."""
        return self.type_info(self.pointer(address + self._at_type))

    def type_info(self, address: int) -> TypeInfo:
        """The type object at ``address``."""
        known = self._static_types.get(address)
        if known is not None:
            return known
        layout = self._layout
        raw = self._memory.read(address, self._type_span)
        name_at = _word(raw, layout["PyTypeObject.tp_name"])
        name = self._c_string(name_at)
        info = TypeInfo(
            address=address,
            name=name,
            flags=_word(raw, layout["PyTypeObject.tp_flags"]),
            basicsize=_word(raw, layout["PyTypeObject.tp_basicsize"]),
            dictoffset=_signed(raw, layout["PyTypeObject.tp_dictoffset"]),
        )
        if not 0 < info.basicsize < 1 << 20:
            raise ImplausibleMemory(f"no type object at {address:#x}")
        if info.static and len(self._static_types) < MAX_ENTRIES:
            self._static_types[address] = info  # never moved or freed while the process lives
        return info

    def _c_string(self, address: int) -> str:
        """A short NUL-terminated string; it may stand at the end of a page."""
        for size in (64, 8, 1):
            try:
                raw = self._memory.read(address, size)
            except MemoryFault:
                continue
            return raw.split(b"\0", 1)[0].decode("utf-8", "replace")
        raise ImplausibleMemory(f"no text at {address:#x}")

    def _expect(self, head: bytes, flag: int, what: str) -> None:
        if not self.type_info(_word(head, self._at_type)).flags & flag:
            raise ImplausibleMemory(f"not a {what}")

    def _heads(self, addresses: Sequence[int]) -> list[bytes | None]:
        """The first bytes of many objects; None where there is nothing readable.

        Small objects are read whole; one at the very end of a mapping is read short.
        """
        heads = self._memory.read_many([(at, _HEAD) for at in addresses])
        for size in _SHORT_HEADS:
            short = [at for at, head in zip(addresses, heads, strict=True) if head is None]
            if not short:
                break
            again = iter(self._memory.read_many([(at, size) for at in short]))
            heads = [next(again) if head is None else head for head in heads]
        return heads

    def _each(self, addresses: Sequence[int], parse: Callable[[int, bytes], T]) -> list[T | None]:
        """``parse`` of many objects, None where one is not what it should be."""
        results: list[T | None] = []
        for address, head in zip(addresses, self._heads(addresses), strict=True):
            try:
                results.append(None if head is None else parse(address, head))
            except MemoryReadError:
                results.append(None)
        return results

    def _one(self, address: int, parse: Callable[[int, bytes], T]) -> T:
        (head,) = self._heads((address,))
        if head is None:
            raise MemoryFault(address, _SHORT_HEADS[-1])
        return parse(address, head)

    def _data(self, address: int, head: bytes, offset: int, size: int) -> bytes:
        """``size`` bytes at ``offset`` of an object whose first bytes are known."""
        if not size:
            return b""
        if offset + size <= len(head):
            return head[offset : offset + size]
        return self._memory.read(address + offset, size)

    def text(self, address: int) -> str:
        """A str of any kind, cut after ``MAX_TEXT`` characters."""
        return self._one(address, self._text)

    def texts(self, addresses: Sequence[int]) -> list[str | None]:
        """Many of them at once; None where there is no str."""
        return self._each(addresses, self._text)

    def _text(self, address: int, head: bytes) -> str:
        self._expect(head, _UNICODE, "str")
        if len(head) < self._ascii:
            raise MemoryFault(address, self._ascii)
        length = _word(head, self._length)
        # state: interned 2 bits, kind 3, compact 1, ascii 1 (unicodeobject.h)
        state = head[self._state]
        kind, compact, ascii_only = state >> 2 & 7, state >> 5 & 1, state >> 6 & 1
        if kind not in _CODECS or length > 1 << 40:
            raise ImplausibleMemory(f"no str at {address:#x}")
        size = min(length, MAX_TEXT) * kind
        if not compact:  # a subclass's instance: the characters stand elsewhere
            data = self.pointer(address + self._layout["PyUnicodeObject.data"])
            raw = self._memory.read(data, size) if size else b""
        else:
            raw = self._data(address, head, self._ascii if ascii_only else self._compact, size)
        return raw.decode(_CODECS[kind], "replace")  # lone surrogates would break every sink

    def integer(self, address: int) -> int:
        """An int of at most 90 bits."""
        return self._one(address, self._integer)

    def integers(self, addresses: Sequence[int]) -> list[int | None]:
        """Many of them at once; None where there is no int."""
        return self._each(addresses, self._integer)

    def _integer(self, address: int, head: bytes) -> int:
        self._expect(head, _LONG, "int")
        layout = self._layout
        if layout.strategies["integer"] == "ob_size":
            tag = _signed(head, self._at_size)
            digits, negative = abs(tag), tag < 0
            at = layout["PyLongObject.ob_digit"]
        else:  # lv_tag: sign in the two low bits (2 is negative), digits from bit 3 on
            tag = _word(head, layout["PyLongObject.long_value.lv_tag"])
            digits, negative = tag >> 3, tag & 3 == 2
            at = layout["PyLongObject.long_value.ob_digit"]
        if digits > 3:
            raise ImplausibleMemory(f"the int at {address:#x} is too large")
        raw = self._data(address, head, at, 4 * digits)
        value = sum(
            int.from_bytes(raw[4 * n : 4 * n + 4], "little") << 30 * n for n in range(digits)
        )
        return -value if negative else value

    def byte_string(self, address: int) -> bytes:
        """A bytes object of at most 1 MiB."""
        head = self._memory.read(address, self._var_head)
        self._expect(head, _BYTES, "bytes object")
        size = _word(head, self._at_size)
        if size > MAX_READ:
            raise ImplausibleMemory(f"the bytes object at {address:#x} is too long")
        return self._data(address, b"", self._layout["PyBytesObject.ob_sval"], size)

    def items(self, address: int) -> tuple[int, ...]:
        """Addresses of a tuple's items."""
        head = self._memory.read(address, self._var_head)
        self._expect(head, _TUPLE, "tuple")
        size = _word(head, self._at_size)
        if size > MAX_ITEMS:
            raise ImplausibleMemory(f"the tuple at {address:#x} is too long")
        raw = self._data(address, b"", self._layout["PyTupleObject.ob_item"], _WORD * size)
        return struct.unpack(f"<{size}Q", raw)

    def entries(self, address: int, limit: int = MAX_ENTRIES) -> list[tuple[int, int]]:
        """(key, value) addresses of a dict, in insertion order, at most ``limit`` slots of it.

        Raises ImplausibleMemory also when the dict changed while it was read.
        """
        layout = self._layout
        size = layout["PyDictObject.ma_values"] + _WORD
        head = self._memory.read(address, size)
        self._expect(head, _DICT, "dict")
        keys = _word(head, layout["PyDictObject.ma_keys"])
        values = _word(head, layout["PyDictObject.ma_values"])
        pairs = self._keys(keys, limit)
        if values:
            pairs = self._with_values(pairs, values)
        at = layout["PyDictObject.ma_used"]  # what stands before it are counts and the type
        if self._memory.read(address + at, size - at) != head[at:]:
            raise ImplausibleMemory(f"the dict at {address:#x} changed while it was read")
        return [(key, value) for key, value in pairs if key and value]

    def _keys(self, keys: int, limit: int) -> list[tuple[int, int]]:
        """(key, value) of every slot of a keys object; values are 0 in a split one."""
        layout = self._layout
        head = self._memory.read(keys, self._keys_size)
        kind = head[layout["PyDictKeysObject.dk_kind"]]
        log2_index = head[layout["PyDictKeysObject.dk_log2_index_bytes"]]
        count = _word(head, layout["PyDictKeysObject.dk_nentries"])
        log2_size = head[layout["PyDictKeysObject.dk_log2_size"]]
        if kind > _KIND_SPLIT or log2_index > 40 or count > MAX_ENTRIES or count > 1 << log2_size:
            raise ImplausibleMemory(f"no dict keys at {keys:#x}")
        count = min(count, limit)
        words = 3 if kind == _KIND_GENERAL else 2  # PyDictKeyEntry has the hash first
        first = keys + self._keys_size + (1 << log2_index)
        raw = b"".join(
            self._memory.read(first + at, min(MAX_READ, count * words * _WORD - at))
            for at in range(0, count * words * _WORD, MAX_READ)
        )
        slots = struct.iter_unpack(f"<{words}Q", raw)
        return [(slot[-2], slot[-1]) for slot in slots]

    def _with_values(self, pairs: list[tuple[int, int]], values: int) -> list[tuple[int, int]]:
        """A split table's keys with their values, which stand apart."""
        if not pairs:
            return []
        raw = self._memory.read(values + self._layout["PyDictValues.values"], _WORD * len(pairs))
        found = struct.unpack(f"<{len(pairs)}Q", raw)
        return [(key, value) for (key, _), value in zip(pairs, found, strict=True)]

    def lookup(self, address: int, names: tuple[str, ...], limit: int = MAX_ENTRIES) -> list[int]:
        """The values under the given str keys of a dict, 0 where one is missing."""
        return self._pick(self.entries(address, limit), names)

    def _pick(self, pairs: list[tuple[int, int]], names: tuple[str, ...]) -> list[int]:
        found = dict.fromkeys(names, 0)
        for (_, value), name in zip(pairs, self._names(pairs, names), strict=True):
            if name is not None:
                found[name] = value
        return [found[name] for name in names]

    def _names(self, pairs: list[tuple[int, int]], wanted: tuple[str, ...]) -> list[str | None]:
        """For each key which of the wanted names it is, None where it is none of them."""
        encoded = {name.encode(): name for name in wanted}
        names: list[str | None] = []
        for (key, _), head in zip(pairs, self._heads([key for key, _ in pairs]), strict=True):
            name = None
            if head is not None:
                length = _word(head, self._length)
                # Nearly all keys are told apart by these bytes alone.
                name = encoded.get(head[self._ascii : self._ascii + length])
                if name is not None and self._text_or_none(key, head) != name:
                    name = None
            names.append(name)
        return names

    def _text_or_none(self, address: int, head: bytes) -> str | None:
        try:
            return self._text(address, head)
        except MemoryReadError:
            return None

    def attributes(self, address: int, names: tuple[str, ...]) -> list[int]:
        """Instance attributes (not those of the class) by name, 0 where one is missing."""
        (found,) = self.attributes_of((address,), names)
        if found is None:
            raise ImplausibleMemory(f"no instance at {address:#x}")
        return found

    def attributes_of(
        self, addresses: Sequence[int], names: tuple[str, ...]
    ) -> list[list[int] | None]:
        """The same of many objects at once; None where there is no such object.

        Only names of ASCII letters are found.
        """
        at_type = self._at_type
        types = self._memory.read_many([(at + at_type, _WORD) for at in addresses])
        slots: dict[int, _Slots | None] = {}
        results: list[list[int] | None] = []
        for address, raw in zip(addresses, types, strict=True):
            kind_at = _word(raw or b"", 0)
            if kind_at not in slots:
                slots[kind_at] = self._slots(kind_at, names)
            kind = slots[kind_at]
            try:
                results.append(None if kind is None else self._attributes(address, kind, names))
            except MemoryReadError:
                results.append(None)
        return results

    def _slots(self, address: int, names: tuple[str, ...]) -> _Slots | None:
        """Where instances of the type at ``address`` keep those attributes."""
        try:
            kind = self.type_info(address)
            if not kind.flags & _MANAGED_DICT:
                return _Slots(kind, ())
            keys = self.pointer(address + self._layout["PyHeapTypeObject.ht_cached_keys"])
            pairs = self._keys(keys, MAX_ENTRIES) if keys else []
            found = self._names(pairs, names)
        except MemoryReadError:
            return None
        return _Slots(kind, tuple(found.index(name) if name in found else -1 for name in names))

    def _attributes(self, address: int, slots: _Slots, names: tuple[str, ...]) -> list[int]:
        kind = slots.kind
        values, found = 0, 0
        if kind.flags & _MANAGED_DICT:
            values, found = self._managed(address, kind)
        elif kind.dictoffset > 0:
            found = self.pointer(address + kind.dictoffset)
        if values:
            count = max(slots.places, default=-1) + 1
            first = self._layout["PyDictValues.values"]
            raw = self._memory.read(values + first, _WORD * count) if count else b""
            return [_word(raw, _WORD * at) if at >= 0 else 0 for at in slots.places]
        return self.lookup(found, names) if found else [0] * len(names)

    def _managed(self, address: int, kind: TypeInfo) -> tuple[int, int]:
        """(values, dict) of an object whose attributes the interpreter keeps; one is 0.

        ``prefix_words`` (3.11): values at -4 words, dict at -3. ``tagged_prefix``
        (3.12): one word at -3, values when bit 0 is set (less one), else the dict.
        ``inline_values`` (3.13 on): dict at -3; without one, the values stand right
        behind the object while their ``valid`` byte is set.
        """
        strategy = self._layout.strategies["instance_dict"]
        before, word = struct.unpack("<QQ", self._memory.read(address - 4 * _WORD, 2 * _WORD))
        if strategy == "prefix_words":
            return before, word
        if strategy == "tagged_prefix":
            return (word + 1, 0) if word & 1 else (0, word)
        if not word and kind.flags & _INLINE_VALUES:
            values = address + kind.basicsize
            valid = self._memory.read(values + self._layout["PyDictValues.valid"], 1)[0]
            return (values, 0) if valid else (0, 0)
        return 0, word


def _word(raw: bytes, at: int) -> int:
    return int.from_bytes(raw[at : at + _WORD], "little")


def _signed(raw: bytes, at: int) -> int:
    return int.from_bytes(raw[at : at + _WORD], "little", signed=True)
