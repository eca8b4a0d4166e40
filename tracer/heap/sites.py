"""Where new objects hang: the outermost of them, grouped by their type and by who keeps them.

An object is outermost when none of the new ones alone keeps it: a session, not the strings
in it. What it retains is what came with it. Its site is its type and its keeper: the older
object that alone keeps it, the variable of a function, or, where several keep it, the one
on the shortest way from a root. A site's ``key`` is the same in every dump of a process.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tracer.heap.graph import FRAME, Graph
from tracer.heap.names import Names, Way
from tracer.heap.roots import frame_roots

_ALONE, _VARIABLE, _ROOT, _OLD, _NEW = range(1, 6)
"""What a key is made of beside the type: see ``_keys``."""

_SAMPLES = 8
_INDEX = re.compile(r"\[[^\[\]]*\]")
_EACH, _ANY = "(each thread)", "[…]"


@dataclass(frozen=True, slots=True)
class Site:
    """Outermost new objects of one type with one keeper. ``nodes``: all of them."""

    key: int
    type: int
    nodes: npt.NDArray[np.int64]
    retained: int


class Sites:
    """The sites of the ``born`` (bool, for each object) among a graph's objects."""

    def __init__(self, graph: Graph, born: npt.NDArray[np.bool_]) -> None:
        self.graph = graph
        inside = np.append(born, [False, False])[graph.idom]
        self.outermost = np.flatnonzero(born & graph.reachable & ~inside)
        self.keys = _keys(graph, born, self.outermost)

    def largest(self, most: int) -> list[Site]:
        """So many sites, the one that retains most first."""
        if not len(self.keys):
            return []
        order = np.argsort(self.keys, kind="stable")
        nodes, keys = self.outermost[order], self.keys[order]
        firsts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1]))
        ends = np.append(firsts[1:], len(nodes))
        retained = np.add.reduceat(self.graph.retained[nodes], firsts)
        chosen = np.lexsort((firsts - ends, -retained.astype(np.int64)))[:most]
        kinds = self.graph.heap.columns["type"]
        return [
            Site(
                int(keys[firsts[at]]), int(kinds[nodes[firsts[at]]]), nodes[firsts[at] : ends[at]],
                int(retained[at]),
            )
            for at in chosen.tolist()
        ]  # fmt: skip

    def counts(self, sites: Sequence[Site]) -> list[int]:
        """How many objects there are here, at the sites of another dump."""
        keys, counts = np.unique(self.keys, return_counts=True)
        known = dict(zip(keys.tolist(), counts.tolist(), strict=True))
        return [known.get(site.key, 0) for site in sites]


def _keys(
    graph: Graph, born: npt.NDArray[np.bool_], nodes: npt.NDArray[np.int64]
) -> npt.NDArray[np.uint64]:
    heap = graph.heap
    address = np.append(heap.columns["address"], np.zeros(2, np.uint64))
    type_address = address[np.array([one.node for one in heap.types] or [0])]
    idom, before = graph.idom[nodes], graph.before[nodes]
    kind_of = np.append(heap.columns["type"], np.zeros(2, np.uint32))
    alone = idom < graph.nodes
    is_root = ~alone & (before == graph.super_root)
    by_old = ~alone & ~is_root & ~np.append(born, [False, False])[before]
    code = np.where(alone, _ALONE, np.where(is_root, _ROOT, np.where(by_old, _OLD, _NEW)))
    what = np.where(alone, address[idom], address[before])
    what = np.where(code == _NEW, type_address[kind_of[before]], what)
    what[is_root] = 0
    variables = _variables(graph)
    for place in np.flatnonzero(is_root).tolist():
        if (variable := variables.get(int(nodes[place]))) is not None:
            code[place], what[place] = _VARIABLE, variable
    own = type_address[kind_of[nodes]]
    return _mixed(_mixed(own) ^ _mixed(what) + code.astype(np.uint64))


def _mixed(values: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """Numbers spread over 64 bits (the finalizer of splitmix64)."""
    found: npt.NDArray[np.uint64] = values.astype(np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        found = (found ^ (found >> np.uint64(shift))) * np.uint64(factor)
    return found ^ (found >> np.uint64(31))


def _variables(graph: Graph) -> dict[int, int]:
    """Per object that a frame keeps: a number for the function and variable."""
    heap = graph.heap
    found: dict[int, int] = {}
    for frame, name, node in frame_roots(heap):
        where = heap.frames[frame]
        key = (str(where.get("function")), str(where.get("file")), heap.strings[name])
        found.setdefault(node, hash(key) & 0xFFFFFFFFFFFF)
    return found


class Keepers:
    """Says in words who keeps the objects of a site."""

    def __init__(self, names: Names) -> None:
        self._names = names

    def of(self, site: Site) -> tuple[str, str]:
        """(how a person calls such an object, its keeper where one object alone keeps them).

        What differs between the objects is left open: ``app.cache[…]``.
        """
        ways = [self._names.way(node) for node in site.nodes[:_SAMPLES].tolist()]
        return common_name(ways), self.alone(site)

    def alone(self, site: Site) -> str:
        """The older object that alone keeps the site's objects; empty where there is none."""
        keeper = int(self._names.graph.idom[site.nodes[0]])
        same = self._names.graph.idom[site.nodes] == keeper
        if keeper >= self._names.graph.nodes or not same.all():
            return ""
        return self._names.name(keeper)


def common_name(ways: Sequence[Way]) -> str:
    """One name for several: as it is if all are the same, else with open places."""
    names, opened = [way.name for way in ways], [_open_thread(way) for way in ways]
    both = [_INDEX.sub(_ANY, name) for name in opened]
    for candidates in (names, [_INDEX.sub(_ANY, name) for name in names], opened, both):
        if len(set(candidates)) == 1:
            return candidates[0]
    return f"{Counter(both).most_common(1)[0][0]} and others"


def _open_thread(way: Way) -> str:
    root = way.root
    if root is None or root.kind != FRAME or not way.root_text.startswith("(thread "):
        return way.name
    if not way.name.startswith(way.root_text):
        return way.name
    # A thread's name may hold anything, parentheses too: its end is found from the other side.
    place = way.root_text.rindex(") ") + 1
    return _EACH + way.root_text[place:] + way.name[len(way.root_text) :]
