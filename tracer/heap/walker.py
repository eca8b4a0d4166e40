"""The walk of a memory image, in C (``tracer/heap/walk``): its handle and its columns.

Nothing here needs a privilege, and nothing in the image is believed: see ``walk/image.h``.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from collector.closing import Closing
from probes.errors import ImplausibleMemory, InternalError, ParkscopeError
from tracer.heap.build import built
from tracer.heap.image import Image
from tracer.pymem.layout import Layout

MAX_HEADS = 64
"""GC lists of one interpreter: three generations and some more."""

FRAME = np.dtype(
    [
        ("address", "<u8"),
        ("code", "<u8"),
        ("instruction", "<u8"),
        ("thread", "<u4"),
        ("owner", "<u4"),
    ]
)
REFERENCE = np.dtype([("target", "<u8"), ("name", "<u8"), ("frame", "<u4"), ("kind", "<u4")])
ROOT = np.dtype(
    [("target", "<u8"), ("kind", "<u4"), ("name", "<u4"), ("counted", "<u4"), ("node", "<u4")]
)
LABEL = np.dtype([("name", "<u8"), ("kind", "<u4"), ("", "<u4")])
SHAPE = np.dtype(
    [("hash", "<u8"), ("first", "<u4"), ("count", "<u4"), ("tail", "<u4"), ("", "<u4")]
)
TYPE = np.dtype(
    [("address", "<u8"), ("flags", "<u8"), ("size", "<u8"), ("node", "<u8"), ("kind", "<u8")]
)

NO_NODE = 0xFFFFFFFF
BORROWED = 0x80
"""Bit of a label's kind, and of a shape's tail: not counted in the target's reference count."""

_STRATEGIES = ("prefix_words", "tagged_prefix", "inline_values")
_CONSTANTS = (
    "immortal_refcnt",
    "frame_cleared",
    "preheader_flags",
    "stackref_tag_mask",
    "first_foreign_owner",
    "last_owner",
    "frozen_counts",
)
_NO_MEMORY = 1
_TOTALS = (
    "nodes", "edges", "types", "frames", "references", "roots", "shapes", "labels",
    "gc_objects", "broken_lists", "bad_pointers", "bad_types", "work",
)  # fmt: skip
_COLUMNS: tuple[tuple[str, np.dtype[Any], str], ...] = (
    ("address", np.dtype("<u8"), "nodes"),
    ("size", np.dtype("<u8"), "nodes"),
    ("type", np.dtype("<u4"), "nodes"),
    ("refcount", np.dtype("<u4"), "nodes"),
    ("degree", np.dtype("<u4"), "nodes"),
    ("shape", np.dtype("<u4"), "nodes"),
    ("in_degree", np.dtype("<u4"), "nodes"),
    ("guesses", np.dtype("<u4"), "nodes"),
    ("target", np.dtype("<u4"), "edges"),
    ("frames", FRAME, "frames"),
    ("references", REFERENCE, "references"),
    ("roots", ROOT, "roots"),
    ("shapes", SHAPE, "shapes"),
    ("labels", LABEL, "labels"),
)


@dataclass(frozen=True, slots=True)
class KnownType:
    """How instances of a type are visited: see ``types.toml``. ``fields``: (offset, number)."""

    address: int
    name: str
    kind: str
    scan_from: int
    fields: tuple[tuple[int, int], ...]


class Library:
    """The compiled walk. Loaded once; ``flags`` are further ones for the compiler."""

    def __init__(self, path: str) -> None:
        self.calls = ctypes.CDLL(path)
        pointer, u64, u32 = ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint32
        text, u8 = ctypes.c_char_p, ctypes.c_uint8
        for name, result, arguments in (
            ("walk_offset_names", text, ()),
            ("walk_kind_names", text, ()),
            ("walk_field_names", text, ()),
            ("walk_new", pointer, (pointer, u32, pointer, u64, pointer, pointer)),
            ("walk_free", None, (pointer,)),
            ("walk_know", ctypes.c_int, (pointer, u64, text, u32, u32, pointer, u32)),
            ("walk_static_type", ctypes.c_int, (pointer, u64, u64, u64)),
            ("walk_find_list_heads", u64, (pointer, u64, u64, pointer, u64)),
            ("walk_list", ctypes.c_int, (pointer, u64)),
            ("walk_root", ctypes.c_int, (pointer, u64, u32, u32, u32)),
            ("walk_interned", ctypes.c_int, (pointer, u64)),
            ("walk_running", ctypes.c_int, (pointer, u64)),
            ("walk_thread", ctypes.c_int, (pointer, u32, u64)),
            ("walk_mark", ctypes.c_int, (pointer,)),
            ("walk_emit", ctypes.c_int, (pointer, u32)),
            ("walk_progress", u64, (pointer,)),
            ("walk_totals", None, (pointer, pointer)),
            ("walk_rows", pointer, (pointer, u32)),
            ("walk_type_rows", None, (pointer, pointer)),
            ("walk_flag_targets", None, (pointer, pointer, pointer)),
            ("walk_flag_keys", None, (pointer, u8, u8, pointer)),
        ):
            function = getattr(self.calls, name)
            function.restype, function.argtypes = result, arguments
        self.offset_names = self._lines("walk_offset_names")
        self.kinds = self._lines("walk_kind_names")
        self.field_names = self._lines("walk_field_names")

    def _lines(self, name: str) -> tuple[str, ...]:
        text: bytes = getattr(self.calls, name)()
        return tuple(text.decode().split("\n")[:-1])


@cache
def library() -> Library:
    """The walk, compiled now if need be. Raises BackendUnavailable."""
    return Library(str(built("walk")))


FIRST_FIELD = 64
"""Numbers of fields below this are the walker's own (enum own_field)."""


class Walk(Closing):
    """One walk. ``close`` it, or use it as a context manager: its columns are views.

    Raises ImplausibleMemory when the image cannot be a heap (a damaged one), MemoryError.
    """

    def __init__(self, image: Image, layout: Layout, code: Library | None = None) -> None:
        self._code = code or library()
        self._map = mmap.mmap(image.fd, image.size, prot=mmap.PROT_READ, flags=mmap.MAP_SHARED)
        data = np.frombuffer(self._map, dtype=np.uint8)
        rows = np.array(_joined(image), dtype=np.uint64).reshape(-1, 3)
        offsets = np.array([_offset(layout, name) for name in self._code.offset_names], np.int32)
        constants = [layout.constants[name] for name in _CONSTANTS]
        constants.append(_STRATEGIES.index(layout.strategies["instance_dict"]))
        self._handle = self._code.calls.walk_new(
            rows.ctypes.data, len(rows), data.ctypes.data, image.size,
            offsets.ctypes.data, np.array(constants, np.uint32).ctypes.data,
        )  # fmt: skip
        del data
        if not self._handle:
            self._map.close()
            raise ImplausibleMemory("the image has no segments that can be walked")

    def close(self) -> None:
        """Give everything back; what ``columns`` gave is gone, too."""
        if self._handle:
            self._code.calls.walk_free(self._handle)
            self._handle = None
            self._map.close()

    def know(self, known: KnownType) -> None:
        """Register how instances of a type are visited."""
        fields = np.array(known.fields, dtype=np.uint32).reshape(-1, 2)
        self._check(
            self._code.calls.walk_know(
                self._handle, known.address, known.name.encode(),
                self._code.kinds.index(known.kind), known.scan_from,
                fields.ctypes.data, len(fields),
            )
        )  # fmt: skip

    def static_type(self, address: int, namespace: int, subclasses: int) -> None:
        """What an interpreter keeps of a static type outside of the type object."""
        self._check(self._code.calls.walk_static_type(self._handle, address, namespace, subclasses))

    def list_heads(self, start: int, size: int) -> list[int]:
        """Addresses of GC list heads in [start, start + size), empty lists left out."""
        heads = np.zeros(MAX_HEADS, np.uint64)
        found = self._code.calls.walk_find_list_heads(
            self._handle, start, size, heads.ctypes.data, MAX_HEADS
        )
        return [int(head) for head in heads[:found]]

    def follow_list(self, head: int) -> None:
        """Mark the members of a GC list and all that they refer to."""
        self._check(self._code.calls.walk_list(self._handle, head))

    def root(self, target: int, kind: int, name: int, counted: int) -> None:
        """An object held from outside the heap; ``counted`` times in its reference count."""
        self._check(self._code.calls.walk_root(self._handle, target, kind, name, counted))

    def interned(self, address: int) -> None:
        """The dict of interned strings, whose references are not counted."""
        self._check(self._code.calls.walk_interned(self._handle, address))

    def running(self, frame: int) -> None:
        """The innermost frame of a thread that executes bytecode: its stack is uncertain."""
        self._check(self._code.calls.walk_running(self._handle, frame))

    def thread(self, number: int, frame: int) -> None:
        """The frames of a thread, from the innermost on."""
        self._check(self._code.calls.walk_thread(self._handle, number, frame))

    def finish(self, threads: int | None = None) -> None:
        """Number the objects and write the columns."""
        self._check(self._code.calls.walk_mark(self._handle))
        self._check(self._code.calls.walk_emit(self._handle, threads or os.cpu_count() or 1))

    def progress(self) -> int:
        """Objects found plus objects written; may be asked from another thread."""
        return int(self._code.calls.walk_progress(self._handle))

    def totals(self) -> Mapping[str, int]:
        """How many there are of everything."""
        values = np.zeros(len(_TOTALS), np.uint64)
        self._code.calls.walk_totals(self._handle, values.ctypes.data)
        return dict(zip(_TOTALS, map(int, values), strict=True))

    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """Every column as a view into the walk's memory, and ``types``, a copy."""
        totals = self.totals()
        found = {}
        for which, (name, dtype, length) in enumerate(_COLUMNS):
            address = self._code.calls.walk_rows(self._handle, which)
            count = totals[length]
            if not address or not count:
                found[name] = np.zeros(0, dtype)
                continue
            memory = (ctypes.c_char * (count * dtype.itemsize)).from_address(address)
            found[name] = np.frombuffer(memoryview(memory), dtype=dtype)
        types = np.zeros(totals["types"], TYPE)
        self._code.calls.walk_type_rows(self._handle, types.ctypes.data)
        found["types"] = types
        return found

    def flag_targets(self, labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Per node the bits of all labels (one row each) whose references lead to it."""
        if len(labels) != self.totals()["labels"]:
            raise InternalError("bits for other labels than there are")
        nodes = np.zeros(self.totals()["nodes"], np.uint8)
        self._code.calls.walk_flag_targets(self._handle, labels.ctypes.data, nodes.ctypes.data)
        return nodes

    def flag_keys(self, nodes: npt.NDArray[np.uint8], dicts: int, keys: int) -> None:
        """Set the bits ``keys`` of the keys of every dict that has one of the bits ``dicts``.

        So of the items of every tuple that has.
        """
        if len(nodes) != self.totals()["nodes"]:
            raise InternalError("bits for other nodes than there are")
        self._code.calls.walk_flag_keys(self._handle, dicts, keys, nodes.ctypes.data)

    def _check(self, status: int) -> None:
        if status == _NO_MEMORY:
            raise ParkscopeError(
                "the memory for the walk could not be had",
                hint="Close other programs, or try later.",
            )
        if status:
            raise ImplausibleMemory("the image is damaged: its objects are more than fit into it")


def _joined(image: Image) -> list[tuple[int, int, int]]:
    """(start, end, offset) of the segments, adjoining ones made one: objects may cross."""
    joined: list[tuple[int, int, int]] = []
    for one in image.segments:
        if joined:
            start, end, offset = joined[-1]
            if end == one.start and offset + end - start == one.offset:
                joined[-1] = (start, one.end, offset)
                continue
        joined.append((one.start, one.end, one.offset))
    return joined


def _offset(layout: Layout, names: str) -> int:
    return next((layout[name] for name in names.split("|") if name in layout.offsets), -1)


def fields_of(
    layout: Layout, names: Sequence[str], numbers: Mapping[str, int]
) -> list[tuple[int, int]]:
    """(offset, number) of those fields that this version has."""
    found = []
    for name in names:
        if name in layout.offsets:
            short = name.partition(".")[2]
            if short not in numbers:
                raise InternalError(f"the field {name} has no number")
            found.append((layout[name], numbers[short]))
    return found
