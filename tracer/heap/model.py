"""What a heap dump holds: the columns, and what stands beside them. See FORMAT.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

VERSION = 1

LABEL_KINDS = (
    "element", "key", "value", "attribute", "field", "slot", "local", "stack", "dict",
    "guess", "member", "again", "weak",
)  # fmt: skip
"""What a reference is, by number (enum label_kind, walk/walk.h)."""

TAILS = ("", "elements", "pairs", "triples")
"""What repeats at the end of an object's references, by number (enum tail)."""

TAIL_STEP = (0, 1, 2, 3)
"""How many references one item of a tail has."""

BORROWED = 0x80
"""Bit of a label's or a tail's number: the reference is not in its target's count."""


@dataclass(frozen=True, slots=True)
class HeapType:
    """A type: ``size`` is that of every instance, None where they differ (bytes).

    ``node`` is the number of the type object. Instances of a ``heap`` type refer to it.
    """

    module: str
    qualname: str
    node: int
    heap: bool
    kind: str
    size: int | None

    @property
    def name(self) -> str:
        """As a person writes it: builtins have no module."""
        return (
            self.qualname if self.module in {"", "builtins"} else f"{self.module}.{self.qualname}"
        )


@dataclass(frozen=True, slots=True)
class Closure:
    """How well the counted references explain the reference counts: the proof of consistency.

    ``counted`` objects are not immortal. ``exact``: every reference was found, in the heap
    or at a root that is known. ``held``: more are counted than were found (C code holds the
    rest). ``contradictions``: fewer are counted than certainly found. ``refuted``: only
    guesses are too many; those are not believed.
    """

    counted: int
    exact: int
    held: int
    contradictions: int
    refuted: int
    immortal: int

    @property
    def share(self) -> float:
        """``exact`` out of ``counted``."""
        return self.exact / self.counted if self.counted else 1.0

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "share": round(self.share, 6),
            "counted": self.counted,
            "exact": self.exact,
            "held": self.held,
            "contradictions": self.contradictions,
            "refuted": self.refuted,
            "immortal": self.immortal,
        }


@dataclass(slots=True)
class Heap:
    """A heap, walked or read: ``columns`` by the names of FORMAT.md, nodes by address."""

    meta: dict[str, Any]
    types: list[HeapType]
    strings: list[str]
    columns: dict[str, npt.NDArray[Any]]
    closure: Closure
    threads: list[dict[str, Any]] = field(default_factory=list)
    frames: list[dict[str, Any]] = field(default_factory=list)
    totals: Mapping[str, int] = field(default_factory=dict)

    @property
    def nodes(self) -> int:
        """How many objects."""
        return len(self.columns["type"])


def degrees(
    shapes: npt.NDArray[Any], tails: npt.NDArray[Any], shape: npt.NDArray[Any], items: Any
) -> npt.NDArray[np.int64]:
    """How many stored references each node has.

    ``shapes``: labels of each shape's head; ``tails``: its tail's number; ``items``: for
    those nodes whose shape has a tail, in order, how many items it has.
    """
    found: npt.NDArray[np.int64] = shapes.astype(np.int64)[shape]
    steps = np.array(TAIL_STEP, np.int64)[tails & ~np.uint8(BORROWED)][shape]
    with_tail = np.flatnonzero(steps)
    found[with_tail] += steps[with_tail] * items
    return found
