"""``heap top --retained`` and ``--by module``: what types and modules keep alive."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tracer.heap.dump import Progress
from tracer.heap.graph import Graph
from tracer.heap.model import HeapType
from tracer.heap.names import Names
from tracer.heap.reader import HeapFile

SHARED = ""
"""The name of the row of what no module alone keeps."""


class Row(NamedTuple):
    """A type or module: its objects, their bytes alone, and what those keep alive alone.

    ``retained`` adds up the objects that no other one of the row dominates. Rows overlap:
    what a list in a dict keeps, is kept by dicts, too.
    """

    name: str
    objects: int
    shallow: int
    retained: int


def read_graph(path: Path, progress: Progress) -> Graph:
    """The graph of a dump, its dominators and ways found.

    ``progress(phase, done, total)`` is told of each phase. Raises HeapDumpError, OSError,
    BackendUnavailable.
    """
    progress("read", 0, 1)
    with HeapFile(path) as file:
        graph = Graph.of(file.load())
    for phase, following, find in (
        ("read", "references", lambda: graph.rows),
        ("references", "dominators", lambda: graph.dominators),
        ("dominators", "ways", lambda: graph.before),
    ):
        progress(phase, 1, 1)
        progress(following, 0, 1)
        find()
    progress("ways", 1, 1)
    return graph


def by_type(graph: Graph, limit: int) -> list[Row]:
    """The types that keep most, the largest first."""
    kinds = graph.heap.columns["type"]
    types = graph.heap.types
    retained = graph.grouped(kinds, len(types)).retained
    return _rows([one.name for one in types], kinds, graph.shallow, retained, limit)


def by_module(names: Names, limit: int) -> list[Row]:
    """The modules that keep most, the largest first.

    A module's objects are itself, its namespace, its functions, classes and their instances,
    its generators and coroutines, and whatever else is kept alive by those alone. So each
    object belongs to one module, or to none (``SHARED``).
    """
    graph = names.graph
    modules: list[str] = sorted(
        {*names.modules.values(), *(one.module for one in graph.heap.types)}
    )
    number = {name: at for at, name in enumerate(modules)}
    none = len(modules)
    functions, of = _functions(graph, number)
    written = set(np.unique(of).tolist())
    own = [
        number[one.module] if _is_written(one) and number[one.module] in written else none
        for one in graph.heap.types
    ]
    group = np.array(own, np.uint32)[graph.heap.columns["type"]]
    group[functions] = of
    running = graph.field_edges("function")  # of a generator's frame
    group[graph.sources(running)] = group[graph.targets[running]]
    for node, kind in names.classes.items():
        group[node] = number[kind.module]
    for node, name in names.modules.items():
        group[node] = number[name]
    found = graph.grouped(group, none, inherit=True)
    group = np.minimum(found.group, none)
    return _rows([*modules, SHARED], group, graph.shallow, [*found.retained.tolist(), 0], limit)


def _functions(
    graph: Graph, number: dict[str, int]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint32]]:
    """Functions, and the numbers of their modules."""
    columns, strings = graph.heap.columns, graph.heap.strings
    texts = np.zeros(graph.nodes, np.int64)
    texts[columns["text_node"]] = columns["text"]
    known = np.array([number.get(text, len(number)) for text in strings], np.uint32)
    edges = graph.field_edges("func_module")
    of = known[texts[graph.targets[edges]]]
    certain = of < len(number)
    return graph.sources(edges)[certain], of[certain]


def _rows(
    names: list[str],
    group: npt.NDArray[np.uint32],
    shallow: npt.NDArray[np.uint64],
    retained: npt.NDArray[np.uint64] | list[int],
    limit: int,
) -> list[Row]:
    counts = np.bincount(group, minlength=len(names))
    sizes = np.bincount(group, weights=shallow, minlength=len(names))
    kept = np.array(retained, np.int64)
    order = np.lexsort((-sizes, -kept))[:limit].tolist()
    return [
        Row(names[at], int(counts[at]), int(sizes[at]), int(kept[at])) for at in order if counts[at]
    ]


def _is_written(kind: HeapType) -> bool:
    """Whether a type may be a class of Python code: C's say nothing of who made an object."""
    return kind.heap and kind.module not in {"", "builtins"} and kind.name not in _own_types()


@cache
def _own_types() -> frozenset[str]:
    text = (resources.files("tracer.heap") / "types.toml").read_text(encoding="utf-8")
    return frozenset(entry["name"] for entry in tomllib.loads(text)["type"])
