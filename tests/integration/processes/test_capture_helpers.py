"""The threads that help to copy while the target stands still, and what they leave to it else."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests import capturing
from tests.conftest import Start
from tests.interpreters import get
from tests.processes import read_line, wait_until

TARGET = Path(__file__).parents[2] / "targets/writers.py"
MEGABYTES = 64
PAUSE = "34 "  # the system call in which an injector that was told to hang does so

pytestmark = pytest.mark.ptrace


def writers(start: Start, megabytes: int = 0) -> tuple[int, Any]:
    process = start(get("system-3.11"), TARGET, [str(megabytes)], stdin=subprocess.PIPE, ready=True)
    return process.pid, json.loads(read_line(process))


@contextmanager
def hanging(pid: int, engine: str, step: str) -> Iterator[Path]:
    """``/proc`` of the worker of an image that hangs at that step."""
    before = capturing.injectors()
    tracer = os.fork()
    if not tracer:
        os.environ["PARKSCOPE_FREEZE_FAULT"] = f"h@{step}"
        capturing.take(pid, engine)

    def found() -> Path | None:
        for injector in capturing.injectors() - before:
            place = Path(f"/proc/{injector}")
            # Somebody else's: over, or a greater one's, which may not be looked at.
            with suppress(FileNotFoundError, PermissionError):
                if (place / "syscall").read_text().startswith(PAUSE):
                    return place
        return None

    try:
        yield wait_until(found, "the injector hangs", 20)
    finally:
        for one in {tracer, *(capturing.injectors() - before)}:
            os.kill(one, signal.SIGKILL)
        os.waitpid(tracer, 0)


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
    with hanging(pid, "precopy", "unwatched") as place:
        threads = [int(task.name) for task in (place / "task").iterdir()]
        assert len(threads) > 1
        assert {os.sched_getscheduler(tid) & ~os.SCHED_RESET_ON_FORK for tid in threads} == {
            os.SCHED_OTHER
        }
        assert {os.getpriority(os.PRIO_PROCESS, tid) for tid in threads} == {10}
    wait_until(lambda: capturing.is_running(pid), "it runs on")


@pytest.mark.parametrize(("engine", "step"), [("stop-and-copy", "ready"), ("precopy", "precopied")])
def test_the_cpu_is_given_back_all_the_time(start: Start, engine: str, step: str) -> None:
    """It works 0.2 ms on end, in which no memory gives or takes as much as 4 MiB."""
    pid, _ = writers(start, MEGABYTES)
    with hanging(pid, engine, step) as place:
        text = (place / "status").read_text()
    (slept,) = re.findall(r"^voluntary_ctxt_switches:\s*(\d+)", text, re.MULTILINE)
    assert int(slept) >= MEGABYTES // 4
    wait_until(lambda: capturing.is_running(pid), "it runs on")


def test_what_was_watched_in_steps_is_whole_again(start: Start) -> None:
    pid, _ = writers(start, MEGABYTES)
    capturing.take(pid, "precopy").close()
    maps = Path(f"/proc/{pid}/maps")
    before = maps.read_text().splitlines()
    capturing.take(pid, "precopy").close()
    assert maps.read_text().splitlines() == before
