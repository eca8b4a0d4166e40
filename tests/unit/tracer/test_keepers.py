"""Keepers: what is kept is in a table of its own, and nothing else is."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tracer.backends.bcc.keepers import Keepers


@pytest.fixture
def shared() -> Iterator[int]:
    descriptor = os.open("/dev/zero", os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


def table(tid: int) -> dict[str, str]:
    """Descriptors of a thread and what they are of."""
    directory = Path(f"/proc/self/task/{tid}/fd")
    return {one.name: str(one.readlink()) for one in directory.iterdir()}


def opened(where: list[int]) -> list[int]:
    where.append(threading.get_native_id())
    return [os.open("/dev/null", os.O_RDONLY)]


def test_a_keeper_has_what_it_opened_and_what_is_shared(shared: int) -> None:
    keepers, where = Keepers([shared]), list[int]()
    kept = keepers.keep(lambda: opened(where))
    (number,) = kept.descriptors
    assert table(where[0]) == {str(shared): "/dev/zero", str(number): "/dev/null"}
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)
    keepers.drop(kept).result()
    assert table(where[0]) == {str(shared): "/dev/zero"}
    keepers.close()
    keepers.close()


def test_keepers_do_not_hold_what_the_process_closes() -> None:
    reader, writer = os.pipe()
    keepers, where = Keepers([]), list[int]()
    keepers.keep(lambda: opened(where))
    os.close(writer)
    assert os.read(reader, 1) == b""
    os.close(reader)
    keepers.close()


def test_links_are_spread_over_a_bounded_number_of_threads() -> None:
    keepers, where = Keepers([]), list[int]()
    kept = [keepers.keep(lambda: opened(where)) for _ in range(20)]
    assert len(set(where[:4])) == 4
    assert len(set(where)) == 8
    for one in kept:
        keepers.drop(one).result()
    assert all(not table(tid) for tid in where)
    keepers.close()


def test_what_could_not_be_opened_is_said_to_whoever_asked(shared: int) -> None:
    keepers = Keepers([shared])
    with pytest.raises(FileNotFoundError):
        keepers.keep(lambda: [os.open("/nowhere/at/all", os.O_RDONLY)])
    kept = keepers.keep(lambda: [os.open("/dev/null", os.O_RDONLY)])
    assert kept.keeper == 0
    keepers.drop(kept).result()
    keepers.close()
