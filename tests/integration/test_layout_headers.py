"""Layout files against the C compiler: offsetof() in the headers of each interpreter here."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.interpreters import Interpreter, matrix
from tracer.pymem.layout import load

HEADERS = (
    "interp", "runtime", "frame", "interpframe", "dict", "gil", "code", "moduleobject",
    "gc", "typeobject", "ast_state",
)  # fmt: skip
# Structures without a typedef.
TAGGED = frozenset(
    {
        "_gil_runtime_state",
        "_gc_runtime_state",
        "_frame",
        "type_cache_entry",
        "ast_state",
    }
)
SAID_BY_THE_TARGET = frozenset({"PyInterpreterState.SIZE"})
"""What differs within a minor version (3.13.18 has 16 bytes more than 3.13.0) and is read
from the target's own table, where it has one."""


def includes(interpreter: Interpreter) -> list[Path]:
    """The interpreter's header directories; skips the test where it has no internal ones."""
    ask = "import sysconfig; print(*(sysconfig.get_path(n) for n in ('include', 'platinclude')))"
    said = subprocess.run(
        [*interpreter.argv, "-c", ask], capture_output=True, text=True, check=True, cwd="/"
    ).stdout.split()
    root = interpreter.chroot or Path("/")
    found = [root / path.lstrip("/") for path in dict.fromkeys(said)]
    if not (found[0] / "internal/pycore_interp.h").exists():
        pytest.skip(f"{interpreter.id} has no internal headers")
    return found


def expression(name: str) -> str:
    structure, _, field = name.partition(".")
    prefix = "struct " if structure in TAGGED else ""
    if field == "SIZE":
        return f"sizeof({prefix}{structure})"
    return f"offsetof({prefix}{structure}, {field})"


@matrix()
def test_every_offset_is_the_compilers(interpreter: Interpreter, tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    directories = includes(interpreter)
    layout = load(interpreter.version[:2])
    lines = ["#define Py_BUILD_CORE 1", "#include <Python.h>", "#include <stddef.h>"]
    lines += ["#include <structmember.h>", "#include <datetime.h>"]
    lines += [
        f'#include "internal/pycore_{name}.h"'
        for name in HEADERS
        if (directories[0] / f"internal/pycore_{name}.h").exists()
    ]
    lines += [
        f'_Static_assert({expression(name)} == {offset}, "{name}");'
        for name, offset in layout.offsets.items()
        if not (layout.debug_fields and name in SAID_BY_THE_TARGET)
    ]
    lines += [
        f'_Static_assert({name.upper()} == {layout.constants[name]}, "{name}");'
        for name in ("frame_cleared",)
    ]
    source = tmp_path / "layout.c"
    source.write_text("\n".join(lines) + "\n")
    paths = [f"-I{path}" for base in directories for path in (base, base / "internal")]
    done = subprocess.run(
        [compiler, "-std=gnu11", "-fsyntax-only", "-w", *paths, str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
