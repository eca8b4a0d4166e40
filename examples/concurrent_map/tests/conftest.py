"""Fixtures of the tests of GuardedMap; what happens where the extension could not be built."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from concurrent_map import GuardedMap, Transition
    from guarding import Clock

IMPLEMENTATIONS = ["c", "reference"]

if find_spec("concurrent_map") is None and os.environ.get("PARKSCOPE_REQUIRE_EBPF") != "1":
    collect_ignore_glob = ["test_*.py"]


def pytest_report_header() -> list[str]:
    """Nothing is left out silently."""
    missing = find_spec("concurrent_map") is None
    return ["concurrent_map is not installed: its tests are left out"] if missing else []


@pytest.fixture(params=IMPLEMENTATIONS)
def inner(request: pytest.FixtureRequest) -> Any:
    from concurrent_map import ConcurrentMap, reference

    implementation = ConcurrentMap if request.param == "c" else reference.ConcurrentMap
    return implementation({n: n * n for n in range(40)}, name="sessions")


@pytest.fixture
def clock() -> Clock:
    from guarding import Clock

    return Clock()


@pytest.fixture
def told() -> list[Transition]:
    return []


@pytest.fixture
def guarded(inner: Any, clock: Clock, told: list[Transition]) -> GuardedMap[int, int]:
    from concurrent_map import GuardedMap
    from guarding import REST_S, WINDOW

    return GuardedMap(
        inner,
        percent=60,
        window=WINDOW,
        rest_s=REST_S,
        snapshot_every_s=0,
        clock=clock,
        on_change=told.append,
    )
