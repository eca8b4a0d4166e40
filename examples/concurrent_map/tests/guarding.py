"""What the tests of GuardedMap share: a clock that is told, failures that are real."""

from __future__ import annotations

from typing import Any

import pytest

from concurrent_map import (
    GuardedMap,
    StaleIterationError,
    Transition,
)

WINDOW, REST_S = 10, 30.0


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def fail(guarded: GuardedMap[Any, Any], times: int = 1) -> None:
    """Iterations under which a key comes and goes: real failures."""
    for _ in range(times):
        walk = guarded.iterate()
        next(walk)
        guarded.map.store(-1, 0)
        guarded.map.load_and_delete(-1)
        with pytest.raises(StaleIterationError):
            next(walk)


def state(guarded: GuardedMap[Any, Any]) -> str:
    """A call: the type checker believes that a property stays as it is."""
    return guarded.state


def whole(guarded: GuardedMap[Any, Any]) -> dict[Any, Any]:
    return dict(guarded.iterate())


def opened(guarded: GuardedMap[Any, Any]) -> None:
    fail(guarded, 7)
    assert state(guarded) == "open"


def moves(told: list[Transition]) -> list[tuple[str, str]]:
    return [(one.old, one.new) for one in told]
