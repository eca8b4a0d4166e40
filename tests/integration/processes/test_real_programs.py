"""Programs that were not written here: the one line says what is really the matter."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from tests.observe import Attached, attached
from tests.processes import read_line, started, wait_ready, wait_until
from tracer.human import Style, line
from tracer.session import SessionOptions

Start = Callable[..., subprocess.Popen[bytes]]
TARGETS = Path(__file__).parents[2] / "targets"

BACKENDS = pytest.mark.parametrize(
    "backend",
    [
        pytest.param("proc", marks=pytest.mark.ptrace),
        pytest.param("bcc", marks=pytest.mark.kernel),
    ],
)


@pytest.fixture
def silent_service() -> Iterator[int]:
    """The port of a service that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=16) as listening:
        yield listening.getsockname()[1]


def diagnosis(session: Attached, thread: str, seconds: float = 10) -> str:
    """The latest line about a long park of the thread so named, its resource named if it can be."""

    def said() -> str | None:
        events = [
            event for event in list(session.sink.events)
            if event.event in ("park_long", "deadlock")
            and re.fullmatch(thread, event.thread_name or event.event)
        ]  # fmt: skip
        named = {
            event.data["park_id"]: event.data["resource"]
            for event in list(session.sink.events)
            if event.event == "resource_named"
        }
        for event in events:
            resource = named.get(event.data.get("park_id"), event.data.get("resource"))
            if event.event == "deadlock" or (resource and resource["name"]):
                data = {**event.data, "resource": resource}
                return line(replace(event, data=data), Style(idle=True))
        return None

    found = wait_until(said, f"a named diagnosis of {thread}", seconds)
    assert isinstance(found, str)
    return found


def _get(address: Path, path: str) -> bytes:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(address))
        client.sendall(f"GET {path} HTTP/1.0\r\nHost: test\r\n\r\n".encode())
        answer = b""
        while piece := client.recv(4096):
            answer += piece
    return answer


def _ask(address: Path, path: str) -> None:
    """The same for an answer that will not come."""
    with suppress(OSError):
        _get(address, path)


@contextmanager
def flask_under_gunicorn(directory: Path) -> Iterator[tuple[int, Path]]:
    """The worker's PID and where it answers."""
    address = directory / "gunicorn.sock"
    argv = [
        sys.executable, "-m", "gunicorn", "-k", "gthread", "-w", "1", "--threads", "6",
        "-b", f"unix:{address}", "web_pool_app:app",
    ]  # fmt: skip
    process = subprocess.Popen(
        argv, cwd=TARGETS, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip

    def answers() -> bool:
        with suppress(OSError):
            return b"ok" in _get(address, "/")
        return False

    with started(process):
        wait_until(answers, "gunicorn answers", 30)
        (worker,) = psutil.Process(process.pid).children()
        yield worker.pid, address


@pytest.mark.slow
@BACKENDS
def test_an_exhausted_connection_pool(backend: str, tmp_path: Path, silent_service: int) -> None:
    """Two requests keep both connections; the third one waits in the pool, not in the database."""
    paths = [f"/report/{silent_service}", f"/report/{silent_service}", "/users"]
    with flask_under_gunicorn(tmp_path) as (worker, address):
        requests = [threading.Thread(target=_ask, args=(address, path)) for path in paths]
        with attached(SessionOptions(pids=(worker,), backend=backend)) as session:
            for request in requests[:2]:
                request.start()
            wait_until(
                lambda: [
                    e for e in list(session.sink.events)
                    if e.event == "park_long" and "report" in str(e.data["stack"])
                ][1:],
                "both reports waiting",
            )  # fmt: skip
            requests[2].start()
            wait_until(
                lambda: any("users" in str(e.data.get("stack")) for e in list(session.sink.events)),
                "the third request waiting",
            )
            said = diagnosis(session, "ThreadPoolExecutor.*")
    for request in requests:
        request.join(10)
    assert "waits" in said
    assert "Condition" in said
    assert "pool" in said
    assert "QueuePool._do_get" in said
    assert "users" in said


@BACKENDS
def test_tasks_of_a_pool_that_wait_for_one_another(backend: str, start: Start) -> None:
    argv = [sys.executable, str(TARGETS / "deadlocks.py"), "pool"]
    process = start(argv, ready=True)
    tids = json.loads(read_line(process))["tids"]
    with attached(SessionOptions(pids=(process.pid,), backend=backend)) as session:
        said = diagnosis(session, "deadlock")
    assert said.startswith(f"DEADLOCK of {len(tids)} threads in {process.pid}")
    assert "no thread is left that could end it" in said
    assert "ThreadPoolExecutor-0_0 waits at" in said
    assert "ThreadPoolExecutor-0_1 waits at" in said
    assert "outer for Future" in said


@BACKENDS
def test_a_convoy_behind_a_logging_handler(backend: str, start: Start) -> None:
    argv = [sys.executable, str(TARGETS / "convoys.py"), "logging"]
    process = start(argv, stdin=subprocess.PIPE)
    wait_ready(process, 30)
    with attached(SessionOptions(pids=(process.pid,), backend=backend)) as session:
        _begin(process)
        said = diagnosis(session, r"logger-\d")
    assert "RLock" in said
    assert "lock, held by writer, which is in write on fd" in said
    assert "StreamHandler" in said
    assert "chatty" in said


@BACKENDS
def test_a_request_under_a_module_lock(backend: str, start: Start, silent_service: int) -> None:
    argv = [sys.executable, str(TARGETS / "convoys.py"), "requests", str(silent_service)]
    process = start(argv, stdin=subprocess.PIPE)
    wait_ready(process, 30)
    with attached(SessionOptions(pids=(process.pid,), backend=backend)) as session:
        _begin(process)
        said = diagnosis(session, r"lookup-\d")
    assert "Lock __main__.LOCK, held by refresher, which is in " in said
    assert re.search(r"in (poll|recvfrom on fd \d+) at socket\.py:\d+ SocketIO\.readinto", said)
    assert "refresh" in said
    assert "lookup" in said


def _begin(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.write(b"go\n")
    process.stdin.flush()
