"""Recorded memory, damaged in every way, and the reader's manners towards it.

``damage_stacks`` and ``damage_locks`` raise AssertionError when a reading takes more than
any healthy process needs many times over, and whatever the reader raises that is not its own.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

from probes.errors import MemoryReadError, UnsupportedPython
from tests.recorded import Image, blamed, everything
from tracer.pymem.memory import MemoryReader, SegmentMemory

MAX_READS = 400_000
MAX_BYTES = 64 << 20


def damage_stacks(one: Image, seed: int, rounds: int) -> None:
    """Names, stacks and GILs of so many damaged copies of an image."""
    _each(one, seed, rounds, partial(everything, version=one.version, runtime=one.runtime))


def damage_locks(one: Image, seed: int, rounds: int) -> None:
    """What threads wait for in so many damaged copies of an image."""
    read = partial(blamed, version=one.version, runtime=one.runtime, waits=one.waits)
    _each(one, seed, rounds, read)


def _each(one: Image, seed: int, rounds: int, read: Callable[[MemoryReader], object]) -> None:
    chance = random.Random(seed)
    for _ in range(rounds):
        memory = Counted(damaged(one, chance))
        with suppress(MemoryReadError, UnsupportedPython):
            read(memory)


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
