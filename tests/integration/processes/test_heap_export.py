"""``heap export``: what other programs make of it, and that it is whole."""

from __future__ import annotations

import csv
import errno
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import loaders
from tests.interpreters import get, launch
from tests.processes import started, wait_ready
from tracer.heap.dump import dump
from tracer.heap.export import export
from tracer.heap.graph import Graph
from tracer.heap.names import Names
from tracer.heap.sizes import read_graph

pytestmark = pytest.mark.ptrace
ODD = Path(__file__).parents[2] / "targets/odd_heap.py"
SAMPLED = 1000


def parkscope(*words: str | Path, **how: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tracer.cli", "heap", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        **how,
    )


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two dumps of targets/odd_heap.py, one after the other."""
    directory = tmp_path_factory.mktemp("odd")
    program = launch(get("system-3.11"), ODD, stdout=subprocess.PIPE)
    with started(program) as process:
        wait_ready(process)
        for name in ("odd.heap", "later.heap"):
            dump(process.pid, directory / name)
    return directory / "odd.heap", directory / "later.heap"


@pytest.fixture
def odd(taken: tuple[Path, Path], tmp_path: Path) -> Path:
    """The first of them, in a directory of the test's own."""
    return Path(shutil.copy(taken[0], tmp_path))


def exported(path: Path, form: str) -> Path:
    output = path.with_suffix(f".{form}")
    said = export(path, output, form)
    assert said["bytes"] == output.stat().st_size
    assert output.stat().st_mode & 0o777 == 0o600
    return output


def graph_of(path: Path) -> Graph:
    return read_graph(path, lambda _phase, _done, _total: None)


@loaders.needed
@pytest.mark.slow
@pytest.mark.parametrize("tool", loaders.TOOLS)
def test_other_loaders_find_our_sizes(tool: str, odd: Path) -> None:
    graph = graph_of(odd)
    output = exported(odd, "heapsnapshot")
    head = json.loads(output.read_bytes())
    shift = head["snapshot"]["node_count"] - graph.nodes
    found = loaders.load(tool, output, shift, max(1, graph.nodes // SAMPLED))
    assert found.nodes == graph.nodes + shift
    assert found.edges == head["snapshot"]["edge_count"]
    assert len(found.sampled) >= SAMPLED
    garbage = 0
    for number, shallow, retained, _ in found.sampled:
        node = number - shift
        assert (shallow, retained) == (graph.shallow[node], graph.retained[node]), node
        garbage += not graph.reachable[node]
    assert garbage > 100  # nothing was missed because nothing was there


def test_the_snapshot_holds_together(odd: Path) -> None:
    graph = graph_of(odd)
    found = json.loads(exported(odd, "heapsnapshot").read_bytes())
    nodes = np.array(found["nodes"], np.int64).reshape(-1, 7)
    edges = np.array(found["edges"], np.int64).reshape(-1, 3)
    assert list(found)[:3] == ["snapshot", "nodes", "edges"]
    assert list(found)[-1] == "strings"
    assert len(nodes) == found["snapshot"]["node_count"]
    assert len(edges) == found["snapshot"]["edge_count"] == nodes[:, 4].sum()
    assert len(np.unique(nodes[:, 2])) == len(nodes)
    assert not (edges[:, 2] % 7).any()
    named = ~np.isin(edges[:, 0], (1, 4))
    assert edges[named, 1].max() < len(found["strings"])
    assert nodes[:, 1].max() < len(found["strings"])
    shift = len(nodes) - graph.nodes
    assert nodes[:shift, 0].tolist() == [9] * shift
    called = {found["strings"][number] for number in nodes[:, 1].tolist()}
    assert {"(threads)", "(thread MainThread)", "(unreachable)", "ring", "__main__.Node"} <= called
    assert '__main__."quoted",\n\\' in called
    assert not any("text 7" in name for name in called)  # a value, not a name


def test_ids_stay_from_dump_to_dump(taken: tuple[Path, Path], tmp_path: Path) -> None:
    tables = []
    for path in taken:
        copy = Path(shutil.copy(path, tmp_path))
        found = json.loads(exported(copy, "heapsnapshot").read_bytes())
        nodes = np.array(found["nodes"], np.int64).reshape(-1, 7)
        shift = len(nodes) - graph_of(copy).nodes
        tables.append(nodes[shift:, (2, 3)])
    assert np.array_equal(tables[0], tables[1])


def test_csv_has_every_object_and_reference(odd: Path) -> None:
    graph = graph_of(odd)
    with exported(odd, "csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == graph.nodes
    for number in range(0, graph.nodes, 97):
        row = rows[number]
        assert int(row["object"]) == number
        assert int(row["address"]) == graph.heap.columns["address"][number]
        assert int(row["shallow_bytes"]) == graph.shallow[number]
        assert int(row["retained_bytes"]) == graph.retained[number]
        idom = int(graph.idom[number])
        assert row["kept_by"] == (str(idom) if idom < graph.nodes else "")
        assert row["reachable"] == ("true" if graph.reachable[number] else "false")
    types = {row["type"] for row in rows}
    assert "__main__.Node" in types
    assert '__main__."quoted",\\x0a\\' in types
    texts = {row["text"] for row in rows}
    assert "ordinary" in texts
    assert not any(text.startswith(("=", "+", "-", "@")) for text in texts)
    output = odd.with_name("references")
    done = parkscope("export", odd, "--format", "csv", "--references", "-o", output, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"] == graph.edges
    with output.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == graph.edges
    assert {row["kind"] for row in rows} >= {"element", "key", "value", "field", "type"}


def test_json_lines_say_all_there_is(odd: Path) -> None:
    graph = graph_of(odd)
    lines = [json.loads(line) for line in exported(odd, "json").read_bytes().splitlines()]
    about, *rest = lines
    assert about["dump"]["python"].startswith("3.11")
    objects = [line for line in rest if "object" in line]
    references = [line for line in rest if "from" in line]
    roots = [line for line in rest if "root" in line]
    assert len(objects) == graph.nodes
    assert len(references) == graph.edges
    assert {line["root"] for line in roots} == set(graph.roots.tolist())
    names = Names(graph)
    lists = [one["object"] for one in objects if one["type"] == "list"]
    (kept,) = [node for node in lists if names.name(node) == "__main__.KEPT"]
    elements = [one for one in references if one["from"] == kept]
    assert [one["index"] for one in elements] == list(range(50))
    assert {one["kind"] for one in elements} == {"element"}
    word = next(one["object"] for one in objects if one["text"] == "ordinary")
    value = next(one for one in references if one["key"] == word)
    assert objects[value["to"]]["type"] == "list"
    assert {one["length"] for one in objects if one["type"] == "int"} == {None}


@pytest.mark.parametrize("form", ["heapsnapshot", "csv", "json"])
def test_a_full_disk_leaves_nothing(odd: Path, form: str) -> None:
    output = odd.with_name("out")

    def little_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    done = parkscope("export", odd, "--format", form, "-o", output, preexec_fn=little_room)
    assert done.returncode == 8
    assert os.strerror(errno.EFBIG) in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in odd.parent.iterdir()] == [odd.name]


def test_what_is_there_is_not_replaced(odd: Path) -> None:
    output = odd.with_name("out")
    output.write_text("mine")
    done = parkscope("export", odd, "--format", "csv", "-o", output)
    assert done.returncode == 2
    assert "--force" in done.stderr
    assert output.read_text() == "mine"
    dumped = odd.read_bytes()
    done = parkscope("export", odd, "--format", "csv", "-o", odd, "--force")
    assert done.returncode == 2
    assert "the dump itself" in done.stderr
    assert odd.read_bytes() == dumped
    done = parkscope("export", odd, "--format", "json", "--references", "-o", output, "--force")
    assert done.returncode == 2
