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
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from tracer import units
from tracer.heap.graph import EDGE_KINDS, VALUE, Graph
from tracer.heap.json_text import json_texts
from tracer.heap.node_names import NodeNames, node_names
from tracer.heap.roots import kept_by_frames, root_kinds, thread_of
from tracer.heap.text_rows import (
    Chunk,
    Column,
    Progress,
    Write,
    chunk_of,
    format_rows,
    write_chunks,
)

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

_CALLED = {"key": "key", "stack": "stack", "dict": "__dict__", "type": "__class__",
           "again": "again", "weak": "weak"}  # fmt: skip
"""Names of those that have none of their own."""

_STEP = np.uint64(_NODE_FIELDS)  # a node is referred to by its first field's place
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


@dataclass(slots=True)
class _Outside:
    """A node that stands for something outside of the heap.

    ``children``: (name, place among these nodes); ``called``, ``objects``: numbers of names
    and of objects, u32 and int64.
    """

    name: str
    children: list[tuple[str, int]] = field(default_factory=list)
    called: npt.NDArray[Any] = field(default_factory=lambda: np.zeros(0, np.uint32))
    objects: npt.NDArray[Any] = field(default_factory=lambda: np.zeros(0, np.int64))

    def edges(self) -> int:
        """How many references it has."""
        return len(self.children) + len(self.objects)


def write_heapsnapshot(graph: Graph, write: Write, progress: Progress) -> dict[str, Any]:
    """Write it; what is to be said of it: ``nodes``, ``edges``, ``notes``.

    ``progress`` is told of rows done and of all. Raises OSError as ``write`` does,
    HeapDumpError for columns that do not hold, BackendUnavailable without a compiler.
    """
    names = node_names(graph)
    outsides = _outsides(graph)
    nodes = len(outsides) + graph.nodes
    edges = sum(one.edges() for one in outsides) + graph.edges
    head = {"meta": META, "node_count": nodes, "edge_count": edges, "trace_function_count": 0}
    done = 0

    def tell(rows: int) -> None:
        nonlocal done
        done += rows
        progress(done, nodes + edges)

    write(b'{"snapshot":' + orjson.dumps(head) + b',\n"nodes":[')
    write(_outside_nodes(outsides, names.texts))
    write_chunks(_node_chunks(graph, names, len(outsides)), write, tell)
    write(b'],\n"edges":[')
    for piece in _outside_edges(outsides, names.texts):
        write(piece)
    write_chunks(_edge_chunks(graph, names, len(outsides)), write, tell)
    write(b'],\n"trace_function_infos":[],"trace_tree":[],"samples":[],"locations":[],\n')
    write(b'"strings":[')
    for number, piece in enumerate(json_texts(names.texts)):
        write(b"," + piece if number else piece)
    write(b"]}\n")
    return {"nodes": nodes, "edges": edges, "notes": list(_notes(graph))}


def _notes(graph: Graph) -> Iterator[str]:
    large = int(np.count_nonzero(graph.shallow > MOST_BYTES))
    if large:
        yield f"{units.plural(large, 'object')} of 4 GiB or more: DevTools cannot show their sizes"


def _outsides(graph: Graph) -> list[_Outside]:
    """The root, and the roots of the heap by what keeps them."""
    found = [_Outside("")]

    def add(name: str, below: int = 0) -> int:
        found.append(_Outside(name))
        found[below].children.append((name, len(found) - 1))
        return len(found) - 1

    _add_threads(graph, found, add)
    columns = graph.heap.columns
    for kind, name in root_kinds(graph.heap).items():
        rows = columns["root_kind"] == kind
        place = add(f"({name})")
        found[place].called = columns["root_name"][rows]
        found[place].objects = columns["root_node"][rows]
    for group, nodes in (
        ("(C code)", columns["excess_node"][columns["excess"] > 0]),
        ("(immortal)", columns["immortal_node"]),
        ("(unreachable)", np.flatnonzero(graph.idom == graph.garbage)),
    ):
        place = add(group)
        found[place].called = np.zeros(len(nodes), np.uint32)
        found[place].objects = nodes
    return found


def _add_threads(graph: Graph, found: list[_Outside], add: Callable[[str, int], int]) -> None:
    heap, columns = graph.heap, graph.heap.columns
    threads = add("(threads)", 0)
    thread = {
        number: add(f"(thread {one.get('name') or one.get('native_id')})", threads)
        for number, one in enumerate(heap.threads)
    }
    frames = [
        add(
            f"{one.get('function')} {one.get('file')}:{one.get('line')}",
            thread.get(thread_of(heap, one), threads),
        )
        for one in heap.frames
    ]
    keeps = kept_by_frames(heap)
    order = np.argsort(columns["reference_frame"][keeps], kind="stable")
    of, called, nodes = (
        columns[f"reference_{part}"][keeps][order] for part in ("frame", "name", "node")
    )
    ends = np.searchsorted(of, np.arange(len(frames) + 1))
    for place, first, end in zip(frames, ends[:-1].tolist(), ends[1:].tolist(), strict=True):
        found[place].called, found[place].objects = called[first:end], nodes[first:end]


def _outside_nodes(outsides: list[_Outside], texts: list[str]) -> bytes:
    rows = []
    for number, one in enumerate(outsides):
        texts.append(one.name)
        row = (_NODE["synthetic"], len(texts) - 1, 2 * number + 1, 0, one.edges(), 0, 0)
        rows.append(",".join(map(str, row)))
    return ",\n".join(rows).encode()


def _outside_edges(outsides: list[_Outside], texts: list[str]) -> Iterator[bytes | memoryview]:
    """Theirs come first, as they do. Names that are none are given as numbers."""
    first = b""
    for one in outsides:
        for name, place in one.children:
            texts.append(name)
            yield first + f"{_EDGE['property']},{len(texts) - 1},{_NODE_FIELDS * place}".encode()
            first = b",\n"
        if not len(one.objects):
            continue
        named = one.called != 0
        index = np.arange(len(one.objects), dtype=np.uint32)
        to_node = (one.objects.astype(np.uint64) + np.uint64(len(outsides))) * _STEP
        yield from format_rows(
            (
                Column(b",\n", np.where(named, _EDGE["property"], _EDGE["element"]).astype("u1")),
                Column(b",", np.where(named, one.called, index).astype(np.uint32)),
                Column(b",", to_node),
            )
        )


def _ids(graph: Graph, taken: int) -> npt.NDArray[np.uint32]:
    """An id for each object, the same in every dump of its process, by its address.

    Objects begin at multiples of 8 and take 16 bytes or more: address ÷ 16, of which the
    lower 32 bits count. Two regions that lie a multiple of 64 GiB apart may meet there:
    then the later object has another id, and comparing two files takes it for new.
    """
    ids: npt.NDArray[np.uint32] = (graph.heap.columns["address"] >> np.uint64(4)).astype(np.uint32)
    order = np.argsort(ids, kind="stable")
    ordered = ids[order]
    clash = ordered <= 2 * taken
    clash[1:] |= ordered[1:] == ordered[:-1]
    if clash.any():
        free = np.setdiff1d(
            np.arange(2 * taken + 1, 2 * taken + 1 + 2 * len(ids), dtype=np.uint32), ordered
        )
        ids[order[clash]] = free[: np.count_nonzero(clash)]
    return ids


def _node_chunks(graph: Graph, names: NodeNames, shift: int) -> Iterator[Chunk]:
    heap = graph.heap
    of_type = np.array(
        [_NODE[_NODE_TYPE_OF.get(one.name, "object")] for one in heap.types] or [0], np.uint8
    )
    ids = _ids(graph, shift)
    degree = np.diff(graph.indptr)
    for first in range(0, graph.nodes, _CHUNK):

        def make(part: slice = slice(first, first + _CHUNK)) -> tuple[int, list[bytes]]:
            kinds = of_type[heap.columns["type"][part]]
            columns = (
                Column(b",\n", kinds),
                Column(b",", names.number[part]),
                Column(b",", ids[part]),
                Column(b",", graph.shallow[part]),
                Column(b",", degree[part].astype(np.uint32)),
                Column(b",0,0"),
            )
            return chunk_of(columns)

        yield make


def _edge_chunks(graph: Graph, names: NodeNames, shift: int) -> Iterator[Chunk]:
    kind_of, fixed = _edge_kinds(names.texts)
    weak = _from_unreachable(graph)
    weak_name = len(names.texts)
    names.texts.append("(does not count)")
    labels = graph.labels

    def make(first: int) -> tuple[int, list[bytes]]:
        part = slice(first, first + _CHUNK)
        kinds, numbers = labels.kinds[part], labels.numbers[part].copy()
        of_value = kinds == VALUE
        numbers[of_value] = names.key[numbers[of_value]]
        called = fixed[kinds]
        numbers = np.where(called != 0, called, numbers)
        shown = kind_of[kinds]
        places = weak[np.searchsorted(weak, first) : np.searchsorted(weak, first + _CHUNK)] - first
        shown[places], numbers[places] = _EDGE["weak"], weak_name
        to_node = (graph.targets[part].astype(np.uint64) + np.uint64(shift)) * _STEP
        columns = (Column(b",\n", shown), Column(b",", numbers), Column(b",", to_node))
        return chunk_of(columns)

    for first in range(0, graph.edges, _CHUNK):
        yield partial(make, first)


def _edge_kinds(texts: list[str]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint32]]:
    """Per kind of reference that of the snapshot, and the number of its name, 0: its own."""
    kind_of = np.zeros(len(EDGE_KINDS), np.uint8)
    fixed = np.zeros(len(EDGE_KINDS), np.uint32)
    for number, name in enumerate(EDGE_KINDS):
        kind_of[number] = _EDGE[_EDGE_TYPE_OF.get(name, "internal")]
        if name in _CALLED:
            fixed[number] = len(texts)
            texts.append(_CALLED[name])
    return kind_of, fixed


def _from_unreachable(graph: Graph) -> npt.NDArray[np.int64]:
    """References of what no root leads to, to what one does: they keep nothing."""
    sources = np.flatnonzero(~graph.reachable)
    starts, counts = graph.indptr[sources], np.diff(graph.indptr)[sources]
    inside = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
    edges = np.repeat(starts, counts) + inside
    found: npt.NDArray[np.int64] = edges[graph.reachable[graph.targets[edges]]]
    return found
