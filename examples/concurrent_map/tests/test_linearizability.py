"""Short recordings of threads on the map; ``python recording.py`` makes long ones."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import recording
from mistakes import ATTEMPTS, BY_HISTORY, found_by_history

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")


def test_operations_on_one_key_have_an_order() -> None:
    counts = recording.calls(6, 3000)
    assert counts["wrong"] == 0
    assert counts["overlapping"] > 500


def test_walks_keep_their_contracts_under_writes() -> None:
    counts = recording.walks(12, 5000)
    assert counts["wrong"] == 0
    assert counts["left_over"] == 0
    assert counts["under_write"] > 100
    assert min(counts["strict_complete"], counts["strict_stale"]) > 0


def test_operations_that_compare_in_python_have_an_order() -> None:
    counts = recording.objects(2, 500)
    assert counts["wrong"] == 0
    assert counts["overlapping"] > 100
    assert counts["retries"] > 0


@needs_compiler
def test_a_map_without_locks_is_found_out(tmp_path: Path) -> None:
    (mistake,) = [one for one in BY_HISTORY if one.name == "no lock"]
    assert found_by_history(mistake, BY_HISTORY[mistake], tmp_path), f"not in {ATTEMPTS} attempts"
