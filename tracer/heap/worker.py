"""Walks an image and writes the dump, in a process of its own without privileges.

Started by ``tracer.heap.dump`` as ``python -m tracer.heap.worker`` with two descriptors,
the image and the file; told by one line of JSON on stdin what to do; says its progress,
and at last its result, as lines of JSON. What it reads comes from the target and nothing
of it is believed; should the walk crash all the same, only this process does.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import threading
from contextlib import suppress
from typing import Any

import msgspec
import numpy as np
import numpy.ma

from probes.errors import ImplausibleMemory, MemoryReadError, ParkscopeError
from tracer.heap import codec, marking
from tracer.heap.build_heap import build_heap
from tracer.heap.image import CaptureFacts, Image, Segment
from tracer.heap.place import Place, known_types
from tracer.heap.scan import Scanner
from tracer.heap.walker import library
from tracer.heap.writer import write
from tracer.pymem.layout import load

NOBODY = 65534
PROGRESS_S = 0.2
_BACKGROUND = 10
_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG, include/uapi/linux/prctl.h
_NO_NEW_PRIVILEGES = 38  # PR_SET_NO_NEW_PRIVS


class Order(msgspec.Struct):
    """What the worker is asked to do; descriptors are this process's own."""

    image: int
    size: int
    output: int
    segments: list[tuple[int, int, int, bool, str]]
    version: tuple[int, int, int]
    runtime_address: int
    symbols: dict[str, int]
    meta: dict[str, Any]
    values: bool
    max_bytes: int = 0
    background: bool = False


def _tell(**what: Any) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(what) + b"\n")
    sys.stdout.buffer.flush()


def give_up_privileges() -> None:
    """Become nobody where we are root, and never more than we are; end with whoever started us."""
    parent, prctl = os.getppid(), ctypes.CDLL(None).prctl
    prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core would hold the target's secrets
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    # A walk takes gigabytes and many seconds that nobody would wait for. A change of user
    # takes this back (prctl(2)), so it comes last.
    prctl(_PARENT_DEATH_SIGNAL, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def _warm_up(order: Order, place: Place) -> None:
    """Load whatever is loaded on first use: afterwards our own files may be out of reach."""
    library()
    marking.library()
    known_types(place, load(place.version[:2]))
    codec.encode(np.zeros(1, np.uint8), "planes")
    for name in ("utf-16-le", "utf-32-le", "latin-1"):
        b"\0\0\0\0".decode(name)
    sys.stdout.flush()
    os.set_inheritable(order.output, False)


def _watch(scanner: Scanner, done: threading.Event) -> None:
    with suppress(BrokenPipeError):
        while not done.wait(PROGRESS_S):
            _tell(phase="walk", done=scanner.progress())


def work(order: Order) -> dict[str, Any]:
    """Do it; what came out. Raises ParkscopeError, OSError (writing), MemoryError."""
    place = Place(order.version, order.runtime_address, order.symbols)
    _warm_up(order, place)
    mark_key = marking.key_of(order.meta.get("pid"))
    if order.background:
        os.nice(_BACKGROUND)
    if order.max_bytes:  # Python ignores SIGXFSZ: the write fails with EFBIG
        resource.setrlimit(resource.RLIMIT_FSIZE, (order.max_bytes, order.max_bytes))
    give_up_privileges()
    segments = tuple(Segment(*row) for row in order.segments)
    facts = CaptureFacts(0, "", 0, 0, 0, 0, 0, 0, 0, 0, "")
    image = Image(order.image, order.size, segments, facts)
    scanner = Scanner(image, place)
    done = threading.Event()
    watcher = threading.Thread(target=_watch, args=(scanner, done))
    watcher.start()
    try:
        scan = scanner.run()
    finally:
        done.set()
        watcher.join()
    _tell(phase="name", done=0)
    heap = build_heap(scan, order.meta, values=order.values, mark_key=mark_key)
    image.close()
    total = sum(map(len, heap.columns.values()))
    written = [0]

    def progress(rows: int) -> None:
        written[0] += rows
        _tell(phase="write", done=written[0], total=total)

    with open(order.output, "wb", closefd=False) as stream:
        size = write(heap, stream, progress)
    return {
        "objects": heap.nodes,
        "references": int(scan.walk.totals()["edges"]),
        "bytes": size,
        "closure": heap.closure.to_dict(),
        "totals": dict(heap.totals),
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10,
    }


def main() -> int:
    """Read the order, carry it out, say how it went."""
    try:
        order = msgspec.json.decode(sys.stdin.buffer.readline(), type=Order)
        _tell(result=work(order))
    except (ImplausibleMemory, MemoryReadError) as error:
        _tell(error="image", message=error.message)
    except ParkscopeError as error:
        _tell(error=type(error).__name__, message=error.message)
    except MemoryError:
        _tell(error="memory", message="the memory for the walk could not be had")
    except BrokenPipeError:  # whoever wanted it has given it up
        os._exit(1)
    except OSError as error:
        _tell(error="write", message=error.strerror or str(error), code=error.errno or 0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
