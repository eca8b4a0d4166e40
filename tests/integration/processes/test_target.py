"""Looking at processes of all sorts: what is found, and what is refused in which words."""

from __future__ import annotations

import dataclasses
import os
import shutil
import struct
import subprocess
import threading
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from probes.errors import NoSuchProcess, NotCPython, PermissionDenied, UnsupportedPython
from tests.interpreters import Interpreter, get, matrix
from tests.processes import read_line, wait_until
from tracer.elf import Elf
from tracer.pymem import PythonReader
from tracer.target import Target, alive, inspect, python_processes, require_python

pytestmark = pytest.mark.ptrace

Start = Callable[..., subprocess.Popen[bytes]]
READY = ["-c", "import sys, time; print('ready', flush=True); time.sleep(600)"]
NOBODY = 65534


def refusal_of(pid: int) -> str:
    target = inspect(pid)
    assert target.python is None
    assert target.refusal is not None
    assert target.refusal.count("\n") == 0
    return target.refusal


@matrix()
def test_what_a_python_is_found_to_be(interpreter: Interpreter, start: Start) -> None:
    process = start([*interpreter.argv, *READY], ready=True, cwd="/")
    target = inspect(process.pid)
    python = require_python(target)
    assert python.version == interpreter.version
    assert python.hexversion >> 24 == 3
    assert python.implementation == "CPython"
    assert not python.free_threaded
    assert target.machine == "x86_64"
    assert target.cmdline[-2:] == tuple(READY)
    assert target.libc is not None
    assert "libc" in target.libc.path
    for module in target.modules:
        found = os.stat(module.open_path)
        assert (found.st_dev, found.st_ino) == (module.device, module.inode)
    if interpreter.chroot is not None:
        inside = os.stat(interpreter.chroot / interpreter.argv[-1].lstrip("/"))
        assert (python.module.device, python.module.inode) == (inside.st_dev, inside.st_ino)
    with Elf.open(python.module.open_path) as elf:
        symbol = elf.symbol("_PyRuntime")
    assert symbol is not None
    assert symbol.address + python.module.load_bias == python.runtime_address


def test_an_older_python_is_refused_with_its_version(start: Start) -> None:
    process = start([*get("pyenv-3.10").argv, *READY], ready=True)
    assert "3.10 is not supported" in refusal_of(process.pid)
    with pytest.raises(UnsupportedPython):
        require_python(inspect(process.pid))


def test_no_python_at_all(start: Start) -> None:
    process = start(["sleep", "600"])
    wait_until(lambda: Path(f"/proc/{process.pid}/comm").read_text() == "sleep\n", "exec")
    assert "runs no CPython" in refusal_of(process.pid)
    with pytest.raises(NotCPython) as caught:
        require_python(inspect(process.pid))
    assert not isinstance(caught.value, UnsupportedPython)


def test_a_zombie_and_a_thread_of_the_kernel(start: Start) -> None:
    process = start(["true"])
    stat = Path(f"/proc/{process.pid}/stat")
    wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "Z", "its end")
    assert "zombie" in refusal_of(process.pid)
    assert not alive(inspect(process.pid))
    kernel = Path("/proc/2/stat")
    if kernel.exists() and "kthreadd" in kernel.read_text():
        assert "kernel" in refusal_of(2)


def test_no_process_and_a_thread_instead_of_one() -> None:
    with pytest.raises(NoSuchProcess):
        inspect(1 << 30)
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        assert thread.native_id is not None
        with pytest.raises(NoSuchProcess, match=f"thread of process {os.getpid()}"):
            inspect(thread.native_id)
    finally:
        done.set()
        thread.join()


def test_identity_is_the_process_not_the_number(start: Start) -> None:
    process = start(["sleep", "600"])
    target = inspect(process.pid)
    assert alive(target)
    assert not alive(dataclasses.replace(target, start_ticks=target.start_ticks + 1))
    process.kill()
    process.wait()
    assert not alive(target)


@pytest.mark.parametrize("then", ["deleted", "replaced"])
def test_a_program_whose_file_is_gone(start: Start, tmp_path: Path, then: str) -> None:
    program = tmp_path / "python"
    shutil.copy(Path("/usr/bin/python3").resolve(), program)
    process = start([str(program), *READY], ready=True)
    program.unlink()
    if then == "replaced":
        program.write_bytes(b"\x7fELF and no more")
    target = inspect(process.pid)
    assert require_python(target).version[0] == 3
    reader = PythonReader(target)
    assert reader.names() == {process.pid: "MainThread"}


def elf_of_32_bits() -> bytes:
    """A program for i386 that only waits: for (;;) pause()."""
    code = bytes.fromhex("b81d000000 cd80 ebf7")  # mov eax, 29; int 0x80; jmp back
    header = b"\x7fELF\1\1\1" + bytes(9)
    header += struct.pack("<HHIIIIIHHHHHH", 2, 3, 1, 0x8048054, 52, 0, 0, 52, 32, 1, 0, 0, 0)
    size = 84 + len(code)
    return header + struct.pack("<8I", 1, 0, 0x8048000, 0x8048000, size, size, 5, 4096) + code


def test_a_program_for_another_machine(start: Start, tmp_path: Path) -> None:
    program = tmp_path / "small"
    program.write_bytes(elf_of_32_bits())
    program.chmod(0o755)
    try:
        process = start([str(program)])
    except OSError as error:
        pytest.skip(f"this kernel runs no i386 programs: {error}")
    assert "i386" in refusal_of(process.pid)


def fake_runtime(directory: Path, source: str) -> Path:
    """A shared library made of C source, to be loaded into some program."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    library = directory / "fake.so"
    (directory / "fake.c").write_text(source)
    source_file = str(directory / "fake.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), source_file], check=True)
    return library


def runtime_source(hexversion: int, free_threaded: int) -> str:
    return (
        "struct { char cookie[8]; unsigned long version, free, rest[200]; } _PyRuntime = "
        f'{{ "xdebugpy", {hexversion:#x}, {free_threaded} }};\nvoid *code(void)'
        " { return &_PyRuntime; }\n"
    )


def sleeps_with(start: Start, library: Path) -> subprocess.Popen[bytes]:
    """``sleep`` with that library, mapped and relocated: by then it sleeps."""
    process = start(["sleep", "600"], env={**os.environ, "LD_PRELOAD": str(library)})
    call = Path(f"/proc/{process.pid}/syscall")  # clock_nanosleep
    wait_until(lambda: call.read_text().startswith("230 "), "it sleeps")
    assert str(library) in Path(f"/proc/{process.pid}/maps").read_text()
    return process


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (runtime_source(0x031000F0, 0), "3.16.0 is not supported"),
        (runtime_source(0x030E02F0, 1), "free-threaded"),
        (runtime_source(0x030F00A3, 0), "pre-release"),
        ("void rpython_startup_code(void) {}\n", "PyPy"),
    ],
    ids=["unknown version", "free-threaded", "alpha", "PyPy"],
)
def test_pythons_that_are_refused(start: Start, tmp_path: Path, source: str, words: str) -> None:
    library = fake_runtime(tmp_path, source)
    process = sleeps_with(start, library)
    assert words in refusal_of(process.pid)
    with pytest.raises(UnsupportedPython):
        require_python(inspect(process.pid))


def test_a_runtime_that_is_none_is_not_read_as_one(start: Start, tmp_path: Path) -> None:
    library = fake_runtime(tmp_path, runtime_source(0x030E02F0, 0))
    process = sleeps_with(start, library)
    target = inspect(process.pid)
    with pytest.raises(UnsupportedPython, match="elsewhere"):
        PythonReader(target)


EMBEDDING = """
#include <Python.h>
int main(void) {
    Py_InitializeEx(0);
    PyRun_SimpleString("import threading\\nprint('ready', flush=True)\\n"
                       "threading.Event().wait()\\n");
    return 0;
}
"""


def test_a_program_that_embeds_python_counts(start: Start, tmp_path: Path) -> None:
    interpreter = get("pyenv-3.12")
    compiler = shutil.which("cc")
    home = Path(interpreter.argv[0]).parents[1]
    if compiler is None or not (home / "lib/libpython3.12.so").exists():
        pytest.skip("needs a C compiler and a shared libpython")
    (tmp_path / "embed.c").write_text(EMBEDDING)
    program = tmp_path / "server"
    flags = [f"-I{home}/include/python3.12", f"-L{home}/lib", f"-Wl,-rpath,{home}/lib"]
    source = tmp_path / "embed.c"
    subprocess.run([compiler, *flags, "-o", program, source, "-lpython3.12"], check=True)
    process = start([str(program)], env={**os.environ, "PYTHONHOME": str(home)}, ready=True)
    reader = PythonReader(inspect(process.pid))
    assert reader.names() == {process.pid: "MainThread"}

    def waits() -> bool:
        found = reader.stack(process.pid, 1)
        return found is not None and found[0][0].function == "Condition.wait"

    wait_until(waits, "its wait in Python")


def as_nobody(work: Callable[[], None]) -> int:
    """Run ``work`` in a child that has given up root; its exit status."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 1
    try:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        work()
        status = 0
    except Exception:
        traceback.print_exc()
        raise
    finally:
        os._exit(status)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_an_ordinary_user(start: Start) -> None:
    """No right to another's process; its own needs no capability (map_files would)."""
    others = start(["sleep", "600"])

    def look_at_others() -> None:
        with pytest.raises(PermissionDenied):
            inspect(others.pid)

    def look_at_own() -> None:
        command = ["/usr/bin/python3", *READY]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd="/") as own:
            try:
                assert read_line(own) == "ready"
                target = inspect(own.pid)
                require_python(target)
                assert target.libc is not None
                assert PythonReader(target).names() == {own.pid: "MainThread"}
            finally:
                own.kill()

    assert as_nobody(look_at_others) == 0
    assert as_nobody(look_at_own) == 0


def test_a_list_of_all_pythons(start: Start) -> None:
    readable = start(["/usr/bin/python3", *READY], ready=True)
    other = start(["sleep", "600"])
    refused = start([*get("pyenv-3.10").argv, *READY], ready=True)
    found: dict[int, Target] = {target.pid: target for target in python_processes()}
    assert found[readable.pid].python is not None
    assert found[refused.pid].refusal is not None
    assert other.pid not in found
