"""``heap retainers`` and ``heap path``: who keeps objects alive, and from where."""

from __future__ import annotations

import difflib
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from probes.errors import UnknownObject
from tracer.heap.graph import Graph
from tracer.heap.holders import Holder, Holders, split
from tracer.heap.model import HeapType
from tracer.heap.names import Names, Way

_BRANCHES = (0, 3, 2, *(1,) * 9)
"""How many branches are followed at each level up the tree of dominators."""

_LEAST_SHARE = 50
"""A branch is followed if it has at least one part in so many of the bytes."""

_NEAR = 3
_Nodes = npt.NDArray[np.int64]


class Keeper(NamedTuple):
    """Objects of one type that alone keep ``objects`` alive (``retained``: bytes of those).

    ``node`` is that object where it is one, else -1; ``kind`` is empty for what is a root or
    kept in several ways, and ``garbage`` then says that no root leads there. ``above``: who
    alone keeps the keepers, the small branches and the end of each left out.
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
        holders=Holders(names, inside, top).rows()[:limit],
        keepers=_keepers(names, np.flatnonzero(top), limit),
    )


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
    for rows in split(kinds):
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
    if level:  # what stands above all is where branches end: it is not said again and again
        least = int(below[1].sum()) // _LEAST_SHARE
        found = [one for one in found if one[0].kind and one[0].retained >= least]
    return [
        keeper._replace(above=_above(names, keepers, sums, _BRANCHES[level + 1], level + 1))
        if keeper.kind and level + 1 < len(_BRANCHES) and not _is_known(names, keeper, keepers)
        else keeper
        for keeper, keepers, sums in found[:limit]
    ]


def _is_known(names: Names, keeper: Keeper, keepers: _Nodes) -> bool:
    """Whether keepers have names of their own, so that nobody asks further."""
    known = names.kind(int(keepers[0])).kind in {"type", "module"}
    return known or (keeper.node >= 0 and names.own(keeper.node) is not None)


class Path(NamedTuple):
    """The shortest way to one object."""

    node: int
    way: Way


def paths(names: Names, what: str, limit: int) -> list[Path]:
    """Ways to the largest (by retained size) of what is named. Raises UnknownObject."""
    nodes = find(names.graph, what)
    order = np.argsort(-names.graph.retained[nodes].astype(np.int64), kind="stable")
    return [Path(node, names.way(node)) for node in nodes[order[:limit]].tolist()]
