"""What a scenario itself knows of its waits, written down as it happens.

One JSON object per line and wait of 50 ms or more, in a file opened with O_APPEND:

    {"tid": 12, "thread": "worker", "kind": "lock", "start_ns": 1, "end_ns": 2,
     "what": "lock A", "idle": false, "contended": false, "wake_ns": null,
     "function": "work", "file": "deadlock.py", "line": 20, "holder": 13, "ready_ns": 0}

Times are CLOCK_MONOTONIC, taken right before the call and right after its return.
``end_ns`` is null for a wait that never ends; that line is written when it begins.
``wake_ns`` is when the cause of the wait was over, where that is known: what follows
is the way back to the GIL. ``contended`` says that other threads computed meanwhile.
``ready_ns``: how long the thread itself stood ready for a CPU meanwhile, as the kernel
counts it (proc(5), schedstat): it neither ran nor waited for anything else then.
``line`` is that of the ``with`` (or of ``for_ever``): the call that blocks comes next.
``holder`` is the native id of the thread that has what is waited for, as the program
itself knows for sure. Both are null where it does not.
"""

from __future__ import annotations

import argparse
import ctypes
import io
import json
import os
import sys
import threading
import time
from contextlib import contextmanager
from typing import Any, Callable, Iterator

SHORTEST_NS = 50 * 1000 * 1000
"""Shorter waits are not written."""

LENGTHS = (0.15, 0.205, 0.25, 0.5, 1.2)
"""Seconds: below the usual threshold of 200 ms, just above, well above."""

now_ns = time.monotonic_ns


class Ready:
    """How long the calling thread has stood ready for a CPU in its life, in ns.

    Read by ``ctypes.PyDLL``, which keeps the GIL: to ask must not make the thread lose it.
    ``proc``: descriptor of a /proc that knows this process, where it is not at its place.
    """

    def __init__(self, proc: int | None = None) -> None:
        self._proc = proc
        self._place = f"{'/proc/' if proc is None else ''}{os.getpid()}/task"
        self._own = threading.local()
        self._buffer = ctypes.create_string_buffer(128)
        self._pread = ctypes.PyDLL(None).pread

    def ns(self) -> int:
        """Now; 0 where the kernel does not say."""
        try:
            if not hasattr(self._own, "file"):
                # As long as the thread lives; the thread-local closes it.
                self._own.file = io.FileIO(
                    f"{self._place}/{threading.get_native_id()}/schedstat", opener=self._open
                )
            size = self._pread(self._own.file.fileno(), self._buffer, 127, 0)
            return int(self._buffer.raw[: max(0, size)].split()[1])
        except (OSError, IndexError):
            return 0

    def _open(self, path: str, flags: int) -> int:
        return os.open(path, flags, dir_fd=self._proc)


Place = Any  # (function, file, line), or None where it is not known


def place_of(frame: Any) -> Place:
    """Where a frame is."""
    code = frame.f_code
    return code.co_name, os.path.basename(code.co_filename), frame.f_lineno


class Wait:
    """``with`` it around exactly one blocking call."""

    def __init__(
        self,
        log: Log,
        kind: str,
        what: str,
        asked: float | None = None,
        holder: int | None = None,
    ) -> None:
        self._log = log
        self._holder = holder
        self._place: Place = None
        self._kind = kind
        self._what = what
        self._asked_ns: int | None = None if asked is None else int(asked * 1e9)
        self._contended = False
        self._start_ns = self._ready_ns = 0

    def __enter__(self) -> None:
        self._place = place_of(sys._getframe(1))
        self._ready_ns = self._log.ready_ns()
        self._contended = self._log.computing > 0
        self._start_ns = self._log.mark()

    def __exit__(self, *_error: object) -> None:
        end_ns = now_ns()
        self._log.covered(end_ns)
        ready_ns = self._log.ready_ns() - self._ready_ns
        if end_ns - self._start_ns >= SHORTEST_NS:
            wake_ns = None if self._asked_ns is None else self._start_ns + self._asked_ns
            contended = self._contended or self._log.computing > 0
            self._log.write(
                kind=self._kind,
                what=self._what,
                start_ns=self._start_ns,
                end_ns=end_ns,
                wake_ns=wake_ns,
                contended=contended,
                place=self._place,
                holder=self._holder,
                ready_ns=ready_ns,
            )


class Log:
    """The truth of one process. Without a path it says nothing and costs little."""

    def __init__(self, path: str | None, proc: int | None = None) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._fd = None if path is None else os.open(path, flags, 0o600)
        self.computing = 0
        self._ready = None if path is None else Ready(proc)
        self._marks = threading.local()

    def ready_ns(self) -> int:
        """See ``Ready``; 0 where nothing is written."""
        if self._ready is None:
            return 0
        with self._own_wait():
            self._marks.ready_ns = self._ready.ns()
        return int(self._marks.ready_ns)

    def without_gaps(self) -> None:
        """From now on the calling thread does nothing that takes long but in a logged wait.

        So what takes long between two of them was a wait for the GIL, which it may lose at
        any line (it has to when it is preempted there for a switch interval): a line, too.
        """
        self.ready_ns()
        self._marks.ns = now_ns()

    def covered(self, now_ns: int) -> None:
        """What the calling thread did until ``now_ns`` is in the log, or will be."""
        if hasattr(self._marks, "ns"):
            self._marks.ns = now_ns

    def mark(self) -> int:
        """The time, and a line if it was long since the last mark; see ``without_gaps``.

        Time in which the thread stood ready for a CPU is none in which it waited.
        """
        end_ns = now_ns()
        start_ns = getattr(self._marks, "ns", end_ns)
        self.covered(end_ns)
        if end_ns - start_ns < SHORTEST_NS or self._ready is None:
            return end_ns
        ready_ns = self._ready.ns() - self._marks.ready_ns
        if end_ns - start_ns - ready_ns >= SHORTEST_NS:
            self.write(
                kind="gil",
                what="the GIL, between two lines",
                start_ns=start_ns,
                end_ns=end_ns,
                contended=True,
                ready_ns=ready_ns,
            )
        return self.mark()

    @contextmanager
    def _own_wait(self) -> Iterator[None]:
        """The logger's own system calls let go of the GIL, and may have to wait for it."""
        start_ns = self.mark()
        yield
        end_ns = now_ns()
        self.covered(end_ns)
        if self.computing and end_ns - start_ns >= SHORTEST_NS:
            self.write(
                kind="gil", what="the log's", start_ns=start_ns, end_ns=end_ns, contended=True
            )

    def wait(
        self, kind: str, what: str, asked: float | None = None, holder: int | None = None
    ) -> Wait:
        """A wait of the calling thread, as a context manager.

        ``asked``: after so many seconds the cause is over (a sleep, a time limit).
        ``holder``: native id of the thread that has what is waited for.
        """
        return Wait(self, kind, what, asked, holder)

    def for_ever(
        self,
        kind: str,
        what: str,
        idle: bool = False,
        thread: threading.Thread | None = None,
        holder: int | None = None,
    ) -> None:
        """Say that a wait begins now that has no end (``thread``: whose, if not mine)."""
        self.write(
            kind=kind,
            what=what,
            start_ns=now_ns(),
            end_ns=None,
            idle=idle,
            thread=thread,
            place=None if idle or thread is not None else place_of(sys._getframe(1)),
            holder=holder,
        )

    def write(  # noqa: PLR0913 - one argument per key of a line
        self,
        *,
        kind: str,
        what: str,
        start_ns: int,
        end_ns: int | None,
        idle: bool = False,
        contended: bool = False,
        wake_ns: int | None = None,
        thread: threading.Thread | None = None,
        place: Place = None,
        holder: int | None = None,
        ready_ns: int = 0,
    ) -> None:
        """One line, in one write: it is there even if the process is killed next."""
        if self._fd is None:
            return
        thread = thread or threading.current_thread()
        entry = {
            "tid": thread.native_id,
            "thread": thread.name,
            "kind": kind,
            "start_ns": start_ns,
            "end_ns": end_ns,
            "what": what,
            "idle": idle,
            "contended": contended,
            "wake_ns": wake_ns,
            "function": None if place is None else place[0],
            "file": None if place is None else place[1],
            "line": None if place is None else place[2],
            "holder": holder,
            "ready_ns": ready_ns,
        }
        with self._own_wait():
            os.write(self._fd, (json.dumps(entry) + "\n").encode())


class Computing:
    """``with`` it: a thread computes in Python, so that every wake-up waits for the GIL."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._stop = False
        self._thread = threading.Thread(target=self._compute, name="computing", daemon=True)

    def _compute(self) -> None:
        while not self._stop:
            sum(range(100))

    def __enter__(self) -> None:
        self._log.computing += 1
        self._thread.start()

    def __exit__(self, *_error: object) -> None:
        self._stop = True
        with self._log.wait("lock", "join of the computing thread"):
            self._thread.join()
        self._log.computing -= 1


class Clock:
    """How long the scenario still runs."""

    def __init__(self, seconds: float) -> None:
        self.end_ns = now_ns() + int(seconds * 1e9)

    def left(self) -> float:
        """Seconds, never negative."""
        return max(0.0, (self.end_ns - now_ns()) / 1e9)

    def lengths(self) -> Iterator[tuple[float, int]]:
        """``LENGTHS`` over and over, only those that still fit: (length, round)."""
        turn = 0
        while True:
            for length in LENGTHS:
                if self.left() < length:
                    return
                yield length, turn
            turn += 1


def join(log: Log, threads: list[threading.Thread]) -> None:
    """Wait for all threads, each wait in the log."""
    for thread in threads:
        with log.wait("lock", "join of " + thread.name, holder=thread.native_id):
            thread.join()


def start(*targets: Any) -> list[threading.Thread]:
    """Start a thread per (name, function, arguments...)."""
    threads = [
        threading.Thread(target=function, args=arguments, name=name, daemon=True)
        for name, function, *arguments in targets
    ]
    for thread in threads:
        thread.start()
    return threads


def main(run: Callable[[Log, Clock], None], seconds: float) -> None:
    """The command line of every scenario: ``run(log, clock)`` is the scenario itself."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--log", metavar="FILE", help="write the truth to it")
    parser.add_argument("--seconds", type=float, default=seconds)
    parser.add_argument(
        "--start-after-stdin",
        action="store_true",
        help="begin when a line comes on stdin, so that a tracer can attach first",
    )
    parser.add_argument(
        "--proc", type=int, metavar="FD", help="descriptor of /proc, where none is mounted"
    )
    options = parser.parse_args()
    log = Log(options.log, options.proc)
    print("ready", flush=True)
    if options.start_after_stdin:
        with log.wait("io", "stdin"):
            sys.stdin.readline()
    run(log, Clock(options.seconds))
