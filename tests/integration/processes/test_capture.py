"""Memory images of live interpreters: consistent, and the target is as it was."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from probes.errors import (
    CaptureError,
    CaptureRefused,
    CaptureTimeout,
    EngineUnavailable,
    MemoryReadError,
    NotCPython,
    TargetGone,
)
from tests import capturing
from tests.conftest import Start
from tests.interpreters import Interpreter, get, matrix
from tests.processes import read_line, wait_until
from tracer.heap.capture import capture
from tracer.heap.image import load
from tracer.heap.machine import Headroom, headroom
from tracer.pymem.layout import load as load_layout
from tracer.pymem.layout import merge_debug_offsets
from tracer.pymem.memory import ProcessMemory
from tracer.pymem.runtime import RuntimeReader
from tracer.target import inspect, require_python

TARGETS = Path(__file__).parents[2] / "targets"

pytestmark = pytest.mark.ptrace


def writers(start: Start, interpreter: Interpreter, megabytes: int = 0) -> tuple[int, Any]:
    """A target with four writers: its PID and what it says of itself."""
    process = start(
        interpreter, TARGETS / "writers.py", [str(megabytes)], stdin=subprocess.PIPE, ready=True
    )
    return process.pid, json.loads(read_line(process))


@matrix()
@pytest.mark.parametrize("engine", capturing.ENGINES)
def test_the_image_is_of_one_moment(start: Start, interpreter: Interpreter, engine: str) -> None:
    pid, said = writers(start, interpreter)
    for _ in range(3):
        with capturing.take(pid, engine) as image:
            assert capturing.contradictions(image, said) == []
            assert image.facts.engine == engine
            assert image.facts.threads == 5
            assert image.facts.pause_ns > 0
    assert capturing.is_running(pid)


def test_an_image_is_saved_and_loaded(start: Start, tmp_path: Path) -> None:
    pid, said = writers(start, get("system-3.11"))
    with capturing.take(pid) as image:
        image.save(tmp_path / "one")
        facts, segments = image.facts, image.segments
        size = len(image.read(segments[0].start, 4096))
    assert size == 4096
    assert (tmp_path / "one").stat().st_mode & 0o777 == 0o600
    with load(tmp_path / "one") as again:
        assert again.facts == facts
        assert [s.start for s in again.segments] == [s.start for s in segments]
        assert capturing.contradictions(again, said) == []


@pytest.mark.parametrize("engine", capturing.ENGINES)
def test_mappings_that_come_and_go_are_those_of_the_moment(start: Start, engine: str) -> None:
    process = start(get("system-3.11"), TARGETS / "remapping.py", stdin=subprocess.PIPE, ready=True)
    slots = json.loads(read_line(process))
    checked = 0
    for _ in range(12):
        with capturing.take(process.pid, engine) as image:
            for slot in slots:
                sequence, address, size, number = struct.unpack("<4Q", image.read(slot, 32))
                if sequence % 2 or not address:
                    continue  # the moment was while it published
                pages = [image.read(address + at, 8) for at in range(0, size, 4096)]
                assert {int.from_bytes(page, "little") for page in pages} == {number}
                checked += 1
    assert checked > 12


def test_no_image_is_of_two_programs(start: Start) -> None:
    process = start(get("system-3.11"), TARGETS / "execs.py", ["5"])
    for at in range(30):
        with suppress(TargetGone, NotCPython, MemoryReadError, CaptureError):
            capturing.take(process.pid, capturing.ENGINES[at % 3]).close()
    assert process.poll() is None
    wait_until(lambda: capturing.is_running(process.pid), "it runs on")
    assert capturing.children(process.pid) == []


def test_threads_and_children_may_come_and_go(start: Start) -> None:
    process = start(
        get("system-3.11"), TARGETS / "comes_and_goes.py", stdin=subprocess.PIPE, ready=True
    )

    def seen() -> Any:
        capturing.ask(process)
        return json.loads(read_line(process))

    for at in range(30):
        capturing.take(process.pid, capturing.ENGINES[at % 3]).close()
    before = seen()
    wait_until(
        lambda: (
            (now := seen())["threads"] > before["threads"] + 20
            and now["children"] > before["children"] + 5
        ),
        "more of both",
    )
    assert seen()["wrong"] == []
    wait_until(lambda: "zombie" not in str(capturing.children(process.pid)), "no zombie stays")


class Waits:
    """tests/targets/every_wait.py, and what of it may not change."""

    def __init__(self, start: Start, interpreter: Interpreter, *arguments: str) -> None:
        self.process = start(
            interpreter, TARGETS / "every_wait.py", arguments, stdin=subprocess.PIPE, ready=True
        )
        self.pid = self.process.pid
        self.first = self.answer()
        wait_until(lambda: all(self.answer()["rounds"].values()), "every wait came round")
        self.before = capturing.counts(self.pid)

    def answer(self) -> Any:
        capturing.ask(self.process)
        return json.loads(read_line(self.process))

    def check_unharmed(self) -> None:
        """Every wait comes round again, right; all counts are what they were."""
        now = self.answer()
        wait_until(
            lambda: all(
                count > now["rounds"][name] for name, count in self.answer()["rounds"].items()
            ),
            "every wait came round again",
        )
        now = self.answer()
        assert now["wrong"] == []
        assert (now["sigchld"], now["child"], now["waited"]) == (0, None, [0, 0])
        assert now["blocked"] == self.first["blocked"]
        assert now["fds"] == self.first["fds"]
        assert now["alarms"] > self.first["alarms"]
        wait_until(lambda: capturing.is_running(self.pid), "no thread is stopped")
        assert capturing.counts(self.pid) == self.before

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert json.loads(read_line(self.process)) == {"status": 0}
        assert self.process.wait(10) == 0


@matrix()
def test_the_target_is_unharmed(start: Start, interpreter: Interpreter) -> None:
    target = Waits(start, interpreter)
    for engine in capturing.ENGINES * 2:
        capturing.take(target.pid, engine).close()
    target.check_unharmed()
    target.end()


@pytest.mark.slow
def test_the_target_is_unharmed_by_fifty_images(start: Start) -> None:
    target = Waits(start, get("system-3.11"))
    for at in range(50):
        capturing.take(target.pid, capturing.ENGINES[at % 3]).close()
    target.check_unharmed()
    target.end()


STEPS = {
    "stop-and-copy": "ready seized stopping stopped copied released",
    "clone": "ready seized stopping stopped preferred injecting injected released held copying"
    " killed reaped",
    "precopy": "seized stopping stopped injecting injected lent released watched precopied"
    " ready copied unwatched",
}
WHO = {"tracer": "t", "injector": "i", "supervisor": "s"}
EXPECTED = {"tracer": (int(signal.SIGKILL),), "injector": (1 << 8,), "supervisor": (0, 1 << 8)}
"""Wait status of the tracer: without its supervisor an injector may just get it done."""


@pytest.mark.slow
@pytest.mark.parametrize("engine", capturing.ENGINES)
@pytest.mark.parametrize("who", WHO)
def test_killed_at_every_step(start: Start, engine: str, who: str) -> None:
    target = Waits(start, get("system-3.11"))
    for step in STEPS[engine].split():
        before = capturing.injectors()
        status = capturing.sacrificed(target.pid, engine, f"{WHO[who]}@{step}")
        assert status in EXPECTED[who], step
        capturing.wait_no_injector(before)
        assert target.process.poll() is None, step
        wait_until(lambda: capturing.is_running(target.pid), f"killed at {step}, runs on")
        wait_until(
            lambda: capturing.counts(target.pid) == target.before, f"{step}: all as before", 20
        )
    target.check_unharmed()
    target.end()


def test_a_tracer_killed_in_the_window_does_no_harm(start: Start) -> None:
    target = Waits(start, get("system-3.11"))
    for fault in ("t@stepping", "s@stepping"):
        before = capturing.injectors()
        capturing.sacrificed(target.pid, "clone", fault)
        capturing.wait_no_injector(before)
    target.check_unharmed()
    target.end()


def test_the_watchdog_lets_the_target_go(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    target = Waits(start, get("system-3.11"), "spin")
    monkeypatch.setenv("PARKSCOPE_FREEZE_FAULT", "h@stopped")
    target.answer()
    with pytest.raises(CaptureTimeout):
        capturing.take(target.pid, "precopy")
    gap_ns = wait_until(lambda: (gap := target.answer()["gap_ns"]) > 90_000_000 and gap, "the gap")
    assert gap_ns < 1_000_000_000
    target.check_unharmed()


def test_a_traced_target_is_refused(start: Start) -> None:
    if not Path("/usr/bin/gdb").exists():
        pytest.skip("gdb is not installed")
    target = Waits(start, get("system-3.11"))
    wait = ["-ex", "shell echo attached; cat"]
    debugger = start(["gdb", "-p", str(target.pid), "-batch", *wait], stdin=subprocess.PIPE,
                     stderr=subprocess.DEVNULL)  # fmt: skip
    while read_line(debugger, 30) != "attached":
        pass
    with pytest.raises(CaptureRefused, match="traced already"):
        capturing.take(target.pid)
    # Killed in the middle of attaching, gdb would leave the target stopped.
    debugger.communicate(timeout=30)
    wait_until(lambda: capturing.is_running(target.pid), "gdb has gone")


def test_a_stopped_target_is_refused(start: Start) -> None:
    pid, _ = writers(start, get("system-3.11"))
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: not capturing.is_running(pid), "stopped")
    with pytest.raises(CaptureRefused, match="is stopped"):
        capturing.take(pid)
    os.kill(pid, signal.SIGCONT)


def test_nothing_is_injected_where_it_is_forbidden(start: Start) -> None:
    pid, said = writers(start, get("system-3.11"))
    with capturing.take(pid, inject=False, max_pause_ns=1_000_000_000) as image:
        assert image.facts.engine == "stop-and-copy"
        assert image.facts.window_ns == 0
        assert capturing.contradictions(image, said) == []
    with pytest.raises(EngineUnavailable, match="forbidden"):
        capturing.take(pid, "clone", inject=False)
    with pytest.raises(CaptureRefused, match="a pause of about"):
        capturing.take(pid, inject=False, max_pause_ns=1000)


@matrix()
def test_no_image_is_taken_while_garbage_is_collected(
    start: Start, interpreter: Interpreter
) -> None:
    process = start(interpreter, TARGETS / "always_collecting.py", ["3"], ready=True)
    python = require_python(inspect(process.pid))
    memory = ProcessMemory(process.pid)
    layout = merge_debug_offsets(load_layout(python.version[:2]), memory, python.runtime_address)
    at = layout["PyInterpreterState.gc"] + layout["_gc_runtime_state.collecting"]
    interpreters = RuntimeReader(memory, layout, python.runtime_address).interpreters()
    place = interpreters[0].address + at
    seen = wait_until(lambda: memory.read(place, 4) != bytes(4), "a collection is seen")
    assert seen
    for engine in capturing.ENGINES:
        with capturing.take(process.pid, engine) as image:
            assert image.read(place, 4) == bytes(4)


def test_nothing_is_injected_into_a_filtered_process(start: Start) -> None:
    process = start(get("system-3.11"), TARGETS / "filtered.py", stdin=subprocess.PIPE, ready=True)
    with capturing.take(process.pid, max_pause_ns=1_000_000_000) as image:
        assert image.facts.engine == "stop-and-copy"
    for engine in ("clone", "precopy"):
        with pytest.raises(EngineUnavailable, match="seccomp"):
            capturing.take(process.pid, engine)
    assert capturing.is_running(process.pid)


def test_what_does_not_fit_is_refused_with_figures(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid, _ = writers(start, get("system-3.11"))
    monkeypatch.setattr(
        "tracer.heap.capture.headroom", lambda _pid: Headroom(50 << 20, "the limit of a group")
    )
    with pytest.raises(
        CaptureRefused, match=r"needs \d+ MiB .* the limit of a group leaves 50 MiB"
    ):
        capturing.take(pid)


@pytest.mark.slow
def test_a_thread_that_cannot_be_stopped_is_said(start: Start) -> None:
    process = start(
        get("system-3.11"), TARGETS / "uninterruptible.py", stdin=subprocess.PIPE, ready=True
    )
    wait_until(lambda: "D" in capturing.states(process.pid), "a thread sleeps uninterruptibly")
    with pytest.raises(CaptureRefused, match="uninterruptible sleep"):
        capturing.take(process.pid, "precopy")
    assert capturing.is_running(process.pid)

    def rounds() -> int:
        capturing.ask(process)
        return int(read_line(process))

    before = rounds()
    wait_until(lambda: rounds() > before, "the loop goes on")


@pytest.fixture
def tight_group() -> Iterator[Path]:
    """A memory control group (version 1) with a limit of 100 MiB, gone afterwards."""
    group = Path("/sys/fs/cgroup/memory/parkscope-test")
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made: {error}")
    try:
        (group / "memory.limit_in_bytes").write_text(str(100 << 20))
        yield group
    finally:
        wait_until(lambda: not (group / "cgroup.procs").read_text(), "the group is empty")
        group.rmdir()


def test_the_limit_of_the_targets_group_counts(tight_group: Path, start: Start) -> None:
    pid, said = writers(start, get("system-3.11"), 60)
    (tight_group / "cgroup.procs").write_text(str(pid))
    with capturing.take(pid) as image:
        assert image.facts.engine != "clone"
        assert capturing.contradictions(image, said) == []
    # What it had before it was moved into the group does not count there: leave it less.
    (tight_group / "memory.limit_in_bytes").write_text(str(30 << 20))
    assert headroom(pid).size_bytes <= 30 << 20
    with pytest.raises(CaptureRefused, match=r"clone needs .* copies on write.*parkscope-test"):
        capturing.take(pid, "clone")


def test_what_is_no_python_is_refused(start: Start) -> None:
    process = start(["sh", "-c", "echo ready; exec sleep 60"], ready=True)
    with pytest.raises(NotCPython):
        capturing.take(process.pid)
    with pytest.raises(CaptureRefused, match="itself"):
        capturing.take(os.getpid())


def test_a_target_that_has_ended_is_gone(start: Start) -> None:
    process = start(get("system-3.11"), TARGETS / "writers.py", stdin=subprocess.PIPE, ready=True)
    target = inspect(process.pid)
    process.kill()
    process.wait()
    with pytest.raises((TargetGone, MemoryReadError)):
        capture(target)


@pytest.mark.skipif(os.geteuid() != 0, reason="a PID namespace needs root")
def test_a_target_in_a_namespace_of_its_own(start: Start) -> None:
    inside = ["unshare", "--pid", "--fork", "--kill-child"]
    outer = start([*inside, *get("system-3.11").argv, "-u", str(TARGETS / "writers.py")],
                  stdin=subprocess.PIPE, ready=True)  # fmt: skip
    said = json.loads(read_line(outer))
    assert said["pid"] == 1
    pid = wait_until(lambda: psutil.Process(outer.pid).children(), "its PID here")[0].pid
    before = capturing.counts(pid)
    for engine in capturing.ENGINES:
        with capturing.take(pid, engine) as image:
            assert capturing.contradictions(image, said) == []
    for step in ("released", "held"):
        injectors = capturing.injectors()
        capturing.sacrificed(pid, "clone", f"i@{step}")
        capturing.wait_no_injector(injectors)
        wait_until(lambda: capturing.counts(pid) == before, f"{step}: all as before")
    assert capturing.is_running(pid)
