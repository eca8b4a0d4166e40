"""The roots of a dump, row by row: what a frame keeps, and what the dump has a kind for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from tracer.heap.graph import WEAK
from tracer.heap.model import BORROWED, Heap


def kept_by_frames(heap: Heap) -> npt.NDArray[np.bool_]:
    """Which of the frames' references keep what they lead to."""
    kinds = heap.columns["reference_kind"]
    keeps: npt.NDArray[np.bool_] = (kinds & BORROWED == 0) & (kinds != WEAK)
    return keeps


def frame_roots(heap: Heap) -> Iterator[tuple[int, int, int]]:
    """(frame, number of the variable's name, object)."""
    keeps = kept_by_frames(heap)
    yield from zip(
        *(heap.columns[f"reference_{part}"][keeps].tolist() for part in ("frame", "name", "node")),
        strict=True,
    )


def thread_of(heap: Heap, frame: dict[str, Any]) -> int:
    """The number of a frame's thread; -1 where the dump names none that it has."""
    number = frame.get("thread")
    return number if isinstance(number, int) and 0 <= number < len(heap.threads) else -1


def root_kinds(heap: Heap) -> dict[int, str]:
    """The names of the kinds that occur; ``other`` where the dump forgot one."""
    named = heap.meta.get("root_kinds")
    names = [str(one) for one in named] if isinstance(named, list) else []
    return {
        kind: names[kind] if kind < len(names) else "other"
        for kind in np.unique(heap.columns["root_kind"]).tolist()
    }


def named_roots(heap: Heap) -> Iterator[tuple[str, int, int]]:
    """(kind, number of the name, object) of roots that are no frame's."""
    kinds = root_kinds(heap)
    for kind, name, node in zip(
        *(heap.columns[f"root_{part}"].tolist() for part in ("kind", "name", "node")), strict=True
    ):
        yield kinds[kind], name, node
