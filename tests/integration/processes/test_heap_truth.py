"""The walk of a real process's image against what its own interpreter says of every object."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.heaps import KINDS, agreement, read_truth, walked
from tests.interpreters import Interpreter, matrix

pytestmark = pytest.mark.ptrace

KNOWN_CONTRADICTIONS = {"system-3.11": 1}
"""Debian's 3.11.2 counts one reference to ``int`` too few; 3.11.7 does not."""


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
    assert found.contradictions <= KNOWN_CONTRADICTIONS.get(interpreter.id, 0)
    (thread,) = heap.threads
    assert thread["native_id"]
    assert [frame["function"] for frame in heap.frames] == ["main", "<module>"]
