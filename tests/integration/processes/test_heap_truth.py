"""The walk of a real process's image against what its own interpreter says of every object."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.heaps import KINDS, SUBINTERPRETERS, agreement, edges_of, read_truth, walked
from tests.interpreters import Interpreter, matrix
from tests.processes import read_line

pytestmark = pytest.mark.ptrace

ARRAYS = Path(__file__).parents[2] / "targets/arrays.py"


@matrix()
def test_every_object_reference_and_byte_is_found(
    interpreter: Interpreter, start: Callable[..., Any], scratch: Path
) -> None:
    process = start(interpreter, KINDS, [scratch / "truth", "60"], ready=True)
    heap, _, image = walked(process.pid)
    image.close()
    found = agreement(heap, read_truth(scratch / "truth"))
    assert found.tracked_found == found.tracked
    assert found.edges_found >= 0.999 * found.edges, found.missed
    assert abs(found.size_found / found.size - 1) <= 0.001
    assert found.closure >= 0.999
    assert found.contradictions == 0
    (thread,) = heap.threads
    assert thread["native_id"]
    assert [frame["function"] for frame in heap.frames] == ["main", "<module>"]


@matrix()
def test_every_interpreter_is_walked(interpreter: Interpreter, start: Callable[..., Any]) -> None:
    process = start(interpreter, SUBINTERPRETERS, ready=True)
    heap, _, image = walked(process.pid)
    image.close()
    counts = {one.qualname: 0 for one in heap.types}
    for number in heap.columns["type"].tolist():
        counts[heap.types[number].qualname] += 1
    assert counts["OnlyIn0"] == counts["OnlyIn1"] == 100
    assert heap.closure.contradictions == 0
    assert heap.closure.share >= 0.995


def test_arrays_have_their_items_and_bytes(start: Callable[..., Any]) -> None:
    process = start([sys.executable, str(ARRAYS)])
    said, size = read_line(process).split()
    assert said == "ready"
    heap, _, image = walked(process.pid)
    image.close()
    names = [one.name for one in heap.types]
    kinds = heap.columns["type"]
    source, target = edges_of(heap)
    array, held = names.index("numpy.ndarray"), names.index("__main__.Held")
    assert sum((kinds[source] == array) & (kinds[target] == held)) == 60
    assert int(size) in heap.columns["sizes"][kinds == array].tolist()
    assert heap.closure.contradictions == 0
