"""The map's extension under the sanitizers, in each CPython: its contracts and histories.

    python -m tests.map_sanitized address|thread [INTERPRETER…]

Only the extension is instrumented. The thread sanitizer sees CPython's GIL all the same, for
it is a mutex and a condition of libpthread, whose functions the preloaded run-time takes
over. What runs is ``examples/concurrent_map/tests``: the contracts (plain unittest), and the
recorder, whose C loops have no GIL.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.interpreters import Interpreter, interpreters, scratch
from tests.map_build import EXAMPLE, compile_map

TESTS = EXAMPLE.parent / "tests"
RECORDINGS = (("calls", "6", "4000"), ("walks", "10", "4000"), ("objects", "4", "300"))
NEED_PROC = ("test_contract_processes.py", "test_contract_lifetime.py")
"""Their children are complained of by a sanitizer's run-time where there is no ``/proc``."""
_TIMEOUT_S = 900


@dataclass(frozen=True)
class Sanitizer:
    """What to compile with, what to preload, and what to tell the run-time."""

    flags: tuple[str, ...]
    libraries: tuple[str, ...]
    options: tuple[str, ...]
    needs_proc: bool
    """Reads its options in ``/proc``, and cannot do without them."""


SANITIZERS = {
    # CPython does not give everything back at its end; test_contract_lifetime looks for leaks.
    "address": Sanitizer(
        ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
        ("libasan.so", "libubsan.so"),
        ("ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1", "PYTHONMALLOC=malloc"),
        needs_proc=True,
    ),
    "thread": Sanitizer(
        ("-g", "-fsanitize=thread"),
        ("libtsan.so",),
        ("PYTHONMALLOC=malloc",),
        needs_proc=False,
    ),
}


@dataclass(frozen=True)
class Clean:
    """What ran without a finding."""

    tests: int
    histories: int


def _run_time(name: str) -> Path:
    said = subprocess.run(
        ["cc", f"-print-file-name={name}"], capture_output=True, text=True, check=True
    )
    return Path(said.stdout.strip()).resolve()


def _program(interpreter: Interpreter, variables: Sequence[str], words: Sequence[str]) -> list[str]:
    """A command line in which the variables are those of the interpreter alone."""
    if interpreter.chroot is None:
        return ["env", *variables, *interpreter.argv, *words]
    chroot, root, *python = interpreter.argv
    return [chroot, root, "env", *variables, *python, *words]


def _ran(command: Sequence[str], directory: Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command, cwd=directory, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S
    )
    assert done.returncode == 0, (done.stdout[-500:] + done.stderr)[-4000:]
    return done


def sanitized(interpreter: Interpreter, kind: str) -> Clean | None:
    """Contracts and histories under one interpreter; AssertionError with what was found.

    None where there is no compiler, or no headers of it, or no ``/proc`` for ASan.
    """
    sanitizer = SANITIZERS[kind]
    if sanitizer.needs_proc and interpreter.chroot is not None:
        return None
    with scratch(interpreter) as directory:
        directory.chmod(0o755)
        package = compile_map(directory / "built", interpreter, *sanitizer.flags)
        if package is None:
            return None
        for source in TESTS.glob("*.py"):
            if interpreter.chroot is None or source.name not in NEED_PROC:
                shutil.copy(source, directory)
        libraries = [shutil.copy(_run_time(name), directory) for name in sanitizer.libraries]
        preload = " ".join(interpreter.inside(Path(one)) for one in libraries)
        here = interpreter.inside(directory)
        variables = [
            *sanitizer.options,
            f"LD_PRELOAD={preload}",
            f"PYTHONPATH={interpreter.inside(package)}:{here}",
        ]
        words = ["-m", "unittest", "discover", "-s", here, "-p", "test_contract_*.py"]
        done = _ran(_program(interpreter, variables, words), directory)
        (tests,) = re.findall(r"^Ran (\d+) tests", done.stderr, re.MULTILINE)
        histories = 0
        for recording in RECORDINGS:
            words = [f"{here}/recording.py", *recording]
            done = _ran(_program(interpreter, variables, words), directory)
            histories += json.loads(done.stdout)["histories"]
    return Clean(int(tests), histories)


def main(words: Sequence[str]) -> int:
    """Entry point; raises what ``sanitized`` raises."""
    kind, *names = words
    for interpreter in interpreters():
        if interpreter.version[:2] >= (3, 11) and (not names or interpreter.id in names):
            sys.stdout.write(f"{interpreter.id}: {sanitized(interpreter, kind)}\n")
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
