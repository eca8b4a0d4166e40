"""The threads of a dump by where they stand, so that two dumps can be compared."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

from tracer.heap.model import Heap
from tracer.heap.roots import thread_of

Place = tuple[str, str, int | None]
"""A frame: function, file, line."""


class Standing(NamedTuple):
    """Where a thread stands: its innermost frame, and the innermost of the program's own.

    Both None: it runs no Python; ``own`` None: all of its code is the standard library's.
    """

    inner: Place | None
    own: Place | None


def standing(heap: Heap) -> Counter[Standing]:
    """How many threads stand where."""
    stacks: dict[int, list[Place]] = {number: [] for number in range(len(heap.threads))}
    for frame in heap.frames:
        if (number := thread_of(heap, frame)) >= 0:
            stacks[number].append(_place(frame))
    return Counter(map(_standing, stacks.values()))


def _place(frame: dict[str, Any]) -> Place:
    line = frame.get("line")
    return (
        str(frame.get("function") or "?"),
        str(frame.get("file") or "?"),
        line if isinstance(line, int) else None,
    )


def _standing(stack: list[Place]) -> Standing:
    inner = stack[0] if stack else None
    own = next((place for place in stack if not _is_library(place[1])), None)
    return Standing(inner, own)


def _is_library(file: str) -> bool:
    """Whether a file belongs to Python's standard library, by its path."""
    return file.startswith("<frozen ") or ("/lib/python3" in file and "-packages/" not in file)
