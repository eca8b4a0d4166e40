"""Idle sites against the real libraries: every thread of an idle program, and only those."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from collector.context import ThreadContext
from collector.idle import IdleRules
from probes.errors import ParkscopeError
from probes.kinds import park_kind
from tests.interpreters import Interpreter, matrix
from tests.processes import wait_until
from tracer.context import TargetContext
from tracer.target import inspect

pytestmark = pytest.mark.ptrace

Start = Callable[..., subprocess.Popen[bytes]]
TARGETS = Path(__file__).parents[2] / "targets"
RULES = IdleRules.load()


def wait_of(pid: int, tid: int) -> tuple[str, str] | None:
    """The kind of a thread's wait and a mark of this very wait, from the kernel; None: runs."""
    task = Path(f"/proc/{pid}/task/{tid}")
    try:
        words = (task / "syscall").read_text().split()
        switches = [line for line in (task / "status").read_text().splitlines() if "ctxt" in line]
    except OSError:
        return None
    if words[0] == "running":
        return None
    arguments = [int(word, 16) for word in words[1:3]]
    return park_kind(int(words[0]), arguments[0], arguments[1], gil=False), "".join(switches)


def judge(process: subprocess.Popen[bytes]) -> list[tuple[ThreadContext, str | None]]:
    """Each waiting thread of a process and its children, with the reason it is idle for.

    Threads that moved while they were looked at are left out.
    """
    judged = []
    for one in [psutil.Process(process.pid), *psutil.Process(process.pid).children(True)]:
        try:
            context = TargetContext([inspect(one.pid)])
        except ParkscopeError:
            continue
        for tid in map(int, os.listdir(f"/proc/{one.pid}/task")):
            before = wait_of(one.pid, tid)
            described = context.describe(one.pid, tid, 0)
            if before is not None and wait_of(one.pid, tid) == before:
                judged.append((described, RULES.match(before[0], described)))
    return judged


def stuck(judged: list[tuple[ThreadContext, str | None]]) -> set[str]:
    """Names of the threads that no site explains."""
    return {context.thread_name or "?" for context, reason in judged if reason is None}


@matrix()
def test_the_standard_librarys_idle_threads(interpreter: Interpreter, start: Start) -> None:
    process = start(interpreter, TARGETS / "idle_threads.py", ready=True, cwd="/")
    reasons: set[str | None] = set()

    def only_the_stuck_ones() -> bool:
        judged = judge(process)
        reasons.update(reason for _, reason in judged)
        return stuck(judged) == {"MainThread", "starved", "stuck"}

    wait_until(only_the_stuck_ones, "all but three threads idle", 20)
    assert reasons >= {
        None,
        "pool worker without work",
        "process pool manager without results",
        "process pool worker without work",
        "pool's own thread without work",
        "queue feeder with nothing to send",
        "log listener without records",
        "timer that is not due",
        "server without requests",
        "event loop without events",
        "worker waits for work at the head of its loop",
    }


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


WSGI = """
def app(environ, start_response):
    start_response("200 OK", [])
    return [b"done"]
"""
ASGI = """
async def app(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError("http only")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"done"})
"""
SERVERS = {
    "gunicorn-sync": (WSGI, ["gunicorn", "-w", "4", "-b", "127.0.0.1:{port}", "served:app"]),
    "gunicorn-threads": (
        WSGI,
        ["gunicorn", "-w", "1", "--threads", "4", "-b", "127.0.0.1:{port}", "served:app"],
    ),
    "uvicorn": (ASGI, ["uvicorn", "--port", "{port}", "served:app"]),
}


@pytest.mark.parametrize("server", SERVERS)
def test_idle_servers(server: str, start: Start, tmp_path: Path) -> None:
    source, arguments = SERVERS[server]
    pytest.importorskip(arguments[0])
    (tmp_path / "served.py").write_text(source)
    port = free_port()
    argv = [word.format(port=port) for word in arguments]
    process = start(
        [sys.executable, "-m", *argv],
        cwd=tmp_path,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )

    def answers() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=2) as answer:
                return bool(answer.read() == b"done")
        except OSError:
            return False

    wait_until(answers, "an answer", 30)
    explained: set[str | None] = set()

    def all_idle() -> bool:
        judged = judge(process)
        explained.update(reason for _, reason in judged)
        return bool(judged) and not stuck(judged)

    wait_until(all_idle, "all threads idle", 10)
    assert explained - {None}
