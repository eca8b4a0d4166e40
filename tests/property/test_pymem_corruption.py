"""Recorded memory of CPython 3.11 to 3.15: read right, and damaged in every way.

Whatever stands in the target's memory, the reader raises nothing but its own errors
and does a bounded amount of work.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from probes.errors import MemoryReadError, UnsupportedPython
from tests.recorded import Image, everything, image, images, memory_of
from tracer.pymem.memory import SegmentMemory

ROUNDS = 150
MAX_READS = 400_000
MAX_BYTES = 64 << 20


@pytest.fixture(params=images(), ids=lambda path: path.stem, scope="module")
def recorded(request: pytest.FixtureRequest) -> Image:
    path: Path = request.param
    return image(path)


def test_every_supported_version_is_recorded() -> None:
    assert [path.stem for path in images()] == ["cp311", "cp312", "cp313", "cp314", "cp315"]


def test_a_recorded_process_is_read_as_it_described_itself(recorded: Image) -> None:
    names, frames, gils = everything(memory_of(recorded), recorded.version, recorded.runtime)
    assert names == recorded.names
    assert {tid: frames[tid] for tid in recorded.frames} == recorded.frames
    assert len(gils) == 1


class Counted(SegmentMemory):
    """Fails the test when more is read than any healthy process needs, many times over."""

    def __init__(self, segments: Sequence[tuple[int, bytes]]) -> None:
        super().__init__(segments)
        self.reads = 0
        self.bytes = 0

    def read(self, address: int, size: int) -> bytes:
        self.reads += 1
        data = super().read(address, size)
        self.bytes += len(data)
        assert self.reads < MAX_READS
        assert self.bytes < MAX_BYTES
        return data


def damaged(one: Image, chance: random.Random) -> list[tuple[int, bytes]]:
    """The image with some of its words, bytes or segments changed."""
    segments = [(start, bytearray(data)) for start, data in one.segments]
    starts = [start for start, _ in segments]
    for _ in range(chance.choice([1, 1, 2, 5, 20, 200])):
        at = chance.randrange(len(segments))
        data = segments[at][1]
        if not data:
            continue
        place = chance.randrange(len(data))
        match chance.randrange(6):
            case 0:
                data[place] = chance.randrange(256)
            case 1:
                data[place] ^= 1 << chance.randrange(8)
            case 2:  # a pointer to something else that exists, aligned or nearly
                place &= ~7
                target = chance.choice(starts) + chance.choice([0, 0, 8, 16, 1])
                data[place : place + 8] = struct.pack("<Q", target)[: len(data) - place]
            case 3:  # a length or pointer out of all bounds
                place &= ~7
                value = chance.choice([0, 1, 1 << 20, 1 << 32, 1 << 47, (1 << 64) - 1])
                data[place : place + 8] = struct.pack("<Q", value)[: len(data) - place]
            case 4:  # a pointer to itself or its surroundings: loops
                place &= ~7
                here = starts[at] + chance.choice([0, place, place & ~15])
                data[place : place + 8] = struct.pack("<Q", here)[: len(data) - place]
            case 5:
                del data[place:]
    return [(start, bytes(data)) for start, data in segments if data]


@pytest.mark.parametrize("seed", range(3))
def test_damage_of_every_kind(recorded: Image, seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(ROUNDS // 3):
        memory = Counted(damaged(recorded, chance))
        with suppress(MemoryReadError, UnsupportedPython):
            everything(memory, recorded.version, recorded.runtime)


def test_another_versions_layout_gives_no_garbage(recorded: Image) -> None:
    """Read as every other version it is refused, or no name and no frame comes of it."""
    for other in images():
        version = image(other).version
        if version == recorded.version:
            continue
        with suppress(MemoryReadError, UnsupportedPython):
            names, frames, _ = everything(memory_of(recorded), version, recorded.runtime)
            assert not set(names.values()) - set(recorded.names.values())
            assert not any(frames.values())
