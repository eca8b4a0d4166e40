"""Issue 4, lines 2, 3 and 5: the walk against the truth, at scale, and against damage."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from tests import heap_damage
from tests.capturing import take
from tests.full import Figure, NotMeasured, at_least, at_most, exactly, must_show
from tests.heaps import KINDS, TREES, agreement, heap_of, read_truth, walked
from tests.integration.processes.test_heap_damage import save_bare
from tests.interpreters import Interpreter, get, interpreters, launch, scratch
from tests.processes import started, wait_ready
from tracer.heap.place import place_of
from tracer.target import inspect

EACH = "2000"
DUMPS, WRITERS = 20, "4"
TREE_NODES = "3950000"
"""Makes 10 million objects: a node of a syntax tree has lists, dicts, numbers and names."""
IMAGES, FILES = 100_000, 100_000
MATRIX = [one for one in interpreters() if one.version[:2] >= (3, 11)]


@contextmanager
def target(interpreter: Interpreter, script: Path, *words: str | Path) -> Iterator[int]:
    """The PID of a program that stands ready."""
    with started(launch(interpreter, script, words, stdout=subprocess.PIPE)) as process:
        wait_ready(process, timeout=600)
        yield process.pid


def against_truth(interpreter: Interpreter) -> Callable[[], Iterator[Figure]]:
    """One interpreter: everything that it says of itself."""

    def measure() -> Iterator[Figure]:
        name = interpreter.id
        with scratch(interpreter) as directory:
            with target(interpreter, KINDS, directory / "truth", EACH) as pid:
                heap, _, image = walked(pid)
                image.close()
            found = agreement(heap, read_truth(directory / "truth"))
        yield Figure(
            100 * found.tracked_found / found.tracked,
            f"{name}: % of objects found",
            exactly(100),
            f"{found.tracked} tracked by the collector, {heap.nodes} in all",
        )
        yield Figure(
            100 * found.edges_found / found.edges,
            f"{name}: % of references found",
            at_least(99.9),
            f"of {found.edges}; missed: {found.missed or 'none'}",
        )
        yield Figure(
            100 * abs(found.size_found / found.size - 1),
            f"{name}: shallow bytes off by %",
            at_most(0.1),
        )
        yield Figure(100 * found.closure, f"{name}: closure, % exact", at_least(99.9))
        yield Figure(found.contradictions, f"{name}: contradictions", exactly(0))

    return measure


def while_written(interpreter: Interpreter) -> Callable[[], Iterator[Figure]]:
    """One interpreter: contradictions in dumps while threads change the heap."""

    def measure() -> Iterator[Figure]:
        counts = []
        with target(interpreter, KINDS, "-", "200", WRITERS) as pid:
            place = place_of(inspect(pid))
            for _ in range(DUMPS):
                with take(pid) as image:
                    counts.append(heap_of(image, place).closure.contradictions)
        yield Figure(
            max(counts),
            f"{interpreter.id}: contradictions, {DUMPS} dumps, {WRITERS} writers",
            exactly(0),
            f"{sum(map(bool, counts))} of the dumps had some",
        )

    return measure


for one in MATRIX:
    must_show(f"{one.id}: against its own word", issue=4, line=2)(against_truth(one))
    must_show(f"{one.id}: written all the time", issue=4, line=2)(while_written(one))


def parkscope(*words: str | int | Path) -> tuple[float, str]:
    """Seconds that the command took, and what it said."""
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "tracer.cli", "heap", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise NotMeasured(done.stderr)
    return time.monotonic() - begun, done.stdout


@must_show("10 million objects of syntax trees", issue=4, line=3)
def ten_million() -> Iterator[Figure]:
    """From the command to the written file, and a look into it."""
    interpreter = get("pyenv-3.11")
    with tempfile.TemporaryDirectory(prefix="parkscope-") as directory:
        path = Path(directory) / "dump"
        with target(interpreter, TREES, TREE_NODES) as pid:
            took, said = parkscope("dump", pid, "-o", path, "--json")
        result = json.loads(said.splitlines()[-1])
        looked, _ = parkscope("top", path)
    yield Figure(result["objects"], "objects", at_least(10e6), f"{result['references']} references")
    yield Figure(
        took, "command to file, s", at_most(20), f"paused {result['pause_ns'] / 1e6:.1f} ms"
    )
    yield Figure(
        result["peak_memory_bytes"] / 1e9,
        "peak memory of the walk, the image included, GB",
        at_most(3),
        f"image {result['image_bytes'] / 1e9:.2f} GB",
    )
    yield Figure(result["bytes"] / result["objects"], "bytes an object", at_most(12))
    yield Figure(looked, "heap top, s", at_most(5))


@contextmanager
def bare_image() -> Iterator[Path]:
    """The image of an interpreter with nothing imported, and its dump."""
    command = [sys.executable, "-I", "-S", "-c", heap_damage.STANDS_STILL]
    with (
        tempfile.TemporaryDirectory(prefix="parkscope-") as directory,
        started(
            subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
        ) as process,
    ):
        wait_ready(process)
        yield save_bare(process.pid, Path(directory))


def damage(kind: str, count: int) -> Callable[[], Iterator[Figure]]:
    """So many damaged forms, in as many processes as there are cores."""

    def measure() -> Iterator[Figure]:
        workers = os.cpu_count() or 1
        with bare_image() as image, ThreadPoolExecutor(workers) as pool:
            path = image if kind == "images" else image.with_suffix(".heap")
            runs = [
                pool.submit(heap_damage.run, kind, path, count // workers, seed)
                for seed in range(workers)
            ]
            found = [run.result() for run in runs]
        tried = sum(one["tried"] for one in found)
        ended = sum(one["ended"] for one in found)
        yield Figure(
            tried, f"damaged {kind} without a finding", at_least(count), f"{ended} to the end"
        )
        yield Figure(
            max(one["longest_s"] for one in found), f"longest of the {kind}, s", at_most(5)
        )
        peak = max(one["peak_bytes"] for one in found)
        yield Figure(peak / 1e9, f"peak memory, {kind}, GB", at_most(1))

    return measure


must_show("damaged images", issue=4, line=5)(damage("images", IMAGES))
must_show("damaged dumps", issue=4, line=5)(damage("files", FILES))
