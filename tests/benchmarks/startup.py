"""How long a person waits: from a command to its first useful line."""

from __future__ import annotations

import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import orjson

from tests.benchmarks.pairs import TARGETS, interpreter
from tests.benchmarks.quiet import going_first
from tests.benchmarks.tools import BIN
from tests.interpreters import launch
from tests.processes import read_line, started, wait_ready

REPEATS = 10
_PARKSCOPE = str(BIN / "parkscope")


@contextmanager
def idle_target(threads: int) -> Iterator[int]:
    """The PID of a Python process with so many threads, all waiting."""
    process = launch(
        interpreter("pyenv-3.11", "system-3.11"),
        TARGETS / "many_threads.py",
        [str(threads)],
        stdout=subprocess.PIPE,
        start_new_session=False,
    )
    with started(process):
        wait_ready(process, 60)
        yield process.pid


def seconds_to_armed(pid: int, environment: Mapping[str, str] | None = None) -> float:
    """From starting ``parkscope attach PID --json`` to its line ``attached``."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [_PARKSCOPE, "attach", str(pid), "--json"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **(environment or {})},
    )
    with started(process):
        line = orjson.loads(read_line(process, 60))
        took = time.perf_counter() - began
        if line["event"] != "attached":
            raise AssertionError(f"the first line is {line['event']}")
        process.terminate()
        process.communicate(timeout=30)
    return took


def times_to_armed(pid: int) -> list[float]:
    """``REPEATS`` times in seconds, what can be cached being cached."""
    seconds_to_armed(pid)
    return [seconds_to_armed(pid) for _ in range(REPEATS)]


def first_time_to_armed(pid: int) -> float:
    """The same for a user whose cache is empty (the machine's page cache is as it is)."""
    with tempfile.TemporaryDirectory() as cache:
        return seconds_to_armed(pid, {"XDG_CACHE_HOME": cache})


def times_of_help() -> list[float]:
    """``parkscope --help``, from its start to its end, ``REPEATS`` times in seconds."""
    times = []
    with going_first():
        for _ in range(REPEATS + 1):
            began = time.perf_counter()
            subprocess.run([_PARKSCOPE, "--help"], stdout=subprocess.DEVNULL, check=True)
            times.append(time.perf_counter() - began)
    return times[1:]


def note(times: list[float]) -> str:
    """How even they were, for a table."""
    return f"median of {len(times)}: {min(times):.3f} to {max(times):.3f}"


def median(times: list[float]) -> float:
    """The figure."""
    return statistics.median(times)
