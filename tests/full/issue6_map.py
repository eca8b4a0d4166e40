"""Issue 6, line 1: the proofs of the concurrent map, at length.

They are the map's own tests and their tools, in ``examples/concurrent_map/tests``; here they
run longer, and say how much they have looked at.
"""

from __future__ import annotations

import functools
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests import map_sanitized
from tests.full import Figure, NotMeasured, at_least, exactly, must_show
from tests.interpreters import interpreters

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "examples" / "concurrent_map" / "tests"
MODEL_RUNS, MODEL_STEPS = 1200, 50
REPETITIONS = 1000
FUZZ_CPU_S, SLICE_S = 600, 60
SANITIZED_SEEDS = 6
MATRIX = [one for one in interpreters() if one.version[:2] >= (3, 11)]
_PATIENCE_S = 3600


def _python(
    words: Sequence[str | Path], path: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """A program that finds the tools, and the installed map or the one at ``path``."""
    places = [str(place) for place in (path, TESTS) if place is not None]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places), **variables}
    return subprocess.run(
        [sys.executable, *words],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
        timeout=_PATIENCE_S,
    )  # fmt: skip


def _said(done: subprocess.CompletedProcess[str]) -> Any:
    if not done.stdout.strip().startswith("{"):
        raise AssertionError(done.stderr[-2000:])
    return json.loads(done.stdout)


def _suite(path: Path | None, *words: str, **variables: str) -> tuple[int, str]:
    """How many tests of the map passed, and pytest's last line; AssertionError if one failed."""
    done = _python(
        ["-m", "pytest", "-q", "-p", "no:cacheprovider", *(words or (str(TESTS),))],
        path,
        **variables,
    )
    last = (done.stdout.strip().splitlines() or [""])[-1]
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    (passed,) = re.findall(r"(\d+) passed", last)
    return int(passed), last


# --- the model, leaks --------------------------------------------------------------------------


@must_show("the map beside a dict, hypothesis stateful", issue=6, line=1)
def model() -> Iterator[Figure]:
    """Random programs with all views and iterators open at once; foreign code in the keys."""
    program = f"import model; model.run_model('c', examples={MODEL_RUNS}, steps={MODEL_STEPS})"
    begun = time.monotonic()
    done = _python(["-c", program])
    assert done.returncode == 0, done.stderr[-3000:]
    took = time.monotonic() - begun
    note = f"up to {MODEL_STEPS} steps each, {took:.0f} s"
    yield Figure(MODEL_RUNS, "programs beside a dict without a difference", at_least(1000), note)


@must_show("references, memory, threads before and after", issue=6, line=1)
def leaks() -> Iterator[Figure]:
    """Each method so many times: references, cycles, the heap, threads, forks."""
    passed, last = _suite(
        None, str(TESTS / "test_contract_lifetime.py"), CONCURRENT_MAP_REPETITIONS=str(REPETITIONS)
    )
    what = f"leak checks passed, {REPETITIONS} repetitions of everything"
    yield Figure(passed, what, at_least(5), last)


# --- histories ----------------------------------------------------------------------------------


@must_show("histories of threads that overlap", issue=6, line=1)
def histories() -> Iterator[Figure]:
    """C loops without the GIL, and the real map with keys that are compared in Python."""
    calls = _said(_python([TESTS / "recording.py", "calls", "40", "20000"]))
    yield Figure(
        calls["calls"], "calls judged for linearizability", at_least(3_000_000),
        f"{calls['histories']} histories of 4 threads on 12 keys",
    )  # fmt: skip
    yield Figure(calls["overlapping"], "of them overlapping one of the same key", at_least(100_000))
    yield Figure(calls["wrong"], "without an order", exactly(0))
    objects = _said(_python([TESTS / "recording.py", "objects", "40", "1500"]))
    yield Figure(
        objects["calls"], "calls of the real map, compared in Python", at_least(200_000),
        f"{objects['overlapping']} overlapping, {objects['retries']} retries",
    )  # fmt: skip
    yield Figure(objects["wrong"], "of them without an order", exactly(0))


@must_show("histories of iterations", issue=6, line=1)
def iterations() -> Iterator[Figure]:
    """Every walk against the map's states between its call and its return."""
    walks = _said(_python([TESTS / "recording.py", "walks", "100", "10000"]))
    yield Figure(
        walks["walks"], "walks judged: weak, strict, snapshot, view", at_least(30_000),
        f"{walks['items']} items, {walks['loads']} loads from views, {walks['changes']} changes",
    )  # fmt: skip
    yield Figure(walks["under_write"], "of them while the map changed", at_least(10_000))
    yield Figure(
        walks["strict_stale"], "strict ones that failed", at_least(100),
        f"{walks['strict_complete']} completed",
    )  # fmt: skip
    yield Figure(walks["shared_out"], "snapshots shared out by compare-and-swap", at_least(100))
    yield Figure(walks["wrong"], "contracts broken", exactly(0))
    yield Figure(walks["left_over"], "bytes of old versions and views left over", exactly(0))


@must_show("planted mistakes that the proofs find", issue=6, line=1)
def mistakes() -> Iterator[Figure]:
    """No lock, a torn snapshot, a leak …: what finds none of them proves nothing."""
    answers: Mapping[str, bool] = _said(_python([TESTS / "mistakes.py"]))
    missed = [name for name, found in answers.items() if not found]
    yield Figure(sum(answers.values()), "planted mistakes found", exactly(len(answers)))
    yield Figure(len(missed), "not found", exactly(0), ", ".join(missed))


# --- sanitizers -----------------------------------------------------------------------------------


def _built(kind: str, directory: Path) -> Path:
    done = _python([TESTS / "building.py", kind, directory / kind])
    if done.returncode != 0:
        raise NotMeasured(f"{kind} cannot be compiled: {done.stderr.strip().splitlines()[-1]}")
    return Path(done.stdout.strip())


@must_show("the core under the sanitizers, with threads", issue=6, line=1)
def core() -> Iterator[Figure]:
    """Without Python: all of its instructions are instrumented."""
    with tempfile.TemporaryDirectory(prefix="parkscope-") as name:
        for kind, what in (("thread", "TSan"), ("address", "ASan and UBSan")):
            program = _built(f"overlap-{kind}", Path(name))
            counts: dict[str, int] = {}
            for seed in range(SANITIZED_SEEDS):
                done = subprocess.run(
                    [program, "4", "150000", str(seed)],
                    capture_output=True, text=True, check=False, timeout=_PATIENCE_S,
                )  # fmt: skip
                assert done.returncode == 0, done.stderr[-3000:]
                for key, value in json.loads(done.stdout).items():
                    counts[key] = counts.get(key, 0) + value
            yield Figure(
                counts["operations"], f"{what}: operations of 4 threads, clean", at_least(5e6),
                f"{counts['overlapped']} begun while another ran, {counts['waits']} waits, "
                f"{counts['walks']} walks, {counts['views']} views",
            )  # fmt: skip


OF_THE_TOOLS = ("test_core.py", "test_histories.py", "test_linearizability.py")
"""They compile, with sanitizers of their own."""
PROGRAMS = (("calls", "6", "4000"), ("walks", "10", "4000"), ("objects", "4", "400"))


def _extension(names: Sequence[str], flags: str, options: Mapping[str, str]) -> tuple[int, int]:
    """The functional suite and the recorders with it: tests passed, histories judged."""
    build = f"from building import *; extension(Path(sys.argv[1]), {flags})"
    preload = "from building import *; print(preloadable(*sys.argv[1:]))"
    with tempfile.TemporaryDirectory(prefix="parkscope-") as name:
        made = _python(["-c", build, name])
        if made.returncode != 0:
            raise NotMeasured(f"cannot be compiled: {made.stderr[-300:]}")
        variables = {
            **options,
            "LD_PRELOAD": _python(["-c", preload, *names]).stdout.strip(),
            "PYTHONMALLOC": "malloc",
        }
        tests = [str(one) for one in TESTS.glob("test_*.py") if one.name not in OF_THE_TOOLS]
        passed, _ = _suite(Path(name), *sorted(tests), **variables)
        histories = 0
        for words in PROGRAMS:
            done = _python([TESTS / "recording.py", *words], Path(name), **variables)
            assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
            histories += _said(done)["histories"]
    return passed, histories


SANITIZERS: dict[str, tuple[tuple[str, ...], str, dict[str, str]]] = {
    # CPython does not give everything back at its end; test_contract_lifetime looks for leaks.
    "ASan and UBSan": (
        ("libasan.so", "libubsan.so"),
        "ADDRESS",
        {"ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1"},
    ),
    # It sees the GIL, which is a mutex and a condition, through libpthread.
    "TSan": (("libtsan.so",), "THREAD", {"TSAN_OPTIONS": "exitcode=66"}),
}


def extension(what: str) -> Callable[[], Iterator[Figure]]:
    """All tests of the extension in the Python of ./check, with that sanitizer."""

    def measure() -> Iterator[Figure]:
        passed, histories = _extension(*SANITIZERS[what])
        yield Figure(
            passed, f"{what}: tests of the extension passed, clean", at_least(100),
            f"and {histories} histories",
        )  # fmt: skip

    return measure


def everywhere(kind: str, what: str) -> Callable[[], Iterator[Figure]]:
    """Contracts and histories in every CPython where the sanitizer runs."""

    def measure() -> Iterator[Figure]:
        found = {one.id: map_sanitized.sanitized(one, kind) for one in MATRIX}
        clean = {name: one for name, one in found.items() if one is not None}
        left_out = ", ".join(name for name, one in found.items() if one is None)
        tests, histories = (
            sum(getattr(one, part) for one in clean.values()) for part in ("tests", "histories")
        )
        yield Figure(
            len(clean), f"{what}: CPythons in which the contracts are clean", at_least(2),
            f"{', '.join(clean)}; {tests} tests, {histories} histories; "
            f"no /proc or no headers: {left_out or 'none'}",
        )  # fmt: skip

    return measure


for one in SANITIZERS:
    must_show(f"the extension in CPython under {one}", issue=6, line=1)(extension(one))
for one, title in (("address", "ASan and UBSan"), ("thread", "TSan")):
    must_show(f"the extension in each CPython: {title}", issue=6, line=1)(everywhere(one, title))


# --- the fuzzer -----------------------------------------------------------------------------------


def _fuzz_slice(program: Path, corpus: Path, seed: int) -> int:
    """How many inputs were run; AssertionError with the input that went wrong."""
    done = subprocess.run(
        [
            program, f"-max_total_time={SLICE_S}", "-max_len=3000", "-timeout=30",
            f"-seed={seed}", "-print_final_stats=1", corpus,
        ],
        cwd=corpus.parent, capture_output=True, text=True, check=False, timeout=_PATIENCE_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    (runs,) = re.findall(r"stat::number_of_executed_units:\s+(\d+)", done.stderr)
    return int(runs)


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _lines_covered(corpus: Path, directory: Path) -> tuple[int, int]:
    """(lines of the core that the corpus runs, lines there are), by gcov."""
    program = _built("coverage", directory)
    inputs = sorted(corpus.iterdir())
    for at in range(0, len(inputs), 500):
        subprocess.run([program, *inputs[at : at + 500]], check=True, timeout=_PATIENCE_S)
    noted = sorted(program.parent.glob("*.gcda"))
    done = subprocess.run(
        ["gcov", "-n", *noted],
        cwd=program.parent, capture_output=True, text=True, check=True,
    )  # fmt: skip
    covered = there = 0
    for _, share, lines in re.findall(
        r"File '.*/(src/core/\w+\.c)'\nLines executed:([\d.]+)% of (\d+)", done.stdout
    ):
        covered += round(float(share) * int(lines) / 100)
        there += int(lines)
    return covered, there


@must_show("coverage-guided fuzzing of the core", issue=6, line=1)
def fuzz() -> Iterator[Figure]:
    """libFuzzer over the core beside its model, under ASan and UBSan; memory runs out, too."""
    with tempfile.TemporaryDirectory(prefix="parkscope-") as name:
        directory = Path(name)
        program = _built("fuzzer", directory)
        corpus = directory / "corpus"
        corpus.mkdir()
        before, runs, seed = _cpu_s(), 0, 0
        workers = os.cpu_count() or 1
        with ThreadPoolExecutor(workers) as pool:
            while _cpu_s() - before < FUZZ_CPU_S:
                seeds = range(seed + 1, seed + workers + 1)
                runs += sum(pool.map(functools.partial(_fuzz_slice, program, corpus), seeds))
                seed += workers
        used = _cpu_s() - before
        inputs = len(list(corpus.iterdir()))
        covered, there = _lines_covered(corpus, directory)
    yield Figure(used, "CPU seconds of fuzzing", at_least(FUZZ_CPU_S), f"{workers} at a time")
    yield Figure(runs, "inputs run without a crash, a difference or a leak", at_least(100_000))
    yield Figure(
        100 * covered / there, "lines of the core that they reach, %", at_least(85),
        f"{covered} of {there}, by {inputs} inputs",
    )  # fmt: skip
