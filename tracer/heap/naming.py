"""Names for what was walked: of types, references and frames, and texts that are no data.

A dump holds no values of strings unless asked to. What it always holds are names: those of
attributes, variables, modules' globals, functions and files, as code gives them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from probes.errors import MemoryReadError
from tracer.heap.model import BORROWED, LABEL_KINDS, HeapType
from tracer.heap.place import field_name
from tracer.heap.scan import Scan
from tracer.heap.walker import NO_NODE, library
from tracer.pymem.linetable import line_at

MAX_NAME = 200
MAX_VALUE = 1000
"""Characters of a string's value that are kept, where values are wanted."""

_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_*, Include/object.h
_UNICODE = 1 << 28
_ATTRIBUTE, _FIELD, _SLOT, _LOCAL, _DICT, _GUESS, _MEMBER, _WEAK = (
    LABEL_KINDS.index(name)
    for name in ("attribute", "field", "slot", "local", "dict", "guess", "member", "weak")
)
_NAME_FIELDS = frozenset(
    {"__name__", "__qualname__", "func_name", "func_qualname", "func_module", "co_name",
     "co_qualname", "co_filename", "md_name", "gi_name", "gi_qualname", "d_name", "d_qualname"}
)  # fmt: skip
_NAMESPACE_FIELDS = frozenset(
    {"__dict__", "md_dict", "func_dict", "od_inst_dict", "co_localsplusnames"}
)
_KINDS = ("thread", "generator", "frame object")
_MODULE_SLOTS = 8  # __module__ is put into a class's namespace first
_CHUNK = 1 << 18
_NAME, _SPACE, _KEY = 1, 2, 4
"""Bits of nodes: a name that code gives; a namespace, or a tuple of names; what is in one."""
_CODE_UNIT = 2


class Strings:
    """A table of texts; the same text has the same number."""

    def __init__(self) -> None:
        self.texts: list[str] = [""]
        self._numbers = {"": 0}

    def number(self, text: str) -> int:
        """The number of ``text``, new or known."""
        found = self._numbers.get(text)
        if found is None:
            found = self._numbers[text] = len(self.texts)
            self.texts.append(text)
        return found


class Names:
    """Looks names up in the image of a scan; what cannot be read is an empty text."""

    def __init__(self, scan: Scan, columns: dict[str, npt.NDArray[Any]]) -> None:
        self._scan = scan
        self._columns = columns
        self._objects = scan.objects
        self._c_strings: dict[int, str] = {}
        self._code: dict[int, tuple[str, str, int, bytes]] = {}

    def types(self, fixed: list[int | None]) -> list[HeapType]:
        """Every type, by number. ``fixed``: the size of each type's instances."""
        kinds = library().kinds
        return [
            self._type(
                int(row["address"]), int(row["flags"]), int(row["node"]), kinds[row["kind"]], size
            )
            for row, size in zip(self._columns["types"], fixed, strict=True)
        ]

    def _type(self, address: int, flags: int, node: int, kind: str, size: int | None) -> HeapType:
        layout, objects = self._scan.layout, self._objects
        heap = bool(flags & _HEAP_TYPE)
        module, _, name = self._c_string(
            self._pointer(address + layout["PyTypeObject.tp_name"])
        ).rpartition(".")
        if heap:
            name = (
                self._text(self._pointer(address + layout["PyHeapTypeObject.ht_qualname"])) or name
            )
            try:
                namespace = objects.pointer(address + layout["PyTypeObject.tp_dict"])
                (found,) = objects.lookup(namespace, ("__module__",), _MODULE_SLOTS)
                module = objects.text(found) if found else module
            except MemoryReadError:
                pass
        return HeapType(
            module or "builtins", name, 0 if node == NO_NODE else node, heap, kind, size
        )

    def _pointer(self, address: int) -> int:
        try:
            return self._objects.pointer(address)
        except MemoryReadError:
            return 0

    def _text(self, address: int) -> str:
        try:
            return self._objects.text(address)[:MAX_VALUE] if address else ""
        except MemoryReadError:
            return ""

    def _c_string(self, address: int) -> str:
        found = self._c_strings.get(address)
        if found is None:
            found = ""
            for size in (MAX_NAME, 32, 8):
                try:
                    raw = self._scan.image.read(address, size)
                except MemoryReadError:
                    continue
                found = raw.split(b"\0", 1)[0].decode("utf-8", "replace")
                break
            self._c_strings[address] = found
        return found

    def labels(self, strings: Strings) -> npt.NDArray[np.uint32]:
        """The number of each label's name."""
        rows = self._columns["labels"]
        return self._numbers(rows["kind"] & ~np.uint32(BORROWED), rows["name"], strings)

    def references(self, strings: Strings) -> npt.NDArray[np.uint32]:
        """The number of each name of a thread's frames' references."""
        rows = self._columns["references"]
        return self._numbers(rows["kind"] & ~np.uint32(BORROWED), rows["name"], strings)

    def _numbers(
        self, kinds: npt.NDArray[Any], names: npt.NDArray[Any], strings: Strings
    ) -> npt.NDArray[np.uint32]:
        known: dict[tuple[int, int], int] = {}
        found = np.zeros(len(kinds), np.uint32)
        for at, key in enumerate(zip(kinds.tolist(), names.tolist(), strict=True)):
            number = known.get(key)
            if number is None:
                number = known[key] = strings.number(self._label(*key))
            found[at] = number
        return found

    def _label(self, kind: int, name: int) -> str:
        if kind in {_ATTRIBUTE, _LOCAL}:
            return self._text(name)[:MAX_NAME]
        if kind in {_SLOT, _MEMBER}:
            return self._c_string(name)
        if kind in {_FIELD, _WEAK}:
            return field_name(library(), name)
        return f"+{name}" if kind == _GUESS else ""

    def frames(self) -> list[dict[str, Any]]:
        """Frames of threads: function, file, line, thread (by number), owner, code object."""
        found = []
        for row in self._columns["frames"]:
            name, file, first_line, table = self._code_of(int(row["code"]))
            offset = int(row["instruction"]) - int(row["code"])
            offset -= self._scan.layout["PyCodeObject.co_code_adaptive"]
            line = line_at(table, first_line, max(offset, -_CODE_UNIT)) if name else None
            found.append(
                {
                    "thread": int(row["thread"]),
                    "function": name,
                    "file": file,
                    "line": line,
                    "owner": _KINDS[min(int(row["owner"]), len(_KINDS) - 1)],
                }
            )
        return found

    def _code_of(self, address: int) -> tuple[str, str, int, bytes]:
        found = self._code.get(address)
        if found is None:
            found = self._code[address] = self._read_code(address)
        return found

    def _read_code(self, address: int) -> tuple[str, str, int, bytes]:
        layout, objects = self._scan.layout, self._objects
        pointer = objects.pointer
        try:
            if objects.type_of(address).name != "code":
                return "", "", 0, b""
            line = self._scan.image.read(address + layout["PyCodeObject.co_firstlineno"], 4)
            return (
                objects.text(pointer(address + layout["PyCodeObject.co_qualname"])),
                objects.text(pointer(address + layout["PyCodeObject.co_filename"])),
                int.from_bytes(line, "little", signed=True),
                objects.byte_string(pointer(address + layout["PyCodeObject.co_linetable"])),
            )
        except MemoryReadError:
            return "", "", 0, b""

    def texts(
        self, strings: Strings, *, values: bool
    ) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
        """(nodes, numbers) of the str objects whose text the dump may hold; all with ``values``."""
        columns, flags = self._columns, self._columns["types"]["flags"]
        is_text = ((flags & np.uint64(_UNICODE)) != 0)[columns["type"]]
        if values:
            return self._read_texts(np.flatnonzero(is_text), strings, lambda _: True, MAX_VALUE)
        walk = self._scan.walk
        bits = walk.flag_targets(self._label_bits())
        walk.flag_keys(bits, _SPACE, _KEY)
        names = (bits & _NAME) != 0
        keys = ((bits & _KEY) != 0) & ~names
        first = self._read_texts(np.flatnonzero(names & is_text), strings, lambda _: True, MAX_NAME)
        second = self._read_texts(
            np.flatnonzero(keys & is_text), strings, str.isidentifier, MAX_NAME
        )
        nodes = np.concatenate([first[0], second[0]])
        order = np.argsort(nodes, kind="stable")
        return nodes[order], np.concatenate([first[1], second[1]])[order]

    def _label_bits(self) -> npt.NDArray[np.uint8]:
        """Per label whether it leads to a name, or to a dict whose keys are names."""
        labels = self._columns["labels"]
        bits = np.where(labels["kind"] == _DICT, np.uint8(_SPACE), np.uint8(0))
        is_field = labels["kind"] == _FIELD
        for number in np.unique(labels["name"][is_field]).tolist():
            name = field_name(library(), number)
            bit = _NAME if name in _NAME_FIELDS else _SPACE if name in _NAMESPACE_FIELDS else 0
            bits[is_field & (labels["name"] == number)] |= bit
        return bits

    def _read_texts(
        self, nodes: npt.NDArray[Any], strings: Strings, accept: Any, limit: int
    ) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
        found: list[int] = []
        numbers: list[int] = []
        for start in range(0, len(nodes), _CHUNK):
            part = nodes[start : start + _CHUNK].tolist()
            addresses = self._columns["address"][nodes[start : start + _CHUNK]].tolist()
            for node, text in zip(part, self._objects.texts(addresses), strict=True):
                if text is not None and accept(text):
                    found.append(node)
                    numbers.append(strings.number(text[:limit]))
        return np.array(found, np.uint32), np.array(numbers, np.uint32)
