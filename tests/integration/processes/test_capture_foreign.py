"""Large memory: tables of containers are in the image, buffers of numbers and text are not."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import pytest

from probes.errors import MemoryFault
from tests import capturing
from tests.conftest import Start
from tests.interpreters import Interpreter, get, matrix
from tests.processes import read_line
from tracer.heap.image import Image

TARGET = Path(__file__).parents[2] / "targets" / "large_memory.py"
pytestmark = pytest.mark.ptrace


def digest(image: Image, address: int, size: int) -> str:
    content = hashlib.sha256()
    for at in range(address, address + size, 1 << 20):
        content.update(image.read(at, min(1 << 20, address + size - at)))
    return content.hexdigest()


def left_out(image: Image, address: int, size: int) -> int:
    """How many of those bytes were left out as free of references."""
    return sum(
        max(min(one.end, address + size) - max(one.start, address), 0)
        for one in image.facts.skipped
        if one.free_of_references
    )


@matrix()
def test_tables_are_whole_and_buffers_are_left_out(start: Start, interpreter: Interpreter) -> None:
    process = start(interpreter, TARGET, stdin=subprocess.PIPE, ready=True)
    said = json.loads(read_line(process, 30))
    with capturing.take(process.pid) as image:
        for name, (address, size, expected) in said["tables"].items():
            missing = left_out(image, address, size)
            assert not missing or name == "sparse", (name, missing)
            assert missing or digest(image, address, size) == expected, name
        for name, (address, size, _) in said["buffers"].items():
            assert left_out(image, address, size) > 0.8 * size, name
        for address, head in said["heads"]:
            assert image.read(address, 32).hex()[16:] == head[16:]  # all but the reference count
        address, size, _ = said["buffers"]["array"]
        with pytest.raises(MemoryFault):
            image.read(address + size // 2, 8)
        assert image.facts.bytes_copied < 400 << 20


@pytest.mark.parametrize("engine", capturing.ENGINES)
def test_every_engine_leaves_out_the_same(start: Start, engine: str) -> None:
    process = start(get("system-3.11"), TARGET, stdin=subprocess.PIPE, ready=True)
    said = json.loads(read_line(process, 30))
    everything = {**said["tables"], **said["buffers"]}
    maps = Path(f"/proc/{process.pid}/maps")
    before = maps.read_text()
    with capturing.take(process.pid, engine) as image:
        assert digest(image, *said["tables"]["set"][:2]) == said["tables"]["set"][2]
        assert sum(left_out(image, a, n) for a, n, _ in said["buffers"].values()) > 100 << 20
    with capturing.take(process.pid, engine, skip_foreign=False) as image:
        assert all(digest(image, a, n) == h for a, n, h in everything.values())
        assert not any(one.free_of_references for one in image.facts.skipped)
    assert maps.read_text() == before
