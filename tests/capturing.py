"""Images taken in tests: by name of the engine, and what an image must show."""

from __future__ import annotations

import hashlib
import os
import re
import struct
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.processes import wait_until
from tracer.heap.capture import CaptureOptions, capture
from tracer.heap.image import Image
from tracer.heap.machine import available_bytes
from tracer.target import inspect

ENGINES = ("stop-and-copy", "precopy", "clone")
SLOTS, WORDS = 64, 512  # tests/targets/writers.py


def take(pid: int, engine: str | None = None, **options: Any) -> Image:
    """An image of that process; a forced engine may take as long as it likes."""
    return capture(inspect(pid), CaptureOptions(engine=engine, **options))


def words(image: Image, address: int) -> list[int]:
    """The first word of each page of one of the writers' arrays."""
    raw = b"".join(
        image.read(address + at, min(65536, SLOTS * WORDS * 8 - at))
        for at in range(0, SLOTS * WORDS * 8, 65536)
    )
    return [struct.unpack_from("<Q", raw, slot * WORDS * 8)[0] for slot in range(SLOTS)]


def contradictions(image: Image, said: dict[str, Any]) -> list[str]:
    """What in the image cannot have been so at one moment, by the target's own word."""
    found = []
    for first, second in said["pairs"]:
        ahead, behind = words(image, first), words(image, second)
        last = max(ahead)
        expected = [last - (last - slot) % SLOTS for slot in range(SLOTS)]
        if last >= SLOTS and ahead != expected:
            found.append(f"first array at {last}: {ahead}")
        late = list(expected)
        late[last % SLOTS] -= SLOTS
        if last >= SLOTS and behind not in (expected, late):
            found.append(f"second array at {last}: {behind}")
    for address, size, digest in said["still"]:
        raw = b"".join(
            image.read(address + at, min(1 << 20, size - at)) for at in range(0, size, 1 << 20)
        )
        if hashlib.sha256(raw).hexdigest() != digest:
            found.append(f"{size} still bytes at {address:#x} differ")
    return found


def counts(pid: int) -> dict[str, Any]:
    """What of /proc/PID must be after a dump as it was before."""
    place = Path(f"/proc/{pid}")
    tasks = [int(task.name) for task in (place / "task").iterdir()]
    status = [(place / f"task/{tid}/status").read_text() for tid in tasks]
    return {
        "fds": sorted(os.readlink(fd) for fd in (place / "fd").iterdir()),
        "threads": len(tasks),
        "tracers": sorted({re.findall(r"TracerPid:\s*(\d+)", text)[0] for text in status}),
        "masks": sorted(re.findall(r"SigBlk:\s*(\w+)", text)[0] for text in status),
        "nice": sorted({os.getpriority(os.PRIO_PROCESS, tid) for tid in tasks}),
        "children": sorted(children(pid)),
        "watched": (place / "smaps").read_text().count(" uw"),
    }


def children(pid: int) -> list[str]:
    """The names of the children of a process, zombies with a mark."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            name, _, rest = stat.read_text().partition("(")[2].rpartition(") ")
            state, parent = rest.split()[:2]
            if int(parent) == pid:
                found.append(name + (" (zombie)" if state == "Z" else ""))
    return found


def states(pid: int) -> str:
    """The state of each thread, one letter each (proc(5))."""
    found = ""
    for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
        with suppress(OSError):
            found += stat.read_text().rpartition(") ")[2][0]
    return found


def is_running(pid: int) -> bool:
    """Whether no thread of the process is stopped or traced."""
    return not set(states(pid)) & set("tTZX")


def injectors() -> set[int]:
    """PIDs of running injectors on this machine; an orphan's zombie is for init to reap."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            name, _, rest = stat.read_text().partition("(")[2].rpartition(") ")
            if name.startswith("freeze-") and not rest.startswith("Z"):
                found.add(int(stat.parent.name))
    return found


def sacrificed(pid: int, engine: str, fault: str) -> int:
    """Take an image in a child of this process, which may be killed at it: its wait status.

    ``fault`` is ``who@step``, see ``step`` in tracer/heap/freeze/main.c.
    """
    child = os.fork()
    if not child:
        status = 1
        try:
            os.environ["PARKSCOPE_FREEZE_FAULT"] = fault
            take(pid, engine).close()
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1]


def wait_no_injector(before: set[int]) -> None:
    """Until every injector that was not there ``before`` has gone."""
    wait_until(lambda: not injectors() - before, "the injector has gone", timeout=20)


def has_room(size_bytes: int) -> bool:
    """Whether the machine has that much memory to spare."""
    return available_bytes() > size_bytes


def ask(process: subprocess.Popen[bytes]) -> None:
    """Put a question (an empty line) to a target that answers those."""
    if process.stdin is None:
        raise ValueError("started without stdin=PIPE")
    process.stdin.write(b"\n")
    process.stdin.flush()
