"""The graph of a heap dump: who keeps whom alive, from which roots, and how much.

Nodes are 0 .. n - 1, by address, as in the dump. Only references that keep their targets
are in it: no weak ones, none that their target does not count. That of an instance of a
heap type to its type, which a dump does not store, is. Everything is computed when it is
first asked for, and kept.

Memory beside the heap's own columns, bytes for each node and reference: ``rows`` 8 and 4,
``labels`` 0 and 5, ``reverse`` 8 and 4, ``idom`` and ``retained`` 12 (and 48 and up to 8 more
while they are computed), ``before`` 4.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from probes.errors import DamagedHeapDump, InternalError
from tracer.heap.graph_code import Dominators, Groups, Labels, Library, Rows, library
from tracer.heap.model import BORROWED, LABEL_KINDS, TAILS, Heap

EDGE_KINDS = (*LABEL_KINDS, "type")
"""What a reference is, by number: a dump's kinds, and that of an instance to its type."""

ELEMENT, KEY, VALUE, ATTRIBUTE, DICT, WEAK, TYPE = (
    EDGE_KINDS.index(name)
    for name in ("element", "key", "value", "attribute", "dict", "weak", "type")
)
_ELEMENTS = "elements"
FRAME, HELD, IMMORTAL = "frame", "C code", "immortal"
"""Kinds of roots beside those that a dump names (``meta.root_kinds``)."""

_PLAIN, _STATIC = frozenset({"interpreter", "thread"}), "static variable"
"""Roots of a dump that a person can follow, and those of C code; the rest keeps caches."""


_MOST_BYTES = float(1 << 60)


class Label(NamedTuple):
    """What one reference is called. ``name`` is the text of those kinds that have one.

    ``place``: among the elements or keys (-1: none); ``key``: a value's key (node, -1).
    """

    kind: str
    name: str
    place: int
    key: int


class Root(NamedTuple):
    """Why a node is a root. ``frame``: number in ``heap.frames``, -1 where it is none.

    ``name`` is that of the variable or field, or the file of a static variable; ``label``
    the kind of a frame's reference (EDGE_KINDS), else empty.
    """

    kind: str
    name: str
    frame: int
    label: str


class Graph:
    """The graph of one heap, as HeapFile.load() gives it.

    Raises DamagedHeapDump where columns contradict each other, ParkscopeError where there
    is not enough memory, BackendUnavailable without a compiler.
    """

    def __init__(self, heap: Heap, code: Library | None = None) -> None:
        if len(heap.columns["size"]) != heap.nodes:
            raise InternalError("a graph is made of a heap that was read from a file")
        self.heap = heap
        self._code = code or library()
        self._shapes: dict[int, tuple[tuple[Label, ...], str]] = {}

    @classmethod
    def of(cls, heap: Heap) -> Self:
        """The graph of a heap that was read from a file."""
        return cls(heap)

    @property
    def nodes(self) -> int:
        """n: how many objects."""
        return self.heap.nodes

    @property
    def super_root(self) -> int:
        """The number, n, of what stands above all roots (in ``idom`` and ``before``)."""
        return self.nodes

    @property
    def garbage(self) -> int:
        """The number, n + 1, of what stands above nodes that no root leads to (in ``idom``)."""
        return self.nodes + 1

    @cached_property
    def rows(self) -> Rows:
        """References by source: ``indptr`` int64 (n + 1), ``targets`` int32 (edges)."""
        return self._code.expand(self.columns())[0]

    @property
    def indptr(self) -> npt.NDArray[np.int64]:
        """int64 (n + 1): the references of node v are indptr[v] to indptr[v + 1]."""
        return self.rows.indptr

    @property
    def targets(self) -> npt.NDArray[np.int32]:
        """int32 (edges): what each reference leads to. A node's stand in the dump's order."""
        return self.rows.targets

    @property
    def edges(self) -> int:
        """How many references keep their targets."""
        return len(self.targets)

    @cached_property
    def labels(self) -> Labels:
        """What each reference is called.

        ``kinds`` u8 (edges): number in EDGE_KINDS. ``numbers`` u32 (edges): for elements and
        keys their place among them, for values the node of the key, else the name's number
        in ``heap.strings``.
        """
        rows, labels = self._code.expand(self.columns(), labels=True)
        self.__dict__.setdefault("rows", rows)
        if labels is None:
            raise InternalError("no labels were made")
        return labels

    @cached_property
    def reverse(self) -> Rows:
        """References by target: ``targets`` are the sources, ascending in each row."""
        return self._code.reverse(self.rows)

    @cached_property
    def shallow(self) -> npt.NDArray[np.uint64]:
        """u64 (n): bytes of each object alone, as sys.getsizeof() says."""
        sizes = self.heap.columns["size"].astype(np.uint64, copy=False)
        if sizes.sum(dtype=np.float64) > _MOST_BYTES:
            raise DamagedHeapDump("the objects of the dump are larger than any memory")
        return sizes

    @cached_property
    def dominators(self) -> Dominators:
        """``idom``, ``retained`` and the sums of what is live and what is garbage."""
        return self._code.dominators(self.rows, self.roots, self.shallow)

    @property
    def idom(self) -> npt.NDArray[np.int32]:
        """int32 (n): who alone keeps each node.

        That is a node; n, the super-root: the node is a root, or kept in several ways; n + 1:
        no root leads to it, nor does another such node alone keep it.
        What unreachable nodes refer to keeps its place among the live: their references
        do not count there.
        """
        return self.dominators.idom

    @property
    def retained(self) -> npt.NDArray[np.uint64]:
        """u64 (n): bytes that would go with the node: its own and of all that it dominates."""
        return self.dominators.retained

    @cached_property
    def reachable(self) -> npt.NDArray[np.bool_]:
        """Of each node (bool) whether a root leads to the node; the others wait to be collected."""
        return self.before >= 0

    @cached_property
    def before(self) -> npt.NDArray[np.int32]:
        """int32 (n): the node before each on a shortest way from a root; n before a root; -1.

        Roots that have a name come first: only what none of them leads to is reached from
        what C code holds, and only what is left from caches and immortal objects.
        """
        return self._code.ways(self.rows, self._tiers)

    @cached_property
    def roots(self) -> npt.NDArray[np.int32]:
        """int32, ascending: nodes that are kept from outside of the heap."""
        found: npt.NDArray[np.int32] = np.unique(np.concatenate(self._tiers)).astype(np.int32)
        return found

    @cached_property
    def _tiers(self) -> list[npt.NDArray[np.int32]]:
        columns = self.heap.columns
        named = np.array([kind in _PLAIN for kind in self._root_kinds], bool)
        static = np.array([kind == _STATIC for kind in self._root_kinds], bool)
        kinds, nodes = columns["root_kind"], columns["root_node"]
        frames = columns["reference_node"][self._frame_keeps]
        held = columns["excess_node"][columns["excess"] > 0]
        tiers = (
            (nodes[named[kinds]], frames),
            (nodes[static[kinds]], held),
            (nodes[~(named | static)[kinds]], columns["immortal_node"]),
        )
        return [np.concatenate(tier).astype(np.int32) for tier in tiers]

    @property
    def _frame_keeps(self) -> npt.NDArray[np.bool_]:
        kinds = self.heap.columns["reference_kind"]
        keeps: npt.NDArray[np.bool_] = (kinds & BORROWED == 0) & (kinds != WEAK)
        return keeps

    @cached_property
    def _root_kinds(self) -> list[str]:
        """The names of the dump's kinds of roots; it may have forgotten some."""
        named = self.heap.meta.get("root_kinds")
        names = [str(name) for name in named] if isinstance(named, list) else []
        return names + ["?"] * 256

    def reasons(self, node: int) -> Iterator[Root]:
        """Why a node is a root, those that a person can follow first; nothing if it is none."""
        columns, strings = self.heap.columns, self.heap.strings
        rows = np.flatnonzero(columns["root_node"] == node)
        named = [
            Root(self._root_kinds[kind], strings[name], -1, "")
            for kind, name in zip(
                columns["root_kind"][rows].tolist(), columns["root_name"][rows].tolist(),
                strict=True,
            )
        ]  # fmt: skip
        yield from (one for one in named if one.kind in _PLAIN)
        yield from self._frame_reasons(node)
        yield from (one for one in named if one.kind == _STATIC)
        if np.any((columns["excess_node"] == node) & (columns["excess"] > 0)):
            yield Root(HELD, "", -1, "")
        yield from (one for one in named if one.kind not in _PLAIN and one.kind != _STATIC)
        if np.any(columns["immortal_node"] == node):
            yield Root(IMMORTAL, "", -1, "")

    def _frame_reasons(self, node: int) -> Iterator[Root]:
        columns = self.heap.columns
        for row in np.flatnonzero((columns["reference_node"] == node) & self._frame_keeps).tolist():
            number = int(columns["reference_kind"][row])
            kind = EDGE_KINDS[number] if number < len(EDGE_KINDS) else "?"
            name = self.heap.strings[columns["reference_name"][row]]
            yield Root(FRAME, name, int(columns["reference_frame"][row]), kind)

    def field_edges(self, *names: str) -> npt.NDArray[np.int64]:
        """All references (numbers) that are a field of CPython's structures of such a name.

        Of an object that has several of them, the first.
        """
        columns = self.heap.columns
        place = np.full(len(columns["shape_count"]), -1, np.int64)
        wanted = [at for at, text in enumerate(self.heap.strings) if text in names]
        is_field = columns["label_kind"] == EDGE_KINDS.index("field")
        head = np.flatnonzero(is_field & np.isin(columns["label_name"], wanted))
        shapes = np.searchsorted(self._shape_first, head.astype(np.uint64), side="right") - 1
        for shape in np.unique(shapes).tolist():
            labels, _ = self._head_of(shape)
            place[shape] = next(
                at for at, one in enumerate(labels) if one.kind == "field" and one.name in names
            )
        places = place[columns["shape"]]
        nodes = np.flatnonzero(places >= 0)
        edges: npt.NDArray[np.int64] = self.indptr[nodes] + places[nodes]
        return edges

    def sources(self, edges: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The nodes that have these references."""
        found: npt.NDArray[np.int64] = np.searchsorted(self.indptr, edges, side="right") - 1
        return found

    def label(self, edge: int, source: int | None = None) -> Label:
        """What reference number ``edge`` is called. ``source``: whose it is, where known."""
        node = self.source(edge) if source is None else source
        head, tail = self.head(node)
        place = edge - int(self.indptr[node])
        if place < len(head):
            return head[place]
        place -= len(head)
        kind = self.heap.types[self.heap.columns["type"][node]]
        if kind.heap and edge + 1 == self.indptr[node + 1]:
            return Label(EDGE_KINDS[TYPE], "", -1, -1)
        if tail == _ELEMENTS:
            return Label(EDGE_KINDS[ELEMENT], "", place, -1)
        if place % 2:
            return Label(EDGE_KINDS[VALUE], "", -1, int(self.targets[edge - 1]))
        return Label(EDGE_KINDS[KEY], "", place // 2, -1)

    def tail(self, node: int) -> tuple[int, int]:
        """The first of a node's elements or keys, and the end, as numbers of references."""
        end = int(self.indptr[node + 1])
        end -= self.heap.types[self.heap.columns["type"][node]].heap
        return min(int(self.indptr[node]) + len(self.head(node)[0]), end), end

    def head(self, node: int) -> tuple[tuple[Label, ...], str]:
        """The labels of a node's first references, and what follows them (TAILS)."""
        return self._head_of(int(self.heap.columns["shape"][node]))

    def _head_of(self, shape: int) -> tuple[tuple[Label, ...], str]:
        if shape not in self._shapes:
            columns = self.heap.columns
            first = int(self._shape_first[shape])
            rows = slice(first, first + int(columns["shape_count"][shape]))
            head = tuple(
                Label(EDGE_KINDS[kind], self.heap.strings[name], -1, -1)
                for kind, name in zip(
                    columns["label_kind"][rows].tolist(), columns["label_name"][rows].tolist(),
                    strict=True,
                )
                if not kind & BORROWED and kind != WEAK
            )  # fmt: skip
            self._shapes[shape] = head, TAILS[int(columns["shape_tail"][shape]) & ~BORROWED]
        return self._shapes[shape]

    def source(self, edge: int) -> int:
        """The node that has reference number ``edge``."""
        return int(self.sources(np.array([edge]))[0])

    def edges_of(self, node: int) -> range:
        """The numbers of a node's references."""
        return range(int(self.indptr[node]), int(self.indptr[node + 1]))

    def way(self, node: int) -> list[int]:
        """The nodes from a root to ``node``, both included; empty where no root leads to it."""
        found, at = [], node
        if self.before[node] < 0:
            return []
        while at != self.super_root:
            found.append(at)
            at = int(self.before[at])
        return found[::-1]

    def grouped(
        self, group: npt.NDArray[np.uint32], groups: int, *, inherit: bool = False
    ) -> Groups:
        """What the members of groups keep alive. ``group``: u32 (n); from ``groups`` on: none.

        ``retained`` u64 (groups): the retained bytes of members that no other member
        dominates; ``top`` bool (n): which these are; ``group`` u32 (n): as given, or, with
        ``inherit``, nodes of no group in that of the nearest dominator that has one.
        """
        return self._code.grouped(self.dominators, group, groups, inherit=inherit)

    def kept_by(self, nodes: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Which nodes (bool, n) would go if all of ``nodes`` went, these included.

        That is more than what each of them retains: what several share is among it.
        """
        live = self.reachable
        found: npt.NDArray[np.bool_] = live & ~self._code.reached(self.rows, self.roots, nodes)
        return found

    @cached_property
    def _shape_first(self) -> npt.NDArray[np.uint64]:
        count = self.heap.columns["shape_count"].astype(np.uint64)
        return np.cumsum(count, dtype=np.uint64) - count

    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """What references are made from: see ``struct columns`` in graph/graph.h."""
        columns, types = self.heap.columns, self.heap.types
        return {
            **columns,
            "shape_first": self._shape_first,
            "type_node": np.array([one.node for one in types], np.uint32),
            "type_heap": np.array([one.heap for one in types], np.uint8),
        }
