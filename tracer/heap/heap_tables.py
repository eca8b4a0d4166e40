"""A dump as CSV or as JSON lines: tables of objects and references, for other programs.

What the columns are is in README.md. Texts come from the process: CSV has them quoted, with
control characters spelled out and nothing that a spreadsheet would take for a formula; JSON
has them as they are, escaped as JSON is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from tracer.escape import terminal
from tracer.heap.graph import EDGE_KINDS, ELEMENT, FRAME, HELD, IMMORTAL, KEY, VALUE, Graph
from tracer.heap.json_text import json_text
from tracer.heap.node_names import lengths
from tracer.heap.roots import frame_roots, named_roots, thread_of
from tracer.heap.text_rows import (
    Chunk,
    Column,
    Progress,
    Texts,
    Write,
    chunk_of,
    write_chunks,
)

OBJECT_COLUMNS = (
    "object", "address", "type", "shallow_bytes", "retained_bytes", "kept_by", "reachable",
    "length", "text",
)  # fmt: skip
REFERENCE_COLUMNS = ("from", "to", "kind", "name", "index", "key")
_NONE = np.uint32(0xFFFFFFFF)
_CHUNK = 1 << 18
_FORMULA = frozenset("=+-@\t\r")
_MAX_TEXT = 1000

Encode = Callable[[str], bytes]
Columns = list[tuple[npt.NDArray[Any], Texts | None]]


def write_csv(
    graph: Graph, write: Write, progress: Progress, *, references: bool
) -> dict[str, Any]:
    """One row for each object, or for each reference that keeps its target; ``rows`` of them.

    Raises as write_heapsnapshot does.
    """
    names = REFERENCE_COLUMNS if references else OBJECT_COLUMNS
    make, rows = _table(graph, csv_text, references=references)
    write(",".join(names).encode() + b"\n")

    def chunk(first: int) -> tuple[int, list[bytes]]:
        before = [b"", *[b","] * (len(names) - 1)]
        columns = [
            Column(literal, values, texts, b"")
            for literal, (values, texts) in zip(before, make(first), strict=True)
        ]
        return chunk_of([*columns, Column(b"\n")])

    _write(chunk, rows, write, partial(_tell, progress, [0], rows))
    return {"rows": rows, "notes": []}


def write_json(graph: Graph, write: Write, progress: Progress) -> dict[str, Any]:
    """JSON lines: the dump, its roots, its objects, its references; ``rows`` of the last two.

    Raises as write_heapsnapshot does.
    """
    heap = graph.heap
    about = {**heap.meta, "closure": heap.closure.to_dict(), "threads": heap.threads}
    write(json_line({"dump": about}))
    for line in _root_lines(graph):
        write(line)
    total = graph.nodes + graph.edges
    done = [0]
    for references in (False, True):
        names = REFERENCE_COLUMNS if references else OBJECT_COLUMNS
        make, rows = _table(graph, json_text, references=references)
        before = [f',"{name}":'.encode() for name in names]
        before[0] = b"{" + before[0][1:]

        def chunk(
            first: int, make: Callable[[int], Columns] = make, before: list[bytes] = before
        ) -> tuple[int, list[bytes]]:
            columns = [
                Column(literal, values, texts, b"null")
                for literal, (values, texts) in zip(before, make(first), strict=True)
            ]
            return chunk_of([*columns, Column(b"}\n")])

        _write(chunk, rows, write, partial(_tell, progress, done, total))
    return {"rows": total, "notes": []}


def _write(
    chunk: Callable[[int], tuple[int, list[bytes]]],
    rows: int,
    write: Write,
    tell: Callable[[int], None],
) -> None:
    chunks: Iterator[Chunk] = (partial(chunk, first) for first in range(0, rows, _CHUNK))
    write_chunks(chunks, write, tell)


def _tell(progress: Progress, done: list[int], total: int, rows: int) -> None:
    done[0] += rows
    progress(done[0], total)


def csv_text(text: str) -> bytes:
    """One field: quoted where it has to be."""
    text = terminal(text, _MAX_TEXT)
    if text[:1] in _FORMULA:
        text = "'" + text
    quoted = text.replace('"', '""')
    return f'"{quoted}"'.encode() if set(text) & set(',"\n\r') else text.encode()


def json_line(value: dict[str, Any]) -> bytes:
    """One line; whatever is in its texts."""
    try:
        return orjson.dumps(value) + b"\n"
    except orjson.JSONEncodeError:  # a lone surrogate
        import json

        return json.dumps(value).encode() + b"\n"


def _table(
    graph: Graph, encode: Encode, *, references: bool
) -> tuple[Callable[[int], Columns], int]:
    """What makes the columns of the rows from a place on, and how many rows there are."""
    strings = Texts([encode(text) for text in graph.heap.strings])
    if references:
        kinds = Texts([encode(name) for name in EDGE_KINDS])
        return partial(_references, graph, kinds, strings), graph.edges
    types = Texts([encode(one.name) for one in graph.heap.types])
    yes_no = Texts([b"false", b"true"])
    text = np.full(graph.nodes, _NONE, np.uint32)
    text[graph.heap.columns["text_node"]] = graph.heap.columns["text"]
    parts = {"types": types, "yes_no": yes_no, "strings": strings}
    return partial(_objects, graph, parts, lengths(graph), text), graph.nodes


def _objects(
    graph: Graph,
    texts: dict[str, Texts],
    length: npt.NDArray[np.uint32],
    text: npt.NDArray[np.uint32],
    first: int,
) -> Columns:
    part = slice(first, min(first + _CHUNK, graph.nodes))
    idom = graph.idom[part]
    return [
        (np.arange(part.start, part.stop, dtype=np.uint32), None),
        (graph.heap.columns["address"][part], None),
        (graph.heap.columns["type"][part], texts["types"]),
        (graph.shallow[part], None),
        (graph.retained[part], None),
        (np.where(idom < graph.nodes, idom.astype(np.uint32), _NONE), None),
        (graph.reachable[part].astype(np.uint8), texts["yes_no"]),
        (length[part], None),
        (text[part], texts["strings"]),
    ]


def _references(graph: Graph, kinds: Texts, strings: Texts, first: int) -> Columns:
    part = slice(first, min(first + _CHUNK, graph.edges))
    kind, number = graph.labels.kinds[part], graph.labels.numbers[part]
    source = np.searchsorted(graph.indptr, np.arange(part.start, part.stop), side="right") - 1
    placed = (kind == ELEMENT) | (kind == KEY)
    value = kind == VALUE
    named = ~placed & ~value & (number != 0)
    return [
        (source.astype(np.uint32), None),
        (graph.targets[part].astype(np.uint32), None),
        (kind, kinds),
        (np.where(named, number, _NONE), strings),
        (np.where(placed, number, _NONE), None),
        (np.where(value, number, _NONE), None),
    ]


def _root_lines(graph: Graph) -> Iterator[bytes]:
    heap = graph.heap
    for frame, name, node in frame_roots(heap):
        where = heap.frames[frame]
        thread = thread_of(heap, where)
        named = heap.threads[thread] if thread >= 0 else {}
        yield json_line(
            {"root": node, "kind": FRAME, "name": heap.strings[name] or None,
             "thread": named.get("name"), "function": where.get("function"),
             "file": where.get("file"), "line": where.get("line")}
        )  # fmt: skip
    for kind, name, node in named_roots(heap):
        yield json_line({"root": node, "kind": kind, "name": heap.strings[name] or None})
    columns = heap.columns
    for kind, nodes in (
        (HELD, columns["excess_node"][columns["excess"] > 0]),
        (IMMORTAL, columns["immortal_node"]),
    ):
        for node in nodes.tolist():
            yield json_line({"root": node, "kind": kind, "name": None})
