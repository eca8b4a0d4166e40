"""Walked heaps against the truth that a target tells (tests/targets/heap_kinds.py)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.capturing import take as take_image
from tracer.heap.build_heap import build_heap
from tracer.heap.image import Image
from tracer.heap.model import Heap
from tracer.heap.place import Place, place_of
from tracer.heap.scan import Scanner
from tracer.target import inspect

KINDS = Path(__file__).parent / "targets/heap_kinds.py"
SUBINTERPRETERS = Path(__file__).parent / "targets/subinterpreters.py"
TREES = Path(__file__).parent / "targets/syntax_trees.py"
_LINK = "functools._lru_list_elem"


@dataclass(frozen=True)
class Truth:
    """What the interpreter says: objects (all, and those that the collector tracks) by id."""

    ids: npt.NDArray[np.uint64]
    tracked: npt.NDArray[np.bool_]
    sizes: npt.NDArray[np.uint64]
    sources: npt.NDArray[np.uint64]
    targets: npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Agreement:
    """Counts of what is so and of what was found; ``missed`` says of which kinds."""

    tracked: int
    tracked_found: int
    edges: int
    edges_found: int
    size: int
    size_found: int
    closure: float
    contradictions: int
    missed: str


def read_truth(path: Path) -> Truth:
    """The file that heap_kinds.py wrote."""
    words = np.fromfile(path, np.uint64)
    places, at = [], 0
    while at < len(words):
        places.append(at)
        at += 4 + int(words[at + 3])
    heads = np.array(places)
    counts = words[heads + 3].astype(np.int64)
    inside = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
    return Truth(
        ids=words[heads],
        tracked=words[heads + 1] == 1,
        sizes=words[heads + 2],
        sources=np.repeat(words[heads], counts),
        targets=words[np.repeat(heads + 4, counts) + inside],
    )


def walked(pid: int, *, values: bool = False) -> tuple[Heap, Place, Image]:
    """The heap of a process that stands still; the caller closes the image."""
    place = place_of(inspect(pid))
    image = take_image(pid)
    return heap_of(image, place, values=values), place, image


def heap_of(image: Image, place: Place, *, values: bool = False) -> Heap:
    """An image, walked; the columns are copies."""
    scan = Scanner(image, place).run()
    heap = build_heap(scan, {}, values=values)
    heap.columns = {name: np.array(column) for name, column in heap.columns.items()}
    heap.columns["sizes"] = np.array(scan.walk.columns()["size"])
    scan.close()
    return heap


def edges_of(heap: Heap) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(source, target) of every reference, those to types included, by node."""
    kinds = heap.columns["type"]
    nodes = np.arange(len(kinds))
    source = np.repeat(nodes, heap.columns["degree"])
    is_heap = np.array([one.heap for one in heap.types])[kinds]
    type_node = np.array([one.node for one in heap.types])[kinds]
    return (
        np.concatenate([source, nodes[is_heap]]),
        np.concatenate([heap.columns["target"].astype(np.int64), type_node[is_heap]]),
    )


def _through_links(
    heap: Heap, source: npt.NDArray[np.int64], target: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """References of an lru_cache's links as the cache's: the collector knows no links."""
    names = [one.name for one in heap.types]
    is_link = np.array([name == _LINK for name in names])[heap.columns["type"]]
    is_cache = np.array([name == "functools._lru_cache_wrapper" for name in names])
    caches = np.flatnonzero(is_cache[heap.columns["type"]])
    following = {
        int(a): int(b) for a, b in zip(source, target, strict=True) if is_link[a] and is_link[b]
    }
    owner: dict[int, int] = {}
    first = is_link[target] & np.isin(source, caches)
    for cache, link in zip(source[first].tolist(), target[first].tolist(), strict=True):
        at: int | None = link
        while at is not None and at not in owner:
            owner[at] = cache
            at = following.get(at)
    of_links = np.flatnonzero(is_link[source])
    owners = np.array([owner.get(int(link), int(link)) for link in source[of_links]], np.int64)
    return np.concatenate([source, owners]), np.concatenate([target, target[of_links]])


def agreement(heap: Heap, truth: Truth) -> Agreement:
    """The heap held against the truth."""
    addresses = heap.columns["address"]

    def node(ids: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        at = np.minimum(np.searchsorted(addresses, ids), len(addresses) - 1)
        found = np.where(addresses[at] == ids, at, -1)
        return found.astype(np.int64)

    nodes = node(truth.ids)
    count = len(addresses)
    source, target = _through_links(heap, *edges_of(heap))
    ours = np.unique(source * count + target)
    a, b = node(truth.sources), node(truth.targets)
    theirs, times = np.unique(np.stack([a, b]), axis=1, return_counts=True)
    del times
    known = (theirs[0] >= 0) & (theirs[1] >= 0)
    found = known.copy()
    found[known] = np.isin(theirs[0][known] * count + theirs[1][known], ours)
    return Agreement(
        tracked=int(truth.tracked.sum()),
        tracked_found=int((nodes[truth.tracked] >= 0).sum()),
        edges=theirs.shape[1],
        edges_found=int(found.sum()),
        size=int(truth.sizes.sum()),
        size_found=int(heap.columns["sizes"][nodes[nodes >= 0]].sum()),
        closure=heap.closure.share,
        contradictions=heap.closure.contradictions,
        missed=_missed(heap, theirs[:, ~found]),
    )


def _missed(heap: Heap, edges: npt.NDArray[Any]) -> str:
    def name(at: int) -> str:
        return heap.types[heap.columns["type"][at]].name if at >= 0 else "?"

    kinds = Counter(f"{name(int(a))} → {name(int(b))}" for a, b in edges.T)
    return ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(5))
