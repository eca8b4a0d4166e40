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

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
    population: tuple[int, int, int] = (0, 0, 0)


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
    sites = Sites(sides[2].graph, since & ~growing).largest(MOST_SITES)
    births = Sites(sides[1].graph, born_outside).counts(sites)
    found = [_history(*one, survives) for one in zip(sites, births, strict=True)]
    found = [one for one in found if one.survived and one.later and 2 * one.survived >= one.born]
    populations = _populations(sides, early, late, [one.site for one in found])
    return [
        replace(one, population=three)
        for one, three in zip(found, populations, strict=True)
        if three[0] < three[1] < three[2]
    ]


def _history(site: Site, births: int, survives: npt.NDArray[np.bool_]) -> _Found:
    survived = int(np.count_nonzero(survives[site.nodes]))
    return _Found(site, max(births, survived), survived, len(site.nodes) - survived)


def _growing(late: Matching) -> npt.NDArray[np.bool_]:
    """In C: containers that B has, too, with fewer items."""
    found = np.zeros(late.second.graph.nodes, bool)
    nodes = np.flatnonzero(late.back != NONE)
    earlier = items(late.first.graph)[late.back[nodes]]
    found[nodes[items(late.second.graph)[nodes] > earlier]] = True
    return found


def _populations(
    sides: Sequence[Side], early: Matching, late: Matching, sites: Sequence[Site]
) -> list[tuple[int, int, int]]:
    """How many objects, old and new, each site has in A, B and C."""
    graphs = [side.graph for side in sides]
    keeper = np.array([graphs[2].idom[site.nodes[0]] for site in sites], np.int64)
    alone = keeper < graphs[2].nodes
    third = np.where(alone, keeper, NONE)
    second = np.where(alone, late.back[np.where(alone, keeper, 0)], NONE)
    first = np.where(second != NONE, early.back[second], NONE)
    names = [graphs[2].heap.types[site.type].name for site in sites]
    columns = []
    for graph, keepers in zip(graphs, (first, second, third), strict=True):
        types, kept = _count_types(graph), _count_kept(graph, keepers)
        columns.append(
            [
                kept[number, name] if by_keeper else types[name]
                for number, name, by_keeper in zip(
                    keepers.tolist(), names, alone.tolist(), strict=True
                )
            ]
        )
    return [(one, two, three) for one, two, three in zip(*columns, strict=True)]


def _count_kept(graph: Graph, keepers: npt.NDArray[np.int64]) -> Counter[tuple[int, str]]:
    """Per keeper and name of a type: how many of its objects that one alone keeps."""
    wanted = np.zeros(graph.nodes + 2, bool)
    wanted[keepers[keepers != NONE]] = True
    nodes = np.flatnonzero(wanted[graph.idom])
    pairs = np.stack([graph.idom[nodes], graph.heap.columns["type"][nodes].astype(np.int32)])
    found: Counter[tuple[int, str]] = Counter()
    for (keeper, kind), count in zip(*_unique(pairs), strict=True):
        found[keeper, graph.heap.types[kind].name] += count
    return found


def _unique(pairs: npt.NDArray[np.int32]) -> tuple[list[list[int]], list[int]]:
    found, counts = np.unique(pairs, axis=1, return_counts=True)
    return found.T.tolist(), counts.tolist()


def _count_types(graph: Graph) -> Counter[str]:
    counts = np.bincount(graph.heap.columns["type"], minlength=len(graph.heap.types)).tolist()
    found: Counter[str] = Counter()
    for one, count in zip(graph.heap.types, counts, strict=True):
        found[one.name] += count
    return found
