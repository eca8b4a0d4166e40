"""Names and ways in any heap that a reader accepts: no crash, nothing raw on a screen."""

from __future__ import annotations

import json
import shutil
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tracer.heap.graph import Graph
from tracer.heap.model import LABEL_KINDS, TAIL_STEP, Closure, Heap, HeapType, degrees
from tracer.heap.names import MOST_STEPS, Names
from tracer.heap.retainers import paths, retainers
from tracer.heap.sizes import by_module, by_type
from tracer.heap_graph_view import (
    path_facts,
    path_lines,
    retainers_facts,
    retainers_lines,
    row_facts,
    row_lines,
)

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")

_FIELDS = ["md_name", "md_dict", "func_module", "func_qualname", "func_code", "func_closure",
           "ob_ref", "co_localsplusnames", "__dict__"]  # fmt: skip
_KINDS = ["plain", "str", "list", "tuple", "dict", "type", "module", "fields", "set"]
_NAMES = ["app", "function", "NoneType", "bytes", "\x1b[31m", "\u202eevil", "a\nb", "[bold]x[/]"]


def numbers(draw: st.DrawFn, below: int, count: int) -> list[int]:
    return draw(st.lists(st.integers(0, max(below - 1, 0)), min_size=count, max_size=count))


@st.composite
def heaps(draw: st.DrawFn) -> Heap:
    """Columns at random, as a reader checks them."""
    nodes = draw(st.integers(1, 10))
    strings = ["", *_FIELDS, *_NAMES, *draw(st.lists(st.text(max_size=5), max_size=3))]
    count = draw(st.integers(1, 4))
    types = [
        HeapType(
            draw(st.sampled_from(["", "builtins", *_NAMES])),
            draw(st.sampled_from(_NAMES)),
            draw(st.integers(0, nodes - 1)),
            draw(st.booleans()),
            draw(st.sampled_from(_KINDS)),
            None,
        )
        for _ in range(count)
    ]
    shapes = draw(st.integers(1, 4))
    shape_count = np.array(numbers(draw, 5, shapes), np.uint32)
    tails = st.lists(st.sampled_from([0, 1, 2, 3, 0x81]), min_size=shapes, max_size=shapes)
    tail = np.array(draw(tails), np.uint8)
    shape = np.array(numbers(draw, shapes, nodes), np.uint32)
    with_tail = int(np.count_nonzero(np.array(TAIL_STEP)[tail & 0x7F][shape]))
    degree = degrees(shape_count, tail, shape, np.array(numbers(draw, 4, with_tail), np.int64))
    labels = int(shape_count.sum())
    kind = st.sampled_from([3, 4, 4, 4, 5, 6, 7, 8, 9, 10, 12, 0x83])
    kinds = np.array(draw(st.lists(kind, min_size=labels, max_size=labels)), np.uint8)
    rows, texts = draw(st.integers(0, 3)), draw(st.integers(0, nodes))
    frames, references = draw(st.integers(1, 2)), draw(st.integers(0, 3))
    held, excess = draw(st.integers(0, 2)), draw(st.integers(-2, 3))
    return Heap(
        meta={"root_kinds": draw(st.sampled_from([None, 3, ["interpreter", "thread"], [{}]]))},
        types=types,
        strings=strings,
        columns={
            "address": np.cumsum(np.array(numbers(draw, 99, nodes)) + 1).astype(np.uint64),
            "type": np.array(numbers(draw, count, nodes), np.uint32),
            "size": np.array(numbers(draw, 1 << 40, nodes), np.uint64),
            "shape": shape,
            "degree": degree,
            "target": np.array(numbers(draw, nodes, int(degree.sum())), np.int32),
            "length": np.array(numbers(draw, 99, draw(st.integers(0, nodes))), np.uint32),
            "shape_count": shape_count,
            "shape_tail": tail,
            "label_kind": kinds,
            "label_name": np.array(numbers(draw, len(strings), labels), np.uint32),
            "excess_node": np.array(numbers(draw, nodes, held), np.uint32),
            "excess": np.full(held, excess, np.int32),
            "immortal_node": np.array(numbers(draw, nodes, draw(st.integers(0, 2))), np.uint32),
            "root_node": np.array(numbers(draw, nodes, rows), np.uint32),
            "root_kind": np.array(numbers(draw, 16, rows), np.uint8),
            "root_name": np.array(numbers(draw, len(strings), rows), np.uint32),
            "reference_frame": np.array(numbers(draw, frames, references), np.uint32),
            "reference_node": np.array(numbers(draw, nodes, references), np.uint32),
            "reference_kind": np.array(numbers(draw, 256, references), np.uint8),
            "reference_name": np.array(numbers(draw, len(strings), references), np.uint32),
            "text_node": np.sort(np.array(numbers(draw, nodes, texts), np.uint32)),
            "text": np.array(numbers(draw, len(strings), texts), np.uint32),
        },
        closure=Closure(0, 0, 0, 0, 0, 0),
        threads=draw(st.sampled_from([[], [{"name": "\x1b[2J"}], [{"native_id": []}]])),
        frames=[
            draw(
                st.sampled_from(
                    [{}, {"thread": 0, "function": "f\x07", "line": 3}, {"thread": "x", "line": {}}]
                )
            )
            for _ in range(frames)
        ],
    )


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(heap=heaps())
def test_any_heap_has_names_and_no_line_has_control_characters(heap: Heap) -> None:
    graph = Graph.of(heap)
    names = Names(graph)
    lines: list[str] = []
    facts: list[dict[str, Any]] = []
    for rows, what in ((by_type(graph, 5), "type"), (by_module(names, 5), "module")):
        lines += row_lines(rows, what)
        facts += [row_facts(row, what) for row in rows]
        assert sum(row.objects for row in rows) <= graph.nodes
    for node in range(graph.nodes):
        what = f"{int(heap.columns['address'][node]):#x}"
        found, kept = paths(names, what, 3), retainers(names, what, 3)
        assert [one.node for one in found] == [node]
        assert (found[0].way.root is not None) == bool(graph.reachable[node])
        lines += [*path_lines(names, found), *retainers_lines(names, kept)]
        facts += [*(path_facts(names, one) for one in found), retainers_facts(names, kept)]
    for kind in {int(number) for number in heap.columns["type"]}:
        lines += retainers_lines(names, retainers(names, heap.types[kind].name, 3))
    assert all(line.isprintable() for line in lines)
    json.dumps(facts)


def test_the_name_of_a_long_list_is_short() -> None:
    """A chain of 10,000 objects that refer to each other by an attribute."""
    nodes = 10_000
    none = np.zeros(0, np.uint32)
    heap = Heap(
        meta={"root_kinds": ["interpreter"]},
        types=[HeapType("app", "Node", 0, False, "plain", 16)],
        strings=["", "following"],
        columns={
            "address": np.arange(16, 16 * nodes + 16, 16).astype(np.uint64),
            "type": np.zeros(nodes, np.uint32),
            "size": np.full(nodes, 16, np.uint64),
            "shape": np.append(np.zeros(nodes - 1, np.uint32), np.uint32(1)),
            "degree": np.append(np.ones(nodes - 1, np.int64), np.int64(0)),
            "target": np.arange(1, nodes, dtype=np.int32),
            "shape_count": np.array([1, 0], np.uint32),
            "shape_tail": np.zeros(2, np.uint8),
            "label_kind": np.array([LABEL_KINDS.index("attribute")], np.uint8),
            "label_name": np.ones(1, np.uint32),
            "root_node": np.zeros(1, np.uint32),
            "root_kind": np.zeros(1, np.uint8),
            "root_name": np.zeros(1, np.uint32),
            **dict.fromkeys(
                ("length", "excess_node", "immortal_node", "reference_frame", "reference_node",
                 "reference_kind", "reference_name", "text_node", "text"), none,
            ),
            "excess": np.zeros(0, np.int32),
        },
        closure=Closure(0, 0, 0, 0, 0, 0),
    )  # fmt: skip
    names = Names(Graph.of(heap))
    way = names.way(nodes - 1)
    assert way.left_out == nodes - MOST_STEPS
    assert len(way.steps) == MOST_STEPS
    assert way.name == f"<interpreter's >…({way.left_out} steps)…" + ".following" * MOST_STEPS
    assert names.name(2) == "<interpreter's > app.Node .following.following"
    assert int(names.graph.retained[0]) == 16 * nodes
