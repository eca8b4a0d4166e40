"""The core without Python, under the sanitizers: beside a model, and with threads."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from building import ADDRESS, KINDS, LENDING, MODEL, SOURCES, THREAD, Mistake, standalone
from mistakes import BY_MODEL, BY_THREADS, GROUPS, found_by_model, found_by_threads


def _works(flags: tuple[str, ...]) -> bool:
    try:
        done = subprocess.run(
            ["cc", *flags, "-x", "c", "-", "-o", "/dev/null"],
            input=b"int main(void) { return 0; }", capture_output=True, check=False,
        )  # fmt: skip
    except FileNotFoundError:
        return False
    return done.returncode == 0


pytestmark = pytest.mark.skipif(
    not (_works(ADDRESS) and _works(THREAD)), reason="no C compiler with the sanitizers"
)


@pytest.mark.parametrize("lending", [(), (LENDING,)])
def test_it_does_what_an_array_does(tmp_path: Path, lending: tuple[str, ...]) -> None:
    program = standalone(tmp_path, ("driver.c", *MODEL), (*ADDRESS, *lending))
    subprocess.run([program, "--random", "7", "600"], check=True, timeout=100)


@pytest.mark.parametrize("kind", ["overlap-address", "overlap-thread"])
def test_threads_on_one_table(tmp_path: Path, kind: str) -> None:
    harness, flags, compiler = KINDS[kind]
    program = standalone(tmp_path, harness, flags, compiler=compiler)
    done = subprocess.run(
        [program, "4", "10000", "3"], capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stderr[-3000:]
    counts = json.loads(done.stdout)
    assert min(counts["overlapped"], counts["waits"], counts["walks"], counts["stale"]) > 0


def test_the_model_finds_a_mistake(tmp_path: Path) -> None:
    assert found_by_model(BY_MODEL[0], tmp_path)


def test_the_thread_sanitizer_finds_a_mistake(tmp_path: Path) -> None:
    assert found_by_threads(BY_THREADS[1], tmp_path)


@pytest.mark.parametrize("mistake", [one for group in GROUPS.values() for one in group])
def test_mistakes_can_still_be_made(tmp_path: Path, mistake: Mistake) -> None:
    name = tmp_path / mistake.file
    name.parent.mkdir(parents=True)
    name.write_text((SOURCES / mistake.file).read_text())
    mistake.make(tmp_path)
