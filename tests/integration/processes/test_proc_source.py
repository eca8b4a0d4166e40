"""The proc backend on live processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from probes.errors import PermissionDenied
from probes.wire import PAYLOAD, RECORD, Flag, Kind
from tests.conftest import Start
from tests.processes import read_line, wait_until
from tracer.backends import Options, TargetPlan, proc_process
from tracer.backends.proc import ProcSource, available
from tracer.backends.proc_process import WaitFile
from tracer.target import inspect

pytestmark = pytest.mark.ptrace
POLL_NS = 50_000_000

# Each line on stdin is executed; the answer is a line.
INTERACTIVE = """
import os, sys, threading, time
print("ready", flush=True)
for line in sys.stdin:
    exec(line)
    print("done", flush=True)
"""


class Watched:
    """A source and what it has said so far."""

    def __init__(self, source: ProcSource) -> None:
        self.source = source
        self.done = False
        self._records = [np.empty(0, RECORD)]

    def poll(self) -> None:
        batch = self.source.poll(POLL_NS)
        self._records.append(np.frombuffer(batch.raw, RECORD))
        self.done = batch.done

    def of(self, kind: Kind) -> npt.NDArray[Any]:
        records = np.concatenate(self._records)
        chosen: npt.NDArray[Any] = records[records["kind"] == kind].view(PAYLOAD[kind])
        return chosen

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        def polled() -> Any:
            self.poll()
            return condition()

        return wait_until(polled, what)


def interactive(start: Start) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-c", INTERACTIVE]
    return start(argv, stdin=subprocess.PIPE, ready=True)


def do(target: subprocess.Popen[bytes], line: str) -> None:
    assert target.stdin is not None
    target.stdin.write(line.encode() + b"\n")
    target.stdin.flush()


def watch(*pids: int, **options: Any) -> Watched:
    plans = [TargetPlan(inspect(pid)) for pid in pids]
    return Watched(ProcSource(plans, Options(**options)))


def test_it_works_here() -> None:
    assert available() is None


def test_a_sleep_from_before_is_marked_and_its_end_is_told(start: Start) -> None:
    target = interactive(start)
    watched = watch(target.pid)
    with closing(watched.source):
        watched.until(lambda: len(watched.of(Kind.THREAD_STATE)), "the first state")
        state = watched.of(Kind.THREAD_STATE)[0]
        assert state["tid"] == target.pid
        assert state["syscall"] == 0  # read
        assert state["arg0"] == 0  # of stdin
        assert state["flags"] & Flag.BEFORE_ATTACH
        assert state["flags"] & Flag.COARSE
        do(target, "pass")
        watched.until(lambda: len(watched.of(Kind.WAKE)), "the wake-up")
        assert watched.of(Kind.WAKE)[0]["since_ns"] == state["since_ns"]


def test_threads_that_come_and_go_are_told(start: Start) -> None:
    target = interactive(start)
    watched = watch(target.pid)
    with closing(watched.source):
        do(target, "go = threading.Event(); t = threading.Thread(target=go.wait); t.start()")
        watched.until(lambda: len(watched.of(Kind.THREAD_START)), "the start")
        tid = watched.of(Kind.THREAD_START)[0]["tid"]
        watched.until(lambda: tid in watched.of(Kind.THREAD_STATE)["tid"], "its wait")
        do(target, "go.set()")
        watched.until(lambda: tid in watched.of(Kind.THREAD_EXIT)["tid"], "its exit")
        assert target.pid not in watched.of(Kind.THREAD_EXIT)["tid"]


@pytest.mark.parametrize("how", ["exit", "kill"])
def test_the_end_of_the_target_ends_the_source(start: Start, how: str) -> None:
    target = interactive(start)
    watched = watch(target.pid)
    with closing(watched.source):
        if how == "exit":
            do(target, "os._exit(3)")
        else:
            os.kill(target.pid, signal.SIGKILL)
        watched.until(lambda: watched.done, "the end")
        (exited,) = watched.of(Kind.PROC_EXIT)
        assert exited["pid"] == target.pid
        assert exited["exit_code"] == (3 << 8 if how == "exit" else signal.SIGKILL)
        watched.poll()
        assert watched.done


def test_another_program_in_the_process_is_an_exec(start: Start) -> None:
    target = interactive(start)
    watched = watch(target.pid)
    with closing(watched.source):
        do(
            target,
            "os.execv(sys.executable, [sys.executable, '-c', 'import time; time.sleep(60)'])",
        )
        watched.until(lambda: len(watched.of(Kind.PROC_EXEC)), "the exec")
        assert not watched.done


def test_a_child_is_followed_when_asked_for(start: Start) -> None:
    target = interactive(start)
    watched = watch(target.pid, follow=True)
    with closing(watched.source):
        do(target, "pid = os.fork() or time.sleep(60)")
        watched.until(lambda: len(watched.of(Kind.PROC_FORK)), "the fork")
        (fork,) = watched.of(Kind.PROC_FORK)
        child = fork["child_pid"]
        assert fork["pid"] == target.pid
        watched.until(lambda: child in watched.of(Kind.THREAD_STATE)["tid"], "its sleep")
        do(target, "os.kill(pid, 9); os.waitpid(pid, 0)")
        watched.until(lambda: child in watched.of(Kind.PROC_EXIT)["pid"], "its end")
        assert not watched.done


def test_wchan_tells_the_kind_where_syscall_may_not_be_read(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = interactive(start)
    monkeypatch.setattr(proc_process, "_wait_file", lambda _pid: WaitFile.WCHAN)
    watched = watch(target.pid)
    with closing(watched.source):
        do(target, "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()")
        watched.until(lambda: 230 in watched.of(Kind.THREAD_STATE)["syscall"], "the sleep")
        assert "wchan" in watched.source.info.why


def test_the_files_of_many_threads_are_closed_in_the_end(start: Start) -> None:
    before = len(os.listdir("/proc/self/fd"))
    target = interactive(start)
    do(target, "[threading.Thread(target=threading.Event().wait).start() for _ in range(300)]")
    assert read_line(target) == "done"
    held = len(os.listdir("/proc/self/fd"))
    watched = watch(target.pid)
    with closing(watched.source):
        watched.until(lambda: len(watched.of(Kind.THREAD_STATE)) >= 300, "all threads")
        assert set(watched.of(Kind.THREAD_STATE)["tid"].tolist()) >= set(
            map(int, os.listdir(f"/proc/{target.pid}/task"))
        )
    assert len(os.listdir("/proc/self/fd")) == held >= before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_somebody_elses_process_is_refused_with_a_hint() -> None:
    with pytest.raises(PermissionDenied) as refused:
        watch(1)
    assert refused.value.hint


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_another_user_is_refused_with_a_hint(start: Start) -> None:
    target = start(
        [sys.executable, "-c", "import time; print('ready', flush=True); time.sleep(60)"]
    )
    program = (
        "import os, sys; from tracer.backends.proc_process import _wait_file;"
        "from probes.errors import PermissionDenied\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try: _wait_file(int(sys.argv[1]))\n"
        "except PermissionDenied as error: print(error.hint)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program, str(target.pid)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[3],
    )
    assert "doctor" in answer.stdout
