"""What every test may use: the conditions it needs, processes that always end, hygiene."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests import interpreters, processes

Start = Callable[..., subprocess.Popen[bytes]]

_BCC = Path("/usr/lib/python3/dist-packages/bcc/__init__.py")
_BTF = Path("/sys/kernel/btf/vmlinux")
_SYS_BPF = {"x86_64": 321, "aarch64": 280}
_BPF_MAP_CREATE, _BPF_MAP_TYPE_ARRAY = 0, 2


@cache
def why_no_ebpf() -> str | None:
    """Why eBPF programs cannot be loaded here, or None. Asks the kernel, not the product."""
    if os.environ.get("PARKSCOPE_NO_BCC"):
        return "PARKSCOPE_NO_BCC is set"
    if os.geteuid() != 0:
        return "needs root"
    if not _BCC.exists():
        return "python3-bpfcc is not installed"
    if not _BTF.exists():
        return f"the kernel has no {_BTF}"
    # struct { map_type, key_size, value_size, max_entries } of union bpf_attr
    attributes = (ctypes.c_uint32 * 32)(_BPF_MAP_TYPE_ARRAY, 4, 8, 1)
    libc = ctypes.CDLL(None, use_errno=True)
    number = _SYS_BPF.get(os.uname().machine)
    if number is None:
        return f"unknown machine {os.uname().machine}"
    fd = libc.syscall(number, _BPF_MAP_CREATE, attributes, ctypes.sizeof(attributes))
    if fd < 0:
        return f"bpf(2) fails: {os.strerror(ctypes.get_errno())}"
    os.close(fd)
    return None


@cache
def why_no_ptrace() -> str | None:
    """Why another process of the same user cannot be read here, or None."""
    scope = Path("/proc/sys/kernel/yama/ptrace_scope")
    if os.geteuid() == 0 or not scope.exists() or scope.read_text().strip() == "0":
        return None
    return "kernel.yama.ptrace_scope is not 0"


def pytest_report_header() -> list[str]:
    """Name the interpreters, absent ones too, and what the kernel allows."""
    return [
        f"eBPF: {why_no_ebpf() or 'usable'}; ptrace: {why_no_ptrace() or 'usable'}",
        *(f"interpreter {line}" for line in interpreters.report()),
    ]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what cannot run here, by name and with the reason."""
    demanded = os.environ.get("PARKSCOPE_REQUIRE_EBPF") == "1"
    for item in items:
        if not demanded and item.get_closest_marker("kernel") and (why := why_no_ebpf()):
            item.add_marker(pytest.mark.skip(reason=f"kernel test: {why}"))
        if item.get_closest_marker("ptrace") and (why := why_no_ptrace()):
            item.add_marker(pytest.mark.skip(reason=f"ptrace test: {why}"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Under PARKSCOPE_REQUIRE_EBPF=1 a kernel test that cannot run has failed."""
    demanded = os.environ.get("PARKSCOPE_REQUIRE_EBPF") == "1"
    if demanded and item.get_closest_marker("kernel") and (why := why_no_ebpf()):
        pytest.fail(f"eBPF is required here, but: {why}", pytrace=False)


@pytest.fixture
def start() -> Iterator[Start]:
    """Start programs that are killed, with all their children, when the test ends.

    ``start(argv, **popen)`` runs a command line, ``start(interpreter, script, args,
    **popen)`` a script (see ``interpreters.launch``). stdout is a pipe unless given.
    ``ready=True`` waits until the program has said ``ready``.
    """
    running: list[subprocess.Popen[bytes]] = []

    def run(what: Any, *rest: Any, ready: bool = False, **popen: Any) -> subprocess.Popen[bytes]:
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, **popen}
        options.setdefault("start_new_session", True)
        if isinstance(what, interpreters.Interpreter):
            process = interpreters.launch(what, *rest, **options)
        else:
            process = subprocess.Popen([*what, *rest], **options)
        running.append(process)
        if ready:
            processes.wait_ready(process)
        return process

    try:
        yield run
    finally:
        for process in reversed(running):
            processes.kill(process)


@pytest.fixture
def scratch(interpreter: interpreters.Interpreter) -> Iterator[Path]:
    """A directory that the test's ``interpreter`` can reach too, chroot or not."""
    with interpreters.scratch(interpreter) as directory:
        yield directory


def _fail_and_kill(pids: set[int]) -> None:
    names = ", ".join(processes.describe(pid) for pid in sorted(pids))
    for pid in pids:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    pytest.fail(f"left behind: {names}", pytrace=False)


@pytest.fixture(autouse=True)
def no_child_left() -> Iterator[None]:
    """Fail the test whose child processes outlive it, and end them."""
    before = processes.children()
    yield
    left: set[int] = set()

    def all_gone() -> bool:
        nonlocal left
        left = processes.children() - before
        return not left

    try:
        processes.wait_until(all_gone, "children gone", timeout=2)
    except AssertionError:
        _fail_and_kill(left)


@pytest.fixture(scope="session", autouse=True)
def no_orphan_left() -> Iterator[None]:
    """The same for the whole run and for those that init has adopted, known by a mark."""
    value = uuid.uuid4().hex
    os.environ["PARKSCOPE_TEST_RUN"] = value
    yield
    del os.environ["PARKSCOPE_TEST_RUN"]
    left: set[int] = set()

    def all_gone() -> bool:
        nonlocal left
        left = processes.marked(f"PARKSCOPE_TEST_RUN={value}") - {os.getpid()}
        return not left

    try:
        processes.wait_until(all_gone, "orphans gone", timeout=3)
    except AssertionError:
        _fail_and_kill(left)
