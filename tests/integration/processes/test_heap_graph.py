"""Retained sizes and names of a live process's objects against what it says itself."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import igraph
import numpy as np
import pytest

from tests.integration.processes.test_heap_commands import parkscope
from tests.interpreters import Interpreter, get, matrix, scratch
from tracer.heap.graph import Graph
from tracer.heap.names import Names
from tracer.heap.reader import HeapFile

pytestmark = pytest.mark.ptrace
KEPT = Path(__file__).parents[2] / "targets/kept_objects.py"
EACH = 40


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
    assert_dominators_are_those_of_igraph(graph)
    shared = np.flatnonzero(graph.kept_by(np.array([node[truth["objects"][0]["address"]]])))
    assert int(graph.shallow[shared].sum()) == truth["objects"][0]["retained"]


def assert_dominators_are_those_of_igraph(graph: Graph) -> None:
    source = graph.sources(np.arange(graph.edges))
    live = graph.reachable
    edges = np.stack([source, graph.targets], axis=1)[live[source]].tolist()
    edges += [(graph.super_root, root) for root in graph.roots.tolist()]
    whole = igraph.Graph(graph.nodes + 1, edges, directed=True)
    theirs = np.array(whole.dominator(graph.super_root, mode="out"))[: graph.nodes]
    assert np.array_equal(theirs[live], graph.idom[live])


def said(*words: str | Path) -> list[dict[str, Any]]:
    """What a command says as JSON."""
    done = parkscope(*words, "--json")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_top_adds_up_what_types_and_modules_keep(
    dumped: Callable[..., tuple[Path, Any]],
) -> None:
    path, truth = dumped(get("pyenv-3.12"))
    by_type = said("top", path, "--retained", "-n", "1000")
    kept = {row["type"]: row["retained_bytes"] for row in by_type}
    assert truth["types"] == {name: kept[name] for name in truth["types"]}
    assert list(kept.values()) == sorted(kept.values(), reverse=True)
    (info,) = said("info", path)
    assert sum(row["objects"] for row in by_type) == info["objects"]
    by_module = said("top", path, "--by", "module", "-n", "1000")
    assert sum(row["shallow_bytes"] for row in by_module) == info["shallow_bytes"]
    assert sum(row["objects"] for row in by_module) == info["objects"]
    own = next(row for row in by_module if row["module"] == "__main__")
    facts = [one for one in truth["objects"] if one["name"].count(".") == 1]
    assert own["retained_bytes"] > sum(one["retained"] for one in facts)
    header, first, *_ = parkscope("top", path, "--by", "module").stdout.splitlines()
    assert header.split() == ["module", "objects", "shallow", "retained"]
    assert first.split()[0] == (by_module[0]["module"] or "(no")
    assert parkscope("top", path, "--retained", "--by-count").returncode == 2


def test_retainers_say_who_refers_and_who_alone_keeps(
    dumped: Callable[..., tuple[Path, Any]],
) -> None:
    path, truth = dumped(get("pyenv-3.12"))
    (found,) = said("retainers", path, "__main__.Item")
    referrers = {one["name"]: (one["references"], one["objects"]) for one in found["referrers"]}
    assert referrers == {
        "__main__.Cache._items[…]": (EACH, EACH),
        "__main__.Item.before": (EACH - 1, EACH - 1),
    }
    (keeper,) = found["dominators"]
    assert keeper["name"] == "__main__.CACHE._items"
    assert (keeper["objects"], keeper["keepers"]) == (EACH, 1)
    (above,) = keeper["above"]
    assert above["name"] == "__main__.CACHE"
    assert found["objects"] == EACH
    assert found["retained_bytes"] == keeper["retained_bytes"]
    text = parkscope("retainers", path, "Item").stdout
    assert f"{EACH} objects of __main__.Item: " in text
    assert f"\n  __main__.CACHE._items (dict): {EACH} objects, " in text
    (found,) = said("retainers", path, "Request")
    names = [one["name"] for one in found["referrers"]]
    assert any(re.fullmatch(r"\(thread worker\) handle:\d+ request", name) for name in names)
    assert found["retained_bytes"] == truth["types"]["__main__.Request"]
    (found,) = said("retainers", path, hex(truth["garbage"]))
    assert [one["garbage"] for one in found["dominators"]][:1] == [True]
    assert "waits to be collected" in parkscope("retainers", path, str(truth["garbage"])).stdout


def test_paths_lead_over_names_and_hide_texts(dumped: Callable[..., tuple[Path, Any]]) -> None:
    path, truth = dumped(get("pyenv-3.12"))
    (payload,) = [one for one in truth["objects"] if one["name"].endswith("payload")]
    (found,) = said("path", path, hex(payload["address"]))
    assert found["name"] == "__main__.CACHE._items[<str 6>].payload"
    assert found["retained_bytes"] == payload["retained"]
    assert [step["type"] for step in found["steps"]][-4:] == [
        "__main__.Cache", "dict", "__main__.Item", "list",
    ]  # fmt: skip
    assert found["steps"][-1]["address"] == hex(payload["address"])
    text = parkscope("path", path, str(payload["address"])).stdout
    assert text.splitlines()[0] == found["name"]
    assert "item-7" not in text
    assert "\n    ._items" in text
    (lost,) = said("path", path, hex(truth["garbage"]))
    assert (lost["name"], lost["root"], lost["steps"]) == (None, None, [])
    assert "waits to be collected" in parkscope("path", path, hex(truth["garbage"])).stdout
    assert len(said("path", path, "Item", "-n", "2")) == 2
    for what, hint in (
        ("Itme", "Is it __main__.Item"),
        ("no such thing at all", "heap top"),
        (hex(payload["address"] + 8), f"{payload['address']:#x} (list)"),
        ("0xyz", "0x7f"),
        ("9" * 40, "nearest"),
    ):
        done = parkscope("path", path, what)
        assert done.returncode == 2
        assert hint in done.stderr, done.stderr
        assert "Traceback" not in done.stderr
