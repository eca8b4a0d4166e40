"""Programs that wait by design, each able to make one of its threads really wait.

The real wait is for a lock that another thread holds while it sleeps for a second, so
two parks are to be reported: one ``lock``, one ``sleep``.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from collector.events import Event
from tests.observe import Attached
from tests.processes import read_line, started, wait_ready, wait_until
from tracer.session import SessionOptions

TARGETS = Path(__file__).parent / "targets"
GUNICORN_WORKERS = 4


@dataclass(frozen=True)
class Program:
    """``stall`` makes the real wait and returns its begin and end (CLOCK_MONOTONIC ns).

    ``idle_parks`` of its threads wait for longer than the threshold, at the least.
    """

    pids: tuple[int, ...]
    stall: Callable[[], tuple[int, int]]
    idle_parks: int


def _run(
    *argv: str | Path, stdout: int = subprocess.DEVNULL, stderr: int = subprocess.DEVNULL
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, *argv],
        cwd=TARGETS,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
    )


def _get(address: Path, path: str) -> str:
    """The body of the answer to one HTTP request over a Unix socket."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(address))
        client.sendall(f"GET {path} HTTP/1.0\r\nHost: test\r\n\r\n".encode())
        answer = b""
        while piece := client.recv(4096):
            answer += piece
    return answer.partition(b"\r\n\r\n")[2].decode()


def _answers(address: Path) -> bool:
    with suppress(OSError):
        return _get(address, "/") == "ok"
    return False


def _times(text: str) -> tuple[int, int]:
    start_ns, end_ns = map(int, text.split())
    return start_ns, end_ns


def _asleep(pids: list[int]) -> bool:
    return all(psutil.Process(pid).status() == psutil.STATUS_SLEEPING for pid in pids)


@contextmanager
def gunicorn(directory: Path) -> Iterator[Program]:
    """gunicorn's master and four sync workers."""
    address = directory / "gunicorn.sock"
    workers = str(GUNICORN_WORKERS)
    argv = ("-m", "gunicorn", "-w", workers, "-b", f"unix:{address}", "web_app:wsgi")
    with started(_run(*argv)) as process:
        master = psutil.Process(process.pid)
        wait_until(lambda: _answers(address), "gunicorn answers", 20)
        wait_until(lambda: len(master.children()) >= GUNICORN_WORKERS, "all workers")
        pids = [process.pid, *(child.pid for child in master.children())]
        wait_until(lambda: _asleep(pids), "all of gunicorn waiting")
        yield Program(tuple(pids), lambda: _times(_get(address, "/stall")), GUNICORN_WORKERS)


@contextmanager
def uvicorn(directory: Path) -> Iterator[Program]:
    """One uvicorn process with asyncio's own loop, which comes round ten times a second."""
    address = directory / "uvicorn.sock"
    with started(_run("-m", "uvicorn", "--uds", address, "web_app:asgi")) as process:
        wait_until(lambda: _answers(address), "uvicorn answers", 20)
        yield Program((process.pid,), lambda: _times(_get(address, "/stall")), 0)


@contextmanager
def pool(_directory: Path) -> Iterator[Program]:
    """A pool of 200 threads."""
    with started(_run(TARGETS / "big_pool.py", stdout=subprocess.PIPE)) as process:
        wait_ready(process)

        def stall() -> tuple[int, int]:
            os.kill(process.pid, signal.SIGUSR1)
            return _times(read_line(process))

        yield Program((process.pid,), stall, 200)


PROGRAMS = {"gunicorn": gunicorn, "uvicorn": uvicorn, "pool": pool}


@dataclass(frozen=True)
class Watched:
    """What was said of a program: ``false_alarms`` while it was idle; of the real wait
    ``alarms``, and its ``start_ns`` and ``end_ns`` as the program itself knows them.
    """

    idle_parks: int
    expected_idle_parks: int
    false_alarms: list[Event]
    alarms: list[Event]
    start_ns: int
    end_ns: int


def _said(session: Attached, name: str) -> list[Event]:
    return [event for event in list(session.sink.events) if event.event == name]


def _alarms(session: Attached) -> list[Event]:
    return [event for event in _said(session, "park_long") if not event.idle]


def watch(name: str, directory: Path, backend: str, seconds: float) -> Watched:
    """Watch the program for ``seconds``, then let it really wait, watching."""
    with PROGRAMS[name](directory) as program:
        idle = Attached(
            SessionOptions(
                pids=program.pids, backend=backend, duration_ns=int(seconds * 1_000_000_000)
            )
        ).start()
        idle.finish(seconds + 10)
        stalled = Attached(SessionOptions(pids=program.pids, backend=backend)).start()
        try:
            # Until all have been looked at: a wait that ends before that stays unknown.
            wait_until(
                lambda: len(_said(stalled, "park_long")) >= program.idle_parks, "all idle parks"
            )
            start_ns, end_ns = program.stall()
            wait_until(
                lambda: any(e.kind == "lock" and not e.idle for e in _said(stalled, "park_end")),
                "the end of the real wait",
            )
        finally:
            stalled.stop()
    counters = idle.sink.counters
    return Watched(
        idle_parks=counters.idle_parks if counters else 0,
        expected_idle_parks=program.idle_parks,
        false_alarms=_alarms(idle),
        alarms=_alarms(stalled),
        start_ns=start_ns,
        end_ns=end_ns,
    )
