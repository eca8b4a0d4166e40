"""Programs that leak, each able to leak more, and the commands that are to find it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from examples.scenarios import scenarios
from tests.interpreters import Interpreter, launch, scratch
from tests.processes import read_line, started, wait_ready, wait_until
from tracer.heap.matching import NONE, Matching, Side
from tracer.heap.sizes import read_graph

TARGETS = Path(__file__).parent / "targets"
_TLS_SECONDS = 600


@dataclass(frozen=True)
class Leaking:
    """A process; ``more(n)`` makes it leak n times, at the least; ``count()`` of all so far."""

    pid: int
    more: Callable[[int], None]
    count: Callable[[], int]


def parkscope(*words: str | int | Path) -> dict[str, Any]:
    """What ``parkscope heap …`` says as JSON."""
    done = subprocess.run(
        [sys.executable, "-m", "tracer.cli", "heap", *map(str, words), "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise AssertionError(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def dumps(
    leaking: Leaking, directory: Path, *steps: int
) -> tuple[list[Path], list[tuple[int, int]]]:
    """A dump, and one more after each step's leaks.

    The files, and how often it leaked between two of them: at the least and at the most,
    the same unless it leaks all the time.
    """
    paths: list[Path] = []
    counts: list[tuple[int, int]] = []
    for number, step in enumerate((0, *steps)):
        if number:
            leaking.more(step)
        paths.append(directory / f"{number}.heap")
        before = leaking.count()
        parkscope("dump", leaking.pid, "-o", paths[-1])
        counts.append((before, leaking.count()))
    leaked = [(other[0] - one[1], other[1] - one[0]) for one, other in pairwise(counts)]
    return paths, leaked


@contextmanager
def tls_server(interpreter: Interpreter) -> Iterator[Leaking]:
    """The scenario ``tls_leak``: a leak is a thread that waits for a handshake."""
    program = scenarios()["tls_leak"].path
    words = ["--seconds", str(_TLS_SECONDS)]
    with started(launch(interpreter, program, words, stdout=subprocess.PIPE)) as process:
        wait_ready(process)

        def threads() -> int:
            return len(os.listdir(f"/proc/{process.pid}/task"))

        def more(count: int) -> None:
            before = threads()
            wait_until(lambda: threads() >= before + count, f"{count} more threads", 30)

        wait_until(lambda: threads() > 4, "the first peers")
        yield Leaking(process.pid, more, threads)


@contextmanager
def web_app() -> Iterator[Leaking]:
    """Flask, by werkzeug's threaded server: a leak is a visit that is kept."""
    command = [sys.executable, "-u", str(TARGETS / "leaky_web_app.py")]
    with started(
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
        )
    ) as process:
        wait_ready(process)
        port = int(read_line(process))

        visits = 0

        def more(count: int) -> None:
            nonlocal visits
            for number in range(count):
                address = f"http://127.0.0.1:{port}/page/{number % 80}"
                with urllib.request.urlopen(address, timeout=20) as answer:
                    answer.read()
            visits += count

        more(100)
        yield Leaking(process.pid, more, lambda: visits)


@contextmanager
def churning_server(interpreter: Interpreter) -> Iterator[Leaking]:
    """targets/leak_and_churn.py: a leak is a session, every fifth request makes one."""
    script = TARGETS / "leak_and_churn.py"
    pipe = subprocess.PIPE
    with started(launch(interpreter, script, stdin=pipe, stdout=pipe)) as process:
        wait_ready(process)
        kept = 0

        def more(count: int) -> None:
            nonlocal kept
            if process.stdin is None:
                raise AssertionError("started without a pipe")
            process.stdin.write(b"%d\n" % (5 * count))
            process.stdin.flush()
            kept = int(read_line(process).removeprefix("done "))

        more(100)
        yield Leaking(process.pid, more, lambda: kept)


def told_apart(interpreter: Interpreter) -> Iterator[tuple[str, int]]:
    """Of each thing of targets/replacing.py what became of it, and if it was seen as the same.

    It ``stayed``, is ``gone``, or its address was ``reused`` by another thing.
    """
    script, numbers, sides = TARGETS / "replacing.py", [], []
    pipe = subprocess.PIPE
    with scratch(interpreter) as directory:
        truth, path = directory / "truth", directory / "heap"
        with started(launch(interpreter, script, [truth], stdin=pipe, stdout=pipe)) as process:
            wait_ready(process)
            for _ in range(2):
                if process.stdin is None:
                    raise AssertionError("started without a pipe")
                process.stdin.write(b"\n")
                process.stdin.flush()
                read_line(process)
                lines = (line.split() for line in truth.read_text().splitlines())
                numbers.append({int(address): number for address, number in lines})
                parkscope("dump", process.pid, "-o", path, "--force")
                sides.append(Side.of(read_graph(path, lambda _phase, _done, _total: None)))
    one, other = numbers
    pair = Matching(*sides).pair
    for node, address in enumerate(sides[0].graph.heap.columns["address"].tolist()):
        if address in one:
            what = "gone" if address not in other else "reused"
            yield (
                "stayed" if other.get(address) == one[address] else what,
                int(pair[node] != NONE),
            )
