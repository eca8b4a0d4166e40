"""Issue 5, line 2: what DevTools' own loader and memlab make of an export, and its speed."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from tests import loaders
from tests.full import Figure, NotMeasured, at_least, at_most, exactly, must_show
from tests.full.issue4_walk import TREE_NODES, parkscope
from tests.heaps import KINDS, TREES
from tests.interpreters import Interpreter, get, interpreters, launch
from tests.processes import started, wait_ready
from tracer.heap.graph import Graph
from tracer.heap.sizes import read_graph

ODD = Path(__file__).parents[1] / "targets/odd_heap.py"
SAMPLED = 1000
MATRIX = [one for one in interpreters() if one.version[:2] >= (3, 11)]


def take(interpreter: Interpreter, script: Path, *words: str, to: Path) -> None:
    """A dump of a program that stands ready."""
    with started(launch(interpreter, script, words, stdout=subprocess.PIPE)) as process:
        wait_ready(process, timeout=600)
        parkscope("dump", process.pid, "-o", to, "--force")


def compared(tool: str, graph: Graph, snapshot: Path) -> tuple[int, int, int]:
    """(nodes too many or too few, sampled, of them wrong)."""
    if why := loaders.install():
        raise NotMeasured(why)
    shift = _outside(snapshot) - graph.nodes
    found = loaders.load(tool, snapshot, shift, max(1, graph.nodes // SAMPLED))
    wrong = sum(
        (shallow, retained) != (graph.shallow[number - shift], graph.retained[number - shift])
        for number, shallow, retained, _ in found.sampled
    )
    return found.nodes - shift - graph.nodes, len(found.sampled), wrong


def _outside(snapshot: Path) -> int:
    """How many nodes the file says that it has."""
    with snapshot.open("rb") as stream:
        head = stream.read(100_000)
    count = head.partition(b'"node_count":')[2].partition(b",")[0]
    return int(count)


def loaded(interpreter: Interpreter) -> Callable[[], Iterator[Figure]]:
    """One interpreter: two heaps, two loaders."""

    def measure() -> Iterator[Figure]:
        with tempfile.TemporaryDirectory(prefix="parkscope-") as directory:
            path, snapshot = Path(directory) / "heap", Path(directory) / "snapshot"
            for script, words in ((KINDS, ("-", "300")), (ODD, ())):
                take(interpreter, script, *words, to=path)
                parkscope("export", path, "--format", "heapsnapshot", "-o", snapshot, "--force")
                graph = read_graph(path, lambda _phase, _done, _total: None)
                unreachable = int(np.count_nonzero(~graph.reachable))
                for tool in loaders.TOOLS:
                    more, sampled, wrong = compared(tool, graph, snapshot)
                    what = f"{interpreter.id}, {script.stem}, {tool}"
                    note = f"of {sampled}; {graph.nodes} objects, {unreachable} unreachable"
                    yield Figure(more, f"{what}: nodes too many", exactly(0))
                    yield Figure(wrong, f"{what}: sizes that differ", exactly(0), note)

    return measure


for one in MATRIX:
    must_show(f"{one.id}: export in other loaders", issue=5, line=2)(loaded(one))


@must_show("10 million objects exported", issue=5, line=2)
def ten_million() -> Iterator[Figure]:
    """From the dump to the written file; what other loaders say of it."""
    with tempfile.TemporaryDirectory(prefix="parkscope-") as directory:
        path, snapshot = Path(directory) / "heap", Path(directory) / "snapshot"
        take(get("pyenv-3.11"), TREES, TREE_NODES, to=path)
        took, said = parkscope("export", path, "--format", "heapsnapshot", "-o", snapshot, "--json")
        result = json.loads(said.splitlines()[-1])
        yield Figure(
            result["objects"], "objects", at_least(10e6), f"{result['references']} references"
        )
        yield Figure(took, "export, s", at_most(30), f"{result['bytes'] / 1e9:.2f} GB")
        share = result["bytes"] / result["dump_bytes"]
        yield Figure(share, "its bytes ÷ ours", at_least(8))
        graph = read_graph(path, lambda _phase, _done, _total: None)
        more, sampled, wrong = compared("devtools", graph, snapshot)
        yield Figure(more, "10 million, devtools: nodes too many", exactly(0))
        yield Figure(wrong, "10 million, devtools: sizes that differ", exactly(0), f"of {sampled}")
