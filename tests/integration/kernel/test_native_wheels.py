"""Maps of other people, from PyPI: what their profiles say happened, happened."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Start
from tests.native_maps import ask
from tests.observe import Attached, attached
from tests.processes import wait_until
from tracer.session import SessionOptions

pytestmark = pytest.mark.kernel

PROGRAM = Path(__file__).parents[2] / "targets" / "real_maps.py"


@pytest.fixture
def wheels(start: Start) -> subprocess.Popen[bytes]:
    """The program under this interpreter, into which the test set-up has installed them."""
    for name in ("cereggii", "immutables"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed: the package index was not reachable")
    return start([sys.executable, PROGRAM], ready=True, stdin=subprocess.PIPE)


def last(session: Attached, profile: str) -> Any:
    """The latest figures of the one map of a profile."""
    found = [
        event.data
        for event in list(session.sink.events)
        if event.event == "native_map" and event.data["profile"] == profile
    ]
    assert len({data["address"] for data in found}) <= 1
    return found[-1] if found else {"map": None}


def test_atomic_dict_and_immutable_maps(wheels: subprocess.Popen[bytes]) -> None:
    with attached(SessionOptions((wheels.pid,), "bcc", budget=1.0, alloc=False)) as session:
        wait_until(
            lambda: (
                {
                    event.data["profile"]
                    for event in list(session.sink.events)
                    if event.event == "native_library"
                }
                >= {"cereggii", "immutables"}
            ),
            "both libraries",
        )
        grown = ask(wheels, "cereggii 2 20000")
        walked = ask(wheels, "immutables 9")
        wait_until(
            lambda: all(last(session, one)["map"] for one in ("cereggii", "immutables")), "names"
        )
    failed = [event.data for event in session.sink.events if event.event == "probe_failed"]
    assert not failed
    atomic = last(session, "cereggii")
    assert int(atomic["address"], 16) == grown["address"]
    assert (atomic["type"], atomic["splits"]) == ("AtomicDict", grown["splits"])
    assert atomic["operations"] == grown["iterators"]
    (ended,) = atomic["ranges"]
    assert (ended["outcome"], ended["count"]) == ("unknown", grown["iterators"])
    assert atomic["success_rate"] is None
    mapping = last(session, "immutables")
    assert int(mapping["address"], 16) == walked["address"]
    assert (atomic["map"], mapping["map"]) == ("__main__.atomic", "__main__.mapping")
    assert sum(one["count"] for one in mapping["ranges"]) == walked["iterators"]
    assert mapping["operations"] == walked["iterators"]
