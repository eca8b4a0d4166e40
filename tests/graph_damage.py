"""Damaged columns and references, by the thousand, through the graph's C code under sanitizers.

    python -m tests.graph_damage DUMP HOW_MANY SEED

Started by ``run`` with the sanitizers' run-time preloaded: whatever they find ends it. What
is damaged here, a reader would refuse; the C code has to be safe without it. Prints one line
of JSON: how many were tried, how many of those came to an end, the longest time of one (s).
"""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from probes.errors import DamagedHeapDump
from tests.heap_damage import SANITIZERS, sanitized
from tracer.heap.build import built
from tracer.heap.graph import Graph
from tracer.heap.graph_code import Dominators, Library, Rows
from tracer.heap.reader import HeapFile

_COLUMNS = ("type", "shape", "degree", "target", "shape_count", "shape_first", "shape_tail",
            "label_kind", "label_name", "type_node", "type_heap")  # fmt: skip
_NUMBERS = (0, 1, 2, 3, 0x7F, 0x80, 0xFF, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 62,
            -1, -2, -(1 << 31))  # fmt: skip


def run(path: Path, count: int, seed: int) -> dict[str, Any]:
    """One run in a process of its own; raises AssertionError with what a sanitizer said."""
    return sanitized("graph", "tests.graph_damage", [str(path), str(count), str(seed)])


class Damaged:
    """The graph of one dump, damaged again and again."""

    def __init__(self, path: Path) -> None:
        self._code = Library(str(built("graph", SANITIZERS)))
        with HeapFile(path) as file:
            graph = Graph(file.load(), self._code)
        self._columns = {name: graph.columns()[name] for name in _COLUMNS}
        self._rows, self._roots, self._sizes = graph.rows, graph.roots, graph.shallow
        self._found = graph.dominators

    def go(self, chance: random.Random) -> int:
        """Damage one thing, use it for all that it is used for; how much came to an end."""
        return self._expand(chance) if chance.random() < 0.4 else self._use(chance)

    def _expand(self, chance: random.Random) -> int:
        columns = dict(self._columns)
        name = chance.choice(_COLUMNS)
        columns[name] = damaged(columns[name], chance)
        try:
            rows, _ = self._code.expand(columns, labels=chance.random() < 0.5)
        except DamagedHeapDump:
            return 0
        return int(len(rows.targets) == rows.indptr[-1])

    def _use(self, chance: random.Random) -> int:
        rows, roots, found = self._rows, self._roots, self._found
        nodes = len(self._sizes)
        group = np.array([chance.randrange(5) for _ in range(64)], np.uint32)
        group = np.resize(group, nodes)
        which = chance.randrange(5)
        if which == 0:
            rows = Rows(damaged(rows.indptr, chance), rows.targets)
        elif which == 1:
            rows = Rows(rows.indptr, damaged(rows.targets, chance))
        elif which == 2:
            roots = damaged(roots, chance)
        elif which == 3:
            found = Dominators(damaged(found.idom, chance), found.retained, 0, 0)
        else:
            group = damaged(group, chance)
        without = np.array([chance.randrange(nodes)])
        ended = 0
        for use in (
            lambda: self._code.dominators(rows, roots, self._sizes),
            lambda: self._code.reverse(rows),
            lambda: self._code.ways(rows, [roots[: len(roots) // 2], roots[len(roots) // 2 :]]),
            lambda: self._code.reached(rows, roots, without),
            lambda: self._code.grouped(found, group, 3, inherit=chance.random() < 0.5),
        ):
            try:
                use()
                ended += 1
            except DamagedHeapDump:
                pass
        return int(ended > 0)


def damaged(column: npt.NDArray[Any], chance: random.Random) -> npt.NDArray[Any]:
    """A copy with some numbers changed."""
    found = column.copy()
    for _ in range(chance.choice((1, 1, 4, 64))):
        at = chance.randrange(len(found))
        how = chance.randrange(3)
        number = (
            chance.choice(_NUMBERS)
            if how == 0
            else int(found[at]) + chance.randrange(-3, 4)
            if how == 1
            else int(found[chance.randrange(len(found))])
        )
        found[at] = np.array(number & ((1 << 64) - 1), np.uint64).astype(found.dtype)
    return found


def main(path: Path, count: int, seed: int) -> dict[str, Any]:
    """``count`` of them."""
    graph = Damaged(path)
    ended, longest = 0, 0.0
    for number in range(count):
        begun = time.monotonic()
        ended += graph.go(random.Random(seed * 1_000_003 + number))
        longest = max(longest, time.monotonic() - begun)
    return {"tried": count, "ended": ended, "longest_s": longest}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
