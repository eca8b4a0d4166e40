"""The threads that help to copy while the target stands still."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests import capturing
from tests.conftest import Start
from tests.interpreters import get
from tests.processes import read_line, wait_until

TARGET = Path(__file__).parents[2] / "targets/writers.py"
PAUSE = "34 "  # the system call in which an injector that was told to hang does so

pytestmark = pytest.mark.ptrace


def writers(start: Start) -> tuple[int, Any]:
    process = start(get("system-3.11"), TARGET, ["0"], stdin=subprocess.PIPE, ready=True)
    return process.pid, json.loads(read_line(process))


@pytest.mark.parametrize("engine", ["stop-and-copy", "precopy"])
def test_one_cpu_is_enough(start: Start, engine: str) -> None:
    """Where no CPU is free for helpers, one hand does it all."""
    pid, said = writers(start)
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        for _ in range(3):
            with capturing.take(pid, engine) as image:
                assert capturing.contradictions(image, said) == []
    finally:
        os.sched_setaffinity(0, allowed)
    assert capturing.is_running(pid)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may go first")
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="no CPU for a helper")
def test_helpers_stand_behind_the_target_when_they_are_done(start: Start) -> None:
    """The last thread to exit gives a gigabyte back: before everybody it would stop a CPU."""
    pid, _ = writers(start)
    before = capturing.injectors()
    tracer = os.fork()
    if not tracer:
        os.environ["PARKSCOPE_FREEZE_FAULT"] = "h@unwatched"
        capturing.take(pid, "precopy")

    def hanging() -> list[int]:
        """All threads of the worker, once it hangs behind its last stop."""
        for injector in capturing.injectors() - before:
            place = Path(f"/proc/{injector}")
            with suppress(FileNotFoundError):  # somebody else's, and over
                if (place / "syscall").read_text().startswith(PAUSE):
                    return [int(task.name) for task in (place / "task").iterdir()]
        return []

    try:
        threads = wait_until(hanging, "the injector hangs", 20)
        assert len(threads) > 1
        assert {os.sched_getscheduler(tid) & ~os.SCHED_RESET_ON_FORK for tid in threads} == {
            os.SCHED_OTHER
        }
        assert {os.getpriority(os.PRIO_PROCESS, tid) for tid in threads} == {10}
    finally:
        for one in {tracer, *(capturing.injectors() - before)}:
            os.kill(one, signal.SIGKILL)
        os.waitpid(tracer, 0)
    wait_until(lambda: capturing.is_running(pid), "it runs on")
