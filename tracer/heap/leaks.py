"""``heap leaks``: what was born between two dumps, lives on in a third, and becomes more.

Of three dumps A, B, C of one process a site (``sites.py``) is shown when

* objects were born there between A and B, and at least half of them are still alive in C,
* more were born there between B and C,
* and it became fuller from A to B and from B to C: the objects of the type that its keeper
  alone keeps; where several keep them, all objects of the type.

What comes and goes is not: its objects do not live on, or others leave for them, as in a
cache that is full. A cache that is still being filled cannot be told from a leak.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from probes.errors import UsageError
from tracer.heap.diff import about, items
from tracer.heap.dump import Progress
from tracer.heap.graph import Graph
from tracer.heap.matching import NONE, Matching, Side, same_process
from tracer.heap.names import Names
from tracer.heap.sites import Keepers, Site, Sites
from tracer.heap.sizes import read_graph

MOST_SITES = 2000
"""So many sites are looked into, those that retain most."""


@dataclass(frozen=True, slots=True)
class _Found:
    """A site in C, and its history: objects born until B, of them alive in C, born later."""

    site: Site
    born: int
    survived: int
    later: int
    population: tuple[int, int, int]


def leaks(paths: Sequence[Path], *, limit: int = 20, progress: Progress | None = None
          ) -> dict[str, Any]:  # fmt: skip
    """What leaks, for JSON: README.md says what the keys are. ``paths``: of A, B and C.

    Raises UsageError when they are not of one process, HeapDumpError, OSError,
    BackendUnavailable (no compiler).
    """
    tell = progress or (lambda _phase, _done, _total: None)
    sides = [Side.of(read_graph(path, tell)) for path in paths]
    heaps = [side.graph.heap for side in sides]
    if not all(same_process(heaps[0], other) for other in heaps[1:]):
        raise UsageError(
            "these dumps are not all of one process, or do not say",
            hint="Take three dumps of one process; 'heap diff' compares others by type.",
        )
    if sorted(paths, key=lambda path: _written(sides[paths.index(path)])) != list(paths):
        raise UsageError("the dumps are not in the order of their time", hint="Oldest first.")
    graphs = [side.graph for side in sides]
    tell("compare", 0, 0)
    found = _leaks(sides)
    keepers = Keepers(Names(graphs[2]))
    return {
        "dumps": [about(path, graph) for path, graph in zip(paths, graphs, strict=True)],
        "leaks": [_row(graphs[2], keepers, one) for one in found[:limit]],
        "sites": len(found),
    }


def _written(side: Side) -> str:
    return str(side.graph.heap.meta.get("written_at"))


def _row(graph: Graph, keepers: Keepers, found: _Found) -> dict[str, Any]:
    name, alone = keepers.of(found.site)
    return {
        "type": graph.heap.types[found.site.type].name,
        "born": found.born,
        "survived": found.survived,
        "born_later": found.later,
        "population": list(found.population),
        "retained_bytes": found.site.retained,
        "name": name,
        "kept_by": alone or None,
    }


def _leaks(sides: Sequence[Side]) -> list[_Found]:
    """The sites that leak, the one that retains most first."""
    early, late = Matching(sides[0], sides[1]), Matching(sides[1], sides[2])
    born = early.back == NONE
    before = late.back
    # In C: what A had not. What grows meanwhile counts as a keeper, not as an object.
    since = (before == NONE) | born[before]
    growing = _growing(late) & since
    born_outside = born.copy()
    born_outside[before[growing]] = False
    survives = (before != NONE) & since
    sites = Sites(sides[2].graph, since & ~growing).all()[:MOST_SITES]
    births = {one.key: len(one.nodes) for one in Sites(sides[1].graph, born_outside).all()}
    populations = _Populations(sides, early, late)
    return list(_filtered(sites, births, survives, populations))


def _filtered(
    sites: Sequence[Site],
    births: dict[int, int],
    survives: npt.NDArray[np.bool_],
    populations: _Populations,
) -> Iterator[_Found]:
    for site in sites:
        survived = int(np.count_nonzero(survives[site.nodes]))
        later = len(site.nodes) - survived
        born = max(births.get(site.key, 0), survived)
        if not survived or not later or 2 * survived < born:
            continue
        population = populations.of(site)
        if population[0] < population[1] < population[2]:
            yield _Found(site, born, survived, later, population)


def _growing(late: Matching) -> npt.NDArray[np.bool_]:
    """In C: containers that B has, too, with fewer items."""
    found = np.zeros(late.second.graph.nodes, bool)
    nodes = np.flatnonzero(late.back != NONE)
    earlier = items(late.first.graph)[late.back[nodes]]
    found[nodes[items(late.second.graph)[nodes] > earlier]] = True
    return found


class _Populations:
    """How many objects, old and new, a site has in each of the three dumps."""

    def __init__(self, sides: Sequence[Side], early: Matching, late: Matching) -> None:
        self._graphs = [side.graph for side in sides]
        self._early, self._late = early, late
        self._types = [_count_types(graph) for graph in self._graphs]

    def of(self, site: Site) -> tuple[int, int, int]:
        """In A, B and C."""
        graph = self._graphs[2]
        name = graph.heap.types[site.type].name
        keepers = self._keepers(int(graph.idom[site.nodes[0]]))
        if keepers is None:
            first, second, third = (counts.get(name, 0) for counts in self._types)
            return first, second, third
        return (
            self._kept(0, keepers[0], name),
            self._kept(1, keepers[1], name),
            self._kept(2, keepers[2], name),
        )

    def _keepers(self, node: int) -> tuple[int, int, int] | None:
        """What alone keeps a site's objects, as a node of each dump; NONE: not there yet."""
        if node >= self._graphs[2].nodes:
            return None
        second = int(self._late.back[node])
        first = int(self._early.back[second]) if second != NONE else NONE
        return first, second, node

    def _kept(self, dump: int, keeper: int, name: str) -> int:
        if keeper == NONE:
            return 0
        graph = self._graphs[dump]
        kept = np.flatnonzero(graph.idom == keeper)
        wanted = [at for at, one in enumerate(graph.heap.types) if one.name == name]
        return int(np.count_nonzero(np.isin(graph.heap.columns["type"][kept], wanted)))


def _count_types(graph: Graph) -> dict[str, int]:
    counts = np.bincount(graph.heap.columns["type"], minlength=len(graph.heap.types)).tolist()
    found: dict[str, int] = {}
    for one, count in zip(graph.heap.types, counts, strict=True):
        found[one.name] = found.get(one.name, 0) + count
    return found
