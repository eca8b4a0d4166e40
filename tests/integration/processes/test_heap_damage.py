"""Damaged images and dumps: nothing found by the sanitizers, nothing that takes long.

Some thousands here; ``tests/full/issue4_walk.py`` tries 100,000.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import graph_damage, heap_damage
from tests.capturing import take
from tracer.heap.dump import walk_image
from tracer.heap.place import place_of
from tracer.heap.writer import appearing
from tracer.target import inspect

pytestmark = [
    pytest.mark.ptrace,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler"),
]
IMAGES, FILES, GRAPHS = 1500, 1500, 1500
LONGEST_S = 5.0
"""One image has some ten thousand objects, walked in 10 ms; the rest is for a busy machine."""
PEAK_BYTES = 1 << 30


@pytest.fixture
def bare(start: Callable[..., Any], tmp_path: Path) -> Path:
    """The image of an interpreter with nothing imported, and a dump of it beside it."""
    return save_bare(
        start([sys.executable, "-I", "-S", "-c", heap_damage.STANDS_STILL], ready=True).pid,
        tmp_path,
    )


def save_bare(pid: int, directory: Path) -> Path:
    """Take, save and dump that process."""
    place = place_of(inspect(pid))
    path = directory / "bare.image"
    with take(pid) as image:
        image.save(path)
        with appearing(path.with_suffix(".heap"), force=True) as output:
            walk_image(image, place, output, {})
    about = {
        "version": place.version,
        "runtime_address": place.runtime_address,
        "symbols": dict(place.symbols),
    }
    path.with_suffix(".place").write_text(json.dumps(about))
    return path


def test_a_damaged_image_is_walked_or_refused(bare: Path) -> None:
    found = heap_damage.run("images", bare, IMAGES, seed=1)
    assert found["tried"] == IMAGES
    assert found["ended"] > IMAGES / 2  # damage is mostly local, and the rest is still said
    assert found["longest_s"] < LONGEST_S
    assert found["peak_bytes"] < PEAK_BYTES


def test_a_damaged_dump_is_read_or_refused(bare: Path) -> None:
    found = heap_damage.run("files", bare.with_suffix(".heap"), FILES, seed=1)
    assert found["tried"] == FILES
    assert found["ended"] < FILES / 2  # what a CRC covers is not read when it differs
    assert found["longest_s"] < LONGEST_S
    assert found["peak_bytes"] < PEAK_BYTES


def test_a_damaged_graph_is_used_or_refused(bare: Path) -> None:
    found = graph_damage.run(bare.with_suffix(".heap"), GRAPHS, seed=1)
    assert found["tried"] == GRAPHS
    assert GRAPHS / 2 < found["ended"] < GRAPHS
    assert found["longest_s"] < LONGEST_S
