"""Marks of what never changes: whether the same text or number still stands at an address.

A dump has no values. Two dumps of a process are to be compared all the same, and addresses
are used again at once; so each ``str``, ``bytes``, ``int`` and ``float`` has a mark of 16
bits, which another one at the same address has by chance only, once in 65,536 times. The
key is the 16 random bytes that the kernel gives each program it starts (AT_RANDOM, proc(5)
and getauxval(3)): a dump does not have them, and without them a mark says nothing.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from tracer.heap.build import built
from tracer.heap.image import Image
from tracer.heap.model import HeapType
from tracer.pymem.layout import Layout

_AT_RANDOM = 25  # include/uapi/linux/auxvec.h
_KEY_BYTES = 16
_CHUNK = 1 << 20
_KINDS: Mapping[str, int] = {"str": 1, "ob_size": 2, "lv_tag": 3, "float": 4, "bytes": 5}
"""enum kind, marks/marks.c; an int's kind is the layout's strategy ``integer``."""

_PLACES = (
    "PyASCIIObject.length", "PyASCIIObject.state", "PyASCIIObject.SIZE",
    "PyCompactUnicodeObject.SIZE", "PyVarObject.ob_size", "PyLongObject.long_value.lv_tag",
    "PyLongObject.long_value.ob_digit|PyLongObject.ob_digit",
    "PyVarObject.ob_size",  # a float's value: what follows the head of an object, too
    "PyBytesObject.ob_sval",
)  # fmt: skip
"""The members of struct places, marks/marks.c; one that a version does not have is not used."""


@cache
def library() -> ctypes.CDLL:
    """The C code, compiled now if need be. Raises BackendUnavailable."""
    code = ctypes.CDLL(str(built("marks")))
    pointer, u64 = ctypes.c_void_p, ctypes.c_uint64
    code.marks_of.restype = None
    code.marks_of.argtypes = (pointer, u64, pointer, pointer, u64, *[pointer] * 5)
    return code


def key_of(pid: object) -> bytes:
    """The random bytes of a live process; empty where they cannot be had: then no marks."""
    try:
        with open(f"/proc/{pid}/auxv", "rb") as stream:
            words = stream.read()
        vector = dict(struct.iter_unpack("=QQ", words[: len(words) // 16 * 16]))
        with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
            memory.seek(vector[_AT_RANDOM])
            key = memory.read(_KEY_BYTES)
    except (OSError, KeyError, ValueError, OverflowError):
        return b""
    # A program may have wiped them.
    return key if len(key) == _KEY_BYTES and len(set(key)) > 1 else b""


def marks(
    image: Image,
    layout: Layout,
    columns: Mapping[str, npt.NDArray[Any]],
    types: Sequence[HeapType],
    key: bytes,
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint16]]:
    """(nodes, marks) of those objects of an image that have one. ``key``: of ``key_of``."""
    if not key:
        return np.zeros(0, np.uint32), np.zeros(0, np.uint16)
    of_type = np.array([_kind(one, layout) for one in types] or [0], np.uint8)
    kinds = of_type[columns["type"]]
    nodes = np.flatnonzero((kinds != 0) & (columns["refcount"] < layout.constants[
        "immortal_refcnt"])).astype(np.uint32)  # fmt: skip
    found = np.zeros(len(nodes), np.uint16)
    places = np.array([_offset(layout, name) for name in _PLACES], np.uint64)
    words = np.frombuffer(key, np.uint64)
    segments = image.segments
    starts, ends, offsets = (
        np.array([getattr(one, name) for one in segments], np.uint64)
        for name in ("start", "end", "offset")
    )
    for first in range(0, len(nodes), _CHUNK):
        part = slice(first, first + _CHUNK)
        address = np.ascontiguousarray(columns["address"][nodes[part]])
        segment = np.searchsorted(starts, address, side="right") - 1
        offset = address - starts[segment] + offsets[segment]
        room = ends[segment] - address
        kind = np.ascontiguousarray(kinds[nodes[part]])
        # Mapped anew each time: what was read of the image would count as memory of ours.
        with mmap.mmap(image.fd, image.size, prot=mmap.PROT_READ) as memory:
            data = np.frombuffer(memory, np.uint8)
            library().marks_of(
                data.ctypes.data, image.size, places.ctypes.data, words.ctypes.data, len(address),
                address.ctypes.data, offset.ctypes.data, room.ctypes.data, kind.ctypes.data,
                found[part].ctypes.data,
            )  # fmt: skip
            del data
    has = found != 0
    return nodes[has], found[has]


def _kind(one: HeapType, layout: Layout) -> int:
    if one.kind in {"str", "int"}:
        return _KINDS["str" if one.kind == "str" else layout.strategies["integer"]]
    return _KINDS[one.name] if one.name in {"float", "bytes"} and not one.heap else 0


def _offset(layout: Layout, names: str) -> int:
    return next((layout[name] for name in names.split("|") if name in layout.offsets), 1 << 62)
