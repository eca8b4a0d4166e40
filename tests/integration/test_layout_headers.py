"""Layout files against the C compiler: offsetof() in the headers of each interpreter here."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.interpreters import Interpreter, matrix
from tracer.pymem.layout import LockForm, load

HEADERS = (
    "interp", "runtime", "frame", "interpframe", "dict", "gil", "code", "moduleobject", "lock",
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


MIRRORS = """
typedef struct { void *park_arg; uintptr_t addr; char sema[32]; void *node[2]; } wait_entry;
"""
"""Structures that only CPython's C files have, written down from there (x86-64, glibc)."""

LOCKS = {
    ("_thread.lock", 40): (
        "PyThread_type_lock lock_lock; PyObject *in_weakreflist; char locked;",
        {"pointer": "lock_lock"},
    ),
    ("_thread.lock", 24): ("PyMutex lock;", {"at": "lock"}),
    ("_thread.RLock", 48): (
        (
            "PyThread_type_lock rlock_lock; unsigned long rlock_owner; unsigned long rlock_count;"
            " PyObject *in_weakreflist;"
        ),
        {"pointer": "rlock_lock", "owner": "rlock_owner", "count": "rlock_count"},
    ),
    ("_thread.RLock", 40): (
        "_PyRecursiveMutex lock;",
        {"at": "lock.mutex", "owner": "lock.thread"},
    ),
    ("_queue.SimpleQueue", 56): (
        (
            "PyThread_type_lock lock; int locked; PyObject *lst; Py_ssize_t lst_pos;"
            " PyObject *weakreflist;"
        ),
        {"pointer": "lock"},
    ),
    ("_queue.SimpleQueue", 72): (
        (
            "_Bool has_threads_waiting; Py_ssize_t put_idx, get_idx; PyObject **items;"
            " Py_ssize_t items_cap, num_items; PyObject *weakreflist;"
        ),
        {"at": "has_threads_waiting"},
    ),
    ("_thread._ThreadHandle", 24): ("void *handle;", {"pointer": "handle"}),
}
"""The same of the objects that threads wait in: fields after the head, and what is where.
Those of 3.14 on (no headers here) are held against live processes alone."""


def lock_checks(form: LockForm) -> list[str]:
    """C that holds one lock form of a layout against its mirror."""
    fields, places = LOCKS[form.type, form.size]
    name = f"mirror_{form.type.replace('.', '_')}_{form.size}"
    checks = [f"typedef struct {{ PyObject_HEAD {fields} }} {name};"]
    checks += [f'_Static_assert(sizeof({name}) == {form.size}, "{form.type}");']
    return checks + [
        f'_Static_assert(offsetof({name}, {there}) == {getattr(form, here)}, "{there}");'
        for here, there in places.items()
    ]


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
    lines.append(MIRRORS)
    lines += [line for form in layout.locks for line in lock_checks(form)]
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
    # Debian's pyconfig.h asks for that of the architecture, from there.
    further = ["-idirafter", str((interpreter.chroot or Path("/")) / "usr/include")]
    done = subprocess.run(
        [compiler, "-std=gnu11", "-fsyntax-only", "-w", *paths, *further, str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


OPCODES = """
import json, opcode
try:
    from _opcode_metadata import opmap
except ImportError:
    opmap = opcode.opmap
names = ("PUSH_EXC_INFO", "WITH_EXCEPT_START", "INSTRUMENTED_LINE")
print(json.dumps({"op_" + name.lower(): opmap.get(name, 0) for name in names}))
"""


@matrix()
def test_opcodes_are_the_interpreters(interpreter: Interpreter) -> None:
    said = subprocess.run(
        [*interpreter.argv, "-c", OPCODES], capture_output=True, text=True, check=True, cwd="/"
    ).stdout
    constants = load(interpreter.version[:2]).constants
    for name, number in json.loads(said).items():
        assert constants[name] == number
