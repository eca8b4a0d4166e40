"""Retained sizes and names of a live process's objects against what it says itself."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.integration.processes.test_heap_commands import parkscope
from tests.interpreters import Interpreter, matrix, scratch
from tracer.heap.graph import Graph
from tracer.heap.names import Names
from tracer.heap.reader import HeapFile

pytestmark = pytest.mark.ptrace
KEPT = Path(__file__).parents[2] / "targets/kept_objects.py"


def graph_of(path: Path) -> Graph:
    with HeapFile(path) as file:
        return Graph.of(file.load())


@pytest.fixture
def dumped(start: Callable[..., Any], tmp_path: Path) -> Callable[..., tuple[Path, Any]]:
    """A dump of kept_objects.py, and what it says of itself."""

    def take(interpreter: Interpreter, *words: str) -> tuple[Path, Any]:
        with scratch(interpreter) as directory:
            process = start(interpreter, KEPT, [directory / "truth"], ready=True)
            path = tmp_path / "dump"
            done = parkscope("dump", process.pid, "-o", path, "-q", *words)
            assert done.returncode == 0, done.stderr
            return path, json.loads((directory / "truth").read_text())

    return take


@matrix()
def test_retained_sizes_and_names_are_the_targets_own(
    interpreter: Interpreter, dumped: Callable[..., tuple[Path, Any]]
) -> None:
    path, truth = dumped(interpreter, "--values")
    graph = graph_of(path)
    names = Names(graph)
    node = {int(address): at for at, address in enumerate(graph.heap.columns["address"].tolist())}
    found = {
        fact["name"]: (
            re.sub(r"(handle):\d+", r"\1", names.name(node[fact["address"]])),
            int(graph.retained[node[fact["address"]]]),
        )
        for fact in truth["objects"]
    }
    assert found == {fact["name"]: (fact["name"], fact["retained"]) for fact in truth["objects"]}
    lost = node[truth["garbage"]]
    assert not graph.reachable[lost]
    assert names.way(lost).root is None
    assert int(graph.shallow.sum()) == graph.dominators.live + graph.dominators.garbage
    retained = graph.grouped(graph.heap.columns["type"], len(graph.heap.types)).retained
    by_type = {one.name: int(retained[at]) for at, one in enumerate(graph.heap.types)}
    assert truth["types"] == {name: by_type[name] for name in truth["types"]}
    shared = np.flatnonzero(graph.kept_by(np.array([node[truth["objects"][0]["address"]]])))
    assert int(graph.shallow[shared].sum()) == truth["objects"][0]["retained"]
