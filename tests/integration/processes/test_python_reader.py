"""Names, stacks and GILs read from outside, against what the target and the kernel say."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.interpreters import Interpreter, get, matrix
from tests.processes import read_line, wait_until
from tracer.context import TargetContext
from tracer.pymem import PythonReader
from tracer.target import inspect

pytestmark = pytest.mark.ptrace

Start = Callable[..., subprocess.Popen[bytes]]
TARGETS = Path(__file__).parents[2] / "targets"
FUTEX = 202


def told(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """What the target says of itself, thread ids as numbers."""
    truth: dict[str, Any] = json.loads(read_line(process, 30))
    for key in ("names", "frames"):
        truth[key] = {int(tid): value for tid, value in truth[key].items()}
    return truth


def stacks(reader: PythonReader, tids: list[int]) -> dict[int, list[list[object]]]:
    """Whole stacks in the target's own form; torn ones fail the test."""
    found = reader.stacks(tids, 100)
    assert not [stack for stack in found.values() if stack.torn]
    return {
        tid: [[frame.module, frame.function, frame.file, frame.line] for frame in stack.frames]
        for tid, stack in found.items()
    }


@matrix()
def test_names_and_whole_stacks_are_the_targets_own(interpreter: Interpreter, start: Start) -> None:
    truth = told(start(interpreter, TARGETS / "threads_and_names.py", ["25"]))
    reader = PythonReader(inspect(truth["pid"]))
    assert reader.threads().keys() == truth["names"].keys()
    assert reader.names() == truth["names"]
    assert {tid: reader.name(tid) for tid in truth["names"]} == truth["names"]
    assert stacks(reader, list(truth["frames"])) == truth["frames"]
    assert stacks(reader, list(truth["frames"])) == truth["frames"]  # now from caches


@matrix()
def test_a_limit_gives_the_innermost_frames(interpreter: Interpreter, start: Start) -> None:
    truth = told(start(interpreter, TARGETS / "threads_and_names.py", ["4"]))
    reader = PythonReader(inspect(truth["pid"]))
    for tid, frames in truth["frames"].items():
        found = reader.stack(tid, 3)
        assert found is not None
        assert [frame.function for frame in found[0]] == [frame[1] for frame in frames[:3]]
        assert not found[1]
        stack = reader.stacks([tid], 3)[tid]
        assert stack.truncated


@matrix()
def test_a_forked_child_is_read_as_itself(interpreter: Interpreter, start: Start) -> None:
    truth = told(start(interpreter, TARGETS / "threads_and_names.py", ["3", "fork"]))
    reader = PythonReader(inspect(truth["pid"]))
    assert reader.names() == {truth["pid"]: "MainThread"}
    assert reader.stack(truth["pid"], 10) is not None


@matrix()
def test_threads_of_sub_interpreters_have_names(interpreter: Interpreter, start: Start) -> None:
    if interpreter.version < (3, 12):
        pytest.skip("threads in sub-interpreters came with 3.12")
    truth = told(start(interpreter, TARGETS / "threads_and_names.py", ["1", "sub"]))
    reader = PythonReader(inspect(truth["pid"]))

    def both_run() -> bool:
        return sorted(reader.names().values()).count("inside") == 2

    wait_until(both_run, "two threads inside")
    assert list(reader.names().values()).count("outside") == 2
    assert len(reader.gil_ranges()) == 3
    inside = next(tid for tid, name in reader.names().items() if name == "inside")
    found = reader.stack(inside, 8)
    assert found is not None
    assert [frame.function for frame in found[0]][:1] == ["Thread.run"]


def futex_address(pid: int, tid: str) -> int | None:
    """The futex that a thread waits on, from the kernel; None when it waits on none."""
    try:
        words = Path(f"/proc/{pid}/task/{tid}/syscall").read_text().split()
    except OSError:
        return None
    return int(words[1], 16) if words[0] == str(FUTEX) else None


@pytest.mark.parametrize("arguments", [[], ["sub"]], ids=["one GIL", "three GILs"])
@matrix()
def test_threads_that_want_the_gil_wait_inside_its_range(
    interpreter: Interpreter, start: Start, arguments: list[str]
) -> None:
    if arguments and interpreter.version < (3, 12):
        pytest.skip("GILs of their own came with 3.12")
    process = start(interpreter, TARGETS / "wants_the_gil.py", arguments, ready=True)
    reader = PythonReader(inspect(process.pid))
    wanted = 3 if arguments else 1
    wait_until(lambda: len(reader.threads()) >= 3 * wanted + 1, "all threads")
    ranges, conditions = reader.gil_ranges(), reader.gil_conditions()
    assert len(ranges) == len(conditions) == wanted
    seen: dict[int, set[int]] = {}

    def waits_seen_in_every_gil() -> bool:
        for tid in os.listdir(f"/proc/{process.pid}/task"):
            address = futex_address(process.pid, tid)
            if address is None or int(tid) == process.pid:
                continue
            hits = [at for at, (low, high) in enumerate(ranges) if low <= address < high]
            if not hits:  # at most a thread that starts its sub-interpreter's threads
                continue
            seen.setdefault(hits[0], set()).add(address - conditions[hits[0]])
        # Besides the condition (48 bytes, pthread_cond_t of x86-64) there are mutexes.
        on_condition = [any(0 <= at < 48 for at in offsets) for offsets in seen.values()]
        return on_condition == [True] * wanted

    wait_until(waits_seen_in_every_gil, "threads waiting on every GIL's condition", 20)

    def main_waits_elsewhere() -> bool:
        address = futex_address(process.pid, str(process.pid))
        return address is not None and not any(low <= address < high for low, high in ranges)

    wait_until(main_waits_elsewhere, "the main thread in its own wait")


@matrix("system-3.11", "pyenv-3.12", "chroot-3.14")
def test_stacks_of_running_threads_are_possible_ones_or_torn(
    interpreter: Interpreter, start: Start
) -> None:
    process = start(interpreter, TARGETS / "changing_stacks.py", ready=True)
    reader = PythonReader(inspect(process.pid))
    whole = 0
    for _ in range(400):
        for stack in reader.stacks(reader.threads(), 64).values():
            names = [frame.function for frame in stack.frames]
            if stack.torn or not {"odd", "even"} & set(names):
                continue
            whole += 1
            ladder = [name for name in names if name in ("odd", "even")]
            assert all(a != b for a, b in pairwise(ladder)), names
            assert all(frame.line for frame in stack.frames), stack.frames
    assert whole > 20


@matrix("system-3.11", "pyenv-3.12", "chroot-3.15")
def test_threads_that_stay_are_named_while_others_come_and_go(
    interpreter: Interpreter, start: Start
) -> None:
    process = start(interpreter, TARGETS / "threads_come_and_go.py")
    stay = dict(word.split("=") for word in read_line(process).split())
    context = TargetContext([inspect(process.pid)])
    tids = [int(tid) for tid in stay]

    def all_read() -> bool:
        described = [context.describe(process.pid, tid, 0) for tid in tids]
        return [one.thread_name for one in described] == list(stay.values())

    wait_until(all_read, "every name", 10)
    for _ in range(10):
        for tid in tids:
            described = context.describe(process.pid, tid, 0)
            assert described.thread_name == stay[str(tid)]
            assert described.python is True
            assert described.frames is not None
            assert [frame.function for frame in described.frames][:2] == [
                "Condition.wait",
                "Event.wait",
            ]
    for task in os.listdir(f"/proc/{process.pid}/task"):  # those that go get no wrong name
        name = context.thread_name(process.pid, int(task)) or ""
        assert name.startswith("stays") == (task in stay)


def test_a_target_that_ends_gives_unknown_and_no_error(start: Start) -> None:
    process = start(get("system-3.11"), TARGETS / "threads_and_names.py", ["2"])
    truth = told(process)
    context = TargetContext([inspect(process.pid)])
    tid = next(iter(truth["frames"]))
    before = context.describe(process.pid, tid, 0)
    assert before.python is True
    assert before.frames is not None
    assert before.frames[0].function == truth["frames"][tid][0][1]
    process.kill()
    process.wait()
    after = context.describe(process.pid, tid, 0)
    assert (after.python, after.frames, after.thread_name) == (None, None, None)
    assert context.thread_name(process.pid, tid) is None


def test_a_native_thread_is_none_of_pythons(start: Start) -> None:
    process = start(
        ["/usr/bin/python3", "-c", NATIVE_THREAD], stderr=subprocess.DEVNULL, ready=True
    )
    context = TargetContext([inspect(process.pid)])
    others = {int(tid) for tid in os.listdir(f"/proc/{process.pid}/task")} - {process.pid}
    described = [context.describe(process.pid, tid, 0) for tid in others]
    assert [(one.python, one.frames) for one in described] == [(False, ())]
    assert context.describe(process.pid, process.pid, 0).python is True
    assert context.describe(process.pid, 1, 0).python is None  # no thread of the process


NATIVE_THREAD = """
import ctypes
libc = ctypes.CDLL(None)
thread = ctypes.c_ulong()
pause = ctypes.cast(libc.pause, ctypes.c_void_p)
assert libc.pthread_create(ctypes.byref(thread), None, pause, None) == 0
print("ready", flush=True)
libc.pause()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root")
@matrix("system-3.11", "pyenv-3.13")
def test_a_target_in_other_pid_and_mount_namespaces(interpreter: Interpreter, start: Start) -> None:
    script = str(TARGETS / "threads_and_names.py")
    argv = ["unshare", "--pid", "--mount", "--fork", *interpreter.argv, script, "3"]
    process = start(argv)
    truth = told(process)
    (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    pid = int(child)
    assert truth["pid"] == 1
    reader = PythonReader(inspect(pid))
    here = {int(tid) for tid in os.listdir(f"/proc/{pid}/task")}
    assert reader.threads().keys() == here
    names = reader.names()
    assert names[pid] == "MainThread"
    assert sorted(names.values()) == sorted(truth["names"].values())
    inner = {
        tid: int(Path(f"/proc/{pid}/task/{tid}/status").read_text().split("NSpid:")[1].split()[1])
        for tid in here
    }
    assert {inner[tid]: name for tid, name in names.items()} == truth["names"]


def test_reading_does_not_stop_the_target(start: Start) -> None:
    process = start(get("system-3.11"), TARGETS / "wants_the_gil.py", ready=True)
    reader = PythonReader(inspect(process.pid))
    for _ in range(50):
        reader.names()
        status = Path(f"/proc/{process.pid}/status").read_text()
        assert "TracerPid:\t0" in status
        assert "T (stopped)" not in status
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == -signal.SIGTERM


@matrix()
def test_a_gil_counts_its_turns(interpreter: Interpreter, start: Start) -> None:
    process = start(
        interpreter, TARGETS / "writers.py", ["0"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert read_line(process) == "ready"
    reader = PythonReader(inspect(process.pid))

    def turn() -> int:
        blame = reader.blame(process.pid, "gil", 0)
        return 0 if blame is None else blame.turn

    first = wait_until(turn, "a first turn")
    wait_until(lambda: turn() > first + 10, "the GIL changes hands")
    os.kill(process.pid, signal.SIGSTOP)
    wait_until(lambda: turn() == turn(), "it stands still")
    assert turn() < first + 100_000_000, "a count, and no address"
