"""A mutex's owner is believed only when all of the structure fits and stays as it is."""

from __future__ import annotations

import os
import struct
from typing import Any

import pytest

from tracer import native_mutex, procfs
from tracer.pymem.memory import SegmentMemory

PID, WAITER, OWNER, AT = 100, 101, 102, 0x7F0000001000
PRIVATE_WAIT = 0x80


def mutex(lock: int = 2, owner: int = OWNER, users: int = 1, kind: int = 0) -> bytes:
    return struct.pack("<iIIIi", lock, 0, owner, users, kind)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Set what the kernel says of the waiter: (address, operation, time limit)."""

    def setting(*answers: tuple[int, int, int]) -> None:
        said = list(answers)
        monkeypatch.setattr(
            procfs, "futex_arguments", lambda *_: said.pop(0) if len(said) > 1 else said[0]
        )

    monkeypatch.setattr(procfs, "thread_ids", lambda _pid: {PID, WAITER, OWNER})
    monkeypatch.setattr(procfs, "same_pid_namespace", lambda _pid: True)
    setting((AT, PRIVATE_WAIT, 0))
    return setting


def owner_of(raw: bytes) -> tuple[int, int] | None:
    return native_mutex.mutex_owner(SegmentMemory([(AT, raw)]), PID, WAITER)


@pytest.mark.parametrize("kind", [0, 1, 2, 3, 0x100])
def test_the_owner_of_a_contended_mutex(waits: Any, kind: int) -> None:
    assert owner_of(mutex(kind=kind)) == (AT, OWNER)


@pytest.mark.parametrize(
    "raw",
    [
        mutex(lock=1),  # nobody is said to wait
        mutex(lock=0),
        mutex(owner=0),
        mutex(owner=999),  # no thread of the process
        mutex(users=0),
        mutex(kind=16),  # robust: its word holds something else
        b"",
    ],
)
def test_anything_that_does_not_fit(waits: Any, raw: bytes) -> None:
    assert owner_of(raw) is None


@pytest.mark.parametrize(
    "answers",
    [
        [(0, 0, 0)],
        [(AT, PRIVATE_WAIT, 0x7FFE0000)],  # with a time limit
        [(AT, PRIVATE_WAIT | 9, 0)],  # the way that semaphores and conditions wait
        [(AT, 0, 0)],  # another process may own it
        [(AT, PRIVATE_WAIT, 0), (0, 0, 0)],  # it had it by the second look
        [(AT, PRIVATE_WAIT, 0), (AT + 64, PRIVATE_WAIT, 0)],
    ],
)
def test_a_wait_of_another_sort(waits: Any, answers: list[tuple[int, int, int]]) -> None:
    waits(*answers)
    assert owner_of(mutex()) is None


def test_in_another_namespace_the_owner_has_another_number(
    waits: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(procfs, "same_pid_namespace", lambda _pid: False)
    monkeypatch.setattr(procfs, "namespace_ids", lambda _pid, _tids: {3: OWNER})
    assert owner_of(mutex(owner=3)) == (AT, OWNER)
    assert owner_of(mutex(owner=4)) is None
    assert procfs.same_pid_namespace(os.getpid()) is False
