"""From a convoy on a shard of a native map to the replay of its trace without rights."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests import story
from tests.interpreters import get

pytestmark = [pytest.mark.kernel, pytest.mark.ptrace, pytest.mark.slow]


def test_a_convoy_from_the_park_to_the_replay(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    told = story.tell(get("system-3.11"), tmp_path)
    if told is None:
        why = "the map cannot be built here (apt install gcc python3-dev systemtap-sdt-dev)"
        (pytest.fail if os.environ.get("PARKSCOPE_REQUIRE_EBPF") == "1" else pytest.skip)(why)
    assert story.flagged(told) == []
    assert story.dumped(told) == []
    assert story.analysed(told) == []
    assert story.replayed(told) == []
