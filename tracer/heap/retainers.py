"""``heap retainers`` and ``heap path``: who keeps objects alive, and from where."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from probes.errors import UnknownObject
from tracer.heap.graph import DICT, EDGE_KINDS, ELEMENT, FRAME, KEY, VALUE, Graph, Label
from tracer.heap.model import HeapType
from tracer.heap.names import Names, Way

_BRANCHES = (0, 3, 2, *(1,) * 9)
"""How many branches are followed at each level up the tree of dominators."""

_MOST_ROOTS = 1000
"""Of so many objects that are roots the reasons are looked up one by one."""

_NEAR = 3
_FIELD = EDGE_KINDS.index("field")
_SPACES = ("__dict__", "md_dict", "func_dict", "od_inst_dict")
_Nodes = npt.NDArray[np.int64]


class Holder(NamedTuple):
    """References of one name from objects of one type, or from one kind of root.

    ``objects``: how many different ones they lead to; ``retained``: bytes that these keep,
    those left out that another one dominates.
    """

    text: str
    references: int
    objects: int
    retained: int


class Keeper(NamedTuple):
    """Objects of one type that alone keep ``objects`` alive (``retained``: bytes of those).

    ``node`` is that object where it is one, else -1; ``kind`` is empty for what is a root or
    kept in several ways, and ``garbage`` then says that no root leads there.
    """

    kind: str
    keepers: int
    node: int
    objects: int
    retained: int
    garbage: bool
    above: list[Keeper]


class Retainers(NamedTuple):
    """Who keeps some objects alive. ``together``: bytes that would go if all of them went."""

    what: str
    nodes: _Nodes
    shallow: int
    together: int
    holders: list[Holder]
    keepers: list[Keeper]


def find(graph: Graph, what: str) -> _Nodes:
    """The objects that ``what`` says: an address, or the name of a type.

    Raises UnknownObject, which names what is near.
    """
    if what[:2].lower() == "0x" or what.isdigit():
        return np.array([_at(graph, what)], np.int64)
    types = graph.heap.types
    numbers = [at for at, one in enumerate(types) if one.name == what]
    numbers = numbers or [at for at, one in enumerate(types) if one.qualname == what]
    present = np.unique(graph.heap.columns["type"])
    if not len(found := np.intersect1d(numbers, present)):
        raise UnknownObject(
            f"no object of the dump is a {what!r}", hint=_near(types, present, what)
        )
    return np.flatnonzero(np.isin(graph.heap.columns["type"], found))


def _at(graph: Graph, what: str) -> int:
    addresses = graph.heap.columns["address"]
    try:
        address = int(what, 0)
    except ValueError:
        raise UnknownObject(f"{what!r} is no address", hint="Write it as 0x7f00deadbeef.") from None
    at = (
        int(np.searchsorted(addresses, np.uint64(address), side="right")) - 1
        if address < 1 << 64
        else -1
    )
    if at >= 0 and int(addresses[at]) == address:
        return at
    near = [one for one in (at, at + 1) if 0 <= one < len(addresses)]
    shown = " and ".join(
        f"{int(addresses[one]):#x} ({graph.heap.types[graph.heap.columns['type'][one]].name})"
        for one in near
    )
    raise UnknownObject(
        f"no object of the dump is at {what}",
        hint=f"The nearest ones are at {shown}." if shown else "The dump holds no objects.",
    )


def _near(types: list[HeapType], present: npt.NDArray[Any], what: str) -> str:
    known = [types[at] for at in present.tolist()]
    inside = sorted({one.name for one in known if what.lower() in one.name.lower()})
    spelled: dict[str, str] = {}
    for one in known:
        spelled.setdefault(one.name, one.name)
        spelled.setdefault(one.qualname, one.name)
    close = difflib.get_close_matches(what, spelled, _NEAR, 0.6)
    near = list(dict.fromkeys([*inside, *(spelled[one] for one in close)]))
    if near:
        return f"Is it {' or '.join(near[:_NEAR])}?"
    return "'parkscope heap top FILE' lists the types."


def retainers(names: Names, what: str, limit: int) -> Retainers:
    """Who keeps the objects that ``what`` names. Raises UnknownObject."""
    graph = names.graph
    nodes = find(graph, what)
    inside = np.zeros(graph.nodes, np.bool_)
    inside[nodes] = True
    top = graph.grouped(np.where(inside, 0, 1).astype(np.uint32), 1).top
    gone = graph.kept_by(nodes)
    return Retainers(
        what=what,
        nodes=nodes,
        shallow=int(graph.shallow[nodes].sum()),
        together=int(graph.shallow[gone | inside].sum()),
        holders=_Holders(names, inside, top).rows()[:limit],
        keepers=_keepers(names, np.flatnonzero(top), limit),
    )


class _Holders:
    """Groups the references to some objects."""

    def __init__(
        self, names: Names, inside: npt.NDArray[np.bool_], top: npt.NDArray[np.bool_]
    ) -> None:
        self._graph = names.graph
        self._names = names
        self._inside = inside
        self._weight = np.where(top, names.graph.retained, np.uint64(0))

    def rows(self) -> list[Holder]:
        """All groups, those with the most objects first."""
        found = [*self._from_objects(), *self._from_roots()]
        return sorted(found, key=lambda one: (-one.objects, -one.references, one.text))

    def _from_objects(self) -> Iterator[Holder]:
        graph, types = self._graph, self._graph.heap.types
        edges = np.flatnonzero(self._inside[graph.targets])
        sources = np.searchsorted(graph.indptr, edges, side="right") - 1
        kinds, numbers = graph.labels.kinds[edges], graph.labels.numbers[edges].astype(np.int64)
        owner = self._owners()
        owned = (owner[sources] >= 0) & (kinds == VALUE)
        holder = np.where(owned, owner[sources], sources)
        texts = self._texts()
        values = kinds == VALUE
        numbers[values] = texts[numbers[values]]
        numbers[(kinds == ELEMENT) | (kinds == KEY)] = 0
        label = (owned.astype(np.int64) << 48) | (kinds.astype(np.int64) << 40) | numbers
        labels, at = np.unique(label, return_inverse=True)
        group = graph.heap.columns["type"][holder].astype(np.int64) * len(labels) + at
        targets = graph.targets[edges]
        for rows in _split(group):
            kind = types[int(group[rows[0]]) // len(labels)].name
            yield self._holder(kind + self._written(int(label[rows[0]])), targets[rows])

    def _holder(self, text: str, targets: npt.NDArray[np.int32]) -> Holder:
        different = np.unique(targets)
        return Holder(text, len(targets), len(different), int(self._weight[different].sum()))

    def _written(self, label: int) -> str:
        """``.name``, ``['key']``, ``[…]`` …, see ``_from_objects``."""
        owned, kind, number = label >> 48, (label >> 40) & 0xFF, label & 0xFFFFFFFF
        text = self._graph.heap.strings[number] if number else ""
        if kind == VALUE:
            return (f".{text}" if owned else f"[{text!r}]") if text else "[…]"
        if kind == ELEMENT:
            return "[…]"
        return self._names.written(Label(EDGE_KINDS[kind], text, -1, -1), -1)

    def _owners(self) -> npt.NDArray[np.int64]:
        """Of each dict that is the namespace of an object: that object; else -1."""
        graph = self._graph
        names = [at for at, text in enumerate(graph.heap.strings) if text in _SPACES]
        kinds, numbers = graph.labels
        spaces = np.flatnonzero((kinds == DICT) | ((kinds == _FIELD) & np.isin(numbers, names)))
        found = np.full(graph.nodes, -1, np.int64)
        found[graph.targets[spaces]] = np.searchsorted(graph.indptr, spaces, side="right") - 1
        return found

    def _texts(self) -> npt.NDArray[np.int64]:
        """Of each node the number of its text; 0 where the dump has none."""
        found = np.zeros(self._graph.nodes, np.int64)
        columns = self._graph.heap.columns
        found[columns["text_node"]] = columns["text"]
        return found

    def _from_roots(self) -> Iterator[Holder]:
        graph, columns = self._graph, self._graph.heap.columns
        rooted = graph.roots[self._inside[graph.roots]]
        by_text: dict[str, list[int]] = {}
        named = np.isin(rooted, columns["root_node"]) | np.isin(rooted, columns["reference_node"])
        for node in rooted[named][:_MOST_ROOTS].tolist():
            for reason in graph.reasons(node):
                if reason.kind == FRAME or reason.name:
                    by_text.setdefault(self._names.root_text(reason), []).append(node)
        for text, nodes in by_text.items():
            yield self._holder(text, np.array(nodes, np.int32))
        held = columns["excess_node"][columns["excess"] > 0]
        for text, known in (("<held by C code>", held), ("<immortal>", columns["immortal_node"])):
            nodes = known[self._inside[known]].astype(np.int32)
            if len(nodes):
                yield self._holder(text, nodes)


def _split(group: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.int64]]:
    """Rows of the same number, group after group."""
    if len(group):
        order = np.argsort(group, kind="stable")
        yield from np.split(order, np.flatnonzero(np.diff(group[order])) + 1)


def _keepers(names: Names, nodes: _Nodes, limit: int) -> list[Keeper]:
    below = np.ones(len(nodes), np.int64), names.graph.retained[nodes].astype(np.int64)
    return _above(names, nodes, below, limit, 0)


def _above(
    names: Names, nodes: _Nodes, below: tuple[_Nodes, _Nodes], limit: int, level: int
) -> list[Keeper]:
    """Who dominates ``nodes``, by type. ``below``: objects and bytes that are below each."""
    graph = names.graph
    above = graph.idom[nodes].astype(np.int64)
    kinds = graph.heap.columns["type"][np.minimum(above, graph.nodes - 1)].astype(np.int64)
    outside = above >= graph.nodes
    kinds[outside] = -1 - (above[outside] - graph.nodes)
    found = []
    for rows in _split(kinds):
        keepers, at = np.unique(above[rows], return_inverse=True)
        counts = np.bincount(at, weights=below[0][rows]).astype(np.int64)
        sizes = np.bincount(at, weights=below[1][rows]).astype(np.int64)
        kind, single = int(kinds[rows[0]]), len(keepers) == 1
        keeper = Keeper(
            kind=graph.heap.types[kind].name if kind >= 0 else "",
            keepers=len(keepers),
            node=int(keepers[0]) if kind >= 0 and single else -1,
            objects=int(counts.sum()),
            retained=int(sizes.sum()),
            garbage=int(above[rows[0]]) == graph.garbage,
            above=[],
        )
        found.append((keeper, keepers, (counts, sizes)))
    found.sort(key=lambda one: (-one[0].retained, -one[0].objects, one[0].kind))
    return [
        keeper._replace(above=_above(names, keepers, sums, _BRANCHES[level + 1], level + 1))
        if keeper.kind and level + 1 < len(_BRANCHES) and not _is_known(names, keeper.node)
        else keeper
        for keeper, keepers, sums in found[:limit]
    ]


def _is_known(names: Names, node: int) -> bool:
    """Whether an object has a name of its own, so that nobody asks further."""
    return node >= 0 and names.own(node) is not None


class Path(NamedTuple):
    """The shortest way to one object."""

    node: int
    way: Way


def paths(names: Names, what: str, limit: int) -> list[Path]:
    """Ways to the largest (by retained size) of what is named. Raises UnknownObject."""
    nodes = find(names.graph, what)
    order = np.argsort(-names.graph.retained[nodes].astype(np.int64), kind="stable")
    return [Path(node, names.way(node)) for node in nodes[order[:limit]].tolist()]
