"""Issue 5, line 3: dominators against networkx and igraph, and at 13 million nodes."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import igraph
import networkx as nx
import numpy as np

from tests.full import Figure, at_least, at_most, exactly, must_show
from tests.full.issue4_walk import parkscope, target
from tests.heaps import TREES
from tests.interpreters import get
from tracer.heap.graph import Graph
from tracer.heap.graph_code import Rows, library
from tracer.heap.reader import HeapFile

GRAPHS, MOST_NODES = 3000, 200
TREE_NODES = "5160000"
"""Makes 13 million objects: see issue4_walk.py."""
TIMES = 3


@must_show("dominators of random graphs", issue=5, line=3)
def random_graphs() -> Iterator[Figure]:
    """Nodes, references and roots at random; every node's dominator is compared with both."""
    compared = wrong = 0
    for seed in range(GRAPHS):
        chance = random.Random(seed)
        nodes = chance.randrange(1, MOST_NODES)
        edges = sorted(
            (chance.randrange(nodes), chance.randrange(nodes))
            for _ in range(int(nodes * chance.uniform(0.5, 4)))
        )
        roots = [chance.randrange(nodes) for _ in range(chance.randrange(1, 4))]
        source = np.array([edge[0] for edge in edges], np.int64)
        indptr = np.zeros(nodes + 1, np.int64)
        indptr[1:] = np.cumsum(np.bincount(source, minlength=nodes))
        rows = Rows(indptr, np.array([edge[1] for edge in edges], np.int32))
        sizes = np.ones(nodes, np.uint64)
        ours = library().dominators(rows, np.array(roots, np.int32), sizes).idom
        whole = edges + [(nodes, root) for root in roots]
        theirs = nx.immediate_dominators(nx.DiGraph(whole), nodes)
        others = igraph.Graph(nodes + 1, whole, directed=True).dominator(nodes, mode="out")
        for node, above in theirs.items():
            if node != nodes:
                compared += 1
                wrong += not int(ours[node]) == above == others[node]
    yield Figure(compared, "dominators compared", at_least(100_000), f"{GRAPHS} graphs")
    yield Figure(wrong, "of these different", exactly(0))


@must_show("13 million nodes", issue=5, line=3)
def thirteen_million() -> Iterator[Figure]:
    """The heap of a live process: dominators and retained sizes, the best of some times."""
    with tempfile.TemporaryDirectory(prefix="parkscope-") as directory:
        path = Path(directory) / "dump"
        with target(get("pyenv-3.11"), TREES, TREE_NODES) as pid:
            parkscope("dump", pid, "-o", path, "-q")
        with HeapFile(path) as file:
            graph = Graph.of(file.load())
        took_top, _ = parkscope("top", path, "--retained")
        took_path, _ = parkscope("path", path, "ast.Call", "-n", "1")
    begun = time.monotonic()
    rows, roots, sizes = graph.rows, graph.roots, graph.shallow
    expanded = time.monotonic() - begun
    walls, works, missing = [], [], 0
    for _ in range(TIMES):
        begun, work = time.monotonic(), time.process_time()
        found = library().dominators(rows, roots, sizes)
        walls.append(time.monotonic() - begun)
        works.append(time.process_time() - work)
        missing = found.live + found.garbage - int(sizes.sum())
    yield Figure(graph.nodes, "nodes", at_least(13e6), f"{graph.edges} references that keep")
    yield Figure(
        min(walls), "dominators and retained sizes, s", at_most(3),
        f"CPU {min(works):.2f} s; all {TIMES}: {', '.join(f'{one:.2f}' for one in walls)}",
    )  # fmt: skip
    yield Figure(missing, "bytes that went missing", exactly(0))
    yield Figure(expanded, "columns to references, s", at_most(3))
    yield Figure(took_top, "heap top --retained, s", at_most(30))
    yield Figure(took_path, "heap path, s", at_most(30))
