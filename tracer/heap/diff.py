"""``heap diff``: what became more between two dumps, and who keeps it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from probes.errors import UnknownObject
from tracer.heap.dump import Progress
from tracer.heap.graph import Graph
from tracer.heap.matching import NONE, Matching, Side, same_process
from tracer.heap.model import BORROWED, TAIL_STEP, Heap
from tracer.heap.names import Names
from tracer.heap.retainers import find
from tracer.heap.sites import Keepers, Sites
from tracer.heap.sizes import read_graph
from tracer.heap.threads import Place, Standing, standing

NOT_ONE_PROCESS = (
    "the dumps are of different processes, or do not say: only types and threads are compared"
)
IN_REVERSE = "the second dump was written before the first one"


def diff(
    first: Path, second: Path, *, limit: int = 20, only: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:  # fmt: skip
    """What differs, for JSON: README.md says what the keys are. ``limit``: of each list.

    ``only``: a type whose objects are listed one by one. Raises UnknownObject for one that
    neither has, HeapDumpError, OSError, BackendUnavailable (no compiler).
    """
    tell = progress or (lambda _phase, _done, _total: None)
    sides = Side.of(read_graph(first, tell)), Side.of(read_graph(second, tell))
    one, other = (side.graph.heap for side in sides)
    found: dict[str, Any] = {
        "first": about(first, sides[0].graph),
        "second": about(second, sides[1].graph),
        "same_process": same_process(one, other),
        "threads": _threads(one, other)[:limit],
        "notes": [],
    }
    if str(one.meta.get("written_at")) > str(other.meta.get("written_at")):
        found["notes"].append(IN_REVERSE)
    tell("compare", 0, 0)
    if not found["same_process"]:
        found["notes"].append(NOT_ONE_PROCESS)
        found["types"] = _types(sides, None)[:limit]
        return found
    matching = Matching(*sides)
    names = Names(sides[1].graph)
    found |= {
        "objects": _counts(matching),
        "grown": _grown(matching, names, limit),
        "sites": _sites(matching, names, limit),
        "types": _types(sides, matching)[:limit],
    }
    if only is not None:
        found["each"] = _each(matching, names, only, limit)
    return found


def about(path: Path, graph: Graph) -> dict[str, Any]:
    """A dump in a few figures, for JSON."""
    meta = graph.heap.meta
    return {
        "path": str(path),
        "pid": meta.get("pid"),
        "written_at": meta.get("written_at"),
        "objects": graph.nodes,
        "shallow_bytes": int(graph.shallow.sum()),
        "unreachable": int(np.count_nonzero(~graph.reachable)),
        "threads": len(graph.heap.threads),
    }


def _threads(one: Heap, other: Heap) -> list[dict[str, Any]]:
    """Places where the number of threads differs, the largest growth first."""
    before, after = standing(one), standing(other)
    rows = [
        {"before": before[place], "after": after[place], **_standing(place)}
        for place in before.keys() | after.keys()
        if before[place] != after[place]
    ]
    return sorted(rows, key=lambda row: (row["before"] - row["after"], str(row)))


def _standing(place: Standing) -> dict[str, Any]:
    return {"at": _place(place.inner), "from": _place(place.own)}


def _place(place: Place | None) -> dict[str, Any] | None:
    return None if place is None else dict(zip(("function", "file", "line"), place, strict=True))


def _counts(matching: Matching) -> dict[str, int]:
    """Objects that both have, those that only one has, and those that take more than before.

    ``same``, ``new``, ``gone``, ``grown``. What no root leads to is none of these: nothing
    would tell such an object from another at its address.
    """
    nodes = np.flatnonzero(matching.pair != NONE)
    sizes = matching.first.graph.shallow[nodes]
    grown = matching.second.graph.shallow[matching.pair[nodes]] > sizes
    return {
        "same": len(nodes),
        "new": int(np.count_nonzero(_new(matching))),
        "gone": int(np.count_nonzero(_gone(matching))),
        "grown": int(np.count_nonzero(grown)),
    }


def _new(matching: Matching) -> npt.NDArray[np.bool_]:
    found: npt.NDArray[np.bool_] = (matching.back == NONE) & matching.second.graph.reachable
    return found


def _gone(matching: Matching) -> npt.NDArray[np.bool_]:
    found: npt.NDArray[np.bool_] = (matching.pair == NONE) & matching.first.graph.reachable
    return found


def items(graph: Graph) -> npt.NDArray[np.int64]:
    """How many items each container has (a dict: keys); 0 for what is none.

    Tuples and frozensets never change and count as none.
    """
    columns = graph.heap.columns
    if not len(columns["shape"]):
        return np.zeros(0, np.int64)
    steps = np.array(TAIL_STEP, np.int64)[columns["shape_tail"] & ~np.uint8(BORROWED)]
    step = steps[columns["shape"]]
    fixed = np.array([one.kind == "tuple" or one.name == "frozenset" for one in graph.heap.types])
    step[fixed[columns["type"]]] = 0
    head = columns["shape_count"].astype(np.int64)[columns["shape"]]
    found: npt.NDArray[np.int64] = (columns["degree"] - head) // np.maximum(step, 1)
    found[step == 0] = 0
    return found


def _grown(matching: Matching, names: Names, limit: int) -> list[dict[str, Any]]:
    """Containers that both dumps have and that gained items, by what they retain more."""
    one, other = matching.first.graph, matching.second.graph
    nodes = np.flatnonzero(matching.pair != NONE)
    there = matching.pair[nodes]
    before, after = items(one)[nodes], items(other)[there]
    retained = other.retained[there].astype(np.int64) - one.retained[nodes].astype(np.int64)
    places = np.flatnonzero(after > before)
    order = places[np.lexsort((before[places] - after[places], -retained[places]))][:limit]
    return [
        {
            "name": names.name(int(there[at])),
            "type": names.kind(int(there[at])).name,
            "address": int(other.heap.columns["address"][there[at]]),
            "items_before": int(before[at]),
            "items_after": int(after[at]),
            "shallow_before": int(one.shallow[nodes[at]]),
            "shallow_after": int(other.shallow[there[at]]),
            "retained_before": int(one.retained[nodes[at]]),
            "retained_after": int(other.retained[there[at]]),
        }
        for at in order.tolist()
    ]


def _sites(matching: Matching, names: Names, limit: int) -> list[dict[str, Any]]:
    graph = matching.second.graph
    keepers = Keepers(names)
    rows = []
    for site in Sites(graph, matching.back == NONE).largest(limit):
        name, alone = keepers.of(site)
        rows.append(
            {
                "type": graph.heap.types[site.type].name,
                "objects": len(site.nodes),
                "shallow_bytes": int(graph.shallow[site.nodes].sum()),
                "retained_bytes": site.retained,
                "name": name,
                "kept_by": alone or None,
            }
        )
    return rows


def _types(sides: tuple[Side, Side], matching: Matching | None) -> list[dict[str, Any]]:
    """Types by name whose objects differ, the largest growth in bytes first."""
    one, other = (_by_type(side.graph) for side in sides)
    new: Counter[str] = Counter()
    gone: Counter[str] = Counter()
    if matching is not None:
        new = _tally(matching.second.graph.heap, _new(matching))
        gone = _tally(matching.first.graph.heap, _gone(matching))
    rows = []
    for name in one.keys() | other.keys():
        (count, size, retained), (counted, sized, kept) = (
            table.get(name, (0, 0, 0)) for table in (one, other)
        )
        if (count, size) == (counted, sized) and not new[name] and not gone[name]:
            continue
        row = {"type": name, "before": count, "after": counted}
        if matching is not None:
            row |= {"new": new[name], "gone": gone[name]}
        row |= {"shallow_before": size, "shallow_after": sized}
        rows.append(row | {"retained_before": retained, "retained_after": kept})
    return sorted(rows, key=_growth)


def _growth(row: dict[str, Any]) -> tuple[int, int, str]:
    return (
        row["shallow_before"] - row["shallow_after"], row["before"] - row["after"], row["type"],
    )  # fmt: skip


def _by_type(graph: Graph) -> dict[str, tuple[int, int, int]]:
    """Per name of a type: objects, their bytes, and what they keep alive together."""
    heap = graph.heap
    names = sorted({one.name for one in heap.types})
    number = {name: at for at, name in enumerate(names)}
    of_type = np.array([number[one.name] for one in heap.types] or [0], np.uint32)
    group = of_type[heap.columns["type"]]
    counts = np.bincount(group, minlength=len(names)).tolist()
    sizes = np.bincount(group, weights=graph.shallow, minlength=len(names)).astype(np.int64)
    retained = graph.grouped(group, len(names)).retained
    return dict(
        zip(names, zip(counts, sizes.tolist(), retained.tolist(), strict=True), strict=True)
    )


def _tally(heap: Heap, which: npt.NDArray[np.bool_]) -> Counter[str]:
    counts = np.bincount(heap.columns["type"][which], minlength=len(heap.types)).tolist()
    found: Counter[str] = Counter()
    for one, count in zip(heap.types, counts, strict=True):
        found[one.name] += count
    return found


def _each(matching: Matching, names: Names, only: str, limit: int) -> list[dict[str, Any]]:
    """The objects of one type that are new, grown or gone, by what changed with them."""
    one, other = matching.first.graph, matching.second.graph
    nodes, old = _of_type(other, only), _of_type(one, only)
    if not len(nodes) and not len(old):
        find(other, only)  # says which types have such a name
    born = nodes[_new(matching)[nodes]]
    gone = old[_gone(matching)[old]]
    same = old[matching.pair[old] != NONE]
    grown = same[other.retained[matching.pair[same]] > one.retained[same]]
    rows: list[tuple[str, int, int | None, int | None]] = [
        ("new", node, None, int(other.retained[node])) for node in born.tolist()
    ]
    rows += [("gone", node, int(one.retained[node]), None) for node in gone.tolist()]
    rows += [
        ("grown", node, int(one.retained[old]), int(other.retained[node]))
        for old, node in zip(grown.tolist(), matching.pair[grown].tolist(), strict=True)
    ]
    rows.sort(key=lambda row: (-abs((row[3] or 0) - (row[2] or 0)), row[0], row[1]))
    before = Names(one)
    return [
        {
            "change": change,
            "address": int((one if change == "gone" else other).heap.columns["address"][node]),
            "name": (before if change == "gone" else names).name(node),
            "retained_before": size,
            "retained_after": sized,
        }
        for change, node, size, sized in rows[:limit]
    ]


def _of_type(graph: Graph, only: str) -> npt.NDArray[np.int64]:
    try:
        return find(graph, only)
    except UnknownObject:
        return np.zeros(0, np.int64)
