"""What Parkscope says of the hazard scripts, as their README tells it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests import interpreters
from tests.hazards import Hazards
from tests.observe import Attached, attached
from tests.processes import read_line, started, wait_until
from tracer.session import SessionOptions

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize(
    ("script", "name", "mode", "outcome", "stale_when_cured"),
    [
        ("stale_bucket", "routes", "strict", "stale", 1),
        ("cleared_between", "sessions", "view", "complete", 0),
    ],
)
def test_a_walk_that_met_a_stale_bucket_is_seen(
    tmp_path: Path, script: str, name: str, mode: str, outcome: str, stale_when_cured: int
) -> None:
    hazards = Hazards(tmp_path, interpreters.get("system-3.11"))
    if not hazards.usable:
        pytest.skip("the example's extension cannot be compiled here")
    process = hazards.start(script, "--wait", stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    with started(process):
        assert process.stdin is not None
        assert process.stderr is not None
        assert b"begins when" in process.stderr.readline()
        with attached(SessionOptions((process.pid,), "bcc", budget=1.0, alloc=False)) as session:
            process.stdin.write(b"\n")
            process.stdin.flush()
            said = json.loads(read_line(process))
            assert (said["failed_in_weak"], said["failed_in_mode"]) == (1, 0)
            maps = wait_until(
                lambda: found if len(found := latest(session, name)) == 2 else [], "both maps"
            )
    process.stderr.close()
    weak, cured = sorted(maps, key=lambda one: one["ranges"][0]["mode"] != "weak")
    assert [(one["mode"], one["outcome"]) for one in weak["ranges"]] == [("weak", "complete")]
    assert weak["stale"] == 1, "nothing but this tells of it"
    assert [(one["mode"], one["outcome"]) for one in cured["ranges"]] == [(mode, outcome)]
    assert cured["stale"] == stale_when_cured


def latest(session: Attached, name: str) -> list[Any]:
    """The last word on each map of that name, when its ranges are over."""
    told = {
        event.data["address"]: event.data
        for event in list(session.sink.events)
        if event.event == "native_map" and event.data["map"] == name
    }
    return [data for data in told.values() if data["ranges"]]
