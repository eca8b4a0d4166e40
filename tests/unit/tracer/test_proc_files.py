"""What is read of /proc, on this very process and on lines that kernels have written."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from probes.kinds import park_kind
from probes.wire import RunState
from tests.processes import wait_until
from tracer import procfs
from tracer.backends.proc_files import (
    FileBudget,
    ThreadFiles,
    ThreadGone,
    parse_stat,
    parse_switches,
    parse_syscall,
    process_cpu_ns,
    syscall_of_wchan,
)

STAT = (
    b"18871 (odd) R (name) S 18827 18827 7750 0 -1 4194368 3 6525 0 0 12 3 3 2 20 0 201 0 279733"
    b" 2706731008 4182 18446744073709551615 943 944 140736 0 0 0 0 16781312 2 1 0 0 -1 1 0 0 0 0 0"
    b" 945 946 947 140 141 142 143 256\n"
)


@contextmanager
def waiting_thread() -> Iterator[threading.Thread]:
    """A thread of this process that waits for a lock."""
    event = threading.Event()
    thread = threading.Thread(target=event.wait, daemon=True)
    thread.start()
    try:
        yield thread
    finally:
        event.set()
        thread.join()


def test_a_name_with_brackets_does_not_shift_the_fields_of_stat() -> None:
    stat = parse_stat(STAT)
    assert stat.state == ord("S")
    assert stat.cpu_ns == 15 * 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    assert stat.program == (b"943", b"140736")
    assert stat.exit_status == 256
    assert stat.run_state is RunState.SLEEPING
    assert not stat.over


@pytest.mark.parametrize(
    ("text", "call"),
    [
        (b"running\n", None),
        (b"", None),
        (b"-1 0x7ffd 0x7f00\n", (-1, 0, 0)),
        (
            b"202 0x7f656c000ba0 0x189 0x0 0x0 0x0 0xffffffff 0x7f 0x7f\n",
            (202, 0x7F656C000BA0, 393),
        ),
    ],
)
def test_a_line_of_syscall_is_a_number_and_two_arguments(
    text: bytes, call: tuple[int, int, int] | None
) -> None:
    assert parse_syscall(text) == call


@pytest.mark.parametrize(
    ("wchan", "kind"),
    [
        (b"futex_wait_queue_me", "lock"),
        (b"futex_do_wait", "lock"),
        (b"hrtimer_nanosleep", "sleep"),
        (b"ep_poll", "io"),
        (b"do_sys_poll", "io"),
        (b"do_select", "io"),
        (b"unix_stream_read_generic", "io"),
        (b"anon_pipe_read", "io"),
        (b"do_wait", "child"),
        (b"io_schedule", "other"),
        (b"0", "other"),
    ],
)
def test_the_kind_is_guessed_from_the_kernel_function(wchan: bytes, kind: str) -> None:
    number, first, second = syscall_of_wchan(wchan)
    assert park_kind(number, first, second, gil=False) == kind


def test_switches_are_the_last_lines_of_status() -> None:
    lines = b"Threads:\t3\nvoluntary_ctxt_switches:\t5\nnonvoluntary_ctxt_switches:\t7\n"
    assert parse_switches(lines) == lines.removeprefix(b"Threads:\t3\n")


def test_the_clock_of_a_process_advances_when_it_computes() -> None:
    before = process_cpu_ns(os.getpid())
    spent_until = time.process_time_ns() + 2_000_000
    while time.process_time_ns() < spent_until:
        pass
    assert process_cpu_ns(os.getpid()) >= before + 2_000_000


def test_the_files_of_a_blocked_thread_say_what_it_waits_in() -> None:
    with waiting_thread() as thread:
        files = ThreadFiles(os.getpid(), thread.native_id or 0, FileBudget(limit=100))
        call = wait_until(lambda: parse_syscall(files.read("syscall")), "the thread blocked")
        assert park_kind(call[0], call[1], call[2], gil=False) == "lock"
        assert files.read("schedstat") == files.read("schedstat")
        files.close()


@pytest.mark.parametrize("limit", [0, 100])
def test_a_thread_that_has_ended_is_gone(limit: int) -> None:
    budget = FileBudget(limit=limit)
    with waiting_thread() as thread:
        files = ThreadFiles(os.getpid(), thread.native_id or 0, budget)
        files.read("stat")
        assert budget.held == (1 if limit else 0)

    def gone() -> bool:
        try:
            files.read("stat")
        except ThreadGone:
            return True
        return False

    wait_until(gone, "ThreadGone")
    files.close()
    assert budget.held == 0


def test_the_budget_keeps_half_of_itself_for_the_files_of_every_scan() -> None:
    budget = FileBudget(held=50, limit=100)
    assert budget.allows("schedstat")
    assert not budget.allows("stat")


def test_the_numa_node_of_each_cpu(tmp_path: Path) -> None:
    for node, cpus in (("node0", "0-1,4\n"), ("node1", "2-3,5\n"), ("node2", "\n")):
        (tmp_path / node).mkdir()
        (tmp_path / node / "cpulist").write_text(cpus)
    assert procfs.numa_nodes(tmp_path) == (0, 0, 1, 1, 0, 1)
    (tmp_path / "node1" / "cpulist").write_text("7")
    assert procfs.numa_nodes(tmp_path) == (), "which CPUs there are is not clear"
    assert procfs.numa_nodes(tmp_path / "absent") == ()


def test_the_numa_nodes_of_this_machine_cover_its_cpus() -> None:
    nodes = procfs.numa_nodes()
    if not nodes:
        pytest.skip("this kernel says nothing of NUMA nodes")
    assert len(nodes) > max(os.sched_getaffinity(0))


def test_code_files_are_those_that_the_kernel_lets_run() -> None:
    """Against another reader of the same file, and the files themselves."""
    maps = psutil.Process().memory_maps(grouped=False)
    code = {one.path for one in maps if "x" in one.perms and not one.path.startswith("[")}
    found = procfs.code_files(os.getpid())
    assert {path for path, _, _ in found} == code
    assert all(os.stat(path).st_ino == inode for path, _, inode in found)
