"""The helpers that other tests stand on: starting, waiting, killing, finding leaks."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import psutil
import pytest

from tests import interpreters, processes
from tests.conftest import Start
from tests.interpreters import Interpreter

_SAYS_READY = """
import os, sys, time
print("ready", flush=True)
print("then", *sys.argv[1:], flush=True)
with open(sys.argv[1], "w") as log:
    log.write("%d %s" % (os.getpid(), sys.version_info[:2]))
print("written", flush=True)
time.sleep(600)
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    file = tmp_path / "says_ready.py"
    file.write_text(_SAYS_READY)
    return file


@interpreters.matrix(oldest=interpreters.OLDEST)
def test_a_script_runs_as_the_interpreter_itself_and_reaches_the_scratch_directory(
    interpreter: Interpreter, scratch: Path, script: Path, start: Start
) -> None:
    log = scratch / "log"
    process = start(interpreter, script, [log], ready=True)
    assert processes.read_line(process) == f"then {interpreter.inside(log)}"
    assert processes.read_line(process) == "written"
    # Not a wrapper's pid, and its root is the interpreter's.
    assert log.read_text() == f"{process.pid} {interpreter.version[:2]}"
    assert Path(f"/proc/{process.pid}/root").samefile(interpreter.chroot or "/")


def test_a_path_outside_of_the_chroot_is_refused(tmp_path: Path) -> None:
    rooted = Interpreter("x", (), (3, 14, 0), stripped=True, chroot=tmp_path / "root")
    assert rooted.inside(tmp_path / "root/tmp/log") == "/tmp/log"
    with pytest.raises(ValueError, match="outside"):
        rooted.inside(tmp_path / "log")


def test_kill_ends_the_whole_session(start: Start) -> None:
    program = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    process = start([sys.executable, "-c", program])
    grandchild = psutil.Process(int(processes.read_line(process)))
    processes.kill(process)
    processes.wait_until(
        lambda: not grandchild.is_running() or grandchild.status() == psutil.STATUS_ZOMBIE,
        "the grandchild gone",
    )
    assert process.returncode == -9


def test_children_and_marked_find_a_running_process(start: Start) -> None:
    process = start(
        [sys.executable, "-c", "print('ready', flush=True); import time; time.sleep(600)"],
        env={**os.environ, "PARKSCOPE_TEST_MARK": "here"},
        ready=True,
    )
    assert process.pid in processes.children()
    assert processes.marked("PARKSCOPE_TEST_MARK=here") == {process.pid}
    processes.kill(process)
    assert process.pid not in processes.children()


def test_waiting_ends_with_a_reason(start: Start) -> None:
    with pytest.raises(AssertionError, match=r"not within 0\.01 s: pigs fly"):
        processes.wait_until(lambda: False, "pigs fly", timeout=0.01)
    silent = start([sys.executable, "-c", "print('half', end='')"])
    with pytest.raises(AssertionError, match="stdout ended after b'half'"):
        processes.read_line(silent)
