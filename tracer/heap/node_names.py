"""What an export calls each object: its type, or the name that code gave it.

``str`` objects whose text is not in the dump are called by their length, so that nothing
is told that the dump leaves out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tracer.heap.graph import EDGE_KINDS, Graph
from tracer.heap.names import Names

NO_LENGTH = 0xFFFFFFFF
_FIELD = EDGE_KINDS.index("field")
_NAMED_BY = (
    ("function", "func_qualname", ""),
    ("code", "co_qualname", ""),
    ("module", "md_name", "module "),
    ("generator", "gi_qualname", "generator "),
    ("coroutine", "gi_qualname", "coroutine "),
)
"""Types of CPython's own, the field that names their objects, what is put before the name."""


@dataclass(frozen=True, slots=True)
class NodeNames:
    """``number``: u32 for each node, into ``texts``, which begin with the heap's strings.

    ``key``: the same of nodes as keys of a dict, where a type's name is in brackets.
    """

    number: npt.NDArray[np.uint32]
    key: npt.NDArray[np.uint32]
    texts: list[str]


def field_of(graph: Graph, name: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """(objects, what they refer to) by the field ``name`` of CPython's structures."""
    try:
        number = graph.heap.strings.index(name)
    except ValueError:
        return np.zeros(0, np.int64), np.zeros(0, np.int32)
    labels = graph.labels
    edges = np.flatnonzero((labels.numbers == number) & (labels.kinds == _FIELD))
    return np.searchsorted(graph.indptr, edges, side="right") - 1, graph.targets[edges]


def lengths(graph: Graph) -> npt.NDArray[np.uint32]:
    """Characters of each ``str``, bytes of each ``bytes``; NO_LENGTH for all others.

    Which types derive from ``bytes`` is looked up; where the numbers do not fit all the
    same, nothing is said of any.
    """
    heap = graph.heap
    found = np.full(heap.nodes, NO_LENGTH, np.uint32)
    names = Names(graph)
    base = {one.node: names.field(one.node, "__base__") for one in heap.types}
    sized = {one.node for one in heap.types if one.kind == "str"}
    sized |= {one.node for one in heap.types if one.name == "bytes" and not one.heap}
    derived = np.array([_derives(one.node, base, sized) for one in heap.types] or [False], bool)
    places = np.flatnonzero(derived[heap.columns["type"]])
    if len(places) == len(heap.columns["length"]):
        found[places] = heap.columns["length"]
    return found


def _derives(node: int, base: dict[int, int | None], wanted: set[int]) -> bool:
    seen: set[int] = set()
    while node not in wanted:
        above = base.get(node)
        if node in seen or above is None:
            return False
        seen.add(node)
        node = above
    return True


def node_names(graph: Graph) -> NodeNames:
    """The names of all objects. Memory: 8 bytes for each."""
    heap = graph.heap
    texts = list(heap.strings)
    kinds = heap.columns["type"]
    number = _added(texts, [one.name for one in heap.types])[kinds]
    key = _added(texts, [f"[{one.name}]" for one in heap.types])[kinds]
    _by_length(graph, texts, number, key)
    with_text = heap.columns["text_node"]
    number[with_text] = key[with_text] = heap.columns["text"]
    text_of = dict(zip(with_text.tolist(), heap.columns["text"].tolist(), strict=True))
    for kind, field, before in _NAMED_BY:
        numbers = [at for at, one in enumerate(heap.types) if one.name == kind]
        sources, targets = field_of(graph, field)
        for source, target in zip(sources.tolist(), targets.tolist(), strict=True):
            if kinds[source] in numbers and (name := text_of.get(target)) is not None:
                number[source] = name if not before else len(texts)
                if before:
                    texts.append(before + texts[name])
    for one in heap.types:
        number[one.node] = len(texts)
        texts.append(f"class {one.name}")
    return NodeNames(number, key, texts)


def _added(texts: list[str], more: list[str]) -> npt.NDArray[np.uint32]:
    first = len(texts)
    texts += more
    return np.arange(first, max(len(texts), first + 1), dtype=np.uint32)


def _by_length(
    graph: Graph,
    texts: list[str],
    number: npt.NDArray[np.uint32],
    key: npt.NDArray[np.uint32],
) -> None:
    """Names of ``str`` and ``bytes``: ``str of 12``."""
    kinds, length = graph.heap.columns["type"], lengths(graph)
    for at, one in enumerate(graph.heap.types):
        if one.name not in {"str", "bytes"}:
            continue
        places = np.flatnonzero((kinds == at) & (length != NO_LENGTH))
        found, inverse = np.unique(length[places], return_inverse=True)
        named = [f"{one.name} of {size}" for size in found.tolist()]
        number[places] = _added(texts, named)[inverse]
        key[places] = _added(texts, [f"[{name}]" for name in named])[inverse]
