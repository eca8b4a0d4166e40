"""Parkscope and the tools that it is compared with, each as something that attaches to a PID.

Every one is the real program with its defaults, in a process of its own; entering the
context returns when it has said that it is attached.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from tests.full import NotMeasured
from tests.processes import read_line

BIN = Path(sys.executable).parent
_ATTACH_S = 60.0
_LEAVE_S = 30.0

_TIMED = """
uprobe:{file}:{function} {{ @since[tid] = nsecs; }}
uretprobe:{file}:{function} /@since[tid]/
{{ @took_ns = hist(nsecs - @since[tid]); delete(@since[tid]); }}
"""
SLOW_PATHS = ("sem_wait", "sem_clockwait", "pthread_cond_timedwait")
LOCK_FUNCTION = "PyThread_acquire_lock_timed"


@contextmanager
def _attached(command: Sequence[str], says: str) -> Iterator[subprocess.Popen[bytes]]:
    """``command`` from the moment it has printed a line with ``says``, ended by SIGINT."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        said = ""
        while says not in said.rpartition("\n")[2]:
            try:
                said += "\n" + read_line(process, _ATTACH_S)
            except AssertionError as error:
                raise NotMeasured(f"{command[0]} did not attach: {error}; said: {said}") from None
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.communicate(timeout=_LEAVE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


@contextmanager
def parkscope_process(pid: int, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """``parkscope record PID -o FILE``, armed."""
    with tempfile.TemporaryDirectory() as folder:
        command = [str(BIN / "parkscope"), "record", str(pid), "-o", f"{folder}/trace", *options]
        with _attached(command, "recording to") as process:
            yield process


@contextmanager
def parkscope(pid: int) -> Iterator[None]:
    """Parkscope as a user runs it, with all defaults."""
    with parkscope_process(pid):
        yield


@contextmanager
def py_spy(pid: int) -> Iterator[None]:
    """``py-spy record``, 100 samples a second as by default."""
    program = _py_spy_program()
    with tempfile.TemporaryDirectory() as folder:
        command = [program, "record", "--format", "raw", "--duration", "3600"]
        command += ["--output", f"{folder}/stacks", "--pid", str(pid)]
        with _attached(command, "Sampling process"):
            yield


@contextmanager
def bpftrace_slow_paths(pid: int) -> Iterator[None]:
    """bpftrace timing the functions that Parkscope's slow-path probe times."""
    with _bpftrace(pid, ("libc.so.6",), SLOW_PATHS):
        yield


@contextmanager
def naive_lock_probe(pid: int) -> Iterator[None]:
    """Entry and return of CPython's lock function: what one would probe first."""
    with _bpftrace(pid, ("libpython", "python"), (LOCK_FUNCTION,)):
        yield


@contextmanager
def _bpftrace(pid: int, files: Sequence[str], functions: Sequence[str]) -> Iterator[None]:
    program = _installed("bpftrace", "bpftrace")
    file = _mapped(pid, files)
    script = "".join(_TIMED.format(file=file, function=one) for one in functions)
    script += 'interval:ms:1 /!@said/ { printf("attached\\n"); @said = 1; }'
    with _attached([program, "-B", "none", "-p", str(pid), "-e", script], "attached"):
        yield


def _mapped(pid: int, words: Sequence[str]) -> str:
    """The file mapped for code by a process whose name has the first of ``words`` that any has."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    entries = [line.split(maxsplit=5) for line in lines]
    code = [entry[5] for entry in entries if len(entry) == 6 and "x" in entry[1]]
    for word in words:
        for file in code:
            if word in file.rpartition("/")[2]:
                return file
    raise NotMeasured(f"{pid} has mapped neither of {', '.join(words)}")


@cache
def _installed(program: str, package: str) -> str:
    """A program of the distribution, installed if that may be done here."""
    if shutil.which(program) is None and os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run(
            ["apt-get", "-q", "-y", "install", "--no-install-recommends", package],
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL, capture_output=True, check=False,
        )  # fmt: skip
    if (found := shutil.which(program)) is None:
        raise NotMeasured(f"{program} is not installed (apt install {package})")
    return found


@cache
def _py_spy_program() -> str:
    """py-spy of this virtual environment, installed if it is not there."""
    program = BIN / "py-spy"
    if not program.exists():
        command = [sys.executable, "-m", "pip", "install", "-q", "py-spy"]
        subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if not program.exists():
        raise NotMeasured("py-spy is not installed (pip install py-spy)")
    return str(program)
