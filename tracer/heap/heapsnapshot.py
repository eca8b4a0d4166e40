"""A dump as a ``.heapsnapshot``: what Chrome's DevTools and memlab load.

Objects keep their numbers, behind some nodes that stand for what is outside of the heap:
``(threads)`` with each thread and frame, each kind of root, ``(C code)``, ``(immortal)``,
``(unreachable)``. They take no bytes, and objects hang below them as they do below our own
root, so dominators and retained sizes come out as ours do.

What the loaders want (V8's src/profiler/heap-snapshot-generator.cc writes it, front_end/
entrypoints/heap_snapshot_worker/HeapSnapshot.ts of DevTools reads it): ``nodes`` before
``edges``, ``strings`` last, the other lists there though empty; counts that are exact;
edges grouped by their source; ids below 2³². Nodes directly below the root must be of the
kind ``synthetic``: else DevTools takes them for windows, and adds sizes up in another way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from tracer.heap.graph import EDGE_KINDS, ELEMENT, KEY, TYPE, VALUE, Graph
from tracer.heap.json_text import json_texts
from tracer.heap.node_names import NodeNames, node_names
from tracer.heap.text_rows import Column, format_rows

NODE_TYPES = (
    "hidden", "array", "string", "object", "code", "closure", "regexp", "number", "native",
    "synthetic", "concatenated string", "sliced string", "symbol", "bigint", "object shape",
)  # fmt: skip
EDGE_TYPES = ("context", "element", "property", "internal", "hidden", "shortcut", "weak")
_NODE = {name: number for number, name in enumerate(NODE_TYPES)}
_EDGE = {name: number for number, name in enumerate(EDGE_TYPES)}
_NODE_FIELDS = 7
_NODE_TYPE_OF = {
    "str": "string", "int": "number", "float": "number", "function": "closure",
    "builtin_function_or_method": "closure", "code": "code", "module": "code", "type": "closure",
}  # fmt: skip
_EDGE_TYPE_OF = {
    "element": "element", "value": "property", "attribute": "property", "slot": "property",
    "member": "property", "local": "context",
}  # fmt: skip
"""All other kinds of references are ``internal``."""

_CHUNK = 1 << 20
MOST_BYTES = 0xFFFFFFFF
"""DevTools keeps an object's size in 32 bits: a larger one is shown wrongly there."""

META = {
    "node_fields": ["type", "name", "id", "self_size", "edge_count", "trace_node_id",
                    "detachedness"],
    "node_types": [list(NODE_TYPES), "string", "number", "number", "number", "number", "number"],
    "edge_fields": ["type", "name_or_index", "to_node"],
    "edge_types": [list(EDGE_TYPES), "string_or_number", "node"],
    "trace_function_info_fields": ["function_id", "name", "script_name", "script_id", "line",
                                   "column"],
    "trace_node_fields": ["id", "function_info_index", "count", "size", "children"],
    "sample_fields": ["timestamp_us", "last_assigned_id"],
    "location_fields": ["object_index", "script_id", "line", "column"],
}  # fmt: skip

Write = Callable[[bytes | memoryview], None]
Progress = Callable[[int, int], None]


@dataclass(slots=True)
class _Outside:
    """A node that stands for something outside of the heap.

    ``children``: (name, place among these nodes); ``objects``: (name's number, node).
    """

    name: str
    children: list[tuple[str, int]] = field(default_factory=list)
    objects: list[tuple[int, int]] = field(default_factory=list)


class _Outsides:
    """All of them: the first is the root."""

    def __init__(self) -> None:
        self.nodes = [_Outside("")]

    def add(self, name: str, below: int = 0, called: str | None = None) -> int:
        """A new one, referred to by ``below``; its place."""
        self.nodes.append(_Outside(name))
        place = len(self.nodes) - 1
        self.nodes[below].children.append((called or name, place))
        return place

    def edges(self) -> int:
        """How many references they have."""
        return sum(len(one.children) + len(one.objects) for one in self.nodes)


def write_heapsnapshot(graph: Graph, write: Write, progress: Progress) -> dict[str, Any]:
    """Write it; what is to be said of it: ``nodes``, ``edges``, ``notes``.

    ``progress`` is told of rows done and of all. Raises OSError as ``write`` does,
    HeapDumpError for columns that do not hold, BackendUnavailable without a compiler.
    """
    names = node_names(graph)
    outsides = _outsides(graph, names)
    nodes, edges = len(outsides.nodes) + graph.nodes, outsides.edges() + graph.edges
    head = {"meta": META, "node_count": nodes, "edge_count": edges, "trace_function_count": 0}
    done = 0

    def tell(rows: int) -> None:
        nonlocal done
        done += rows
        progress(done, nodes + edges)

    write(b'{"snapshot":' + orjson.dumps(head) + b',\n"nodes":[')
    write(_outside_rows(outsides, names))
    _in_order(_node_chunks(graph, names, len(outsides.nodes)), write, tell)
    write(b'],\n"edges":[')
    write(_outside_edges(outsides, names))
    _in_order(_edge_chunks(graph, names, len(outsides.nodes)), write, tell)
    write(b'],\n"trace_function_infos":[],"trace_tree":[],"samples":[],"locations":[],\n')
    write(b'"strings":[')
    for number, piece in enumerate(json_texts(names.texts)):
        write(b"," + piece if number else piece)
    write(b"]}\n")
    return {"nodes": nodes, "edges": edges, "notes": list(_notes(graph))}


def _notes(graph: Graph) -> Iterator[str]:
    large = int(np.count_nonzero(graph.shallow > MOST_BYTES))
    if large:
        yield f"{large} objects are of 4 GiB or more: DevTools cannot show sizes of that many bytes"


def _in_order(chunks: Iterator[Callable[[], tuple[int, list[bytes]]]], write: Write,
              tell: Callable[[int], None]) -> None:  # fmt: skip
    """Two chunks are made at a time, and written in their order."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        waiting: list[Future[tuple[int, list[bytes]]]] = []

        def put() -> None:
            rows, pieces = waiting.pop(0).result()
            for piece in pieces:
                write(piece)
            tell(rows)

        for chunk in chunks:
            waiting.append(pool.submit(chunk))
            if len(waiting) > 2:
                put()
        while waiting:
            put()


def _outsides(graph: Graph, names: NodeNames) -> _Outsides:
    """The roots of a heap by what keeps them."""
    found = _Outsides()
    heap, columns = graph.heap, graph.heap.columns
    threads = found.add("(threads)")
    thread = {
        number: found.add(f"(thread {one.get('name') or one.get('native_id')})", threads)
        for number, one in enumerate(heap.threads)
    }
    frames = {
        number: found.add(
            f"{one.get('function')} {one.get('file')}:{one.get('line')}",
            thread.get(one.get("thread", -1), threads),
            str(one.get("function")),
        )
        for number, one in enumerate(heap.frames)
    }
    kept = graph.frame_keeps
    for frame, name, node in zip(
        *(columns[f"reference_{part}"][kept].tolist() for part in ("frame", "name", "node")),
        strict=True,
    ):
        found.nodes[frames[frame]].objects.append((name, node))
    kinds: dict[int, int] = {}
    for kind, name, node in zip(
        *(columns[f"root_{part}"].tolist() for part in ("kind", "name", "node")), strict=True
    ):
        if kind not in kinds:
            kinds[kind] = found.add(f"({graph.root_kind(kind)})")
        found.nodes[kinds[kind]].objects.append((name, node))
    for group, nodes in (
        ("(C code)", columns["excess_node"][columns["excess"] > 0]),
        ("(immortal)", columns["immortal_node"]),
        ("(unreachable)", np.flatnonzero(graph.idom == graph.garbage)),
    ):
        place = found.add(group)
        found.nodes[place].objects = [(0, node) for node in nodes.tolist()]
    return found
