"""Reads a heap dump, trusting nothing in it: see FORMAT.md.

Every place is checked against the file's size, every block against its CRC, every number
against what it counts or names; what the columns take in memory is bounded by the file's
size. What does not hold raises DamagedHeapDump.
"""

from __future__ import annotations

import os
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from collector.closing import OpenFile, open_to_read
from probes.errors import DamagedHeapDump, NotAHeapDump, UnknownHeapDumpVersion
from tracer.heap import codec
from tracer.heap.model import (
    BORROWED,
    LABEL_KINDS,
    TAILS,
    VERSION,
    Closure,
    Heap,
    HeapType,
    degrees,
)
from tracer.heap.writer import MAGIC, TRAILER

MAX_DIRECTORY = 64 << 20
MAX_DOCUMENT = 256 << 20
MAX_ROOT_KINDS = 16
ROWS_PER_BYTE = 64
"""A column has no more rows than this times the file's bytes: bounds what is allocated."""

DTYPES = {
    "address": "u8", "type": "u4", "size": "u8", "shape": "u4", "items": "u4", "length": "u4",
    "target": "i4", "shape_count": "u4", "shape_tail": "u1", "label_kind": "u1",
    "label_name": "u4", "excess_node": "u4", "excess": "i4", "immortal_node": "u4",
    "root_node": "u4", "root_kind": "u1", "root_name": "u4", "reference_frame": "u4",
    "reference_node": "u4", "reference_kind": "u1", "reference_name": "u4",
    "text_node": "u4", "text": "u4", "mark_node": "u4", "mark": "u2",
}  # fmt: skip
"""The columns of version 1 and their types."""


class _Block(msgspec.Struct, forbid_unknown_fields=True):
    column: str
    encoding: str
    dtype: str
    rows: int
    offset: int
    bytes: int
    crc: int


class _Closure(msgspec.Struct):
    counted: int
    exact: int
    held: int
    contradictions: int
    refuted: int
    immortal: int


class _Directory(msgspec.Struct):
    version: int
    meta: dict[str, Any]
    closure: _Closure
    blocks: list[_Block]


class HeapFile(OpenFile):
    """One heap dump, open for reading. Close it, or use it as a context manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(open_to_read(path))
        try:
            self.size = os.fstat(self._fd).st_size
            self._directory = self._read_directory()
            self._check_blocks()
        except BaseException:
            self.close()
            raise

    @property
    def meta(self) -> dict[str, Any]:
        """What is said of the dump as a whole."""
        return self._directory.meta

    @property
    def closure(self) -> Closure:
        """The proof of consistency, as it was computed when the heap was walked."""
        found = self._directory.closure
        return Closure(*(getattr(found, name) for name in _Closure.__struct_fields__))

    def _pread(self, offset: int, size: int) -> bytes:
        if not (0 <= offset <= self.size and 0 <= size <= self.size - offset):
            raise DamagedHeapDump(f"{self.path}: a block lies outside of the file")
        data = os.pread(self._fd, size, offset)
        if len(data) != size:
            raise DamagedHeapDump(f"{self.path} became shorter while it was read")
        return data

    def _read_directory(self) -> _Directory:
        if self.size < len(MAGIC) + TRAILER.size or os.pread(self._fd, len(MAGIC), 0) != MAGIC:
            raise NotAHeapDump(f"{self.path} is no heap dump")
        trailer = self._pread(self.size - TRAILER.size, TRAILER.size)
        offset, size, crc, _, magic = TRAILER.unpack(trailer)
        if magic != MAGIC or not 8 <= size <= MAX_DIRECTORY:
            raise DamagedHeapDump(f"{self.path} has no end: it was cut, or is damaged")
        raw = self._pread(offset, size)
        if zlib.crc32(raw[8:]) != crc:
            raise DamagedHeapDump(f"{self.path}: its directory is damaged")
        (length,) = struct.unpack_from("<Q", raw)
        if length > MAX_DIRECTORY:
            raise DamagedHeapDump(f"{self.path}: its directory is too large")
        text = codec.decompress(raw[8:], length)
        try:
            version = msgspec.json.decode(text, type=dict[str, msgspec.Raw]).get("version")
            if version is not None and bytes(version) != str(VERSION).encode():
                raise UnknownHeapDumpVersion(
                    f"{self.path} is of version {bytes(version)[:20].decode(errors='replace')}"
                )
            return msgspec.json.decode(text, type=_Directory)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            raise DamagedHeapDump(f"{self.path}: its directory is damaged: {error}") from None

    def _check_blocks(self) -> None:
        totals: dict[str, int] = {}
        for block in self._directory.blocks:
            if block.encoding != "json" and DTYPES.get(block.column) != block.dtype:
                raise DamagedHeapDump(f"{self.path}: the column {block.column!r} is not known")
            if block.rows < 0:
                raise DamagedHeapDump(f"{self.path}: a block has no rows")
            totals[block.column] = totals.get(block.column, 0) + block.rows
        limit = min(max(self.size * ROWS_PER_BYTE, 1 << 20), 1 << 32)
        if max(totals.values(), default=0) > limit:
            raise DamagedHeapDump(f"{self.path}: it claims to hold more than fits into it")

    def rows(self, column: str) -> int:
        """How many rows a column has."""
        return sum(block.rows for block in self._directory.blocks if block.column == column)

    def _packed(self, block: _Block) -> bytes:
        packed = self._pread(block.offset, block.bytes)
        if zlib.crc32(packed) != block.crc:
            raise DamagedHeapDump(f"{self.path}: a block of {block.column!r} is damaged")
        return packed

    def _decoded(self, block: _Block) -> npt.NDArray[Any]:
        dtype = np.dtype(f"<{block.dtype}")
        return codec.decode(self._packed(block), dtype, block.rows, block.encoding)

    def column(self, name: str) -> npt.NDArray[Any]:
        """A column, whole. Empty where the dump does not have it."""
        blocks = [block for block in self._directory.blocks if block.column == name]
        if any(block.encoding == "json" for block in blocks):
            raise DamagedHeapDump(f"{self.path}: the column {name!r} is text")
        if not blocks:
            return np.zeros(0, f"<{DTYPES[name]}")
        if len(blocks) == 1:
            return self._decoded(blocks[0])
        found = np.zeros(sum(block.rows for block in blocks), f"<{DTYPES[name]}")
        starts = np.cumsum([0, *(block.rows for block in blocks)])

        def fill(number: int) -> None:
            found[starts[number] : starts[number + 1]] = self._decoded(blocks[number])

        with ThreadPoolExecutor(max_workers=2) as pool:
            list(pool.map(fill, range(len(blocks))))
        return found

    def document(self, name: str, kind: Any) -> Any:
        """A block of JSON, as ``kind``."""
        blocks = [block for block in self._directory.blocks if block.column == name]
        if len(blocks) != 1 or blocks[0].encoding != "json" or blocks[0].rows > MAX_DOCUMENT:
            raise DamagedHeapDump(f"{self.path}: {name} are missing")
        text = codec.decompress(self._packed(blocks[0]), blocks[0].rows)
        try:
            return msgspec.json.decode(text, type=kind)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            raise DamagedHeapDump(f"{self.path}: {name} are damaged: {error}") from None

    @cached_property
    def types(self) -> list[HeapType]:
        """All types, by number."""
        rows = self.document("types", list[tuple[str, str, int, bool, str, int | None]])
        nodes = self.rows("type")
        types = [HeapType(*row) for row in rows]
        if any(not 0 <= one.node < nodes or (one.size or 0) < 0 for one in types):
            raise DamagedHeapDump(f"{self.path}: a type is no object of the dump")
        return types

    def node_types(self) -> npt.NDArray[Any]:
        """The number of each node's type, all of them valid."""
        return self._below("type", len(self.types))

    def _below(self, name: str, limit: int) -> npt.NDArray[Any]:
        values = self.column(name)
        if len(values) and int(values.max()) >= limit:
            raise DamagedHeapDump(f"{self.path}: the column {name!r} names what is not there")
        return values

    def sizes(self, node_types: npt.NDArray[Any] | None = None) -> npt.NDArray[np.uint64]:
        """Shallow size of each node, bytes."""
        kinds = self.node_types() if node_types is None else node_types
        fixed = np.array([one.size or 0 for one in self.types] or [0], np.uint64)
        varies = np.array([one.size is None for one in self.types] or [False], bool)
        sizes = fixed[kinds] if len(kinds) else np.zeros(0, np.uint64)
        places = np.flatnonzero(varies[kinds]) if len(kinds) else np.zeros(0, np.int64)
        stored = self.column("size")
        if len(stored) != len(places):
            raise DamagedHeapDump(f"{self.path}: sizes are missing")
        sizes[places] = stored
        return sizes

    def load(self) -> Heap:
        """Everything, checked. Memory: some 60 bytes an object and 8 a reference."""
        columns = {name: self.column(name) for name in DTYPES if name not in _SPECIAL}
        nodes = self.rows("type")
        strings = self.document("strings", list[str])
        columns["type"] = self.node_types()
        columns["size"] = self.sizes(columns["type"])
        columns["shape"] = self._below("shape", len(columns["shape_count"]))
        self._check_columns(columns, nodes, len(strings))
        items = columns.pop("items")
        columns["degree"] = self._degrees(columns, items)
        columns["target"] = self._targets(columns["degree"], nodes)
        frames = self.document("frames", list[dict[str, Any]])
        if len(used := columns["reference_frame"]) and int(used.max()) >= len(frames):
            raise DamagedHeapDump(f"{self.path}: a reference is of no frame")
        return Heap(
            meta=self.meta,
            types=self.types,
            strings=strings,
            columns=columns,
            closure=self.closure,
            threads=self.document("threads", list[dict[str, Any]]),
            frames=frames,
        )

    def _check_columns(self, columns: dict[str, Any], nodes: int, strings: int) -> None:
        lengths = (
            ("address", nodes), ("shape", nodes), ("shape_tail", len(columns["shape_count"])),
            ("label_kind", int(columns["shape_count"].sum(dtype=np.uint64))),
            ("label_name", len(columns["label_kind"])),
            ("excess", len(columns["excess_node"])), ("text", len(columns["text_node"])),
            ("mark", len(columns["mark_node"])),
            ("root_kind", len(columns["root_node"])), ("root_name", len(columns["root_node"])),
            *((f"reference_{part}", len(columns["reference_node"]))
              for part in ("frame", "kind", "name")),
        )  # fmt: skip
        for name, length in lengths:
            if len(columns[name]) != length:
                raise DamagedHeapDump(f"{self.path}: the column {name!r} has a wrong length")
        limits = dict.fromkeys(("label_name", "text", "reference_name", "root_name"), strings)
        limits |= {"label_kind": BORROWED | len(LABEL_KINDS), "root_kind": MAX_ROOT_KINDS}
        limits |= dict.fromkeys(
            (
                "excess_node",
                "immortal_node",
                "root_node",
                "reference_node",
                "text_node",
                "mark_node",
            ),
            nodes,
        )
        for name, limit in limits.items():
            if len(columns[name]) and int(columns[name].max()) >= limit:
                raise DamagedHeapDump(f"{self.path}: the column {name!r} names what is not there")
        tails = columns["shape_tail"] & 0x7F
        if len(tails) and int(tails.max()) >= len(TAILS):
            raise DamagedHeapDump(f"{self.path}: a shape has an unknown end")

    def _degrees(self, columns: dict[str, Any], items: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        tails = columns["shape_tail"][columns["shape"]] & 0x7F if len(columns["shape"]) else items
        if np.count_nonzero(tails) != len(items):
            raise DamagedHeapDump(f"{self.path}: numbers of items are missing")
        if not len(columns["shape"]):
            return np.zeros(0, np.int64)
        return degrees(columns["shape_count"], columns["shape_tail"], columns["shape"], items)

    def _targets(self, degree: npt.NDArray[np.int64], nodes: int) -> npt.NDArray[Any]:
        targets = self.column("target")
        if int(degree.sum()) != len(targets):
            raise DamagedHeapDump(f"{self.path}: references are missing")
        targets += np.repeat(np.arange(nodes, dtype=np.int32), degree)
        if len(targets) and not (targets.min() >= 0 and int(targets.max()) < nodes):
            raise DamagedHeapDump(f"{self.path}: a reference leads out of the dump")
        return targets


_SPECIAL = frozenset({"type", "size", "shape", "target"})
