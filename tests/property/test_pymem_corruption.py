"""Recorded memory of CPython 3.11 to 3.15: read right, and damaged in every way.

Whatever stands in the target's memory, the reader raises nothing but its own errors
and does a bounded amount of work.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

from probes.errors import MemoryReadError, UnsupportedPython
from tests.damage import damage_locks, damage_stacks
from tests.recorded import Image, blamed, everything, image, images, memory_of

ROUNDS = 150
LOCK_ROUNDS = 300


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


@pytest.mark.parametrize("seed", range(3))
def test_damage_of_every_kind(recorded: Image, seed: int) -> None:
    damage_stacks(recorded, seed, ROUNDS // 3)


@pytest.fixture(params=images("locks"), ids=lambda path: path.stem, scope="module")
def locks(request: pytest.FixtureRequest) -> Image:
    path: Path = request.param
    return image(path)


def test_every_supported_versions_locks_are_recorded() -> None:
    stems = [path.stem for path in images("locks")]
    assert stems == ["locks311", "locks312", "locks313", "locks314", "locks315"]


def test_recorded_waits_are_what_the_process_said(locks: Image) -> None:
    said = blamed(memory_of(locks), locks.version, locks.runtime, locks.waits)
    assert said == locks.blames


@pytest.mark.parametrize("seed", range(3))
def test_damage_of_every_kind_to_locks(locks: Image, seed: int) -> None:
    damage_locks(locks, seed, LOCK_ROUNDS // 3)


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
