"""What an interpreter's own structure refers to (PyInterpreterState), from an image.

Its beginning is as the layout says. What stands behind the collector's state has moved
within minor versions and differs by build options, so everything there is searched for
by its form, near its place, and left out where it is not found.

Source: Include/internal/pycore_interp.h (3.14 on: pycore_interp_structs.h).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from probes.errors import MemoryReadError
from tracer.heap.image import Image
from tracer.pymem.layout import Layout
from tracer.pymem.memory import MAX_READ
from tracer.pymem.objects import ObjectReader

INTERPRETER_ROOTS = (
    "imports.modules", "modules", "sysdict", "builtins", "dict", "importlib",
    "imports.importlib", "import_func", "imports.import_func", "builtins_copy", "sysdict_copy",
    "codec_search_path", "codecs.search_path", "codec_search_cache", "codecs.search_cache",
    "codec_error_registry", "codecs.error_registry", "before_forkers", "after_forkers_parent",
    "after_forkers_child", "audit_hooks", "gc.garbage", "gc.callbacks", "warnings.filters",
    "warnings.once_registry", "warnings.default_action",
)  # fmt: skip
"""Fields that hold one object; versions have some of them."""

_CERTAIN = frozenset({"imports.modules", "modules", "sysdict", "builtins"})
_TYPE_CACHE_ENTRIES = 1 << 12  # MCACHE_SIZE_EXP, pycore_typeobject.h
_MAX_STATIC_TYPES = 1 << 10
_STATIC_STATES = ("managed_static_type_state", "static_builtin_state")
_SAMPLE = 64
_SHIFTS = sorted(range(-512, 513, 8), key=abs)
_WORD = 8


class InterpreterState:
    """One interpreter. ``stated`` is the layout as in its file, without the target's table."""

    def __init__(
        self, image: Image, layout: Layout, stated: Layout, objects: ObjectReader, address: int
    ) -> None:
        self._layout = layout
        self._objects = objects
        size = layout["PyInterpreterState.SIZE"]
        parts = [
            image.read(address + at, min(MAX_READ, size - at)) for at in range(0, size, MAX_READ)
        ]
        raw = b"".join(parts)
        self._words: npt.NDArray[np.uint64] = np.frombuffer(raw[: size & ~7], dtype=np.uint64)
        names = ("PyInterpreterState.sysdict", "PyInterpreterState.builtins")
        moved = any(layout[name] != stated[name] for name in names)
        self._shift = None if moved else self._find_shift()

    def _offset(self, *names: str) -> int | None:
        offsets = self._layout.offsets
        keys = [f"PyInterpreterState.{name}" for name in names]
        return next((offsets[key] for key in keys if key in offsets), None)

    def _type_name(self, address: int) -> str | None:
        try:
            return self._objects.type_of(address).name
        except MemoryReadError:
            return None

    def _find_shift(self) -> int | None:
        """How many bytes the part behind the collector is off its place; None: not found."""
        for shift in _SHIFTS:
            names = self._cache_names(shift)
            used = names[names != 0][:_SAMPLE]
            kinds = {self._type_name(int(address)) for address in used}
            if "str" in kinds and kinds <= {"str", "NoneType"}:
                return shift
        return None

    def _cache_names(self, shift: int) -> npt.NDArray[np.uint64]:
        offset = self._offset("types.type_cache.hashtable", "type_cache.hashtable")
        step = self._layout["type_cache_entry.SIZE"] // _WORD
        if offset is None:
            return self._words[:0]
        at = (offset + shift + self._layout["type_cache_entry.name"]) // _WORD
        return self._words[at : at + step * _TYPE_CACHE_ENTRIES : step]

    def named_roots(self) -> Iterator[tuple[int, int]]:
        """(number in INTERPRETER_ROOTS, address)."""
        for number, name in enumerate(INTERPRETER_ROOTS):
            offset = self._offset(name)
            if offset is not None and (name in _CERTAIN or self._shift == 0):
                yield number, int(self._words[offset // _WORD])

    def unnamed_roots(self) -> Iterator[int]:
        """The types of syntax trees and what belongs to them (struct ast_state)."""
        if self._shift is None:
            return
        at = (self._layout["PyInterpreterState.ast"] + self._shift) // _WORD
        for word in self._words[at : at + self._layout["ast_state.SIZE"] // _WORD].tolist():
            if word and word % _WORD == 0 and self._type_name(word) is not None:
                yield word

    def type_cache(self) -> Iterator[tuple[int, int]]:
        """(address, how often) of the names that the cache of attribute look-ups keeps."""
        if self._shift is not None:
            names = self._cache_names(self._shift)
            yield from Counter(names[names != 0].tolist()).items()

    def interned(self) -> int:
        """The dict of interned strings: each is its own value. 0 where it is not found."""
        offset = self._offset("cached_objects.interned_strings")
        if offset is None:
            return 0
        for shift in _SHIFTS:
            at = (offset + shift) // _WORD
            if 0 <= at < len(self._words) and self._is_interned(int(self._words[at])):
                return int(self._words[at])
        return 0

    def _is_interned(self, address: int) -> bool:
        if not address or address % _WORD or self._type_name(address) != "dict":
            return False
        try:
            keys = self._objects.pointer(address + self._layout["PyDictObject.ma_keys"])
            slots = self._objects.key_slots(keys, _SAMPLE)
            pairs = [(key, value) for key, value in slots if key]
        except MemoryReadError:
            return False
        return bool(pairs) and all(
            key == value and self._type_name(key) == "str" for key, value in pairs[:4]
        )

    def static_types(self, symbols: Mapping[str, int]) -> Iterator[tuple[int, int, int]]:
        """(type, its dict, its subclasses) as the interpreter keeps them (3.12 on).

        The entry of a static type has the number that its ``tp_subclasses`` says
        (managed_static_type_index_get, Objects/typeobject.c).
        """
        layout, words = self._layout, self._words
        struct = next((one for one in _STATIC_STATES if f"{one}.SIZE" in layout.offsets), None)
        if struct is None:
            return
        step = layout[f"{struct}.SIZE"] // _WORD
        at_dict = layout[f"{struct}.tp_dict"] // _WORD
        at_subclasses = layout[f"{struct}.tp_subclasses"] // _WORD
        first, second = symbols["PyType_Type"], symbols.get("PyDict_Type", 0)
        for place in np.flatnonzero(words == first):
            start = int(place) - self._static_number(first) * step
            other = start + self._static_number(second) * step
            if not (start >= 0 and 0 <= other < len(words) and words[other] == second):
                continue
            for number in range(_MAX_STATIC_TYPES):
                at = start + number * step
                if at + step > len(words) or self._static_number(int(words[at])) != number:
                    return
                yield int(words[at]), int(words[at + at_dict]), int(words[at + at_subclasses])

    def _static_number(self, address: int) -> int:
        try:
            return self._objects.pointer(address + self._layout["PyTypeObject.tp_subclasses"]) - 1
        except MemoryReadError:
            return -1
