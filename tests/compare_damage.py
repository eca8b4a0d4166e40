"""Dumps that are well-formed but mean nonsense, compared and exported under sanitizers.

    python -m tests.compare_damage DUMP HOW_MANY SEED

A reader refuses a dump whose bytes are damaged. Here numbers, texts and documents are
changed before a dump is written, so that many pass the reader; all that follows has to
end, or refuse in words. Started by ``run`` with the sanitizers' run-time preloaded. Prints
one line of JSON: how many were tried, how many of those were compared and exported, the
longest time of one (s).
"""

from __future__ import annotations

import functools
import json
import random
import sys
import tempfile
import time
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np

import tracer.heap.graph_code
import tracer.heap.marking
import tracer.heap.matching
import tracer.heap.text_rows
from probes.errors import ParkscopeError
from tests.heap_damage import SANITIZERS, sanitized
from tracer.heap.build import built
from tracer.heap.diff import diff
from tracer.heap.export import FORMATS, export
from tracer.heap.leaks import leaks
from tracer.heap.model import Heap
from tracer.heap.reader import DTYPES, HeapFile
from tracer.heap.writer import write

_NONSENSE: tuple[Any, ...] = (None, -1, 1 << 40, 1.5, "", "\x1b[2J", [], {}, True, "x" * 300)
MASK = (1 << 64) - 1
_UNITS = (tracer.heap.marking, tracer.heap.graph_code, tracer.heap.matching, tracer.heap.text_rows)


def run(path: Path, count: int, seed: int) -> dict[str, Any]:
    """One run in a process of its own; raises AssertionError with what a sanitizer said."""
    for unit in ("graph", "marks", "match"):
        built(unit, SANITIZERS)
    return sanitized("text", "tests.compare_damage", [str(path), str(count), str(seed)])


def stored(heap: Heap, file: HeapFile) -> Heap:
    """As a writer takes it: with the columns that reading turns into others."""
    columns = {**heap.columns, "items": file.column("items"), "size": file.column("size")}
    return Heap(heap.meta, heap.types, heap.strings, columns, heap.closure, heap.threads,
                heap.frames)  # fmt: skip


def damaged(heap: Heap, chance: random.Random) -> Heap:
    """A copy with some of it changed."""
    found = copy(heap)
    for _ in range(chance.choice((1, 3))):
        _change(found, chance)
    return found


def _change(heap: Heap, chance: random.Random) -> None:
    how = chance.randrange(6)
    if how <= 2:
        name = chance.choice([*(name for name in DTYPES if len(heap.columns[name])), "target"])
        column = np.array(heap.columns[name])
        for _ in range(chance.choice((1, 10, 1000))):
            column[chance.randrange(len(column))] = column[chance.randrange(len(column))]
        heap.columns = {**heap.columns, name: column}
    elif how == 3:
        name = chance.choice(("threads", "frames"))
        rows = [dict(row) for row in getattr(heap, name)]
        if rows:
            row = chance.choice(rows)
            row[chance.choice([*row])] = chance.choice(_NONSENSE)
        setattr(heap, name, rows)
    elif how == 4:
        heap.meta = {**heap.meta, chance.choice([*heap.meta]): chance.choice(_NONSENSE)}
    else:
        strings = list(heap.strings)
        strings[chance.randrange(len(strings))] = chance.choice(
            ("", "=1", '"\n,', "\x00", "\u202e")
        )
        heap.strings = strings


def use(directory: Path, heaps: list[Heap], chance: random.Random) -> bool:
    """Write them, compare them, export one; whether it came to an end."""
    paths = []
    for number, heap in enumerate(heaps):
        paths.append(directory / str(number))
        with paths[-1].open("wb") as stream:
            write(heap, stream)
    try:
        json.dumps(diff(paths[0], paths[1], only="str"))
        json.dumps(leaks(paths))
        export(paths[1], directory / "out", chance.choice([*FORMATS]), force=True)
    except ParkscopeError:
        return False
    return True


def mark_nonsense(chance: random.Random) -> None:
    """Marks of objects at random places of a random image, with random structures."""
    image = np.frombuffer(chance.randbytes(chance.randrange(1, 4096)), np.uint8).copy()
    count = 64
    pick = [0, 7, 16, 32, 40, len(image) - 8, len(image), len(image) + 1, 1 << 62, (1 << 64) - 1]
    offset, room, places = (
        np.array([chance.choice([*pick, chance.randrange(4096)]) & MASK for _ in range(size)],
                 np.uint64)
        for size in (count, count, 9)
    )  # fmt: skip
    kind = np.array([chance.randrange(7) for _ in range(count)], np.uint8)
    key, mark = np.zeros(2, np.uint64), np.zeros(count, np.uint16)
    tracer.heap.marking.library().marks_of(
        image.ctypes.data, len(image), places.ctypes.data, key.ctypes.data, count,
        offset.ctypes.data, offset.ctypes.data, room.ctypes.data, kind.ctypes.data,
        mark.ctypes.data,
    )  # fmt: skip


def main(path: Path, count: int, seed: int) -> dict[str, Any]:
    """So many trials."""
    for module in _UNITS:
        setattr(module, "built", functools.partial(built, extra=SANITIZERS))  # noqa: B010
    chance = random.Random(seed)
    with HeapFile(path) as file:
        heap = stored(file.load(), file)
    ended, longest = 0, 0.0
    with tempfile.TemporaryDirectory(prefix="parkscope-") as directory:
        for _ in range(count):
            begun = time.monotonic()
            heaps = [damaged(heap, chance) if chance.random() < 0.6 else heap for _ in range(3)]
            ended += use(Path(directory), heaps, chance)
            for _ in range(20):
                mark_nonsense(chance)
            longest = max(longest, time.monotonic() - begun)
    return {"tried": count, "ended": ended, "longest_s": longest}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
