"""Which objects of two dumps are the same: the address alone does not say.

An address is used again, often at once and for the same type. Two objects at one address
count as the same only if

* the dumps are of one process (``same_process``),
* their types are the same, which are at the same address and of the same name,
* what never changes agrees: the length of ``str`` and ``bytes``, their text where both dumps
  have it, the size of an ``int``, the marks of all these and of ``float`` (``marking.py``), and
  each reference of a tuple, frozenset, bound method, slice or range,
* and a way of references leads to it from a root that both dumps have, of which each step
  is in both: the same object refers to it; of the items of a list or deque, those count
  that stand in the same order as before,
* and, of an instance of a class: not all that it alone keeps is another than before.

Of the first three it is certain that what differs is another object. The others are rules of
thumb: an object that moved from one container to another, or within a list, counts as gone
and new, as does one of which everything was replaced but itself; one that was replaced by its
like, which by chance stands at the same address and is referred to by the same object,
counts as the same if nothing in it has a mark, or there are no marks.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from probes.errors import ParkscopeError
from tracer.heap.build import built
from tracer.heap.graph import DICT, Graph
from tracer.heap.model import Heap
from tracer.heap.node_names import lengths
from tracer.heap.roots import frame_roots, thread_of

NONE = -1
_MOST_LAYERS = 4  # an instance, the dict of its attributes, and such in those
_FIXED_REFERENCES = frozenset({"tuple", "frozenset", "method", "slice", "range"})
_INSTANCES = frozenset({"plain", "scan"})
_ORDERED = frozenset({"list", "deque"})
_FIXED_SIZE = frozenset({"int", "tuple", "frozenset"})


class _Rows(ctypes.Structure):
    """struct rows, match/match.c."""

    _fields_ = (
        ("nodes", ctypes.c_uint64), ("indptr", ctypes.c_void_p), ("targets", ctypes.c_void_p),
    )  # fmt: skip


@cache
def _library() -> ctypes.CDLL:
    code = ctypes.CDLL(str(built("match")))
    rows, pointer = ctypes.POINTER(_Rows), ctypes.c_void_p
    code.match_fixed.restype = ctypes.c_uint64
    code.match_fixed.argtypes = (rows, rows, pointer, pointer)
    code.match_ways.argtypes = (
        rows, rows, pointer, pointer, pointer, ctypes.c_uint64, pointer,
    )  # fmt: skip
    return code


@dataclass(frozen=True, slots=True)
class Side:
    """One dump: its graph, and what is asked of it more than once."""

    graph: Graph
    length: npt.NDArray[np.uint32]

    @classmethod
    def of(cls, graph: Graph) -> Side:
        """The side of a graph."""
        return cls(graph, lengths(graph))


def same_process(first: Heap, second: Heap) -> bool:
    """Whether two dumps are surely of one process that ran one program in between."""
    keys = ("pid", "process")
    one, other = ([heap.meta.get(key) for key in keys] for heap in (first, second))
    return None not in one and one == other


class Matching:
    """The objects that two dumps share. Memory: 10 bytes for each object of both."""

    def __init__(self, first: Side, second: Side) -> None:
        self.first, self.second = first, second

    @cached_property
    def pair(self) -> npt.NDArray[np.int32]:
        """int32, for each object of the first dump: which it is in the second, or -1."""
        rows = [_rows(side.graph) for side in (self.first, self.second)]
        pair = self._candidates()
        fixed = self._of_types(one.name in _FIXED_REFERENCES for one in self._heap.types)
        ordered = self._of_types(one.kind in _ORDERED for one in self._heap.types)
        code = _library()
        code.match_fixed(*map(ctypes.byref, rows), fixed.ctypes.data, pair.ctypes.data)
        roots = np.ascontiguousarray(self._roots(pair), np.int32)
        same = np.zeros(len(pair), np.uint8)
        if code.match_ways(
            *map(ctypes.byref, rows), pair.ctypes.data, ordered.ctypes.data, roots.ctypes.data,
            len(roots), same.ctypes.data,
        ):  # fmt: skip
            raise ParkscopeError(
                "the memory to compare two dumps could not be had",
                hint="Close other programs, or try later.",
            )
        pair[same == 0] = NONE
        self._leave_out_doubtful(pair)
        return pair

    @cached_property
    def back(self) -> npt.NDArray[np.int32]:
        """int32, for each object of the second dump: which it was in the first, or -1."""
        found = np.full(self.second.graph.nodes, NONE, np.int32)
        nodes = np.flatnonzero(self.pair != NONE)
        found[self.pair[nodes]] = nodes
        return found

    @property
    def _heap(self) -> Heap:
        return self.first.graph.heap

    def _leave_out_doubtful(self, pair: npt.NDArray[np.int32]) -> None:
        """Take the pair from instances that keep things alone, all of them others than before.

        Their ways were followed all the same: what they refer to may be the same.
        """
        graph = self.first.graph
        whole = np.append(self._instances(), [False, False])
        nodes = np.flatnonzero(whole[graph.idom])
        owner = graph.idom[nodes]
        owns = np.bincount(owner, minlength=len(pair)) > 0
        other = self.second.graph
        keeps = np.bincount(other.idom, minlength=other.nodes + 2) > 0
        for _ in range(_MOST_LAYERS):
            kept = np.bincount(owner[pair[nodes] != NONE], minlength=len(pair)) > 0
            doubtful = owns & ~kept & (pair != NONE) & keeps[pair]
            if not doubtful.any():
                return
            pair[doubtful] = NONE

    def _instances(self) -> npt.NDArray[np.bool_]:
        """Instances of classes that are no containers, and the dicts of their attributes."""
        graph = self.first.graph
        found = self._of_types(
            one.heap and one.kind in _INSTANCES for one in self._heap.types
        ).astype(bool)
        found[graph.targets[graph.labels.kinds == DICT]] = True
        return found

    def _of_types(self, which: Iterable[bool]) -> npt.NDArray[np.uint8]:
        """Per object of the first dump what its type is."""
        flags = np.array([*which, False], np.uint8)
        found: npt.NDArray[np.uint8] = flags[self._heap.columns["type"]]
        return found

    def _candidates(self) -> npt.NDArray[np.int32]:
        """Pairs at one address, of one type, that agree in what never changes."""
        one, other = self._heap, self.second.graph.heap
        addresses = other.columns["address"]
        pair = np.searchsorted(addresses, one.columns["address"]).astype(np.int32)
        pair[pair == len(addresses)] = 0
        if not len(addresses) or not len(pair):
            return np.full(len(pair), NONE, np.int32)
        agrees = addresses[pair] == one.columns["address"]
        types = _same_types(one, other)
        kinds = one.columns["type"]
        agrees &= types[kinds] == other.columns["type"][pair]
        agrees &= self.first.length == self.second.length[pair]
        sized = np.array([kind.name in _FIXED_SIZE for kind in one.types], bool)[kinds]
        agrees &= ~sized | (one.columns["size"] == other.columns["size"][pair])
        agrees &= _same_texts(one, other, pair)
        agrees &= _same_marks(one, other, pair)
        pair[~agrees] = NONE
        return pair

    def _roots(self, pair: npt.NDArray[np.int32]) -> npt.NDArray[Any]:
        """Objects (of the first dump) that both dumps have as a root, for one reason."""
        one, other = self._heap, self.second.graph.heap
        found = []
        for name in ("immortal", "held"):
            nodes, others = _outside(one, name), _outside(other, name)
            found.append(nodes[np.isin(pair[nodes], others)])
        kinds = one.columns["root_kind"], other.columns["root_kind"]
        for kind in np.unique(kinds[0]).tolist():
            nodes = one.columns["root_node"][kinds[0] == kind]
            others = other.columns["root_node"][kinds[1] == kind]
            found.append(nodes[np.isin(pair[nodes], others)])
        there = _in_frames(other)
        local = [node for node, keys in _in_frames(one).items()
                 if keys & there.get(int(pair[node]), frozenset())]  # fmt: skip
        return np.concatenate([*found, np.array(local, np.int64)])


def _rows(graph: Graph) -> _Rows:
    return _Rows(graph.nodes, graph.indptr.ctypes.data, graph.targets.ctypes.data)


def _same_types(one: Heap, other: Heap) -> npt.NDArray[np.int64]:
    """For each type the number that it has in the other dump, or -1."""

    def keys(heap: Heap) -> list[tuple[int, str, bool]]:
        addresses = heap.columns["address"]
        return [(int(addresses[kind.node]), kind.name, kind.heap) for kind in heap.types]

    numbers = {key: number for number, key in enumerate(keys(other))}
    return np.array([numbers.get(key, NONE) for key in keys(one)] or [NONE], np.int64)


def _same_texts(one: Heap, other: Heap, pair: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
    """False where both dumps have the text of an object, and it is not the same."""
    agrees = np.ones(len(pair), bool)
    number = {text: at for at, text in enumerate(other.strings)}
    known = np.array([number.get(text, NONE) for text in one.strings] or [NONE], np.int64)
    text = np.full(other.nodes, NONE, np.int64)
    text[other.columns["text_node"]] = other.columns["text"]
    nodes = one.columns["text_node"]
    there = text[pair[nodes]]
    agrees[nodes] = (there == NONE) | (there == known[one.columns["text"]])
    return agrees


def _same_marks(one: Heap, other: Heap, pair: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
    """False where both dumps have a mark of an object, and it is not the same."""
    agrees = np.ones(len(pair), bool)
    mark = np.zeros(other.nodes, np.uint16)
    mark[other.columns["mark_node"]] = other.columns["mark"]
    nodes = one.columns["mark_node"]
    there = mark[pair[nodes]]
    agrees[nodes] = (there == 0) | (one.columns["mark"] == 0) | (there == one.columns["mark"])
    return agrees


def _outside(heap: Heap, name: str) -> npt.NDArray[Any]:
    columns = heap.columns
    if name == "immortal":
        return columns["immortal_node"]
    return columns["excess_node"][columns["excess"] > 0]


def _in_frames(heap: Heap) -> dict[int, frozenset[tuple[str, ...]]]:
    """Per object the frames' variables that keep it: thread, function, file, name."""
    found: dict[int, set[tuple[str, ...]]] = {}
    for frame, name, node in frame_roots(heap):
        where = heap.frames[frame]
        number = thread_of(heap, where)
        thread = heap.threads[number] if number >= 0 else {}
        words = thread.get("native_id"), where.get("function"), where.get("file")
        key = (*map(str, words), heap.strings[name])
        found.setdefault(node, set()).add(key)
    return {node: frozenset(keys) for node, keys in found.items()}
