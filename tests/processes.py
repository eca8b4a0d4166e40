"""Processes in tests: started, waited for until they say so, and gone afterwards."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil

_between_looks = threading.Event()  # never set: its wait is the pause of wait_until


def wait_until(condition: Callable[[], Any], what: str, timeout: float = 10.0) -> Any:
    """The first true value of ``condition()``.

    Raises AssertionError naming ``what`` when it is not true within ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout:g} s: {what}")
        _between_looks.wait(0.005)
    return value


def read_line(process: subprocess.Popen[bytes], timeout: float = 10.0) -> str:
    """The next line of the process's stdout (a pipe), without its newline.

    Reads byte by byte past Python's buffer, so that nothing after the line is lost.
    Raises AssertionError at end of file or after ``timeout`` seconds.
    """
    stream = process.stdout
    if stream is None:
        raise ValueError("started without stdout=PIPE")
    line = bytearray()
    deadline = time.monotonic() + timeout
    while True:
        left = deadline - time.monotonic()
        ready, _, _ = select.select([stream], [], [], max(left, 0))
        if not ready:
            raise AssertionError(f"no line within {timeout:g} s, only {bytes(line)!r}")
        byte = os.read(stream.fileno(), 1)
        if not byte:
            raise AssertionError(f"stdout ended after {bytes(line)!r}, status {process.poll()}")
        if byte == b"\n":
            return line.decode()
        line += byte


def wait_ready(process: subprocess.Popen[bytes], timeout: float = 20.0) -> None:
    """Wait for the line ``ready`` which every target program says first."""
    said = read_line(process, timeout)
    if said != "ready":
        raise AssertionError(f"expected 'ready', got {said!r}")


def kill(process: subprocess.Popen[bytes]) -> None:
    """End the process and, when it leads a session, everything in it; close its pipes."""
    if process.poll() is None:
        with suppress(ProcessLookupError, PermissionError):
            if os.getpgid(process.pid) == process.pid:
                os.killpg(process.pid, signal.SIGKILL)
        process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with suppress(BrokenPipeError):
                stream.close()


@contextmanager
def started(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """The process for as long as the block lasts; it is killed at its end."""
    try:
        yield process
    finally:
        kill(process)


def children() -> set[int]:
    """PIDs of all living descendants of this process (zombies count: nobody reaped them)."""
    return {child.pid for child in psutil.Process().children(recursive=True)}


def describe(pid: int) -> str:
    """``PID (command line)`` for a message."""
    with suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
        return f"{pid} ({b' '.join(words).decode(errors='replace') or 'zombie'})"
    return f"{pid} (gone by now)"


def marked(mark: str) -> set[int]:
    """PIDs of all processes with ``mark`` (``NAME=value``) in their initial environment."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            with suppress(AssertionError):  # one without any argument
                wait_until(partial(_has_begun, entry), f"{entry}'s program", timeout=0.5)
            if mark.encode() in (entry / "environ").read_bytes().split(b"\0"):
                found.add(int(entry.name))
    return found


def _has_begun(entry: Path) -> bool:
    """Whether a process is not amid execve(2): in a memory of its own, without arguments yet.

    Whoever started it may know of its success by then (vfork, close-on-exec). Zombies and
    the kernel's threads, without arguments too, have no ``exe``. Raises OSError.
    """
    if (entry / "cmdline").read_bytes():
        return True
    (entry / "exe").readlink()
    return False
