"""Reading Python objects from outside: str, int, bytes, tuple, dict, attributes.

Every type is checked before an object is believed to be of it, every length is
bounded, and what does not fit raises ``ImplausibleMemory``. Objects may change
while they are read: dictionaries are read, and their header is read again.

Sources: Include/cpython/unicodeobject.h, Include/cpython/longintrepr.h,
Include/internal/pycore_dict.h, Include/internal/pycore_object.h (3.11 to 3.15).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

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
        self._keys_size = layout["PyDictKeysObject.dk_indices"]
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

    def _expect(self, address: int, flag: int, what: str) -> None:
        if not self.type_of(address).flags & flag:
            raise ImplausibleMemory(f"no {what} at {address:#x}")

    def text(self, address: int) -> str:
        """A str of any kind, cut after ``MAX_TEXT`` characters."""
        self._expect(address, _UNICODE, "str")
        layout = self._layout
        head = self._memory.read(address, layout["PyASCIIObject.SIZE"])
        length = _word(head, layout["PyASCIIObject.length"])
        # state: interned 2 bits, kind 3, compact 1, ascii 1 (unicodeobject.h)
        state = int.from_bytes(head[layout["PyASCIIObject.state"] :][:4], "little")
        kind, compact, ascii_only = state >> 2 & 7, state >> 5 & 1, state >> 6 & 1
        if kind not in (1, 2, 4) or length > 1 << 40:
            raise ImplausibleMemory(f"no str at {address:#x}")
        if not compact:  # a subclass's instance: the characters stand elsewhere
            data = self.pointer(address + layout["PyUnicodeObject.data"])
        elif ascii_only:
            data = address + layout["PyASCIIObject.SIZE"]
        else:
            data = address + layout["PyCompactUnicodeObject.SIZE"]
        length = min(length, MAX_TEXT)
        if not length:
            return ""
        raw = self._memory.read(data, length * kind)
        codec = {1: "latin-1", 2: "utf-16-le", 4: "utf-32-le"}[kind]
        return raw.decode(codec, "replace")  # lone surrogates would break every sink

    def integer(self, address: int) -> int:
        """An int of at most 64 bits."""
        self._expect(address, _LONG, "int")
        layout = self._layout
        if layout.strategies["integer"] == "ob_size":
            tag = _signed(self._memory.read(address + self._at_size, _WORD), 0)
            digits, negative = abs(tag), tag < 0
            data = address + layout["PyLongObject.ob_digit"]
        else:  # lv_tag: sign in the two low bits (2 is negative), digits from bit 3 on
            tag = self.pointer(address + layout["PyLongObject.long_value.lv_tag"])
            digits, negative = tag >> 3, tag & 3 == 2
            data = address + layout["PyLongObject.long_value.ob_digit"]
        if digits > 3:
            raise ImplausibleMemory(f"the int at {address:#x} is too large")
        raw = self._memory.read(data, 4 * digits) if digits else b""
        value = sum(
            int.from_bytes(raw[4 * at : 4 * at + 4], "little") << 30 * at for at in range(digits)
        )
        return -value if negative else value

    def byte_string(self, address: int) -> bytes:
        """A bytes object of at most 1 MiB."""
        self._expect(address, _BYTES, "bytes object")
        size = self.pointer(address + self._at_size)
        if size > MAX_READ:
            raise ImplausibleMemory(f"the bytes object at {address:#x} is too long")
        return self._memory.read(address + self._layout["PyBytesObject.ob_sval"], size) if (
            size
        ) else b""

    def items(self, address: int) -> tuple[int, ...]:
        """Addresses of a tuple's items."""
        self._expect(address, _TUPLE, "tuple")
        size = self.pointer(address + self._at_size)
        if size > MAX_ITEMS:
            raise ImplausibleMemory(f"the tuple at {address:#x} is too long")
        if not size:
            return ()
        raw = self._memory.read(address + self._layout["PyTupleObject.ob_item"], _WORD * size)
        return struct.unpack(f"<{size}Q", raw)

    def entries(self, address: int, limit: int = MAX_ENTRIES) -> list[tuple[int, int]]:
        """(key, value) addresses of a dict, in insertion order, at most ``limit`` slots of it.

        Raises ImplausibleMemory also when the dict changed while it was read.
        """
        self._expect(address, _DICT, "dict")
        layout = self._layout
        at, end = layout["PyDictObject.ma_used"], layout["PyDictObject.ma_values"] + _WORD
        head = self._memory.read(address + at, end - at)
        keys = _word(head, layout["PyDictObject.ma_keys"] - at)
        values = _word(head, layout["PyDictObject.ma_values"] - at)
        pairs = self._keys(keys, limit)
        if values:
            pairs = self._with_values(pairs, values)
        if self._memory.read(address + at, end - at) != head:
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
        size = self._layout["PyASCIIObject.SIZE"] + max(len(name) for name in names)
        # Most keys are told apart by one batched read of their first bytes.
        heads = self._memory.read_many([(key, size) for key, _ in pairs])
        wanted = {name.encode() for name in names}
        for (key, value), head in zip(pairs, heads, strict=True):
            if head is not None and not self._may_be(head, wanted):
                continue
            try:
                name = self.text(key)
            except MemoryReadError:
                continue  # not a str
            if name in found:
                found[name] = value
        return [found[name] for name in names]

    def _may_be(self, head: bytes, wanted: set[bytes]) -> bool:
        """Whether a compact ASCII str that begins with these bytes may be a wanted one."""
        layout = self._layout
        length = _word(head, layout["PyASCIIObject.length"])
        start = layout["PyASCIIObject.SIZE"]
        return head[start : start + length] in wanted or not head[
            layout["PyASCIIObject.state"]
        ] >> 6 & 1

    def attributes(self, address: int, names: tuple[str, ...]) -> list[int]:
        """Instance attributes (not those of the class) by name, 0 where one is missing."""
        kind = self.type_of(address)
        if kind.flags & _MANAGED_DICT:
            return self._managed(address, kind, names)
        if kind.dictoffset > 0:
            found = self.pointer(address + kind.dictoffset)
            return self.lookup(found, names) if found else [0] * len(names)
        return [0] * len(names)

    def _managed(self, address: int, kind: TypeInfo, names: tuple[str, ...]) -> list[int]:
        """Attributes of an object whose dict the interpreter keeps in front of it.

        ``prefix_words`` (3.11): values at -4 words, dict at -3. ``tagged_prefix``
        (3.12): one word at -3, values when bit 0 is set (less one), else the dict.
        ``inline_values`` (3.13 on): dict at -3; without one, the values stand right
        behind the object while their ``valid`` byte is set.
        """
        strategy = self._layout.strategies["instance_dict"]
        before, word = struct.unpack("<QQ", self._memory.read(address - 4 * _WORD, 2 * _WORD))
        values, found = 0, word
        if strategy == "prefix_words":
            values = before
        elif strategy == "tagged_prefix":
            values, found = (word + 1, 0) if word & 1 else (0, word)
        elif not word and kind.flags & _INLINE_VALUES:
            values = address + kind.basicsize
            if not self._memory.read(values + self._layout["PyDictValues.valid"], 1)[0]:
                values = 0
        if values:
            keys = self.pointer(kind.address + self._layout["PyHeapTypeObject.ht_cached_keys"])
            return self._pick(self._with_values(self._keys(keys, MAX_ENTRIES), values), names)
        return self.lookup(found, names) if found else [0] * len(names)


def _word(raw: bytes, at: int) -> int:
    return int.from_bytes(raw[at : at + _WORD], "little")


def _signed(raw: bytes, at: int) -> int:
    return int.from_bytes(raw[at : at + _WORD], "little", signed=True)
