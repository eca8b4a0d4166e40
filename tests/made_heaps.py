"""Small heaps made by hand: objects at addresses that the test chooses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tracer.heap.graph import Graph
from tracer.heap.model import Closure, Heap, HeapType
from tracer.heap.reader import DTYPES
from tracer.heap.sizes import read_graph
from tracer.heap.writer import write

KINDS = {"type": "type", "list": "list", "tuple": "tuple", "str": "str", "int": "int",
         "Thing": "fields", "Other": "fields"}  # fmt: skip
"""The types that objects may have, and how they are visited."""

PROCESS = {"boot": "b", "start_ticks": 1, "runtime_address": 4096}


@dataclass(frozen=True)
class Made:
    """One object. ``to``: addresses that it refers to, in order. ``length``: of a str."""

    address: int
    type: str
    to: Sequence[int] = ()
    size: int = 48
    length: int = 0
    text: str | None = None
    root: bool = False


@dataclass
class MadeHeap:
    """Objects of the types in KINDS, which stand at 16, 32, … themselves."""

    objects: list[Made] = field(default_factory=list)
    written_at: str = "2026-01-01T00:00:00.000+00:00"
    pid: int = 1

    def write(self, path: Path) -> Path:
        """As a dump file."""
        with path.open("wb") as stream:
            write(self._heap(), stream)
        return path

    def graph(self, path: Path) -> Graph:
        """Written to ``path``, and read from it."""
        return read_graph(self.write(path), lambda _phase, _done, _total: None)

    def _heap(self) -> Heap:
        names = list(KINDS)
        static = [Made(16 * (at + 1), "type", root=True) for at in range(len(names))]
        objects = sorted([*static, *self.objects], key=lambda one: one.address)
        node = {one.address: at for at, one in enumerate(objects)}
        strings = [""] + [one.text for one in objects if one.text is not None]
        texts = [at for at, one in enumerate(objects) if one.text is not None]
        roots = [at for at, one in enumerate(objects) if one.root]
        columns: dict[str, Any] = {
            "address": [one.address for one in objects],
            "type": [names.index(one.type) for one in objects],
            "shape": [0] * len(objects),
            "size": [one.size for one in objects],
            "items": [len(one.to) for one in objects],
            "degree": [len(one.to) for one in objects],
            "target": [node[address] for one in objects for address in one.to],
            "length": [one.length for one in objects if one.type == "str"],
            "shape_count": [0],
            "shape_tail": [1],
            "root_node": roots,
            "root_kind": [0] * len(roots),
            "root_name": [0] * len(roots),
            "text_node": texts,
            "text": list(range(1, len(strings))),
        }
        for name in DTYPES:
            columns.setdefault(name, [])
        types = [
            HeapType("builtins", name, node[16 * (at + 1)], False, KINDS[name], None)
            for at, name in enumerate(names)
        ]
        return Heap(
            meta={
                "pid": self.pid, "process": PROCESS, "written_at": self.written_at,
                "root_kinds": ["interpreter"],
            },
            types=types,
            strings=strings,
            columns={
                name: np.array(values, {"degree": "<i8", "target": "<u4"}.get(name)
                               or f"<{DTYPES[name]}")
                for name, values in columns.items()
            },
            closure=Closure(len(objects), len(objects), 0, 0, 0, 0),
        )  # fmt: skip
