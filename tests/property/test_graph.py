"""The graph's C code against networkx, igraph and brute force, on random graphs."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from itertools import pairwise
from typing import Any, NamedTuple

import igraph
import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probes.errors import DamagedHeapDump
from tracer.heap.graph_code import Library, Rows, library

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")


class Case(NamedTuple):
    """A graph: ``edges`` in any order, some twice, some from a node to itself."""

    nodes: int
    edges: list[tuple[int, int]]
    roots: list[int]
    sizes: list[int]

    @property
    def rows(self) -> Rows:
        source = np.array([edge[0] for edge in self.edges], np.int64)
        order = np.argsort(source, kind="stable")
        indptr = np.zeros(self.nodes + 1, np.int64)
        indptr[1:] = np.cumsum(np.bincount(source, minlength=self.nodes))
        return Rows(indptr, np.array([edge[1] for edge in self.edges], np.int32)[order])

    @property
    def digraph(self) -> Any:
        """With the super-root, number ``nodes``."""
        graph = nx.MultiDiGraph(self.edges)
        graph.add_nodes_from(range(self.nodes + 1))
        graph.add_edges_from((self.nodes, root) for root in self.roots)
        return graph


@st.composite
def cases(draw: st.DrawFn, most: int = 40) -> Case:
    nodes = draw(st.integers(1, most))
    node = st.integers(0, nodes - 1)
    return Case(
        nodes,
        draw(st.lists(st.tuples(node, node), max_size=3 * nodes)),
        draw(st.lists(node, max_size=4)),
        draw(st.lists(st.integers(0, 1 << 40), min_size=nodes, max_size=nodes)),
    )


@pytest.fixture(scope="module")
def code() -> Library:
    return library()


def reached(case: Case, without: Iterable[int] = ()) -> set[int]:
    """What the roots lead to when some nodes are gone."""
    graph = case.digraph
    graph.remove_nodes_from(without)
    return set(nx.descendants(graph, case.nodes))


def immediate(graph: Any, start: int) -> dict[int, int]:
    found = nx.immediate_dominators(graph, start)
    return {node: above for node, above in found.items() if node != start}


@settings(max_examples=300, deadline=None)
@given(case=cases())
def test_dominators_are_those_of_networkx(code: Library, case: Case) -> None:
    live = reached(case)
    found = code.dominators(case.rows, np.array(case.roots, np.int32), np.array(case.sizes))
    ours = dict(enumerate(found.idom.tolist()))
    assert {node: ours[node] for node in live} == immediate(case.digraph, case.nodes)
    # What no root leads to: one way in for each strongly connected part that nothing leads to.
    lost = case.digraph.subgraph(set(range(case.nodes)) - live).copy()
    parts = nx.condensation(nx.DiGraph(lost))
    top = case.nodes + 1
    for part, members in parts.nodes(data="members"):
        if not parts.in_degree(part):
            (entry,) = [node for node in members if ours[node] == top]
            lost.add_edge(top, entry)
    if lost:
        assert {node: ours[node] for node in lost if node != top} == immediate(lost, top)
    assert found.live == sum(case.sizes[node] for node in live)
    assert found.garbage == sum(case.sizes) - found.live


@settings(max_examples=100, deadline=None)
@given(case=cases(most=120))
def test_dominators_are_those_of_igraph(code: Library, case: Case) -> None:
    found = code.dominators(case.rows, np.array(case.roots, np.int32), np.array(case.sizes))
    edges = case.edges + [(case.nodes, root) for root in case.roots]
    graph = igraph.Graph(case.nodes + 1, edges, directed=True)
    theirs = graph.dominator(case.nodes, mode="out")
    for node in reached(case):
        assert found.idom[node] == theirs[node]


@settings(max_examples=100, deadline=None)
@given(case=cases(most=25))
def test_retained_bytes_are_what_goes_with_a_node(code: Library, case: Case) -> None:
    found = code.dominators(case.rows, np.array(case.roots, np.int32), np.array(case.sizes))
    live = reached(case)
    for node in live:
        gone = live - reached(case, without=[node])
        assert int(found.retained[node]) == sum(case.sizes[one] for one in gone)


@settings(max_examples=100, deadline=None)
@given(case=cases(most=25), data=st.data())
def test_what_a_set_of_nodes_keeps(code: Library, case: Case, data: st.DataObject) -> None:
    """Together: what goes with all of them. Grouped: what goes with each, counted once."""
    live = reached(case)
    group = data.draw(st.lists(st.integers(0, 3), min_size=case.nodes, max_size=case.nodes))
    found = code.dominators(case.rows, np.array(case.roots, np.int32), np.array(case.sizes))
    totals = code.grouped(found, np.array(group, np.uint32), 3).retained.tolist()
    for number, total in enumerate(totals):
        members = [node for node in range(case.nodes) if group[node] == number]
        expected: set[int] = set()
        for node in live.intersection(members):
            expected |= live - reached(case, without=[node])
        lost = sum(
            case.sizes[node]
            for node in set(range(case.nodes)) - live
            if any(one in members for one in _above(found.idom.tolist(), node))
        )
        assert total == sum(case.sizes[node] for node in expected) + lost
        left = code.reached(case.rows, np.array(case.roots, np.int32), np.array(members, np.int32))
        assert set(np.flatnonzero(left).tolist()) == reached(case, without=members)


@settings(max_examples=100, deadline=None)
@given(case=cases(most=25), data=st.data())
def test_a_group_takes_what_its_members_dominate(
    code: Library, case: Case, data: st.DataObject
) -> None:
    group = data.draw(st.lists(st.integers(0, 5), min_size=case.nodes, max_size=case.nodes))
    found = code.dominators(case.rows, np.array(case.roots, np.int32), np.array(case.sizes))
    taken = code.grouped(found, np.array(group, np.uint32), 3, inherit=True)
    for node in range(case.nodes):
        above = _above(found.idom.tolist(), node)
        expected = [group[one] for one in above if group[one] < 3]
        if expected:
            assert taken.group[node] == expected[0]
        else:
            assert taken.group[node] >= 3
        inside = [int(taken.group[one]) for one in above]
        assert taken.top[node] == (inside[0] < 3 and inside[0] not in inside[1:])


def _above(idom: list[int], node: int) -> list[int]:
    found = []
    while node < len(idom):
        found.append(node)
        node = idom[node]
    return found


@settings(max_examples=200, deadline=None)
@given(case=cases(), split=st.integers(0, 4))
def test_ways_are_as_short_as_those_of_networkx(code: Library, case: Case, split: int) -> None:
    first, then = case.roots[:split], case.roots[split:]
    tiers = [np.array(first, np.int32), np.array(then, np.int32)]
    before = code.ways(case.rows, tiers).tolist()
    graph = case.digraph
    lengths: dict[int, int] = {}
    for roots in (first, then):
        mine = graph.copy()
        mine.remove_edges_from([edge for edge in graph.edges if edge[0] == case.nodes])
        mine.remove_nodes_from(lengths)
        mine.add_edges_from((case.nodes, root) for root in roots if root not in lengths)
        found = nx.single_source_shortest_path_length(mine, case.nodes)
        lengths |= {node: length for node, length in found.items() if node != case.nodes}
    for node in range(case.nodes):
        way, at = [], node
        while at not in {-1, case.nodes}:
            way.append(at)
            at = before[at]
        assert at == (case.nodes if node in lengths else -1)
        if at == case.nodes:
            assert len(way) == lengths[node]
            assert way[-1] in case.roots
            assert all(graph.has_edge(b, a) for a, b in pairwise(way))


@settings(max_examples=100, deadline=None)
@given(case=cases())
def test_turned_round_the_references_are_the_same(code: Library, case: Case) -> None:
    turned = code.reverse(case.rows)
    found = [
        (source, target)
        for target in range(case.nodes)
        for source in turned.targets[turned.indptr[target] : turned.indptr[target + 1]].tolist()
    ]
    assert sorted(found) == sorted(case.edges)
    assert found == sorted(found, key=lambda edge: (edge[1], edge[0]))


# Kinds of labels and tails by number: FORMAT.md.
_WEAK, _TYPE = 12, 13


@st.composite
def dumps(draw: st.DrawFn) -> dict[str, Any]:
    """The columns that references are made from, and what they should be."""
    nodes = draw(st.integers(1, 12))
    node = st.integers(0, nodes - 1)
    kinds = st.sampled_from([3, 4, 5, 8, 9, 3 | 0x80, _WEAK])
    shapes = draw(
        st.lists(
            st.tuples(
                st.lists(st.tuples(kinds, st.integers(0, 9)), max_size=4),
                st.sampled_from([0, 1, 2, 3, 0x81, 0x82]),
            ),
            min_size=1,
            max_size=4,
        )
    )
    types = draw(st.lists(st.tuples(node, st.booleans()), min_size=1, max_size=3))
    shape = draw(st.lists(st.integers(0, len(shapes) - 1), min_size=nodes, max_size=nodes))
    kind = draw(st.lists(st.integers(0, len(types) - 1), min_size=nodes, max_size=nodes))
    degree = [
        len(shapes[one][0]) + (shapes[one][1] & 0x7F) * draw(st.integers(0, 3)) for one in shape
    ]
    target = [draw(node) for _ in range(sum(degree))]
    counts = [len(labels) for labels, _ in shapes]
    return {
        "type": kind,
        "shape": shape,
        "degree": degree,
        "target": target,
        "shape_count": counts,
        "shape_first": [sum(counts[:at]) for at in range(len(counts))],
        "shape_tail": [tail for _, tail in shapes],
        "label_kind": [label for labels, _ in shapes for label, _ in labels],
        "label_name": [name for labels, _ in shapes for _, name in labels],
        "type_node": [one for one, _ in types],
        "type_heap": [heap for _, heap in types],
    }


def expected(dump: dict[str, Any]) -> list[list[tuple[int, int, int]]]:
    """(target, kind, number) of the references that keep, by node."""
    found, at = [], 0
    for kind, shape, degree in zip(dump["type"], dump["shape"], dump["degree"], strict=True):
        targets, first = dump["target"][at : at + degree], dump["shape_first"][shape]
        at += degree
        row = [
            (targets[place], dump["label_kind"][first + place], dump["label_name"][first + place])
            for place in range(dump["shape_count"][shape])
        ]
        row = [one for one in row if one[1] != _WEAK and not one[1] & 0x80]
        tail, repeated = dump["shape_tail"][shape], targets[dump["shape_count"][shape] :]
        if tail == 1:
            row += [(target, 0, place) for place, target in enumerate(repeated)]
        elif tail in {2, 3}:
            for place in range(len(repeated) // tail):
                key, value = repeated[tail * place : tail * place + 2]
                row += [(key, 1, place), (value, 2, key)]
        if dump["type_heap"][kind]:
            row.append((dump["type_node"][kind], _TYPE, 0))
        found.append(row)
    return found


@settings(max_examples=200, deadline=None)
@given(dump=dumps())
def test_references_are_what_the_columns_say(code: Library, dump: dict[str, Any]) -> None:
    columns = {name: np.array(column, np.int64) for name, column in dump.items()}
    rows, labels = code.expand(columns, labels=True)
    assert labels is not None
    plain, _ = code.expand(columns)
    assert plain.indptr.tolist() == rows.indptr.tolist()
    assert plain.targets.tolist() == rows.targets.tolist()
    triples = list(
        zip(rows.targets.tolist(), labels.kinds.tolist(), labels.numbers.tolist(), strict=True)
    )
    ends = rows.indptr.tolist()
    found = [triples[ends[node] : ends[node + 1]] for node in range(len(ends) - 1)]
    assert found == expected(dump)


@settings(max_examples=200, deadline=None)
@given(dump=dumps(), data=st.data())
def test_columns_that_do_not_hold_are_refused(
    code: Library, dump: dict[str, Any], data: st.DataObject
) -> None:
    filled = sorted(name for name, column in dump.items() if column)
    name = data.draw(st.sampled_from(filled))
    at = data.draw(st.integers(0, len(dump[name]) - 1))
    dump[name] = [*dump[name]]
    dump[name][at] = data.draw(st.sampled_from([0, 1, 5, 0x7F, 200, (1 << 31) - 1]))
    columns = {name: np.array(column, np.int64) for name, column in dump.items()}
    try:
        rows, _ = code.expand(columns, labels=True)
    except DamagedHeapDump:
        return
    assert len(rows.targets) == rows.indptr[-1]
    assert all(0 <= target < len(columns["type"]) for target in rows.targets.tolist())


def test_a_path_of_a_million_nodes_needs_no_deep_stack(code: Library) -> None:
    nodes = 1_000_000
    rows = Rows(
        np.minimum(np.arange(nodes + 1), nodes - 1).astype(np.int64),
        np.arange(1, nodes, dtype=np.int32),
    )
    found = code.dominators(rows, np.zeros(1, np.int32), np.ones(nodes, np.uint64))
    assert found.retained.tolist() == list(range(nodes, 0, -1))
    group = np.zeros(nodes, np.uint32)
    assert code.grouped(found, group, 1).retained.tolist() == [nodes]
