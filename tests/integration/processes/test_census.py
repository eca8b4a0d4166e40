"""Who could act in a process, as the kernel and the process itself tell it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from collector.context import ParkedAt
from collector.wait_graph import NATIVE
from tests.processes import read_line, wait_until
from tracer import procfs
from tracer.context import TargetContext
from tracer.target import inspect

pytestmark = pytest.mark.ptrace
Start = Callable[..., subprocess.Popen[bytes]]
TARGETS = Path(__file__).parents[2] / "targets"

NATIVE_THREADS = """
import ctypes, json, sys, threading
libc = ctypes.CDLL(None)
# A native thread in sem_wait(3) without limit: no interpreter has ever heard of it.
semaphore, thread = ctypes.create_string_buffer(64), ctypes.c_ulong()
libc.sem_init(semaphore, 0, 0)
libc.pthread_create(ctypes.byref(thread), None, libc.sem_wait, semaphore)
print("ready", flush=True)
print(json.dumps({"main": threading.get_native_id()}), flush=True)
sys.stdin.readline()
"""


def test_native_threads_are_told_from_pythons(start: Start) -> None:
    process = start([sys.executable, "-c", NATIVE_THREADS], stdin=subprocess.PIPE, ready=True)
    main = json.loads(read_line(process))["main"]
    context = TargetContext([inspect(process.pid)])

    def native() -> list[int]:
        census = context.census(process.pid)
        return [] if census is None else [t for t, known in census.threads.items() if not known]

    (tid,) = wait_until(native, "the native thread")
    census = context.census(process.pid)
    assert census is not None
    assert dict(census.threads) == {main: True, tid: False}
    wait_until(lambda: procfs.futex_wait(process.pid, tid)[0], "it waits")
    assert procfs.waits_privately(process.pid, tid)
    assert not procfs.waits_privately(process.pid, main), "that one reads"
    found = context.blames(process.pid, {tid: ParkedAt("lock", 0), main: ParkedAt("io", 0)})
    assert {t: (b.resource.type, b.timed) for t, b in found.items()} == {tid: (NATIVE, False)}


@pytest.mark.parametrize(
    ("code", "handles"),
    [
        ("", False),
        ("import faulthandler; faulthandler.enable()", False),
        ("import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)", False),
        ("import signal; signal.signal(signal.SIGTERM, lambda *_: None)", True),
        ("import signal; signal.signal(signal.SIGUSR2, lambda *_: None)", True),
        ("import asyncio, sys; loop = asyncio.new_event_loop()", False),
    ],
)
def test_whether_a_handler_could_act(code: str, handles: bool, start: Start) -> None:
    program = f"import sys\n{code}\nprint('ready', flush=True)\nsys.stdin.readline()"
    process = start([sys.executable, "-c", program], stdin=subprocess.PIPE, ready=True)
    assert procfs.handles_signals(process.pid) is handles


def test_the_handlers_of_this_process() -> None:
    before = procfs.handles_signals(os.getpid())
    old = signal.signal(signal.SIGUSR2, lambda *_: None)
    try:
        assert procfs.handles_signals(os.getpid())
    finally:
        signal.signal(signal.SIGUSR2, old)
    assert procfs.handles_signals(os.getpid()) is before
