"""The map that tests import is the one of this tree."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.map_build import EXAMPLE


def test_the_installed_map_is_this_trees() -> None:
    concurrent_map = pytest.importorskip("concurrent_map", reason="it could not be built here")
    installed = Path(concurrent_map.__file__).parent
    stale = [
        file.name
        for file in (EXAMPLE / "concurrent_map").glob("*.py*")
        if not (installed / file.name).exists()
        or (installed / file.name).read_bytes() != file.read_bytes()
    ]
    assert not stale, "changed since ./check has installed it: run ./check"
