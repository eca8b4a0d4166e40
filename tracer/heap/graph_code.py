"""The graph of a heap, in C (``tracer/heap/graph``): its functions, with numpy's arrays.

Every array is checked for its length here and for its content there, so that no column of
a damaged dump leads outside of another.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from probes.errors import DamagedHeapDump, InternalError, ParkscopeError
from tracer.heap.build import built

_NO_MEMORY = 1
_COLUMNS: tuple[tuple[str, type[np.generic]], ...] = (
    ("type", np.uint32),
    ("shape", np.uint32),
    ("degree", np.int64),
    ("target", np.int32),
    ("shape_count", np.uint32),
    ("shape_first", np.uint64),
    ("shape_tail", np.uint8),
    ("label_kind", np.uint8),
    ("label_name", np.uint32),
    ("type_node", np.uint32),
    ("type_heap", np.uint8),
)


class _Columns(ctypes.Structure):
    """struct columns, graph/graph.h."""

    _fields_ = (
        *((name, ctypes.c_uint64) for name in ("nodes", "edges", "shapes", "labels", "types")),
        *((name, ctypes.c_void_p) for name, _ in _COLUMNS),
    )


class _Rows(ctypes.Structure):
    """struct rows, graph/graph.h."""

    _fields_ = (
        ("nodes", ctypes.c_uint64),
        ("indptr", ctypes.c_void_p),
        ("targets", ctypes.c_void_p),
        ("edges", ctypes.c_uint64),
    )


class Rows(NamedTuple):
    """References by source (CSR): those of node v are ``targets[indptr[v]:indptr[v + 1]]``."""

    indptr: npt.NDArray[np.int64]
    targets: npt.NDArray[np.int32]


class Labels(NamedTuple):
    """What each reference is called: see ``graph_targets`` in graph/graph.h."""

    kinds: npt.NDArray[np.uint8]
    numbers: npt.NDArray[np.uint32]


class Dominators(NamedTuple):
    """See ``graph_dominators`` in graph/graph.h; ``live`` and ``garbage`` are bytes."""

    idom: npt.NDArray[np.int32]
    retained: npt.NDArray[np.uint64]
    live: int
    garbage: int


class Groups(NamedTuple):
    """What groups of nodes keep: see ``graph_grouped`` in graph/graph.h."""

    retained: npt.NDArray[np.uint64]
    top: npt.NDArray[np.bool_]
    group: npt.NDArray[np.uint32]


class Library:
    """The compiled graph. Raises DamagedHeapDump where arrays do not hold, MemoryError."""

    def __init__(self, path: str) -> None:
        self._calls = ctypes.CDLL(path)
        pointer, u64 = ctypes.c_void_p, ctypes.c_uint64
        for name, arguments in (
            ("graph_indptr", (pointer, pointer)),
            ("graph_targets", (pointer,) * 5),
            ("graph_reverse", (pointer,) * 3),
            ("graph_dominators", (pointer, pointer, u64, pointer, pointer, pointer, pointer)),
            ("graph_grouped", (u64, *(pointer,) * 3, u64, ctypes.c_bool, pointer, pointer)),
            ("graph_ways", (pointer, pointer, pointer, u64, pointer)),
            ("graph_reached", (pointer, pointer, u64, pointer)),
        ):
            function = getattr(self._calls, name)
            function.restype, function.argtypes = ctypes.c_int, arguments

    def expand(
        self, columns: dict[str, npt.NDArray[Any]], *, labels: bool = False
    ) -> tuple[Rows, Labels | None]:
        """The references that keep their targets, from the columns that struct columns names."""
        ready = {
            name: np.ascontiguousarray(columns[name], np.dtype(kind)) for name, kind in _COLUMNS
        }
        nodes, shapes, types = (
            len(ready["type"]),
            len(ready["shape_count"]),
            len(columns["type_node"]),
        )
        for name, length in (
            ("shape", nodes), ("degree", nodes), ("shape_first", shapes), ("shape_tail", shapes),
            ("label_name", len(ready["label_kind"])), ("type_heap", types),
        ):  # fmt: skip
            if len(ready[name]) != length:
                raise InternalError(f"the column {name!r} has a wrong length")
        given = _Columns(
            nodes, len(ready["target"]), shapes, len(ready["label_kind"]), types,
            *(ready[name].ctypes.data for name, _ in _COLUMNS),
        )  # fmt: skip
        indptr = np.zeros(nodes + 1, np.int64)
        _check(self._calls.graph_indptr(ctypes.byref(given), indptr.ctypes.data))
        edges = int(indptr[-1])
        targets = np.empty(edges, np.int32)
        found = Labels(np.empty(edges, np.uint8), np.empty(edges, np.uint32)) if labels else None
        _check(
            self._calls.graph_targets(
                ctypes.byref(given), indptr.ctypes.data, targets.ctypes.data,
                *((one.ctypes.data for one in found) if found else (None, None)),
            )
        )  # fmt: skip
        return Rows(indptr, targets), found

    def reverse(self, rows: Rows) -> Rows:
        """The same references by target: ``targets`` are the sources."""
        given = _given(rows)
        found = Rows(np.empty_like(rows.indptr), np.empty_like(rows.targets))
        _check(
            self._calls.graph_reverse(
                ctypes.byref(given), found.indptr.ctypes.data, found.targets.ctypes.data
            )
        )
        return found

    def dominators(
        self, rows: Rows, roots: npt.NDArray[np.int32], sizes: npt.NDArray[np.uint64]
    ) -> Dominators:
        """Who keeps what: see graph/graph.h."""
        nodes = len(rows.indptr) - 1
        roots, sizes = np.ascontiguousarray(roots, np.int32), np.ascontiguousarray(sizes, np.uint64)
        if len(sizes) != nodes:
            raise InternalError("sizes of other nodes than there are")
        idom, retained = np.empty(nodes, np.int32), np.empty(nodes, np.uint64)
        sums = np.zeros(2, np.uint64)
        _check(
            self._calls.graph_dominators(
                ctypes.byref(_given(rows)), roots.ctypes.data, len(roots), sizes.ctypes.data,
                idom.ctypes.data, retained.ctypes.data, sums.ctypes.data,
            )
        )  # fmt: skip
        return Dominators(idom, retained, int(sums[0]), int(sums[1]))

    def grouped(
        self,
        found: Dominators,
        group: npt.NDArray[np.uint32],
        groups: int,
        *,
        inherit: bool = False,
    ) -> Groups:
        """What the members of each group keep; a number ≥ ``groups`` is no group.

        ``inherit``: nodes of no group join that of their immediate dominator.
        """
        group = np.array(group, np.uint32)
        if len(group) != len(found.idom):
            raise InternalError("groups of other nodes than there are")
        total, top = np.empty(groups, np.uint64), np.empty(len(group), np.uint8)
        _check(
            self._calls.graph_grouped(
                len(group), found.idom.ctypes.data, found.retained.ctypes.data,
                group.ctypes.data, groups, inherit, total.ctypes.data, top.ctypes.data,
            )
        )  # fmt: skip
        return Groups(total, top.view(np.bool_), group)

    def ways(self, rows: Rows, tiers: Sequence[npt.NDArray[np.int32]]) -> npt.NDArray[np.int32]:
        """The node before each on a shortest way from the roots, the first tier's if it can be."""
        roots = np.ascontiguousarray(np.concatenate([np.zeros(0, np.int32), *tiers]), np.int32)
        ends = np.cumsum([len(one) for one in tiers], dtype=np.uint64)
        before = np.empty(len(rows.indptr) - 1, np.int32)
        _check(
            self._calls.graph_ways(
                ctypes.byref(_given(rows)), roots.ctypes.data, ends.ctypes.data, len(tiers),
                before.ctypes.data,
            )
        )  # fmt: skip
        return before

    def reached(
        self, rows: Rows, roots: npt.NDArray[np.int32], without: npt.NDArray[Any]
    ) -> npt.NDArray[np.bool_]:
        """Which nodes the roots lead to if those in ``without`` (numbers) were not there."""
        roots = np.ascontiguousarray(roots, np.int32)
        found = np.zeros(len(rows.indptr) - 1, np.uint8)
        found[without] = 1
        _check(
            self._calls.graph_reached(
                ctypes.byref(_given(rows)), roots.ctypes.data, len(roots), found.ctypes.data
            )
        )
        return found.view(np.bool_)


def _given(rows: Rows) -> _Rows:
    if rows.indptr.dtype != np.int64 or rows.targets.dtype != np.int32 or not len(rows.indptr):
        raise InternalError("rows of another form than the graph has")
    return _Rows(
        len(rows.indptr) - 1, rows.indptr.ctypes.data, rows.targets.ctypes.data, len(rows.targets)
    )


def _check(status: int) -> None:
    if status == _NO_MEMORY:
        raise ParkscopeError(
            "the memory for the graph of the heap could not be had",
            hint="Close other programs, or try later.",
        )
    if status:
        raise DamagedHeapDump("the references of the dump contradict each other")


@cache
def library() -> Library:
    """The graph, compiled now if need be. Raises BackendUnavailable."""
    return Library(str(built("graph")))
