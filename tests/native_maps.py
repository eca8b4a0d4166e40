"""The toy of a native map: compiled, started under an interpreter, asked for its truth."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.interpreters import Interpreter
from tests.map_build import compile_map
from tests.processes import read_line

TARGETS = Path(__file__).parent / "targets"
PROGRAM = TARGETS / "native_map.py"
LIBRARY = "libtoy_concurrent_map.so"


def compiled(directory: Path, *flags: str, name: str = LIBRARY) -> Path:
    """The toy's library; skips the test where there is no compiler or no ``sys/sdt.h``."""
    library = directory / name
    command: list[str | Path] = [
        "cc",
        "-O2",
        "-fPIC",
        "-shared",
        *flags,
        "-o",
        library,
        TARGETS / "native_map.c",
    ]
    if shutil.which("cc") is None or not _has_sdt():
        why = "no C compiler, or no sys/sdt.h (apt install gcc systemtap-sdt-dev)"
        if os.environ.get("PARKSCOPE_REQUIRE_EBPF") == "1":
            pytest.fail(f"./check as root installs it, and there is {why}", pytrace=False)
        pytest.skip(why)
    subprocess.run(command, check=True, capture_output=True)
    return library


def _has_sdt() -> bool:
    asked = subprocess.run(
        ["cc", "-E", "-x", "c", "-"],
        input=b"#include <sys/sdt.h>\n", capture_output=True, check=False,
    )  # fmt: skip
    return asked.returncode == 0


def ask(process: subprocess.Popen[bytes], command: str) -> dict[str, Any]:
    """Have the toy do something; what it says."""
    tell(process, command)
    return answer(process)


def answer(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """What it says to a command that it was given before."""
    said: dict[str, Any] = json.loads(read_line(process))
    return said


def tell(process: subprocess.Popen[bytes], command: str) -> None:
    """Give a command without waiting for its end."""
    if process.stdin is None:
        raise ValueError("started without stdin=PIPE")
    process.stdin.write(f"{command}\n".encode())
    process.stdin.flush()


CONVOY = TARGETS / "map_convoy.py"


def built(directory: Path, interpreter: Interpreter) -> Path | None:
    """A directory to import ``concurrent_map`` from, compiled for an interpreter.

    None where a compiler or the interpreter's headers are not here, and for a chroot's.
    """
    return None if interpreter.chroot is not None else compile_map(directory, interpreter)
