"""Reading Python objects from outside: str, int, bytes, tuple, dict.

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
MAX_BASES = 256

_HEAPTYPE = 1 << 9  # Py_TPFLAGS_*, Include/object.h
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

    def is_kind_of(self, kind: int, classes: frozenset[int]) -> int:
        """Which of ``classes`` (of types) the type at ``kind`` is or inherits from; 0 if none."""
        if kind in classes:
            return kind
        bases = self.items(self.pointer(kind + self._layout["PyTypeObject.tp_mro"]))
        return next((base for base in bases[:MAX_BASES] if base in classes), 0)

    def type_info(self, address: int) -> TypeInfo:
        """The type object at ``address``."""
        known = self._static_types.get(address)
        if known is not None:
            return known
        layout = self._layout
        raw = self._memory.read(address, self._type_span)
        name_at = word(raw, layout["PyTypeObject.tp_name"])
        name = self._c_string(name_at)
        info = TypeInfo(
            address=address,
            name=name,
            flags=word(raw, layout["PyTypeObject.tp_flags"]),
            basicsize=word(raw, layout["PyTypeObject.tp_basicsize"]),
            dictoffset=_signed(raw, layout["PyTypeObject.tp_dictoffset"]),
        )
        if not 0 < info.basicsize < 1 << 20:
            raise ImplausibleMemory(f"no type object at {address:#x}")
        if info.static and len(self._static_types) < MAX_ENTRIES:
            self._static_types[address] = info  # never moved or freed while the process lives
        return info

    def c_name(self, address: int) -> str:
        """The C string that the pointer at ``address`` points to; "" where there is none."""
        try:
            return self._c_string(self.pointer(address))
        except MemoryReadError:
            return ""

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
        if not self.type_info(word(head, self._at_type)).flags & flag:
            raise ImplausibleMemory(f"not a {what}")

    def heads(self, addresses: Sequence[int]) -> list[bytes | None]:
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
        for address, head in zip(addresses, self.heads(addresses), strict=True):
            try:
                results.append(None if head is None else parse(address, head))
            except MemoryReadError:
                results.append(None)
        return results

    def _one(self, address: int, parse: Callable[[int, bytes], T]) -> T:
        (head,) = self.heads((address,))
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
        length = word(head, self._length)
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
            tag = word(head, layout["PyLongObject.long_value.lv_tag"])
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
        size = word(head, self._at_size)
        if size > MAX_READ:
            raise ImplausibleMemory(f"the bytes object at {address:#x} is too long")
        return self._data(address, b"", self._layout["PyBytesObject.ob_sval"], size)

    def items(self, address: int) -> tuple[int, ...]:
        """Addresses of a tuple's items."""
        head = self._memory.read(address, self._var_head)
        self._expect(head, _TUPLE, "tuple")
        size = word(head, self._at_size)
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
        keys = word(head, layout["PyDictObject.ma_keys"])
        values = word(head, layout["PyDictObject.ma_values"])
        pairs = self.key_slots(keys, limit)
        if values:
            pairs = self._with_values(pairs, values)
        at = layout["PyDictObject.ma_used"]  # what stands before it are counts and the type
        if self._memory.read(address + at, size - at) != head[at:]:
            raise ImplausibleMemory(f"the dict at {address:#x} changed while it was read")
        return [(key, value) for key, value in pairs if key and value]

    def key_slots(self, keys: int, limit: int) -> list[tuple[int, int]]:
        """(key, value) of every slot of a keys object; a split one's values stand elsewhere."""
        layout = self._layout
        head = self._memory.read(keys, self._keys_size)
        kind = head[layout["PyDictKeysObject.dk_kind"]]
        log2_index = head[layout["PyDictKeysObject.dk_log2_index_bytes"]]
        count = word(head, layout["PyDictKeysObject.dk_nentries"])
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
        pairs = self.entries(address, limit)
        found = dict.fromkeys(names, 0)
        for (_, value), name in zip(pairs, self.which(pairs, names), strict=True):
            if name is not None:
                found[name] = value
        return [found[name] for name in names]

    def which(self, pairs: list[tuple[int, int]], wanted: tuple[str, ...]) -> list[str | None]:
        """For each key which of the wanted names it is, None where it is none of them."""
        encoded = {name.encode(): name for name in wanted}
        names: list[str | None] = []
        for (key, _), head in zip(pairs, self.heads([key for key, _ in pairs]), strict=True):
            name = None
            if head is not None:
                length = word(head, self._length)
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


def word(raw: bytes, at: int) -> int:
    """Eight bytes at ``at`` as an address or a length (short at the end of ``raw``)."""
    return int.from_bytes(raw[at : at + _WORD], "little")


def _signed(raw: bytes, at: int) -> int:
    return int.from_bytes(raw[at : at + _WORD], "little", signed=True)
